// Package registry measures the registry: policy-like lookups, blocks, the
// state tree and its proofs. Run with
//
//	go test -run '^$' -bench . ./bench/registry
//
// Trust: it is not part of the product; an attacker who controls it can at most
// mislead those who read its figures.
package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
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

// instance is a registry with one member that has many keys, so that blocks
// touch as many sequences as real ones do.
type instance struct {
	m         *registry.Machine
	admin     *signer
	logs      []*signer
	sequences map[civibus.KeyID]uint64
	now       time.Time
}

func newInstance(b *testing.B, logKeys int) *instance {
	b.Helper()
	in := &instance{admin: newSigner(b, "admin"), sequences: map[civibus.KeyID]uint64{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	encode := func(s *signer) string { return base64.StdEncoding.EncodeToString(s.public.SPKI) }
	validator := newSigner(b, "validator")
	member := registry.GenesisMember{ID: "T/GOV/A", Name: "A", Keys: []registry.GenesisKey{
		{Purpose: "admin", SPKI: encode(in.admin)}, {Purpose: "validator", SPKI: encode(validator)},
	}}
	for i := range logKeys {
		s := newSigner(b, fmt.Sprint("log", i))
		in.logs = append(in.logs, s)
		member.Keys = append(member.Keys, registry.GenesisKey{Purpose: "log", SPKI: encode(s)})
	}
	g := &registry.Genesis{
		Format: registry.GenesisFormat, Instance: "T", ChainID: "bench", Time: in.now, Registrars: []string{"T/GOV/A"},
		Members: []registry.GenesisMember{member}, Validators: []registry.GenesisValidator{{Member: "T/GOV/A", Key: encode(validator), Power: 1}},
	}
	var err error
	if in.m, err = registry.Open(registry.NewMemoryStore()); err != nil {
		b.Fatal(err)
	}
	if _, err := in.m.Init(g); err != nil {
		b.Fatal(err)
	}
	return in
}

func (in *instance) sign(b *testing.B, s *signer, tx *registrypb.Tx) []byte {
	b.Helper()
	in.sequences[s.public.ID]++
	tx.ChainId, tx.Sequence = "bench", in.sequences[s.public.ID]
	e, err := registry.SignTx(context.Background(), s, tx)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func (in *instance) block(b *testing.B, envelopes [][]byte) {
	b.Helper()
	in.now = in.now.Add(time.Second)
	out, err := in.m.Execute(in.m.Height()+1, in.now, envelopes, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range out.Results {
		if r.Code != registry.OK {
			b.Fatal(r.Code, r.Reason)
		}
	}
	if err := in.m.Commit(); err != nil {
		b.Fatal(err)
	}
}

// withRights registers n rights, of a hundred services and n/100 clients.
func withRights(b *testing.B, n int) *instance {
	b.Helper()
	in := newInstance(b, 1)
	var batch [][]byte
	flush := func() { in.block(b, batch); batch = nil }
	add := func(tx *registrypb.Tx) {
		if batch = append(batch, in.sign(b, in.admin, tx)); len(batch) == 2000 {
			flush()
		}
	}
	subsystem := func(id string) {
		add(&registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: "S"}}})
	}
	subsystem("T/GOV/A/POP")
	for i := range n / 100 {
		subsystem(fmt.Sprint("T/GOV/A/C", i))
	}
	for i := range 100 {
		add(&registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: fmt.Sprint("T/GOV/A/POP/s", i), Type: 1}}})
	}
	for i := range n {
		add(&registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{
			Service: fmt.Sprint("T/GOV/A/POP/s", i%100), Subject: &registrypb.GrantRight_Client{Client: fmt.Sprint("T/GOV/A/C", i/100)},
			Purpose: "p", LegalBasis: "law",
		}}})
	}
	flush()
	return in
}

// BenchmarkLookup asks what a policy asks about one call.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("rights=%d", n), func(b *testing.B) {
			v := withRights(b, n).m.View()
			r := rand.New(rand.NewPCG(1, 2))
			member := civibus.MemberID{Instance: "T", Class: "GOV", Code: "A"}
			clients := make([]civibus.ClientID, n/100)
			for i := range clients {
				clients[i] = civibus.ClientID{MemberID: member, Subsystem: fmt.Sprint("C", i)}
			}
			b.ReportAllocs()
			for b.Loop() {
				client := clients[r.IntN(len(clients))]
				service := civibus.ServiceID{ClientID: civibus.ClientID{MemberID: member, Subsystem: "POP"}, Service: "s7"}
				_, ok1 := v.Member(client.MemberID)
				_, ok2 := v.Subsystem(client)
				_, ok3 := v.Service(service)
				found := 0
				for range v.RightsFor(service, client) {
					found++
				}
				if !ok1 || !ok2 || !ok3 || found != 1 {
					b.Fatal(ok1, ok2, ok3, found)
				}
			}
		})
	}
}

