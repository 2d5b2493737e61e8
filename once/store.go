package once

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/ldb"
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
	askedKind = "asked/"
	givenKind = "given/"
)

// store keeps requests of both sides. Every write is synced.
type store struct{ db *ldb.DB }

func openStore(dir string) (*store, error) {
	db, err := ldb.Open(dir, opt.Options{WriteBuffer: 4 << 20})
	if err != nil {
		return nil, fmt.Errorf("open the store of evidence requests in %s: %w", dir, err)
	}
	return &store{db}, nil
}

func (s *store) put(key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.db.Put([]byte(key), text, &opt.WriteOptions{Sync: true})
}

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

// count is how many keys of a kind there are, at most up to.
func (s *store) count(kind string, up int) (n int, err error) {
	it := s.db.NewIterator(util.BytesPrefix([]byte(kind)), nil)
	defer it.Release()
	for n < up && it.Next() {
		n++
	}
	return n, it.Error()
}

// each calls fn with the values of a kind; what fn returns is put in its place, nothing
// deletes it, and the same leaves it.
func (s *store) each(kind string, fn func(value []byte) ([]byte, error)) error {
	it := s.db.NewIterator(util.BytesPrefix([]byte(kind)), nil)
	defer it.Release()
	var b leveldb.Batch
	for it.Next() {
		out, err := fn(it.Value())
		switch {
		case err != nil:
			return err
		case out == nil:
			b.Delete(it.Key())
		case string(out) != string(it.Value()):
			b.Put(it.Key(), out)
		}
	}
	if err := it.Error(); err != nil || b.Len() == 0 {
		return err
	}
	return s.db.Write(&b, &opt.WriteOptions{Sync: true})
}
