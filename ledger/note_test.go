package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	f_note "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

func witnessKey(t testing.TB) *keys.Key {
	t.Helper()
	k, err := keys.Generate(civibus.WitnessKey, civibus.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCosignatureVerifiesIndependently(t *testing.T) {
	second, err := keys.Generate(civibus.WitnessKey, civibus.MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []*keys.Key{witnessKey(t), second} {
		t.Run(string(key.Key().Algorithm), func(t *testing.T) { verifiesIndependently(t, key) })
	}
}

func verifiesIndependently(t *testing.T, key *keys.Key) {
	at := time.Unix(1_800_000_000, 0)
	w, err := ledger.OpenWitness(filepath.Join(t.TempDir(), "witness"), key, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()

	member := civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: "a+b c/d"}
	name := ledger.WitnessName("demo-1", member)
	if want := "civibus/demo-1/witness/GOV/a%2Bb%20c%2Fd"; name != want {
		t.Fatalf("witness name %q, want %q", name, want)
	}
	root := sha256.Sum256([]byte("root"))
	text := ledger.CheckpointText(ledger.RegistryOrigin("demo-1"), 7, root)
	line, err := w.Sign(name, text, 7, root)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := ledger.WitnessVerifierKey(name, key.Key())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := f_note.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		t.Fatalf("vkey %q: %v", vkey, err)
	}
	n, err := note.Open([]byte(text+"\n"+line), note.VerifierList(verifier))
	if err != nil {
		t.Fatalf("note %q: %v", text+"\n"+line, err)
	}
	if len(n.Sigs) != 1 || n.Text != text {
		t.Fatalf("opened %+v", n)
	}
	if got, err := f_note.CoSigV1Timestamp(n.Sigs[0]); err != nil || !got.Equal(at) {
		t.Fatalf("time %v, %v; want %v", got, err, at)
	}
	other := ledger.CheckpointText(ledger.RegistryOrigin("demo-1"), 8, root)
	if _, err := note.Open([]byte(other+"\n"+line), note.VerifierList(verifier)); err == nil {
		t.Fatal("the cosignature verifies another checkpoint")
	}
}

func TestWitnessNeverSignsTwoRootsForOneSize(t *testing.T) {
	key, dir := witnessKey(t), filepath.Join(t.TempDir(), "witness")
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { now = now.Add(time.Minute); return now }
	a, b := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b"))
	var first string
	for range 2 { // the second time after a restart
		w, err := ledger.OpenWitness(dir, key, clock)
		if err != nil {
			t.Fatal(err)
		}
		line, err := w.Sign("w", ledger.CheckpointText("o", 3, a), 3, a)
		if err != nil {
			t.Fatal(err)
		}
		if first != "" && line != first {
			t.Fatal("the same size got another line")
		}
		first = line
		if _, err := w.Sign("w", ledger.CheckpointText("o", 3, b), 3, b); !errors.Is(err, ledger.ErrConflict) {
			t.Fatalf("a second root for the size: %v, want ErrConflict", err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// failingSigner fails after the journal has bound the size.
type failingSigner struct{ civibus.Signer }

func (failingSigner) Sign(context.Context, []byte) ([]byte, error) {
	return nil, errors.New("token removed")
}

func TestWitnessBindsBeforeItSigns(t *testing.T) {
	key, dir := witnessKey(t), filepath.Join(t.TempDir(), "witness")
	a, b := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b"))
	w, err := ledger.OpenWitness(dir, failingSigner{key}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Sign("w", "x\n", 3, a); err == nil || !strings.Contains(err.Error(), "token removed") {
		t.Fatalf("%v, want the signer's error", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = ledger.OpenWitness(dir, key, time.Now); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Sign("w", "x\n", 3, b); !errors.Is(err, ledger.ErrConflict) {
		t.Fatalf("%v, want ErrConflict: the key may have signed the first root", err)
	}
	if _, err := w.Sign("w", "x\n", 3, a); err != nil {
		t.Fatal(err)
	}
}

func TestVerifierKeyRefusesOtherAlgorithms(t *testing.T) {
	k, err := keys.Generate(civibus.SealKey, civibus.ECDSAP256SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.WitnessVerifierKey("w", k.Key()); err == nil {
		t.Fatal("an ECDSA key became a witness")
	}
}

func TestStoreIsAtomicAndOrdered(t *testing.T) {
	st, closeStore, err := ledger.OpenStore(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore()
	put := func(kv ...string) {
		t.Helper()
		var puts []registry.KV
		for i := 0; i < len(kv); i += 2 {
			puts = append(puts, registry.KV{Key: []byte(kv[i]), Value: []byte(kv[i+1])})
		}
		if err := st.Write(puts, nil); err != nil {
			t.Fatal(err)
		}
	}
	put("b/2", "two", "a", "", "b/1", "one", "c", "x")
	if err := st.Write(nil, [][]byte{[]byte("c")}); err != nil {
		t.Fatal(err)
	}
	if v, err := st.Get([]byte("a")); err != nil || v == nil || len(v) != 0 {
		t.Fatalf("empty value: %v, %v; want empty and not nil", v, err)
	}
	if v, err := st.Get([]byte("c")); err != nil || v != nil {
		t.Fatalf("deleted: %v, %v; want nil", v, err)
	}
	var got bytes.Buffer
	if err := st.Iterate([]byte("b/"), func(k, v []byte) error { got.Write(k); got.Write(v); return nil }); err != nil {
		t.Fatal(err)
	}
	if got.String() != "b/1oneb/2two" {
		t.Fatalf("iterated %q", got.String())
	}
}
