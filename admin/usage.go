package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// UsageQuery asks for a person's usage records; without a person, for the periods and the
// objections. It comes in the body of a request, so that no person stands in a URL.
type UsageQuery struct {
	Subject string `json:"subject,omitempty"`
	Limit   int    `json:"limit,omitempty"`
	After   string `json:"after,omitempty"`
	Case    uint64 `json:"case,omitempty"`   // an objection that is answered first,
	Answer  string `json:"answer,omitempty"` // with this
}

// UsageAnswer is the answer to it.
type UsageAnswer struct {
	Records    []UsageRecord    `json:"records"`
	Next       string           `json:"next,omitempty"`
	Periods    []UsagePeriod    `json:"periods"`
	Objections []UsageObjection `json:"objections"`
}

// UsageRecord is one usage record, whatever its disclosure.
type UsageRecord struct {
	ID         string    `json:"id"`
	Time       time.Time `json:"time"`
	Action     string    `json:"action"`
	Receiver   string    `json:"receiver"`
	Name       string    `json:"name,omitempty"`
	System     string    `json:"system,omitempty"`
	Service    string    `json:"service"`
	Purpose    string    `json:"purpose"`
	LegalBasis string    `json:"legal_basis"`
	Case       string    `json:"case,omitempty"`
	Exchange   string    `json:"exchange"`
	Disclosure string    `json:"disclosure"`

	Supersedes   string `json:"supersedes,omitempty"`    // the record that this one corrects,
	Reason       string `json:"reason,omitempty"`        // and why
	SupersededBy string `json:"superseded_by,omitempty"` // the record that corrects this one
}

// UsagePeriod is an anchored period of usage records.
type UsagePeriod struct {
	Number    uint64    `json:"period"`
	FirstLeaf uint64    `json:"first_leaf"`
	EndLeaf   uint64    `json:"end_leaf"`
	Until     time.Time `json:"until"`
	Shown     uint64    `json:"shown"`
	Later     uint64    `json:"later"`
	Never     uint64    `json:"never"`
	Root      string    `json:"root"`
	Height    uint64    `json:"anchored_height,omitempty"`
}

// UsageObjection is a case that a person opened about a record.
type UsageObjection struct {
	Case   uint64    `json:"case"`
	Leaf   uint64    `json:"record"`
	Opened time.Time `json:"opened"`
	Text   string    `json:"text"`
	Closed time.Time `json:"closed,omitzero"`
	Answer string    `json:"answer,omitempty"`
}

func (s *Server) usage(r *http.Request) (any, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var q UsageQuery
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, Problemf(http.StatusBadRequest, "invalid_body", "the body is not a JSON object with subject, limit, after, case and answer")
	}
	if q.Limit < 0 || q.Limit > maxLimit {
		return nil, Problemf(http.StatusBadRequest, "invalid_parameter", "limit %d: the rule is 1 to %d", q.Limit, maxLimit)
	}
	return s.backend.Usage(r.Context(), q)
}

// Usage asks for usage records, periods and objections.
func (c *Client) Usage(ctx context.Context, q UsageQuery) (UsageAnswer, error) {
	var out UsageAnswer
	in, err := json.Marshal(q)
	if err != nil {
		return out, err
	}
	answer, err := c.do(ctx, http.MethodPost, "/v1/usage", in)
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(answer, &out)
}
