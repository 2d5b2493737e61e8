package ledger_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/civibus/civibus/ledger"
)

// FuzzManifest feeds arbitrary manifests of snapshots, with the engine's headers
// and validators in them: never a panic, and none passes but for the state that
// the validators signed.
func FuzzManifest(f *testing.F) {
	w, snapshot := exported(f, 0)
	w.stop(0)
	good, err := os.ReadFile(filepath.Join(snapshot, "manifest.json"))
	check(f, err)
	signed, err := ledger.CheckManifest(good, w.genesis)
	check(f, err)
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"height":`), []byte(`"height":1`), 1))
	f.Add([]byte(`{"format":"civibus-snapshot/v1","height":1}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		if hash, err := ledger.CheckManifest(manifest, w.genesis); err == nil && !bytes.Equal(hash, signed) {
			t.Fatalf("a manifest with the hash %x passes, the validators signed %x", hash, signed)
		}
	})
}
