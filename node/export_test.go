package node

import (
	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
)

// The half receipts between bodies, for tests.
var (
	Trim     = trim
	KeptHalf = keptHalf
	ErrWhole = errWhole

	CheckHalves = checkHalves

	RemoveSocket = removeSocket
)

// Deliveries admits deliveries of half receipts.
type Deliveries = deliveries

// Begin admits one.
func (d *deliveries) Begin(from civibus.MemberID) bool { return d.begin(from) }

// End ends it.
func (d *deliveries) End(from civibus.MemberID) { d.end(from) }

// CheckHalf holds a half against the own record, in the state of a log.
func CheckHalf(origin string, size uint64, root [32]byte, height uint64, h *evidencepb.HalfReceipt, own *evidencepb.Record) error {
	return anchoredLog{origin, size, root, height}.check(h, own)
}
