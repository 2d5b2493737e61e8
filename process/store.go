package process

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/civibus/civibus/internal/vault"
	"github.com/civibus/civibus/process/definition"
)

// Held is a fact that this body has: it found it out, or another body opened it.
type Held struct {
	Instance string `json:"instance"`
	Fact     string `json:"fact"`
	Step     string `json:"step"` // that found it out
	Attempt  uint32 `json:"attempt"`
	Text     string `json:"text"`
	Salt     Salt   `json:"salt"`
}

// commitment is what the registry has of it.
func (h *Held) commitment() definition.Commitment {
	return definition.Commit(h.Salt, h.Instance, h.Fact, h.Text)
}

// Salt is the salt of a commitment, in hex where it is text.
type Salt [definition.SaltBytes]byte

// MarshalText writes lower-case hex.
func (s Salt) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads hex.
func (s *Salt) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(s) {
		return fmt.Errorf("a salt has %d bytes in hex", len(s))
	}
	copy(s[:], b)
	return nil
}

// result is what a system said of a turn, until and after the registry has it.
type result struct {
	Instance string               `json:"instance"`
	Step     string               `json:"step"`
	Attempt  uint32               `json:"attempt"`
	Kind     definition.EventKind `json:"kind"`
	Yields   []yielded            `json:"yields,omitempty"`
	Posted   bool                 `json:"posted,omitempty"`
	Refused  string               `json:"refused,omitempty"` // by the registry, and why
}

// yielded is a fact of an event: a commitment, or the value of a public one.
type yielded struct {
	Fact       string                `json:"fact"`
	Commitment definition.Commitment `json:"commitment"`
	Value      string                `json:"value,omitempty"`
}

// delivery is a fact that another body is still to be shown.
type delivery struct {
	Held
	Subsystem string `json:"subsystem"` // who is shown it
	From      string `json:"from"`      // the own subsystem
}

// store keeps what a body knows of its processes. Every write is synced. The values of
// an instance are sealed under one key, and are erased together.
type store struct {
	db *vault.DB
	mu sync.Mutex // nothing is written of an instance while it is erased
}

func openStore(dir string) (*store, error) {
	db, err := vault.Open(dir, vault.Layout{Store: "civibus-process", Group: groupOf, Prefixes: prefixesOf})
	if err != nil {
		return nil, fmt.Errorf("open the store of processes in %s: %w", dir, err)
	}
	return &store{db: db}, nil
}

func (s *store) close() error { return s.db.Close() }

// The kinds of keys. Parts are joined by "/", which none contains but the last.
const (
	heldKind     = "fact/"
	resultKind   = "result/"
	deliveryKind = "deliver/"
	pendingKind  = "pending/" // result whose event the registry may not have: its key
	erasedKind   = "erased/"  // instance: what is left of it
	notingKind   = "noting/"  // instance: its erasure has no note yet
)

// groupOf is the instance that a value is of, which is sealed with all others of it. What
// is left of an erased one says nothing of a person.
func groupOf(key string) string {
	for _, kind := range []string{erasedKind, notingKind} {
		if strings.HasPrefix(key, kind) {
			return ""
		}
	}
	for _, kind := range instanceKinds {
		if rest, ok := strings.CutPrefix(key, kind); ok {
			instance, _, _ := strings.Cut(rest, "/")
			return instance
		}
	}
	return key
}

var instanceKinds = []string{heldKind, resultKind, deliveryKind, pendingKind + resultKind}

// prefixesOf are those of the keys of a group.
func prefixesOf(group string) []string {
	if strings.Contains(group, "/") {
		return []string{group} // a key for itself
	}
	var out []string
	for _, kind := range instanceKinds {
		out = append(out, kind+group+"/")
	}
	return out
}

func heldKey(h *Held) string { return heldKind + h.Instance + "/" + h.Fact }

func resultKey(instance, step string, attempt uint32, undo bool) string {
	kind := "do"
	if undo {
		kind = "undo"
	}
	return fmt.Sprintf("%s%s/%s/%d/%s", resultKind, instance, step, attempt, kind)
}

func (r *result) key() string {
	return resultKey(r.Instance, r.Step, r.Attempt, r.Kind == definition.StepReverted || r.Kind == definition.RevertFailed)
}

func (d *delivery) key() string {
	return deliveryKind + d.Instance + "/" + d.Fact + "/" + d.Subsystem
}

// batch collects what is written together.
type batch struct {
	b    vault.Batch
	puts []string // their keys
	err  error
}

func (b *batch) put(key string, v any) {
	text, err := json.Marshal(v)
	b.err = errors.Join(b.err, err)
	b.b.Put(key, text)
	b.puts = append(b.puts, key)
}

func (b *batch) remove(key string) { b.b.Delete(key) }

// write writes a batch. Nothing is written of an instance that was erased: *ErasedError.
func (s *store) write(b *batch) error {
	if b.err != nil {
		return b.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range b.puts {
		instance := groupOf(key)
		if instance == "" {
			continue
		}
		var old erased
		if gone, err := s.get(erasedKind+instance, &old); err != nil {
			return err
		} else if gone {
			return &ErasedError{instance, old.Number}
		}
	}
	return s.db.Write(&b.b)
}

// get reads a value, or says that there is none.
func (s *store) get(key string, to any) (bool, error) {
	text, ok, err := s.db.Get(key)
	if err != nil || !ok {
		return false, err
	}
	return true, json.Unmarshal(text, to)
}

// each calls fn with the values of a kind, until it returns an error.
func (s *store) each(prefix string, fn func(key string, value []byte) error) error {
	return s.db.Each(prefix, fn)
}

// held returns the facts of an instance that this body has, by fact.
func (s *store) held(instance string) (map[string]*Held, error) {
	out := make(map[string]*Held)
	err := s.each(heldKind+instance+"/", func(key string, value []byte) error {
		h := new(Held)
		if err := json.Unmarshal(value, h); err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		out[strings.TrimPrefix(key, heldKind+instance+"/")] = h
		return nil
	})
	return out, err
}
