package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// governed makes n validators of an instance with votes, and starts none.
func governed(t testing.TB, n int, change func(i int, cfg *ledger.Config)) *network {
	t.Helper()
	w := makeNetwork(t, n, change)
	// The first block has the time of the genesis, and proposals their deadline from it.
	w.genesis.Protocol, w.genesis.Registrars, w.genesis.Time = registry.Protocol, nil, time.Now().UTC().Truncate(time.Second)
	return w
}

func (w *network) startAll() {
	w.t.Helper()
	for i := range w.bodies {
		w.start(i)
	}
}

// add makes one more body, which is in no genesis.
func (w *network) add() *body {
	w.t.Helper()
	b, _, _ := makeBody(w.t, len(w.bodies))
	w.bodies, w.nodes, w.listen = append(w.bodies, b), append(w.nodes, nil), append(w.listen, "")
	return b
}

// pass has a change proposed by the first body and agreed to by the others until
// it is decided.
func (w *network) pass(by []int, change *registrypb.Change) ledger.Committed {
	w.t.Helper()
	n := w.nodes[by[0]]
	propose := &registrypb.Propose{Change: change}
	c := mustSubmit(w.t, n, w.bodies[by[0]].sign(w.t, w.bodies[by[0]].admin, &registrypb.Tx{Body: &registrypb.Tx_Propose{Propose: propose}}))
	var id uint64
	all, _ := n.View().Proposals("", 0)
	for _, p := range all {
		id = max(id, p.ID)
	}
	for _, i := range by[1:] {
		if p, _ := n.View().Proposal(id); p.Status != registry.ProposalOpen {
			break
		}
		vote := &registrypb.CastVote{Proposal: id, Yes: true}
		c = mustSubmit(w.t, n, w.bodies[i].sign(w.t, w.bodies[i].admin, &registrypb.Tx{Body: &registrypb.Tx_CastVote{CastVote: vote}}))
	}
	if p, _ := n.View().Proposal(id); p.Status != registry.ProposalExecuted {
		w.t.Fatalf("proposal %d is %s: %s", id, p.Status, p.Failure)
	}
	return c
}

// admission is what a body that wants to become a member and a validator says.
func (b *body) admission(t testing.TB, address string) *registrypb.Change {
	t.Helper()
	m := &registrypb.AdmitMember{Id: b.member.String(), Name: b.member.Code, Votes: 1, Power: 10}
	m.Nodes = []*registrypb.NodeAddress{{Id: b.nodeID, Address: address, Role: registrypb.NodeRole_NODE_ROLE_VALIDATOR}}
	for purpose, s := range map[civibus.Purpose]civibus.Signer{
		civibus.AdminKey: b.admin, civibus.LogKey: b.log, civibus.WitnessKey: b.witness, civibus.ValidatorKey: b.validator,
	} {
		possession, err := registry.ProvePossession(context.Background(), s, chainID, b.member, purpose)
		check(t, err)
		m.Keys = append(m.Keys, &registrypb.NewKey{Purpose: registrypb.Purpose(purpose), Spki: s.Key().SPKI, Possession: possession})
	}
	slices.SortFunc(m.Keys, func(a, b *registrypb.NewKey) int { return int(a.Purpose) - int(b.Purpose) })
	return &registrypb.Change{Change: &registrypb.Change_AdmitMember{AdmitMember: m}}
}

func (b *body) removal() *registrypb.Change {
	return &registrypb.Change{Change: &registrypb.Change_RemoveMember{RemoveMember: &registrypb.RemoveMember{Id: b.member.String()}}}
}

// powers are the validators' powers that the engine counts with, by member.
func (w *network) powers(i int) map[string]int64 {
	w.t.Helper()
	out := make(map[string]int64)
	for address, power := range w.nodes[i].EngineValidators() {
		name := address
		for _, b := range w.bodies {
			if ledger.EngineAddress(b.validator.Key()) == address {
				name = b.member.Code
			}
		}
		out[name] = power
	}
	return out
}

func (w *network) awaitPowers(want map[string]int64) {
	w.t.Helper()
	for i := range w.nodes {
		if w.nodes[i] == nil {
			continue
		}
		eventually(w.t, 20*time.Second, fmt.Sprintf("node %d counts with %v", i, want), func() bool { return fmt.Sprint(w.powers(i)) == fmt.Sprint(want) })
	}
}

// TestValidatorsFollowTheRegistry: a fifth body is admitted by vote and its node
// votes on blocks, another body is removed and its node no longer does, and the
// chain goes on, also after restarts and from the first block.
func TestValidatorsFollowTheRegistry(t *testing.T) {
	w := governed(t, 4, nil)
	w.add()
	w.startAll()
	want := map[string]int64{"BODY0": 10, "BODY1": 10, "BODY2": 10, "BODY3": 10}
	w.awaitPowers(want)

	// 1. Admitted.
	w.pass([]int{0, 1, 2}, w.bodies[4].admission(t, "127.0.0.1:26656"))
	want["BODY4"] = 10
	w.awaitPowers(want)

	// 2. Its vote counts: of five, four are enough and three are not.
	w.stop(3)
	c := mustSubmit(t, w.nodes[4], w.bodies[4].notarise(t, "by the fifth"))
	w.agree(c.Height)

	// 3. Removed, while its node is down.
	w.pass([]int{0, 1, 2, 4}, w.bodies[3].removal())
	delete(want, "BODY3")
	w.awaitPowers(want)
	w.stop(2)
	c = mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "three of four"))
	w.agree(c.Height)
	w.start(2)

	// 4. The same after a restart, and for a node that executes all blocks anew.
	w.stop(1)
	check(t, os.RemoveAll(filepath.Join(w.dir, "body1", "registry")))
	w.start(1)
	c = mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "replayed"))
	w.agree(c.Height)
	w.awaitPowers(want)
	w.start(3) // it follows
	w.agree(c.Height)
	w.awaitPowers(want)
}

