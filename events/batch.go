package events

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The form in which one exchange carries events; spec/events.md section 4 is normative.
const (
	// WireType is the media type of a batch between gateways.
	WireType = "application/vnd.civibus.events"
	// BatchField is the field of the answer's head that says what its body holds, so that
	// the seal covers it.
	BatchField = "Events-Batch"

	wireMagic = "CVE1"
	seedSize  = 32
	saltSize  = 16

	// MaxBatch bounds the events of a batch; BatchBytes about their bytes, so that a
	// batch is one whole body for the gateways, sealed in the head.
	MaxBatch   = 2048
	BatchBytes = 768 << 10
)

// Batch is what one exchange carries.
type Batch struct {
	First  uint64 // number of the first event
	Events [][]byte
	Seed   [seedSize]byte // of the salts
	// What the topic holds: its oldest event that is kept, and its newest; and what
	// distinguishes this numbering from another, if the topic had to begin anew.
	Oldest, Newest, Epoch uint64
}

// Last is the number of the last event, or First-1.
func (b *Batch) Last() uint64 { return b.First + uint64(len(b.Events)) - 1 }

// Encode returns the body and the value of BatchField.
func (b *Batch) Encode() (body []byte, field string) {
	size := len(wireMagic) + seedSize + 8 + 4
	for _, e := range b.Events {
		size += 4 + len(e)
	}
	body = make([]byte, 0, size)
	body = append(append(body, wireMagic...), b.Seed[:]...)
	body = binary.BigEndian.AppendUint64(body, b.First)
	body = binary.BigEndian.AppendUint32(body, uint32(len(b.Events)))
	for _, e := range b.Events {
		body = binary.BigEndian.AppendUint32(body, uint32(len(e)))
		body = append(body, e...)
	}
	return body, b.field()
}

func (b *Batch) field() string {
	root := b.Root()
	return fmt.Sprintf("first=%d, count=%d, oldest=%d, newest=%d, epoch=%d, root=:%s:", b.First, len(b.Events), b.Oldest, b.Newest, b.Epoch, base64.StdEncoding.EncodeToString(root[:]))
}

// Header is what BatchField says.
type Header struct {
	First, Count, Oldest, Newest, Epoch uint64
	Root                                [32]byte
}

// ParseHeader reads a BatchField.
func ParseHeader(field string) (h Header, err error) {
	for i, name := range [...]string{"first", "count", "oldest", "newest", "epoch"} {
		var item string
		item, field, _ = strings.Cut(field, ", ")
		value, ok := strings.CutPrefix(item, name+"=")
		n, err := strconv.ParseUint(value, 10, 63)
		if !ok || err != nil {
			return h, fmt.Errorf("%s: the rule is first, count, oldest, newest, epoch and root", BatchField)
		}
		*[...]*uint64{&h.First, &h.Count, &h.Oldest, &h.Newest, &h.Epoch}[i] = n
	}
	text, ok := strings.CutPrefix(field, "root=:")
	text, end := strings.CutSuffix(text, ":")
	root, err := base64.StdEncoding.DecodeString(text)
	if !ok || !end || err != nil || len(root) != 32 {
		return h, fmt.Errorf("%s: root is not 32 bytes in base64", BatchField)
	}
	h.Root = [32]byte(root)
	return h, nil
}

// DecodeBatch reads a body and holds it to its field: whoever has the seal has the root,
// and whoever has the root has every event.
func DecodeBatch(body []byte, field string) (*Batch, error) {
	h, err := ParseHeader(field)
	if err != nil {
		return nil, err
	}
	bad := errors.New("the batch is malformed")
	rest := body
	if len(rest) < len(wireMagic)+seedSize+12 || string(rest[:4]) != wireMagic {
		return nil, bad
	}
	b := &Batch{Seed: [seedSize]byte(rest[4 : 4+seedSize]), Oldest: h.Oldest, Newest: h.Newest, Epoch: h.Epoch}
	rest = rest[4+seedSize:]
	b.First = binary.BigEndian.Uint64(rest)
	count := binary.BigEndian.Uint32(rest[8:])
	if rest = rest[12:]; count > MaxBatch {
		return nil, fmt.Errorf("the batch has %d events, the rule is at most %d", count, MaxBatch)
	}
	b.Events = make([][]byte, count)
	for i := range b.Events {
		if len(rest) < 4 {
			return nil, bad
		}
		n := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; uint64(len(rest)) < uint64(n) {
			return nil, bad
		}
		b.Events[i], rest = rest[:n:n], rest[n:]
	}
	switch {
	case len(rest) != 0:
		return nil, bad
	case b.First != h.First || uint64(count) != h.Count || b.First == 0:
		return nil, fmt.Errorf("the batch has %d events from %d, its head says %d from %d", count, b.First, h.Count, h.First)
	case b.Root() != h.Root:
		return nil, errors.New("the batch does not have the root that its head says")
	}
	return b, nil
}

