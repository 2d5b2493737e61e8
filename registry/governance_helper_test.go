package registry_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// changeOf wraps the body of a change.
func changeOf(body any) *registrypb.Change {
	switch b := body.(type) {
	case *registrypb.AdmitMember:
		return &registrypb.Change{Change: &registrypb.Change_AdmitMember{AdmitMember: b}}
	case *registrypb.SuspendMember:
		return &registrypb.Change{Change: &registrypb.Change_SuspendMember{SuspendMember: b}}
	case *registrypb.ReinstateMember:
		return &registrypb.Change{Change: &registrypb.Change_ReinstateMember{ReinstateMember: b}}
	case *registrypb.RemoveMember:
		return &registrypb.Change{Change: &registrypb.Change_RemoveMember{RemoveMember: b}}
	case *registrypb.SetVotes:
		return &registrypb.Change{Change: &registrypb.Change_SetVotes{SetVotes: b}}
	case *registrypb.SetValidators:
		return &registrypb.Change{Change: &registrypb.Change_SetValidators{SetValidators: b}}
	case *registrypb.SetParams:
		return &registrypb.Change{Change: &registrypb.Change_SetParams{SetParams: b}}
	case *registrypb.SetGroup:
		return &registrypb.Change{Change: &registrypb.Change_SetGroup{SetGroup: b}}
	case *registrypb.SetGroupMember:
		return &registrypb.Change{Change: &registrypb.Change_SetGroupMember{SetGroupMember: b}}
	case *registrypb.PlanUpgrade:
		return &registrypb.Change{Change: &registrypb.Change_PlanUpgrade{PlanUpgrade: b}}
	case *registrypb.CancelUpgrade:
		return &registrypb.Change{Change: &registrypb.Change_CancelUpgrade{CancelUpgrade: b}}
	case *registrypb.RecoverMember:
		return &registrypb.Change{Change: &registrypb.Change_RecoverMember{RecoverMember: b}}
	case *registrypb.SetRule:
		return &registrypb.Change{Change: &registrypb.Change_EnactRule{EnactRule: b}}
	case *registrypb.SetRuleStatus:
		return &registrypb.Change{Change: &registrypb.Change_SetRuleStatus{SetRuleStatus: b}}
	case *registrypb.RevokeKeyEmergency:
		return &registrypb.Change{Change: &registrypb.Change_RevokeKey{RevokeKey: b}}
	}
	panic(fmt.Sprintf("change %T", body))
}

func proposal(body any) *registrypb.Propose { return &registrypb.Propose{Change: changeOf(body)} }

func vote(id uint64, yes bool) *registrypb.CastVote {
	return &registrypb.CastVote{Proposal: id, Yes: yes}
}

// pass has A propose a change and B agree, which are all the votes there are.
func (w *world) pass(body any) registry.Proposal {
	w.t.Helper()
	id := w.open("A", body)
	w.ok(edKey("B/admin"), vote(id, true))
	if w.pass3 {
		w.ok(edKey("D/admin"), vote(id, true))
	}
	p := w.proposal(id)
	if p.Status != registry.ProposalExecuted {
		w.t.Fatalf("%T: proposal %d is %s: %s", body, id, p.Status, p.Failure)
	}
	return p
}

// open has a member propose a change and returns the proposal's id.
func (w *world) open(code string, body any) uint64 {
	w.t.Helper()
	b := w.ok(edKey(code+"/admin"), proposal(body))
	var e registrypb.Event
	if err := proto.Unmarshal(b.Events[0], &e); err != nil {
		w.t.Fatal(err)
	}
	return e.GetProposalSet().GetId()
}

func (w *world) proposal(id uint64) registry.Proposal {
	w.t.Helper()
	p, ok := w.view().Proposal(id)
	if !ok {
		w.t.Fatalf("there is no proposal %d", id)
	}
	return p
}

// is checks where a proposal stands.
func (w *world) is(id uint64, want registry.ProposalStatus) {
	w.t.Helper()
	if got := w.proposal(id); got.Status != want {
		w.t.Fatalf("proposal %d is %s (%s), want %s", id, got.Status, got.Failure, want)
	}
}

// powers returns the voting powers by member.
func (w *world) powers() map[string]int64 {
	out := map[string]int64{}
	for _, v := range w.view().Validators() {
		out[v.Member.Code] += v.Power
	}
	return out
}

