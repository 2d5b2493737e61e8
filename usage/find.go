package usage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/usage/usagepb"
)

// MaxPage is how many records one answer has at most, and maxLook how many it looks at:
// those that are not shown cost time too.
const (
	MaxPage = 1000
	maxLook = 20000
)

// ErrNotFound says that there is no such record, or none that is shown.
var ErrNotFound = errors.New("no such usage record is shown")

// Found is a record as the index has it.
type Found struct {
	Leaf   uint64 // of the body's evidence log; it names the record
	Record *usagepb.Record
	Salt   [32]byte
	Raw    []byte // the record's bytes, to which with the salt the commitment is
	Newer  uint64 // one more than the leaf of the record that corrects it; 0: none does. Find fills it in
}

// Time is when the request came.
func (f Found) Time() time.Time { return time.Unix(0, f.Record.TimeUnixNano).UTC() }

// shown reports whether a person is shown a record now.
func shown(r *usagepb.Record, now time.Time) bool {
	switch civibus.Disclosure(r.Disclosure) {
	case civibus.Shown:
		return true
	case civibus.ShownLater:
		return now.Unix() >= r.DisclosedFrom
	}
	return false
}

// Query asks for a person's records.
type Query struct {
	Subject  string
	From, To time.Time // zero: open; To is excluded
	Limit    int       // 0: MaxPage
	After    string    // Page.Next of the page before
	All      bool      // those that are not shown too: for the body itself, never for a portal
}

// Page is a page of records, newest first.
type Page struct {
	Items []Found
	Next  string // what to pass as After for the next page; "" at the end
}

// Find returns a person's records, newest first.
func (s *Store) Find(q Query) (Page, error) {
	if q.Subject == "" || len(q.Subject) > maxSubject {
		return Page{}, fmt.Errorf("the person's identifier has %d bytes, the rule is 1 to %d", len(q.Subject), maxSubject)
	}
	if q.Limit == 0 {
		q.Limit = MaxPage
	}
	if q.Limit < 0 || q.Limit > MaxPage {
		return Page{}, fmt.Errorf("limit %d, the rule is 1 to %d", q.Limit, MaxPage)
	}
	tag, now := s.cfg.Keeper.Tag(q.Subject), s.cfg.Clock()
	r := util.BytesPrefix(append([]byte{'u'}, tag[:]...))
	if !q.To.IsZero() {
		r.Start = personKey(tag, q.To.UnixNano()-1, 0)
	}
	if !q.From.IsZero() {
		r.Limit = personKey(tag, q.From.UnixNano()-1, 0)
	}
	if q.After != "" {
		k, err := parseCursor(tag, q.After)
		if err != nil {
			return Page{}, err
		}
		if bytes.Compare(k, r.Start) > 0 {
			r.Start = k
		}
	}
	corrections, err := s.anyCorrection()
	if err != nil {
		return Page{}, err
	}
	it := s.db.NewIterator(r, nil)
	defer it.Release()
	var out Page
	for looked := 0; it.Next(); looked++ {
		if len(out.Items) == q.Limit || looked == maxLook {
			out.Next = cursor(it.Key())
			break
		}
		f, err := found(it.Key(), it.Value())
		if err == nil && corrections {
			f.Newer, err = s.number(key('s', f.Leaf))
		}
		if err != nil {
			return Page{}, err
		}
		if q.All || shown(f.Record, now) {
			out.Items = append(out.Items, f)
		}
	}
	if err := it.Error(); err != nil {
		return Page{}, fmt.Errorf("usage index: %w", err)
	}
	return out, nil
}

// anyCorrection reports whether any record was corrected: most bodies' never are, and
// whether one was is looked up one by one.
func (s *Store) anyCorrection() (bool, error) {
	it := s.db.NewIterator(util.BytesPrefix([]byte{'s'}), nil)
	defer it.Release()
	any := it.First()
	if err := it.Error(); err != nil {
		return false, fmt.Errorf("usage index: %w", err)
	}
	return any, nil
}

// cursor says where the next page begins; it holds nothing of the person.
func cursor(k []byte) string { return fmt.Sprintf("%x", k[33:]) }

func parseCursor(tag Tag, s string) ([]byte, error) {
	var b []byte
	if n, err := fmt.Sscanf(s, "%x", &b); n != 1 || err != nil || len(b) != 16 {
		return nil, fmt.Errorf("after %.40q, the rule is what the page before gave as next", s)
	}
	return append(append([]byte{'u'}, tag[:]...), b...), nil
}

func found(k, v []byte) (Found, error) {
	v = append([]byte(nil), v...)
	salt, r, err := open(v)
	if err != nil {
		return Found{}, fmt.Errorf("usage index: %w", err)
	}
	return Found{Leaf: binary.BigEndian.Uint64(k[41:]), Record: r, Salt: salt, Raw: v[saltSize:]}, nil
}

// Get returns one of a person's records by its leaf.
func (s *Store) Get(subject string, leaf uint64, all bool) (Found, error) {
	f, ok, err := s.byLeaf(leaf)
	switch tag := s.cfg.Keeper.Tag(subject); {
	case err != nil:
		return Found{}, err
	case !ok || Tag(f.Record.Subject) != tag: // somebody else's, of which nothing is told
		return Found{}, ErrNotFound
	case !all && !shown(f.Record, s.cfg.Clock()):
		return Found{}, ErrNotFound
	}
	return f, nil
}

// byLeaf returns a record by its leaf; ok is false if there is none, or none any more.
func (s *Store) byLeaf(leaf uint64) (f Found, ok bool, err error) {
	line, err := s.db.Get(key('l', leaf), nil)
	if errors.Is(err, leveldb.ErrNotFound) || err == nil && len(line) != lineSize {
		return Found{}, false, nil
	}
	if err != nil {
		return Found{}, false, fmt.Errorf("usage index: %w", err)
	}
	k := personKey(Tag(line[classSize+8:]), int64(binary.BigEndian.Uint64(line[classSize:])), leaf)
	v, err := s.db.Get(k, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return Found{}, false, nil // it went between the two looks
	}
	if err != nil {
		return Found{}, false, fmt.Errorf("usage index: %w", err)
	}
	f, err = found(k, v)
	return f, err == nil, err
}

// First returns when the oldest record was made that is kept; zero if there is none.
func (s *Store) First() (time.Time, error) {
	from, err := s.number([]byte{'e'})
	if err != nil {
		return time.Time{}, err
	}
	it := s.db.NewIterator(&util.Range{Start: key('l', from), Limit: []byte{'l' + 1}}, nil)
	defer it.Release()
	for it.Next() {
		if v := it.Value(); len(v) == lineSize {
			return time.Unix(0, int64(binary.BigEndian.Uint64(v[classSize:]))).UTC(), nil
		}
	}
	return time.Time{}, it.Error()
}
