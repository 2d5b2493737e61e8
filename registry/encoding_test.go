package registry_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// messageOf returns an empty message for the value of a state key.
func messageOf(key string) proto.Message {
	kind, _, _ := strings.Cut(key, "/")
	return map[string]proto.Message{
		"member": &registrypb.Member{}, "key": &registrypb.Key{}, "subsystem": &registrypb.Subsystem{}, "service": &registrypb.Service{},
		"right": &registrypb.Right{}, "group": &registrypb.Group{}, "groupmember": &registrypb.GroupMember{}, "log": &registrypb.Log{},
		"notary": &registrypb.Notarisation{}, "sequence": &registrypb.Sequence{}, "params": &registrypb.Params{},
		"validator": &registrypb.Validator{}, "nodes": &registrypb.Nodes{}, "votes": &registrypb.Votes{}, "proposal": &registrypb.Proposal{}, "vote": &registrypb.Vote{},
		"delegation": &registrypb.Delegation{}, "hosting": &registrypb.Hosting{}, "upgrade": &registrypb.Upgrade{}, "misbehaviour": &registrypb.Misbehaviour{}, "chain": &registrypb.Chain{},
	}[kind]
}

// fullWorld has every kind of record with every field set somewhere.
func fullWorld(t testing.TB) *world {
	w := newWorld(t)
	furnish(w)
	b := edKey("B/admin")
	s := setService(idB + "/POP/persons/v1")
	s.Endpoints = []*registrypb.Endpoint{{Method: "GET", Path: "/a/*"}, {Method: "*", Path: "**"}}
	s.DescriptionDigest = bytes.Repeat([]byte{9}, 32)
	w.ok(b, s)
	w.ok(b, &registrypb.SetServiceStatus{Id: s.Id, Status: suspended, Notice: "Moved"})
	g := grant(idB+"/POP/persons", idC+"/APP")
	g.Endpoints = s.Endpoints
	g.ValidFrom, g.ValidUntil = 1_000_000_000, 4_000_000_000
	g.RateLimit = &registrypb.RateLimit{Requests: 5, PerSeconds: 60}
	env := w.tx(b, g)
	w.block(env)
	next := groupGrant(idB+"/POP/persons", "global/towns")
	next.Supersedes = rightID(env)
	w.ok(b, next)
	w.ok(edKey("A/admin"), &registrypb.SetGroupMember{Group: "global/towns", Client: idC + "/APP", Member: true})
	w.ok(edKey("A/admin"), &registrypb.SetGroupMember{Group: "global/towns", Client: idC + "/APP"})
	w.ok(b, addKey(edKey("B/transport"), idB, civibus.TransportKey))
	id := edKey("B/seal").public.ID
	w.ok(b, &registrypb.RevokeKey{KeyId: id[:], RevokeHeight: 100, Reason: 3})
	h := addKey(ecKey("B/seal2"), idB, civibus.SealKey)
	h.ActivateHeight = 50
	w.ok(b, h)
	w.ok(edKey("B/log"), &registrypb.Notarise{Digest: bytes.Repeat([]byte{5}, 32)})
	w.ok(edKey("A/log"), &registrypb.AnchorLog{Checkpoint: checkpointNote(edKey("A/log"), "civibus/"+idA+"/evidence/1", 7, [32]byte{1}, "")})
	furnishNetwork(w)
	return w
}

// furnishNetwork has every kind of record of protocol 1: proposals of several
// outcomes, a delegation, a host and one who is asked, an upgrade, misbehaviour.
func furnishNetwork(w *world) {
	w.t.Helper()
	w.ok(edKey("B/admin"), &registrypb.SetNodes{Member: idB, Nodes: []*registrypb.NodeAddress{node("B"), {Id: node("B2").Id, Address: "192.0.2.9:1", Role: registrypb.NodeRole_NODE_ROLE_FOLLOWER}}})
	w.ok(edKey("B/admin"), &registrypb.Delegate{Root: idC, To: idA, Directory: true, Keys: true, Catalogue: true, Rights: true, Until: 4_000_000_000})
	w.ok(edKey("B/admin"), &registrypb.SetHost{Member: idC, Host: idB}) // both sides at once
	w.ok(edKey("C/admin"), &registrypb.SetHost{Member: idC, Host: idA})
	w.ok(edKey("B/admin"), &registrypb.SetChain{KeyId: keyIDBytes("B/log"), Certificates: [][]byte{certificate(edKey("B/log")), certificate(edKey("x"))}})
	w.pass(newcomer("D"))
	w.pass3 = true
	w.pass(&registrypb.PlanUpgrade{Name: "v0.9", Height: 1000})
	w.pass3 = false
	w.ok(edKey("A/admin"), &registrypb.Propose{Change: changeOf(&registrypb.SetVotes{Member: idA, Votes: 7}), Reference: "Minutes 7"})
	w.ok(edKey("B/admin"), vote(w.open("A", &registrypb.RemoveMember{Id: idC}), false))
	w.evidence = []registry.Misbehaviour{{Address: addressOf("D/validator"), Height: 3}}
	w.block()
	w.evidence = nil
}