// salt is what hides an event from whoever sees its neighbour's proof.
func salt(seed *[seedSize]byte, place int) [saltSize]byte {
	m := hmac.New(sha256.New, seed[:])
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(place))
	m.Write(b[:])
	return [saltSize]byte(m.Sum(nil)[:saltSize])
}

// leafHash is RFC 6962's of salt, number and event.
func leafHash(salt [saltSize]byte, seq uint64, event []byte) [32]byte {
	h := sha256.New()
	var head [1 + saltSize + 8]byte
	copy(head[1:], salt[:])
	binary.BigEndian.PutUint64(head[1+saltSize:], seq)
	h.Write(head[:])
	h.Write(event)
	return [32]byte(h.Sum(nil))
}

func nodeHash(l, r [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

func (b *Batch) leaves() [][32]byte {
	out := make([][32]byte, len(b.Events))
	for i, e := range b.Events {
		out[i] = leafHash(salt(&b.Seed, i), b.First+uint64(i), e)
	}
	return out
}

// Root is RFC 6962's tree hash over the salted events.
func (b *Batch) Root() [32]byte {
	if len(b.Events) == 0 {
		return sha256.Sum256(nil)
	}
	return treeHash(b.leaves())
}

func treeHash(leaves [][32]byte) [32]byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return nodeHash(treeHash(leaves[:k]), treeHash(leaves[k:]))
}

// split is the largest power of two below n.
func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

// Proof shows that one event was in a batch without showing another. With the receipt of
// the exchange it shows who sealed the batch, for whom, and under which right.
type Proof struct {
	Exchange string   `json:"exchange"` // X-Road-Request-Id
	Topic    string   `json:"topic"`
	Seq      uint64   `json:"seq"`
	Place    int      `json:"place"`
	Count    int      `json:"count"`
	Salt     []byte   `json:"salt"`
	Path     [][]byte `json:"path"`
	Event    []byte   `json:"event"`
}

// Prove makes the proof of the event at a place.
func (b *Batch) Prove(place int) Proof {
	s := salt(&b.Seed, place)
	p := Proof{Seq: b.First + uint64(place), Place: place, Count: len(b.Events), Salt: s[:], Event: b.Events[place], Path: [][]byte{}}
	var walk func(leaves [][32]byte, at int)
	walk = func(leaves [][32]byte, at int) {
		if len(leaves) == 1 {
			return
		}
		k := split(len(leaves))
		var other [32]byte
		if at < k {
			walk(leaves[:k], at)
			other = treeHash(leaves[k:])
		} else {
			walk(leaves[k:], at-k)
			other = treeHash(leaves[:k])
		}
		p.Path = append(p.Path, other[:])
	}
	walk(b.leaves(), place)
	return p
}

// Verify holds the proof to the BatchField of the exchange's sealed answer.
func (p *Proof) Verify(field string) error {
	h, err := ParseHeader(field)
	if err != nil {
		return err
	}
	switch {
	case p.Place < 0 || p.Count < 1 || p.Count > MaxBatch || p.Place >= p.Count:
		return fmt.Errorf("place %d of %d is none", p.Place, p.Count)
	case uint64(p.Count) != h.Count || p.Seq != h.First+uint64(p.Place):
		return fmt.Errorf("the proof is of event %d at place %d of %d, the batch has %d events from %d", p.Seq, p.Place, p.Count, h.Count, h.First)
	case len(p.Salt) != saltSize:
		return fmt.Errorf("the salt has %d bytes, the rule is %d", len(p.Salt), saltSize)
	}
	node, path := leafHash([saltSize]byte(p.Salt), p.Seq, p.Event), p.Path
	var walk func(n, at int) bool
	walk = func(n, at int) bool {
		if n == 1 {
			return true
		}
		k, left := split(n), at < split(n)
		if left && !walk(k, at) || !left && !walk(n-k, at-k) || len(path) == 0 || len(path[0]) != 32 {
			return false
		}
		other := [32]byte(path[0])
		if path = path[1:]; left {
			node = nodeHash(node, other)
		} else {
			node = nodeHash(other, node)
		}
		return true
	}
	if !walk(p.Count, p.Place) || len(path) != 0 || node != h.Root {
		return errors.New("the event is not in the batch: the path does not lead to the sealed root")
	}
	return nil
}

// SealedField finds the BatchField in the signature base of a sealed answer (RFC 9421),
// as a receipt holds it.
func SealedField(base []byte) (string, error) {
	for line := range strings.SplitSeq(string(base), "\n") {
		if value, ok := strings.CutPrefix(line, `"events-batch": `); ok {
			return value, nil
		}
	}
	return "", errors.New("the sealed answer holds no batch of events")
}
