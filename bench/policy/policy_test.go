// Package policy measures the decision on one call: from registry views of
// growing size, allowed and refused, and the parts of it. Run with
//
//	go test -run '^$' -bench . ./bench/policy
package policy

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

type signer struct {
	private ed25519.PrivateKey
	public  civibus.PublicKey
}

func (s *signer) Key() civibus.PublicKey { return s.public }

func (s *signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.private, message), nil
}

func newSigner(b *testing.B, name string) *signer {
	b.Helper()
	seed := sha256.Sum256([]byte(name))
	s := &signer{private: ed25519.NewKeyFromSeed(seed[:])}
	var err error
	if s.public, err = civibus.NewPublicKey(s.private.Public()); err != nil {
		b.Fatal(err)
	}
	return s
}

var (
	start   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	body    = civibus.MemberID{Instance: "T", Class: "GOV", Code: "A"}
	service = civibus.ServiceID{ClientID: civibus.ClientID{MemberID: body, Subsystem: "POP"}, Service: "s7"}
)

func client(i int) civibus.ClientID {
	return civibus.ClientID{MemberID: body, Subsystem: fmt.Sprint("C", i)}
}

// view makes a registry with n clients that each have rights to ten of a
// hundred services: a right for the whole service, or one with ten endpoints.
func view(b *testing.B, n int) *registry.View {
	b.Helper()
	admin, validator := newSigner(b, "admin"), newSigner(b, "validator")
	encode := func(s *signer) string { return base64.StdEncoding.EncodeToString(s.public.SPKI) }
	m, err := registry.Open(registry.NewMemoryStore())
	if err != nil {
		b.Fatal(err)
	}
	_, err = m.Init(&registry.Genesis{
		Format: registry.GenesisFormat, Instance: "T", ChainID: "bench", Time: start, Registrars: []string{"T/GOV/A"},
		Members: []registry.GenesisMember{{ID: "T/GOV/A", Name: "A", Keys: []registry.GenesisKey{
			{Purpose: "admin", SPKI: encode(admin)}, {Purpose: "validator", SPKI: encode(validator)},
		}}},
		Validators: []registry.GenesisValidator{{Member: "T/GOV/A", Key: encode(validator), Power: 1}},
	})
	if err != nil {
		b.Fatal(err)
	}
	var batch [][]byte
	sequence := uint64(0)
	now := start
	flush := func() {
		now = now.Add(time.Second)
		block, err := m.Execute(m.Height()+1, now, batch, nil)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range block.Results {
			if r.Code != registry.OK {
				b.Fatal(r.Code, r.Reason)
			}
		}
		if err := m.Commit(); err != nil {
			b.Fatal(err)
		}
		batch = nil
	}
	add := func(tx *registrypb.Tx) {
		sequence++
		tx.ChainId, tx.Sequence = "bench", sequence
		e, err := registry.SignTx(context.Background(), admin, tx)
		if err != nil {
			b.Fatal(err)
		}
		if batch = append(batch, e); len(batch) == 2000 {
			flush()
		}
	}
	subsystem := func(id string) {
		add(&registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: "S"}}})
	}
	subsystem("T/GOV/A/POP")
	for i := range 100 {
		add(&registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: fmt.Sprint("T/GOV/A/POP/s", i), Type: 1}}})
	}
	var endpoints []*registrypb.Endpoint
	for i := range 10 {
		endpoints = append(endpoints, &registrypb.Endpoint{Method: "GET", Path: fmt.Sprintf("/v%d/*/children/**", i)})
	}
	for i := range n {
		subsystem(client(i).String())
		for j := range 10 {
			right := &registrypb.GrantRight{Service: fmt.Sprint("T/GOV/A/POP/s", (i+j)%100),
				Subject: &registrypb.GrantRight_Client{Client: client(i).String()}, Purpose: "p", LegalBasis: "law"}
			if i%2 == 1 {
				right.Endpoints = endpoints
			}
			add(&registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: right}})
		}
	}
	flush()
	return m.View()
}

// BenchmarkDecide asks about one call in registries of growing size. Besides
// the mean it reports the median of single decisions.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		v := view(b, n)
		at := n - n%100 // the last hundred: clients at+... reach service s7
		if at == n {
			at = max(0, n-100)
		}
		whole, some := -1, -1
		for i := at; i < n; i++ {
			for range v.RightsFor(service, client(i)) {
				if i%2 == 0 {
					whole = i
				} else {
					some = i
				}
			}
		}
		for _, c := range []struct {
			name   string
			client int
			path   string
			want   bool
		}{
			{"whole-service", whole, "/v9/1234/children/5", true},
			{"last-of-ten-endpoints", some, "/v9/1234/children/5", true},
			{"encoded-path", some, "/v9/%C3%B6%C3%A4/children/./5", true},
			{"refused", some, "/admin", false},
		} {
			q := civibus.Question{Client: client(c.client), Service: service, Method: "GET", Path: c.path}
			b.Run(fmt.Sprintf("rights=%d/%s", 10*n, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if d := policy.Decide(v, q, start.Add(time.Hour)); d.Allowed() != c.want {
						b.Fatal(d.Code, d.Message)
					}
				}
				times := make([]time.Duration, 10_001)
				for i := range times {
					begin := time.Now()
					policy.Decide(v, q, start)
					times[i] = time.Since(begin)
				}
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "median-ns")
			})
		}
	}
}

// BenchmarkMatchPath is the matcher alone.
func BenchmarkMatchPath(b *testing.B) {
	long := "/" + strings.Repeat("segment/", 200)
	for _, c := range [][2]string{{"/p/*/children/**", "/p/1234/children/5/6"}, {"/**/x*y/z", long}} {
		b.Run(c[0], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policy.MatchPath(c[0], c[1])
			}
		})
	}
}

// BenchmarkLimiter takes a token.
func BenchmarkLimiter(b *testing.B) {
	l := policy.NewLimiter(1 << 16)
	limit := civibus.RateLimit{Requests: 1 << 30, Per: time.Second}
	b.ReportAllocs()
	for b.Loop() {
		l.Allow("0123456789abcdef0123456789abcdef", limit, start)
	}
}