// TestEncodingIsProtobuf compares the hand-written encoding of state values and
// events with the protobuf library: same fields, and the canonical order.
func TestEncodingIsProtobuf(t *testing.T) {
	w := fullWorld(t)
	kinds := map[string]bool{}
	check := func(what string, b []byte, m proto.Message) {
		t.Helper()
		if err := proto.Unmarshal(b, m); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := registry.Canonical(b, m); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		again, err := registry.EncodeCanonical(m)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: encoded again it is %x, not %x, %v", what, again, b, err)
		}
	}
	w.view().EachValue(func(key string, value []byte) {
		check(key, value, messageOf(key))
		kind, _, _ := strings.Cut(key, "/")
		kinds[kind] = true
	})
	if len(kinds) != 20 {
		t.Errorf("kinds of records seen: %v", kinds)
	}
	for i := range w.view().EventSize() {
		check("event", must(w.view().Event(i)), &registrypb.Event{})
	}
}

// TestVerifyLikeStandardLibrary compares the Ed25519 verification in use with
// crypto/ed25519: on good and damaged signatures, and on the edge cases where
// implementations are known to differ (small-order and non-canonical points,
// large s).
func TestVerifyLikeStandardLibrary(t *testing.T) {
	key := func(b []byte) *civibus.PublicKey {
		return &civibus.PublicKey{Algorithm: civibus.Ed25519, Key: ed25519.PublicKey(b)}
	}
	agree := func(public, message, signature []byte) bool {
		t.Helper()
		want := len(signature) == ed25519.SignatureSize && ed25519.Verify(public, message, signature)
		if got := registry.VerifySignature(key(public), message, signature); got != want {
			t.Errorf("key %x, message %x, signature %x: got %v, the standard library says %v", public, message, signature, got, want)
		}
		if got := registry.VerifyExpanded(key(public), message, signature); got != want {
			t.Errorf("key %x worked out, message %x, signature %x: got %v, the standard library says %v", public, message, signature, got, want)
		}
		return want
	}
	r := rand.New(rand.NewPCG(1, 2))
	good := 0
	for i := range 300 {
		s := edKey(strings.Repeat("x", i))
		message := []byte(strings.Repeat("m", i%70))
		signature := ed25519.Sign(s.ed, message)
		public := bytes.Clone(s.ed.Public().(ed25519.PublicKey))
		if agree(public, message, signature) {
			good++
		}
		for range 8 {
			bad := bytes.Clone(signature)
			bad[r.IntN(64)] ^= 1 << r.IntN(8)
			agree(public, message, bad)
			other := bytes.Clone(public)
			other[r.IntN(32)] ^= 1 << r.IntN(8)
			agree(other, message, signature)
		}
		agree(public, message, signature[:63])
	}
	if good != 300 {
		t.Errorf("%d of 300 good signatures verify", good)
	}
	// Points of small order and their non-canonical encodings, as key and as R,
	// with s of 0, 1, the group order and the order plus one.
	var points [][]byte
	for _, p := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000", "0000000000000000000000000000000000000000000000000000000000000080",
		"0100000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	} {
		points = append(points, must(hex.DecodeString(p)))
	}
	order := must(hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"))
	more := bytes.Clone(order)
	more[0]++
	one := make([]byte, 32)
	one[0] = 1
	accepted := 0
	for _, a := range points {
		for _, p := range points {
			for _, s := range [][]byte{make([]byte, 32), one, order, more} {
				for m := range 8 {
					if agree(a, []byte{byte(m)}, append(bytes.Clone(p), s...)) {
						accepted++
					}
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("no edge case is accepted by either: the test does not reach them")
	}
}

// TestSignatureCacheIsBounded.
func TestSignatureCacheIsBounded(t *testing.T) {
	if n := registry.SignatureCacheSize(100, 10_000); n > 100 || n < 50 {
		t.Errorf("a cache of 100 holds %d", n)
	}
}

// TestECDSASignaturesHaveOneForm: SignTx makes low s, whatever the signer gives.
func TestECDSASignaturesHaveOneForm(t *testing.T) {
	w := newWorld(t)
	k := ecKey("B/admin2")
	w.ok(edKey("B/admin"), addKey(k, idB, civibus.AdminKey))
	for i := range 20 { // half of all signatures have high s
		w.ok(k, &registrypb.SetSubsystem{Id: idB + "/S", Name: strings.Repeat("n", i+1)})
	}
}
