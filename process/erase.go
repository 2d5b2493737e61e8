package process

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
)

// erased is what is left of an instance that the body has erased.
type erased struct {
	Time   time.Time `json:"time"`
	Ground string    `json:"ground"`
	Number uint64    `json:"number,omitempty"` // of the note; 0: there is none yet
}

// ErasedError says that an instance was erased at this body.
type ErasedError struct {
	Instance string
	Number   uint64 // of the note; 0: there is none yet
}

// Error names the instance and the note.
func (e *ErasedError) Error() string {
	if e.Number == 0 {
		return fmt.Sprintf("what this body had of instance %s was erased", e.Instance)
	}
	return fmt.Sprintf("what this body had of instance %s was erased: erasure %d", e.Instance, e.Number)
}

// NotEndedError says that the body may not erase an instance yet, and why.
type NotEndedError struct{ Reason string }

// Error returns the reason.
func (e *NotEndedError) Error() string { return e.Reason }

// Erase erases what the body has of an instance that has ended, or in which it has
// nothing to do any more: facts with their salts, reports, and what others were still to
// be shown, in copies of the store too. The ground is the law, and says nothing of a
// person. It returns the number of the note, which is made when all of it is gone; after
// an error that comes later by itself.
//
// What is in the registry stays: commitments without their salts, and the steps.
func (r *Runtime) Erase(ctx context.Context, instance, ground string) (uint64, error) {
	// 1. Whether it may be.
	v := r.View()
	if v == nil {
		return 0, errors.New("there is no registry view yet")
	}
	in, ok, err := v.ProcessInstance(instance)
	if err != nil {
		return 0, err
	}
	if !ok || !in.Plays(r.Member) {
		return 0, &NotFoundError{fmt.Sprintf("there is no instance %.40q in which this body has a part", instance)}
	}
	if err := r.mayErase(v, &in); err != nil {
		return 0, err
	}
	// 2. All of it at once, with what is left. Nothing of it is written from here on.
	if err := r.store.erase(instance, &erased{Time: r.Clock().UTC().Truncate(time.Second), Ground: ground}); err != nil {
		return 0, err
	}
	r.Logger.InfoContext(ctx, "process: an instance was erased", "instance", instance)
	// 3. The note.
	n, err := r.note(ctx, instance)
	if err != nil {
		return 0, fmt.Errorf("instance %s is erased, and its note is made later: %w", instance, err)
	}
	return n, nil
}

// mayErase reports what the body has still to do in an instance.
func (r *Runtime) mayErase(v *registry.View, in *registry.ProcessInstance) error {
	run, err := resume(v, in)
	if err != nil || run.Phase == definition.Ended {
		return err
	}
	steps, err := run.Process().Plan(in.Variant)
	if err != nil {
		return err
	}
	for _, p := range in.Parts {
		if p.Subsystem.MemberID != r.Member {
			continue
		}
		for i := range steps {
			_, state, _ := run.Step(steps[i].ID)
			mayCome := state.Status == definition.Waiting || state.Status == definition.Open || state.Status == definition.Reverting ||
				state.Status == definition.Done && steps[i].Undo != ""
			if steps[i].From == p.Role && mayCome {
				return &NotEndedError{fmt.Sprintf("instance %s goes on, and step %s is %s: the rule is that it has ended, or that this body has nothing to do any more or to take back", in.ID, steps[i].ID, state.Status)}
			}
		}
	}
	return r.store.each(deliveryKind+in.ID+"/", func(string, []byte) error {
		return &NotEndedError{fmt.Sprintf("instance %s goes on, and another body is still to be shown a fact", in.ID)}
	})
}

// erase erases an instance, with what was written of it before.
func (s *store) erase(instance string, left *erased) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var old erased
	gone, err := s.get(erasedKind+instance, &old)
	if err != nil {
		return err
	}
	if gone && old.Number != 0 {
		return &ErasedError{instance, old.Number}
	}
	if gone {
		return s.db.Complete() // it was cut off
	}
	b := &batch{}
	b.b.Erase(instance)
	b.b.Purge()
	b.put(erasedKind+instance, left)
	b.put(notingKind+instance, true)
	if b.err != nil {
		return b.err
	}
	return s.db.Write(&b.b)
}

// note has the evidence log keep that an instance was erased, once all of it is gone.
// A crash may make it do so twice.
func (r *Runtime) note(ctx context.Context, instance string) (uint64, error) {
	r.noting.Lock()
	defer r.noting.Unlock()
	var left erased
	if ok, err := r.store.get(erasedKind+instance, &left); err != nil || !ok || left.Number != 0 || r.Note == nil {
		return left.Number, err
	}
	if err := r.store.db.Complete(); err != nil {
		return 0, err
	}
	n, err := r.Note(ctx, "instance "+instance, left.Ground)
	if err != nil {
		return 0, err
	}
	left.Number = n
	b := &batch{}
	b.put(erasedKind+instance, &left)
	b.remove(notingKind + instance)
	return n, r.store.write(b)
}

// noteAgain makes notes that a crash or the log kept from being made.
func (r *Runtime) noteAgain(ctx context.Context) error {
	if r.Note == nil {
		return nil
	}
	return r.store.each(notingKind, func(key string, _ []byte) error {
		instance := strings.TrimPrefix(key, notingKind)
		r.start(ctx, key, func(ctx context.Context) error {
			_, err := r.note(ctx, instance)
			return err
		})
		return nil
	})
}
