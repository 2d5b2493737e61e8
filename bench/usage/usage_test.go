// Package usage_test measures usage records: what one costs the exchange, and how fast a
// person's are found among very many.
//
// Trust: none; it measures on data of its own.
package usage_test

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/usage"
)

var (
	records = flag.Int("records", 200_000, "usage records in the store of BenchmarkFind")
	keep    = flag.String("dir", "", "folder where the store of BenchmarkFind is kept and used again, so that it is built once; default: a temporary one")
)

const ofPerson = 1000 // records of each person who is asked for: a whole page

// made is an evidence log with records that are made as they are read.
type made struct {
	n      uint64
	keeper *usage.Keeper
	b      *testing.B
}

func (m made) Checkpoint() ([]byte, uint64, [32]byte) { return nil, m.n, [32]byte{} }
func (m made) Changed() <-chan struct{}               { return nil }

func (m made) Erasures(uint64, int) ([]evidence.Erasure, error) { return nil, nil }
func (m made) Besides(_ context.Context, from, to uint64) iter.Seq2[evidence.Entry, error] {
	return func(yield func(evidence.Entry, error) bool) {
		for i := from; i < to; i++ {
			beside, _, err := m.keeper.Make(use(person(i, m.n), time.Unix(1_800_000_000, int64(i))))
			if !yield(evidence.Entry{Index: i, Beside: beside}, err) {
				return
			}
		}
	}
}

// person spreads the records of each person over the whole time.
func person(i, n uint64) string { return fmt.Sprintf("FIC-%08d", i%max(1, n/ofPerson)) }

func use(subject string, at time.Time) *usage.Use {
	return &usage.Use{
		Exchange: "01234567-89ab-4cde-8f01-23456789abcd", Client: "DEMO/MUN/2001/portal", Service: "DEMO/GOV/1001/population/register", Subject: subject, Case: "permit 12/2026", Time: at,
		Right: &civibus.AccessRight{ID: "0123456789abcdef0123456789abcdef", Purpose: "building-permit", LegalBasis: "https://law.example/building/7", Sentence: "The town looked up your address to decide on a building permit.", Disclosure: civibus.Shown},
	}
}

func keeper(b *testing.B, dir string) *usage.Keeper {
	k, err := usage.NewKeeper(filepath.Join(dir, "usage.key"), nil)
	if err != nil {
		b.Fatal(err)
	}
	return k
}

// BenchmarkMake is what finding the person and making the record cost an exchange.
func BenchmarkMake(b *testing.B) {
	k, at := keeper(b, b.TempDir()), time.Unix(1_800_000_000, 0)
	request := &usage.Request{Header: map[string][]string{civibus.HeaderSubject: {"FIC-00000001"}}}
	for b.Loop() {
		s, err := k.Subject(request)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := k.Make(use(s, at)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFind asks for a page of one person's records, 10 and 1,000 of them, each time
// of another person.
func BenchmarkFind(b *testing.B) {
	dir := *keep
	if dir == "" {
		dir = b.TempDir()
	}
	k := keeper(b, dir)
	s, err := usage.Open(usage.Config{Dir: filepath.Join(dir, "usage"), Keeper: k})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	n := uint64(*records)
	build(b, s, made{n, k, b}, dir)
	for _, limit := range []int{10, ofPerson} {
		b.Run(fmt.Sprintf("of %d/page %d", n, limit), func(b *testing.B) {
			var took []time.Duration
			for i := uint64(0); b.Loop(); i++ {
				at := time.Now()
				p, err := s.Find(usage.Query{Subject: person(i*7919, n), Limit: limit})
				if err != nil || len(p.Items) != limit {
					b.Fatalf("%d records, %v", len(p.Items), err)
				}
				took = append(took, time.Since(at))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// build makes the index, as far as it is not there from a run before, and tells how long
// that took and how large it is.
func build(b *testing.B, s *usage.Store, log made, dir string) {
	from, err := s.Next()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := s.CatchUp(context.Background(), log); err != nil {
		b.Fatal(err)
	}
	took, size := time.Since(began), int64(0)
	if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return nil // a table that was merged into others
	}); err != nil {
		b.Fatal(err)
	}
	if n := log.n - from; n > 0 {
		fmt.Printf("indexed %d records in %.0f s, %.0f a second; the index has %.2f GB, %.0f bytes a record\n", n, took.Seconds(), float64(n)/took.Seconds(), float64(size)/1e9, float64(size)/float64(log.n))
	}
}
