package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/process"
)

// noteErasure has the evidence log keep the note of what another store has erased.
func (n *Node) noteErasure(ctx context.Context, what, ground string) (uint64, error) {
	r := n.current.Load()
	if r == nil {
		return 0, errStarting
	}
	e, err := r.evidence.NoteErasure(ctx, []string{what}, ground)
	return e.Number, err
}

// EraseInstance erases what the body keeps of an instance of a process.
func (b backend) EraseInstance(ctx context.Context, id, ground string) (admin.Erasure, error) {
	p := b.n.process.Load()
	if p == nil {
		return admin.Erasure{}, admin.Problemf(http.StatusNotFound, "not_found", "this body plays no roles at this gateway ([[process]] in its configuration), and keeps nothing of instances")
	}
	return b.eraseKept(ctx, "instance", id, ground, p.Erase)
}

// EraseRequest erases what the body keeps of a request for evidence.
func (b backend) EraseRequest(ctx context.Context, id, ground string) (admin.Erasure, error) {
	o := b.n.once.Load()
	if o == nil {
		return admin.Erasure{}, admin.Problemf(http.StatusNotFound, "not_found", "this gateway has no part in requests for evidence ([once] in its configuration)")
	}
	return b.eraseKept(ctx, "request", id, ground, o.Erase)
}

// eraseKept erases something in its store and returns its note.
func (b backend) eraseKept(ctx context.Context, kind, id, ground string, erase func(ctx context.Context, id, ground string) (uint64, error)) (admin.Erasure, error) {
	r := b.n.current.Load()
	if r == nil {
		return admin.Erasure{}, errStarting
	}
	// 1. Whether a note can be made of it.
	if err := evidence.CheckNote([]string{kind + " " + id}, ground); err != nil {
		return admin.Erasure{}, admin.Problemf(http.StatusBadRequest, "invalid_parameter", "%v", err)
	}
	// 2. All of it.
	number, err := erase(ctx, id, ground)
	if err != nil {
		return admin.Erasure{}, erasureProblem(err)
	}
	// 3. The note.
	found, err := r.evidence.Erasures(number, 1)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("the note %d of an erasure is missing", number)
	}
	if err != nil {
		return admin.Erasure{}, err
	}
	return erasureOf(found[0]), nil
}

// erasureProblem tells why something was not erased.
func erasureProblem(err error) error {
	var missing *process.NotFoundError
	var early *process.NotEndedError
	var gone *process.ErasedError
	var refused *once.Refused
	const again = "\"civibus erasure list\" shows by which erasure"
	switch {
	case errors.As(err, &missing):
		return admin.Problemf(http.StatusNotFound, "not_found", "%s", missing.Reason)
	case errors.As(err, &early):
		return admin.Problemf(http.StatusConflict, "not_ended", "%s", early.Reason).WithHint("ask again when it has ended")
	case errors.As(err, &gone):
		return admin.Problemf(http.StatusConflict, "already_erased", "%v", gone).WithHint(again)
	case errors.As(err, &refused) && refused.Code == "unknown_request":
		return admin.Problemf(http.StatusNotFound, "not_found", "%s", refused.Reason)
	case errors.As(err, &refused) && refused.Code == "erased":
		return admin.Problemf(http.StatusConflict, "already_erased", "%s", refused.Reason).WithHint(again)
	case errors.As(err, &refused):
		return admin.Problemf(http.StatusConflict, refused.Code, "%s", refused.Reason)
	}
	return err
}
