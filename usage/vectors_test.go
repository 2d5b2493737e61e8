package usage_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/usage"
	"github.com/civibus/civibus/usage/usagepb"
)

var update = flag.Bool("update", false, "write the vectors of spec/vectors/usage anew")

const (
	recordVectors = "../spec/vectors/usage/record.json"
	periodVectors = "../spec/vectors/usage/period.json"
)

// recordVector is a usage record and the commitment to it; all bytes are in hex.
type recordVector struct {
	Name       string `json:"name"`
	Key        string `json:"key"`        // of the body
	Identifier string `json:"identifier"` // of the person
	Salt       string `json:"salt"`
	Record     string `json:"record"`
	Commitment string `json:"commitment"`
}

// periodVector is a period: the commitments of its records, their root, and proofs.
type periodVector struct {
	Name        string        `json:"name"`
	Commitments []string      `json:"commitments"`
	Root        string        `json:"root"`
	Proofs      []proofVector `json:"proofs"`
	Invalid     []proofVector `json:"invalid"`
}

type proofVector struct {
	Failure    string   `json:"failure,omitempty"` // of those that must be refused
	Commitment string   `json:"commitment"`
	Index      uint64   `json:"index"`
	Size       uint64   `json:"size"`
	Root       string   `json:"root"`
	Path       []string `json:"path"`
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readVectors(t *testing.T, file string, into any) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func writeVectors(t *testing.T, file string, v any) {
	t.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRecordVectors: commitments and what stands for a person are those of the formulas
// of spec/usage.md section 2, and those of this package.
func TestRecordVectors(t *testing.T) {
	if *update {
		writeVectors(t, recordVectors, madeRecords(t))
	}
	var vectors []recordVector
	readVectors(t, recordVectors, &vectors)
	if len(vectors) < 3 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		salt, record := unhex(t, v.Salt), unhex(t, v.Record)
		want := sha256.Sum256(append(append([]byte("civibus usage v1\n"), salt...), record...))
		if c := usage.Commit([32]byte(salt), record); !bytes.Equal(c[:], unhex(t, v.Commitment)) || c != want {
			t.Errorf("%s: commitment %x, by the formula %x, want %s", v.Name, c, want, v.Commitment)
		}
		var r usagepb.Record
		if err := proto.Unmarshal(record, &r); err != nil || r.Version != 1 {
			t.Fatalf("%s: version %d, %v", v.Name, r.Version, err)
		}
		m := hmac.New(sha256.New, unhex(t, v.Key))
		m.Write([]byte(v.Identifier))
		file := filepath.Join(t.TempDir(), "usage.key")
		if err := os.WriteFile(file, unhex(t, v.Key), 0o600); err != nil {
			t.Fatal(err)
		}
		keeper, err := usage.NewKeeper(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tag := keeper.Tag(v.Identifier); !bytes.Equal(r.Subject, m.Sum(nil)) || !bytes.Equal(r.Subject, tag[:]) {
			t.Errorf("%s: the subject is %x, by the formula %x, by this package %x", v.Name, r.Subject, m.Sum(nil), tag)
		}
	}
}

func madeRecords(t *testing.T) (out []recordVector) {
	t.Helper()
	key := sha256.Sum256([]byte("the key of a test"))
	for i, v := range []struct {
		name, person string
		change       func(*usagepb.Record)
	}{
		{"shown, with a case", "FIC-0001", func(r *usagepb.Record) { r.Disclosure, r.CaseReference = 1, "permit 12/2026" }},
		{"shown later, without a case", "FIC-0002", func(r *usagepb.Record) { r.Disclosure, r.DisclosedFrom = 2, 1_830_297_600 }},
		{"never shown, an identifier and a sentence beyond ASCII", "ФИК-0003", func(r *usagepb.Record) { r.Disclosure, r.Sentence = 3, "Поиск полиции." }},
	} {
		tag := hmac.New(sha256.New, key[:])
		tag.Write([]byte(v.person))
		r := &usagepb.Record{
			Version: 1, ExchangeId: fmt.Sprintf("5b1f2a56-3f0c-4a53-9c0b-0d7a1f6f3a1%d", i), RightId: "0123456789abcdef0123456789abcdef",
			Client: "DEMO/MUN/2001/permits", Service: "DEMO/GOV/1001/population/persons", Purpose: "building-permit", LegalBasis: "https://law.example/building/7",
			Sentence: "The town looked up your address to decide on a building permit.", TimeUnixNano: 1_798_761_600_000_000_001, Subject: tag.Sum(nil),
		}
		v.change(r)
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		salt := sha256.Sum256([]byte(v.name))
		c := usage.Commit(salt, b)
		out = append(out, recordVector{v.name, hex.EncodeToString(key[:]), v.person, hex.EncodeToString(salt[:]), hex.EncodeToString(b), hex.EncodeToString(c[:])})
	}
	return out
}

// TestPeriodVectors: roots are those of another implementation of RFC 6962, each proof
// holds, and those that must be refused are.
func TestPeriodVectors(t *testing.T) {
	if *update {
		var made []periodVector
		for _, n := range []int{0, 1, 2, 5, 8} {
			made = append(made, madePeriod(n))
		}
		writeVectors(t, periodVectors, made)
	}
	var vectors []periodVector
	readVectors(t, periodVectors, &vectors)
	if len(vectors) < 5 {
		t.Fatalf("%d vectors", len(vectors))
	}
	failures := map[string]bool{}
	for _, v := range vectors {
		var leaves []usage.Commitment
		var tree []tlog.Hash
		read := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
			for _, i := range at {
				out = append(out, tree[i])
			}
			return out, nil
		})
		for i, text := range v.Commitments {
			c := usage.Commitment(unhex(t, text))
			leaves = append(leaves, c)
			hashes, err := tlog.StoredHashes(int64(i), c[:], read)
			if err != nil {
				t.Fatal(err)
			}
			tree = append(tree, hashes...)
		}
		want := sha256.Sum256(nil)
		if len(leaves) > 0 {
			h, err := tlog.TreeHash(int64(len(leaves)), read)
			if err != nil {
				t.Fatal(err)
			}
			want = h
		}
		if root := usage.Root(leaves); root != want || hex.EncodeToString(root[:]) != v.Root {
			t.Errorf("%s: root %x, by another implementation %x, want %s", v.Name, root, want, v.Root)
		}
		if len(v.Proofs) != len(leaves) {
			t.Errorf("%s: %d proofs of %d records", v.Name, len(v.Proofs), len(leaves))
		}
		verify := func(p proofVector) bool {
			var path [][32]byte
			for _, h := range p.Path {
				path = append(path, [32]byte(unhex(t, h)))
			}
			return usage.VerifyInclusion(usage.Commitment(unhex(t, p.Commitment)), p.Index, p.Size, [32]byte(unhex(t, p.Root)), path)
		}
		for i, p := range v.Proofs {
			if p.Index != uint64(i) || p.Root != v.Root || p.Size != uint64(len(leaves)) || !verify(p) {
				t.Errorf("%s: the proof of record %d does not hold", v.Name, i)
			}
			path := usage.Inclusion(leaves, i)
			for at, h := range path {
				if len(path) != len(p.Path) || hex.EncodeToString(h[:]) != p.Path[at] {
					t.Errorf("%s: the path of record %d is made in another form", v.Name, i)
				}
			}
		}
		for _, p := range v.Invalid {
			failures[p.Failure] = true
			if verify(p) {
				t.Errorf("%s: %s is taken", v.Name, p.Failure)
			}
		}
	}
	if len(failures) < 5 {
		t.Errorf("ways to fail: %v", failures)
	}
}

