package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
)

// TestRotation replaces an admin key without a height at which none is in
// force.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	old, next := edKey("B/admin"), ecKey("B/admin2")
	add := addKey(next, idB, civibus.AdminKey)
	add.ActivateHeight = 10
	w.ok(old, add)
	id := old.public.ID
	w.ok(old, &registrypb.RevokeKey{KeyId: id[:], RevokeHeight: 12, Reason: 1})
	for w.m.Height() < 14 {
		h := w.m.Height() + 1
		name := func(s string) *registrypb.SetMember { return setMember(idB, fmt.Sprint(s, h), "") }
		b := w.block(w.tx(old, name("old")), w.tx(next, name("new")))
		if got, want := b.Results[0].Code == registry.OK, h < 12; got != want {
			t.Errorf("height %d: old key accepted %v, want %v: %s", h, got, want, b.Results[0].Reason)
		}
		if got, want := b.Results[1].Code == registry.OK, h >= 10; got != want {
			t.Errorf("height %d: new key accepted %v, want %v: %s", h, got, want, b.Results[1].Reason)
		}
		inForce := 0
		for _, k := range w.view().KeysOf(member("B"), civibus.AdminKey) {
			if k.InForce(h) {
				inForce++
			}
		}
		if inForce == 0 {
			t.Errorf("height %d: no admin key in force", h)
		}
	}
	k, ok := w.view().Key(id)
	if !ok || k.Revoke != 12 || k.Reason != "rotated" || k.InForce(12) || !k.InForce(11) {
		t.Errorf("the old key is %+v", k)
	}
}

// TestRevocationBroughtForward: an announced revocation can come earlier.
func TestRevocationBroughtForward(t *testing.T) {
	w := newWorld(t)
	id := edKey("B/seal").public.ID
	w.ok(edKey("B/admin"), &registrypb.RevokeKey{KeyId: id[:], RevokeHeight: 1000, Reason: 1})
	w.ok(edKey("B/admin"), &registrypb.RevokeKey{KeyId: id[:], Reason: 2})
	if k, _ := w.view().Key(id); k.Revoke != w.m.Height() || k.Reason != "compromised" {
		t.Errorf("the key is %+v", k)
	}
}

// TestRecovery: a registrar helps a top-level member whose only admin key was
// stolen: suspend, revoke, add, reactivate.
func TestRecovery(t *testing.T) {
	w := newWorld(t)
	reg, thief := edKey("A/admin"), edKey("B/admin")
	id := thief.public.ID
	w.refused(registry.NotAuthorised, reg, &registrypb.RevokeKey{KeyId: id[:], Reason: 2})
	w.ok(reg, &registrypb.SetMemberStatus{Id: idB, Status: suspended})
	w.refused(registry.MemberNotActive, thief, &registrypb.SetMemberStatus{Id: idB, Status: active})
	w.ok(reg, &registrypb.RevokeKey{KeyId: id[:], Reason: 2})
	w.ok(reg, addKey(edKey("B/admin2"), idB, civibus.AdminKey))
	w.ok(reg, &registrypb.SetMemberStatus{Id: idB, Status: active})
	w.refused(registry.KeyNotInForce, thief, setMember(idB, "Thief", ""))
	w.ok(edKey("B/admin2"), setMember(idB, "Body B again", ""))
	w.refused(registry.NotAuthorised, reg, addKey(edKey("B/admin3"), idB, civibus.AdminKey))
}

