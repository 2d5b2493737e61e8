package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/transport"
)

const (
	cosignaturePath = "/civibus/v1/cosignature"
	receiptsPath    = "/civibus/v1/receipts"

	protobufType   = "application/x-protobuf"
	cosignPatience = 5 * time.Second // how long a validator waits for a block that another has
)

// peerHandler is what other bodies reach: the gateway's provider face, the two calls
// with which bodies complete each other's receipts, and what the ledger node tells
// others. Who asks was established by transport.Server. What waits ends with stop.
func (n *Node) peerHandler(stop context.Context, r *rooms) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+cosignaturePath, cosignatures{n, policy.NewLimiter(cosignMembers)}.ServeHTTP)
	mux.HandleFunc("POST "+receiptsPath, func(w http.ResponseWriter, req *http.Request) { n.serveReceipts(w, req, r) })
	mux.HandleFunc("POST "+erasuresPath, func(w http.ResponseWriter, req *http.Request) { n.serveErasure(w, req, r) })
	face := newLedgerFace(n, stop)
	waits := &eventsFace{n: n, stop: stop, room: r.events, waits: map[civibus.MemberID]int{}}
	provider := n.house(r).Provider(transport.NotServedHere)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// The gateway needs paths as they came; ServeMux would clean them.
		if p := req.URL.EscapedPath(); p == cosignaturePath || p == receiptsPath || p == erasuresPath {
			mux.ServeHTTP(w, req)
			return
		} else if strings.HasPrefix(p, ledger.FacePath) {
			face.ServeHTTP(w, req)
			return
		} else if !n.ready.Load() {
			// It starts or stops: the body's other gateways may serve it now.
			transport.NotServedHere(w, req)
			return
		}
		if req.URL.EscapedPath() == eventsWaitPath {
			waits.ServeHTTP(w, req)
			return
		}
		provider.ServeHTTP(w, req)
	})
}

// A cosignature of a size that was not asked for before costs writes to the disk.
// A gateway asks for one every five seconds while it makes receipts of what is
// anchored as often; each member has ten times as many, with as many in hand.
const (
	cosignRequests = 60
	cosignPeriod   = 30 * time.Second
	cosignMembers  = 4096 // whose shares are remembered
)

// cosignatures answers with this validator's cosignatures, to each member within
// its share.
type cosignatures struct {
	n       *Node
	limiter *policy.Limiter
}

// ServeHTTP answers, or says that it is too much.
func (c cosignatures) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	peer, ok := transport.PeerFrom(r.Context())
	if !ok {
		http.Error(w, "who asks is not known", http.StatusForbidden)
		return
	}
	if ok, retry := c.limiter.Allow(peer.Member.String(), civibus.RateLimit{Requests: cosignRequests, Per: cosignPeriod}, c.n.clock()); !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(retry/time.Second)+1))
		http.Error(w, fmt.Sprintf("too many cosignatures: the rule is %d in %v for each member; ask again later", cosignRequests, cosignPeriod), http.StatusTooManyRequests)
		return
	}
	c.n.serveCosignature(w, r)
}

