package registry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestDelegation: the delegate acts in what was delegated, for the root and those
// under it, until it ends or is revoked.
func TestDelegation(t *testing.T) {
	w := newWorld(t)
	a, b := edKey("A/admin"), edKey("B/admin")
	until := w.now.Add(time.Hour)
	acts := map[string]any{
		"directory": setMember(idC, "New name", idB),
		"keys":      addKey(edKey("C/seal2"), idC, civibus.SealKey),
		"catalogue": &registrypb.SetSubsystem{Id: idC + "/X", Name: "X"},
		"rights":    &registrypb.SetGroup{Id: "local/" + idC + "/APP/g", Title: "G"},
	}
	w.ok(edKey("C/admin"), &registrypb.SetSubsystem{Id: idC + "/APP", Name: "Application"})
	for _, body := range acts {
		w.refused(registry.NotAuthorised, a, body)
	}
	w.ok(b, &registrypb.Delegate{Root: idB, To: idA, Catalogue: true, Rights: true, Until: until.Unix()})
	w.refused(registry.NotAuthorised, a, acts["directory"])
	w.refused(registry.NotAuthorised, a, acts["keys"])
	w.ok(a, acts["catalogue"])
	w.ok(a, acts["rights"])
	// Wider, and further down.
	w.ok(b, &registrypb.Delegate{Root: idB, To: idA, Directory: true, Keys: true, Catalogue: true, Rights: true, Until: until.Unix()})
	w.ok(a, acts["directory"])
	w.ok(a, acts["keys"])
	w.ok(a, setMember("TEST/GOV/E", "E", idC))
	w.ok(a, &registrypb.SetNodes{Member: "TEST/GOV/E", Nodes: []*registrypb.NodeAddress{node("E")}})
	w.ok(a, &registrypb.RevokeKey{KeyId: keyIDBytes("C/seal"), Reason: 1})
	// Admin keys, the place at the top and the vote are nobody else's.
	w.refused(registry.NotAuthorised, a, &registrypb.RevokeKey{KeyId: keyIDBytes("C/admin"), Reason: 1})
	w.refused(registry.NotAuthorised, edKey("C/admin"), setMember(idC, "C", ""))
	w.ok(a, &registrypb.SetMemberStatus{Id: "TEST/GOV/E", Status: ended})
	// Time ends it, and revocation.
	d, ok := w.view().Delegation(member("B"), member("A"))
	if !ok || !d.InForce(w.now) || d.InForce(until) || len(d.Periods) != 1 {
		t.Errorf("delegation %+v", d)
	}
	w.now = until
	w.refused(registry.NotAuthorised, a, &registrypb.SetSubsystem{Id: idC + "/Y", Name: "Y"})
	w.ok(b, &registrypb.Delegate{Root: idB, To: idA, Catalogue: true})
	w.ok(a, &registrypb.SetSubsystem{Id: idC + "/Y", Name: "Y"})
	w.ok(a, &registrypb.RevokeDelegation{Root: idB, To: idA}) // it gives it back
	w.refused(registry.NotAuthorised, a, &registrypb.SetSubsystem{Id: idC + "/Z", Name: "Z"})
	w.ok(b, &registrypb.Delegate{Root: idB, To: idA, Catalogue: true})
	d, _ = w.view().Delegation(member("B"), member("A"))
	if len(d.Periods) != 2 || d.Periods[0].To == 0 || d.Periods[1].To != 0 {
		t.Errorf("its history: %+v", d.Periods)
	}
	if list, next := w.view().DelegationsOf(member("B"), "", 0); len(list) != 1 || next != "" {
		t.Errorf("delegations of B: %+v", list)
	}
	if list, _ := w.view().Delegations("", 0); len(list) != 1 {
		t.Errorf("delegations: %+v", list)
	}
	// A suspended delegate does nothing.
	w.pass3 = false
	w.ok(a, &registrypb.SetMemberStatus{Id: idB, Status: suspended})
	w.refused(registry.MemberNotActive, b, &registrypb.RevokeDelegation{Root: idB, To: idA})
}

