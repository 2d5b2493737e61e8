package proof

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
)

// The prefixes of the fact keys that a receipt needs.
const (
	memberPrefix      = "member/"
	keyPrefix         = "key/"
	rightPrefix       = "right/"
	groupMemberPrefix = "groupmember/"
)

// The two forms of a public key, up to the key material.
var (
	spkiEd25519 = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}
	spkiP256    = []byte{0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
		0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04}
)

// facts is what the registry says, proven.
type facts struct {
	absent  map[string]bool
	members map[string]*registrypb.Member
	keys    map[string]*keyFact
	rights  map[string]*registrypb.Right
	groups  map[string]*registrypb.GroupMember
	order   []*keyFact // keys in the order of the file
	second  bool       // of a receipt of version 2, where keys may be ML-DSA
}

// keyFact is a registered key.
type keyFact struct {
	civibus.PublicKey
	record *registrypb.Key
}

// proveFacts checks every fact against the state root.
func proveFacts(root [32]byte, list []Fact, second bool) (*facts, *Error) {
	out := &facts{
		second: second,
		absent: make(map[string]bool), members: make(map[string]*registrypb.Member), keys: make(map[string]*keyFact),
		rights: make(map[string]*registrypb.Right), groups: make(map[string]*registrypb.GroupMember),
	}
	seen := make(map[string]bool, len(list))
	for _, f := range list {
		if seen[f.Key] {
			return nil, fail(FactDuplicate, "%s is there twice", clip(f.Key))
		}
		seen[f.Key] = true
	}
	for _, f := range list {
		var p registrypb.StateProof
		if err := decode(f.Proof, &p); err != nil {
			return nil, fail(FactProofMalformed, "%s: %v", clip(f.Key), err)
		}
		err := smt.Verify(root, f.Key, f.Value, &p)
		if errors.Is(err, smt.ErrMismatch) {
			return nil, fail(FactNotProven, "%s does not lead to the state root", clip(f.Key))
		}
		if err != nil {
			return nil, fail(FactProofMalformed, "%s: %v", clip(f.Key), err)
		}
		if f.Value == nil {
			out.absent[f.Key] = true
			continue
		}
		if err := out.add(f.Key, f.Value); err != nil {
			return nil, fail(FactMalformed, "%s: %v", clip(f.Key), err)
		}
	}
	return out, nil
}

var errOtherName = errors.New("the record names something else than its key does")

// add decodes a fact's value and checks that it names itself.
func (f *facts) add(key string, value []byte) error {
	if id, ok := strings.CutPrefix(key, memberPrefix); ok {
		m := new(registrypb.Member)
		if err := decode(value, m); err != nil {
			return err
		}
		f.members[key] = m
		return sameName(m.Id == id)
	}
	if id, ok := strings.CutPrefix(key, keyPrefix); ok {
		k, err := readKey(value, f.second)
		if err != nil {
			return err
		}
		f.keys[key] = k
		f.order = append(f.order, k)
		return sameName(hex.EncodeToString(k.record.Id) == id)
	}
	if id, ok := strings.CutPrefix(key, rightPrefix); ok {
		r := new(registrypb.Right)
		if err := decode(value, r); err != nil {
			return err
		}
		f.rights[key] = r
		return sameName(r.Id == id)
	}
	if id, ok := strings.CutPrefix(key, groupMemberPrefix); ok {
		g := new(registrypb.GroupMember)
		if err := decode(value, g); err != nil {
			return err
		}
		f.groups[key] = g
		return sameName(g.Group+"|"+g.Client == id)
	}
	return nil
}

func sameName(ok bool) error {
	if !ok {
		return errOtherName
	}
	return nil
}

func readKey(value []byte, second bool) (*keyFact, error) {
	k := &keyFact{record: new(registrypb.Key)}
	if err := decode(value, k.record); err != nil {
		return nil, err
	}
	spki := k.record.Spki
	want := registrypb.Algorithm_ALGORITHM_ED25519
	switch {
	case len(spki) == len(spkiEd25519)+32 && bytes.HasPrefix(spki, spkiEd25519):
	case len(spki) == len(spkiP256)+64 && bytes.HasPrefix(spki, spkiP256):
		want = registrypb.Algorithm_ALGORITHM_ECDSA_P256_SHA256
	default:
		return k, k.readSecond(second)
	}
	public, err := civibus.ParsePublicKey(spki)
	if err != nil {
		return nil, err
	}
	if k.PublicKey = public; !bytes.Equal(k.record.Id, public.ID[:]) || k.record.Algorithm != want {
		return nil, errOtherName
	}
	return k, nil
}

