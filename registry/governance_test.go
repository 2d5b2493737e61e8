package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

func TestAdmission(t *testing.T) {
	w := newWorld(t)
	p := w.pass(newcomer("D"))
	d, ok := w.view().Member(member("D"))
	if !ok || d.Status != civibus.Active || !d.Parent.IsZero() || w.view().Votes(d.ID) != 1 || len(w.view().NodesOf(d.ID)) != 1 {
		t.Errorf("the admitted member is %+v with %d votes", d, w.view().Votes(d.ID))
	}
	if got := w.powers(); got["D"] != 10 || len(got) != 4 {
		t.Errorf("validators: %v", got)
	}
	if p.Tally != (registry.Tally{Yes: 2, All: 2}) || p.ClosedHeight != w.m.Height() || p.OpenHeight != w.m.Height()-1 || p.Kind != registry.KindAdmitMember {
		t.Errorf("the proposal is %+v", p)
	}
	// It can act at once, and vote.
	w.ok(edKey("D/admin"), &registrypb.SetSubsystem{Id: "TEST/GOV/D/S", Name: "S"})
	id := w.open("D", &registrypb.SetVotes{Member: idA, Votes: 2})
	w.ok(edKey("B/admin"), vote(id, true))
	w.is(id, registry.ProposalOpen) // 2 of 3, where 667 of 1000 are wanted
	w.ok(edKey("A/admin"), vote(id, true))
	w.is(id, registry.ProposalExecuted)
	if w.view().Votes(member("A")) != 2 || w.view().AllVotes() != 4 {
		t.Errorf("A has %d votes of %d", w.view().Votes(member("A")), w.view().AllVotes())
	}
}

// TestSubMemberIsAdmitted: a member under another one comes to the top level by
// vote, with a fresh key of its own; under another one again its votes end for
// good.
func TestSubMemberIsAdmitted(t *testing.T) {
	w := newWorld(t)
	m := newcomer("C")
	m.Power, m.Nodes = 0, nil
	m.Keys = []*registrypb.NewKey{newKey("C/admin2", idC, civibus.AdminKey)}
	w.pass(m)
	c, _ := w.view().Member(member("C"))
	if !c.Parent.IsZero() || w.view().Votes(c.ID) != 1 || len(w.view().Children(member("B"))) != 0 || len(c.Periods) != 1 {
		t.Errorf("C is %+v with %d votes", c, w.view().Votes(c.ID))
	}
	w.refused(registry.AlreadyExists, edKey("A/admin"), proposal(m))
	// As a registrar it places itself under a member of its own, and comes back.
	id := w.open("A", &registrypb.SetParams{Registrars: &registrypb.Registrars{Members: []string{idA, idC}}})
	w.ok(edKey("B/admin"), vote(id, true))
	w.ok(edKey("C/admin"), vote(id, true))
	w.ok(edKey("A/admin"), setMember("TEST/GOV/N", "N", ""))
	w.ok(edKey("A/admin"), setMember("TEST/GOV/N2", "N2", ""))
	if w.view().Votes(member("N")) != 0 || w.view().AllVotes() != 3 {
		t.Error("a member that nobody voted in has votes")
	}
	w.ok(edKey("C/admin"), setMember("TEST/GOV/N3", "N3", ""))
	w.ok(edKey("A/admin"), addKey(edKey("N3/admin"), "TEST/GOV/N3", civibus.AdminKey))
	w.ok(edKey("N3/admin"), &registrypb.Delegate{Root: "TEST/GOV/N3", To: idC, Directory: true})
	w.ok(edKey("C/admin"), setMember(idC, "Body C", "TEST/GOV/N3"))
	if w.view().Votes(member("C")) != 0 || w.view().AllVotes() != 2 {
		t.Error("a member under another one has votes")
	}
	w.ok(edKey("C/admin"), setMember(idC, "Body C", ""))
	if w.view().Votes(member("C")) != 0 {
		t.Error("its votes came back without a vote")
	}
}

