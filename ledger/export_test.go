package ledger

import (
	"context"
	"log/slog"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmtlog "github.com/cometbft/cometbft/libs/log"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// EngineLogger makes the adapter that carries CometBFT's log.
func EngineLogger(out *slog.Logger, onFail func(diverged bool, detail string)) cmtlog.Logger {
	return engineLogger{out: out, onFail: func(f engineFailure) { onFail(f.diverged, f.detail) }}
}

// App is the ABCI application of a node.
func (n *Node) App() abci.Application { return n.app }

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
	m, err := parseManifest(manifest)
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
