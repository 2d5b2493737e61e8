package node

import "github.com/civibus/civibus/evidence/evidencepb"

// The half receipts between bodies, for tests.
var (
	Trim     = trim
	KeptHalf = keptHalf
	ErrWhole = errWhole
)

// CheckHalf holds a half against the own record, in the state of a log.
func CheckHalf(origin string, size uint64, root [32]byte, height uint64, h *evidencepb.HalfReceipt, own *evidencepb.Record) error {
	return anchoredLog{origin, size, root, height}.check(h, own)
}
