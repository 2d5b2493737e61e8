package once

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// ServiceCode is the service by which subsystems show and give evidence to other bodies.
const ServiceCode = "once"

// APIPath is where the body's systems find the interface.
const APIPath = "/civibus/v1/once/"

const (
	defaultKeep = 24 * time.Hour       // how long a person may take to decide, and evidence is kept
	tombstone   = 400 * 24 * time.Hour // how long it is known what was decided
	maxKept     = 10_000               // requests of each side that are kept
	maxAskedAge = 24 * time.Hour       // of an explicit request when it is sent
)

// Config is what a runtime works with.
type Config struct {
	// Dir is where it keeps what it knows. Required.
	Dir string
	// Member is the body, and Provides are its subsystems that offer the service "once".
	Member   civibus.MemberID
	Provides []civibus.ClientID
	// View returns the newest registry view, nil before there is one. Required.
	View func() *registry.View
	// Signer returns the body's seal key in force. Required.
	Signer func() (civibus.Signer, error)
	// Call makes an exchange in the name of an own subsystem: a POST of JSON to a path of
	// another one's service, and returns its answer, which had a status of success. Required.
	Call func(ctx context.Context, from civibus.ClientID, to civibus.ServiceID, path string, body []byte) (answer []byte, err error)
	// Fetch asks an own service for evidence: a POST of the request to /TYPE. Required
	// where Provides is not empty.
	Fetch func(ctx context.Context, from civibus.ServiceID, path, client string, request []byte) (*Fetched, error)
	// Keep is how long a person may take to decide, and how long evidence is kept.
	// Default: 24 h.
	Keep time.Duration
	// Note has the body's evidence log sign and keep a note of what was erased, such as
	// "request ID", and by which law, and returns its number. Nil: there are no notes.
	Note func(ctx context.Context, what, ground string) (number uint64, err error)
	// Clock tells the time. Required.
	Clock civibus.Clock
	// Logger takes what happens; never whose evidence it is. Required.
	Logger *slog.Logger
}

// Fetched is what an own service answered.
type Fetched struct {
	Status     int
	MediaType  string
	RetryAfter time.Duration
	Content    []byte
}

// Runtime is a body's part in requests for evidence, of both sides.
type Runtime struct {
	Config
	store *store
	mu    sync.Mutex      // what is read and then written is so by one at a time
	busy  map[string]bool // requests with an exchange under way

	noting sync.Mutex // an erasure is noted once
}

// Open opens what a body knows of requests for evidence.
func Open(c Config) (*Runtime, error) {
	if c.Keep == 0 {
		c.Keep = defaultKeep
	}
	s, err := openStore(c.Dir)
	if err != nil {
		return nil, err
	}
	r := &Runtime{Config: c, store: s, busy: make(map[string]bool)}
	if err := r.Sweep(); err != nil {
		_ = s.db.Close()
		return nil, err
	}
	return r, nil
}

// Close closes the store.
func (r *Runtime) Close() error { return r.store.db.Close() }

// Run deletes what has lapsed, and makes notes of erasures that have none, until the
// context ends.
func (r *Runtime) Run(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		if r.Note != nil {
			if err := r.noteAgain(ctx); err != nil && ctx.Err() == nil {
				r.Logger.WarnContext(ctx, "once: an erasure is noted later", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := r.Sweep(); err != nil {
				r.Logger.ErrorContext(ctx, "once: what has lapsed could not be deleted", "err", err)
			}
		}
	}
}

// Sweep deletes the evidence and the subjects of requests whose time is over, with their
// keys, and after a year what was decided about them.
func (r *Runtime) Sweep() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Clock()
	err := r.store.each(askedKind, func(value []byte) ([]byte, error) {
		var a asked
		if err := json.Unmarshal(value, &a); err != nil {
			return nil, err
		}
		switch {
		case now.Before(a.Expires):
			return value, nil
		case now.After(a.Expires.Add(tombstone)):
			return nil, nil
		case a.Request == nil && a.Content == nil:
			return value, nil
		}
		if next, err := after(a.State, lapse); err == nil {
			a.State = next
		}
		a.Request, a.Content = nil, nil
		return json.Marshal(&a)
	})
	if err != nil {
		return err
	}
	err = r.store.each(givenKind, func(value []byte) ([]byte, error) {
		var g given
		if err := json.Unmarshal(value, &g); err != nil {
			return nil, err
		}
		switch {
		case now.Before(g.Expires) || g.Content == nil && now.Before(g.Expires.Add(tombstone)):
			return value, nil
		case now.After(g.Expires.Add(tombstone)):
			return nil, nil
		}
		g.Content = nil
		return json.Marshal(&g)
	})
	if err != nil {
		return err
	}
	return r.forget()
}

// room reports whether one more request may be kept.
func (r *Runtime) room(kind string) error {
	n, err := r.store.count(kind, maxKept)
	if err == nil && n >= maxKept {
		err = refuse("limit_reached", "%d requests are kept, the rule is at most %d; they lapse by themselves", n, maxKept)
	}
	return err
}

// Backup adds the requests of both sides to a backup.
func (r *Runtime) Backup(ctx context.Context, put func(name string, size int64, content io.Reader) error, name string) error {
	return r.store.db.Backup(put, r.Dir, name, ctx.Err)
}
