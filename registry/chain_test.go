package registry_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestChain: certificates are bound to a key, replaced and removed.
func TestChain(t *testing.T) {
	w := newWorld(t)
	seal, other := edKey("B/seal"), edKey("authority")
	chain := [][]byte{certificate(seal), certificate(other)}
	set := func(certificates ...[]byte) *registrypb.SetChain {
		return &registrypb.SetChain{KeyId: seal.public.ID[:], Certificates: certificates}
	}
	b := edKey("B/admin")
	w.refused(registry.NoChange, b, set())
	w.refused(registry.BadCertificate, b, set(chain[1], chain[0]))
	w.refused(registry.BadCertificate, b, set(chain[0], []byte("x")))
	w.refused(registry.BadCertificate, b, set(chain[0], nil))
	w.refused(registry.BadCertificate, b, set(slicesOf(chain[0], 9)...))
	w.refused(registry.InvalidField, b, &registrypb.SetChain{KeyId: []byte{1}})
	w.refused(registry.NotFound, b, &registrypb.SetChain{KeyId: keyIDBytes("nobody")})
	w.refused(registry.NotAuthorised, edKey("A/admin"), set(chain...))
	used := w.view().Usage(member("B"))
	w.ok(b, set(chain...))
	w.refused(registry.NoChange, b, set(chain...))
	got, height := w.view().Chain(seal.public.ID)
	if len(got) != 2 || !bytes.Equal(got[0], chain[0]) || height != w.m.Height()-1 || w.view().Usage(member("B")) != used+1 {
		t.Errorf("%d certificates since height %d", len(got), height)
	}
	proveAll(t, w.view(), "chain/"+seal.public.ID.String())
	reopened := must(registry.Open(w.store))
	if got, _ := reopened.View().Chain(seal.public.ID); len(got) != 2 || reopened.View().Usage(member("B")) != used+1 {
		t.Error("the chain is lost when the registry is opened again")
	}
	w.ok(b, set(chain[0]))
	w.ok(b, set())
	if got, _ := w.view().Chain(seal.public.ID); len(got) != 0 {
		t.Errorf("%d certificates", len(got))
	}
	w.ok(b, &registrypb.RevokeKey{KeyId: seal.public.ID[:], Reason: 1})
	w.refused(registry.Ended, b, set(chain...))
}

func slicesOf(b []byte, n int) (out [][]byte) {
	for range n {
		out = append(out, b)
	}
	return out
}

// TestPostQuantumKeys: ML-DSA keys are registered where they are of use, prove
// possession, and never sign transactions.
func TestPostQuantumKeys(t *testing.T) {
	w, first := newWorld(t), newWorldOf(t, firstGenesis())
	b := edKey("B/admin")
	for _, c := range []struct {
		purpose   civibus.Purpose
		algorithm civibus.Algorithm
		want      registry.Code
	}{
		{civibus.SealKey, civibus.MLDSA44, registry.OK}, {civibus.SealKey, civibus.MLDSA65, registry.OK}, {civibus.SealKey, civibus.MLDSA87, registry.OK},
		{civibus.LogKey, civibus.MLDSA44, registry.OK}, {civibus.LogKey, civibus.MLDSA65, registry.InvalidField},
		{civibus.WitnessKey, civibus.MLDSA44, registry.OK}, {civibus.WitnessKey, civibus.MLDSA87, registry.InvalidField},
		{civibus.AdminKey, civibus.MLDSA44, registry.InvalidField}, {civibus.ValidatorKey, civibus.MLDSA65, registry.InvalidField},
	} {
		k := pqKey(c.purpose.String()+string(c.algorithm), c.algorithm)
		m := addKey(k, idB, c.purpose)
		forged := addKey(k, idB, c.purpose)
		forged.Possession[100] ^= 1
		if c.want == registry.OK {
			w.refused(registry.BadPossession, b, forged)
			w.ok(b, m)
		} else {
			w.refused(c.want, b, m)
		}
		first.refused(registry.InvalidField, b, m)
	}
	k, ok := w.view().Key(pqKey("logml-dsa-44", civibus.MLDSA44).public.ID)
	if !ok || k.Algorithm != civibus.MLDSA44 || k.Purpose != civibus.LogKey {
		t.Errorf("key %+v", k)
	}
	w.refused(registry.WrongPurpose, pqKey("logml-dsa-44", civibus.MLDSA44), &registrypb.Notarise{Digest: make([]byte, 32)})
	// Notes are opened with the Ed25519 key, whatever else there is.
	w.ok(edKey("B/log"), anchor(newEvidence(t).grow(3, "a"), 0))
	reopened := must(registry.Open(w.store))
	if !bytes.Equal(dump(t, reopened.View()), dump(t, w.view())) {
		t.Error("opened again it is another registry")
	}
}

// TestPostQuantumValidators: where the genesis wants it, validators may be of
// ML-DSA-65, and are found by the ledger's name for them.
func TestPostQuantumValidators(t *testing.T) {
	g := testGenesis()
	k := pqKey("pq", civibus.MLDSA65)
	add := genesisKey(k, civibus.ValidatorKey)
	g.Members[0].Keys = append(g.Members[0].Keys, add)
	g.Validators = append(g.Validators, registry.GenesisValidator{Member: idA, Key: add.SPKI, Power: 3})
	if err := g.Validate(); err == nil {
		t.Fatal("an ML-DSA validator is accepted though the genesis does not say so")
	}
	g.MLDSAValidators = true
	parsed, err := registry.ParseGenesis(must(g.TOML()))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, parsed)
	if !w.view().Params().MLDSAValidators || len(w.view().Validators()) != 4 {
		t.Errorf("validators %+v", w.view().Validators())
	}
	raw := sha256.Sum256(k.public.Key.(*mldsa.PublicKey).Bytes())
	w.evidence = []registry.Misbehaviour{{Address: [20]byte(raw[:20]), Height: 1}}
	w.block()
	if len(w.view().Validators()) != 3 {
		t.Error("it is not found by its address")
	}
}

// TestSecondSeals: an instance begins with or without second seals, and its
// members change that by vote. The parameter is kept, and is not in the state of
// an instance that never had it.
func TestSecondSeals(t *testing.T) {
	w := newWorld(t)
	plain, _, err := w.view().ProveState("params")
	if err != nil || w.view().SecondSeals() {
		t.Fatalf("required from the start: %v", err)
	}
	for _, step := range []struct {
		change registrypb.SecondSeals
		want   bool
	}{{registrypb.SecondSeals_SECOND_SEALS_REQUIRED, true}, {registrypb.SecondSeals_SECOND_SEALS_OPTIONAL, false}} {
		w.pass(&registrypb.SetParams{SecondSeals: step.change})
		if w.view().SecondSeals() != step.want {
			t.Errorf("after %s: %v", step.change, w.view().SecondSeals())
		}
		if reopened := must(registry.Open(w.store)); reopened.View().SecondSeals() != step.want {
			t.Errorf("after %s and opening again: %v", step.change, !step.want)
		}
	}
	if again, _, err := w.view().ProveState("params"); err != nil || !bytes.Equal(again, plain) {
		t.Errorf("the state is another than before: %v", err)
	}
	g := testGenesis()
	g.SecondSeals = true
	parsed, err := registry.ParseGenesis(must(g.TOML()))
	if err != nil || !newWorldOf(t, parsed).view().SecondSeals() {
		t.Errorf("the genesis does not require them: %v", err)
	}
	first := firstGenesis()
	first.SecondSeals = true
	if err := first.Validate(); err == nil {
		t.Error("a genesis of protocol 0 requires them")
	}
}
