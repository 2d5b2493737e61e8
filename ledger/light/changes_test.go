package light_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// rotation is a network of one validator whose body moves all voting power to a
// second node with another key.
type rotation struct {
	*network
	second *ledger.Node
	old    *body // with the old key
	key    *keys.Key
}

func newRotation(t testing.TB) *rotation {
	t.Helper()
	dir := t.TempDir()
	node, key := nodeKey(t), newKey(t, civibus.ValidatorKey)
	id := ledger.NodeID(node.Public().(ed25519.PublicKey))
	r := &rotation{key: key, network: newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.Peers = append(cfg.Peers, id) })}
	r.old = r.bodies[0]
	var err error
	r.second, err = ledger.Open(context.Background(), ledger.Config{
		Dir: filepath.Join(dir, "second"), Genesis: r.genesis, ValidatorKeys: votesWith(t, key), NodeKey: node, Logger: testLogger(), ListenAddress: "127.0.0.1:0",
		Peers: []string{r.old.id + "@" + r.listen[0]}, TimeoutCommit: 10e6, HeartbeatInterval: 300e6, WatchInterval: 50e6,
	})
	check(t, err)
	t.Cleanup(func() { check(t, r.second.Close(within(t))) })
	return r
}

// rotate moves the power and waits until the new key alone makes blocks.
func (r *rotation) rotate() {
	t := r.t
	t.Helper()
	// The second node follows before it must vote.
	check(t, r.second.AwaitHeight(within(t), r.nodes[0].View().Height()))
	signer := r.key
	possession, err := registry.ProvePossession(context.Background(), signer, chainID, r.old.member, civibus.ValidatorKey)
	check(t, err)
	r.commit(0, r.old.sign(t, r.old.admin, &r.old.sequence, &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: &registrypb.AddKey{
		Member: r.old.member.String(), Purpose: registrypb.Purpose(civibus.ValidatorKey), Spki: signer.Key().SPKI, Possession: possession,
	}}}))
	from, to := r.old.validator.Key().ID, signer.Key().ID
	moved := r.commit(0, r.old.sign(t, r.old.admin, &r.old.sequence, &registrypb.Tx{Body: &registrypb.Tx_MoveVotingPower{MoveVotingPower: &registrypb.MoveVotingPower{From: from[:], To: to[:]}}}))
	check(t, r.nodes[0].AwaitHeight(within(t), moved+4))
}

// TestValidatorsChange: a client follows when all validators change, also when it was
// away meanwhile, and what the old ones sign later is refused.
func TestValidatorsChange(t *testing.T) {
	r := newRotation(t)
	honest, third := newFace(t, func() *ledger.Node { return r.second }), newFace(t, func() *ledger.Node { return r.nodes[0] })
	cfg := r.config(r.faces[0], honest, third)
	away, err := light.Open(context.Background(), cfg)
	check(t, err)
	r.reaches(away, r.commit(0, r.bodies[0].subsystem(t, "BEFORE")))
	check(t, away.Close(context.Background()))
	cfg.Dir = filepath.Join(r.dir, "there")
	there := open(t, cfg)
	r.rotate()
	height := r.commit(0, r.bodies[0].subsystem(t, "AFTER"))
	r.reaches(there, height) // it saw every step

	cfg.Dir = filepath.Join(r.dir, "light")
	back := open(t, cfg)
	r.reaches(back, height) // it saw none
	cfg.Dir = filepath.Join(r.dir, "new")
	r.reaches(open(t, cfg), height) // it begins at the genesis

	// The old validator has no power any more, and signs all the same.
	key := private(t, r.old)
	set := types.NewValidatorSet([]*types.Validator{types.NewValidator(key.PubKey(), 10)})
	lie := altered("/light/", func(b []byte) []byte {
		return forge(t, b, func(h *types.Header) { h.AppHash = make([]byte, 32) }, set, key)
	})
	r.faces[0].tell(lie)
	eventually(t, "the liar is named", func() bool {
		r.reaches(back, r.commit(0, r.bodies[0].note(t, fmt.Sprint(r.nodes[0].View().Height()))))
		return contains(back.Status().Problems, r.faces[0].address())
	})
	if kinds, _ := lies(t, filepath.Join(r.dir, "light")); !slices.Contains(kinds, "forged_header "+r.faces[0].address()) {
		t.Fatalf("kept %v", kinds)
	}
}

// TestFork: validators that were trusted sign another history than the one that a
// second full node shows. Nothing can tell which one is theirs: the client keeps
// both, shows nothing new, and says what to do.
func TestFork(t *testing.T) {
	r := newRotation(t)
	honest, third := newFace(t, func() *ledger.Node { return r.second }), newFace(t, func() *ledger.Node { return r.nodes[0] })
	cfg := r.config(r.faces[0], honest, third)
	c, err := light.Open(context.Background(), cfg)
	check(t, err)
	r.reaches(c, r.commit(0, r.bodies[0].subsystem(t, "BEFORE")))
	check(t, c.Close(context.Background()))
	r.rotate()
	height := r.commit(0, r.bodies[0].subsystem(t, "AFTER"))

	key := private(t, r.old)
	set := types.NewValidatorSet([]*types.Validator{types.NewValidator(key.PubKey(), 10)})
	forged := altered("/light/", func(b []byte) []byte {
		return forge(t, b, func(h *types.Header) { h.AppHash = make([]byte, 32) }, set, key)
	})
	r.faces[0].tell(func(w http.ResponseWriter, q *http.Request, h http.Handler) {
		if strings.Contains(q.URL.Path, "/light/0") || strings.Contains(q.URL.Path, fmt.Sprint("/light/", height)) {
			forged(w, q, h)
			return
		}
		h.ServeHTTP(w, q)
	})
	c = open(t, cfg)
	eventually(t, "it stops", func() bool { return contains(c.Status().Problems, light.ErrFork.Error()) })
	if s := c.Status(); s.Healthy || heightOf(c) >= height || !contains(s.Problems, "ledger.trust_hash") {
		t.Errorf("at height %d, the fork is at %d: %+v", heightOf(c), height, s)
	}
	kinds, said := lies(t, cfg.Dir)
	if len(kinds) != 2 || !strings.HasPrefix(kinds[0], "fork ") || !strings.HasPrefix(kinds[1], "fork ") || said == 0 {
		t.Errorf("kept %v", kinds)
	}
	if _, err := c.Submit(within(t), r.bodies[0].note(t, "x")); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("submitted after a fork: %v", err)
	}
}
