package node_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/node"
)

// TestDeliveryLimits holds that what a hostile body can send is refused before
// it is decoded, and what an honest one sends is not.
func TestDeliveryLimits(t *testing.T) {
	hash := bytes.Repeat([]byte{1}, 32)
	half := func(change func(*evidencepb.HalfReceipt)) *evidencepb.HalfReceipt {
		h := &evidencepb.HalfReceipt{ExchangeId: "x", Record: []byte("record"), Trimmed: true, Salt: hash[:16], Index: 1, Inclusion: [][]byte{hash}}
		if change != nil {
			change(h)
		}
		return h
	}
	full := &evidencepb.HalfReceipts{Checkpoint: make([]byte, 4<<10)}
	for range 256 {
		full.Halves = append(full.Halves, half(nil))
	}
	for _, c := range []struct {
		name string
		in   *evidencepb.HalfReceipts
		says string // empty: it is within the limits
	}{
		{"nothing", &evidencepb.HalfReceipts{}, ""},
		{"as much as there may be", full, ""},
		{"a long whole record", &evidencepb.HalfReceipts{Halves: []*evidencepb.HalfReceipt{half(func(h *evidencepb.HalfReceipt) { h.Record, h.Trimmed = make([]byte, 300<<10), false })}}, ""},
		{"a long trimmed record", &evidencepb.HalfReceipts{Halves: []*evidencepb.HalfReceipt{half(func(h *evidencepb.HalfReceipt) { h.Record = make([]byte, 17<<10) })}}, "record"},
		{"a huge record", &evidencepb.HalfReceipts{Halves: []*evidencepb.HalfReceipt{half(func(h *evidencepb.HalfReceipt) { h.Record, h.Trimmed = make([]byte, 513<<10), false })}}, "record"},
		{"a long checkpoint", &evidencepb.HalfReceipts{Checkpoint: make([]byte, 5<<10)}, "checkpoint"},
		{"a long identifier", &evidencepb.HalfReceipts{From: strings.Repeat("x", 4<<10)}, "identifier"},
		{"too many halves", &evidencepb.HalfReceipts{Halves: make([]*evidencepb.HalfReceipt, 257)}, "halves"},
		{"too many hashes", &evidencepb.HalfReceipts{Halves: []*evidencepb.HalfReceipt{half(func(h *evidencepb.HalfReceipt) { h.Inclusion = make([][]byte, 65) })}}, "hashes"},
	} {
		for i := range c.in.Halves {
			if c.in.Halves[i] == nil {
				c.in.Halves[i] = &evidencepb.HalfReceipt{}
			}
		}
		raw, err := proto.Marshal(c.in)
		if err != nil {
			t.Fatal(err)
		}
		err = node.CheckHalves(raw)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, raw := range []string{"\x12", "\x12\x05\x00", "\x3a\x00", "\x0b\x0c", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if err := node.CheckHalves([]byte(raw)); err == nil {
			t.Errorf("%x passes", raw)
		}
	}
}

// TestDeliveriesAtOnce holds that one body cannot keep the others' out.
func TestDeliveriesAtOnce(t *testing.T) {
	var d node.Deliveries
	body := func(i int) civibus.MemberID {
		return civibus.MemberID{Instance: "T", Class: "GOV", Code: fmt.Sprint(i)}
	}
	if !d.Begin(body(0)) || d.Begin(body(0)) {
		t.Fatal("one of each body at a time is the rule")
	}
	for i := 1; i < 8; i++ {
		if !d.Begin(body(i)) {
			t.Fatalf("body %d is kept out", i)
		}
	}
	if d.Begin(body(8)) {
		t.Error("a ninth at once")
	}
	d.End(body(0))
	if !d.Begin(body(8)) {
		t.Error("the ninth is kept out for ever")
	}
}
