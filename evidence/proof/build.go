package proof

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/registry/registrypb"
)

// Parts is what a receipt is assembled from.
type Parts struct {
	Exchange   string
	Checkpoint []byte   // registry checkpoint with the witnesses' signature lines
	BlockEvent []byte   // the checkpoint's last leaf
	BlockProof [][]byte // inclusion of that leaf in Checkpoint
	Facts      []Fact   // see CollectFacts
	Entries    []EntryParts
	Chains     []Chain // of the seals' keys, as far as they are known
}

// EntryParts is one body's evidence and its anchor.
type EntryParts struct {
	Record      []byte
	Salt        []byte
	Proof       []byte // tlog-proof text in the anchored evidence checkpoint
	AnchorEvent []byte
	AnchorIndex uint64   // of the event in the registry's event log
	AnchorProof [][]byte // inclusion of the event in Checkpoint
}

// Assemble makes a receipt. It checks the form of what it is given and not what
// it proves; Verify does that.
func Assemble(p Parts) (*Receipt, error) {
	c, err := parseCheckpoint(string(p.Checkpoint))
	if err != nil {
		return nil, fmt.Errorf("assemble receipt: registry checkpoint: %w", err)
	}
	if c.size == 0 {
		return nil, errors.New("assemble receipt: the registry checkpoint is of an empty log")
	}
	if n := len(p.Entries); n != 1 && n != 2 {
		return nil, fmt.Errorf("assemble receipt: %d entries, the rule is one or two", n)
	}
	r := &Receipt{Exchange: p.Exchange, Registry: RegistryPart{
		BlockEvent: p.BlockEvent, BlockProof: TLogProof(c.size-1, p.BlockProof, p.Checkpoint), Facts: p.Facts,
	}}
	for _, e := range p.Entries {
		if _, err := parseProof(string(e.Proof)); err != nil {
			return nil, fmt.Errorf("assemble receipt: evidence proof: %w", err)
		}
		r.Entries = append(r.Entries, Entry{
			Record: e.Record, Salt: e.Salt, Proof: string(e.Proof),
			AnchorEvent: e.AnchorEvent, AnchorProof: TLogProof(e.AnchorIndex, e.AnchorProof, p.Checkpoint),
		})
	}
	second, chains, err2 := needsSecond(p)
	if err2 != nil {
		return nil, fmt.Errorf("assemble receipt: %w", err2)
	}
	r.Second, r.Chains = second, chains
	return r, nil
}

// needsSecond says whether a receipt of these parts is of version 2, and which of
// the chains its records name.
func needsSecond(p Parts) (second bool, chains []Chain, err error) {
	named := make(map[string]bool)
	for _, e := range p.Entries {
		r := new(evidencepb.Record)
		if err := decode(e.Record, r); err != nil {
			return false, nil, fmt.Errorf("record: %w", err)
		}
		second = second || r.Version > 1
		for _, s := range []*evidencepb.Seal{r.Request, r.Response} {
			named[string(s.GetChain())] = true
		}
	}
	for _, f := range p.Facts {
		if strings.HasPrefix(f.Key, keyPrefix) && f.Value != nil {
			k := new(registrypb.Key)
			second = second || decode(f.Value, k) == nil && k.Algorithm >= registrypb.Algorithm_ALGORITHM_ML_DSA_44
		}
	}
	for _, c := range p.Chains {
		if digest := c.Digest(); named[string(digest[:])] {
			delete(named, string(digest[:])) // one that both sides name is held once
			chains = append(chains, c)
		}
	}
	return second, chains, nil
}

// Combine adds the counterparty's evidence to a receipt of the same exchange:
// both must have been assembled with the same registry checkpoint. Facts that
// both have are kept once.
func Combine(own, counterpart *Receipt) (*Receipt, error) {
	if own.Exchange != counterpart.Exchange {
		return nil, fmt.Errorf("combine receipts: exchanges %q and %q differ", own.Exchange, counterpart.Exchange)
	}
	if len(own.Entries) != 1 || len(counterpart.Entries) != 1 {
		return nil, errors.New("combine receipts: each must have one entry")
	}
	if own.Registry.BlockProof != counterpart.Registry.BlockProof {
		return nil, errors.New("combine receipts: they rest on different registry checkpoints")
	}
	out := *own
	out.Registry.Facts = append([]Fact(nil), own.Registry.Facts...)
	have := make(map[string]bool)
	for _, f := range own.Registry.Facts {
		have[f.Key] = true
	}
	for _, f := range counterpart.Registry.Facts {
		if !have[f.Key] {
			out.Registry.Facts = append(out.Registry.Facts, f)
		}
	}
	out.Entries = []Entry{own.Entries[0], counterpart.Entries[0]}
	out.Second, out.Chains = own.Second || counterpart.Second, append([]Chain(nil), own.Chains...)
	for _, c := range counterpart.Chains {
		if !slices.ContainsFunc(out.Chains, func(o Chain) bool { return o.Digest() == c.Digest() }) {
			out.Chains = append(out.Chains, c)
		}
	}
	return &out, nil
}

