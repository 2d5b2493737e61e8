package registry

import (
	"fmt"

	"github.com/civibus/civibus/registry/registrypb"
)

// checkGovernance checks what protocol 1 added, and adds its records: votes, then
// nodes, then validators, each in the order of the file.
func (g *Genesis) checkGovernance(c *genesisCheck, params *Params) {
	if g.Protocol > Protocol {
		c.problem("protocol", refuse(InvalidField, "%d, this software knows 0 to %d", g.Protocol, Protocol))
		return
	}
	if g.Protocol == 0 {
		g.checkAbsent(c)
		return
	}
	g.checkNetworkParams(c, params)
	g.checkVotes(c)
	for i, m := range g.Members {
		c.nodes(fmt.Sprintf("members[%d]", i), m)
	}
	for _, v := range c.validators {
		c.records = append(c.records, validatorRecord{v})
	}
	if len(c.validators) > maxValidators {
		c.problem("validators", refuse(InvalidField, "there are %d, the rule is at most %d", len(c.validators), maxValidators))
	}
}

// checkAbsent checks that an instance of protocol 0 uses nothing of protocol 1.
func (g *Genesis) checkAbsent(c *genesisCheck) {
	needs := func(where string, set bool) {
		if set {
			c.problem(where, refuse(InvalidField, "it needs protocol = 1"))
		}
	}
	needs("rules", len(g.Rules) > 0)
	needs("max_open_proposals", g.MaxOpenProposals != 0)
	needs("block_share", g.BlockShare != 0)
	needs("member_quota", g.MemberQuota != 0)
	needs("ml_dsa_validators", g.MLDSAValidators)
	needs("second_seals", g.SecondSeals)
	for i, m := range g.Members {
		needs(fmt.Sprintf("members[%d].votes", i), m.Votes != nil)
		needs(fmt.Sprintf("members[%d].nodes", i), len(m.Nodes) > 0)
	}
}

func (g *Genesis) checkNetworkParams(c *genesisCheck, params *Params) {
	for i, r := range g.Rules {
		kind, err := ParseProposalKind(r.Kind)
		if err != nil {
			c.problem(fmt.Sprintf("rules[%d]", i), refuse(InvalidField, "%v", err))
			continue
		}
		params.Rules = append(params.Rules, Rule{kind, r.Quorum, r.Threshold, r.PeriodSeconds})
	}
	c.problem("rules", checkRules(params.Rules, g.Protocol))
	params.MaxOpenProposals, params.BlockShare, params.MemberQuota = g.MaxOpenProposals, g.BlockShare, g.MemberQuota
	limits := *params
	limits.Rules = nil // reported above
	c.problem("limits", limits.checkLimits())
	params.setDefaults()
}

func (g *Genesis) checkVotes(c *genesisCheck) {
	var all uint64
	for i, m := range g.Members {
		where, member := fmt.Sprintf("members[%d].votes", i), c.members[m.ID]
		if member == nil {
			continue // reported with the member
		}
		votes := uint32(1)
		switch {
		case m.Votes != nil:
			votes = *m.Votes
		case m.Parent != "":
			votes = 0
		}
		if votes > maxVotes {
			c.problem(where, refuse(InvalidField, "%d, the rule is at most %d", votes, maxVotes))
		}
		if votes > 0 && m.Parent != "" {
			c.problem(where, refuse(InvalidField, "%s has a parent, the rule is 0", m.ID))
		}
		if votes > 0 {
			c.records = append(c.records, votesRecord{&memberVotes{member.ID, votes}})
		}
		all += uint64(votes)
	}
	if all == 0 {
		c.problem("members", refuse(InvalidField, "none has votes, the rule is at least one"))
	}
}

func (c *genesisCheck) nodes(where string, m GenesisMember) {
	member := c.members[m.ID]
	if member == nil || len(m.Nodes) == 0 {
		return
	}
	in := make([]*registrypb.NodeAddress, len(m.Nodes))
	for i, n := range m.Nodes {
		in[i] = &registrypb.NodeAddress{Id: n.ID, Address: n.Address}
		switch n.Role {
		case "validator":
			in[i].Role = registrypb.NodeRole_NODE_ROLE_VALIDATOR
		case "follower":
			in[i].Role = registrypb.NodeRole_NODE_ROLE_FOLLOWER
		}
	}
	nodes, r := checkNodes(member.ID, in)
	c.problem(where, r)
	for _, n := range nodes {
		if c.nodeIDs[n.ID] {
			c.problem(where, refuse(AlreadyExists, "node %s occurs twice", n.ID))
		}
		c.nodeIDs[n.ID] = true
	}
	c.records = append(c.records, nodesRecord{&memberNodes{member.ID, nodes}})
}
