package node

import (
	"github.com/civibus/civibus"
	"github.com/civibus/civibus/transport"
)

// second returns the newest ML-DSA key of a purpose that is in force now and makes
// second signatures, nil if there is none. It is asked at every signature, so that
// a key is used from the moment on at which the registry has it.
func (n *Node) second(purpose civibus.Purpose) civibus.Signer {
	v := n.view()
	if v == nil {
		return nil
	}
	return n.ring.SecondOrNone(purpose, transport.InForce(v, n.member, purpose))
}
