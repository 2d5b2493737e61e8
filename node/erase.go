package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/transport"
	"github.com/civibus/civibus/usage"
)

// maxErasedAtOnce is how many records of a person one erasure has at most.
const maxErasedAtOnce = 10_000

// Erase erases records with all that is kept of them, here and at the body's other
// gateways, and returns the note of this gateway.
func (b backend) Erase(ctx context.Context, q admin.EraseRequest) (admin.Erasure, error) {
	r := b.n.current.Load()
	if r == nil {
		return admin.Erasure{}, errStarting
	}
	// 1. Here.
	out, err := r.erase(ctx, q)
	var nothing *admin.Problem
	if err != nil && !(errors.As(err, &nothing) && nothing.Code == "not_found") {
		return out, err
	}
	// 2. What was kept elsewhere; leaves are of this gateway's log alone.
	q.Leaves = nil
	if q.Subject == "" && len(q.Exchanges) == 0 {
		return out, err
	}
	out.Gateways = b.n.eraseElsewhere(ctx, r, q)
	if err != nil && !slices.ContainsFunc(out.Gateways, func(g admin.GatewayErasure) bool { return g.Erasure > 0 || g.Problem != "" }) {
		return out, err // nobody has anything
	}
	return out, nil
}

// erase erases what this gateway keeps.
func (r *rooms) erase(ctx context.Context, q admin.EraseRequest) (admin.Erasure, error) {
	// 1. The index knows all that is to go, so that the periods keep what is left of it.
	if r.usage != nil {
		if err := r.usage.CatchUp(ctx, r.evidence); err != nil {
			return admin.Erasure{}, err
		}
	}
	// 2. Which leaves.
	leaves, err := r.leavesOf(q)
	if err != nil {
		return admin.Erasure{}, err
	}
	// 3. The evidence log, durably and with its note; the index follows it.
	e, err := r.evidence.Erase(ctx, leaves, q.Ground)
	if err == nil && r.usage != nil {
		err = r.usage.CatchUp(ctx, r.evidence)
	}
	switch {
	case errors.Is(err, evidence.ErrErased):
		return admin.Erasure{}, admin.Problemf(http.StatusConflict, "already_erased", "%v", err).WithHint("\"civibus erasure list\" shows by which erasure")
	case err != nil && e.Number == 0:
		return admin.Erasure{}, admin.Problemf(http.StatusBadRequest, "invalid_parameter", "%v", err)
	case err != nil:
		return admin.Erasure{}, fmt.Errorf("erasure %d was done, and the index of usage records follows later: %w", e.Number, err)
	}
	return erasureOf(e), nil
}

const (
	erasuresPath    = "/civibus/v1/erasures"
	erasureGateway  = "Civibus-Gateway" // which of a body's gateways a request is for
	erasurePatience = 30 * time.Second
	maxErasureBody  = 1 << 20
)

// eraseElsewhere asks each other gateway of the body to erase the same.
func (n *Node) eraseElsewhere(ctx context.Context, r *rooms, q admin.EraseRequest) (out []admin.GatewayErasure) {
	m, ok := n.view().Member(n.member)
	if !ok {
		return nil
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil // strings and numbers
	}
	for _, g := range m.Gateways {
		if g.Code == n.cfg.ServerCode {
			continue
		}
		done := admin.GatewayErasure{Gateway: g.Code}
		e, err := n.eraseAt(ctx, r, g.Code, body)
		if err != nil {
			done.Problem = err.Error()
		} else {
			done.Erasure, done.Records = e.Number, len(e.Leaves)
		}
		out = append(out, done)
	}
	return out
}

// eraseAt asks one gateway; an empty answer says that it has nothing.
func (n *Node) eraseAt(ctx context.Context, r *rooms, code string, body []byte) (e admin.Erasure, err error) {
	ctx, cancel := context.WithTimeout(ctx, erasurePatience)
	defer cancel()
	resp, _, err := r.transport.Do(ctx, n.member, code, func(ctx context.Context, _ transport.Peer) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, erasuresPath, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(erasureGateway, code)
		return req, nil
	})
	if err != nil {
		return e, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErasureBody))
	switch {
	case err != nil:
		return e, err
	case resp.StatusCode == http.StatusNotFound:
		return e, nil
	case resp.StatusCode != http.StatusOK:
		return e, fmt.Errorf("it answered %d: %.200s", resp.StatusCode, text)
	}
	return e, json.Unmarshal(text, &e)
}