// TestEachKind makes each kind of change and looks at what it did.
func TestEachKind(t *testing.T) {
	w := newWorld(t)
	v := func() *registry.View { return w.view() }
	status := func(code string) civibus.Status {
		m, _ := v().Member(member(code))
		return m.Status
	}
	seen := map[registry.ProposalKind]bool{}
	pass := func(body any) { seen[w.pass(body).Kind] = true }
	pass(newcomer("D"))
	w.pass3 = true // D votes too from here on
	pass(&registrypb.SuspendMember{Id: "TEST/GOV/D"})
	if status("D") != civibus.Suspended || w.powers()["D"] != 0 || v().Votes(member("D")) != 0 {
		t.Errorf("D is %s with power %d", status("D"), w.powers()["D"])
	}
	w.pass3 = false
	pass(&registrypb.ReinstateMember{Id: "TEST/GOV/D"})
	if status("D") != civibus.Active || w.powers()["D"] != 0 || v().Votes(member("D")) != 1 {
		t.Errorf("D is %s with power %d", status("D"), w.powers()["D"])
	}
	w.pass3 = true
	pass(setPowers(powerOf("D/validator", 7), powerOf("C/validator", 0)))
	if got := w.powers(); got["D"] != 7 || len(got) != 3 {
		t.Errorf("validators: %v", got)
	}
	pass(&registrypb.RemoveMember{Id: "TEST/GOV/D"})
	if k, _ := v().Key(edKey("D/seal").public.ID); status("D") != civibus.Ended || w.powers()["D"] != 0 || k.Reason != "ceased" || k.Revoke != w.m.Height() {
		t.Errorf("D is %s with power %d and key %+v", status("D"), w.powers()["D"], k)
	}
	w.pass3 = false
	pass(&registrypb.SetVotes{Member: idB, Votes: 3})
	if v().Votes(member("B")) != 3 {
		t.Error("B has not 3 votes")
	}
	pass(&registrypb.SetParams{
		Registrars: &registrypb.Registrars{}, MaxTxBytes: 20000, MaxOpenProposals: 3, BlockShare: 50, MemberQuota: 1000,
		Rules: []*registrypb.Rule{{Kind: uint32(registry.KindSetGroup), Quorum: 1000, Threshold: 750, PeriodSeconds: 60}},
	})
	p := v().Params()
	if len(p.Registrars) != 0 || p.MaxTxBytes != 20000 || p.MaxOpenProposals != 3 || v().BlockShare() != 50 || p.MemberQuota != 1000 {
		t.Errorf("parameters: %+v", p)
	}
	if r := p.Rules[registry.KindSetGroup-1]; r != (registry.Rule{Kind: registry.KindSetGroup, Quorum: 1000, Threshold: 750, PeriodSeconds: 60}) || len(p.Rules) != 13 {
		t.Errorf("rules: %+v", p.Rules)
	}
	w.refused(registry.NotAuthorised, edKey("A/admin"), &registrypb.SetGroup{Id: "global/x", Title: "X"})
	pass(&registrypb.SetGroup{Id: "global/x", Title: "X"})
	pass(&registrypb.SetGroupMember{Group: "global/x", Client: idA, Member: true})
	if !v().InGroup("global/x", civibus.ClientID{MemberID: member("A")}) {
		t.Error("A is not in the group")
	}
	pass(&registrypb.PlanUpgrade{Name: "v0.9", Height: 1000})
	if name, height, ok := v().Upgrade(); name != "v0.9" || height != 1000 || !ok {
		t.Errorf("upgrade %q at %d, %v", name, height, ok)
	}
	pass(&registrypb.CancelUpgrade{Name: "v0.9"})
	if _, _, ok := v().Upgrade(); ok {
		t.Error("the upgrade is still planned")
	}
	pass(revokeNow("B/seal"))
	if k, _ := v().Key(edKey("B/seal").public.ID); k.Revoke != w.m.Height() || k.Reason != "compromised" {
		t.Errorf("the key is %+v", k)
	}
	w.ok(edKey("B/admin"), &registrypb.RevokeKey{KeyId: keyIDBytes("C/admin"), Reason: 2}) // lost, and its parent is gone soon
	pass(&registrypb.RecoverMember{Id: idC, Key: newKey("C/admin2", idC, civibus.AdminKey)})
	w.ok(edKey("C/admin2"), &registrypb.SetSubsystem{Id: idC + "/S", Name: "S"})
	pass(setRule(ruleDocument("1", 1, rule.Scope{All: idC})))
	pass(ruleStatus(idC+"/1/1", ended, ""))
	if r, ok := v().EnactedRule(registry.RuleID{Owner: member("C"), Number: "1", Version: 1}); !ok || r.Status != civibus.Ended {
		t.Errorf("the rule is %+v", r)
	}
	for _, k := range registry.ProposalKinds() {
		if !seen[k] {
			t.Errorf("no change of kind %s was made", k)
		}
		if back, err := registry.ParseProposalKind(k.String()); err != nil || back != k {
			t.Errorf("kind %s: %v", k, err)
		}
	}
}