// TLogProof writes a C2SP tlog-proof: hashes from the leaf up, then the
// checkpoint verbatim.
func TLogProof(index uint64, hashes [][]byte, checkpoint []byte) string {
	var b strings.Builder
	b.WriteString(proofHeader + "index " + strconv.FormatUint(index, 10) + "\n")
	for _, h := range hashes {
		b.WriteString(encodeBase64(h) + "\n")
	}
	b.WriteString("\n")
	b.Write(checkpoint)
	return b.String()
}

// State is where facts come from; *registry.View is one.
type State interface {
	// ProveState returns a state record, nil when there is none, and its
	// StateProof.
	ProveState(key string) (value []byte, proof []byte, err error)
	// KeysOf returns all keys of a member for a purpose, whether in force or not.
	KeysOf(civibus.MemberID, civibus.Purpose) []civibus.RegisteredKey
}

// CollectFacts proves every fact that a receipt with these records and their
// evidence proofs (tlog-proof texts, in the same order) needs: the members, the
// keys of the seals, the log keys that signed the checkpoints, the rights and
// the group memberships that they rest on.
func CollectFacts(state State, records, proofs [][]byte) ([]Fact, error) {
	c := collector{state: state, have: make(map[string]bool)}
	if len(records) != len(proofs) {
		return nil, fmt.Errorf("collect facts: %d records and %d proofs, the rule is one each", len(records), len(proofs))
	}
	for i := range records {
		if err := c.record(records[i], proofs[i]); err != nil {
			return nil, fmt.Errorf("collect facts: %w", err)
		}
	}
	return c.facts, nil
}

type collector struct {
	state State
	have  map[string]bool
	facts []Fact
}

// add proves one fact, once.
func (c *collector) add(key string) (value []byte, err error) {
	if c.have[key] {
		return nil, nil
	}
	value, proof, err := c.state.ProveState(key)
	if err != nil {
		return nil, fmt.Errorf("prove %s: %w", key, err)
	}
	c.have[key] = true
	c.facts = append(c.facts, Fact{Key: key, Value: value, Proof: proof})
	return value, nil
}

func (c *collector) record(record, proof []byte) error {
	r := new(evidencepb.Record)
	if err := decode(record, r); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	client, err := civibus.ParseClientID(r.Client)
	if err != nil {
		return err
	}
	service, err := civibus.ParseServiceID(r.Service)
	if err != nil {
		return err
	}
	keys := []string{memberPrefix + client.MemberID.String(), memberPrefix + service.MemberID.String()}
	for _, s := range []*evidencepb.Seal{r.Request, r.Response} {
		if s != nil {
			keys = append(keys, keyPrefix+hex.EncodeToString(s.KeyId))
			if s.Second != nil {
				keys = append(keys, keyPrefix+hex.EncodeToString(s.Second.KeyId))
			}
		}
	}
	for _, key := range keys {
		if _, err := c.add(key); err != nil {
			return err
		}
	}
	owner := service.MemberID
	if r.Side == evidencepb.Side_SIDE_CONSUMER {
		owner = client.MemberID
	}
	if err := c.logKeys(owner, proof); err != nil {
		return err
	}
	return c.right(r)
}

// logKeys adds the owner's log keys that signed the checkpoint.
func (c *collector) logKeys(owner civibus.MemberID, proof []byte) error {
	p, perr := parseProof(string(proof))
	if perr != nil {
		return perr
	}
	note, perr := parseCheckpoint(p.checkpoint)
	if perr != nil {
		return perr
	}
	found := false
	for _, k := range c.state.KeysOf(owner, civibus.LogKey) {
		kind := byte(typeEd25519)
		switch k.Algorithm {
		case civibus.Ed25519:
		case civibus.MLDSA44:
			kind = typeMLDSA44
		default:
			continue
		}
		n := newNoteKey(note.origin, kind, rawKey(&keyFact{PublicKey: k.PublicKey}))
		for _, l := range note.lines {
			if !n.owns(l) {
				continue
			}
			found = found || kind == typeEd25519
			if _, err := c.add(keyPrefix + k.ID.String()); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("no log key of %s signed the checkpoint of %s", owner, note.origin)
	}
	return nil
}

func (c *collector) right(r *evidencepb.Record) error {
	if r.RightId == "" {
		return nil
	}
	value, err := c.add(rightPrefix + r.RightId)
	if err != nil || value == nil {
		return err
	}
	right := new(registrypb.Right)
	if err := decode(value, right); err != nil {
		return fmt.Errorf("right %s: %w", r.RightId, err)
	}
	if group := right.GetTerms().GetGroup(); group != "" {
		_, err = c.add(groupMemberPrefix + group + "|" + r.Client)
	}
	return err
}
