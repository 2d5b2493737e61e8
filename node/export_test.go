package node

import (
	"context"
	"net/http"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/transport"
)

// The half receipts between bodies, for tests.
var (
	Trim     = trim
	KeptHalf = keptHalf
	ErrWhole = errWhole

	CheckHalves = checkHalves

	RemoveSocket = removeSocket

	TakeEngineKeys = takeEngineKeys
	NodeKey        = nodeKey
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

// EvidenceLog is the node's evidence log, for a body that keeps false records.
func (n *Node) EvidenceLog() *evidence.Log { return n.current.Load().evidence }

// SendSealed sends another body a request that this body's gateway did not make,
// sealed and over this body's transport.
func (n *Node) SendSealed(ctx context.Context, to civibus.MemberID, r *http.Request) (*http.Response, error) {
	signer, err := n.ring.For(civibus.SealKey, n.inForce(civibus.SealKey))
	if err != nil {
		return nil, err
	}
	resp, _, err := n.current.Load().transport.Do(ctx, to, "", func(ctx context.Context, peer transport.Peer) (*http.Request, error) {
		r.Header.Set(civibus.HeaderRecipient, peer.Key.String())
		_, err := seal.SealRequest(ctx, signer, r, nil, n.clock())
		return r, err
	})
	return resp, err
}

// LedgerFaceOf bounds what members may ask of a ledger node's face.
func LedgerFaceOf(full http.Handler, clock civibus.Clock, stop context.Context) http.Handler {
	f := newLedgerFace(&Node{clock: clock}, stop)
	f.full = full
	return f
}

// Cosignatures answers as a validator's cosignature call does, up to where the
// ledger would be asked.
func Cosignatures(clock civibus.Clock) http.Handler {
	return cosignatures{&Node{clock: clock}, policy.NewLimiter(cosignMembers)}
}

// The limits of cosignatures.
const (
	CosignaturePath = cosignaturePath
	CosignRequests  = cosignRequests
	CosignPeriod    = cosignPeriod
)

// PutTable adds a hosted member's table to what is handed over.
func (c Config) PutTable(put dump.Put, configFile string) ([]string, error) {
	return c.putTable(put, configFile)
}
