package ledger

import (
	"context"
	"log/slog"

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

// Witness is the witness's journal.
type Witness = witness

// OpenWitness opens a journal.
func OpenWitness(dir string, signer civibus.Signer, clock civibus.Clock) (*Witness, error) {
	return openWitness(dir, signer, clock)
}

// Sign cosigns a checkpoint.
func (w *Witness) Sign(name, text string, size uint64, root [32]byte) (string, error) {
	line, _, err := w.cosign(context.Background(), name, text, size, root)
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