// TestHistory: everything about a decided proposal stays in the state and is in
// the events, each change of mind included.
func TestHistory(t *testing.T) {
	g := testGenesis()
	g.Rules = []registry.GenesisRule{{Kind: "set_votes", Quorum: 500, Threshold: 501, PeriodSeconds: 3600}}
	w := newWorldOf(t, g)
	w.pass(&registrypb.SetVotes{Member: idB, Votes: 2})
	w.ok(edKey("A/admin"), &registrypb.Propose{Change: changeOf(&registrypb.SetVotes{Member: idA, Votes: 9}), Reference: "Minutes 7", NoVote: true})
	if _, ok := w.view().VoteOf(2, member("A")); ok || w.proposal(2).Reference != "Minutes 7" {
		t.Error("the proposer voted though it did not want to")
	}
	w.refused(registry.NotAuthorised, edKey("C/admin"), vote(2, true))
	w.ok(edKey("A/admin"), vote(2, false))
	w.refused(registry.NoChange, edKey("A/admin"), vote(2, false))
	w.ok(edKey("A/admin"), vote(2, true))
	if got, ok := w.view().TallyOf(2); !ok || got != (registry.Tally{Yes: 1, All: 3}) {
		t.Errorf("tally %+v", got)
	}
	block := w.ok(edKey("B/admin"), vote(2, true))
	w.is(2, registry.ProposalExecuted)
	votes, _ := w.view().VotesOn(2, "", 0)
	if len(votes) != 2 || len(votes[0].Ballots) != 2 || votes[0].Ballots[0].Yes || !votes[0].Yes() || votes[1].Ballots[0].Height != w.m.Height() {
		t.Errorf("votes: %+v", votes)
	}
	w.refused(registry.Ended, edKey("A/admin"), vote(2, false))
	w.refused(registry.NotFound, edKey("A/admin"), vote(3, false))
	// The events: the vote, the proposal, what it did, the block.
	var kinds []string
	for _, b := range block.Events {
		var e registrypb.Event
		if err := proto.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		m := e.ProtoReflect()
		kinds = append(kinds, fmt.Sprintf("%s %s %d %v", m.WhichOneof(m.Descriptor().Oneofs().Get(0)).Name(), e.Author, e.Proposal, len(e.TxHash)))
	}
	want := []string{"vote_cast TEST/GOV/B 0 32", "proposal_set  2 0", "votes_set  2 0", "block_committed  0 0"}
	if !slices.Equal(kinds, want) {
		t.Errorf("events:\n%q, want\n%q", kinds, want)
	}
}

