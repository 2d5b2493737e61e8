package light_test

import (
	"bytes"
	"testing"

	"github.com/civibus/civibus/ledger/light"
)

// seeds are true answers of a full node.
func seeds(f *testing.F, what func(w *network) ([]byte, error)) {
	w := newNetwork(f, 1, nil)
	w.commit(0, w.bodies[0].subsystem(f, "SEED"))
	b, err := what(w)
	check(f, err)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
}

// FuzzLightBlock feeds arbitrary light blocks: never a panic, and what passes has a
// height and a hash.
func FuzzLightBlock(f *testing.F) {
	seeds(f, func(w *network) ([]byte, error) { return w.nodes[0].LightBlock(1) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if height, hash, err := light.ParseLight(b, chainID); err == nil && (height < 1 || len(hash) != 32) {
			t.Fatalf("height %d, hash %x", height, hash)
		}
	})
}

// FuzzBlocks feeds arbitrary blocks: never a panic, and what passes hashes to what
// its headers say.
func FuzzBlocks(f *testing.F) {
	seeds(f, func(w *network) ([]byte, error) { return w.nodes[0].Blocks(1, 3) })
	f.Fuzz(func(t *testing.T, b []byte) {
		have, named, err := light.ParseBlocks(b)
		if err != nil {
			return
		}
		for i := range have {
			if !bytes.Equal(have[i], named[i]) {
				t.Fatalf("contents %x, the header says %x", have[i], named[i])
			}
		}
	})
}

// FuzzHeaders feeds arbitrary headers.
func FuzzHeaders(f *testing.F) {
	seeds(f, func(w *network) ([]byte, error) { return w.nodes[0].Headers(1, 3) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := light.ParseHeaders(b); err == nil && n == 0 {
			t.Fatal("no headers, no error")
		}
	})
}

// FuzzSmallAnswers feeds arbitrary lists of snapshots and answers to envelopes.
func FuzzSmallAnswers(f *testing.F) {
	f.Add([]byte(`[30,20]`))
	f.Add([]byte(`{"code":3,"reason":"x","height":9}`))
	f.Add([]byte(`[1e99]`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = light.ParseSmall(b) })
}
