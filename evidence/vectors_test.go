package evidence_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
)

var update = flag.Bool("update", false, "write the vectors anew")

const leafVectors = "../spec/vectors/evidence/leaf.json"

type leafVector struct {
	Name     string `json:"name"`
	Salt     string `json:"salt"`
	Record   string `json:"record"`
	Leaf     string `json:"leaf"`
	LeafHash string `json:"leaf_hash"`
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The leaves of spec/vectors are those of this package and of the formula.
func TestLeafVectors(t *testing.T) {
	if *update {
		writeLeafVectors(t)
	}
	raw, err := os.ReadFile(leafVectors)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []leafVector
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		salt, record := unhex(t, v.Salt), unhex(t, v.Record)
		leaf := evidence.Leaf([16]byte(salt), record)
		if !bytes.Equal(leaf, unhex(t, v.Leaf)) {
			t.Errorf("%s: leaf %x, want %s", v.Name, leaf, v.Leaf)
		}
		if hash := sha256.Sum256(append([]byte{0}, leaf...)); !bytes.Equal(hash[:], unhex(t, v.LeafHash)) {
			t.Errorf("%s: leaf hash %x, want %s", v.Name, hash, v.LeafHash)
		}
		if err := proto.Unmarshal(record, new(evidencepb.Record)); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

func writeLeafVectors(t *testing.T) {
	t.Helper()
	refused := &evidencepb.Record{
		Version: 1, Side: evidencepb.Side_SIDE_PROVIDER, ExchangeId: "5b1f2a56-3f0c-4a53-9c0b-0d7a1f6f3a11",
		Client: "DEMO/GOV/1001/SYS", Service: "DEMO/GOV/1002/REG/persons", RegistryHeight: 12,
		Outcome: evidencepb.Outcome_OUTCOME_REFUSED, Fault: "access_denied", StartedUnixNano: 1, FinishedUnixNano: 2,
	}
	var out []leafVector
	for name, r := range map[string]*evidencepb.Record{"answered, both seals": record("0a4c3f7e-6a55-4b43-8b44-6c6c1a3f2d10"), "refused by the provider": refused} {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		salt := sha256.Sum256([]byte(name))
		leaf := evidence.Leaf([16]byte(salt[:16]), b)
		out = append(out, leafVector{name, hex.EncodeToString(salt[:16]), hex.EncodeToString(b), hex.EncodeToString(leaf), hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(leaf))})
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(leafVectors, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