// TestHierarchy: a parent creates and administers its descendants with its own
// key, and hands one over to itself at another place.
func TestHierarchy(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	b := edKey("B/admin")
	const d = "TEST/GOV/D"
	w.ok(b, setMember(d, "Body D", idC)) // a grandchild
	w.ok(b, addKey(edKey("D/admin"), d, civibus.AdminKey))
	w.ok(b, &registrypb.SetSubsystem{Id: d + "/S", Name: "S"})
	w.ok(edKey("C/admin"), setService(d+"/S/svc"))
	w.ok(edKey("D/admin"), grant(d+"/S/svc", idB+"/POP"))
	w.refused(registry.NotAuthorised, edKey("D/admin"), setMember(d, "Body D", idB))
	w.ok(b, setMember(d, "Body D", idB))
	if got := w.view().Children(member("B")); len(got) != 2 || got[0].ID != member("C") || got[1].ID != member("D") {
		t.Errorf("children of B: %+v", got)
	}
	w.refused(registry.NotAuthorised, edKey("C/admin"), setService(d+"/S/svc2"))
	// A parent may take the last admin key: the member cannot act, the parent
	// can.
	id := edKey("D/admin").public.ID
	w.ok(b, &registrypb.RevokeKey{KeyId: id[:], Reason: 3})
	w.ok(b, addKey(edKey("D/admin2"), d, civibus.AdminKey))
	// The registrar creates a top-level member and gives it its first key.
	w.ok(edKey("A/admin"), setMember("TEST/MUN/E", "Town E", ""))
	w.ok(edKey("A/admin"), addKey(edKey("E/admin"), "TEST/MUN/E", civibus.AdminKey))
	w.ok(edKey("E/admin"), &registrypb.SetSubsystem{Id: "TEST/MUN/E/S", Name: "S"})
	w.refused(registry.NotAuthorised, edKey("A/admin"), addKey(edKey("E/admin2"), "TEST/MUN/E", civibus.AdminKey))
}

// TestTransportKey: certificates are kept and are over the key.
func TestTransportKey(t *testing.T) {
	w := newWorld(t)
	k := edKey("B/transport")
	m := addKey(k, idB, civibus.TransportKey)
	w.ok(edKey("B/admin"), m)
	got, ok := w.view().Key(k.public.ID)
	if !ok || !bytes.Equal(got.Certificate, m.Certificate) || got.Purpose != civibus.TransportKey || got.Activate != w.m.Height() {
		t.Errorf("got %+v, %v", got, ok)
	}
}

