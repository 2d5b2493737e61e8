package process

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/ldb"
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

// store keeps what a body knows of its processes. Every write is synced.
type store struct{ db *ldb.DB }

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the store of processes: %w", err)
	}
	db, err := ldb.Open(dir, opt.Options{WriteBuffer: 4 << 20})
	if err != nil {
		return nil, fmt.Errorf("open the store of processes in %s: %w", dir, err)
	}
	return &store{db}, nil
}

func (s *store) close() error { return s.db.Close() }

// The kinds of keys. Parts are joined by "/", which none contains but the last.
const (
	heldKind     = "fact/"
	resultKind   = "result/"
	deliveryKind = "deliver/"
	pendingKind  = "pending/" // result whose event the registry may not have: its key
)

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
	b   leveldb.Batch
	err error
}

func (b *batch) put(key string, v any) {
	text, err := json.Marshal(v)
	b.err = errors.Join(b.err, err)
	b.b.Put([]byte(key), text)
}

func (b *batch) remove(key string) { b.b.Delete([]byte(key)) }

func (s *store) write(b *batch) error {
	if b.err != nil {
		return b.err
	}
	return s.db.Write(&b.b, &opt.WriteOptions{Sync: true})
}

// get reads a value, or says that there is none.
func (s *store) get(key string, to any) (bool, error) {
	text, err := s.db.Get([]byte(key), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	return true, json.Unmarshal(text, to)
}

// each calls fn with the values of a kind, until it returns an error.
func (s *store) each(prefix string, fn func(key string, value []byte) error) error {
	it := s.db.NewIterator(util.BytesPrefix([]byte(prefix)), nil)
	defer it.Release()
	for it.Next() {
		if err := fn(string(it.Key()), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
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