// serveCosignature answers with this validator's cosignature of the registry
// checkpoint at a size.
func (n *Node) serveCosignature(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.ParseUint(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size == 0 {
		http.Error(w, "size: the rule is a number from 1", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cosignPatience)
	defer cancel()
	led := n.ledger.Load()
	if err := led.WaitView(ctx, func(v *registry.View) bool { return v.EventSize() >= size }); err != nil {
		http.Error(w, "the block that ends at that size is not here yet", http.StatusServiceUnavailable)
		return
	}
	line, err := led.Cosign(ctx, size)
	switch {
	case errors.Is(err, ledger.ErrNoWitness), errors.Is(err, ledger.ErrNotExecuted):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		n.log.ErrorContext(ctx, "cosignature failed", "size", size, "error", err)
		http.Error(w, "this node does not cosign that checkpoint", http.StatusInternalServerError)
	default:
		if r.URL.Query().Get("second") == "" { // asked by a version that knows one line
			line, _, _ = strings.Cut(line, "\n")
			line += "\n"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, line) // the peer went away: it asks again
	}
}

// serveReceipts takes the other bodies' halves of receipts.
func (n *Node) serveReceipts(w http.ResponseWriter, r *http.Request, rooms *rooms) {
	peer, ok := transport.PeerFrom(r.Context())
	if !ok {
		http.Error(w, "who asks is not known", http.StatusForbidden)
		return
	}
	if !n.deliveries.begin(peer.Member) {
		w.Header().Set("Connection", "close") // the body is not read
		http.Error(w, "one delivery at a time; try again later", http.StatusServiceUnavailable)
		return
	}
	defer n.deliveries.end(peer.Member)
	raw, err := io.ReadAll(&limitedReader{r.Body, maxReceiptsBody, n.clock().Add(maxReceiptsTime), n.clock})
	if err == nil {
		err = checkHalves(raw)
	}
	var in evidencepb.HalfReceipts
	if err == nil {
		err = proto.Unmarshal(raw, &in)
	}
	if err != nil {
		w.Header().Set("Connection", "close")
		http.Error(w, fmt.Sprintf("the rule is a HalfReceipts message of at most %d bytes: %v", maxReceiptsBody, err), http.StatusBadRequest)
		return
	}
	from, log, leave, err := n.parties(&in, peer.Member, rooms.evidence)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	defer leave()
	answer, err := proto.Marshal(&evidencepb.HalfReceiptsAnswer{Results: n.takeHalves(r.Context(), log, from, &in)})
	if err != nil {
		n.log.ErrorContext(r.Context(), "answer about half receipts", "error", err)
		http.Error(w, "no answer could be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", protobufType)
	_, _ = w.Write(answer) // the peer went away: it delivers again
}

// takeHalves keeps those halves that are the sender's of exchanges that are
// known here, are in its anchored log, and agree with the records kept here.
func (n *Node) takeHalves(ctx context.Context, log *evidence.Log, from civibus.MemberID, in *evidencepb.HalfReceipts) []*evidencepb.HalfResult {
	out := make([]*evidencepb.HalfResult, len(in.Halves))
	say := func(i int, status evidencepb.HalfStatus, err error) {
		out[i] = &evidencepb.HalfResult{Status: status}
		if err != nil {
			out[i].Reason = err.Error()
		}
	}
	// 1. The state of the sender's log in which all of them are.
	at, atErr := n.awaitAnchor(ctx, from, in.Checkpoint)
	var keep []evidence.Counterpart
	var kept []int
	for i, h := range in.Halves {
		// 2. Each is about an exchange that is known here and holds.
		c, err := n.takeHalf(log, from, h, at, atErr, in.Checkpoint)
		switch {
		case errors.Is(err, errKept):
			say(i, evidencepb.HalfStatus_HALF_STATUS_STORED, nil)
		case err == nil:
			keep, kept = append(keep, *c), append(kept, i)
		case errors.Is(err, errNotYet), errors.Is(err, errUnknownExchange):
			say(i, evidencepb.HalfStatus_HALF_STATUS_UNKNOWN, err)
		case errors.Is(err, errWhole):
			say(i, evidencepb.HalfStatus_HALF_STATUS_WHOLE, err)
		default:
			n.log.WarnContext(ctx, "half receipt refused", "peer", from.String(), "exchange", h.ExchangeId, "reason", err)
			say(i, evidencepb.HalfStatus_HALF_STATUS_INVALID, err)
		}
	}
	// 3. Kept with one wait for the disk.
	status, err := evidencepb.HalfStatus_HALF_STATUS_STORED, log.PutCounterparts(keep)
	if err != nil {
		n.log.ErrorContext(ctx, "keep half receipts", "error", err)
		status, err = evidencepb.HalfStatus_HALF_STATUS_UNKNOWN, errors.New("it cannot be kept now")
	}
	for _, i := range kept {
		say(i, status, err)
	}
	return out
}

// awaitAnchor is anchoredLogOf with some patience: the sender may have seen the
// block with its anchor a moment earlier.
func (n *Node) awaitAnchor(ctx context.Context, from civibus.MemberID, checkpoint []byte) (at anchoredLog, err error) {
	ctx, cancel := context.WithTimeout(ctx, cosignPatience)
	defer cancel()
	if waited := n.ledger.Load().WaitView(ctx, func(v *registry.View) bool {
		at, err = anchoredLogOf(v, from, checkpoint)
		return !errors.Is(err, errNotYet)
	}); waited != nil && err == nil {
		err = errNotYet
	}
	return at, err
}

var (
	errKept            = errors.New("it is kept already")
	errUnknownExchange = errors.New("no such exchange with the sender is known here")
)

// takeHalf checks one half and returns what is to be kept of it.
func (n *Node) takeHalf(log *evidence.Log, from civibus.MemberID, h *evidencepb.HalfReceipt, at anchoredLog, atErr error, checkpoint []byte) (*evidence.Counterpart, error) {
	own, err := recordsWith(log, h.ExchangeId, from)
	if err != nil {
		return nil, err
	}
	if had, err := log.Counterpart(h.ExchangeId); err != nil {
		return nil, err
	} else if had != nil {
		return nil, errKept
	}
	if atErr != nil {
		return nil, atErr
	}
	for i, rec := range own {
		if err = at.check(h, rec); err != nil {
			continue
		}
		if i > 0 && h.Trimmed { // what is kept is completed with the first
			if h.Record, _, err = restore(h, rec); err != nil {
				return nil, err
			}
			h.Trimmed = false
		}
		raw, err := proto.Marshal(&evidencepb.Counterpart{Half: h, Checkpoint: checkpoint})
		return &evidence.Counterpart{ExchangeID: h.ExchangeId, Half: raw}, err
	}
	return nil, err
}

// recordsWith returns the own records of an exchange in which other is on the
// other side; there is more than one when a request was repeated.
func recordsWith(log *evidence.Log, exchange string, other civibus.MemberID) (own []*evidencepb.Record, err error) {
	entries, err := log.Find(exchange)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		r := &evidencepb.Record{}
		if err := proto.Unmarshal(e.Record, r); err != nil {
			return nil, fmt.Errorf("own record: %w", err)
		}
		if m, err := counterparty(r); err == nil && m == other {
			own = append(own, r)
		}
	}
	if len(own) == 0 {
		return nil, errUnknownExchange
	}
	return own, nil
}

// counterparty is the body on the other side of a record.
func counterparty(r *evidencepb.Record) (civibus.MemberID, error) {
	if r.Side == evidencepb.Side_SIDE_CONSUMER {
		s, err := civibus.ParseServiceID(r.Service)
		return s.MemberID, err
	}
	c, err := civibus.ParseClientID(r.Client)
	return c.MemberID, err
}

// sameSeal reports whether two seals are the same. One may be missing: a side
// need not have what was lost on the way.
func sameSeal(a, b *evidencepb.Seal) bool {
	if a == nil || b == nil {
		return true
	}
	return bytes.Equal(a.Base, b.Base) && bytes.Equal(a.Signature, b.Signature) && bytes.Equal(a.KeyId, b.KeyId)
}

func sideName(s evidencepb.Side) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "SIDE_"))
}

// policy is the text with which receipts verify now.
func (n *Node) policy() ([]byte, error) {
	v := n.view()
	if v == nil {
		return nil, errors.New("there is no registry view yet")
	}
	text, err := ledger.PolicyText(v)
	return []byte(text), err
}
