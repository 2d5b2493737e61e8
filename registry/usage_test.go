package registry_test

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// usageAnchor is a period of B's first log, with one record shown for every third leaf.
func usageAnchor(period, first, end uint64, until time.Time) *registrypb.AnchorUsage {
	root := sha256.Sum256([]byte{byte(period)})
	return &registrypb.AnchorUsage{Log: 1, Period: period, FirstLeaf: first, EndLeaf: end, Until: until.Unix(), Shown: (end - first) / 3, Root: root[:]}
}

func personGrant(d registrypb.Disclosure, from int64) *registrypb.GrantRight {
	g := grant(idB+"/POP/persons", idC+"/APP")
	g.Disclosure, g.DisclosedFrom, g.Sentence = d, from, "The application office looked up your address."
	return g
}

// TestUsagePeriods: each period begins where the one before ended, is of leaves that are
// anchored, adds to the totals, is an event and can be proved.
func TestUsagePeriods(t *testing.T) {
	w := newWorld(t)
	log := edKey("B/log")
	e := newEvidence(t)
	h := e.grow(30, "a")
	w.ok(log, anchor(h, 0))
	now := w.now
	b := w.ok(log, usageAnchor(1, 0, 9, now))
	var event registrypb.Event
	if err := proto.Unmarshal(b.Events[0], &event); err != nil {
		t.Fatal(err)
	}
	if m := event.GetUsageAnchored(); m.GetOrigin() != originB || m.Count.Shown != 3 || m.EndLeaf != 9 {
		t.Errorf("event %v", &event)
	}
	second := usageAnchor(2, 9, 30, now.Add(time.Second))
	second.Later, second.Never = 2, 1
	w.ok(log, second)
	got, ok := w.view().UsagePeriod(originB)
	if !ok || got.Period != 2 || got.FirstLeaf != 9 || !got.From.Equal(time.Unix(now.Unix(), 0)) || got.Count != (registry.UsageCount{Shown: 7, Later: 2, Never: 1}) ||
		got.Total != (registry.UsageCount{Shown: 10, Later: 2, Never: 1}) || !bytes.Equal(got.Root[:], second.Root) || got.Anchored != w.view().Height() {
		t.Errorf("period %+v", got)
	}
	if of := w.view().UsagePeriodsOf(must(civibus.ParseMemberID(idB))); len(of) != 1 || of[0].Origin != originB {
		t.Errorf("periods of the member: %+v", of)
	}
	if of := w.view().UsagePeriodsOf(must(civibus.ParseMemberID(idA))); len(of) != 0 {
		t.Errorf("periods of another member: %+v", of)
	}
	if value, _, err := w.view().ProveState("usage/" + originB); err != nil || value == nil {
		t.Errorf("no value to prove: %v", err)
	}
	// A suspended body's records are still counted.
	w.ok(edKey("A/admin"), &registrypb.SetMemberStatus{Id: idB, Status: suspended})
	w.ok(log, anchor(e.grow(3, "b"), 30))
	w.ok(log, usageAnchor(3, 30, 33, now.Add(2*time.Second)))
}

// TestDisclosure: what keeps something from persons comes into force by a second key.
func TestDisclosure(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	shown := w.tx(edKey("B/admin"), personGrant(registrypb.Disclosure_DISCLOSURE_SHOWN, 0))
	w.block(shown)
	r, _ := w.view().Right(rightID(shown))
	if r.Status != civibus.Active || r.Disclosure != civibus.Shown || r.Sentence == "" || !r.GrantedBy.IsZero() {
		t.Errorf("right %+v", r)
	}
	from := w.now.Add(time.Hour).Unix()
	later := w.tx(edKey("B/admin"), personGrant(registrypb.Disclosure_DISCLOSURE_LATER, from))
	w.block(later)
	r, _ = w.view().Right(rightID(later))
	if r.Status != civibus.Suspended || len(r.Periods) != 0 || r.GrantedBy != edKey("B/admin").public.ID || r.DisclosedFrom.Unix() != from {
		t.Errorf("right %+v", r)
	}
	resume := &registrypb.SetRightStatus{Id: r.ID, Status: active}
	w.refused(registry.NotAuthorised, edKey("B/admin"), resume)
	w.ok(edKey("B/admin"), addKey(edKey("B/second"), idB, civibus.AdminKey))
	w.ok(edKey("B/second"), resume)
	r, _ = w.view().Right(rightID(later))
	if r.Status != civibus.Active || len(r.Periods) != 1 {
		t.Errorf("right %+v", r)
	}
	// Once approved, it is as any other.
	w.ok(edKey("B/admin"), &registrypb.SetRightStatus{Id: r.ID, Status: suspended})
	w.ok(edKey("B/admin"), resume)
	if back := must(registry.Open(w.store)); back.View().AppHash() != w.view().AppHash() {
		t.Error("another state after a restart")
	}
}