func madePeriod(n int) periodVector {
	v := periodVector{Name: fmt.Sprintf("%d records", n), Commitments: []string{}, Proofs: []proofVector{}, Invalid: []proofVector{}}
	var leaves []usage.Commitment
	for i := range n {
		c := usage.Commitment(sha256.Sum256(fmt.Appendf(nil, "commitment %d of %d", i, n)))
		leaves, v.Commitments = append(leaves, c), append(v.Commitments, hex.EncodeToString(c[:]))
	}
	root := usage.Root(leaves)
	v.Root = hex.EncodeToString(root[:])
	for i := range leaves {
		p := proofVector{Commitment: v.Commitments[i], Index: uint64(i), Size: uint64(n), Root: v.Root, Path: []string{}}
		for _, h := range usage.Inclusion(leaves, i) {
			p.Path = append(p.Path, hex.EncodeToString(h[:]))
		}
		v.Proofs = append(v.Proofs, p)
	}
	invalid := func(failure string, at int, change func(*proofVector)) {
		p := v.Proofs[at]
		p.Failure, p.Path = failure, append([]string{}, p.Path...)
		change(&p)
		v.Invalid = append(v.Invalid, p)
	}
	other := sha256.Sum256([]byte("another record"))
	if n > 0 {
		invalid("record_left_out", 0, func(p *proofVector) { p.Commitment = hex.EncodeToString(other[:]) })
		invalid("index_beyond_the_period", n-1, func(p *proofVector) { p.Index = p.Size })
		invalid("root_of_another_period", 0, func(p *proofVector) { p.Root = hex.EncodeToString(other[:]) })
	}
	if n > 2 {
		invalid("another_index", 1, func(p *proofVector) { p.Index = 2 })
		invalid("path_too_short", 1, func(p *proofVector) { p.Path = p.Path[1:] })
		invalid("path_too_long", 1, func(p *proofVector) { p.Path = append(p.Path, hex.EncodeToString(other[:])) })
		invalid("path_altered", 1, func(p *proofVector) { p.Path[0] = hex.EncodeToString(other[:]) })
	}
	return v
}