// rightsFor collects ids.
func rightsFor(v *registry.View, service, client string) []string {
	var ids []string
	for r := range v.RightsFor(must(civibus.ParseServiceID(service)), must(civibus.ParseClientID(client))) {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestRights(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	b := edKey("B/admin")
	const service, client = idB + "/POP/persons", idC + "/APP"
	w.ok(b, setService(service+"/v1"))
	w.ok(b, setService(service+"/v2"))
	w.ok(b, &registrypb.SetGroup{Id: "local/" + idB + "/POP/partners", Title: "Partners"})
	full := grant(service, client)
	full.Endpoints = []*registrypb.Endpoint{{Method: "GET", Path: "/a/*"}, {Method: "*", Path: "**"}}
	full.ValidFrom, full.ValidUntil = 1_000_000_000, 4_000_000_000
	full.RateLimit = &registrypb.RateLimit{Requests: 5, PerSeconds: 60}
	txs := [][]byte{
		w.tx(b, full), w.tx(b, grant(service+"/v1", client)), w.tx(b, groupGrant(service, "global/towns")),
		w.tx(b, groupGrant(service+"/v2", "local/"+idB+"/POP/partners")), w.tx(b, grant(service, idC)),
	}
	for _, r := range w.block(txs...).Results {
		if r.Code != registry.OK {
			t.Fatal(r.Reason)
		}
	}
	ids := make([]string, len(txs))
	for i, tx := range txs {
		ids[i] = rightID(tx)
	}
	check := func(what, service, client string, want ...int) {
		t.Helper()
		var wantIDs []string
		for _, i := range want {
			wantIDs = append(wantIDs, ids[i])
		}
		slices.Sort(wantIDs)
		if got := rightsFor(w.view(), service, client); !slices.Equal(got, wantIDs) {
			t.Errorf("%s: got %v, want %v", what, got, wantIDs)
		}
	}
	r, ok := w.view().Right(ids[0])
	if !ok || r.Client.String() != client || len(r.Endpoints) != 2 || r.Limit != (civibus.RateLimit{Requests: 5, Per: time.Minute}) ||
		r.ValidUntil.Unix() != 4_000_000_000 || r.Status != civibus.Active || r.Purpose != "test" {
		t.Errorf("right: %+v, %v", r, ok)
	}
	check("no version", service, client, 0)
	check("version 1", service+"/v1", client, 0, 1)
	check("the member itself", service, idC, 4)
	check("another", service, idA)
	before := w.view()
	w.ok(edKey("A/admin"), &registrypb.SetGroupMember{Group: "global/towns", Client: client, Member: true})
	w.ok(b, &registrypb.SetGroupMember{Group: "local/" + idB + "/POP/partners", Client: client, Member: true})
	check("in groups", service+"/v2", client, 0, 2, 3)
	if !w.view().InGroup("global/towns", must(civibus.ParseClientID(client))) || before.InGroup("global/towns", must(civibus.ParseClientID(client))) {
		t.Error("InGroup does not follow the view")
	}
	if members, _ := w.view().GroupMembers("global/towns", "", 0); len(members) != 1 || members[0].String() != client {
		t.Errorf("members of the group: %v", members)
	}
	// Rights that share a hash with others are still told apart.
	collided := registry.Collide(w.view(), [2]string{service, client}, [2]string{service, idC}, [2]string{service, idA}, [2]string{service, "global/towns"}, [2]string{service, "local/" + idB + "/POP/partners"})
	for _, subject := range []string{client, idC, idA} {
		for _, version := range []string{"", "/v1", "/v2"} {
			if got, want := rightsFor(collided, service+version, subject), rightsFor(w.view(), service+version, subject); !slices.Equal(got, want) {
				t.Errorf("all in one list, %s%s for %s: got %v, want %v", service, version, subject, got, want)
			}
		}
	}
	// A superseded right ends in the block that grants its successor.
	super := grant(service, client)
	super.Supersedes = ids[0]
	env := w.tx(b, super)
	block := w.block(env)
	if block.Results[0].Code != registry.OK || len(block.Events) != 3 {
		t.Fatalf("%+v: %d events", block.Results[0], len(block.Events))
	}
	ids = append(ids, rightID(env))
	check("superseded", service, client, 2, 5)
	old, _ := w.view().Right(ids[0])
	if old.Status != civibus.Ended || old.Periods[0].To != w.m.Height() {
		t.Errorf("the superseded right is %+v", old)
	}
	// Suspended rights are still shown, ended ones are not.
	w.ok(b, &registrypb.SetRightStatus{Id: ids[5], Status: suspended})
	check("suspended", service, client, 2, 5)
	w.ok(b, &registrypb.SetRightStatus{Id: ids[5], Status: ended})
	w.ok(edKey("A/admin"), &registrypb.SetGroupMember{Group: "global/towns", Client: client})
	check("all over", service, client)
	w.refused(registry.Ended, b, &registrypb.SetRightStatus{Id: ids[5], Status: active})
}

// TestPeriods: what was in force when stays visible.
func TestPeriods(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	created := w.m.Height()
	status := func(s registrypb.Status) uint64 {
		w.ok(edKey("B/admin"), &registrypb.SetSubsystemStatus{Id: idB + "/POP", Status: s})
		return w.m.Height()
	}
	down := status(suspended)
	w.block()
	up := status(active)
	w.block()
	gone := status(ended)
	s, _ := w.view().Subsystem(must(civibus.ParseClientID(idB + "/POP")))
	want := []civibus.Period{{From: created, To: down}, {From: up, To: gone}}
	if !slices.Equal(s.Periods, want) || s.Status != civibus.Ended {
		t.Errorf("periods %v, want %v", s.Periods, want)
	}
	// Within one block a period is as if it had not been.
	admin := edKey("C/admin")
	sub := func(s registrypb.Status) []byte {
		return w.tx(admin, &registrypb.SetSubsystemStatus{Id: idC + "/APP", Status: s})
	}
	before, _ := w.view().Subsystem(must(civibus.ParseClientID(idC + "/APP")))
	for _, r := range w.block(sub(suspended), sub(active), sub(suspended), sub(active)).Results {
		if r.Code != registry.OK {
			t.Fatal(r.Reason)
		}
	}
	after, _ := w.view().Subsystem(must(civibus.ParseClientID(idC + "/APP")))
	if !slices.Equal(before.Periods, after.Periods) {
		t.Errorf("periods %v became %v", before.Periods, after.Periods)
	}
}

// TestNotarisation is recorded once and seen by the views that follow.
func TestNotarisation(t *testing.T) {
	w := newWorld(t)
	before := w.view()
	digest := sha256.Sum256([]byte("salted content"))
	twice := w.block(w.tx(edKey("B/log"), &registrypb.Notarise{Digest: digest[:]}), w.tx(edKey("A/log"), &registrypb.Notarise{Digest: digest[:]}))
	if twice.Results[0].Code != registry.OK || twice.Results[1].Code != registry.AlreadyExists {
		t.Fatalf("results %+v", twice.Results)
	}
	n, ok, err := w.view().Notarisation(digest)
	if err != nil || !ok || n.Member != member("B") || n.Height != w.m.Height() || !n.Time.Equal(w.now) || n.Digest != digest {
		t.Errorf("got %+v, %v, %v", n, ok, err)
	}
	if _, ok, _ := before.Notarisation(digest); ok {
		t.Error("an old view knows a later notarisation")
	}
	key := "notary/" + hex.EncodeToString(digest[:])
	proveAll(t, w.view(), key)
	if value, _, err := before.ProveState(key); err != nil || value != nil {
		t.Errorf("an old view proves %x, %v", value, err)
	}
}

// proveAll proves state keys against the view's root.
func proveAll(t testing.TB, v *registry.View, keys ...string) {
	t.Helper()
	for _, key := range keys {
		value, proof, err := v.ProveState(key)
		if err != nil {
			t.Fatal(err)
		}
		var p registrypb.StateProof
		if err := proto.Unmarshal(proof, &p); err != nil {
			t.Fatal(err)
		}
		if err := smt.Verify(v.StateRoot(), key, value, &p); err != nil {
			t.Errorf("height %d: %v", v.Height(), err)
		}
	}
}

// TestEveryRecordIsProvable proves each kind of record with its value, and the
// absence of each.
func TestEveryRecordIsProvable(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	b := edKey("B/admin")
	env := w.tx(b, grant(idB+"/POP/persons", idC+"/APP"))
	w.block(env, w.tx(edKey("A/admin"), &registrypb.SetGroupMember{Group: "global/towns", Client: idC + "/APP", Member: true}),
		w.tx(edKey("B/log"), anchor(newEvidence(t).grow(3, "a"), 0)), w.tx(edKey("A/log"), &registrypb.Notarise{Digest: make([]byte, 32)}))
	present := []string{
		"member/" + idB, "key/" + b.public.ID.String(), "subsystem/" + idB + "/POP", "service/" + idB + "/POP/persons", "right/" + rightID(env),
		"group/global/towns", "groupmember/global/towns|" + idC + "/APP", "log/" + originB, "notary/" + hex.EncodeToString(make([]byte, 32)),
		"sequence/" + b.public.ID.String(), "params",
	}
	for _, key := range present {
		if value, _, err := w.view().ProveState(key); err != nil || value == nil {
			t.Errorf("%q: value %x, %v", key, value, err)
		}
		proveAll(t, w.view(), key, key+"x")
		if value, _, err := w.view().ProveState(key + "x"); err != nil || value != nil {
			t.Errorf("%qx: value %x, %v", key, value, err)
		}
	}
	proveAll(t, w.view(), "", "nonsense", "member/", "notary/xyz")
}

// TestEvents: each accepted transaction's records, then the block's end, which
// binds the state root; refused ones and empty blocks leave nothing.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	if got, want := w.view().EventSize(), uint64(1+3+12+2+3+1); got != want {
		t.Fatalf("the genesis has %d events, want %d", got, want)
	}
	before := w.view()
	good := w.tx(edKey("B/admin"), &registrypb.SetSubsystem{Id: idB + "/POP", Name: "Population"})
	block := w.block(good, w.tx(edKey("C/admin"), &registrypb.SetSubsystem{Id: idB + "/X", Name: "X"}))
	v := w.view()
	if len(block.Events) != 2 || v.EventSize() != before.EventSize()+2 {
		t.Fatalf("%d events", len(block.Events))
	}
	var first, last registrypb.Event
	if err := proto.Unmarshal(block.Events[0], &first); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(block.Events[1], &last); err != nil {
		t.Fatal(err)
	}
	hash, root := registry.TxHash(good), v.StateRoot()
	if first.Height != 1 || first.Author != idB || !bytes.Equal(first.TxHash, hash[:]) || first.GetSubsystemSet().GetName() != "Population" {
		t.Errorf("first event: %v", &first)
	}
	if c := last.GetBlockCommitted(); c == nil || !bytes.Equal(c.StateRoot, root[:]) || c.Transactions != 1 || c.TimeUnixNano != w.now.UnixNano() || last.Index != 1 {
		t.Errorf("last event: %v", &last)
	}
	for i := range v.EventSize() {
		e := must(v.Event(i))
		if err := eventlog.VerifyInclusion(e, i, v.EventSize(), v.EventRoot(), must(v.ProveEvent(i))); err != nil {
			t.Error(err)
		}
		if i < before.EventSize() {
			if err := eventlog.VerifyInclusion(e, i, before.EventSize(), before.EventRoot(), must(v.ProveEventAt(i, before.EventSize()))); err != nil {
				t.Error(err)
			}
		}
	}
	if err := eventlog.VerifyConsistency(before.EventSize(), v.EventSize(), before.EventRoot(), v.EventRoot(), must(v.ConsistencyProof(before.EventSize()))); err != nil {
		t.Error(err)
	}
	if root, err := v.EventRootAt(before.EventSize()); err != nil || root != before.EventRoot() {
		t.Errorf("root at the old size: %v", err)
	}
	if size, ok, err := v.EventSizeAt(1); err != nil || !ok || size != v.EventSize() {
		t.Errorf("size at height 1: %d, %v, %v", size, ok, err)
	}
	empty := w.block()
	if empty.AppHash != block.AppHash || len(empty.Events) != 0 || w.view().EventSize() != v.EventSize() || w.m.Height() != 2 {
		t.Error("an empty block changed something but the height")
	}
	if _, ok, _ := w.view().EventSizeAt(2); ok {
		t.Error("an empty block has an event log size")
	}
	if want := registry.ComputeAppHash(v.StateRoot(), v.EventRoot(), v.EventSize()); v.AppHash() != want {
		t.Error("the application hash is not made of the roots")
	}
}