// TestHosting: a host carries a member when both have agreed, until one of them
// ends it; moving keeps the history, and everything else is where it was.
func TestHosting(t *testing.T) {
	w := newWorld(t)
	w.pass(newcomer("D"))
	const idD = "TEST/GOV/D"
	host := func(host string) *registrypb.SetHost { return &registrypb.SetHost{Member: idC, Host: host} }
	accept := func(host string) *registrypb.AcceptHost { return &registrypb.AcceptHost{Member: idC, Host: host} }
	carries := func(want string) {
		t.Helper()
		for _, code := range []string{"A", "B", "C", "D"} {
			if got := w.view().Carries(member(code), member("C")); got != (code == want || code == "C") {
				t.Errorf("%s carries C: %v", code, got)
			}
		}
	}
	carries("C")
	w.ok(edKey("C/admin"), host(idA))
	carries("C") // A has not agreed
	w.refused(registry.NotFound, edKey("D/admin"), accept(idD))
	w.ok(edKey("A/admin"), accept(idA))
	carries("A")
	// On to D; A carries it until D agrees.
	w.ok(edKey("B/admin"), host(idD)) // B administers C
	carries("A")
	if h, _ := w.view().Hosting(member("C")); h.Host() != member("A") || h.Asked != member("D") {
		t.Errorf("hosting %+v", h)
	}
	w.ok(edKey("D/admin"), accept(idD))
	carries("D")
	// Back to A, but then it stays: asking for the present host takes that back.
	w.ok(edKey("C/admin"), host(idA))
	w.ok(edKey("C/admin"), host(idD))
	w.refused(registry.NotFound, edKey("A/admin"), accept(idA))
	// A declines what it is asked, D ends what it does.
	w.ok(edKey("C/admin"), host(idA))
	w.ok(edKey("A/admin"), host(""))
	carries("D")
	w.ok(edKey("D/admin"), host(""))
	carries("C")
	// B hosts what it administers: both consents at once; C ends it.
	w.ok(edKey("B/admin"), host(idB))
	carries("B")
	w.ok(edKey("C/admin"), host(""))
	carries("C")
	h, _ := w.view().Hosting(member("C"))
	if len(h.Periods) != 3 || h.Periods[0].Host != member("A") || h.Periods[1].Host != member("D") || h.Periods[1].To == 0 || h.Periods[0].To != h.Periods[1].From {
		t.Errorf("history %+v", h.Periods)
	}
	// A host that is not active carries nobody.
	w.ok(edKey("C/admin"), host(idD))
	w.ok(edKey("D/admin"), accept(idD))
	carries("D")
	w.ok(edKey("D/admin"), &registrypb.Leave{})
	carries("C")
	if list, next := w.view().Hostings("", 0); len(list) != 1 || next != "" {
		t.Errorf("hostings %+v", list)
	}
}

// TestLeave: keys, votes and voting power end in the block; those under the member
// move up; everybody else goes on.
func TestLeave(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	w.ok(edKey("B/admin"), setMember("TEST/GOV/E", "E", idC))
	w.ok(edKey("C/admin"), &registrypb.Leave{})
	c, _ := w.view().Member(member("C"))
	e, _ := w.view().Member(member("E"))
	if c.Status != civibus.Ended || e.Parent != member("B") || w.powers()["C"] != 0 {
		t.Errorf("C is %s, E is under %s, powers %v", c.Status, e.Parent, w.powers())
	}
	for purpose := civibus.SealKey; purpose <= civibus.WitnessKey; purpose++ {
		for _, k := range w.view().KeysOf(member("C"), purpose) {
			if k.InForce(w.m.Height()) || k.Reason != "ceased" {
				t.Errorf("key %+v", k)
			}
		}
	}
	w.refused(registry.KeyNotInForce, edKey("C/admin"), &registrypb.Leave{})
	// With B the votes go from two to one, and A decides alone.
	id := w.open("A", &registrypb.SetVotes{Member: idA, Votes: 4})
	w.ok(edKey("B/admin"), &registrypb.Leave{})
	w.is(id, registry.ProposalExecuted)
	if e, _ := w.view().Member(member("E")); !e.Parent.IsZero() || w.view().Votes(e.ID) != 0 {
		t.Errorf("E is under %s", e.Parent)
	}
	w.refused(registry.LastValidator, edKey("A/admin"), &registrypb.Leave{})
}

// TestLastVoterLeaves: a member can leave though nobody else votes, if another
// one validates.
func TestLastVoterLeaves(t *testing.T) {
	g := testGenesis()
	g.Members[1].Votes = votes(0)
	w := newWorldOf(t, g)
	w.ok(edKey("A/admin"), &registrypb.Leave{})
	if w.view().AllVotes() != 0 || len(w.view().Validators()) != 2 {
		t.Error("A is still there")
	}
	w.ok(edKey("C/admin"), setMember(idC, "The members that stay go on", idB))
}