func usageRefusals(body bodyRun, after after, do doer) {
	now := testGenesis().Time
	body("usage of no log", registry.NotFound, "B/log", usageAnchor(1, 0, 3, now))
	body("usage with an admin key", registry.WrongPurpose, "B/admin", usageAnchor(1, 0, 3, now))
	with := func(name string, code registry.Code, change func(m *registrypb.AnchorUsage), before ...func(w *world)) {
		m := usageAnchor(1, 0, 3, now)
		change(m)
		after("usage: "+name, code, "B/log", m, before...)
	}
	with("log 0", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Log = 0 })
	with("root", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Root = m.Root[1:] })
	with("no leaves", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.EndLeaf = 0 })
	with("more records than leaves", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Never = 3 })
	with("so many that they overflow", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Shown, m.Never = 1<<63, 1<<63 })
	with("root of nothing", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Shown = 0 })
	with("period 0", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Period = 0 })
	with("a gap in the periods", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Period = 2 })
	with("a gap in the leaves", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.FirstLeaf = 1 })
	with("no time", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Until = 0 })
	with("the future", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Until = now.Add(time.Hour).Unix() })
	grown := func(w *world) { w.ok(edKey("B/log"), anchor(newEvidence(w.t).grow(5, "a"), 0)) }
	with("leaves that nobody witnessed", registry.StaleCheckpoint, func(m *registrypb.AnchorUsage) { m.EndLeaf = 6 }, grown)
	with("a period twice", registry.AlreadyExists, func(m *registrypb.AnchorUsage) { m.Shown = 2 }, grown, do("B/log", usageAnchor(1, 0, 3, now)))
	with("a stretch twice", registry.InvalidField, func(m *registrypb.AnchorUsage) { m.Period = 2 }, grown, do("B/log", usageAnchor(1, 0, 3, now)))

	grants := func(name string, change func(g *registrypb.GrantRight)) {
		g := personGrant(registrypb.Disclosure_DISCLOSURE_SHOWN, 0)
		change(g)
		body("grant: "+name, registry.InvalidField, "B/admin", g)
	}
	grants("no sentence", func(g *registrypb.GrantRight) { g.Sentence = "" })
	grants("sentence alone", func(g *registrypb.GrantRight) { g.Disclosure = 0 })
	grants("unknown disclosure", func(g *registrypb.GrantRight) { g.Disclosure = 4 })
	grants("date of what is shown", func(g *registrypb.GrantRight) { g.DisclosedFrom = now.Add(time.Hour).Unix() })
	grants("later without a date", func(g *registrypb.GrantRight) { g.Disclosure = registrypb.Disclosure_DISCLOSURE_LATER })
	grants("later in the past", func(g *registrypb.GrantRight) {
		g.Disclosure, g.DisclosedFrom = registrypb.Disclosure_DISCLOSURE_LATER, now.Unix()
	})
	grants("later than anybody lives", func(g *registrypb.GrantRight) {
		g.Disclosure, g.DisclosedFrom = registrypb.Disclosure_DISCLOSURE_LATER, now.AddDate(11, 0, 0).Unix()
	})
}

// drawUsageBody makes anchors that may or may not follow the one before.
func drawUsageBody(t *rapid.T, v *registry.View) (*testSigner, any) {
	last, _ := v.UsagePeriod(originB)
	end := last.EndLeaf + rapid.Uint64Range(0, 3).Draw(t, "leaves")
	m := usageAnchor(last.Period+rapid.Uint64Range(0, 1).Draw(t, "period"), last.EndLeaf, end, testGenesis().Time.Add(time.Duration(last.Period)*time.Second))
	m.Shown, m.Never = 0, rapid.Uint64Range(0, 2).Draw(t, "never")
	if m.Never == 0 {
		empty := sha256.Sum256(nil)
		m.Root = empty[:]
	}
	return edKey("B/log"), m
}
