package registry_test

import (
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestVectorsNetwork is the life of a network of protocol 1: proposals of every
// outcome, delegation, hosting, rotation, misbehaviour, an upgrade, leaving.
func TestVectorsNetwork(t *testing.T) {
	g := testGenesis()
	g.Protocol, g.Registrars = 1, nil
	g.Members[0].Nodes = genesisNodes("A")
	g.Members[1].Votes = votes(2)
	g.Rules = []registry.GenesisRule{{Kind: "set_group", Quorum: 1000, Threshold: 501, PeriodSeconds: 2}, {Kind: "set_votes", Quorum: 300, Threshold: 501, PeriodSeconds: 60}}
	c := newChain(t, "Registry, protocol 1: a genesis without registrars and the blocks after it. Evidence is what the ledger proved of validators before the block; the rest is as in chain.json.", g)
	a, b, cc, d := edKey("A/admin"), edKey("B/admin"), edKey("C/admin"), edKey("D/admin")
	env := c.env
	// Proposals.
	c.add([]envCase{
		env("proposal 1: admission", a, proposal(newcomer("D"))),
		env("top-level member without a vote", a, setMember("TEST/GOV/X", "X", "")),
		env("proposal of one without votes", cc, proposal(newcomer("E"))),
		env("proposal that cannot be made", a, proposal(&registrypb.SetVotes{Member: idA, Votes: 1})),
		env("proposal 2: the same admission", b, &registrypb.Propose{Change: changeOf(newcomer("D")), Reference: "Minutes 2026/11", NoVote: true}),
		env("proposal 3: expires", a, &registrypb.Propose{Change: changeOf(&registrypb.SetGroup{Id: "global/x", Title: "X"}), NoVote: true}),
		env("proposal 4: withdrawn", a, proposal(&registrypb.SetVotes{Member: idA, Votes: 5})),
		env("proposal 5: rejected", a, proposal(&registrypb.SetVotes{Member: idA, Votes: 9})),
		env("vote of one without votes", cc, vote(1, true)),
		env("vote on nothing", b, vote(99, true)),
	})
	c.add([]envCase{
		env("withdrawn", a, &registrypb.WithdrawProposal{Proposal: 4}),
		env("withdrawn by another", b, &registrypb.WithdrawProposal{Proposal: 1}),
		env("no: it is rejected at once", b, vote(5, false)),
		env("yes: it passes at once", b, vote(1, true)),
		env("yes: the electorate has grown, it stays open", b, vote(2, true)),
		env("the same again", a, vote(1, true)),
	})
	c.add([]envCase{env("vote on a decided one", d, vote(1, false)), env("vote of the new member: it passes and fails, the member is there", d, vote(2, true)), env("vote of the first", a, vote(2, true))}) // the deadline of 3 passes
	// Hierarchy.
	c.add([]envCase{
		env("delegation", b, &registrypb.Delegate{Root: idC, To: idA, Catalogue: true, Until: c.w.now.Add(time.Hour).Unix()}),
		env("by the delegate", a, &registrypb.SetSubsystem{Id: idC + "/APP", Name: "Application"}),
		env("another scope", a, setMember(idC, "Other", idB)),
		env("revoked", a, &registrypb.RevokeDelegation{Root: idC, To: idA}),
		env("after it", a, &registrypb.SetSubsystem{Id: idC + "/APP2", Name: "Application"}),
		env("host asked", cc, &registrypb.SetHost{Member: idC, Host: idA}),
		env("host accepts", a, &registrypb.AcceptHost{Member: idC, Host: idA}),
		env("host not asked", d, &registrypb.AcceptHost{Member: idC, Host: "TEST/GOV/D"}),
	})
	// Validators and nodes.
	c.add([]envCase{
		env("nodes", b, &registrypb.SetNodes{Member: idB, Nodes: []*registrypb.NodeAddress{node("B")}}),
		env("node of another", b, &registrypb.SetNodes{Member: idC, Nodes: []*registrypb.NodeAddress{node("A")}}),
		env("new validator key", b, addKey(edKey("B/validator2"), idB, civibus.ValidatorKey)),
		env("power moved", b, &registrypb.MoveVotingPower{From: keyIDBytes("B/validator"), To: keyIDBytes("B/validator2")}),
		env("power of none", b, &registrypb.MoveVotingPower{From: keyIDBytes("B/validator"), To: keyIDBytes("B/validator2")}),
		env("revocation in two blocks", b, &registrypb.RevokeKey{KeyId: keyIDBytes("C/validator"), Reason: 3, RevokeHeight: c.w.m.Height() + 3}),
		env("power to a key that ends", a, proposal(setPowers(powerOf("C/validator", 5)))),
	})
	c.evidence = []registry.Misbehaviour{{Address: addressOf("D/validator"), Height: 4}, {Address: addressOf("nobody"), Height: 4}}
	c.add(nil) // D is caught
	c.add(nil) // C's key ends
	// An upgrade, by votes that change minds.
	c.add([]envCase{
		env("proposal 6: upgrade", a, proposal(&registrypb.PlanUpgrade{Name: "v9", Height: 1000})), env("no", d, vote(6, false)), env("yes after all", d, vote(6, true)), env("the last yes", b, vote(6, true)),
		env("upgrade that skips a protocol", a, proposal(&registrypb.PlanUpgrade{Name: "protocol-3", Height: 1000})),
	})
	// Leaving.
	c.add([]envCase{
		env("leaves", b, &registrypb.Leave{}),
		env("has left", b, &registrypb.Leave{}),
		env("the last validator stays", a, &registrypb.Leave{}),
	})
	replayChain(t, vectors(t, "network.json", c.v))
}
