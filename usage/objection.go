package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus/internal/shred"
)

const (
	maxObjection  = 4000    // characters of what a person writes
	maxObjections = 1 << 20 // cases that are kept
	maxOpenOf     = 100     // open cases about one record
)

// Objection is a case that a person opened about a record.
type Objection struct {
	Case   uint64    `json:"case"`
	Leaf   uint64    `json:"record"`
	Opened time.Time `json:"opened"`
	Text   string    `json:"text"`
	Closed time.Time `json:"closed,omitzero"`
	Answer string    `json:"answer,omitempty"`
}

// Object opens a case about a record that the person is shown. It is durable when Object
// returns.
func (s *Store) Object(subject string, leaf uint64, text string) (Objection, error) {
	text = strings.TrimSpace(text)
	if n := utf8.RuneCountInString(text); n < 1 || n > maxObjection || !utf8.ValidString(text) {
		return Objection{}, fmt.Errorf("the text has %d characters, the rule is 1 to %d of UTF-8", n, maxObjection)
	}
	if _, err := s.Get(subject, leaf, false); err != nil {
		return Objection{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	number, about := uint64(1), 0
	if err := s.eachObjection(func(o Objection) {
		if number == 1 {
			number = o.Case + 1
		}
		if o.Leaf == leaf && o.Closed.IsZero() {
			about++
		}
	}); err != nil {
		return Objection{}, err
	}
	if number > maxObjections || about >= maxOpenOf {
		return Objection{}, fmt.Errorf("there are %d open cases about this record, the rule is at most %d; they are being looked at", about, maxOpenOf)
	}
	o := Objection{Case: number, Leaf: leaf, Opened: s.cfg.Clock().UTC(), Text: text}
	return o, s.putObjection(o)
}

// Answer closes a case with what the person is told.
func (s *Store) Answer(number uint64, answer string) (Objection, error) {
	if n := utf8.RuneCountInString(answer); n < 1 || n > maxObjection || !utf8.ValidString(answer) {
		return Objection{}, fmt.Errorf("the answer has %d characters, the rule is 1 to %d of UTF-8", n, maxObjection)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.kept.Get(key('o', number), nil)
	if err != nil {
		return Objection{}, fmt.Errorf("case %d: there is none", number)
	}
	o, err := s.openCase(b)
	if err != nil {
		return o, fmt.Errorf("case %d: %w", number, err)
	}
	if !o.Closed.IsZero() {
		return o, fmt.Errorf("case %d was closed at %s, which is final", number, o.Closed.Format(time.RFC3339))
	}
	o.Closed, o.Answer = s.cfg.Clock().UTC(), answer
	return o, s.putObjection(o)
}

// A case is sealed; one of before cases were sealed is a JSON object.
const (
	sealedCase = 0
	caseMark   = 4
)

func (s *Store) putObjection(o Objection) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	old, err := s.kept.Get(key('o', o.Case), nil)
	if err != nil && !errors.Is(err, leveldb.ErrNotFound) {
		return err
	}
	sealed := s.keys.Seal(append(make([]byte, 0, 1+shred.Overhead+len(b)), sealedCase)[:1+shred.HeadSize], b, caseMark)
	if err := s.kept.Put(key('o', o.Case), sealed, &opt.WriteOptions{Sync: true}); err != nil {
		return err
	}
	if len(old) == 0 || old[0] != sealedCase {
		return nil
	}
	// The text of before is in backups under another key.
	n, err := shred.Number(old[1:])
	if err != nil {
		return err
	}
	return s.keys.Destroy(n)
}

// openCase reads a case as it is kept.
func (s *Store) openCase(v []byte) (o Objection, err error) {
	if len(v) > 0 && v[0] == sealedCase {
		if v, err = s.keys.Open(v[1:], caseMark); err != nil {
			return o, fmt.Errorf("usage index: a case: %w", err)
		}
	}
	if err := json.Unmarshal(v, &o); err != nil {
		return o, fmt.Errorf("usage index: a case: %w", err)
	}
	return o, nil
}

// Objections returns the cases, the newest first.
func (s *Store) Objections(limit int) (out []Objection, err error) {
	err = s.eachObjection(func(o Objection) {
		if len(out) < limit {
			out = append(out, o)
		}
	})
	return out, err
}

// eachObjection goes through the cases, the newest first.
func (s *Store) eachObjection(fn func(Objection)) error {
	return s.eachCase(func(_, _ []byte, o Objection) error { fn(o); return nil })
}

// eachCase goes through the cases as they are kept, the newest first. One that was erased
// after the copy was made that is read is left out.
func (s *Store) eachCase(fn func(k, v []byte, o Objection) error) error {
	it := s.kept.NewIterator(util.BytesPrefix([]byte{'o'}), nil)
	defer it.Release()
	for ok := it.Last(); ok; ok = it.Prev() {
		o, err := s.openCase(it.Value())
		if errors.Is(err, shred.ErrDestroyed) {
			continue
		}
		if err == nil {
			err = fn(it.Key(), it.Value(), o)
		}
		if err != nil {
			return err
		}
	}
	return it.Error()
}