// TestUpgradeToProtocol1: an instance that began without votes goes on with the
// validators that the upgrade names.
func TestUpgradeToProtocol1(t *testing.T) {
	w := newNetwork(t, 2, nil)
	n, b := w.nodes[0], w.bodies[0]
	plan := &registrypb.PlanUpgrade{Name: "protocol-1", Height: n.View().Height() + 6}
	for i, body := range w.bodies {
		key := body.validator.Key()
		plan.Validators = append(plan.Validators, &registrypb.ValidatorPower{KeyId: key.ID[:], Power: uint64(10 + i)})
	}
	change := &registrypb.Change{Change: &registrypb.Change_PlanUpgrade{PlanUpgrade: plan}}
	mustSubmit(t, n, b.sign(t, b.admin, &registrypb.Tx{Body: &registrypb.Tx_Propose{Propose: &registrypb.Propose{Change: change}}}))
	for k := 0; n.View().Height() <= plan.Height; k++ {
		mustSubmit(t, n, b.notarise(t, fmt.Sprint("on the way ", k)))
	}
	w.awaitPowers(map[string]int64{"BODY0": 10, "BODY1": 11})
	w.agree(mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "in protocol 1")).Height)
}

// TestEngineTakesWhatItIsGiven draws sets of validators and checks that the
// engine's own rules accept every change from one to the next.
func TestEngineTakesWhatItIsGiven(t *testing.T) {
	var all []civibus.PublicKey
	for range 6 {
		k, err := keys.Generate(civibus.AdminKey, civibus.Ed25519)
		check(t, err)
		all = append(all, k.Key())
	}
	if err := ledger.CheckSetChanges(all, 300); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownUpgradeStopsTheNode: a node says before an upgrade that it does not
// know it, stops before the block at its height, says what to install for as long
// as it runs, and again when it is started with the same software.
func TestUnknownUpgradeStopsTheNode(t *testing.T) {
	w := governed(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	w.startAll()
	n, b := w.nodes[0], w.bodies[0]
	height := n.View().Height() + 8
	w.pass([]int{0}, &registrypb.Change{Change: &registrypb.Change_PlanUpgrade{PlanUpgrade: &registrypb.PlanUpgrade{Name: "summer-2031", Height: height}}})
	says := func(healthy bool, text string) func() bool {
		return func() bool {
			s := n.Status()
			all := strings.Join(s.Problems, "\n")
			return s.Healthy == healthy && strings.Contains(all, text) && strings.Contains(all, fmt.Sprintf(`"summer-2031" at height %d`, height)) && strings.Contains(all, "install")
		}
	}
	eventually(t, 10*time.Second, "the upgrade is announced", says(true, fmt.Sprintf("will stop before block %d", height)))
	for k := 0; ; k++ {
		c, err := n.Submit(within(t, 10*time.Second), b.notarise(t, fmt.Sprint("until the upgrade ", k)))
		if errors.Is(err, ledger.ErrHalted) {
			break
		}
		if err != nil || c.Height >= height {
			t.Fatalf("submit: %+v, %v; want a block before %d, then ErrHalted", c, err, height)
		}
	}
	eventually(t, 10*time.Second, "the node says why it stopped", says(false, "this node stopped"))
	if got := n.View().Height(); got != height-1 {
		t.Fatalf("stopped at height %d, want %d", got, height-1)
	}

	w.stop(0)
	_, err := ledger.Open(context.Background(), w.config(0))
	var unknown *registry.UnknownUpgradeError
	if !errors.As(err, &unknown) || unknown.Name != "summer-2031" || unknown.Height != height || !strings.Contains(err.Error(), "install") {
		t.Fatalf("started again: %v; want the name of the upgrade and what to install", err)
	}
}

// TestSigningTwiceCostsTheVote: a validator whose key runs in two nodes is proved
// to have signed twice, loses its vote and its key, and the chain goes on.
func TestSigningTwiceCostsTheVote(t *testing.T) {
	var w *network
	w = governed(t, 4, func(i int, cfg *ledger.Config) {
		if i == 4 {
			cfg.ValidatorKeys = votesWith(w.bodies[3].validator)
		}
	})
	w.add()
	w.startAll()
	caught := func() bool {
		all, _ := w.nodes[0].View().Misbehaviour("", 0)
		return len(all) > 0
	}
	for k := 0; !caught(); k++ {
		if k == 3000 {
			t.Fatal("nobody noticed")
		}
		mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, fmt.Sprint(k)))
	}
	all, _ := w.nodes[0].View().Misbehaviour("", 0)
	key := w.bodies[3].validator.Key()
	if all[0].Key != key.ID || all[0].Member != w.bodies[3].member {
		t.Fatalf("caught %+v, want the key of %s", all[0], w.bodies[3].member)
	}
	if k, ok := w.nodes[0].View().Key(key.ID); !ok || k.InForce(w.nodes[0].View().Height()) {
		t.Fatal("the key is still in force")
	}
	w.awaitPowers(map[string]int64{"BODY0": 10, "BODY1": 10, "BODY2": 10})
	w.agree(mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "three are left")).Height)
}
