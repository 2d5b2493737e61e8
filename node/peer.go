package node

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/transport"
)

const (
	cosignaturePath = "/civibus/v1/cosignature"
	receiptsPath    = "/civibus/v1/receipts"

	maxReceiptsBody  = 8 << 20 // of one delivery
	maxReceiptsBatch = 64
	cosignPatience   = 5 * time.Second // how long a validator waits for a block that another has
)

// peerHandler is what other bodies reach: the gateway's provider face, and the
// two calls with which bodies complete each other's receipts. Who asks was
// established by transport.Server.
func (n *Node) peerHandler(r *rooms) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+cosignaturePath, n.serveCosignature)
	mux.HandleFunc("POST "+receiptsPath, func(w http.ResponseWriter, req *http.Request) { n.serveReceipts(w, req, r) })
	provider := r.gateway.Provider()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// The gateway needs paths as they came; ServeMux would clean them.
		if p := req.URL.EscapedPath(); p == cosignaturePath || p == receiptsPath {
			mux.ServeHTTP(w, req)
			return
		}
		provider.ServeHTTP(w, req)
	})
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
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, line) // the peer went away: it asks again
	}
}

// The outcomes of a delivered half receipt.
const (
	halfStored  = "stored"  // verified and kept, now or before
	halfUnknown = "unknown" // no such exchange with the sender is known here (yet)
	halfInvalid = "invalid" // does not verify, or differs from what is known here
)

// delivery is what is posted to receiptsPath.
type delivery struct {
	Receipts []json.RawMessage `json:"receipts"`
}

// deliveryAnswer says what became of each, in order.
type deliveryAnswer struct {
	Results []deliveryResult `json:"results"`
}

type deliveryResult struct {
	Exchange string `json:"exchange"`
	Status   string `json:"status"`
	Reason   string `json:"reason,omitempty"`
}

// serveReceipts takes the other bodies' halves of receipts.
func (n *Node) serveReceipts(w http.ResponseWriter, r *http.Request, rooms *rooms) {
	peer, ok := transport.PeerFrom(r.Context())
	if !ok {
		http.Error(w, "who asks is not known", http.StatusForbidden)
		return
	}
	var in delivery
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReceiptsBody)).Decode(&in); err != nil || len(in.Receipts) > maxReceiptsBatch {
		http.Error(w, fmt.Sprintf("the rule is a JSON object with at most %d receipts", maxReceiptsBatch), http.StatusBadRequest)
		return
	}
	policy, err := n.policy()
	if err != nil {
		n.log.ErrorContext(r.Context(), "policy for receipts", "error", err)
		http.Error(w, "receipts cannot be verified now", http.StatusServiceUnavailable)
		return
	}
	out := deliveryAnswer{Results: make([]deliveryResult, 0, len(in.Receipts))}
	for _, raw := range in.Receipts {
		res := n.takeHalf(rooms.evidence, peer.Member, raw, policy)
		if res.Status == halfInvalid {
			n.log.WarnContext(r.Context(), "half receipt refused", "peer", peer.Member.String(), "exchange", res.Exchange, "reason", res.Reason)
		}
		out.Results = append(out.Results, res)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the peer went away: it delivers again
}

// takeHalf keeps one half receipt if it is the sender's half of an exchange that
// is known here, proves what it says, and agrees with the record kept here.
func (n *Node) takeHalf(log *evidence.Log, from civibus.MemberID, raw []byte, policy []byte) deliveryResult {
	var head struct {
		Exchange string `json:"exchange"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || head.Exchange == "" {
		return deliveryResult{Status: halfInvalid, Reason: "not a receipt"}
	}
	res := deliveryResult{Exchange: head.Exchange}
	fail := func(status, format string, args ...any) deliveryResult {
		res.Status, res.Reason = status, fmt.Sprintf(format, args...)
		return res
	}

	// 1. The exchange is known here, with the sender on the other side.
	own, err := n.counterOf(log, head.Exchange, from)
	if err != nil {
		return fail(halfUnknown, "%v", err)
	}
	if had, err := log.Counterpart(head.Exchange); err == nil && had != nil {
		res.Status = halfStored
		return res
	}

	// 2. The half proves what it says.
	report, err := proof.Verify(raw, policy)
	if err != nil {
		return fail(halfInvalid, "%v", err)
	}
	sides := report.Summary.Sides
	if len(sides) != 1 || sides[0].Member != from.String() || sides[0].Side == sideName(own.Side) {
		return fail(halfInvalid, "it is not the half of %s", from)
	}

	// 3. It is about the same messages.
	receipt, err := proof.Parse(raw)
	if err != nil {
		return fail(halfInvalid, "not a receipt: %v", err)
	}
	var theirs evidencepb.Record
	if err := proto.Unmarshal(receipt.Entries[0].Record, &theirs); err != nil {
		return fail(halfInvalid, "its record does not decode")
	}
	if !sameSeal(own.Request, theirs.Request) || !sameSeal(own.Response, theirs.Response) {
		return fail(halfInvalid, "its seals are not those that this body has")
	}
	if err := log.PutCounterpart(head.Exchange, raw); err != nil {
		n.log.Error("keep half receipt", "exchange", head.Exchange, "error", err)
		return fail(halfUnknown, "it cannot be kept now")
	}
	res.Status = halfStored
	return res
}

// counterOf returns the own record of an exchange in which other is on the other side.
func (n *Node) counterOf(log *evidence.Log, exchange string, other civibus.MemberID) (*evidencepb.Record, error) {
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
			return r, nil
		}
	}
	return nil, errors.New("no such exchange with the sender is known here")
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
