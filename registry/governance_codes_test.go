package registry_test

import (
	"fmt"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

func governanceRefusals(body bodyRun, after after, do doer) {
	votes := &registrypb.SetVotes{Member: idA, Votes: 2}
	body("no change", registry.InvalidField, "A/admin", &registrypb.Propose{})
	body("empty change", registry.InvalidField, "A/admin", &registrypb.Propose{Change: &registrypb.Change{}})
	body("long reference", registry.InvalidField, "A/admin", &registrypb.Propose{Change: changeOf(votes), Reference: strings.Repeat("x", 1025)})
	body("who has no votes", registry.NotAuthorised, "C/admin", proposal(votes))
	body("vote on nothing", registry.NotFound, "A/admin", vote(1, true))
	body("withdraw nothing", registry.NotFound, "A/admin", &registrypb.WithdrawProposal{Proposal: 1})
	after("vote without votes", registry.NotAuthorised, "C/admin", vote(1, true), do("A/admin", proposal(votes)))
	after("vote twice", registry.NoChange, "A/admin", vote(1, true), do("A/admin", proposal(votes)))
	after("withdraw another's", registry.NotAuthorised, "B/admin", &registrypb.WithdrawProposal{Proposal: 1}, do("A/admin", proposal(votes)))
	after("vote on a withdrawn one", registry.Ended, "B/admin", vote(1, true), do("A/admin", proposal(votes)), do("A/admin", &registrypb.WithdrawProposal{Proposal: 1}))
	after("too many open ones", registry.LimitReached, "A/admin", proposal(votes), func(w *world) {
		for range 16 {
			w.ok(edKey("A/admin"), proposal(votes))
		}
	})
	after("changing one's mind too often", registry.LimitReached, "A/admin", vote(3, true), func(w *world) {
		w.pass(&registrypb.SetParams{Rules: []*registrypb.Rule{{Kind: uint32(registry.KindSetVotes), Quorum: 500, Threshold: 501, PeriodSeconds: 3600}}})
		w.pass(&registrypb.SetVotes{Member: idB, Votes: 2})
		w.ok(edKey("A/admin"), proposal(votes))
		for i := range 15 {
			w.ok(edKey("A/admin"), vote(3, i%2 == 1))
		}
	})
}

func changeRefusals(body bodyRun, after after) {
	change := func(name string, code registry.Code, change any) { body(name, code, "A/admin", proposal(change)) }
	admit := func(name string, code registry.Code, fn func(m *registrypb.AdmitMember)) {
		m := newcomer("D")
		fn(m)
		change("admit: "+name, code, m)
	}
	admit("id", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Id = "D" })
	admit("name", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Name = "" })
	admit("address", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Gateways[0].Address = "x" })
	admit("known member", registry.AlreadyExists, func(m *registrypb.AdmitMember) { m.Id = idB })
	admit("no admin key", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Keys = m.Keys[1:] })
	admit("another's possession", registry.BadPossession, func(m *registrypb.AdmitMember) { m.Keys[0].Possession = m.Keys[1].Possession })
	admit("known key", registry.AlreadyExists, func(m *registrypb.AdmitMember) { m.Keys[2] = newKey("B/seal", m.Id, civibus.SealKey) })
	admit("key twice", registry.AlreadyExists, func(m *registrypb.AdmitMember) { m.Keys[2] = m.Keys[0] })
	admit("two validator keys", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Keys[2] = newKey("D/x", m.Id, civibus.ValidatorKey) })
	admit("key without certificate", registry.BadCertificate, func(m *registrypb.AdmitMember) { m.Keys[2].Purpose = 3 })
	admit("too many keys", registry.InvalidField, func(m *registrypb.AdmitMember) {
		for len(m.Keys) <= 32 {
			m.Keys = append(m.Keys, m.Keys[0])
		}
	})
	admit("votes", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Votes = 1_000_001 })
	admit("power", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Power = 1_000_001 })
	admit("power without key", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Keys = m.Keys[:3] })
	admit("node", registry.InvalidField, func(m *registrypb.AdmitMember) { m.Nodes[0].Role = 0 })
	after("admit: another's node", registry.AlreadyExists, "A/admin", proposal(newcomer("D")), func(w *world) {
		w.ok(edKey("B/admin"), &registrypb.SetNodes{Member: idB, Nodes: []*registrypb.NodeAddress{node("D")}})
	})

	change("suspend nobody", registry.NotFound, &registrypb.SuspendMember{Id: "TEST/GOV/X"})
	change("suspend: id", registry.InvalidField, &registrypb.SuspendMember{})
	change("reinstate who is active", registry.NoChange, &registrypb.ReinstateMember{Id: idB})
	after("remove who has left", registry.Ended, "A/admin", proposal(&registrypb.RemoveMember{Id: idC}), func(w *world) { w.ok(edKey("C/admin"), &registrypb.Leave{}) })
	change("votes of nobody", registry.NotFound, &registrypb.SetVotes{Member: "TEST/GOV/X", Votes: 1})
	change("votes under another", registry.BadHierarchy, &registrypb.SetVotes{Member: idC, Votes: 1})
	change("too many votes", registry.InvalidField, &registrypb.SetVotes{Member: idB, Votes: 1_000_001})
	change("same votes", registry.NoChange, &registrypb.SetVotes{Member: idB, Votes: 1})
	after("no votes left", registry.LastVoter, "B/admin", proposal(&registrypb.SetVotes{Member: idB}), func(w *world) {
		w.pass(&registrypb.SetVotes{Member: idA})
	})
	change("no validators named", registry.InvalidField, setPowers())
	change("validator key id", registry.InvalidField, setPowers(&registrypb.ValidatorPower{KeyId: []byte{1}, Power: 1}))
	change("unknown validator", registry.NotFound, setPowers(powerOf("X/validator", 1)))
	change("a seal key's power", registry.NotFound, setPowers(powerOf("B/seal", 1)))
	change("too much power", registry.InvalidField, setPowers(powerOf("B/validator", 1_000_001)))
	change("validator twice", registry.InvalidField, setPowers(powerOf("B/validator", 1), powerOf("B/validator", 2)))
	change("same powers", registry.NoChange, setPowers(powerOf("B/validator", 10)))
	change("no validator left", registry.LastValidator, setPowers(powerOf("A/validator", 0), powerOf("B/validator", 0), powerOf("C/validator", 0)))
	after("power of a suspended member", registry.NotInForce, "A/admin", proposal(setPowers(powerOf("C/validator", 5))), func(w *world) {
		w.ok(edKey("B/admin"), &registrypb.SetMemberStatus{Id: idC, Status: suspended})
	})
	change("same parameters", registry.NoChange, &registrypb.SetParams{BlockShare: registry.DefaultBlockShare})
	change("small transactions", registry.InvalidField, &registrypb.SetParams{MaxTxBytes: 100})
	change("many open proposals", registry.InvalidField, &registrypb.SetParams{MaxOpenProposals: 257})
	change("share", registry.InvalidField, &registrypb.SetParams{BlockShare: 1001})
	change("second seals as they are", registry.NoChange, &registrypb.SetParams{SecondSeals: registrypb.SecondSeals_SECOND_SEALS_OPTIONAL})
	change("second seals unknown", registry.InvalidField, &registrypb.SetParams{SecondSeals: 3})
	change("quota", registry.InvalidField, &registrypb.SetParams{MemberQuota: 99})
	for name, r := range map[string]*registrypb.Rule{
		"kind": {Kind: 16, Quorum: 1, Threshold: 501, PeriodSeconds: 1}, "quorum": {Kind: 1, Quorum: 1001, Threshold: 501, PeriodSeconds: 1},
		"minority": {Kind: 1, Quorum: 1, Threshold: 500, PeriodSeconds: 1}, "period": {Kind: 1, Quorum: 1, Threshold: 501},
	} {
		change("rule: "+name, registry.InvalidField, &registrypb.SetParams{Rules: []*registrypb.Rule{r}})
	}
	registrars := func(members ...string) *registrypb.SetParams {
		return &registrypb.SetParams{Registrars: &registrypb.Registrars{Members: members}}
	}
	change("unknown registrar", registry.NotFound, registrars("TEST/GOV/X"))
	change("registrar twice", registry.InvalidField, registrars(idA, idA))
	change("registrar under another", registry.BadHierarchy, registrars(idC))
	change("local group", registry.InvalidField, &registrypb.SetGroup{Id: "local/" + idB + "/POP/g", Title: "G"})
	change("group member unknown", registry.NotFound, &registrypb.SetGroupMember{Group: "global/towns", Client: "TEST/GOV/X", Member: true})
	change("upgrade name", registry.InvalidField, &registrypb.PlanUpgrade{Name: "V 1", Height: 100})
	change("upgrade skips", registry.InvalidField, &registrypb.PlanUpgrade{Name: fmt.Sprintf("protocol-%d", registry.Protocol+2), Height: 100})
	change("upgrade to no protocol", registry.InvalidField, &registrypb.PlanUpgrade{Name: "protocol-02", Height: 100})
	change("upgrade passed", registry.HeightPassed, &registrypb.PlanUpgrade{Name: "v1", Height: 1})
	change("upgrade far away", registry.InvalidField, &registrypb.PlanUpgrade{Name: "v1", Height: 1 << 40})
	change("upgrade with validators", registry.InvalidField, &registrypb.PlanUpgrade{Name: "v1", Height: 100, Validators: []*registrypb.ValidatorPower{powerOf("A/validator", 1)}})
	change("cancel nothing", registry.NotFound, &registrypb.CancelUpgrade{Name: "v1"})
	change("cancel: name", registry.InvalidField, &registrypb.CancelUpgrade{})
	recovery := func(name, id string, purpose civibus.Purpose) *registrypb.RecoverMember {
		return &registrypb.RecoverMember{Id: id, Key: newKey(name, id, purpose)}
	}
	change("recover who needs no help", registry.NotAuthorised, recovery("x", idB, civibus.AdminKey))
	change("recover nobody", registry.NotFound, recovery("x", "TEST/GOV/X", civibus.AdminKey))
	change("recover with a seal key", registry.InvalidField, recovery("x", idB, civibus.SealKey))
	change("recover without a key", registry.InvalidField, &registrypb.RecoverMember{Id: idB})
	after("recover with a known key", registry.AlreadyExists, "A/admin", proposal(recovery("A/admin", idC, civibus.AdminKey)), func(w *world) {
		w.ok(edKey("B/admin"), &registrypb.RevokeKey{KeyId: keyIDBytes("C/admin"), Reason: 1})
	})
	change("revoke nothing", registry.NotFound, revokeNow("X/seal"))
	change("revoke: key id", registry.InvalidField, &registrypb.RevokeKeyEmergency{KeyId: []byte{1}, Reason: 1})
	change("revoke: reason", registry.InvalidField, &registrypb.RevokeKeyEmergency{KeyId: keyIDBytes("B/seal")})
	after("revoke the revoked", registry.Ended, "A/admin", proposal(revokeNow("B/seal")), func(w *world) {
		w.ok(edKey("B/admin"), &registrypb.RevokeKey{KeyId: keyIDBytes("B/seal"), Reason: 1})
	})
}

