package admin

import (
	"context"
	"net/http"
	"net/url"
)

// EraseKept says by which law what a body keeps of an instance of a process, or of a
// request for evidence, is erased.
type EraseKept struct {
	Ground string `json:"ground"` // act and provision; nothing of the person
}

func (s *Server) eraseInstance(r *http.Request) (any, error) {
	q, err := decode[EraseKept](r, "ground")
	if err != nil {
		return nil, err
	}
	return s.backend.EraseInstance(r.Context(), r.PathValue("id"), q.Ground)
}

func (s *Server) eraseRequest(r *http.Request) (any, error) {
	q, err := decode[EraseKept](r, "ground")
	if err != nil {
		return nil, err
	}
	return s.backend.EraseRequest(r.Context(), r.PathValue("id"), q.Ground)
}

// EraseInstance erases what the body keeps of an instance of a process, and returns the
// note.
func (c *Client) EraseInstance(ctx context.Context, id string, q EraseKept) (Erasure, error) {
	return post[Erasure](ctx, c, "/v1/process-instances/"+url.PathEscape(id)+"/erasure", q)
}

// EraseRequest erases what the body keeps of a request for evidence, as the one that
// asked and as the one that gave, and returns the note.
func (c *Client) EraseRequest(ctx context.Context, id string, q EraseKept) (Erasure, error) {
	return post[Erasure](ctx, c, "/v1/evidence-requests/"+url.PathEscape(id)+"/erasure", q)
}
