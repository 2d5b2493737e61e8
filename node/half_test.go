package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/node"
)

const anchoredAt = 9

// otherSide is the provider's half of an exchange, leaf 1 of a log of two.
type otherSide struct {
	own, theirs *evidencepb.Record
	record      []byte // theirs, as the provider keeps it
	half        *evidencepb.HalfReceipt
	root        [32]byte
}

func seal(text string) *evidencepb.Seal {
	return &evidencepb.Seal{Base: []byte(text), Signature: bytes.Repeat([]byte{7}, 64), KeyId: bytes.Repeat([]byte{8}, 32)}
}

// newOtherSide makes a consumer's record and the provider's half; change, which
// may be nil, changes the provider's record before it becomes a leaf.
func newOtherSide(t *testing.T, change func(theirs *evidencepb.Record)) *otherSide {
	t.Helper()
	s := &otherSide{own: &evidencepb.Record{
		Version: 1, Side: evidencepb.Side_SIDE_CONSUMER, ExchangeId: "x", Client: "DEMO/GOV/1/a", Service: "DEMO/GOV/2/b/c",
		RegistryHeight: 5, Outcome: evidencepb.Outcome_OUTCOME_ANSWERED, Status: 200, Request: seal("request"), Response: seal("response"),
	}}
	s.theirs = proto.Clone(s.own).(*evidencepb.Record)
	s.theirs.Side, s.theirs.RegistryHeight, s.theirs.StartedUnixNano = evidencepb.Side_SIDE_PROVIDER, 6, 1234567
	if change != nil {
		change(s.theirs)
	}
	var err error
	if s.record, err = (proto.MarshalOptions{Deterministic: true}).Marshal(s.theirs); err != nil {
		t.Fatal(err)
	}
	trimmed, err := node.Trim(s.theirs)
	if err != nil {
		t.Fatal(err)
	}
	salt := [16]byte{1, 2, 3}
	other := rfc6962.DefaultHasher.HashLeaf([]byte("another leaf"))
	leaf := rfc6962.DefaultHasher.HashLeaf(evidence.Leaf(salt, s.record))
	s.root = [32]byte(rfc6962.DefaultHasher.HashChildren(other, leaf))
	s.half = &evidencepb.HalfReceipt{ExchangeId: "x", Record: trimmed, Trimmed: true, Salt: salt[:], Index: 1, Inclusion: [][]byte{other}}
	return s
}

func (s *otherSide) whole() *otherSide {
	s.half.Record, s.half.Trimmed = s.record, false
	return s
}

func (s *otherSide) check() error {
	return node.CheckHalf("civibus/DEMO/GOV/2/evidence/1", 2, s.root, anchoredAt, s.half, s.own)
}

func TestTrimmedHalfIsTheOtherBodysRecord(t *testing.T) {
	s := newOtherSide(t, nil)
	if len(s.half.Record) >= len(s.record)-150 {
		t.Errorf("the trimmed record has %d bytes, the whole one %d", len(s.half.Record), len(s.record))
	}
	if s.theirs.Request == nil || len(s.theirs.Request.Base) == 0 {
		t.Error("trimming changed the record itself")
	}
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	// What is kept gives the record back, byte for byte, and a tlog-proof of it.
	checkpoint := fmt.Appendf(nil, "civibus/DEMO/GOV/2/evidence/1\n2\n%s\n\n— x AAAAAAAA\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	kept, err := proto.Marshal(&evidencepb.Counterpart{Half: s.half, Checkpoint: checkpoint})
	if err != nil {
		t.Fatal(err)
	}
	record, salt, text, origin, size, err := node.KeptHalf(kept, s.own)
	if err != nil || !bytes.Equal(record, s.record) || !bytes.Equal(salt, s.half.Salt) || origin != "civibus/DEMO/GOV/2/evidence/1" || size != 2 {
		t.Fatalf("kept half: %x %x %q %d %v", record, salt, origin, size, err)
	}
	if want := "c2sp.org/tlog-proof@v1\nindex 1\n"; !bytes.HasPrefix(text, []byte(want)) || !bytes.HasSuffix(text, checkpoint) {
		t.Fatalf("tlog-proof %q", text)
	}
	if err := s.whole().check(); err != nil {
		t.Fatalf("the same half, whole: %v", err)
	}
}

// TestHalfThatDoesNotFitIsAskedForWhole has records that cannot be completed
// with the own seals: the other body is asked for all of them.
func TestHalfThatDoesNotFitIsAskedForWhole(t *testing.T) {
	for name, change := range map[string]func(*otherSide){
		"another salt":          func(s *otherSide) { s.half.Salt[0]++ },
		"another seal here":     func(s *otherSide) { s.own.Response = seal("something else") },
		"no seal here":          func(s *otherSide) { s.own.Response = nil },
		"another leaf":          func(s *otherSide) { s.half.Index = 0 },
		"another log":           func(s *otherSide) { s.root[0]++ },
		"no proof":              func(s *otherSide) { s.half.Inclusion = nil },
		"a record that changed": func(s *otherSide) { s.half.Record = append(s.half.Record, 0x40, 0x01) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newOtherSide(t, nil)
			change(s)
			if err := s.check(); !errors.Is(err, node.ErrWhole) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestFalseHalfIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*evidencepb.Record)
		after  func(*otherSide)
	}{
		"of the same side":      {before: func(r *evidencepb.Record) { r.Side = evidencepb.Side_SIDE_CONSUMER }},
		"of another exchange":   {before: func(r *evidencepb.Record) { r.ExchangeId = "y" }},
		"of another client":     {before: func(r *evidencepb.Record) { r.Client = "DEMO/GOV/3/a" }},
		"of another service":    {before: func(r *evidencepb.Record) { r.Service = "DEMO/GOV/2/b/d" }},
		"decided in the future": {before: func(r *evidencepb.Record) { r.RegistryHeight = anchoredAt + 1 }},
		"with another request":  {before: func(r *evidencepb.Record) { r.Request = seal("forged") }},
		"with another response": {before: func(r *evidencepb.Record) { r.Response = seal("forged") }},
		"not in the log":        {after: func(s *otherSide) { s.half.Inclusion[0][0]++ }},
		"with a short salt":     {after: func(s *otherSide) { s.half.Salt = s.half.Salt[:15] }},
		"not a record":          {after: func(s *otherSide) { s.half.Record = []byte{0xff} }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newOtherSide(t, c.before).whole()
			if c.after != nil {
				c.after(s)
			}
			if err := s.check(); err == nil || errors.Is(err, node.ErrWhole) {
				t.Fatalf("got %v", err)
			}
		})
	}
	// The same records in a half that says that they are not trimmed.
	s := newOtherSide(t, nil)
	s.half.Trimmed = false
	if err := s.check(); err == nil {
		t.Fatal("a trimmed record passed for a whole one")
	}
}

func TestKeptHalfThatIsDamaged(t *testing.T) {
	own := newOtherSide(t, nil).own
	for name, raw := range map[string][]byte{"empty": nil, "no message": {0xff}} {
		if _, _, _, _, _, err := node.KeptHalf(raw, own); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}
