package registry

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	maxNodes    = 16 // nodes of a member
	nodeIDBytes = 20
)

// Node is a member's node in the ledger's network.
type Node struct {
	Member    civibus.MemberID
	ID        string // 40 lower-case hex digits, from the node's key
	Address   string // host:port at which other nodes reach it
	Validator bool   // false: a follower
}

// memberNodes is the state's record of a member's nodes.
type memberNodes struct {
	member civibus.MemberID
	nodes  []Node
}

type nodesRecord struct{ *memberNodes }

func (r nodesRecord) stateKey() string           { return nodesPrefix + r.member.String() }
func (r nodesRecord) put(s *state)               { s.nodes.Set(r.member.String(), r.memberNodes) }
func (nodesRecord) eventField() protowire.Number { return 21 }

func (r nodesRecord) encode() []byte {
	w := writer{}.str(1, r.member.String())
	for _, n := range r.nodes {
		w = w.message(2, writer{}.str(1, n.ID).str(2, n.Address).num(3, uint64(roleOf(n))))
	}
	return w
}

func roleOf(n Node) registrypb.NodeRole {
	if n.Validator {
		return registrypb.NodeRole_NODE_ROLE_VALIDATOR
	}
	return registrypb.NodeRole_NODE_ROLE_FOLLOWER
}

func decodeNodes(value []byte) (record, error) {
	var m registrypb.Nodes
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := civibus.ParseMemberID(m.Member)
	return nodesRecord{&memberNodes{id, nodesOf(id, m.Nodes)}}, err
}

func nodesOf(member civibus.MemberID, in []*registrypb.NodeAddress) []Node {
	var out []Node
	for _, n := range in {
		out = append(out, Node{member, n.GetId(), n.GetAddress(), n.GetRole() == registrypb.NodeRole_NODE_ROLE_VALIDATOR})
	}
	return out
}

// Nodes returns the nodes of all active members, by member and then as the
// member gave them. No id occurs twice.
func (v *View) Nodes() []Node {
	var out []Node
	seen := make(map[string]bool)
	scan(v.state.nodes, func(member string, r *memberNodes) {
		if m, ok := v.state.members.Get(member); !ok || m.Status != civibus.Active {
			return
		}
		for _, n := range r.nodes {
			if !seen[n.ID] {
				seen[n.ID] = true
				out = append(out, n)
			}
		}
	})
	return out
}

// NodesOf returns the nodes that a member gave, whatever its status.
func (v *View) NodesOf(member civibus.MemberID) []Node {
	r, ok := v.state.nodes.Get(member.String())
	if !ok {
		return nil
	}
	return slices.Clone(r.nodes)
}

// setNodes says which nodes of a member others connect to.
func (x *txn) setNodes(m *registrypb.SetNodes) ([]record, *refusal) {
	id, r := x.memberID("member", m.Member)
	if r != nil {
		return nil, r
	}
	nodes, r := checkNodes(id, m.Nodes)
	if r != nil {
		return nil, r
	}
	if r := x.mustAdminister(id, directoryScope); r != nil {
		return nil, r
	}
	if r := x.mustLive(id); r != nil {
		return nil, r
	}
	old, ok := x.nodes.Get(id.String())
	if ok && slices.Equal(old.nodes, nodes) || !ok && len(nodes) == 0 {
		return nil, refuse(NoChange, "the nodes of %s are already so", id)
	}
	if r := x.mustBeFree(id, nodes); r != nil {
		return nil, r
	}
	return []record{nodesRecord{&memberNodes{id, nodes}}}, nil
}

// mustBeFree checks that no other active member has one of the nodes.
func (x *txn) mustBeFree(id civibus.MemberID, nodes []Node) *refusal {
	var r *refusal
	x.nodes.Scan(func(_ string, other *memberNodes) bool {
		if other.member == id {
			return true
		}
		m := x.member(other.member)
		if m == nil || m.Status != civibus.Active {
			return true
		}
		for _, n := range nodes {
			if slices.ContainsFunc(other.nodes, func(o Node) bool { return o.ID == n.ID }) {
				r = refuse(AlreadyExists, "nodes: %s is a node of %s", n.ID, other.member)
				return false
			}
		}
		return true
	})
	return r
}

// checkNodes checks the nodes' fields.
func checkNodes(member civibus.MemberID, in []*registrypb.NodeAddress) ([]Node, *refusal) {
	if len(in) > maxNodes {
		return nil, refuse(InvalidField, "nodes: %d, the rule is at most %d", len(in), maxNodes)
	}
	out := nodesOf(member, in)
	for i, n := range out {
		if !isLowerHex(n.ID, nodeIDBytes) {
			return nil, refuse(InvalidField, "nodes[%d].id: %.80q, the rule is %d lower-case hex digits", i, n.ID, 2*nodeIDBytes)
		}
		if slices.ContainsFunc(out[:i], func(o Node) bool { return o.ID == n.ID }) {
			return nil, refuse(InvalidField, "nodes[%d].id: %s occurs twice", i, n.ID)
		}
		if err := checkAddress(n.Address); err != nil {
			return nil, refuse(InvalidField, "nodes[%d].address: %q: %v", i, n.Address, err)
		}
		if role := in[i].Role; role != registrypb.NodeRole_NODE_ROLE_VALIDATOR && role != registrypb.NodeRole_NODE_ROLE_FOLLOWER {
			return nil, refuse(InvalidField, "nodes[%d].role: %d, the rule is validator or follower", i, role)
		}
	}
	return out, nil
}
