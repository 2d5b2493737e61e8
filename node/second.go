package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/seal"
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

// sealSigner returns the seal keys in force in a view: one, or two when the body
// has a second.
func (n *Node) sealSigner(inForce func(civibus.KeyID) bool) (civibus.Signer, error) {
	first, err := n.ring.For(civibus.SealKey, inForce)
	if err != nil {
		return nil, err
	}
	second := n.ring.SecondOrNone(civibus.SealKey, func(id civibus.KeyID) bool {
		v := n.view()
		k, ok := v.Key(id)
		return ok && k.Algorithm != civibus.MLDSA87 && inForce(id)
	})
	switch {
	case second != nil:
		return seal.WithSecond(first, second), nil
	case n.needSecond():
		return nil, errors.New("the instance requires second seals, and this body has no ML-DSA seal key in force: make one with \"civibus register key add seal --algorithm ml-dsa-44\"")
	}
	return first, nil
}

// needSecond reports whether the instance requires second seals.
func (n *Node) needSecond() bool {
	v := n.view()
	return v != nil && v.SecondSeals()
}

// chained is the evidence log as the gateway sees it: its records name the
// certificates that the registry had bound to the seals' keys.
type chained struct {
	*evidence.Log
	n *Node

	mu    sync.Mutex
	known map[civibus.KeyID]knownChain
}

// knownChain is a chain that is kept already.
type knownChain struct {
	height uint64 // of the block that bound it
	digest []byte
}

func newChained(n *Node, log *evidence.Log) *chained {
	return &chained{Log: log, n: n, known: make(map[civibus.KeyID]knownChain)}
}

// Append names the chains and appends the record.
func (c *chained) Append(ctx context.Context, r *evidencepb.Record) error {
	return c.AppendBeside(ctx, r, nil)
}

// AppendBeside does so with something beside the record.
func (c *chained) AppendBeside(ctx context.Context, r *evidencepb.Record, beside []byte) error {
	if v := c.n.view(); v != nil && v.HasChains() {
		for _, s := range [...]*evidencepb.Seal{r.Request, r.Response} {
			if s == nil || len(s.KeyId) != len(civibus.KeyID{}) {
				continue
			}
			digest, err := c.chain(civibus.KeyID(s.KeyId))
			if err != nil {
				return fmt.Errorf("keep the certificates of key %x: %w", s.KeyId, err)
			}
			if digest != nil {
				s.Chain, r.Version = digest, 2
			}
		}
	}
	return c.Log.AppendBeside(ctx, r, beside)
}

// chain keeps the certificates of a key and returns their digest; nil if there
// are none.
func (c *chained) chain(key civibus.KeyID) ([]byte, error) {
	certificates, height := c.n.view().Chain(key)
	if len(certificates) == 0 {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.known[key]; ok && k.height == height {
		return k.digest, nil
	}
	digest := proof.Chain(certificates).Digest()
	if err := c.PutChain(digest, certificates); err != nil {
		return nil, err
	}
	c.known[key] = knownChain{height, digest[:]}
	return digest[:], nil
}

// chainsOf finds the certificates that records name: what was kept with them, or
// what the registry has now. What cannot be found is left out.
func (n *Node) chainsOf(log *evidence.Log, halves []half) ([]proof.Chain, error) {
	var out []proof.Chain
	for _, h := range halves {
		r := new(evidencepb.Record)
		if err := proto.Unmarshal(h.parts.Record, r); err != nil {
			return nil, fmt.Errorf("certificates of a record: %w", err)
		}
		for _, s := range [...]*evidencepb.Seal{r.GetRequest(), r.GetResponse()} {
			if len(s.GetChain()) == 0 {
				continue
			}
			kept, err := log.Chain(s.Chain)
			if err != nil {
				return nil, fmt.Errorf("certificates of a seal: %w", err)
			}
			if kept == nil {
				if kept, _ = n.view().Chain(civibus.KeyID(s.KeyId)); len(kept) == 0 {
					continue
				}
			}
			out = append(out, kept)
		}
	}
	return out, nil
}
