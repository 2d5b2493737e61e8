package once

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/civibus/civibus/internal/vault"
)

// asked is a request of this body, and where it stands.
type asked struct {
	Request   json.RawMessage `json:"request,omitempty"` // as it was sent; without it, after it has lapsed
	ID        string          `json:"id"`
	Client    string          `json:"client"`
	Type      string          `json:"type"`
	State     State           `json:"state"`
	Evidence  Digest          `json:"evidence"`
	MediaType string          `json:"media_type,omitempty"`
	Content   []byte          `json:"content,omitempty"`
	RetryAt   *time.Time      `json:"retry_at,omitempty"`
	Token     string          `json:"token,omitempty"`
	Changed   time.Time       `json:"changed"`
	Expires   time.Time       `json:"expires"`
}

// given is evidence that this body shows another one, until and after it decides.
type given struct {
	ID        string    `json:"id"`
	Client    string    `json:"client"`
	Type      string    `json:"type"`
	Request   Digest    `json:"request"`
	Evidence  Digest    `json:"evidence"`
	MediaType string    `json:"media_type,omitempty"`
	Content   []byte    `json:"content,omitempty"`
	Token     string    `json:"token,omitempty"` // the one that it was given up or deleted for
	Decision  State     `json:"decision,omitempty"`
	Shown     time.Time `json:"shown"`
	Expires   time.Time `json:"expires"`
}

// The kinds of keys.
const (
	askedKind  = "asked/"
	givenKind  = "given/"
	erasedKind = "erased/" // request: what is left of it
	notingKind = "noting/" // request: its erasure has no note yet
)

// store keeps requests of both sides. Every write is synced. Each request is sealed under
// a key of its own, which goes with what is deleted of it.
type store struct{ db *vault.DB }

func openStore(dir string) (*store, error) {
	db, err := vault.Open(dir, vault.Layout{Store: "civibus-once", Group: groupOf, Prefixes: func(group string) []string { return []string{group} }})
	if err != nil {
		return nil, fmt.Errorf("open the store of evidence requests in %s: %w", dir, err)
	}
	return &store{db}, nil
}

// groupOf is the request that a value is of, on one side. What is left of an erased one
// says nothing of a person.
func groupOf(key string) string {
	if strings.HasPrefix(key, erasedKind) || strings.HasPrefix(key, notingKind) {
		return ""
	}
	return key
}

func (s *store) put(key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b := new(vault.Batch)
	b.Put(key, text)
	return s.db.Write(b)
}

// replace is put, and destroys what was there before.
func (s *store) replace(key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b := new(vault.Batch)
	b.Erase(key)
	b.Put(key, text)
	return s.db.Write(b)
}

func (s *store) get(key string, to any) (bool, error) {
	text, ok, err := s.db.Get(key)
	if err != nil || !ok {
		return false, err
	}
	return true, json.Unmarshal(text, to)
}

// count is how many keys of a kind there are, at most up to.
func (s *store) count(kind string, up int) (n int, err error) { return s.db.Count(kind, up) }

// each calls fn with the values of a kind; what fn returns is put in its place, nothing
// deletes it, and the same leaves it. What was there before is destroyed.
func (s *store) each(kind string, fn func(value []byte) ([]byte, error)) error {
	b := new(vault.Batch)
	err := s.db.Each(kind, func(key string, value []byte) error {
		out, err := fn(value)
		switch {
		case err != nil:
			return err
		case out == nil:
			b.Erase(key)
		case string(out) != string(value):
			b.Erase(key)
			b.Put(key, out)
		}
		return nil
	})
	if err != nil || b.Empty() {
		return err
	}
	return s.db.Write(b)
}
