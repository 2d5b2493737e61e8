package ledger

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cmtlog "github.com/cometbft/cometbft/libs/log"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// EngineLogger makes the adapter that carries CometBFT's log.
func EngineLogger(out *slog.Logger, onFail func(diverged bool, detail string)) cmtlog.Logger {
	return engineLogger{out: out, onFail: func(f engineFailure) { onFail(f.diverged, f.detail) }}
}

// App is the ABCI application of a node.
func (n *Node) App() abci.Application { return n.app }

// Dishonest puts another application between a node's engine and its registry.
func (c *Config) Dishonest(between func(abci.Application) abci.Application) { c.dishonest = between }

// Witness is the witness's journal with a signer.
type Witness struct {
	*witness
	signer civibus.Signer
}

// OpenWitness opens a journal.
func OpenWitness(dir string, signer civibus.Signer, clock civibus.Clock) (*Witness, error) {
	w, err := openWitness(dir, signer, clock)
	return &Witness{w, signer}, err
}

// Sign cosigns a checkpoint.
func (w *Witness) Sign(name, text string, size uint64, root [32]byte) (string, error) {
	line, _, err := w.cosign(context.Background(), w.signer, name, text, size, root)
	return line, err
}

// Close closes the journal.
func (w *Witness) Close() error { return w.close() }

// OpenStore opens a registry database.
func OpenStore(dir string) (registry.Store, func() error, error) {
	s, err := openStore(dir)
	if err != nil {
		return nil, nil, err
	}
	return s, s.close, nil
}

// TestApp is an application without an engine.
type TestApp struct{ *app }

// NewApp makes one on a fresh store.
func NewApp(cfg Config) (*TestApp, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	st, err := openStore(cfg.Dir + "/registry")
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(nil)
	if err != nil {
		return nil, err
	}
	a, err := newApp(cfg, st, m)
	return &TestApp{a}, err
}

// Hurry lets writes wait for no disk.
func (a *TestApp) Hurry() { a.store.sync = false }

// CloseStore closes the store.
func (a *TestApp) CloseStore() error { return a.store.close() }

// Failed reports whether the application recorded a failure.
func (a *TestApp) Failed() bool { return a.failed() != nil }

// Diverge gives a running node the registry of another genesis at the same
// height, so that its next block has another hash, or, when g is nil, one without
// genesis, so that its next block cannot be executed.
func (n *Node) Diverge(g *registry.Genesis) error {
	m, err := registry.Open(registry.NewMemoryStore())
	if err != nil {
		return err
	}
	if g != nil {
		if _, err := m.Init(g); err != nil {
			return err
		}
		for h := uint64(1); h <= n.View().Height(); h++ {
			if _, err := m.Execute(h, n.View().Time(), nil, nil); err != nil {
				return err
			}
			if err := m.Commit(); err != nil {
				return err
			}
		}
	}
	n.app.machine.Store(m)
	return nil
}

// FalseRegistry makes a registry in dir that has executed empty blocks only.
func FalseRegistry(dir string, g *registry.Genesis, height uint64) error {
	st, err := openStore(dir)
	if err != nil {
		return err
	}
	defer st.close()
	m, err := registry.Open(st)
	if err != nil {
		return err
	}
	if _, err := m.Init(g); err != nil {
		return err
	}
	for h := uint64(1); h <= height; h++ {
		if _, err := m.Execute(h, g.Time.Add(time.Duration(h)*time.Second), nil, nil); err != nil {
			return err
		}
		if err := m.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// CheckManifest reads a snapshot's manifest and verifies what it says of the
// engine, as RestoreSnapshot does first, and returns the application hash.
func CheckManifest(manifest []byte, g *registry.Genesis) ([]byte, error) {
	m, err := ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	doc, err := EngineGenesis(g)
	if err != nil {
		return nil, err
	}
	if _, _, err := verifyEngine(m, doc); err != nil {
		return nil, err
	}
	return m.AppHash, nil
}

// EngineValidators are the powers that the engine counts with in the next block,
// by address.
func (n *Node) EngineValidators() map[string]int64 {
	state, err := sm.NewStore(n.dbs.db("state"), sm.StoreOptions{}).Load()
	if err != nil || state.Validators == nil {
		return nil
	}
	out := make(map[string]int64)
	for _, v := range state.Validators.Validators {
		out[v.Address.String()] = v.VotingPower
	}
	return out
}

// EngineAddress is the engine's name of a validator key.
func EngineAddress(key civibus.PublicKey) string {
	k, err := engineKey(&registry.Genesis{MLDSAValidators: true}, key)
	if err != nil {
		return err.Error()
	}
	return k.Address().String()
}

// CheckSetChanges walks at random through sets of validators and has the engine
// make each change.
func CheckSetChanges(keys []civibus.PublicKey, steps int) error {
	random := rand.New(rand.NewPCG(1, 2))
	g := &registry.Genesis{}
	now := make(validatorSet)
	if err := now.set(g, keys[0], 1); err != nil {
		return err
	}
	engine := types.NewValidatorSet([]*types.Validator{types.NewValidator(cmted25519.PubKey(keys[0].Key.(ed25519.PublicKey)), 1)})
	for range steps {
		next := make(validatorSet)
		for _, k := range keys {
			if err := next.set(g, k, random.Int64N(3)); err != nil {
				return err
			}
		}
		updates, err := now.changes(next)
		if err != nil {
			return err
		}
		changes, err := types.PB2TM.ValidatorUpdates(updates)
		if err != nil {
			return err
		}
		if err := engine.UpdateWithChangeSet(changes); err != nil {
			return err
		}
		if len(next) > 0 {
			now = next
		}
		if len(engine.Validators) != len(now) {
			return fmt.Errorf("the engine has %d validators, want %d", len(engine.Validators), len(now))
		}
	}
	return nil
}

// Prune removes the blocks below a height, as a node does that keeps few.
func (n *Node) Prune(height int64) error {
	state, err := sm.NewStore(n.dbs.db("state"), sm.StoreOptions{}).Load()
	if err != nil {
		return err
	}
	_, _, err = n.engine.BlockStore().PruneBlocks(height, state)
	return err
}

// Adopting fills a directory as a node leaves it that is killed when it has taken a
// snapshot's registry and the engine was not told.
func Adopting(cfg Config, snapshot string) error {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return err
	}
	a, err := NewApp(cfg)
	if err != nil {
		return err
	}
	m, err := ReadManifest(snapshot)
	if err != nil {
		return err
	}
	if err := a.adopt(&offer{manifest: m, dir: snapshot}); err != nil {
		return err
	}
	return a.CloseStore()
}

// EndSilence has the kernel end a silent connection.
var EndSilence = endSilence
