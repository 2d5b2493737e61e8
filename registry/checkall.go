package registry

import (
	"crypto/ed25519"
	"crypto/sha3"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"github.com/civibus/civibus"
)

// CheckAll is Check for many envelopes, with the same results. From protocol 2 on it
// verifies their Ed25519 signatures together, which takes about half as long for
// each from eight on.
func (m *Machine) CheckAll(envelopes [][]byte) []Result {
	results := make([]Result, len(envelopes))
	v := m.view.Load()
	if v == nil {
		for i, e := range envelopes {
			results[i] = unavailable(e)
		}
		return results
	}
	ready := make([]prepared, len(envelopes))
	seen := make(map[[32]byte]bool, len(envelopes))
	for i, e := range envelopes {
		ready[i] = m.decode(v.state, e, m.prepared.get)
		if seen[ready[i].hash] {
			ready[i].refusal = errTwice
		}
		seen[ready[i].hash] = true
	}
	if len(envelopes) > 1 && envelopeRule(v.state.params.Protocol) == zip215 {
		m.verifyAll(v.state, ready)
	}
	for i := range ready {
		if ready[i].refusal == errTwice { // the first of them is remembered by now
			ready[i] = m.decode(v.state, envelopes[i], m.prepared.get)
		}
		results[i] = m.check(v, &ready[i])
	}
	return results
}

// errTwice marks an envelope that stands before in the same list.
var errTwice = new(refusal)

// verifyAll finds out which envelopes have good signatures, as far as it can be told
// of many together: Ed25519, by ZIP 215. The rest is verified in its turn.
//
// The coefficients of the batch follow from the batch itself, so that nothing here is
// random: who wants a wrong signature to pass has to find a batch whose 128-bit
// coefficients make the errors cancel out.
func (m *Machine) verifyAll(st *state, ready []prepared) {
	// 1. What there is to verify.
	batch := voi.NewBatchVerifierWithCapacity(len(ready))
	seed := sha3.NewSHAKE128()
	places := make([]int, 0, len(ready))
	signers := make([]*civibus.RegisteredKey, 0, len(ready))
	for i := range ready {
		p := &ready[i]
		if p.refusal != nil || p.signed || len(p.signature) != ed25519.SignatureSize {
			continue
		}
		key := st.key(civibus.KeyID(p.tx.KeyId))
		if key == nil {
			continue
		}
		public, ok := key.Key.(ed25519.PublicKey)
		if !ok {
			continue
		}
		known := m.signatures.keys.expand(public)
		if known == nil {
			continue
		}
		batch.AddExpandedWithOptions(known, txMessage(p.raw), p.signature, zip215)
		// The hash names transaction, key and signature: an envelope has all three.
		_, _ = seed.Write(p.hash[:])
		places, signers = append(places, i), append(signers, key)
	}
	if len(places) < 2 {
		return
	}
	// 2. All at once; one after the other if any is wrong.
	all, each := batch.Verify(seed)
	for j, i := range places {
		p := &ready[i]
		if all || each[j] {
			p.signed, p.signer = true, signers[j].ID
		} else {
			p.badSignature = true
		}
	}
}
