package registry

import (
	"github.com/civibus/civibus"
	"google.golang.org/protobuf/proto"
)

// VerifySignature is what transactions are verified with.
func VerifySignature(key *civibus.PublicKey, message, signature []byte) bool {
	return verifySignature(key, message, signature)
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
	st.rightsFor.Scan(func(_ uint64, list []*civibus.AccessRight) bool {
		all = append(all, list...)
		return true
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
