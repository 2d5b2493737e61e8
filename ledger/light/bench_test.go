package light_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/civibus/civibus/ledger"
)

// BenchmarkCatchUp follows a history of 200 transactions, about two blocks each, from
// the genesis: fetched over TLS, verified, compared with a second full node, executed
// and made durable block by block.
func BenchmarkCatchUp(b *testing.B) {
	w := newNetwork(b, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	other := newFace(b, func() *ledger.Node { return w.nodes[0] })
	height := uint64(0)
	for i := range 200 {
		height = w.commit(0, w.bodies[0].note(b, fmt.Sprint(i)))
	}
	b.ResetTimer()
	for i := range b.N {
		cfg := w.config(w.faces[0], other)
		cfg.Dir = filepath.Join(b.TempDir(), fmt.Sprint(i))
		w.reaches(open(b, cfg), height)
	}
	b.ReportMetric(float64(height)*float64(b.N)/b.Elapsed().Seconds(), "blocks/s")
}
