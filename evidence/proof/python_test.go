package proof_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/receipttest"
	"github.com/civibus/civibus/registry/registrypb"
)

const secondVerifier = "../../test/receipt-py"

// python runs a script of the second verifier.
func python(t *testing.T, script string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the second verifier was not run")
	}
	dir, err := filepath.Abs(secondVerifier)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"-B", filepath.Join(dir, script)}, args...)...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s: %s", script, out)
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
}

func TestSecondVerifierSignatures(t *testing.T) { python(t, "test_crypto.py") }

func TestSecondVerifierVectors(t *testing.T) { python(t, "run_vectors.py", vectorsDir) }

// TestSecondVerifierMutations has both verifiers judge receipts that were
// broken at random: bytes of a finished receipt, and what is sealed, recorded
// and registered before it is signed. They must give the same verdict and the
// same name.
func TestSecondVerifierMutations(t *testing.T) {
	count := 300
	if testing.Short() {
		count = 60
	}
	dir := t.TempDir()
	var index []indexEntry
	verdicts := make(map[proof.Failure]int)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range count {
		receipt, policy := mutate(t, random, i)
		r, _ := proof.Verify(receipt, policy)
		e := indexEntry{File: fmt.Sprintf("%d.json", i), Policy: fmt.Sprintf("%d.txt", i), Valid: r.Valid, Failure: r.Failure}
		if r.Valid {
			e.PostQuantum, e.Findings = r.Summary.PostQuantum, findings(r.Summary)
		}
		verdicts[r.Failure]++
		for name, content := range map[string][]byte{e.File: receipt, e.Policy: policy} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		index = append(index, e)
	}
	content, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("verdicts: %v", verdicts)
	if len(verdicts) < 20 {
		t.Errorf("only %d kinds of verdict: the mutations do not reach the checks", len(verdicts))
	}
	python(t, "run_vectors.py", dir)
}