// TestOutcomes walks through quorum, threshold, early decision and deadline.
func TestOutcomes(t *testing.T) {
	// Five voters with one vote each; quorum 60 %, threshold 75 %, one hour.
	start := func(t *testing.T) (w *world, id uint64) {
		g := testGenesis()
		for _, code := range []string{"D", "E", "F"} {
			g.Members = append(g.Members, registry.GenesisMember{ID: member(code).String(), Name: code, Keys: []registry.GenesisKey{genesisKey(edKey(code+"/admin"), civibus.AdminKey)}})
		}
		g.Rules = []registry.GenesisRule{{Kind: "set_votes", Quorum: 600, Threshold: 750, PeriodSeconds: 3600}}
		w = newWorldOf(t, g)
		return w, w.open("A", &registrypb.SetVotes{Member: idA, Votes: 2})
	}
	late := func(w *world) { w.now = w.now.Add(2 * time.Hour) }
	for _, c := range []struct {
		name  string
		votes string // B, D, E, F: y, n or -
		want  registry.ProposalStatus
		early bool // before the deadline
	}{
		{"nobody else", "----", registry.ProposalExpired, false},
		{"below the quorum", "y---", registry.ProposalExpired, false},
		{"quorum, all yes", "yy--", registry.ProposalExecuted, false},
		{"below the threshold", "yn--", registry.ProposalRejected, false},
		{"exactly the threshold", "yyn-", registry.ProposalExecuted, false},
		{"cannot fail any more", "yyy-", registry.ProposalExecuted, true},
		{"cannot pass any more", "nn--", registry.ProposalRejected, true},
		{"all have voted", "yynn", registry.ProposalRejected, true},
		{"all but one, four of five", "yyyn", registry.ProposalExecuted, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, id := start(t)
			var block [][]byte
			for i, code := range []string{"B", "D", "E", "F"} {
				if c.votes[i] != '-' {
					block = append(block, w.tx(edKey(code+"/admin"), vote(id, c.votes[i] == 'y')))
				}
			}
			w.block(block...)
			if early := w.proposal(id).Status != registry.ProposalOpen; early != c.early {
				t.Fatalf("decided before the deadline: %v", early)
			}
			late(w)
			before := w.m.AppHash()
			b := w.block()
			if (before != b.AppHash) == c.early || (len(b.Events) > 0) == c.early {
				t.Errorf("the block at the deadline has %d events", len(b.Events))
			}
			w.is(id, c.want)
			w.refused(registry.Ended, edKey("F/admin"), vote(id, true))
		})
	}
	t.Run("late votes do not count", func(t *testing.T) {
		w, id := start(t)
		late(w)
		w.refusedIn(registry.Ended, edKey("B/admin"), vote(id, true))
		w.is(id, registry.ProposalExpired)
	})
	t.Run("a change of mind counts", func(t *testing.T) {
		w, id := start(t)
		w.block(w.tx(edKey("B/admin"), vote(id, true)), w.tx(edKey("D/admin"), vote(id, true)), w.tx(edKey("A/admin"), vote(id, false)))
		late(w)
		w.block()
		w.is(id, registry.ProposalRejected)
	})
	t.Run("who is not active does not count", func(t *testing.T) {
		w, id := start(t)
		w.block(w.tx(edKey("B/admin"), vote(id, true)), w.tx(edKey("D/admin"), vote(id, false)))
		w.is(id, registry.ProposalOpen)
		b := w.block(w.tx(edKey("D/admin"), &registrypb.Leave{}), w.tx(edKey("E/admin"), &registrypb.Leave{}))
		w.is(id, registry.ProposalOpen) // 2 of 3
		if b.Results[0].Code != registry.OK {
			t.Fatal(b.Results[0].Reason)
		}
		w.ok(edKey("A/admin"), &registrypb.SetMemberStatus{Id: member("F").String(), Status: suspended})
		w.is(id, registry.ProposalExecuted)
		if p := w.proposal(id); p.Tally != (registry.Tally{Yes: 2, All: 2}) {
			t.Errorf("tally %+v", p.Tally)
		}
	})
	t.Run("the rule is the one of its opening", func(t *testing.T) {
		w, id := start(t)
		other := w.open("A", &registrypb.SetParams{Rules: []*registrypb.Rule{{Kind: uint32(registry.KindSetVotes), Quorum: 1, Threshold: 501, PeriodSeconds: 1}}})
		for _, code := range []string{"B", "D", "E"} {
			w.ok(edKey(code+"/admin"), vote(other, true))
		}
		w.is(other, registry.ProposalExecuted)
		late(w)
		w.block()
		w.is(id, registry.ProposalExpired)
		third := w.open("A", &registrypb.SetVotes{Member: idA, Votes: 2})
		w.now = w.now.Add(time.Second)
		w.block()
		w.is(third, registry.ProposalExecuted)
	})
	t.Run("withdrawn", func(t *testing.T) {
		w, id := start(t)
		w.refused(registry.NotAuthorised, edKey("B/admin"), &registrypb.WithdrawProposal{Proposal: id})
		w.ok(edKey("A/admin"), &registrypb.WithdrawProposal{Proposal: id})
		w.is(id, registry.ProposalWithdrawn)
		w.refused(registry.Ended, edKey("A/admin"), &registrypb.WithdrawProposal{Proposal: id})
	})
}