func hierarchyRefusals(body bodyRun, after after, do doer) {
	// Nodes.
	nodes := func(owner string, n ...*registrypb.NodeAddress) *registrypb.SetNodes {
		return &registrypb.SetNodes{Member: owner, Nodes: n}
	}
	body("nodes of another", registry.NotAuthorised, "C/admin", nodes(idB, node("B")))
	body("nodes of nobody", registry.NotAuthorised, "A/admin", nodes("TEST/GOV/X", node("B")))
	body("no nodes", registry.NoChange, "B/admin", nodes(idB))
	body("node twice", registry.InvalidField, "B/admin", nodes(idB, node("B"), node("B")))
	body("node id", registry.InvalidField, "B/admin", nodes(idB, &registrypb.NodeAddress{Id: "AB", Address: "b:1", Role: 1}))
	body("node address", registry.InvalidField, "B/admin", nodes(idB, &registrypb.NodeAddress{Id: node("B").Id, Address: "b", Role: 1}))
	after("node of another", registry.AlreadyExists, "B/admin", nodes(idB, node("A")), do("A/admin", nodes(idA, node("A"))))
	after("nodes of an ended one", registry.Ended, "B/admin", nodes(idC, node("C")), do("B/admin", &registrypb.SetMemberStatus{Id: idC, Status: ended}))
	// Voting power.
	move := func(from, to string) *registrypb.MoveVotingPower {
		return &registrypb.MoveVotingPower{From: keyIDBytes(from), To: keyIDBytes(to)}
	}
	body("power: key id", registry.InvalidField, "B/admin", &registrypb.MoveVotingPower{From: []byte{1}})
	body("power of none", registry.NotFound, "B/admin", move("B/seal", "B/validator"))
	body("power to another", registry.InvalidField, "B/admin", move("B/validator", "A/validator"))
	body("power of another", registry.NotAuthorised, "A/admin", move("B/validator", "A/validator"))
	body("power to itself", registry.InvalidField, "B/admin", move("B/validator", "B/validator"))
	body("power to nothing", registry.NotFound, "B/admin", move("B/validator", "B/x"))
	// Delegation.
	body("delegate nothing", registry.InvalidField, "B/admin", &registrypb.Delegate{Root: idC, To: idA})
	body("delegate: root", registry.InvalidField, "B/admin", &registrypb.Delegate{Root: "C", To: idA, Keys: true})
	body("delegate: to", registry.InvalidField, "B/admin", &registrypb.Delegate{Root: idC, To: "A", Keys: true})
	body("delegate to oneself", registry.InvalidField, "B/admin", &registrypb.Delegate{Root: idC, To: idC, Keys: true})
	body("delegate for the past", registry.InvalidField, "B/admin", &registrypb.Delegate{Root: idC, To: idA, Keys: true, Until: 1})
	body("delegate what is another's", registry.NotAuthorised, "A/admin", &registrypb.Delegate{Root: idC, To: idA, Keys: true})
	body("delegate to nobody", registry.NotFound, "B/admin", &registrypb.Delegate{Root: idC, To: "TEST/GOV/X", Keys: true})
	after("delegate again", registry.NoChange, "B/admin", &registrypb.Delegate{Root: idC, To: idA, Keys: true}, do("B/admin", &registrypb.Delegate{Root: idC, To: idA, Keys: true}))
	after("delegate on", registry.NotAuthorised, "A/admin", &registrypb.Delegate{Root: idC, To: idB, Keys: true}, do("B/admin", &registrypb.Delegate{Root: idC, To: idA, Directory: true, Keys: true, Catalogue: true, Rights: true}))
	body("revoke no delegation", registry.NotFound, "B/admin", &registrypb.RevokeDelegation{Root: idC, To: idA})
	after("revoke another's delegation", registry.NotAuthorised, "A/admin", &registrypb.RevokeDelegation{Root: idB, To: idC}, do("B/admin", &registrypb.Delegate{Root: idB, To: idC, Keys: true}))
	after("revoke twice", registry.Ended, "A/admin", &registrypb.RevokeDelegation{Root: idC, To: idA}, do("B/admin", &registrypb.Delegate{Root: idC, To: idA, Keys: true}), do("A/admin", &registrypb.RevokeDelegation{Root: idC, To: idA}))
	after("an admin key by delegation", registry.NotAuthorised, "A/admin", addKey(edKey("C/x"), idC, civibus.AdminKey), do("B/admin", &registrypb.Delegate{Root: idC, To: idA, Keys: true}))
	after("another scope", registry.NotAuthorised, "A/admin", &registrypb.SetSubsystem{Id: idC + "/X", Name: "X"}, do("B/admin", &registrypb.Delegate{Root: idC, To: idA, Directory: true, Keys: true, Rights: true}))
	// Hosting.
	host := func(member, host string) *registrypb.SetHost {
		return &registrypb.SetHost{Member: member, Host: host}
	}
	body("host oneself", registry.InvalidField, "B/admin", host(idB, idB))
	body("host: id", registry.InvalidField, "B/admin", host(idC, "A"))
	body("host another's", registry.NotAuthorised, "A/admin", host(idB, idA))
	body("hosted by nobody", registry.NotFound, "B/admin", host(idB, "TEST/GOV/X"))
	body("no host to end", registry.NoChange, "B/admin", host(idB, ""))
	after("end another's hosting", registry.NotAuthorised, "C/admin", host(idB, ""), do("B/admin", host(idB, idA)))
	after("ask twice", registry.NoChange, "B/admin", host(idB, idA), do("B/admin", host(idB, idA)))
	body("accept unasked", registry.NotFound, "A/admin", &registrypb.AcceptHost{Member: idB, Host: idA})
	after("accept for another", registry.NotAuthorised, "C/admin", &registrypb.AcceptHost{Member: idB, Host: idA}, do("B/admin", host(idB, idA)))
	// Leaving.
	after("the last validator leaves", registry.LastValidator, "A/admin", &registrypb.Leave{}, do("B/admin", &registrypb.RevokeKey{KeyId: keyIDBytes("B/validator"), Reason: 1}),
		do("C/admin", &registrypb.RevokeKey{KeyId: keyIDBytes("C/validator"), Reason: 1, RevokeHeight: 1000}))
	after("the last validator's key is revoked", registry.LastValidator, "A/admin", &registrypb.RevokeKey{KeyId: keyIDBytes("A/validator"), Reason: 1, RevokeHeight: 2000},
		do("B/admin", &registrypb.Leave{}), do("C/admin", &registrypb.Leave{}))
	after("the last voter is suspended", registry.LastVoter, "A/admin", &registrypb.SetMemberStatus{Id: idB, Status: suspended}, func(w *world) {
		w.pass(&registrypb.SetVotes{Member: idA})
	})
}
