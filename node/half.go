package node

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"

	fproof "github.com/transparency-dev/formats/proof"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// Both bodies of an exchange hold the same seals. A half that goes from one to
// the other therefore carries its record without them; the receiver puts in its
// own, and the record's leaf, which is in the sender's anchored log, tells
// whether that is the record that the sender keeps. No signature needs to be
// verified for it: each side verified the other's seals when the exchange was
// made.

// trim returns a record without what its seals hold.
func trim(rec *evidencepb.Record) ([]byte, error) {
	request, response := rec.Request, rec.Response
	defer func() { rec.Request, rec.Response = request, response }()
	if request != nil {
		rec.Request = &evidencepb.Seal{}
	}
	if response != nil {
		rec.Response = &evidencepb.Seal{}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(rec)
}

// errWhole says that a trimmed record cannot be completed here.
var errWhole = errors.New("its trimmed record does not fit the own one")

// restore returns the record of the other body's half as that body keeps it,
// given the own record of the exchange.
func restore(h *evidencepb.HalfReceipt, own *evidencepb.Record) (raw []byte, rec *evidencepb.Record, err error) {
	rec = &evidencepb.Record{}
	if err := proto.Unmarshal(h.Record, rec); err != nil {
		return nil, nil, fmt.Errorf("its record does not decode: %w", err)
	}
	if !h.Trimmed {
		return h.Record, rec, nil
	}
	for _, s := range [...]struct{ theirs, own **evidencepb.Seal }{{&rec.Request, &own.Request}, {&rec.Response, &own.Response}} {
		if *s.theirs == nil {
			continue
		}
		if *s.own == nil {
			return nil, nil, errWhole
		}
		*s.theirs = *s.own
	}
	raw, err = proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	return raw, rec, err
}

// anchoredLog is a state of another body's evidence log that the registry has
// accepted, as this node's own view has it.
type anchoredLog struct {
	origin string
	size   uint64
	root   [32]byte
	height uint64 // of the anchor
}

// errNotYet says that the own registry view may be behind.
var errNotYet = errors.New("the checkpoint is not anchored in this node's registry view")

// anchoredLogOf checks a checkpoint note of a member's evidence log: signed by a
// log key of the member that was in force when the registry accepted it.
func anchoredLogOf(v *registry.View, member civibus.MemberID, note []byte) (a anchoredLog, err error) {
	origin, _, _ := strings.Cut(string(note), "\n")
	a.origin = origin
	if a.size, a.root, err = evidence.CheckpointOf(note, origin, nil); err != nil {
		return a, err
	}
	_, raw, ok, err := v.AnchorEvent(origin, a.size)
	if err != nil {
		return a, err
	}
	if !ok {
		return a, errNotYet
	}
	var event registrypb.Event
	if err := proto.Unmarshal(raw, &event); err != nil {
		return a, fmt.Errorf("anchor event of %s: %w", origin, err)
	}
	at := event.GetLogAnchored()
	if at.GetMember() != member.String() || string(at.GetRoot()) != string(a.root[:]) {
		return a, fmt.Errorf("the registry has another state of %s at size %d, or it is not a log of %s", origin, a.size, member)
	}
	a.height = event.Height
	for _, k := range v.KeysOf(member, civibus.LogKey) {
		if k.InForce(a.height) {
			if _, _, err := evidence.CheckpointOf(note, origin, &k.PublicKey); err == nil {
				return a, nil
			}
		}
	}
	return a, fmt.Errorf("the checkpoint of %s is not signed by a log key of %s that was in force at height %d", origin, member, a.height)
}

// check holds the other body's half of an exchange against the own record: it is
// that body's, about the same messages, and a leaf of its anchored log. What its
// record says of the registry's facts is verified whenever a receipt is made.
func (a anchoredLog) check(h *evidencepb.HalfReceipt, own *evidencepb.Record) error {
	raw, rec, err := restore(h, own)
	if err != nil {
		return err
	}
	if len(h.Salt) != 16 {
		return fmt.Errorf("its salt has %d bytes, the rule is 16", len(h.Salt))
	}
	leaf := evidence.Leaf([16]byte(h.Salt), raw)
	if err := evidence.VerifyInclusion(leaf, h.Index, a.size, a.root, h.Inclusion); err != nil {
		if h.Trimmed {
			return fmt.Errorf("%w: %w", errWhole, err)
		}
		return err
	}
	switch {
	case rec.Side == own.Side || rec.ExchangeId != own.ExchangeId || rec.Client != own.Client || rec.Service != own.Service:
		return errors.New("its record is not of the other side of the same exchange")
	case rec.RegistryHeight > a.height:
		return fmt.Errorf("it was anchored at height %d and says that it was decided at %d", a.height, rec.RegistryHeight)
	case !sameSeal(own.Request, rec.Request) || !sameSeal(own.Response, rec.Response):
		return errors.New("its seals are not those that this body has")
	}
	return nil
}

// halfFits reports whether a kept half is of the same exchange as the own record:
// there may be several with one id, of which one half is kept. All else was
// checked when it was taken in.
func halfFits(raw []byte, own *evidencepb.Record) (bool, error) {
	var c evidencepb.Counterpart
	if err := proto.Unmarshal(raw, &c); err != nil || c.Half == nil {
		return false, fmt.Errorf("the other body's half does not decode: %w", cmp.Or(err, errors.New("there is no half")))
	}
	at := anchoredLog{height: math.MaxUint64}
	at.origin, _, _ = strings.Cut(string(c.Checkpoint), "\n")
	var err error
	if at.size, at.root, err = evidence.CheckpointOf(c.Checkpoint, at.origin, nil); err != nil {
		return false, fmt.Errorf("the other body's half: %w", err)
	}
	return at.check(c.Half, own) == nil, nil
}

// keptHalf takes a kept half apart: record, salt and tlog-proof, ready for a
// receipt, and the log's state it is proven in.
func keptHalf(raw []byte, own *evidencepb.Record) (record, salt, tlogProof []byte, origin string, size uint64, err error) {
	var c evidencepb.Counterpart
	if err = proto.Unmarshal(raw, &c); err == nil && c.Half == nil {
		err = errors.New("there is no half")
	}
	if err != nil {
		return nil, nil, nil, "", 0, fmt.Errorf("the other body's half does not decode: %w", err)
	}
	if record, _, err = restore(c.Half, own); err != nil {
		return nil, nil, nil, "", 0, fmt.Errorf("the other body's half: %w", err)
	}
	origin, _, _ = strings.Cut(string(c.Checkpoint), "\n")
	if size, _, err = evidence.CheckpointOf(c.Checkpoint, origin, nil); err != nil {
		return nil, nil, nil, "", 0, fmt.Errorf("the other body's half: %w", err)
	}
	p := fproof.TLogProof{Index: c.Half.Index, Checkpoint: c.Checkpoint}
	for _, h := range c.Half.Inclusion {
		if len(h) != 32 {
			return nil, nil, nil, "", 0, errors.New("the other body's half: a hash of its proof has not 32 bytes")
		}
		p.Hashes = append(p.Hashes, [32]byte(h))
	}
	return record, c.Half.Salt, p.Marshal(), origin, size, nil
}
