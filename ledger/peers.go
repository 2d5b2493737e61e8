package ledger

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// followerPeers is how many nodes a follower keeps connected to. A validator keeps
// connected to all validators.
const followerPeers = 8

// Fields of registrypb.Event that tell of nodes and of who may have them.
const (
	eventMemberSet = 10
	eventParamsSet = 19
	eventNodesSet  = 21
)

// peerList says which nodes this one talks to.
type peerList struct {
	permitted map[string]bool // by node id
	wanted    []wantedPeer    // by node id
}

// wantedPeer is a node that this one keeps connected to. Without addresses it is
// waited for.
type wantedPeer struct {
	id        string
	addresses []string // host:port
}

// listPeers makes the list from the configured peers, which are how a node finds
// into the network, and the nodes of the registry's active members. Of these it
// dials the validators' nodes; followers dial. A node of a member that is
// suspended, removed or has left is refused, also when it is configured.
func listPeers(configured []string, v *registry.View) (*peerList, error) {
	p := &peerList{permitted: make(map[string]bool)}
	addresses := make(map[string][]string)
	// 1. The configured ones.
	for _, c := range configured {
		id, address, err := splitPeer(c)
		if err != nil {
			return nil, err
		}
		p.permitted[id], addresses[id] = true, nil
		if address != "" {
			addresses[id] = []string{address}
		}
	}
	// 2. Those of the registry, after the nodes of members that are not active.
	if v != nil && v.Params().Protocol > 0 {
		for _, id := range inactiveNodes(v) {
			delete(p.permitted, id)
			delete(addresses, id)
		}
		for _, n := range v.Nodes() {
			p.permitted[n.ID] = true
			if _, ok := addresses[n.ID]; (ok || n.Validator) && !slices.Contains(addresses[n.ID], n.Address) {
				addresses[n.ID] = append(addresses[n.ID], n.Address)
			}
		}
	}
	for id, a := range addresses {
		p.wanted = append(p.wanted, wantedPeer{id, a})
	}
	slices.SortFunc(p.wanted, func(a, b wantedPeer) int { return strings.Compare(a.id, b.id) })
	return p, nil
}

// inactiveNodes are the ids of the nodes of members that are not active.
func inactiveNodes(v *registry.View) (ids []string) {
	for after := ""; ; {
		members, next := v.Members(after, 1000)
		for _, m := range members {
			if m.Status == civibus.Active {
				continue
			}
			for _, n := range v.NodesOf(m.ID) {
				ids = append(ids, n.ID)
			}
		}
		if next == "" || next == after {
			return ids
		}
		after = next
	}
}

// others are the wanted peers but for this node itself, those that follow its own
// id first, so that not all followers choose the same.
func (p *peerList) others(self string) []wantedPeer {
	i, _ := slices.BinarySearchFunc(p.wanted, self, func(w wantedPeer, id string) int { return strings.Compare(w.id, id) })
	out := slices.Concat(p.wanted[i:], p.wanted[:i])
	return slices.DeleteFunc(out, func(w wantedPeer) bool { return w.id == self })
}

// refreshPeers makes the list anew after a block with these events, if they bear
// on it.
func (a *app) refreshPeers(events [][]byte) {
	bears := func(e []byte) bool {
		f := eventField(e)
		return f == eventMemberSet || f == eventNodesSet || f == eventParamsSet
	}
	if slices.ContainsFunc(events, bears) {
		a.loadPeers()
	}
}

// loadPeers makes the list of peers from the committed view.
func (a *app) loadPeers() {
	p, err := listPeers(a.cfg.Peers, a.view())
	if err != nil { // the configuration was checked
		a.log.Error("the list of ledger peers", slog.Any("error", err))
		return
	}
	a.peers.Store(p)
}

// lists reports whether other nodes can be expected to let this one in: it is in
// the registry, or they are all configured by hand.
func (a *app) lists(node string) bool {
	if a.cfg.Genesis.Protocol == 0 {
		return true
	}
	v := a.view()
	return v != nil && slices.ContainsFunc(v.Nodes(), func(n registry.Node) bool { return n.ID == node })
}

// timedMark marks a peer whose connection ends when it is silent.
const timedMark = "civibus.timed"

// sift disconnects the peers that may no longer talk to this node, and sees to it
// that the connections of the others end when nothing is heard.
func (w *watchdog) sift() {
	permitted := w.node.app.peers.Load().permitted
	for _, p := range w.node.peers() {
		if permitted[string(p.ID())] {
			if p.Get(timedMark) != true {
				p.Set(timedMark, endSilence(p.RemoteAddr()))
			}
			continue
		}
		w.node.cfg.Logger.Warn("a ledger peer is cut off: it is no longer in the registry", slog.String("peer", string(p.ID())))
		w.node.engine.Switch().StopPeerGracefully(p)
	}
}
