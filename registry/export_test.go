package registry

import (
	"github.com/civibus/civibus"
	"google.golang.org/protobuf/proto"
)

// VerifySignature is what transactions are verified with.
func VerifySignature(key *civibus.PublicKey, message, signature []byte) bool {
	return verifySignature(key, message, signature)
}

// VerifyExpanded is the same for a key that signed before.
func VerifyExpanded(key *civibus.PublicKey, message, signature []byte) bool {
	e := newExpandedKeys(4)
	first := e.verify(key, message, signature, withoutCofactor)
	return first && e.verify(key, message, signature, withoutCofactor)
}

// ExpandedKeysSize works out n keys and returns how many are kept of a limit.
func ExpandedKeysSize(limit int, keys []*civibus.PublicKey) int {
	e := newExpandedKeys(limit)
	for _, k := range keys {
		e.verify(k, nil, make([]byte, 64), withoutCofactor)
	}
	return len(e.young) + len(e.old)
}

// Forget empties what the machine remembers of envelopes and signatures.
func (m *Machine) Forget() {
	m.signatures, m.prepared = newSignatureCache(rememberedSignatures), newPreparedCache(rememberedBytes)
}

// EncodeCanonical is the encoder of transactions.
func EncodeCanonical(m proto.Message) ([]byte, error) { return encodeCanonical(m) }

// Canonical checks an encoding of a message of m's type.
func Canonical(b []byte, m proto.Message) error {
	return canonical(b, m.ProtoReflect().Descriptor())
}

// SignatureCacheSize fills a cache of a limit with n facts and returns how many
// it holds.
func SignatureCacheSize(limit, n int) int {
	c := newSignatureCache(limit)
	for i := range n {
		c.add([32]byte{byte(i), byte(i >> 8)})
	}
	return len(c.young) + len(c.old)
}

// EachValue calls fn with every state value of a view.
func (v *View) EachValue(fn func(key string, value []byte)) { v.eachRecord(fn) }

// Collide returns a view in which the rights of every service and subject lie in
// one list, as if all had one hash.
func Collide(v *View, pairs ...[2]string) *View {
	c := *v
	st := *v.state
	st.rightsFor = v.state.rightsFor.Copy()
	var all []*civibus.AccessRight
	scan(v.state.rights, func(_ string, r *civibus.AccessRight) {
		if r.Status != civibus.Ended {
			all = append(all, r)
		}
	})
	for _, p := range pairs {
		service, err := civibus.ParseServiceID(p[0])
		if err != nil {
			panic(err)
		}
		st.rightsFor.Set(rightsForKey(service, p[1]), all)
	}
	c.state = &st
	return &c
}

// PreparedCacheBytes remembers n envelopes of so many bytes within a limit and
// returns how many bytes are held.
func PreparedCacheBytes(limit, n, bytes int) (held int) {
	c := newPreparedCache(limit)
	for i := range n {
		c.put(&prepared{hash: [32]byte{byte(i)}, raw: make([]byte, bytes)})
	}
	for _, m := range []map[[32]byte]*prepared{c.young, c.old} {
		for _, p := range m {
			held += len(p.raw)
		}
	}
	return held
}

// Table is a kind of record by its key, and Hashed what finds it.
type (
	Table  = table[int]
	Hashed = hashed[string, int]
)

// SetHashed puts a value under a key as if this was its hash.
func SetHashed(t *Hashed, hash uint64, key string, v int) (old int, had bool) {
	return t.set(hash, key, v)
}

// GetHashed finds a key that was put under this hash.
func GetHashed(t *Hashed, hash uint64, key string) (int, bool) { return t.get(hash, key) }

// RemoveHashed removes a key that was put under this hash.
func RemoveHashed(t *Hashed, hash uint64, key string) bool { return t.remove(hash, key) }