// mutate returns a receipt that is broken in some way, or by luck is not.
func mutate(t *testing.T, random *rand.Rand, i int) (receipt, policy []byte) {
	t.Helper()
	s := receipttest.New()
	valid := slices.DeleteFunc(receipttest.Vectors(), func(v receipttest.Vector) bool { return v.Failure != "" })
	if change := valid[random.IntN(len(valid))].Change; change != nil {
		change(s)
	}
	switch i % 6 {
	case 0:
		s.EditRequest = lineMutation(random, s.EditRequest)
	case 1:
		s.EditResponse = lineMutation(random, s.EditResponse)
	case 2:
		s.Sides[0].EditRecord = recordMutation(random)
	case 3:
		stateMutation(random, s)
	}
	b := s.Build()
	switch i % 6 {
	case 4: // a part, below
	case 5:
		return byteMutation(random, b.Receipt), b.Policy
	default:
		return b.Receipt, b.Policy
	}
	r, err := proof.Parse(b.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	e := &r.Entries[0]
	fields := []*[]byte{&e.Record, &e.Salt, &e.AnchorEvent, &r.Registry.BlockEvent, &r.Registry.Facts[0].Proof, &r.Registry.Facts[1].Value}
	texts := []*string{&e.Proof, &e.AnchorProof, &r.Registry.BlockProof}
	if n := random.IntN(len(fields) + len(texts) + 1); n < len(fields) {
		*fields[n] = byteMutation(random, *fields[n])
	} else if n -= len(fields); n < len(texts) {
		*texts[n] = string(byteMutation(random, []byte(*texts[n])))
	} else {
		return b.Receipt, byteMutation(random, b.Policy)
	}
	out, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return out, b.Policy
}

// byteMutation changes, removes, doubles or inserts one byte.
func byteMutation(random *rand.Rand, b []byte) []byte {
	i := random.IntN(len(b))
	switch random.IntN(4) {
	case 0:
		b = slices.Clone(b)
		b[i] ^= 1 << random.IntN(8)
		return b
	case 1:
		return slices.Delete(slices.Clone(b), i, i+1)
	case 2:
		return slices.Insert(slices.Clone(b), i, b[i])
	}
	return slices.Insert(slices.Clone(b), i, byte(random.IntN(128)))
}

// textMutation is byteMutation of what must stay UTF-8.
func textMutation(random *rand.Rand, s string) string {
	return strings.ToValidUTF8(string(byteMutation(random, []byte(s))), "\u00e4")
}

// lineMutation changes a signature base before it is signed.
func lineMutation(random *rand.Rand, before func([]receipttest.Line) []receipttest.Line) func([]receipttest.Line) []receipttest.Line {
	return func(lines []receipttest.Line) []receipttest.Line {
		if before != nil {
			lines = before(lines)
		}
		i := random.IntN(len(lines))
		switch random.IntN(6) {
		case 0:
			return slices.Delete(lines, i, i+1)
		case 1:
			return slices.Insert(lines, i, lines[random.IntN(len(lines))])
		case 2:
			lines[i].Value = string(byteMutation(random, []byte(lines[i].Value+"x")))
		case 3:
			lines[i].ID = string(byteMutation(random, []byte(lines[i].ID)))
		case 4:
			lines[i].ID += []string{";req", ";tr", ";sf", `;key="civibus"`, `;key="a b"`, ";bs;req"}[random.IntN(6)]
		case 5:
			j := random.IntN(len(lines))
			lines[i].Value, lines[j].Value = lines[j].Value, lines[i].Value
		}
		return lines
	}
}

// recordMutation changes a record before it is committed to.
func recordMutation(random *rand.Rand) func(*evidencepb.Record) {
	return func(r *evidencepb.Record) {
		changes := []func(){
			func() { r.Version = uint32(random.IntN(3)) },
			func() { r.Side = evidencepb.Side(random.IntN(4)) },
			func() { r.ExchangeId = "" },
			func() { r.MessageId += "x" },
			func() { r.Client = textMutation(random, r.Client) },
			func() { r.Service = textMutation(random, r.Service) },
			func() { r.RightId = "" },
			func() { r.RightId = textMutation(random, receipttest.RightID) },
			func() { r.RegistryHeight = uint64(random.IntN(50)) },
			func() { r.Outcome = evidencepb.Outcome(random.IntN(5)) },
			func() { r.Fault = []string{"", "access_denied", "Access"}[random.IntN(3)] },
			func() { r.Status = uint32(random.IntN(700)) },
			func() { r.Request = nil },
			func() { r.Response, r.Status = nil, 0 },
			func() { r.RequestBody = nil },
			func() { r.RequestBody = &evidencepb.Body{Size: 1} },
			func() { r.ResponseBody = &evidencepb.Body{Sha256: []byte("short")} },
			func() { r.Request = &evidencepb.Seal{KeyId: r.PeerKeyId} },
		}
		for range 1 + random.IntN(2) {
			changes[random.IntN(len(changes))]()
		}
	}
}

// stateMutation changes what the registry holds before the block is made.
func stateMutation(random *rand.Rand, s *receipttest.Scenario) {
	height := func() uint64 { return uint64(38 + random.IntN(8)) }
	terms := s.Terms()
	changes := []func(){
		func() { s.Key(s.RequestKey).Purpose = registrypb.Purpose(random.IntN(7)) },
		func() { s.Key(s.RequestKey).ActivateHeight = height() },
		func() { s.Key(s.ResponseKey).RevokeHeight = height() },
		func() { s.Key(s.ResponseKey).Algorithm = registrypb.Algorithm(random.IntN(4)) },
		func() { s.Key("1001/log").Spki = byteMutation(random, s.Key("1001/log").Spki) },
		func() { s.Key("2002/log").Member = receipttest.Consumer },
		func() {
			s.Member(receipttest.Consumer).Periods = []*registrypb.Period{{FromHeight: height(), ToHeight: height()}}
		},
		func() { s.Member(receipttest.Provider).Periods = nil },
		func() { terms.Service = textMutation(random, terms.Service) },
		func() {
			terms.ValidFrom, terms.ValidUntil = receipttest.Created-1, receipttest.Created+int64(random.IntN(2))
		},
		func() { terms.ValidFrom = -int64(random.IntN(2000)) },
		func() { terms.Purpose = "OTHER" },
		func() { terms.Endpoints = []*registrypb.Endpoint{{Method: "GET", Path: pattern(random)}} },
		func() {
			s.Path += pattern(random)
			terms.Endpoints = []*registrypb.Endpoint{{Method: "*", Path: pattern(random) + "**"}}
		},
		func() { terms.Subject = &registrypb.GrantRight_Group{Group: receipttest.Group} },
		func() { delete(s.State, "right/"+receipttest.RightID) },
		func() { delete(s.State, "member/DEMO/GOV/3003") },
		func() { s.Signers = s.Signers[random.IntN(len(s.Signers)):] },
		func() { s.Sides[0].Anchor = height() },
		func() { s.Sides[0].LogKey = []string{"3003/log", "1001/seal", "1001/log"}[random.IntN(3)] },
	}
	changes[random.IntN(len(changes))]()
}

// pattern makes a path pattern or, as well, the end of a path.
func pattern(random *rand.Rand) string {
	out := ""
	for range 1 + random.IntN(6) {
		out += []string{"/", "*", "**", `\*`, "v1", "persons", "..", ".", "%2e", "%2F", "%25", "a", "p-000417", "/v1/persons/"}[random.IntN(14)]
	}
	return out
}
