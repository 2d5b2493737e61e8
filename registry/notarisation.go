package registry

import (
	"fmt"

	"github.com/civibus/civibus/registry/registrypb"
)

// notarise records a digest with the block's time. Nothing is known about what
// the digest is of, and it should be salted.
func (x *txn) notarise(m *registrypb.Notarise) ([]record, *refusal) {
	if len(m.Digest) != 32 {
		return nil, refuse(InvalidField, "digest has %d bytes, the rule is 32", len(m.Digest))
	}
	n := &Notarisation{Digest: [32]byte(m.Digest), Member: x.author.ID, Height: x.height, Time: x.now}
	known := x.notarised[n.Digest]
	if !known {
		b, err := x.store.Get(stateStoreKey(notaryKey(n.Digest)))
		if err != nil {
			x.err = fmt.Errorf("look up notarisation: %w", err)
			return nil, refuse(Unavailable, "the registry's store could not be read")
		}
		known = b != nil
	}
	if known {
		return nil, refuse(AlreadyExists, "the digest is already recorded")
	}
	return []record{notarisationRecord{n}}, nil
}
