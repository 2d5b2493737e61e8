package registry_test

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/registrypb"
)

// evidence is a body's log as the registry gets to know it.
type evidence struct {
	log   *eventlog.Log
	store map[string][]byte
}

func (e *evidence) Get(key []byte) ([]byte, error) { return e.store[string(key)], nil }

func newEvidence(t testing.TB) *evidence {
	t.Helper()
	e := &evidence{store: map[string][]byte{}}
	e.log = must(eventlog.Open(e, "", 0))
	return e
}

func (e *evidence) grow(n int, salt string) *eventlog.Head {
	var leaves [][]byte
	for i := range n {
		leaves = append(leaves, fmt.Appendf(nil, "%s %d", salt, i))
	}
	u := e.log.Prepare(leaves)
	for _, p := range u.Writes() {
		e.store[string(p.Key)] = p.Value
	}
	e.log.Accept(u)
	return u.Head()
}

// anchor makes an AnchorLog for B's first log.
func anchor(h *eventlog.Head, old uint64) *registrypb.AnchorLog {
	m := &registrypb.AnchorLog{Checkpoint: checkpointNote(edKey("B/log"), originB, h.Size(), h.Root(), ""), OldSize: old}
	if old <= h.Size() {
		m.Consistency = must(h.Consistency(old))
	}
	return m
}

const originB = "civibus/TEST/GOV/B/evidence/1"

func TestAnchors(t *testing.T) {
	w := newWorld(t)
	log := edKey("B/log")
	e := newEvidence(t)
	h5 := e.grow(5, "a")
	first := w.ok(log, anchor(h5, 0))
	l, ok := w.view().Log(originB)
	if !ok || l.Size != 5 || l.Root != h5.Root() || l.Anchored != w.m.Height() || l.Member != member("B") {
		t.Fatalf("got %+v, %v", l, ok)
	}
	h9 := e.grow(4, "b")
	w.ok(log, anchor(h9, 5))
	h12 := e.grow(3, "c")

	other := newEvidence(t)
	other.grow(5, "x")
	fork9 := other.grow(4, "y")
	fork12 := other.grow(3, "z")
	w.refused(registry.RollbackCheckpoint, log, anchor(h5, 0))
	w.refused(registry.RollbackCheckpoint, log, anchor(h5, 9))
	w.refused(registry.ForkedCheckpoint, log, anchor(fork9, 5))
	w.refused(registry.NoChange, log, anchor(h9, 5))
	w.refused(registry.InconsistentCheckpoint, log, anchor(fork12, 9))
	w.refused(registry.StaleCheckpoint, log, anchor(h12, 5))
	w.refused(registry.StaleCheckpoint, log, anchor(h12, 0))
	bad := anchor(h12, 9)
	bad.Consistency = bad.Consistency[1:]
	w.refused(registry.InconsistentCheckpoint, log, bad)
	bad = anchor(h12, 9)
	bad.Consistency[0] = bad.Consistency[0][:31]
	w.refused(registry.InconsistentCheckpoint, log, bad)
	bad = anchor(h12, 9)
	bad.Consistency = make([][]byte, 65)
	w.refused(registry.InvalidField, log, bad)
	// The refusals left no trace: the right one is accepted.
	last := w.ok(log, anchor(h12, 9))

	// The event is found by the checkpoint's size.
	for size, b := range map[uint64]*registry.Block{5: first, 12: last} {
		index, event, ok, err := w.view().AnchorEvent(originB, size)
		if err != nil || !ok || !bytes.Equal(event, b.Events[0]) {
			t.Fatalf("anchor at size %d: %v, %v", size, ok, err)
		}
		var e registrypb.Event
		if err := proto.Unmarshal(event, &e); err != nil || e.GetLogAnchored().GetSize() != size {
			t.Fatalf("anchor at size %d: event %v, %v", size, &e, err)
		}
		hashes := must(w.view().ProveEvent(index))
		if err := eventlog.VerifyInclusion(event, index, w.view().EventSize(), w.view().EventRoot(), hashes); err != nil {
			t.Error(err)
		}
	}
	if _, _, ok, err := w.view().AnchorEvent(originB, 6); ok || err != nil {
		t.Errorf("an anchor that never was: %v, %v", ok, err)
	}
}

