package proof_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/receipttest"
)

var update = flag.Bool("update", false, "write spec/vectors/receipts anew")

const vectorsDir = "../../spec/vectors/receipts"

// indexEntry is one line of the vectors' index.
type indexEntry struct {
	File    string        `json:"file"`
	Policy  string        `json:"policy"`
	Valid   bool          `json:"valid"`
	Failure proof.Failure `json:"failure,omitempty"`
	// Of valid ones: what has a second signature, and what was found of certificates.
	PostQuantum []string `json:"post_quantum,omitempty"`
	Findings    []string `json:"findings,omitempty"`
	About       string   `json:"about"`
}

const defaultPolicy = "policy.txt"

// TestVectors checks that the generator gives the files in spec/vectors, byte
// for byte, and that the verifier says of each what the index says.
func TestVectors(t *testing.T) {
	plain := receipttest.New().Build().Policy
	var index []indexEntry
	files := map[string][]byte{defaultPolicy: plain}
	for _, v := range receipttest.Vectors() {
		built := v.Build()
		e := indexEntry{File: v.Name + proof.FileExtension, Policy: defaultPolicy, Valid: v.Failure == "", Failure: v.Failure, About: v.About}
		if !bytes.Equal(built.Policy, plain) {
			e.Policy = v.Name + ".policy.txt"
			files[e.Policy] = built.Policy
		}
		if files[e.File] != nil {
			t.Fatalf("two vectors are called %s", v.Name)
		}
		files[e.File] = built.Receipt
		if r, err := proof.Verify(built.Receipt, built.Policy); err == nil {
			e.PostQuantum, e.Findings = r.Summary.PostQuantum, findings(r.Summary)
		}
		index = append(index, e)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(index); err != nil {
		t.Fatal(err)
	}
	files["index.json"] = b.Bytes()
	if *update {
		writeVectors(t, files)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(vectorsDir, name))
		if err != nil {
			t.Fatalf("%v (go test ./evidence/proof -run Vectors -update writes the vectors)", err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator makes", name)
		}
	}
	onDisk, err := filepath.Glob(filepath.Join(vectorsDir, "*"))
	if err != nil || len(onDisk) != len(files)+1 { // and README.md
		t.Errorf("%d files in %s, want %d and a README.md (%v)", len(onDisk), vectorsDir, len(files), err)
	}
	for _, e := range index {
		t.Run(e.File, func(t *testing.T) { checkVector(t, e, files[e.File], files[e.Policy]) })
	}
}

// findings are what was found of certificates, one a line.
func findings(s *proof.Summary) (out []string) {
	for _, c := range s.Certificates {
		for _, f := range c.Findings {
			out = append(out, c.Seal+" "+f.Statement+": "+f.Outcome)
		}
	}
	return out
}

func checkVector(t *testing.T, e indexEntry, receipt, policy []byte) {
	r, err := proof.Verify(receipt, policy)
	if r.Valid != e.Valid || r.Failure != e.Failure {
		t.Fatalf("valid %v, failure %q (%v), want valid %v, failure %q", r.Valid, r.Failure, err, e.Valid, e.Failure)
	}
	if (err == nil) != e.Valid || (r.Summary != nil) != e.Valid {
		t.Errorf("error %v and summary %v do not go with valid %v", err, r.Summary, e.Valid)
	}
	last := r.Steps[len(r.Steps)-1]
	if last.OK != e.Valid || last.Meaning == "" || last.Detail == "" {
		t.Errorf("last step %+v", last)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || text.Len() == 0 {
		t.Errorf("report: %v", err)
	}
}

func writeVectors(t *testing.T, files map[string][]byte) {
	t.Helper()
	if err := os.MkdirAll(vectorsDir, 0o755); err != nil {
		t.Fatal(err)
	}
	old, err := filepath.Glob(filepath.Join(vectorsDir, "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		if filepath.Base(f) == "README.md" {
			continue
		}
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(vectorsDir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
