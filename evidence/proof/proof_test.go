package proof_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/receipttest"
)

func TestTooLarge(t *testing.T) {
	b := receipttest.New().Build()
	r, err := proof.Verify(append(b.Receipt, bytes.Repeat([]byte(" "), proof.MaxReceiptBytes)...), b.Policy)
	if r.Failure != proof.ReceiptTooLarge || err == nil {
		t.Errorf("failure %q, error %v", r.Failure, err)
	}
	r, err = proof.Verify(b.Receipt, append(b.Policy, bytes.Repeat([]byte("\n"), proof.MaxPolicyBytes)...))
	if r.Failure != proof.PolicyMalformed || err == nil {
		t.Errorf("failure %q, error %v", r.Failure, err)
	}
	var e *proof.Error
	if !errors.As(err, &e) || e.Step != "policy" || !strings.Contains(e.Error(), "policy_malformed") {
		t.Errorf("error %v", err)
	}
}

// TestReportText compares the report for auditors with golden files.
func TestReportText(t *testing.T) {
	for _, name := range []string{"both_sides", "refusal_unsealed_request", "failure_without_answer", "right_not_in_force-ended"} {
		var vector receipttest.Vector
		for _, v := range receipttest.Vectors() {
			if v.Name == name {
				vector = v
			}
		}
		b := vector.Build()
		r, _ := proof.Verify(b.Receipt, b.Policy)
		var text bytes.Buffer
		if err := r.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".txt"
		if flag.Lookup("update").Value.String() == "true" {
			if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || text.String() != string(want) {
			t.Errorf("%s (%v):\n%s", file, err, text.String())
		}
	}
}

func TestReportJSON(t *testing.T) {
	b := receipttest.New().Build()
	r, err := proof.Verify(b.Receipt, b.Policy)
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back proof.Report
	if err := json.Unmarshal(out, &back); err != nil || !back.Valid || back.Summary.LegalBasis != r.Summary.LegalBasis || len(back.Steps) != len(r.Steps) {
		t.Errorf("%s (%v)", out, err)
	}
	if r.Summary.Client != receipttest.Client || r.Summary.Requested.Unix() != receipttest.Created || len(r.Summary.Registry.Witnesses) != 3 {
		t.Errorf("summary %+v", r.Summary)
	}
}

// TestSteps holds the order of the steps, which the specification fixes.
func TestSteps(t *testing.T) {
	s := receipttest.New()
	s.Sides = append(s.Sides, s.ProviderSide())
	b := s.Build()
	r, err := proof.Verify(b.Receipt, b.Policy)
	if err != nil {
		t.Fatal(err)
	}
	entry := " record inclusion anchor evidence_checkpoint members request_seal response_seal right"
	want := "receipt policy registry_checkpoint registry_block registry_facts" + entry + entry + " both_sides"
	var got []string
	for _, s := range r.Steps {
		got = append(got, s.Name)
		if !s.OK || s.Meaning == "" || s.Detail == "" {
			t.Errorf("step %+v", s)
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("steps %v", got)
	}
}

// TestInclusionAgainstTlog compares the inclusion check with golang.org/x/mod's
// through receipts' own proofs: a proof is accepted for its leaf and index and
// for nothing else.
func TestInclusionAgainstTlog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint64Range(1, 300).Draw(t, "size")
		index := rapid.Uint64Range(0, size-1).Draw(t, "index")
		claimedIndex := rapid.Uint64Range(0, size).Draw(t, "claimed index")
		claimedSize := rapid.Uint64Range(1, 310).Draw(t, "claimed size")
		var log tlogMemory
		for i := range size {
			log.add([]byte{byte(i), byte(i >> 8)})
		}
		p, err := tlog.ProveRecord(int64(size), int64(index), &log)
		if err != nil {
			t.Fatal(err)
		}
		root, err := tlog.TreeHash(int64(size), &log)
		if err != nil {
			t.Fatal(err)
		}
		leaf := tlog.RecordHash([]byte{byte(index), byte(index >> 8)})
		for _, c := range [][2]uint64{{index, size}, {claimedIndex, size}, {index, claimedSize}, {claimedIndex, claimedSize}} {
			if c[0] >= c[1] {
				continue
			}
			want := tlog.CheckRecord(p, int64(c[1]), root, int64(c[0]), leaf) == nil
			if got := proof.Included(leaf, c[0], p, c[1], root); got != want {
				t.Fatalf("index %d size %d: %v, x/mod says %v", c[0], c[1], got, want)
			}
		}
	})
}

type tlogMemory struct {
	hashes []tlog.Hash
	size   int64
}

func (l *tlogMemory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *tlogMemory) add(data []byte) {
	h, err := tlog.StoredHashes(l.size, data, l)
	if err != nil {
		panic(err)
	}
	l.hashes = append(l.hashes, h...)
	l.size++
}

