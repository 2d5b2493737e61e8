package ledger_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// replaceKey gives body i another validator key in the genesis.
func (w *network) replaceKey(i int, k *keys.Key) {
	spki := base64.StdEncoding.EncodeToString(k.Key().SPKI)
	m := w.genesis.Members[i].Keys
	at := slices.IndexFunc(m, func(g registry.GenesisKey) bool { return g.Purpose == civibus.ValidatorKey.String() })
	m[at].SPKI, w.genesis.Validators[i].Key = spki, spki
	w.bodies[i].validator = k
}

// TestValidatorsWithMLDSA65 has a network whose validators sign with ML-DSA-65
// commit, survive the loss of one, and take it back.
func TestValidatorsWithMLDSA65(t *testing.T) {
	w := governed(t, 4, nil)
	w.genesis.MLDSAValidators = true
	for i := range w.bodies {
		w.replaceKey(i, newKey(t, civibus.ValidatorKey, civibus.MLDSA65))
	}
	w.startAll()
	w.awaitPowers(map[string]int64{"BODY0": 10, "BODY1": 10, "BODY2": 10, "BODY3": 10})
	w.agree(mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "all four")).Height)
	w.stop(3)
	mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "without the fourth"))
	w.start(3)
	w.agree(mustSubmit(t, w.nodes[3], w.bodies[3].notarise(t, "with it again")).Height)
}

// TestValidatorKeyRotatesWithoutRestart gives the voting power of the only
// validator to its other keys, one after the other, of both algorithms, while it
// runs: it is the new key that signs from the height at which the engine counts
// with it, or no block would be made. A restart goes on with the same key.
func TestValidatorKeyRotatesWithoutRestart(t *testing.T) {
	var held atomic.Pointer[[]*keys.Key]
	w := governed(t, 1, func(_ int, cfg *ledger.Config) {
		cfg.ValidatorKeys = func() []ledger.ValidatorKey { return votesWith(*held.Load()...)() }
	})
	w.genesis.MLDSAValidators = true
	b := w.bodies[0]
	held.Store(&[]*keys.Key{b.validator})
	w.startAll()
	for round, algorithm := range []civibus.Algorithm{civibus.Ed25519, civibus.MLDSA65, civibus.Ed25519} {
		// 1. The new key is there and registered, and does not vote yet.
		next := newKey(t, civibus.ValidatorKey, algorithm)
		all := append(slices.Clone(*held.Load()), next)
		held.Store(&all)
		proof, err := registry.ProvePossession(context.Background(), next, chainID, b.member, civibus.ValidatorKey)
		check(t, err)
		mustSubmit(t, w.nodes[0], b.sign(t, b.admin, &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: &registrypb.AddKey{
			Member: b.member.String(), Purpose: registrypb.Purpose_PURPOSE_VALIDATOR, Spki: next.Key().SPKI, Possession: proof,
		}}}))
		mustSubmit(t, w.nodes[0], b.notarise(t, fmt.Sprint("the old key votes ", round)))
		// 2. It takes over.
		from, to := b.validator.Key().ID, next.Key().ID
		moved := mustSubmit(t, w.nodes[0], b.sign(t, b.admin, &registrypb.Tx{Body: &registrypb.Tx_MoveVotingPower{
			MoveVotingPower: &registrypb.MoveVotingPower{From: from[:], To: to[:]},
		}}))
		b.validator = next
		for k := 0; w.nodes[0].View().Height() < moved.Height+4; k++ {
			mustSubmit(t, w.nodes[0], b.notarise(t, fmt.Sprint("the new key votes ", round, k)))
		}
		w.awaitPowers(map[string]int64{"BODY0": 10})
		eventually(t, 20*time.Second, "the node says that it validates", func() bool { return w.nodes[0].Status().Validator })
	}
	w.stop(0)
	w.start(0)
	mustSubmit(t, w.nodes[0], b.notarise(t, "after a restart"))
}
