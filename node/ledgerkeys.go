package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
)

// engineKeyFiles are the files in the engine's own format, not encrypted, in which
// bodies kept two of their keys before they kept them with the others.
var engineKeyFiles = []struct {
	file    string
	purpose civibus.Purpose
	read    func(path string) (ed25519.PrivateKey, error)
}{
	{"validator_key.json", civibus.ValidatorKey, ledger.ReadValidatorKeyFile},
	{"node_key.json", keys.NodeKey, ledger.ReadNodeKeyFile},
}

// takeEngineKeys takes what such files hold over into the ring, under its
// passphrase, and removes them. It returns the files that it removed. A crash
// leaves the key in one of the places or in both.
func takeEngineKeys(ring *keys.Ring, dir string, now time.Time) (taken []string, err error) {
	for _, f := range engineKeyFiles {
		path := filepath.Join(dir, f.file)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		private, err := f.read(path)
		if err != nil {
			return taken, err
		}
		public, err := civibus.NewPublicKey(private.Public())
		if err != nil {
			return taken, fmt.Errorf("%s: %w", path, err)
		}
		if !holds(ring, public.ID) {
			if _, err := ring.Take(f.purpose, private, now); err != nil {
				return taken, fmt.Errorf("take over %s: %w; the key folder must be writable", path, err)
			}
		}
		if err := os.Remove(path); err != nil {
			return taken, fmt.Errorf("take over %s: %w", path, err)
		}
		taken = append(taken, f.file)
	}
	return taken, nil
}

func holds(ring *keys.Ring, id civibus.KeyID) bool {
	for _, h := range ring.List() {
		if h.Key.Key().ID == id {
			return true
		}
	}
	return false
}

// nodeKey returns the newest of the keys that name the node to its peers, and
// makes one if there is none.
func nodeKey(ring *keys.Ring, now time.Time) (ed25519.PrivateKey, error) {
	held := ring.All(keys.NodeKey)
	if len(held) == 0 {
		k, err := ring.Create(keys.NodeKey, civibus.Ed25519, now)
		if err != nil {
			return nil, fmt.Errorf("make the ledger node's key: %w", err)
		}
		held = append(held, k)
	}
	return held[len(held)-1].Ed25519()
}

// validatorKeys hands the ring's validator keys to the ledger, oldest first, each
// time as the ring has them then.
func (n *Node) validatorKeys() func() []ledger.ValidatorKey {
	var mu sync.Mutex
	known := map[civibus.KeyID]ledger.ValidatorKey{}
	return func() []ledger.ValidatorKey {
		mu.Lock()
		defer mu.Unlock()
		var out []ledger.ValidatorKey
		for _, k := range n.ring.All(civibus.ValidatorKey) {
			key, ok := known[k.Key().ID]
			if !ok {
				var err error
				if key, err = engineKey(k); err != nil {
					n.log.Error("a validator key cannot be used", "key", k, "error", err)
					continue
				}
				known[k.Key().ID] = key
			}
			out = append(out, key)
		}
		return out
	}
}

func engineKey(k *keys.Key) (ledger.ValidatorKey, error) {
	if k.Key().Algorithm == civibus.MLDSA65 {
		seed, err := k.Seed()
		if err != nil {
			return ledger.ValidatorKey{}, err
		}
		return ledger.NewMLDSAValidatorKey(seed)
	}
	private, err := k.Ed25519()
	if err != nil {
		return ledger.ValidatorKey{}, err
	}
	return ledger.NewValidatorKey(private)
}