// TestFailedProposals: what passed and cannot be made changes nothing but the
// proposal; one decision in a block is the next one's ground.
func TestFailedProposals(t *testing.T) {
	w := newWorld(t)
	one := w.open("A", newcomer("D"))
	two := w.open("B", newcomer("D"))
	w.block(w.tx(edKey("A/admin"), vote(two, true)), w.tx(edKey("B/admin"), vote(one, true)))
	w.is(one, registry.ProposalExecuted)
	// D votes since: two of three is no longer enough for the other one.
	w.is(two, registry.ProposalOpen)
	w.ok(edKey("D/admin"), vote(two, true))
	if p := w.proposal(two); p.Status != registry.ProposalFailed || p.Failure != registry.AlreadyExists {
		t.Errorf("the second is %s, %s", p.Status, p.Failure)
	}
	if m, _ := w.view().Member(member("D")); len(w.view().KeysOf(m.ID, civibus.AdminKey)) != 1 || len(m.Periods) != 1 {
		t.Errorf("D is %+v", m)
	}
	// A revoked validator key cannot get power any more.
	w.ok(edKey("D/admin"), addKey(edKey("D/validator2"), "TEST/GOV/D", civibus.ValidatorKey))
	three := w.open("A", setPowers(powerOf("D/validator2", 5)))
	w.ok(edKey("D/admin"), &registrypb.RevokeKey{KeyId: keyIDBytes("D/validator2"), Reason: 1})
	w.ok(edKey("B/admin"), vote(three, true))
	before := w.powers()
	w.ok(edKey("D/admin"), vote(three, true))
	if p := w.proposal(three); p.Failure != registry.NotInForce || len(before) != len(w.powers()) {
		t.Errorf("the third is %s, %s", p.Status, p.Failure)
	}
}

// TestGovernedWithoutRegistrars: an instance without registrars lives by votes
// alone, and a single founder decides alone.
func TestGovernedWithoutRegistrars(t *testing.T) {
	g := testGenesis()
	g.Registrars = nil
	g.Members, g.Validators = g.Members[:1], g.Validators[:1]
	w := newWorldOf(t, g)
	w.refused(registry.NotAuthorised, edKey("A/admin"), setMember("TEST/GOV/X", "X", ""))
	id := w.open("A", newcomer("D"))
	w.is(id, registry.ProposalExecuted)
	if p := w.proposal(id); p.OpenHeight != p.ClosedHeight {
		t.Error("it was not decided in the block that opened it")
	}
}

