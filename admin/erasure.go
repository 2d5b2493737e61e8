package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// EraseRequest says what is to be erased: all about a person, exchanges, leaves of the
// evidence log. It comes in the body of a request, so that no person stands in a URL.
type EraseRequest struct {
	Subject   string   `json:"subject,omitempty"`
	Exchanges []string `json:"exchanges,omitempty"`
	Leaves    []uint64 `json:"leaves,omitempty"`
	Ground    string   `json:"ground"` // act and provision; nothing of the person
}

// Erasure is the signed note of what was erased.
type Erasure struct {
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Ground string    `json:"ground"`
	Leaves []uint64  `json:"leaves"`
	Others []string  `json:"others,omitempty"`
	Size   uint64    `json:"size"` // of the evidence log when it was done
	Note   string    `json:"note"` // C2SP signed note by the log key

	// What the body's other gateways did with the same request, when something was erased.
	Gateways []GatewayErasure `json:"gateways,omitempty"`
}

// GatewayErasure is what another gateway of the body erased.
type GatewayErasure struct {
	Gateway string `json:"gateway"`
	Erasure uint64 `json:"erasure,omitempty"` // its number there; 0: it had nothing, or there was a problem
	Records int    `json:"records"`
	Problem string `json:"problem,omitempty"` // why it is not known to be erased there: ask again
}

// UsageCorrection corrects a usage record of a person. Empty fields stay as they are.
type UsageCorrection struct {
	Subject    string `json:"subject"`
	Record     uint64 `json:"record"`
	Reason     string `json:"reason"`
	Person     string `json:"person,omitempty"` // whom it concerned instead
	Purpose    string `json:"purpose,omitempty"`
	LegalBasis string `json:"legal_basis,omitempty"`
	Sentence   string `json:"sentence,omitempty"`
	Case       string `json:"case,omitempty"`
}

func decode[T any](r *http.Request, fields string) (v T, err error) {
	body, err := readBody(r)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, Problemf(http.StatusBadRequest, "invalid_body", "the body is not a JSON object with %s", fields)
	}
	return v, nil
}

func (s *Server) erase(r *http.Request) (any, error) {
	q, err := decode[EraseRequest](r, "subject, exchanges, leaves and ground")
	if err != nil {
		return nil, err
	}
	if q.Subject == "" && len(q.Exchanges)+len(q.Leaves) == 0 {
		return nil, Problemf(http.StatusBadRequest, "invalid_body", "nothing is named that is to be erased, the rule is subject, exchanges or leaves")
	}
	return s.backend.Erase(r.Context(), q)
}

func (s *Server) erasures(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	after := uint64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 63); err != nil {
			return nil, Problemf(http.StatusBadRequest, "invalid_parameter", "after=%q: the rule is the number of an erasure", text)
		}
	}
	items, err := s.backend.Erasures(after+1, limit)
	if err != nil {
		return nil, err
	}
	out := Page[Erasure]{Items: items}
	if len(items) == limit {
		out.Next = strconv.FormatUint(items[limit-1].Number, 10)
	}
	return out, nil
}

func (s *Server) correctUsage(r *http.Request) (any, error) {
	q, err := decode[UsageCorrection](r, "subject, record, reason and what changes: person, purpose, legal_basis, sentence, case")
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.backend.CorrectUsage(r.Context(), q)
}

// Erase erases records, with what is kept beside them, here and at the body's other
// gateways, and returns the note of this one.
func (c *Client) Erase(ctx context.Context, q EraseRequest) (Erasure, error) {
	return post[Erasure](ctx, c, "/v1/erasures", q)
}

// Erasures lists what was erased, in the order of the numbers.
func (c *Client) Erasures(ctx context.Context, o ListOptions) (Page[Erasure], error) {
	return get[Page[Erasure]](ctx, c, "/v1/erasures"+o.query())
}

// CorrectUsage makes a usage record that supersedes another one.
func (c *Client) CorrectUsage(ctx context.Context, q UsageCorrection) error {
	_, err := post[struct{}](ctx, c, "/v1/usage/corrections", q)
	return err
}
