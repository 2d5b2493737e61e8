package registry

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

const maxChain = 8 // certificates of a chain

// chain is the state's record of the certificates that an authority issued for a
// key. It is not part of the key's record, which is in every receipt.
type chain struct {
	key          civibus.KeyID
	owner        civibus.MemberID // of the key; not encoded
	certificates [][]byte
	height       uint64
}

type chainRecord struct{ *chain }

func (r chainRecord) stateKey() string           { return chainPrefix + r.key.String() }
func (chainRecord) eventField() protowire.Number { return 29 }

// put finds the owner of a chain that was loaded: keys are loaded first.
func (r chainRecord) put(s *state) {
	if k := s.key(r.key); k != nil {
		r.owner = k.Member
	}
	set(s, s.chains, r.key.String(), r.chain, r.owner, 1)
}

func (r chainRecord) encode() []byte {
	w := writer{}.bytes(1, r.key[:])
	for _, c := range r.certificates {
		w = w.message(2, c)
	}
	return w.num(3, r.height)
}

func decodeChain(value []byte) (record, error) {
	var m registrypb.Chain
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	key, err := keyIDOf(m.KeyId)
	return chainRecord{&chain{key: key, certificates: m.Certificates, height: m.Height}}, err
}

// Chain returns the X.509 certificates that an authority issued for a key, DER, the
// key's own first, and the height of the block that bound them; none if there are
// none. Whether they are valid, and what they say, is for the reader to check.
func (v *View) Chain(key civibus.KeyID) (certificates [][]byte, height uint64) {
	c, ok := v.state.chains.Get(key.String())
	if !ok {
		return nil, 0
	}
	return slices.Clone(c.certificates), c.height
}

// HasChains reports whether any key has certificates.
func (v *View) HasChains() bool { return v.state.chains.Len() > 0 }

// setChain binds certificates to a key, in the place of those it had.
func (x *txn) setChain(m *registrypb.SetChain) ([]record, *refusal) {
	// 1. The key.
	id, err := keyIDOf(m.KeyId)
	if err != nil {
		return nil, refuse(InvalidField, "key_id: %v", err)
	}
	k := x.state.key(id)
	if k == nil {
		return nil, refuse(NotFound, "key %s is not registered", id)
	}
	if k.Revoke != 0 && k.Revoke <= x.height {
		return nil, refuse(Ended, "key %s is revoked since height %d", id, k.Revoke)
	}
	// 2. The certificates: their shape alone, and whose key the first is over.
	if len(m.Certificates) > maxChain {
		return nil, refuse(BadCertificate, "certificates: %d, the rule is at most %d", len(m.Certificates), maxChain)
	}
	for i, c := range m.Certificates {
		of := certificateKey(c)
		switch {
		case len(c) > maxCertificate:
			return nil, refuse(BadCertificate, "certificates[%d] has %d bytes, the rule is at most %d", i, len(c), maxCertificate)
		case of == nil:
			return nil, refuse(BadCertificate, "certificates[%d] is not an X.509 certificate in DER", i)
		case i == 0 && !bytes.Equal(of, k.SPKI):
			return nil, refuse(BadCertificate, "certificates[0] is over another key")
		}
	}
	// 3. Who may do it.
	member := x.member(k.Member)
	if member == nil {
		return nil, refuse(NotFound, "member %s is not registered", k.Member)
	}
	if r := x.mayManageKeys(member, k.Purpose); r != nil {
		return nil, r
	}
	old, ok := x.chains.Get(id.String())
	if ok && slices.EqualFunc(old.certificates, m.Certificates, bytes.Equal) || !ok && len(m.Certificates) == 0 {
		return nil, refuse(NoChange, "the chain of key %s is already so", id)
	}
	return []record{chainRecord{&chain{id, k.Member, m.Certificates, x.height}}}, nil
}