// TestProposalLists: pages are stable and complete, open ones have a list.
func TestProposalLists(t *testing.T) {
	g := testGenesis()
	g.MaxOpenProposals = 256
	w := newWorldOf(t, g)
	for i := range 130 {
		id := w.open("A", &registrypb.SetVotes{Member: idA, Votes: uint32(i + 2)})
		if i%2 == 0 {
			w.ok(edKey("A/admin"), &registrypb.WithdrawProposal{Proposal: id})
		}
	}
	list := func(fn func(string, int) ([]registry.Proposal, string)) (ids []uint64) {
		for after := ""; ; {
			items, next := fn(after, 7)
			for _, p := range items {
				ids = append(ids, p.ID)
			}
			if after = next; next == "" {
				return ids
			}
			if id, err := registry.ParseProposalKey(next); err != nil || id != ids[len(ids)-1] {
				t.Fatalf("next is %q after %d", next, ids[len(ids)-1])
			}
		}
	}
	all, open := list(w.view().Proposals), list(w.view().OpenProposals)
	if len(all) != 130 || len(open) != 65 || !slices.IsSorted(all) || open[0] != 2 || all[129] != 130 {
		t.Errorf("%d proposals, %d open", len(all), len(open))
	}
	if votes, next := w.view().VotesOn(1, "", 1); len(votes) != 1 || next != "" {
		t.Errorf("votes on the first: %v, %q", votes, next)
	}
}

// TestProtocol0 is the state machine of the first release: it knows none of this,
// and two registrars' clicks away is protocol 1.
func TestProtocol0(t *testing.T) {
	w := newWorldOf(t, firstGenesis())
	for _, body := range []any{
		proposal(&registrypb.SetVotes{Member: idA, Votes: 2}), vote(1, true), &registrypb.WithdrawProposal{Proposal: 1},
		&registrypb.Delegate{Root: idA, To: idB, Rights: true}, &registrypb.RevokeDelegation{Root: idA, To: idB}, &registrypb.SetNodes{Member: idA, Nodes: []*registrypb.NodeAddress{node("A")}},
		&registrypb.MoveVotingPower{From: keyIDBytes("A/validator"), To: keyIDBytes("B/validator")}, &registrypb.Leave{}, &registrypb.SetHost{Member: idA, Host: idB},
		&registrypb.AcceptHost{Member: idA, Host: idB},
	} {
		w.refused(registry.BadEncoding, edKey("A/admin"), body)
		if r := w.m.Check(w.tx(edKey("A/admin"), body)); r.Code != registry.BadEncoding {
			t.Errorf("Check of %T: %s", body, r.Code)
		}
	}
	if len(w.view().Validators()) != 0 || w.view().AllVotes() != 0 || w.view().BlockShare() != registry.DefaultBlockShare {
		t.Error("protocol 0 has validators or votes in its state")
	}
	// Ended members keep their keys, and evidence changes nothing.
	w.ok(edKey("B/admin"), &registrypb.SetMemberStatus{Id: idC, Status: ended})
	if k, _ := w.view().Key(edKey("C/seal").public.ID); k.Revoke != 0 {
		t.Error("ending revoked a key")
	}
	before := w.m.AppHash()
	w.evidence = []registry.Misbehaviour{{Address: addressOf("A/validator"), Height: 1}}
	if w.block(); w.m.AppHash() != before {
		t.Error("evidence changed the state")
	}
	w.evidence = nil
	// The upgrade, by a registrar.
	all := []*registrypb.ValidatorPower{powerOf("A/validator", 10), powerOf("B/validator", 10), powerOf("C/validator", 10)}
	up := func(height uint64) *registrypb.PlanUpgrade {
		return &registrypb.PlanUpgrade{Name: "protocol-1", Height: height, Validators: all}
	}
	w.refused(registry.NotAuthorised, edKey("B/admin"), proposal(up(100)))
	w.refused(registry.InvalidField, edKey("A/admin"), proposal(&registrypb.PlanUpgrade{Name: "protocol-1", Height: 100}))
	w.refused(registry.InvalidField, edKey("A/admin"), proposal(&registrypb.PlanUpgrade{Name: "protocol-2", Height: 100, Validators: all}))
	w.ok(edKey("A/admin"), proposal(up(100)))
	w.ok(edKey("A/admin"), proposal(&registrypb.CancelUpgrade{Name: "protocol-1"}))
	at := w.m.Height() + 3
	w.ok(edKey("A/admin"), proposal(up(at)))
	w.block()
	w.block() // at
	v := w.view()
	if p := v.Params(); v.Height() != at || p.Protocol != 1 || len(p.Rules) != 13 || len(p.Registrars) != 1 || v.AllVotes() != 2 || len(v.Validators()) != 3 {
		t.Errorf("after the upgrade: %+v, %d votes, %d validators", p, v.AllVotes(), len(v.Validators()))
	}
	if _, _, ok := v.Upgrade(); ok {
		t.Error("it is still planned")
	}
	// C has ended: its power ends one block later, so that the ledger sees it go.
	if w.block(); len(w.view().Validators()) != 2 {
		t.Errorf("%d validators", len(w.view().Validators()))
	}
	w.pass(newcomer("D"))
}

