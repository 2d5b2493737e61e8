// Package usage_test measures usage records: what one costs the exchange, and how fast a
// person's are found among very many.
//
// Trust: none; it measures on data of its own.
package usage_test

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/usage"
)

var records = flag.Int("records", 200_000, "usage records in the store of BenchmarkFind")

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

func keeper(b *testing.B) *usage.Keeper {
	k, err := usage.NewKeeper(filepath.Join(b.TempDir(), "usage.key"), nil)
	if err != nil {
		b.Fatal(err)
	}
	return k
}

// BenchmarkMake is what finding the person and making the record cost an exchange.
func BenchmarkMake(b *testing.B) {
	k, at := keeper(b), time.Unix(1_800_000_000, 0)
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
	k := keeper(b)
	s, err := usage.Open(usage.Config{Dir: b.TempDir(), Keeper: k})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	began := time.Now()
	n := uint64(*records)
	if err := s.CatchUp(context.Background(), made{n, k, b}); err != nil {
		b.Fatal(err)
	}
	built := time.Since(began)
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
			b.ReportMetric(float64(n)/built.Seconds(), "indexed/s")
		})
	}
}