// TestNoteAgainstModule has golang.org/x/mod read an evidence checkpoint of a
// receipt and verify its signature.
func TestNoteAgainstModule(t *testing.T) {
	r, err := proof.Parse(receipttest.New().Build().Receipt)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(r.Entries[0].Proof, "\n\n")
	origin, _, _ := strings.Cut(text, "\n")
	vkey, err := note.NewEd25519VerifierKey(origin, receipttest.NewKey("1001/log").Raw())
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open([]byte(text), note.VerifierList(v)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("note %+v: %v", n, err)
	}
}

// TestOddKeys holds the one point in which crypto/ed25519 is more lenient than
// the specification: other spellings of a public key.
func TestOddKeys(t *testing.T) {
	identity := make([]byte, 32)
	identity[0] = 1
	other := bytes.Clone(identity)
	other[31] = 0x80 // x = 0 with the sign bit
	large := bytes.Repeat([]byte{0xff}, 32)
	large[0], large[31] = 0xee, 0x7f // y = 2^255-18, which is 1
	message := []byte("any")
	// S = 0 and R = the identity is a signature of a key of small order.
	signature := append(bytes.Clone(identity), make([]byte, 32)...)
	for name, c := range map[string]struct {
		key  []byte
		want bool
	}{"canonical": {identity, true}, "sign bit": {other, false}, "not reduced": {large, false}} {
		if got := proof.VerifyEd25519(c.key, message, signature); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestAssemble makes a receipt from parts as a node does and verifies it.
func TestAssemble(t *testing.T) {
	s := receipttest.New()
	s.Sides = append(s.Sides, s.ProviderSide())
	b := s.Build()
	want, err := proof.Parse(b.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	halves := make([]*proof.Receipt, 2)
	for i := range halves {
		e := want.Entries[i]
		facts, err := proof.CollectFacts(state{s, b}, [][]byte{e.Record}, [][]byte{[]byte(e.Proof)})
		if err != nil {
			t.Fatal(err)
		}
		blockIndex, block := hashes(t, want.Registry.BlockProof)
		anchorIndex, anchor := hashes(t, e.AnchorProof)
		if halves[i], err = proof.Assemble(proof.Parts{
			Exchange: want.Exchange, Checkpoint: []byte(b.Note), BlockEvent: want.Registry.BlockEvent, BlockProof: block, Facts: facts,
			Entries: []proof.EntryParts{{Record: e.Record, Salt: e.Salt, Proof: []byte(e.Proof), AnchorEvent: e.AnchorEvent, AnchorIndex: anchorIndex, AnchorProof: anchor}},
		}); err != nil {
			t.Fatal(err)
		}
		if blockIndex != 10 {
			t.Errorf("the block is leaf %d", blockIndex)
		}
		check(t, halves[i], b.Policy)
	}
	both, err := proof.Combine(halves[0], halves[1])
	if err != nil {
		t.Fatal(err)
	}
	check(t, both, b.Policy)
	if _, err := proof.Combine(both, halves[1]); err == nil {
		t.Error("a receipt with two entries was combined with a third")
	}
	if ok, err := mustPolicy(t, b.Policy).Reached([]byte(b.Note)); !ok || err != nil {
		t.Errorf("quorum %v, %v", ok, err)
	}
}

func check(t *testing.T, r *proof.Receipt, policy []byte) {
	t.Helper()
	file, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proof.Verify(file, policy); err != nil {
		t.Error(err)
	}
}

func mustPolicy(t *testing.T, b []byte) *proof.Policy {
	t.Helper()
	p, err := proof.ParsePolicy(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// state serves a scenario's registry state as a registry view does.
type state struct {
	s *receipttest.Scenario
	b *receipttest.Built
}

func (s state) ProveState(key string) (value, proof []byte, err error) {
	return s.b.State[key], s.b.Prove(key), nil
}

func (s state) KeysOf(m civibus.MemberID, p civibus.Purpose) []civibus.RegisteredKey {
	var out []civibus.RegisteredKey
	for _, name := range []string{"1001/seal", "1001/log", "2002/seal", "2002/log", "3003/log"} {
		k := s.s.Key(name)
		if k.Member == m.String() && int(k.Purpose) == int(p) {
			out = append(out, civibus.RegisteredKey{PublicKey: receipttest.NewKey(name).PublicKey, Member: m, Purpose: p})
		}
	}
	return out
}

// hashes reads the index and the hashes of a tlog-proof.
func hashes(t *testing.T, text string) (index uint64, out [][]byte) {
	t.Helper()
	head, _, _ := strings.Cut(text, "\n\n")
	for i, line := range strings.Split(head, "\n") {
		switch i {
		case 0:
		case 1:
			for _, c := range strings.TrimPrefix(line, "index ") {
				index = index*10 + uint64(c-'0')
			}
		default:
			h, err := base64.StdEncoding.DecodeString(line)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, h)
		}
	}
	return index, out
}