// TestUpgrades: a node that does not know the upgrade does not execute its block.
func TestUpgrades(t *testing.T) {
	w := newWorld(t)
	at := w.m.Height() + 4
	next := fmt.Sprintf("protocol-%d", registry.Protocol+1)
	w.pass(&registrypb.PlanUpgrade{Name: next, Height: at})
	w.refused(registry.AlreadyExists, edKey("A/admin"), proposal(&registrypb.PlanUpgrade{Name: "v3", Height: 1000}))
	_, err := w.m.Execute(at, w.now, nil, nil)
	var unknown *registry.UnknownUpgradeError
	if !errors.As(err, &unknown) || unknown.Name != next || unknown.Height != at {
		t.Fatalf("the block is executed: %v", err)
	}
	if w.m.Height() != at-1 || registry.KnowsUpgrade(next) || !registry.KnowsUpgrade("protocol-1") || registry.KnowsUpgrade("protocol-01") {
		t.Error("the state went on")
	}
}

// TestMisbehaviour: who signed two blocks loses power and key in the next block,
// unless nobody would be left.
func TestMisbehaviour(t *testing.T) {
	w := newWorld(t)
	w.evidence = []registry.Misbehaviour{{Address: addressOf("C/validator"), Height: 7}, {Address: addressOf("nobody"), Height: 7}, {Address: addressOf("C/validator"), Height: 7}}
	block := w.block()
	k, _ := w.view().Key(edKey("C/validator").public.ID)
	if len(block.Events) != 4 || w.powers()["C"] != 0 || k.Revoke != w.m.Height() || k.Reason != "compromised" {
		t.Errorf("%d events, powers %v, key %+v", len(block.Events), w.powers(), k)
	}
	// Said again it is known; at another height it is recorded.
	if b := w.block(); len(b.Events) != 0 {
		t.Errorf("%d events for known evidence", len(b.Events))
	}
	w.evidence = []registry.Misbehaviour{{Address: addressOf("C/validator"), Height: 9}, {Address: addressOf("A/validator"), Height: 9}, {Address: addressOf("B/validator"), Height: 9}}
	w.block()
	w.evidence = nil
	if got := w.powers(); len(got) != 1 || got["B"] != 10 {
		t.Errorf("powers %v: the last one stays", got)
	}
	if k, _ := w.view().Key(edKey("B/validator").public.ID); k.Revoke != 0 {
		t.Error("the last validator's key is revoked")
	}
	all, next := w.view().Misbehaviour("", 0)
	if len(all) != 4 || next != "" || all[0].Recorded == 0 {
		t.Errorf("recorded: %+v", all)
	}
}

// TestEventsOfAutomaticBlocks: a block that decides something without any
// transaction ends like others, with no transactions counted.
func TestEventsOfAutomaticBlocks(t *testing.T) {
	w := newWorld(t)
	id := w.open("A", &registrypb.SetVotes{Member: idA, Votes: 2})
	w.now = w.now.Add(8 * 24 * time.Hour)
	b := w.block()
	w.is(id, registry.ProposalExecuted) // half of the votes are the quorum, and all of those are yes
	var last registrypb.Event
	if err := proto.Unmarshal(b.Events[len(b.Events)-1], &last); err != nil {
		t.Fatal(err)
	}
	root := w.view().StateRoot()
	if c := last.GetBlockCommitted(); c == nil || c.Transactions != 0 || !bytes.Equal(c.StateRoot, root[:]) {
		t.Errorf("last event %v", &last)
	}
}
