package registry_test

import (
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestWhatCheckRemembersChangesNoResult: a machine that checked every envelope
// beforehand, on whatever state it then had, gives the same results and hashes as
// one that sees them for the first time in their block.
func TestWhatCheckRemembersChangesNoResult(t *testing.T) {
	knows, fresh := newWorld(t), newWorld(t)
	block := func(envelopes ...[]byte) (codes []registry.Code) {
		t.Helper()
		for _, e := range envelopes {
			knows.m.Check(e)
			knows.m.Check(e)
		}
		height, at := knows.m.Height()+1, time.Unix(1_800_000_000+int64(knows.m.Height()), 0)
		a := must(knows.m.Execute(height, at, envelopes, nil))
		fresh.m.Forget()
		b := must(fresh.m.Execute(height, at, envelopes, nil))
		if a.AppHash != b.AppHash {
			t.Errorf("height %d: the application hashes differ", height)
		}
		for i := range a.Results {
			if a.Results[i] != b.Results[i] {
				t.Errorf("height %d, transaction %d: %+v with memory, %+v without", height, i, a.Results[i], b.Results[i])
			}
			codes = append(codes, a.Results[i].Code)
		}
		if err := knows.m.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := fresh.m.Commit(); err != nil {
			t.Fatal(err)
		}
		return codes
	}
	want := func(got []registry.Code, codes ...registry.Code) {
		t.Helper()
		for i := range codes {
			if got[i] != codes[i] {
				t.Errorf("transaction %d: %s, want %s", i, got[i], codes[i])
			}
		}
	}
	log, admin := edKey("B/log"), edKey("B/admin")
	sequence := uint64(0)
	sign := func(s *testSigner, body any) []byte {
		sequence++
		return knows.sign(s, &registrypb.Tx{ChainId: knows.view().ChainID(), Sequence: sequence}, body)
	}
	// 1. Logs that grow, and a proof that was good on the state before.
	e := newEvidence(t)
	want(block(sign(log, anchor(e.grow(5, "a"), 0))), registry.OK)
	h9 := e.grow(4, "b")
	late := sign(log, anchor(h9, 5))
	h12 := e.grow(3, "c")
	first := sign(log, anchor(h12, 5))
	want(block(late, first), registry.OK, registry.StaleCheckpoint)
	// 2. A fork that was checked as the next anchor of the state before.
	other := newEvidence(t)
	other.grow(9, "x")
	fork := sign(log, anchor(other.grow(6, "y"), 9))
	good := sign(log, anchor(h12, 9))
	want(block(fork, good), registry.InconsistentCheckpoint, registry.OK)
	// 3. The key is revoked between the check and the block, and in the block.
	next := sign(log, anchor(e.grow(1, "d"), 12))
	knows.m.Check(next)
	revoked := log.public.ID
	want(block(sign(admin, &registrypb.RevokeKey{KeyId: revoked[:], Reason: 1}), next), registry.OK, registry.KeyNotInForce)
	want(block(next), registry.KeyNotInForce)
	// 4. Another log key signs the transaction, the revoked one the checkpoint.
	want(block(sign(admin, addKey(edKey("B/log2"), idB, civibus.LogKey))), registry.OK)
	again := sign(edKey("B/log2"), anchor(e.grow(1, "e"), 12))
	want(block(again), registry.BadCheckpoint)
	// 5. Damaged ones, checked or not.
	bad := sign(edKey("B/log2"), &registrypb.Notarise{Digest: make([]byte, 32)})
	bad[len(bad)-1] ^= 1
	want(block(bad, bad[:len(bad)-1]), registry.BadSignature, registry.BadEncoding)
	// 6. Grants that were good when they came: what they name has ended since, they
	// have expired, their author is suspended, or all is as it was.
	want(block(sign(admin, &registrypb.SetSubsystem{Id: idB + "/register", Name: "Register"}), sign(admin, &registrypb.SetSubsystem{Id: idB + "/portal", Name: "Portal"}),
		sign(admin, &registrypb.SetService{Id: idB + "/register/persons/v1", Type: registrypb.ServiceType(civibus.REST), Title: "Persons"})), registry.OK, registry.OK, registry.OK)
	grant := func(until int64) []byte {
		return sign(admin, &registrypb.GrantRight{Service: idB + "/register/persons/v1", Subject: &registrypb.GrantRight_Client{Client: idB + "/portal"},
			Purpose: "test", LegalBasis: "Act", ValidUntil: until})
	}
	now := int64(1_800_000_000) + int64(knows.m.Height())
	want(block(grant(0), grant(now+1), grant(now)), registry.OK, registry.OK, registry.InvalidField)
	expiring := grant(now + 3)
	knows.m.Check(expiring)
	for range 3 {
		block()
	}
	want(block(expiring), registry.InvalidField)
	status := func(to registrypb.Status) []byte {
		return sign(edKey("A/admin"), &registrypb.SetMemberStatus{Id: idB, Status: to})
	}
	left := grant(0)
	knows.m.Check(left)
	want(block(status(suspended), left), registry.OK, registry.MemberNotActive)
	want(block(status(registrypb.Status(civibus.Active)), grant(0)), registry.OK, registry.OK)
	end, gone := sign(admin, &registrypb.SetSubsystemStatus{Id: idB + "/portal", Status: registrypb.Status(civibus.Ended)}), grant(0)
	if r := knows.m.Check(gone); r.Code != registry.OK {
		t.Fatal(r)
	}
	want(block(end, gone), registry.OK, registry.Ended)
}

// TestExpandedKeysAreBounded.
func TestExpandedKeysAreBounded(t *testing.T) {
	var keys []*civibus.PublicKey
	for i := range 100 {
		k := edKey(string(rune('a' + i))).public
		keys = append(keys, &k)
	}
	if n := registry.ExpandedKeysSize(10, keys); n > 10 || n < 5 {
		t.Errorf("a memory of 10 keys holds %d", n)
	}
}

// TestRememberedEnvelopesAreBounded.
func TestRememberedEnvelopesAreBounded(t *testing.T) {
	if n := registry.PreparedCacheBytes(1000, 100, 64); n > 1000 || n < 400 {
		t.Errorf("a memory of 1000 bytes holds %d", n)
	}
	if n := registry.PreparedCacheBytes(1000, 1, 600); n != 0 {
		t.Errorf("an envelope of more than a generation is kept: %d bytes", n)
	}
}