// BenchmarkExecute runs blocks of a thousand notarisations by a hundred keys.
// "cold" verifies signatures in the block, "checked" has had Check see them.
// ns/op is per transaction.
func BenchmarkExecute(b *testing.B) {
	for _, mode := range []string{"checked", "cold"} {
		b.Run(mode, func(b *testing.B) {
			in := newInstance(b, 100)
			const size = 1000
			count := uint64(0)
			for done := 0; done < b.N; done += size {
				b.StopTimer()
				batch := make([][]byte, 0, size)
				for i := range size {
					digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, count))
					count++
					e := in.sign(b, in.logs[i%len(in.logs)], &registrypb.Tx{Body: &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: digest[:]}}})
					if batch = append(batch, e); mode == "checked" {
						if r := in.m.Check(e); r.Code != registry.OK {
							b.Fatal(r.Reason)
						}
					}
				}
				b.StartTimer()
				in.block(b, batch)
			}
		})
	}
}

// BenchmarkGrant is what a grant costs when it comes ("check") and in a block of a
// thousand that were checked ("block"). ns/op is per grant.
func BenchmarkGrant(b *testing.B) {
	for _, mode := range []string{"check", "block"} {
		b.Run(mode, func(b *testing.B) {
			in := withRights(b, 10_000)
			const size = 1000
			b.ReportAllocs()
			for done := 0; done < b.N; done += size {
				b.StopTimer()
				batch := make([][]byte, 0, size)
				for i := range size {
					batch = append(batch, in.sign(b, in.admin, &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{
						Service: fmt.Sprint("T/GOV/A/POP/s", i%100), Subject: &registrypb.GrantRight_Client{Client: fmt.Sprint("T/GOV/A/C", i%100)},
						Endpoints: []*registrypb.Endpoint{{Method: "GET", Path: "/persons/*"}},
						Purpose:   "child-benefit", LegalBasis: "Social Benefits Act, section 12(3)", ValidUntil: 4102444800,
					}}}))
				}
				if mode == "check" {
					b.StartTimer()
				}
				for _, e := range batch {
					if r := in.m.Check(e); r.Code != registry.OK {
						b.Fatal(r.Reason)
					}
				}
				b.StopTimer()
				if mode == "block" {
					b.StartTimer()
				}
				in.block(b, batch)
				b.StopTimer()
			}
		})
	}
}

// BenchmarkCheck is what a transaction costs before it is proposed, and beside
// it the bare signature check.
func BenchmarkCheck(b *testing.B) {
	in := newInstance(b, 1)
	e := in.sign(b, in.logs[0], &registrypb.Tx{Body: &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: make([]byte, 32)}}})
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			if r := in.m.Check(e); r.Code != registry.OK {
				b.Fatal(r.Reason)
			}
		}
	})
	message := bytes.Repeat([]byte{1}, len(e))
	signature := ed25519.Sign(in.admin.private, message)
	b.Run("ed25519", func(b *testing.B) {
		for b.Loop() {
			if !ed25519.Verify(in.admin.private.Public().(ed25519.PublicKey), message, signature) {
				b.Fatal("refused")
			}
		}
	})
}

type mapStore map[string][]byte

func (s mapStore) Get(key []byte) ([]byte, error) { return s[string(key)], nil }

func fill(b *testing.B, tree *smt.Tree, s mapStore, from, n int) {
	b.Helper()
	changes := make([]smt.Change, n)
	for i := range changes {
		changes[i] = smt.Change{Key: fmt.Sprint("key/", from+i), Value: binary.BigEndian.AppendUint64(nil, rand.Uint64())}
	}
	u, err := tree.Prepare(changes)
	if err != nil {
		b.Fatal(err)
	}
	puts, deletes := u.Writes()
	for _, p := range puts {
		s[string(p.Key)] = p.Value
	}
	for _, d := range deletes {
		delete(s, string(d))
	}
	tree.Accept(u)
}

// BenchmarkTree writes batches of a thousand keys, half of them new, into a
// tree of 100,000. ns/op is per key.
func BenchmarkTree(b *testing.B) {
	s := mapStore{}
	tree, err := smt.Open(s, smt.Options{Prefix: "t", Keep: 64})
	if err != nil {
		b.Fatal(err)
	}
	const start = 100_000
	fill(b, tree, s, 0, start)
	b.Run("write", func(b *testing.B) {
		next := start
		for done := 0; done < b.N; done += 1000 {
			fill(b, tree, s, rand.IntN(next-500), 500)
			fill(b, tree, s, next, 500)
			next += 500
		}
	})
	version := tree.Latest()
	b.Run("prove", func(b *testing.B) {
		for b.Loop() {
			if _, _, ok, err := version.Prove(fmt.Sprint("key/", rand.IntN(start))); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	proof, _, _, err := version.Prove("no such key")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if err := smt.Verify(version.Root(), "no such key", nil, proof); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(proto.Size(proof)), "proof-bytes")
	})
}
