package usage

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus"
)

// Period is what the body commits itself to for a stretch of its evidence log.
type Period struct {
	Number    uint64    `json:"period"`
	FirstLeaf uint64    `json:"first_leaf"`
	EndLeaf   uint64    `json:"end_leaf"` // excluded
	Until     time.Time `json:"until"`
	Shown     uint64    `json:"shown"`
	Later     uint64    `json:"later"`
	Never     uint64    `json:"never"`
	Root      string    `json:"root"` // hex
	Height    uint64    `json:"anchored_height,omitempty"`
}

// Size is how many records the period has.
func (p Period) Size() uint64 { return p.Shown + p.Later + p.Never }

// Sum computes the period with the leaves first to end: its counts and its root.
func (s *Store) Sum(number, first, end uint64, until time.Time) (Period, error) {
	p := Period{Number: number, FirstLeaf: first, EndLeaf: end, Until: until.UTC().Truncate(time.Second)}
	next, err := s.Next()
	if err != nil {
		return p, err
	}
	if end > next {
		return p, fmt.Errorf("usage period %d: it ends at leaf %d, the index is built up to %d", number, end, next)
	}
	leaves, err := s.commitments(first, end, func(_ uint64, class civibus.Disclosure) {
		switch class {
		case civibus.Shown:
			p.Shown++
		case civibus.ShownLater:
			p.Later++
		default:
			p.Never++
		}
	})
	root := Root(leaves)
	p.Root = hex.EncodeToString(root[:])
	return p, err
}

// commitments reads those of a stretch of leaves, in order.
func (s *Store) commitments(first, end uint64, each func(leaf uint64, class civibus.Disclosure)) (out []Commitment, err error) {
	it := s.db.NewIterator(&util.Range{Start: key('l', first), Limit: key('l', end)}, nil)
	defer it.Release()
	for it.Next() {
		v := it.Value()
		if len(v) < classSize {
			return nil, fmt.Errorf("usage index: the line of leaf %x is cut", it.Key())
		}
		each(binary.BigEndian.Uint64(it.Key()[1:]), civibus.Disclosure(v[0]))
		out = append(out, Commitment(v[1:classSize]))
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("usage index: %w", err)
	}
	return out, nil
}

// Anchored notes a period that the registry has anchored.
func (s *Store) Anchored(p Period) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.kept.Put(key('p', p.Number), b, &opt.WriteOptions{Sync: true})
}

// Period returns an anchored period.
func (s *Store) Period(number uint64) (p Period, ok bool, err error) {
	b, err := s.kept.Get(key('p', number), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return p, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	return p, err == nil, err
}

// Periods returns at most limit anchored periods, the newest first.
func (s *Store) Periods(limit int) (out []Period, err error) {
	it := s.kept.NewIterator(util.BytesPrefix([]byte{'p'}), nil)
	defer it.Release()
	for ok := it.Last(); ok && len(out) < limit; ok = it.Prev() {
		var p Period
		if err := json.Unmarshal(it.Value(), &p); err != nil {
			return nil, fmt.Errorf("usage index: a period: %w", err)
		}
		out = append(out, p)
	}
	return out, it.Error()
}

// Proof shows that a record is one of those that a period's anchored root is over.
type Proof struct {
	Period Period   `json:"period"`
	Salt   string   `json:"salt"`   // hex
	Record string   `json:"record"` // hex of the record's bytes
	Index  uint64   `json:"index"`  // among the period's records
	Path   []string `json:"path"`   // RFC 6962 inclusion proof, hex
}

// Prove makes the proof of a record; ok is false while its period is not anchored.
func (s *Store) Prove(f Found) (p Proof, ok bool, err error) {
	periods, err := s.Periods(1 << 30)
	if err != nil {
		return p, false, err
	}
	for _, p.Period = range periods {
		if ok = f.Leaf >= p.Period.FirstLeaf && f.Leaf < p.Period.EndLeaf; ok {
			break
		}
	}
	if !ok {
		return Proof{}, false, nil
	}
	at := 0
	leaves, err := s.commitments(p.Period.FirstLeaf, p.Period.EndLeaf, func(leaf uint64, _ civibus.Disclosure) {
		if leaf < f.Leaf {
			at++
		}
	})
	if err != nil {
		return Proof{}, false, err
	}
	p.Salt, p.Record, p.Index = hex.EncodeToString(f.Salt[:]), hex.EncodeToString(f.Raw), uint64(at)
	for _, h := range Inclusion(leaves, at) {
		p.Path = append(p.Path, hex.EncodeToString(h[:]))
	}
	return p, true, nil
}