// newcomer is the statement of a body that wants to become a member.
func newcomer(code string) *registrypb.AdmitMember {
	id := member(code)
	m := &registrypb.AdmitMember{
		Id: id.String(), Name: "Body " + code, Gateways: []*registrypb.Gateway{{Code: "gw1", Address: "192.0.2.7:5500"}}, Votes: 1, Power: 10,
		Nodes: []*registrypb.NodeAddress{node(code)},
	}
	for _, purpose := range []civibus.Purpose{civibus.AdminKey, civibus.LogKey, civibus.SealKey, civibus.ValidatorKey} {
		m.Keys = append(m.Keys, newKey(code+"/"+purpose.String(), m.Id, purpose))
	}
	return m
}

func newKey(name, owner string, purpose civibus.Purpose) *registrypb.NewKey {
	k := addKey(edKey(name), owner, purpose)
	return &registrypb.NewKey{Purpose: k.Purpose, Spki: k.Spki, Certificate: k.Certificate, Possession: k.Possession}
}

func node(code string) *registrypb.NodeAddress {
	h := registry.TxHash([]byte(code))
	return &registrypb.NodeAddress{Id: fmt.Sprintf("%x", h[:20]), Address: "192.0.2.7:26656", Role: registrypb.NodeRole_NODE_ROLE_VALIDATOR}
}

func keyIDBytes(name string) []byte {
	id := edKey(name).public.ID
	return id[:]
}

func powerOf(name string, power uint64) *registrypb.ValidatorPower {
	return &registrypb.ValidatorPower{KeyId: keyIDBytes(name), Power: power}
}

func setPowers(powers ...*registrypb.ValidatorPower) *registrypb.SetValidators {
	return &registrypb.SetValidators{Validators: powers}
}

func revokeNow(name string) *registrypb.RevokeKeyEmergency {
	return &registrypb.RevokeKeyEmergency{KeyId: keyIDBytes(name), Reason: registrypb.RevocationReason_REVOCATION_REASON_COMPROMISED}
}

// addressOf is the ledger's name of a validator key.
func addressOf(name string) (address [20]byte) {
	h := sha256.Sum256(edKey(name).ed.Public().(ed25519.PublicKey))
	copy(address[:], h[:])
	return address
}

// refusedIn has a transaction refused in a block that may change something else.
func (w *world) refusedIn(code registry.Code, s *testSigner, body any) {
	w.t.Helper()
	if b := w.block(w.tx(s, body)); b.Results[0].Code != code {
		w.t.Errorf("got %s (%s), want %s", b.Results[0].Code, b.Results[0].Reason, code)
	}
}

// quickGenesis has rules under which proposals are decided within a few blocks.
func quickGenesis() *registry.Genesis {
	g := testGenesis()
	for i, k := range registry.ProposalKinds() {
		g.Rules = append(g.Rules, registry.GenesisRule{Kind: k.String(), Quorum: uint32(200 + 50*i), Threshold: 501 + uint32(20*i), PeriodSeconds: uint32(1 + i%5)})
	}
	return g
}

// drawNetworkBody makes a transaction of protocol 1.
func drawNetworkBody(t *rapid.T, v *registry.View) any {
	memberID := rapid.SampledFrom([]string{idA, idB, idC, "TEST/GOV/D", "TEST/GOV/E"})
	validator := rapid.SampledFrom([]string{"A/validator", "B/validator", "C/validator", "D/validator", "k1"})
	switch rapid.IntRange(0, 10).Draw(t, "kind") {
	case 0, 1, 2:
		return &registrypb.Propose{Change: drawChange(t, v), NoVote: rapid.Bool().Draw(t, "no vote")}
	case 3, 4, 5:
		if open, _ := v.OpenProposals("", 0); len(open) > 0 {
			return vote(rapid.SampledFrom(open).Draw(t, "proposal").ID, rapid.IntRange(0, 3).Draw(t, "yes") > 0)
		}
		return vote(1, true)
	case 6:
		return &registrypb.WithdrawProposal{Proposal: rapid.Uint64Range(1, 9).Draw(t, "proposal")}
	case 7:
		d := &registrypb.Delegate{Root: memberID.Draw(t, "root"), To: memberID.Draw(t, "to"), Directory: rapid.Bool().Draw(t, "directory"), Keys: true, Catalogue: true}
		if rapid.Bool().Draw(t, "revoke") {
			return &registrypb.RevokeDelegation{Root: d.Root, To: d.To}
		}
		return d
	case 8:
		m, h := memberID.Draw(t, "member"), memberID.Draw(t, "host")
		switch rapid.IntRange(0, 2).Draw(t, "host") {
		case 0:
			return &registrypb.SetHost{Member: m}
		case 1:
			return &registrypb.AcceptHost{Member: m, Host: h}
		}
		return &registrypb.SetHost{Member: m, Host: h}
	case 9:
		if rapid.IntRange(0, 5).Draw(t, "leave") == 0 {
			return &registrypb.Leave{}
		}
		return &registrypb.SetNodes{Member: memberID.Draw(t, "member"), Nodes: []*registrypb.NodeAddress{node(rapid.SampledFrom([]string{"A", "B"}).Draw(t, "node"))}}
	}
	return &registrypb.MoveVotingPower{From: keyIDBytes(validator.Draw(t, "from")), To: keyIDBytes(validator.Draw(t, "to"))}
}