// serveErasure erases what another gateway of the same body asks for.
func (n *Node) serveErasure(w http.ResponseWriter, req *http.Request, r *rooms) {
	peer, ok := transport.PeerFrom(req.Context())
	switch {
	case !ok || peer.Member != n.member:
		http.Error(w, "only the body's own gateways may ask for this", http.StatusForbidden)
		return
	case req.Header.Get(erasureGateway) != n.cfg.ServerCode:
		transport.NotServedHere(w, req) // a balancer led here what is for another one
		return
	}
	var q admin.EraseRequest
	if err := json.NewDecoder(io.LimitReader(req.Body, maxErasureBody)).Decode(&q); err != nil || len(q.Leaves) > 0 {
		http.Error(w, "the body is not a JSON object with subject, exchanges and ground", http.StatusBadRequest)
		return
	}
	e, err := r.erase(req.Context(), q)
	var p *admin.Problem
	switch {
	case errors.As(err, &p):
		http.Error(w, p.Title, p.Status)
	case err != nil:
		n.log.ErrorContext(req.Context(), "an erasure that another gateway asked for failed", "error", err)
		http.Error(w, "it failed here, and is in this gateway's log", http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(e)
	}
}

// leavesOf finds the leaves of what is asked for.
func (r *rooms) leavesOf(q admin.EraseRequest) (leaves []uint64, err error) {
	missing := func(format string, args ...any) error {
		return admin.Problemf(http.StatusNotFound, "not_found", format, args...)
	}
	leaves = append(leaves, q.Leaves...)
	// 1. Exchanges, on whichever side the body was.
	for _, id := range q.Exchanges {
		found, err := r.evidence.Find(id)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, missing("the exchange %.80s is not known to this gateway, or was erased", id)
		}
		for _, e := range found {
			if !e.Integrated {
				return nil, admin.Problemf(http.StatusConflict, "not_yet", "the exchange %.80s is not in the evidence log yet", id).WithHint("ask again in a few seconds")
			}
			leaves = append(leaves, e.Index)
		}
	}
	if q.Subject == "" {
		return leaves, nil
	}
	// 2. Everything about a person, with corrections.
	if r.usage == nil {
		return nil, missing("this body keeps no usage records: name exchanges")
	}
	for after := ""; ; {
		page, err := r.usage.Find(usage.Query{Subject: q.Subject, After: after, All: true})
		if err != nil {
			return nil, admin.Problemf(http.StatusBadRequest, "invalid_parameter", "%v", err)
		}
		for _, f := range page.Items {
			chain, err := r.usage.Chain(f)
			if err != nil {
				return nil, err
			}
			leaves = append(leaves, chain...)
		}
		if len(leaves) > maxErasedAtOnce {
			return nil, admin.Problemf(http.StatusBadRequest, "too_many", "the person has more than %d records", maxErasedAtOnce).WithHint("name leaves, as \"civibus usage find\" shows them, some at a time")
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(leaves) == 0 {
		return nil, missing("there are no usage records of this person at this gateway")
	}
	return leaves, nil
}

// Erasures returns the notes of what was erased.
func (b backend) Erasures(from uint64, limit int) ([]admin.Erasure, error) {
	r := b.n.current.Load()
	if r == nil {
		return nil, errStarting
	}
	found, err := r.evidence.Erasures(from, limit)
	out := make([]admin.Erasure, 0, len(found))
	for _, e := range found {
		out = append(out, erasureOf(e))
	}
	return out, err
}

func erasureOf(e evidence.Erasure) admin.Erasure {
	return admin.Erasure{Number: e.Number, Time: e.Time, Ground: e.Ground, Leaves: e.Leaves, Others: e.Others, Size: e.Size, Note: e.Note}
}

// CorrectUsage makes a usage record that supersedes another one. It is durable, and part
// of the evidence log, when CorrectUsage returns.
func (b backend) CorrectUsage(ctx context.Context, q admin.UsageCorrection) error {
	r := b.n.current.Load()
	if r == nil {
		return errStarting
	}
	if r.usage == nil {
		return admin.Problemf(http.StatusNotFound, "not_found", "this body keeps no usage records")
	}
	if err := r.usage.CatchUp(ctx, r.evidence); err != nil { // a correction of before is seen
		return err
	}
	old, err := r.usage.Get(q.Subject, q.Record, true)
	if errors.Is(err, usage.ErrNotFound) {
		return admin.Problemf(http.StatusNotFound, "not_found", "the person has no usage record %d", q.Record)
	}
	if err != nil {
		return err
	}
	record, beside, err := r.usage.Correct(old, usage.Change{
		Subject: q.Person, Purpose: q.Purpose, LegalBasis: q.LegalBasis, Sentence: q.Sentence, Case: q.Case, Reason: q.Reason,
	})
	if err != nil {
		return admin.Problemf(http.StatusBadRequest, "invalid_parameter", "%v", err)
	}
	return r.evidence.AppendBeside(ctx, record, beside)
}
