package registry_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
)

var update = flag.Bool("update", false, "write spec/vectors/registry anew")

const vectorFolder = "../spec/vectors/registry"

// vectors compares made with the file, or writes it with -update, and reads the
// file into read: what is checked afterwards is what others read.
func vectors[T any](t *testing.T, name string, made T) (read T) {
	t.Helper()
	path := filepath.Join(vectorFolder, name)
	want := append(must(json.MarshalIndent(made, "", " ")), '\n')
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s is not what the code makes; if the change is meant, run go test ./registry -update", path)
	}
	if err := json.Unmarshal(got, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

// hexBytes is lower-case hex in JSON; nil is null.
type hexBytes []byte

func (h hexBytes) MarshalJSON() ([]byte, error) {
	if h == nil {
		return []byte("null"), nil
	}
	return json.Marshal(hex.EncodeToString(h))
}

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		*h = nil
		return err
	}
	d, err := hex.DecodeString(*s)
	*h = append(hexBytes{}, d...)
	return err
}

type smtVectors struct {
	About string     `json:"about"`
	Trees []smtTree  `json:"trees"`
	Cases []smtProof `json:"proofs"`
}

type smtTree struct {
	Name    string     `json:"name"`
	Entries []smtEntry `json:"entries"`
	Root    hexBytes   `json:"root"`
}

type smtEntry struct {
	Key   string   `json:"key"`
	Value hexBytes `json:"value"`
}

type smtProof struct {
	Name  string   `json:"name"`
	Tree  string   `json:"tree"`
	Key   string   `json:"key"`
	Value hexBytes `json:"value"` // null: absent
	Proof hexBytes `json:"proof"` // StateProof
	Valid bool     `json:"valid"`
}

func TestVectorsTree(t *testing.T) {
	v := smtVectors{About: "State tree: roots of small trees, and proofs (StateProof of registry.proto, encoded) to be accepted or refused. Bytes are hex; a null value is absence."}
	trees := map[string]*smt.Version{}
	for _, size := range []int{0, 1, 2, 3, 16, 100} {
		name := fmt.Sprintf("%d keys", size)
		tree := must(smt.Open(mapStore{}, smt.Options{Prefix: "t"}))
		st := smtTree{Name: name, Entries: []smtEntry{}}
		var changes []smt.Change
		for i := range size {
			e := smtEntry{fmt.Sprintf("member/TEST/GOV/%d", i), fmt.Appendf([]byte{}, "value %d", i)}
			st.Entries = append(st.Entries, e)
			changes = append(changes, smt.Change{Key: e.Key, Value: e.Value})
		}
		u := must(tree.Prepare(changes))
		s := mapStore{}
		s.write(u.Writes())
		tree = must(smt.Open(s, smt.Options{Prefix: "t"}))
		root := tree.Latest().Root()
		st.Root = root[:]
		v.Trees = append(v.Trees, st)
		trees[name] = tree.Latest()
	}
	for _, name := range []string{"0 keys", "1 keys", "100 keys"} {
		for i := range 4 {
			key := fmt.Sprintf("member/TEST/GOV/%d", i)
			p, _, present, err := trees[name].Prove(key)
			if err != nil {
				t.Fatal(err)
			}
			c := smtProof{Name: "absent", Tree: name, Key: key, Proof: must(registry.EncodeCanonical(p)), Valid: true}
			if present {
				c.Name, c.Value = "present", fmt.Appendf(nil, "value %d", i)
			}
			v.Cases = append(v.Cases, c)
		}
	}
	v.Cases = append(v.Cases, forgedProofs(t, trees["100 keys"])...)
	roots := map[string][32]byte{}
	v = vectors(t, "smt.json", v)
	for _, tree := range v.Trees {
		roots[tree.Name] = [32]byte(tree.Root)
	}
	valid := 0
	for _, c := range v.Cases {
		var p registrypb.StateProof
		err := proto.Unmarshal(c.Proof, &p)
		if err == nil {
			err = smt.Verify(roots[c.Tree], c.Key, c.Value, &p)
		}
		if (err == nil) != c.Valid {
			t.Errorf("%s of %q in %s: valid is %v, got %v", c.Name, c.Key, c.Tree, c.Valid, err)
		}
		if c.Valid {
			valid++
		}
	}
	if valid < 10 || len(v.Cases)-valid < 20 {
		t.Errorf("%d valid and %d invalid cases", valid, len(v.Cases)-valid)
	}
}