// readSecond reads an ML-DSA key, which receipts of version 2 may hold.
func (k *keyFact) readSecond(allowed bool) error {
	if !allowed {
		return errors.New("the key is neither of the two forms")
	}
	public, err := mldsa.ParsePublicKey(k.record.Spki)
	if err != nil {
		return errors.New("the key is of no known form")
	}
	want := map[civibus.Algorithm]registrypb.Algorithm{
		civibus.MLDSA44: registrypb.Algorithm_ALGORITHM_ML_DSA_44, civibus.MLDSA65: registrypb.Algorithm_ALGORITHM_ML_DSA_65,
		civibus.MLDSA87: registrypb.Algorithm_ALGORITHM_ML_DSA_87,
	}[public.Algorithm]
	if k.PublicKey = public; !bytes.Equal(k.record.Id, public.ID[:]) || k.record.Algorithm != want {
		return errOtherName
	}
	return nil
}

// VerifySecond reports whether a second signature of a seal is the key's over
// message. Keys for it are ML-DSA-44 and ML-DSA-65.
func (k *keyFact) VerifySecond(message, signature []byte) bool {
	return (k.Algorithm == civibus.MLDSA44 || k.Algorithm == civibus.MLDSA65) && k.PublicKey.Verify(message, signature)
}

// Verify reports whether a first signature is the key's over message. ML-DSA keys
// make none.
func (k *keyFact) Verify(message, signature []byte) bool {
	switch public := k.Key.(type) {
	case ed25519.PublicKey:
		return verifyEd25519(public, message, signature)
	case *ecdsa.PublicKey:
		return k.PublicKey.Verify(message, signature)
	}
	return false
}

// inForce reports whether the key may be used at height.
func (k *keyFact) inForce(height uint64) bool {
	return k.record.ActivateHeight <= height && (k.record.RevokeHeight == 0 || height < k.record.RevokeHeight)
}

// inForce reports whether some period covers height.
func inForce(periods []*registrypb.Period, height uint64) bool {
	for _, p := range periods {
		if p.FromHeight <= height && (p.ToHeight == 0 || height < p.ToHeight) {
			return true
		}
	}
	return false
}

// missing names why a needed fact is not there.
func (f *facts) missing(key string) *Error {
	if f.absent[key] {
		return fail(FactAbsent, "the registry has no %s", clip(key))
	}
	return fail(FactMissing, "the receipt lacks the fact %s", clip(key))
}

func (f *facts) member(id civibus.MemberID) (*registrypb.Member, *Error) {
	key := memberPrefix + id.String()
	if m := f.members[key]; m != nil {
		return m, nil
	}
	return nil, f.missing(key)
}

func (f *facts) key(id []byte) (*keyFact, *Error) {
	key := keyPrefix + hex.EncodeToString(id)
	if k := f.keys[key]; k != nil {
		return k, nil
	}
	return nil, f.missing(key)
}

func (f *facts) right(id string) (*registrypb.Right, *Error) {
	key := rightPrefix + id
	if r := f.rights[key]; r != nil {
		return r, nil
	}
	return nil, f.missing(key)
}

func (f *facts) groupMember(group, client string) (*registrypb.GroupMember, *Error) {
	key := groupMemberPrefix + group + "|" + client
	if g := f.groups[key]; g != nil {
		return g, nil
	}
	return nil, f.missing(key)
}

// describe a period list for a report.
func describe(periods []*registrypb.Period) string {
	var b strings.Builder
	for i, p := range periods {
		if i > 0 {
			b.WriteString(", ")
		}
		if p.ToHeight == 0 {
			fmt.Fprintf(&b, "from %d on", p.FromHeight)
		} else {
			fmt.Fprintf(&b, "%d to %d", p.FromHeight, p.ToHeight-1)
		}
	}
	if b.Len() == 0 {
		return "never"
	}
	return b.String()
}