func TestBadCheckpoints(t *testing.T) {
	w := newWorld(t)
	log, h := edKey("B/log"), newEvidence(t).grow(5, "a")
	note := func(s *testSigner, origin string, extra string) []byte {
		return checkpointNote(s, origin, h.Size(), h.Root(), extra)
	}
	good := note(log, originB, "")
	other := edKey("B/log of another name")
	w.ok(edKey("B/admin"), addKey(other, idB, civibus.LogKey))
	for name, checkpoint := range map[string][]byte{
		"empty":             nil,
		"garbage":           []byte("garbage"),
		"unsigned":          good[:bytes.Index(good, []byte("\n\n"))+2],
		"changed":           bytes.Replace(note(other, originB, ""), []byte("\n5\n"), []byte("\n6\n"), 1),
		"other's origin":    note(log, "civibus/TEST/GOV/A/evidence/1", ""),
		"number 0":          note(log, "civibus/TEST/GOV/B/evidence/0", ""),
		"number 01":         note(log, "civibus/TEST/GOV/B/evidence/01", ""),
		"number of letters": note(log, "civibus/TEST/GOV/B/evidence/x", ""),
		"other's key":       note(edKey("A/log"), originB, ""),
		"seal key":          note(edKey("B/seal"), originB, ""),
		"extension line":    note(log, originB, "more\n"),
		"empty log":         checkpointNote(log, originB, 0, h.Root(), ""),
		"too large":         append(bytes.Clone(good), bytes.Repeat([]byte("— x AAAAAAA=\n"), 400)...),
		"carriage return":   bytes.Replace(good, []byte("\n5\n"), []byte("\r\n5\n"), 1),
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			m := &registrypb.AnchorLog{Checkpoint: checkpoint}
			w.refused(registry.BadCheckpoint, log, m)
			if r := w.m.Check(w.tx(log, m)); r.Code != registry.BadCheckpoint {
				t.Errorf("Check says %s", r.Code)
			}
		})
	}
	w.t = t
	w.refused(registry.NotFound, log, &registrypb.AnchorLog{Checkpoint: note(log, "civibus/TEST/GOV/B/evidence/2", "")})
	w.ok(log, &registrypb.AnchorLog{Checkpoint: good})
	w.ok(log, &registrypb.AnchorLog{Checkpoint: note(log, "civibus/TEST/GOV/B/evidence/2", "")})
	if logs := w.view().LogsOf(member("B")); len(logs) != 2 || logs[1].Origin != "civibus/TEST/GOV/B/evidence/2" {
		t.Errorf("logs of B: %+v", logs)
	}
	// Another signature, as a witness adds one, does no harm.
	w.refused(registry.NoChange, log, &registrypb.AnchorLog{Checkpoint: append(bytes.Clone(good), "— witness.example AAAAAQIDBAUGBwgJ\n"...)})
}

// TestCheckpointOfTheEnvelopesKey: the envelope's signature covers the note, so that
// a signature in it by the same key is not looked at; in protocol 0 it is.
func TestCheckpointOfTheEnvelopesKey(t *testing.T) {
	log, h := edKey("B/log"), newEvidence(t).grow(5, "a")
	changed := bytes.Replace(checkpointNote(log, originB, 5, h.Root(), ""), []byte("\n5\n"), []byte("\n6\n"), 1)
	w := newWorld(t)
	w.ok(log, &registrypb.AnchorLog{Checkpoint: changed})
	if logs := w.view().LogsOf(member("B")); len(logs) != 1 || logs[0].Size != 6 {
		t.Errorf("logs of B: %+v", logs)
	}
	w = newWorldOf(t, firstGenesis())
	w.refused(registry.BadCheckpoint, log, &registrypb.AnchorLog{Checkpoint: changed})
}

// TestSuspendedLogIsWitnessed: a suspended body's evidence goes on.
func TestSuspendedLogIsWitnessed(t *testing.T) {
	w := newWorld(t)
	w.ok(edKey("A/admin"), &registrypb.SetMemberStatus{Id: idB, Status: suspended})
	w.ok(edKey("B/log"), anchor(newEvidence(t).grow(3, "a"), 0))
	w.refused(registry.MemberNotActive, edKey("B/log"), &registrypb.Notarise{Digest: make([]byte, 32)})
}

// TestEvidenceOriginEscapesPlus: note key names have no "+".
func TestEvidenceOriginEscapesPlus(t *testing.T) {
	got := registry.EvidenceOrigin(civibus.MemberID{Instance: "T", Class: "GOV", Code: "a+b ü"}, 7)
	if want := "civibus/T/GOV/a%2Bb%20%C3%BC/evidence/7"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