// forgedProofs makes one proof per class of failure.
func forgedProofs(t *testing.T, v *smt.Version) (out []smtProof) {
	const missing = "member/TEST/GOV/x1"
	prove := func(key string) *registrypb.StateProof {
		p, _, _, err := v.Prove(key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	there, value := "", hexBytes(nil)
	for i := 0; there == ""; i++ { // one whose bitmap does not fill its bytes
		if key := fmt.Sprintf("member/TEST/GOV/%d", i); prove(key).Depth%8 != 0 {
			there, value = key, fmt.Appendf(nil, "value %d", i)
		}
	}
	forge := func(name, key string, value hexBytes, change func(p *registrypb.StateProof)) {
		p := prove(key)
		change(p)
		out = append(out, smtProof{Name: name, Tree: "100 keys", Key: key, Value: value, Proof: must(proto.MarshalOptions{Deterministic: true}.Marshal(p))})
	}
	none := func(*registrypb.StateProof) {}
	forge("other value", there, hexBytes("value x"), none)
	forge("present claimed absent", there, nil, none)
	forge("absent claimed present", missing, hexBytes("value"), none)
	forge("empty value claimed", missing, hexBytes{}, none)
	forge("sibling bit flipped", there, value, func(p *registrypb.StateProof) { p.Siblings[0][31] ^= 1 })
	forge("siblings swapped", there, value, func(p *registrypb.StateProof) { p.Siblings[0], p.Siblings[1] = p.Siblings[1], p.Siblings[0] })
	forge("sibling missing", there, value, func(p *registrypb.StateProof) { p.Siblings = p.Siblings[1:] })
	forge("sibling too many", there, value, func(p *registrypb.StateProof) { p.Siblings = append(p.Siblings, p.Siblings[0]) })
	forge("sibling short", there, value, func(p *registrypb.StateProof) { p.Siblings[0] = p.Siblings[0][:31] })
	forge("sibling zero", there, value, func(p *registrypb.StateProof) { p.Siblings[0] = make([]byte, 32) })
	forge("depth less", there, value, func(p *registrypb.StateProof) { p.Depth-- })
	forge("depth more", there, value, func(p *registrypb.StateProof) { p.Depth++ })
	forge("depth 257", there, value, func(p *registrypb.StateProof) { p.Depth = 257 })
	forge("bitmap bit flipped", there, value, func(p *registrypb.StateProof) { p.Bitmap[0] ^= 0x80 })
	forge("bitmap bit below terminal", there, value, func(p *registrypb.StateProof) { p.Bitmap[len(p.Bitmap)-1] |= 1 })
	forge("bitmap longer", there, value, func(p *registrypb.StateProof) { p.Bitmap = append(p.Bitmap, 0) })
	forge("bitmap missing", there, value, func(p *registrypb.StateProof) { p.Bitmap = nil })
	forge("everything missing", there, value, func(p *registrypb.StateProof) { proto.Reset(p) })
	forge("last level without sibling", there, value, func(p *registrypb.StateProof) {
		p.Depth++
		p.Bitmap = slices.Concat(p.Bitmap, make([]byte, (int(p.Depth)+7)/8-len(p.Bitmap)))
	})
	forge("other leaf in proof of presence", there, value, func(p *registrypb.StateProof) {
		p.OtherKeyHash, p.OtherValueHash = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	})
	forge("own leaf as other leaf", there, nil, func(p *registrypb.StateProof) {
		k, h := smt.KeyHash(there), smt.ValueHash(value)
		p.OtherKeyHash, p.OtherValueHash = k[:], h[:]
	})
	other := missing
	for i := 1; len(prove(other).OtherKeyHash) == 0; i++ {
		other = fmt.Sprintf("member/TEST/GOV/x%d", i)
	}
	forge("other leaf off the path", other, nil, func(p *registrypb.StateProof) { p.OtherKeyHash[0] ^= 0x80 })
	forge("other leaf short", other, nil, func(p *registrypb.StateProof) { p.OtherKeyHash = p.OtherKeyHash[:31] })
	forge("other leaf's value missing", other, nil, func(p *registrypb.StateProof) { p.OtherValueHash = nil })
	forge("other leaf dropped", other, nil, func(p *registrypb.StateProof) { p.OtherKeyHash, p.OtherValueHash = nil, nil })
	return out
}

type mapStore map[string][]byte

func (s mapStore) Get(key []byte) ([]byte, error) { return s[string(key)], nil }
func (s mapStore) write(puts []smt.Put, _ [][]byte) {
	for _, p := range puts {
		s[string(p.Key)] = p.Value
	}
}

type logVectors struct {
	About       string           `json:"about"`
	Leaves      []hexBytes       `json:"leaves"`
	Roots       []hexBytes       `json:"roots"` // of sizes 0, 1, 2, ...
	Inclusion   []inclusionCase  `json:"inclusion"`
	Consistency []consistentCase `json:"consistency"`
}

type inclusionCase struct {
	Name  string     `json:"name"`
	Index uint64     `json:"index"`
	Size  uint64     `json:"size"`
	Proof []hexBytes `json:"proof"`
	Valid bool       `json:"valid"`
}

type consistentCase struct {
	Name    string     `json:"name"`
	OldSize uint64     `json:"old_size"`
	Size    uint64     `json:"size"`
	Proof   []hexBytes `json:"proof"`
	Valid   bool       `json:"valid"`
}

func hexList(in [][]byte) []hexBytes {
	out := []hexBytes{}
	for _, b := range in {
		out = append(out, b)
	}
	return out
}

func byteList(in []hexBytes) (out [][]byte) {
	for _, b := range in {
		out = append(out, b)
	}
	return out
}

func TestVectorsEventLog(t *testing.T) {
	const n = 21
	v := logVectors{About: "Event log (RFC 6962): leaves, the root of every size, inclusion proofs of leaf index in the log of size, and consistency proofs between sizes."}
	e := newEvidence(t)
	h := e.grow(n, "leaf")
	for i := range uint64(n) {
		v.Leaves = append(v.Leaves, must(h.Event(i)))
	}
	for i := range uint64(n + 1) {
		root := must(h.At(i)).Root()
		v.Roots = append(v.Roots, root[:])
	}
	for _, size := range []uint64{1, 2, 7, 16, 17, n} {
		at := must(h.At(size))
		for index := range size {
			if index < 2 || index == size/2 || index == size-1 {
				v.Inclusion = append(v.Inclusion, inclusionCase{"good", index, size, hexList(must(at.Inclusion(index))), true})
			}
		}
		for old := uint64(1); old <= size; old += 3 {
			v.Consistency = append(v.Consistency, consistentCase{"good", old, size, hexList(must(at.Consistency(old))), true})
		}
	}
	p, c := must(h.Inclusion(5)), must(h.Consistency(6))
	flip := func(p [][]byte) [][]byte {
		p = slices.Clone(p)
		p[1] = bytes.Clone(p[1])
		p[1][0] ^= 1
		return p
	}
	v.Inclusion = append(v.Inclusion,
		inclusionCase{"hash bit flipped", 5, n, hexList(flip(p)), false}, inclusionCase{"other index", 4, n, hexList(p), false},
		inclusionCase{"other size", 5, n - 1, hexList(p), false}, inclusionCase{"hash missing", 5, n, hexList(p[1:]), false},
		inclusionCase{"hash too many", 5, n, hexList(append(slices.Clone(p), p[0])), false}, inclusionCase{"index beyond size", n, n, hexList(p), false})
	v.Consistency = append(v.Consistency,
		consistentCase{"hash bit flipped", 6, n, hexList(flip(c)), false}, consistentCase{"other old size", 5, n, hexList(c), false},
		consistentCase{"hash missing", 6, n, hexList(c[1:]), false}, consistentCase{"hash too many", 6, n, hexList(append(slices.Clone(c), c[0])), false},
		consistentCase{"sizes exchanged", n, 6, hexList(c), false}, consistentCase{"old size zero", 0, n, []hexBytes{}, false})
	v = vectors(t, "eventlog.json", v)
	for _, c := range v.Inclusion {
		leaf := v.Leaves[min(c.Index, n-1)]
		if err := eventlog.VerifyInclusion(leaf, c.Index, c.Size, [32]byte(v.Roots[c.Size]), byteList(c.Proof)); (err == nil) != c.Valid {
			t.Errorf("inclusion, %s, %d in %d: %v", c.Name, c.Index, c.Size, err)
		}
	}
	for _, c := range v.Consistency {
		err := eventlog.VerifyConsistency(c.OldSize, c.Size, [32]byte(v.Roots[c.OldSize]), [32]byte(v.Roots[c.Size]), byteList(c.Proof))
		if (err == nil) != c.Valid {
			t.Errorf("consistency, %s, %d to %d: %v", c.Name, c.OldSize, c.Size, err)
		}
	}
}

type chainVectors struct {
	About   string        `json:"about"`
	Genesis string        `json:"genesis"` // TOML
	Blocks  []chainBlock  `json:"blocks"`
	AppHash []hashFormula `json:"app_hash"`
}

type chainBlock struct {
	Height    uint64       `json:"height"`
	Time      string       `json:"time"`
	Evidence  []provenCase `json:"evidence,omitempty"`
	Envelopes []envCase    `json:"envelopes"`
	Events    []hexBytes   `json:"events"`
	StateRoot hexBytes     `json:"state_root"`
	EventRoot hexBytes     `json:"event_root"`
	EventSize uint64       `json:"event_size"`
	AppHash   hexBytes     `json:"app_hash"`
}

// provenCase is what the ledger proved before the block.
type provenCase struct {
	Address hexBytes `json:"address"`
	Height  uint64   `json:"height"`
}

type envCase struct {
	Name     string   `json:"name"`
	Envelope hexBytes `json:"envelope"`
	TxHash   hexBytes `json:"tx_hash"`
	Code     string   `json:"code"`
}

type hashFormula struct {
	StateRoot hexBytes `json:"state_root"`
	EventRoot hexBytes `json:"event_root"`
	EventSize uint64   `json:"event_size"`
	AppHash   hexBytes `json:"app_hash"`
}

// TestVectorsChain is a whole small life: a genesis, and blocks with good and
// bad envelopes, each with its code, the events, the roots and the hash.
func TestVectorsChain(t *testing.T) {
	c := newChain(t, "Registry: a genesis (height 0) and the blocks after it. Envelopes have the result code that they get in their block; events and roots are those after the block.", firstGenesis())
	w, env := c.w, c.env
	b := edKey("B/admin")
	one := []envCase{
		env("subsystem", b, &registrypb.SetSubsystem{Id: idB + "/POP", Name: "Population register"}),
		env("service", b, setService(idB+"/POP/persons")),
		env("subsystem of child by parent", b, &registrypb.SetSubsystem{Id: idC + "/APP", Name: "Application"}),
		env("grant", b, grant(idB+"/POP/persons", idC+"/APP")),
		env("not authorised", edKey("C/admin"), grant(idB+"/POP/persons", idC+"/APP")),
	}
	c.add(one)
	c.add(nil)
	e := newEvidence(t)
	first, second := anchor(e.grow(3, "a"), 0), anchor(e.grow(4, "b"), 3)
	c.add([]envCase{env("first anchor", edKey("B/log"), first), env("second anchor", edKey("B/log"), second), env("rollback", edKey("B/log"), first),
		env("notarise", edKey("A/log"), &registrypb.Notarise{Digest: bytes.Repeat([]byte{0xab}, 32)})})
	c.add(badEnvelopes(w, one[3].Envelope))
	replayChain(t, vectors(t, "chain.json", c.v))
}

// chain makes the vectors of a small life.
type chain struct {
	t        *testing.T
	v        chainVectors
	w        *world
	evidence []registry.Misbehaviour // of the next block
}

func newChain(t *testing.T, about string, g *registry.Genesis) *chain {
	c := &chain{t: t, w: newWorldOf(t, g), v: chainVectors{About: about, Genesis: string(must(g.TOML()))}}
	block := chainBlock{Time: c.w.now.Format(time.RFC3339Nano), Envelopes: []envCase{}, Events: []hexBytes{}}
	for i := range c.w.view().EventSize() {
		block.Events = append(block.Events, must(c.w.view().Event(i)))
	}
	c.keep(block)
	return c
}

func (c *chain) env(name string, s *testSigner, body any) envCase {
	return envCase{Name: name, Envelope: c.w.tx(s, body)}
}

// add executes a block and keeps what became of it.
func (c *chain) add(cases []envCase) {
	c.t.Helper()
	c.w.now = c.w.now.Add(1500 * time.Millisecond)
	block := chainBlock{Height: c.w.m.Height() + 1, Time: c.w.now.Format(time.RFC3339Nano), Envelopes: cases}
	if cases == nil {
		block.Envelopes = []envCase{}
	}
	for _, e := range c.evidence {
		block.Evidence = append(block.Evidence, provenCase{e.Address[:], e.Height})
	}
	out, err := c.w.m.Execute(block.Height, c.w.now, envelopesOf(cases), c.evidence)
	if err != nil {
		c.t.Fatal(err)
	}
	for i, r := range out.Results {
		cases[i].Code, cases[i].TxHash = r.Code.String(), bytes.Clone(r.TxHash[:])
	}
	block.Events, c.evidence = hexList(out.Events), nil
	if err := c.w.m.Commit(); err != nil {
		c.t.Fatal(err)
	}
	c.keep(block)
}

func (c *chain) keep(block chainBlock) {
	v := c.w.view()
	s, e, a := v.StateRoot(), v.EventRoot(), v.AppHash()
	block.StateRoot, block.EventRoot, block.EventSize, block.AppHash = s[:], e[:], v.EventSize(), a[:]
	c.v.Blocks = append(c.v.Blocks, block)
	c.v.AppHash = append(c.v.AppHash, hashFormula{block.StateRoot, block.EventRoot, block.EventSize, block.AppHash})
}

func envelopesOf(cases []envCase) (out [][]byte) {
	for _, c := range cases {
		out = append(out, c.Envelope)
	}
	return out
}

// badEnvelopes names a failure each; what is wrong is in the envelope itself.
func badEnvelopes(w *world, replayed []byte) []envCase {
	admin := edKey("B/admin")
	body := &registrypb.SetSubsystem{Id: idB + "/X", Name: "X"}
	good := w.tx(admin, body)
	var parts registrypb.Envelope
	if err := proto.Unmarshal(good, &parts); err != nil {
		w.t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	reversed := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), parts.Signature)
	reversed = protowire.AppendBytes(protowire.AppendTag(reversed, 1, protowire.BytesType), parts.Tx)
	unknown := protowire.AppendVarint(protowire.AppendTag(bytes.Clone(parts.Tx), 99, protowire.VarintType), 1)
	noDomain := proto.Clone(&parts).(*registrypb.Envelope)
	noDomain.Signature = must(admin.Sign(w.t.Context(), parts.Tx))
	return []envCase{
		{Name: "replayed", Envelope: replayed}, {Name: "signature bit flipped", Envelope: flipped}, {Name: "cut", Envelope: good[:len(good)-1]},
		{Name: "extended", Envelope: append(bytes.Clone(good), 0)}, {Name: "fields in descending order", Envelope: reversed},
		{Name: "unknown field in transaction", Envelope: signRaw(admin, unknown)}, {Name: "length not in shortest form", Envelope: slices.Concat([]byte{good[0], good[1] | 0x80, 0}, good[2:])},
		{Name: "signature without domain", Envelope: must(registry.EncodeCanonical(noDomain))}, {Name: "empty", Envelope: hexBytes{}},
		{Name: "other chain", Envelope: w.sign(admin, &registrypb.Tx{ChainId: "test-2", Sequence: 100}, body)},
		{Name: "expired", Envelope: w.sign(admin, &registrypb.Tx{ChainId: "test-1", Sequence: 100, ExpiresAtHeight: 3}, body)},
		{Name: "sequence zero", Envelope: w.sign(admin, &registrypb.Tx{ChainId: "test-1"}, body)},
		{Name: "wrong purpose", Envelope: w.sign(edKey("B/seal"), &registrypb.Tx{ChainId: "test-1", Sequence: 1}, body)},
		{Name: "unknown key", Envelope: w.sign(edKey("nobody"), &registrypb.Tx{ChainId: "test-1", Sequence: 1}, body)},
	}
}

// replayChain checks the file alone.
func replayChain(t *testing.T, v chainVectors) {
	m := must(registry.Open(registry.NewMemoryStore()))
	if _, err := m.Init(must(registry.ParseGenesis([]byte(v.Genesis)))); err != nil {
		t.Fatal(err)
	}
	for _, b := range v.Blocks {
		if b.Height > 0 {
			var proven []registry.Misbehaviour
			for _, e := range b.Evidence {
				proven = append(proven, registry.Misbehaviour{Address: [20]byte(e.Address), Height: e.Height})
			}
			out, err := m.Execute(b.Height, must(time.Parse(time.RFC3339Nano, b.Time)), envelopesOf(b.Envelopes), proven)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range out.Results {
				if want := b.Envelopes[i]; r.Code.String() != want.Code || !bytes.Equal(r.TxHash[:], want.TxHash) {
					t.Errorf("height %d, %s: %s, want %s", b.Height, want.Name, r.Code, want.Code)
				}
			}
			if !slices.EqualFunc(out.Events, byteList(b.Events), bytes.Equal) {
				t.Errorf("height %d: other events", b.Height)
			}
			if err := m.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		s, e, a := m.View().StateRoot(), m.View().EventRoot(), m.AppHash()
		if !bytes.Equal(s[:], b.StateRoot) || !bytes.Equal(e[:], b.EventRoot) || m.View().EventSize() != b.EventSize || !bytes.Equal(a[:], b.AppHash) {
			t.Errorf("height %d: other roots", b.Height)
		}
	}
	for _, f := range v.AppHash {
		if got := registry.ComputeAppHash([32]byte(f.StateRoot), [32]byte(f.EventRoot), f.EventSize); !bytes.Equal(got[:], f.AppHash) {
			t.Errorf("application hash %x, want %x", got, f.AppHash)
		}
	}
}
