package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

// SecondLabel is the label and tag of a seal's second, post-quantum signature
// (spec/seal.md section 8). It covers what the seal covers, and the seal.
const SecondLabel = "civibus-pq"

// Second is a seal's second signature. Its base follows from the seal's.
type Second struct {
	Signature []byte
	KeyID     civibus.KeyID
}

// WithSecond returns a signer of seals with second signatures. The second key is
// ML-DSA-44 or ML-DSA-65.
func WithSecond(first, second civibus.Signer) civibus.Signer { return &pair{first, second} }

type pair struct {
	civibus.Signer
	second civibus.Signer
}

// secondAlgorithm reports whether keys of an algorithm make second signatures.
func secondAlgorithm(a civibus.Algorithm) bool { return a == civibus.MLDSA44 || a == civibus.MLDSA65 }

// secondParts are the components that second signatures cover last: the first
// signature, by its label, in the fields or in the trailers. Nothing changes them.
var secondParts = map[string][2]httpsig.Component{
	Label:     {component("signature", httpsig.Key(Label)), component("signature", httpsig.TR(), httpsig.Key(Label))},
	HeadLabel: {component("signature", httpsig.Key(HeadLabel))},
}

// secondPart is the component of a seal with a label.
func secondPart(label string, trailer bool) httpsig.Component {
	if trailer {
		return secondParts[label][1]
	}
	return secondParts[label][0]
}

// secondBase derives the base of a second signature from the seal: its lines, the
// seal as a line, and the second signature's own parameters, as they stand in
// Signature-Input.
func secondBase(base, signature []byte, part httpsig.Component, params string) []byte {
	lines := base[:bytes.LastIndexByte(base, '\n')+1]
	out := make([]byte, 0, len(base)+len(params)+len(signature)*2)
	out = append(append(out, lines...), part.String()...)
	out = append(out, ": :"...)
	out = base64.StdEncoding.AppendEncode(out, signature)
	return append(append(out, ":\n\"@signature-params\": "...), params...)
}

// sign makes the second signature of a seal that was just made over list, and the
// members of the two fields that carry it.
func (p *pair) sign(ctx context.Context, s *sealed, stamp *stamp, list []httpsig.Component, trailer bool) error {
	key := p.second.Key()
	if !secondAlgorithm(key.Algorithm) {
		return fmt.Errorf("second signature with key %s: algorithm %s, the rule is %s or %s", key.ID, key.Algorithm, civibus.MLDSA44, civibus.MLDSA65)
	}
	params := httpsig.Params{
		Present: httpsig.HasCreated | httpsig.HasKeyID | httpsig.HasAlg | httpsig.HasTag,
		Created: stamp.created.Unix(), KeyID: key.ID.String(), Alg: string(key.Algorithm), Tag: SecondLabel,
	}
	if stamp.nonce != "" {
		params.Present |= httpsig.HasNonce
		params.Nonce = stamp.nonce
	}
	part := secondPart(stamp.label, trailer)
	field, err := httpsig.FormatInput(SecondLabel, append(slices.Clip(list), part), params)
	if err != nil {
		return err
	}
	if len(s.input())+len(field) > MaxInput {
		return fmt.Errorf("its Signature-Input would have %d bytes with the second signature, the rule is at most %d", len(s.input())+len(field), MaxInput)
	}
	signature, err := p.second.Sign(ctx, secondBase(s.seal.Base, s.seal.Signature, part, field[len(SecondLabel)+1:]))
	if err != nil {
		return fmt.Errorf("sign with key %s: %w", key.ID, err)
	}
	s.second = &[2]string{field, httpsig.FormatSignature(SecondLabel, signature)}
	s.seal.Second = &Second{signature, key.ID}
	return nil
}

// checkSecond verifies the second signature of the seal s that was just verified
// by in; there may be none unless the instance requires it.
func (c *check) checkSecond(s *Seal, in, second *httpsig.Input, signature []byte, trailer bool) error {
	if second == nil {
		if c.v.NeedSecond != nil && c.v.NeedSecond() {
			return c.refuse("it has no second, post-quantum signature, which this instance requires; the sender makes and registers an ML-DSA seal key")
		}
		return nil
	}
	// 1. It says the same of itself, and covers the same and the seal.
	p, first := &second.Params, &in.Params
	if p.Present != first.Present || p.Tag != SecondLabel || p.Created != first.Created || p.Nonce != first.Nonce {
		return c.refuse("its second signature is not of the same time and nonce as the first, or its tag is not %q", SecondLabel)
	}
	part := secondPart(in.Label, trailer)
	if err := sameComponents(in.Components, second.Components, part); err != nil {
		return c.refuse("%v", err)
	}
	// 2. Its key, and the signature.
	id, err := civibus.ParseKeyID(p.KeyID)
	if err != nil || strings.ToLower(p.KeyID) != p.KeyID {
		return c.refuse("the keyid of its second signature is not 64 lower-case hex digits")
	}
	key, err := c.v.Key(id)
	if err != nil || key.ID != id {
		return fault(c.place, civibus.FaultSeal, err, "the %s's seal does not verify: key %s of its second signature is not a seal key in force here", c.what, id)
	}
	if !secondAlgorithm(key.Algorithm) || p.Alg != string(key.Algorithm) {
		return c.refuse("the alg of its second signature is not that of key %s, or not one for second signatures", id)
	}
	if !key.Verify(secondBase(s.Base, s.Signature, part, second.String()), signature) {
		return c.refuse("the second signature is not key %s's over this message", id)
	}
	s.Second = &Second{signature, id}
	return nil
}

// sameComponents checks that the second signature covers what the first does and,
// last, the first.
func sameComponents(first, second []httpsig.Component, part httpsig.Component) error {
	same := len(second) == len(first)+1 && second[len(first)].String() == part.String()
	for i := 0; same && i < len(first); i++ {
		same = first[i].String() == second[i].String()
	}
	if !same {
		return errors.New("its second signature does not cover what the first covers and the first")
	}
	return nil
}
