package registry

import (
	"bytes"
	"encoding/asn1"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// mayManageKeys checks that the author may add and revoke keys of the member.
// Registrars may for top-level members that cannot help themselves: those
// without an admin key in force, and suspended ones. Both are how a body comes
// back from lost or stolen admin keys.
//
// Who has only a delegation manages all but admin keys: with one of those he
// could do anything.
func (x *txn) mayManageKeys(m *civibus.Member, purpose civibus.Purpose) *refusal {
	s := keysScope
	if purpose == civibus.AdminKey {
		s = ownAuthority
	}
	if x.administers(m.ID, s) {
		return nil
	}
	if x.isRegistrar() && m.Parent.IsZero() && (m.Status == civibus.Suspended || !x.hasAdmin(m.ID)) {
		return nil
	}
	return refuse(NotAuthorised, "member %s is neither %s, nor an ancestor of it, nor a registrar helping a top-level member that is suspended or has no admin key in force", x.author.ID, m.ID)
}

func (x *txn) hasAdmin(id civibus.MemberID) bool {
	list, _ := x.keysOf.Get(keysOfKey(id, civibus.AdminKey))
	for _, k := range list {
		if k.InForce(x.height) {
			return true
		}
	}
	return false
}

// addKey registers a key of a member, to be in force from a height on.
func (x *txn) addKey(m *registrypb.AddKey) ([]record, *refusal) {
	// 1. The fields.
	id, r := x.memberID("member", m.Member)
	if r != nil {
		return nil, r
	}
	purpose := civibus.Purpose(m.Purpose)
	public, r := x.checkKey(purpose, m.Spki, m.Certificate)
	if r != nil {
		return nil, r
	}
	activate, r := x.checkHeight("activate_height", m.ActivateHeight)
	if r != nil {
		return nil, r
	}
	// 2. The new key's holder agrees.
	if !x.signatures.verify(&public, possessionMessage(x.params.ChainID, m.Member, purpose, m.Spki), m.Possession) {
		return nil, refuse(BadPossession, "possession is not the signature of key %s over %s as a %s key on this chain", public.ID, m.Member, purpose)
	}
	// 3. Who may do it.
	member := x.member(id)
	if member == nil {
		return nil, refuse(NotFound, "member %s is not registered", id)
	}
	if member.Status == civibus.Ended {
		return nil, refuse(Ended, "member %s has ended, which is final", id)
	}
	if r := x.mayManageKeys(member, purpose); r != nil {
		return nil, r
	}
	// 4. A key is registered once and for one purpose, revoked or not.
	if old := x.state.key(public.ID); old != nil {
		return nil, refuse(AlreadyExists, "key %s is already registered, of %s for %s", public.ID, old.Member, old.Purpose)
	}
	if list, _ := x.keysOf.Get(keysOfKey(id, purpose)); len(list) >= maxKeysPerPurpose {
		return nil, refuse(LimitReached, "member %s has %d %s keys, the rule is at most %d", id, len(list), purpose, maxKeysPerPurpose)
	}
	return []record{keyRecord{&civibus.RegisteredKey{
		PublicKey: public, Member: id, Purpose: purpose, Certificate: m.Certificate, Activate: activate,
	}}}, nil
}

// checkKey checks a new key: its encoding, that its algorithm suits its
// purpose, and its certificate.
func (x *txn) checkKey(purpose civibus.Purpose, spki, certificate []byte) (civibus.PublicKey, *refusal) {
	if purpose < civibus.SealKey || purpose > civibus.WitnessKey {
		return civibus.PublicKey{}, refuse(InvalidField, "purpose: %d, the rule is 1 to %d", purpose, civibus.WitnessKey)
	}
	public, err := parseSPKI(spki)
	if err != nil {
		return public, refuse(InvalidField, "spki: not a public key of a known algorithm in canonical DER")
	}
	if !x.suits(purpose, public.Algorithm) {
		return public, refuse(InvalidField, "spki: an %s key is not for the purpose %s in this instance", public.Algorithm, purpose)
	}
	if len(certificate) == 0 {
		if purpose == civibus.TransportKey {
			return public, refuse(BadCertificate, "certificate is missing, a transport key needs one")
		}
		return public, nil
	}
	if len(certificate) > maxCertificate {
		return public, refuse(BadCertificate, "certificate has %d bytes, the rule is at most %d", len(certificate), maxCertificate)
	}
	of := certificateKey(certificate)
	if of == nil {
		return public, refuse(BadCertificate, "certificate is not an X.509 certificate in DER")
	}
	if !bytes.Equal(of, spki) {
		return public, refuse(BadCertificate, "certificate is over another key")
	}
	return public, nil
}

// suits reports whether keys of a purpose may be of an algorithm. ML-DSA makes
// second signatures, and blocks where the genesis wants it.
func (x *txn) suits(purpose civibus.Purpose, a civibus.Algorithm) bool {
	switch {
	case a == civibus.Ed25519:
		return true
	case x.params.Protocol == 0 && a.PostQuantum():
		return false
	}
	switch purpose {
	case civibus.SealKey:
		return true
	case civibus.LogKey, civibus.WitnessKey:
		return a == civibus.MLDSA44
	case civibus.ValidatorKey:
		return a == civibus.MLDSA65 && x.params.MLDSAValidators
	}
	return a == civibus.ECDSAP256SHA256
}

// certificateKey returns the SubjectPublicKeyInfo of an X.509 certificate, nil
// if it does not have the shape of one. It looks at the shape alone: what a
// full parser accepts changes between its versions, and replicas must agree. A
// certificate that TLS will not take harms nobody but the member that owns it.
func certificateKey(der []byte) []byte {
	outer := derSequence(der)
	if len(outer) != 3 { // content, algorithm, signature
		return nil
	}
	content := derSequence(outer[0].FullBytes)
	if len(content) > 0 && content[0].Class == asn1.ClassContextSpecific && content[0].Tag == 0 {
		content = content[1:] // the version, absent in version 1
	}
	// Serial number, algorithm, issuer, validity, subject, key, extensions.
	if len(content) < 6 || content[0].Tag != asn1.TagInteger || derSequence(content[5].FullBytes) == nil {
		return nil
	}
	return content[5].FullBytes
}

// derSequence returns the elements of a DER SEQUENCE that fills b.
func derSequence(b []byte) []asn1.RawValue {
	var seq asn1.RawValue
	rest, err := asn1.Unmarshal(b, &seq)
	if err != nil || len(rest) != 0 || seq.Class != asn1.ClassUniversal || seq.Tag != asn1.TagSequence || !seq.IsCompound {
		return nil
	}
	var out []asn1.RawValue
	for rest = seq.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// checkHeight resolves a height at which something takes effect.
func (x *txn) checkHeight(field string, h uint64) (uint64, *refusal) {
	switch {
	case h == 0:
		return x.height, nil
	case h < x.height:
		return 0, refuse(HeightPassed, "%s is %d, this is height %d", field, h, x.height)
	case h-x.height > maxHeightAhead:
		return 0, refuse(InvalidField, "%s is %d, the rule is at most %d from now", field, h, uint64(maxHeightAhead))
	}
	return h, nil
}

// revokeKey ends a key's force at a height, or brings an announced end forward.
func (x *txn) revokeKey(m *registrypb.RevokeKey) ([]record, *refusal) {
	// 1. The fields.
	if len(m.KeyId) != 32 {
		return nil, refuse(InvalidField, "key_id has %d bytes, the rule is 32", len(m.KeyId))
	}
	if m.Reason < registrypb.RevocationReason_REVOCATION_REASON_ROTATED || m.Reason > registrypb.RevocationReason_REVOCATION_REASON_CEASED {
		return nil, refuse(InvalidField, "reason: %d, the rule is rotated, compromised or ceased", m.Reason)
	}
	at, r := x.checkHeight("revoke_height", m.RevokeHeight)
	if r != nil {
		return nil, r
	}
	// 2. The key and who may end it.
	old := x.state.key(civibus.KeyID(m.KeyId))
	if old == nil {
		return nil, refuse(NotFound, "key %x is not registered", m.KeyId)
	}
	member := x.member(old.Member)
	if member == nil {
		return nil, refuse(NotFound, "member %s is not registered", old.Member)
	}
	if r := x.mayManageKeys(member, old.Purpose); r != nil {
		return nil, r
	}
	switch {
	case old.Revoke != 0 && old.Revoke <= x.height:
		return nil, refuse(Ended, "key %s is revoked since height %d", old.ID, old.Revoke)
	case old.Revoke != 0 && old.Revoke <= at:
		return nil, refuse(NoChange, "key %s is to be revoked at height %d already, which is not later", old.ID, old.Revoke)
	}
	// 3. Nobody locks himself out.
	if x.author.ID == old.Member && old.Purpose == civibus.AdminKey && !x.otherAdmin(old, at) {
		return nil, refuse(LastAdminKey, "key %s is the last admin key of %s with no end; add another that is in force by height %d first", old.ID, old.Member, at)
	}
	next := *old
	next.Revoke, next.Reason = at, reasons()[m.Reason]
	return []record{keyRecord{&next}}, nil
}

// otherAdmin reports whether the member has another admin key in force at a
// height and without an end.
func (x *txn) otherAdmin(k *civibus.RegisteredKey, at uint64) bool {
	list, _ := x.keysOf.Get(keysOfKey(k.Member, civibus.AdminKey))
	for _, o := range list {
		if o.ID != k.ID && o.Revoke == 0 && o.Activate <= at {
			return true
		}
	}
	return false
}