// TestTimeNeverGoesBack even if a block's does.
func TestTimeNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	w.block()
	if _, err := w.m.Execute(2, w.now.Add(-time.Hour), nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.m.Commit(); err != nil {
		t.Fatal(err)
	}
	if !w.view().Time().Equal(w.now) {
		t.Errorf("the time is %s, want %s", w.view().Time(), w.now)
	}
}

// TestMisuse: errors and no panics for callers that do not keep the order.
func TestMisuse(t *testing.T) {
	m := must(registry.Open(registry.NewMemoryStore()))
	if m.View() != nil || m.Height() != 0 || m.AppHash() != [32]byte{} {
		t.Error("a registry without genesis has a view")
	}
	if r := m.Check([]byte("x")); r.Code != registry.Unavailable {
		t.Errorf("Check without genesis: %s", r.Code)
	}
	if _, err := m.Execute(1, time.Now(), nil, nil); err == nil {
		t.Error("Execute without genesis: no error")
	}
	if m.Commit() == nil {
		t.Error("Commit without a block: no error")
	}
	if err := m.Dump(&bytes.Buffer{}); err == nil {
		t.Error("Dump without genesis: no error")
	}
	w := newWorld(t)
	if _, err := w.m.Init(testGenesis()); err == nil {
		t.Error("a second Init: no error")
	}
	w.block()
	for _, h := range []uint64{0, 1, 3} {
		if _, err := w.m.Execute(h, w.now, nil, nil); err == nil {
			t.Errorf("Execute of height %d after 1: no error", h)
		}
	}
	if w.m.Commit() == nil {
		t.Error("Commit after a failed Execute: no error")
	}
}