// TestValidatorRotation: a member moves its power to a new key; the old one can then go.
func TestValidatorRotation(t *testing.T) {
	w := newWorld(t)
	w.ok(edKey("B/admin"), addKey(edKey("B/validator2"), idB, civibus.ValidatorKey))
	w.ok(edKey("B/admin"), &registrypb.MoveVotingPower{From: keyIDBytes("B/validator"), To: keyIDBytes("B/validator2")})
	w.ok(edKey("B/admin"), &registrypb.RevokeKey{KeyId: keyIDBytes("B/validator"), Reason: 1})
	found := 0
	for _, v := range w.view().Validators() {
		if v.Key.ID == edKey("B/validator2").public.ID && v.Power == 10 {
			found++
		}
	}
	if found != 1 || len(w.view().Validators()) != 3 {
		t.Errorf("validators %+v", w.view().Validators())
	}
	history, _ := w.view().ValidatorHistory("", 0)
	if len(history) != 4 {
		t.Errorf("history %+v", history)
	}
	// A revocation that was announced takes effect in a block without
	// transactions.
	w.ok(edKey("C/admin"), &registrypb.RevokeKey{KeyId: keyIDBytes("C/validator"), Reason: 1, RevokeHeight: w.m.Height() + 4})
	for range 3 {
		if w.powers()["C"] != 10 {
			t.Fatalf("C has no power at height %d", w.m.Height())
		}
		w.block()
	}
	if _, ok := w.powers()["C"]; ok {
		t.Error("C still has power")
	}
	w.refused(registry.NotInForce, edKey("A/admin"), proposal(setPowers(powerOf("C/validator", 5))))
}

// TestNodes lists those of active members, each once.
func TestNodes(t *testing.T) {
	w := newWorld(t)
	w.ok(edKey("B/admin"), &registrypb.SetNodes{Member: idB, Nodes: []*registrypb.NodeAddress{node("B1"), node("B2")}})
	w.ok(edKey("B/admin"), &registrypb.SetNodes{Member: idC, Nodes: []*registrypb.NodeAddress{node("C1")}})
	if n := w.view().Nodes(); len(n) != 3 || n[2].Member != member("C") {
		t.Errorf("nodes %+v", n)
	}
	// Another body may take over the node of one that is suspended; when that one
	// comes back, the id is still listed once.
	w.ok(edKey("B/admin"), &registrypb.SetMemberStatus{Id: idC, Status: suspended})
	if n := w.view().Nodes(); len(n) != 2 {
		t.Errorf("nodes %+v", n)
	}
	w.ok(edKey("A/admin"), &registrypb.SetNodes{Member: idA, Nodes: []*registrypb.NodeAddress{node("C1")}})
	w.ok(edKey("B/admin"), &registrypb.SetMemberStatus{Id: idC, Status: active})
	if n := w.view().Nodes(); len(n) != 3 || n[0].Member != member("A") {
		t.Errorf("nodes %+v", n)
	}
	w.ok(edKey("B/admin"), &registrypb.SetNodes{Member: idB})
	if n := w.view().NodesOf(member("B")); len(n) != 0 {
		t.Errorf("nodes of B %+v", n)
	}
}

// TestQuota: records count for a member and all above it, whoever makes them,
// also after they have moved, and also digests, which are in no table.
func TestQuota(t *testing.T) {
	g := testGenesis()
	g.MemberQuota = 100
	w := newWorldOf(t, g)
	b, c := edKey("B/admin"), edKey("C/admin")
	used := w.view().Usage(member("B"))
	for i := range 60 {
		w.ok(edKey("C/log"), &registrypb.Notarise{Digest: fmt.Appendf(nil, "%032d", i)})
	}
	if got := w.view().Usage(member("B")); got != used+60 {
		t.Fatalf("usage %d, want %d", got, used+60)
	}
	for i := w.view().Usage(member("B")); i < 100; i++ {
		w.ok(c, &registrypb.SetSubsystem{Id: fmt.Sprintf("%s/S%d", idC, i), Name: "S"})
	}
	for _, body := range []any{
		&registrypb.SetSubsystem{Id: idB + "/S", Name: "S"}, setMember("TEST/GOV/E", "E", idC), addKey(edKey("B/x"), idB, civibus.SealKey),
		&registrypb.Delegate{Root: idC, To: idA, Keys: true}, &registrypb.SetHost{Member: idC, Host: idA}, proposal(&registrypb.SetVotes{Member: idA, Votes: 2}),
	} {
		w.refused(registry.LimitReached, b, body)
	}
	w.refused(registry.LimitReached, edKey("C/log"), &registrypb.Notarise{Digest: make([]byte, 32)})
	w.ok(c, &registrypb.SetSubsystem{Id: idC + "/S90", Name: "Changed"}) // no new record
	w.ok(b, &registrypb.RevokeKey{KeyId: keyIDBytes("B/seal"), Reason: 1})
	// Others have their own, and when C has left, its records go up with nobody.
	w.ok(edKey("A/admin"), &registrypb.SetSubsystem{Id: idA + "/S", Name: "S"})
	full := w.view().Usage(member("B"))
	reopened := must(registry.Open(w.store))
	for _, code := range []string{"A", "B", "C"} {
		if got, want := reopened.View().Usage(member(code)), w.view().Usage(member(code)); got != want {
			t.Errorf("%s: %d after opening again, %d before", code, got, want)
		}
	}
	// Governance raises it.
	g2 := testGenesis()
	w2 := newWorldOf(t, g2)
	w2.pass(&registrypb.SetParams{MemberQuota: 100})
	if w2.view().Params().MemberQuota != 100 || full < 100 {
		t.Error("the quota is not changed")
	}
}
