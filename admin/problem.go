package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Problem is an error of the interface, an RFC 9457 problem document.
type Problem struct {
	Type   string `json:"type"` // urn:civibus:problem:CODE
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`           // for programs; registry result codes for refused changes
	Hint   string `json:"hint,omitempty"` // what to do about it
	// Height is that of the block that refused a change; 0: no block did.
	Height uint64 `json:"height,omitempty"`
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// Problemf makes a problem.
func Problemf(status int, code, format string, args ...any) *Problem {
	return &Problem{
		Type: "urn:civibus:problem:" + code, Title: http.StatusText(status), Status: status,
		Code: code, Detail: fmt.Sprintf(format, args...),
	}
}

// WithHint returns p with a hint.
func (p *Problem) WithHint(format string, args ...any) *Problem {
	q := *p
	q.Hint = fmt.Sprintf(format, args...)
	return &q
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client went away: nobody to tell
}
