package registry

import (
	"sync"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// prepared is an envelope after everything that does not depend on the
// transactions before it. Once it is remembered it is not changed.
type prepared struct {
	hash           [32]byte
	tx             *registrypb.Tx
	raw, signature []byte
	refusal        *refusal
	badSignature   bool // tried and found wrong
	facts
}

// facts are what was found out about an envelope's bytes. Each says under which
// circumstances it was found, and is of use only under the same: to have it never
// changes a result, only its cost.
type facts struct {
	signed     bool // the signature is good under the key signer
	signer     civibus.KeyID
	author     *authorFact
	checkpoint *checkpointFact
	extends    *extendsFact
	grant      *grantFact
}

// authorFact: in this directory the envelope's key is this, and its member that.
type authorFact struct {
	directory uint64
	keyID     string
	key       *civibus.RegisteredKey
	member    *civibus.Member
}

// grantFact: in this directory the fields of a grant make this right, as long as it
// has not expired, and what it names is there.
type grantFact struct {
	directory uint64
	right     *civibus.AccessRight
}

// signedBy reports whether the signature is the key's by the rule of a protocol, and
// remembers it.
func (p *prepared) signedBy(signatures *signatureCache, key *civibus.RegisteredKey, protocol uint32) bool {
	if p.signed && p.signer == key.ID {
		return true
	}
	if !signatures.keys.verify(&key.PublicKey, txMessage(p.raw), p.signature, envelopeRule(protocol)) {
		return false
	}
	p.signed, p.signer = true, key.ID
	return true
}

// checkpointFact: the checkpoint is a note of member with one signature, by key.
type checkpointFact struct {
	checkpoint
	member civibus.MemberID
	key    *civibus.RegisteredKey
	hash   uint32 // by which the note names the key
	// directory in which the key is the member's only log key; 0: in none.
	directory uint64
}

// extendsFact: the consistency proof verifies from this state of the log.
type extendsFact struct {
	size uint64
	root [32]byte
}

// preparedCache remembers what Check found out until Execute takes it, so that a
// node decodes and verifies a transaction once. It is bounded by two generations of
// so many bytes of envelopes; decoded they take about three times as much.
type preparedCache struct {
	mu         sync.Mutex
	young, old map[[32]byte]*prepared
	bytes      int // of the young
	limit      int
}

func newPreparedCache(limit int) *preparedCache {
	return &preparedCache{young: make(map[[32]byte]*prepared), limit: limit / 2}
}

func (c *preparedCache) put(p *prepared) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := len(p.raw) + len(p.signature)
	if size > c.limit {
		return
	}
	if _, ok := c.young[p.hash]; !ok {
		if c.bytes+size > c.limit {
			c.old, c.young, c.bytes = c.young, make(map[[32]byte]*prepared, len(c.young)), 0
		}
		c.bytes += size
	}
	c.young[p.hash] = p
}

func (c *preparedCache) get(hash [32]byte) *prepared {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.young[hash]; p != nil {
		return p
	}
	return c.old[hash]
}

// take is get for the last time.
func (c *preparedCache) take(hash [32]byte) *prepared {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.young[hash]
	if p == nil {
		p = c.old[hash]
		delete(c.old, hash)
		return p
	}
	delete(c.young, hash)
	c.bytes -= len(p.raw) + len(p.signature)
	return p
}