func drawChange(t *rapid.T, v *registry.View) *registrypb.Change {
	id := rapid.SampledFrom([]string{idA, idB, idC, "TEST/GOV/D"}).Draw(t, "member")
	validator := rapid.SampledFrom([]string{"A/validator", "B/validator", "C/validator", "D/validator"})
	switch rapid.SampledFrom(registry.ProposalKinds()).Draw(t, "kind") {
	case registry.KindAdmitMember:
		return changeOf(newcomer("D"))
	case registry.KindSuspendMember:
		return changeOf(&registrypb.SuspendMember{Id: id})
	case registry.KindReinstateMember:
		return changeOf(&registrypb.ReinstateMember{Id: id})
	case registry.KindRemoveMember:
		return changeOf(&registrypb.RemoveMember{Id: id})
	case registry.KindSetVotes:
		return changeOf(&registrypb.SetVotes{Member: id, Votes: rapid.Uint32Range(0, 3).Draw(t, "votes")})
	case registry.KindSetValidators:
		return changeOf(setPowers(powerOf(validator.Draw(t, "key"), rapid.Uint64Range(0, 2).Draw(t, "power"))))
	case registry.KindSetParams:
		return changeOf(&registrypb.SetParams{BlockShare: rapid.Uint32Range(0, 3).Draw(t, "share")})
	case registry.KindSetGroup:
		return changeOf(&registrypb.SetGroup{Id: "global/g", Title: rapid.SampledFrom([]string{"One", "Two"}).Draw(t, "title")})
	case registry.KindSetGroupMember:
		return changeOf(&registrypb.SetGroupMember{Group: "global/g", Client: id, Member: rapid.Bool().Draw(t, "in")})
	case registry.KindPlanUpgrade:
		return changeOf(&registrypb.PlanUpgrade{Name: "v9", Height: v.Height() + 1000})
	case registry.KindRecoverMember:
		return changeOf(&registrypb.RecoverMember{Id: id, Key: newKey("recovered", id, civibus.AdminKey)})
	case registry.KindCancelUpgrade:
		return changeOf(&registrypb.CancelUpgrade{Name: "v9"})
	case registry.KindEnactRule:
		return changeOf(setRule(ruleDocument("v", rapid.Uint32Range(1, 2).Draw(t, "version"), rapid.SampledFrom([]rule.Scope{{All: id}, {Member: id}}).Draw(t, "scope"))))
	case registry.KindSetRuleStatus:
		return changeOf(ruleStatus(id+"/v/1", rapid.SampledFrom([]registrypb.Status{active, ended}).Draw(t, "status"), ""))
	}
	return changeOf(revokeNow(validator.Draw(t, "key")))
}

// drawEvidence is evidence now and then.
func drawEvidence(t *rapid.T) []registry.Misbehaviour {
	if rapid.IntRange(0, 9).Draw(t, "evidence") > 0 {
		return nil
	}
	return []registry.Misbehaviour{{
		Address: addressOf(rapid.SampledFrom([]string{"A/validator", "B/validator", "k1"}).Draw(t, "validator")), Height: rapid.Uint64Range(1, 3).Draw(t, "at"),
	}}
}
