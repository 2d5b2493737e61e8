package once

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/civibus/civibus/internal/vault"
)

// erased is what is left of a request that the body has erased.
type erased struct {
	Time   time.Time `json:"time"`
	Ground string    `json:"ground"`
	Number uint64    `json:"number,omitempty"` // of the note; 0: there is none yet
}

// Erase erases what the body has of a request that is over, as the one that asked and as
// the one that gave: subject, document and decision, in copies of the store too. The
// ground is the law, and says nothing of a person. It returns the number of the note,
// which is made when all of it is gone; after an error that comes later by itself. What
// may not be erased yet, is not known or was erased before is a *Refused.
func (r *Runtime) Erase(ctx context.Context, id, ground string) (uint64, error) {
	if !isID(id) {
		return 0, refuse("unknown_request", "there is no request %.64q", id)
	}
	if err := r.erase(id, &erased{Time: r.Clock().UTC().Truncate(time.Second), Ground: ground}); err != nil {
		return 0, err
	}
	r.Logger.InfoContext(ctx, "once: a request was erased", "request", id)
	n, err := r.note(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("request %s is erased, and its note is made later: %w", id, err)
	}
	return n, nil
}

func (r *Runtime) erase(id string, left *erased) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// 1. Whether it was erased before, or is in use.
	var old erased
	gone, err := r.store.get(erasedKind+id, &old)
	switch {
	case err != nil:
		return err
	case gone && old.Number != 0:
		return refuse("erased", "request %s was erased before: erasure %d", id, old.Number)
	case gone:
		return r.store.db.Complete() // it was cut off
	case r.busy[id]:
		return refuse("busy", "an exchange about request %s is under way", id)
	}
	// 2. What there is of it, and whether it is over.
	groups, err := r.over(id)
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		return refuse("unknown_request", "there is no request %s at this body", id)
	}
	// 3. All of it at once, with what is left.
	text, err := json.Marshal(left)
	if err != nil {
		return err
	}
	b := new(vault.Batch)
	for _, g := range groups {
		b.Erase(g)
	}
	b.Purge()
	b.Put(erasedKind+id, text)
	b.Put(notingKind+id, []byte("true"))
	return r.store.db.Write(b)
}

// over finds the values of a request, and reports if somebody has still to decide it.
func (r *Runtime) over(id string) (groups []string, err error) {
	now := r.Clock()
	notYet := func(state State, until time.Time) error {
		return refuse("not_ended", "request %s is %s: the rule is that it was decided, or has lapsed, which it does at %s", id, state, until.UTC().Format(time.RFC3339))
	}
	// 1. As the one that asked.
	var a asked
	if ok, err := r.store.get(askedKind+id, &a); err != nil {
		return nil, err
	} else if ok {
		if _, err := after(a.State, lapse); err == nil && now.Before(a.Expires) {
			return nil, notYet(a.State, a.Expires)
		}
		groups = append(groups, askedKind+id)
	}
	// 2. As the one that gave, to whichever body.
	err = r.store.db.Keys(givenKind, func(key string) error {
		if strings.HasSuffix(key, "/"+id) {
			groups = append(groups, key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, key := range groups {
		var g given
		if !strings.HasPrefix(key, givenKind) {
			continue
		}
		if ok, err := r.store.get(key, &g); err != nil {
			return nil, err
		} else if ok && g.Decision == "" && now.Before(g.Expires) {
			return nil, notYet(Previewed, g.Expires)
		}
	}
	return groups, nil
}

// gone refuses a request that was erased.
func (r *Runtime) gone(id string) error {
	ok, err := r.store.get(erasedKind+id, new(erased))
	if err == nil && ok {
		err = refuse("erased", "what this body had of the request was erased; make another one")
	}
	return err
}

// note has the evidence log keep that a request was erased, once all of it is gone. A
// crash may make it do so twice.
func (r *Runtime) note(ctx context.Context, id string) (uint64, error) {
	r.noting.Lock()
	defer r.noting.Unlock()
	var left erased
	if ok, err := r.store.get(erasedKind+id, &left); err != nil || !ok || left.Number != 0 || r.Note == nil {
		return left.Number, err
	}
	if err := r.store.db.Complete(); err != nil {
		return 0, err
	}
	n, err := r.Note(ctx, "request "+id, left.Ground)
	if err != nil {
		return 0, err
	}
	left.Number = n
	text, err := json.Marshal(&left)
	if err != nil {
		return 0, err
	}
	b := new(vault.Batch)
	b.Put(erasedKind+id, text)
	b.Delete(notingKind + id)
	return n, r.store.db.Write(b)
}

// noteAgain makes notes that a crash or the log kept from being made.
func (r *Runtime) noteAgain(ctx context.Context) error {
	var ids []string
	err := r.store.db.Keys(notingKind, func(key string) error {
		ids = append(ids, strings.TrimPrefix(key, notingKind))
		return nil
	})
	for _, id := range ids {
		_, nerr := r.note(ctx, id)
		err = errors.Join(err, nerr)
	}
	return err
}

// forget deletes what is left of requests that were erased long ago.
func (r *Runtime) forget() error {
	b, now := new(vault.Batch), r.Clock()
	err := r.store.db.Each(erasedKind, func(key string, value []byte) error {
		var e erased
		if err := json.Unmarshal(value, &e); err != nil {
			return err
		}
		if now.After(e.Time.Add(tombstone)) && (e.Number != 0 || r.Note == nil) {
			b.Delete(key)
		}
		return nil
	})
	if err != nil || b.Empty() {
		return err
	}
	return r.store.db.Write(b)
}
