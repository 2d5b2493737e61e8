package ledger

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cometbft/cometbft/crypto"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"golang.org/x/sys/unix"
)

// ReadValidatorKeyFile reads an Ed25519 validator key in CometBFT's
// priv_validator_key.json format, in which bodies kept it before they kept it with
// their other keys.
func ReadValidatorKeyFile(path string) (ed25519.PrivateKey, error) {
	var file privval.FilePVKey
	return readKeyFile("validator key", path, &file, func() crypto.PrivKey { return file.PrivKey })
}

// ReadNodeKeyFile reads a node's key in CometBFT's node_key.json format.
func ReadNodeKeyFile(path string) (ed25519.PrivateKey, error) {
	var file p2p.NodeKey
	return readKeyFile("node key", path, &file, func() crypto.PrivKey { return file.PrivKey })
}

// readKeyFile reads a file into what holds a key. CometBFT's own readers end the
// process on some errors.
func readKeyFile(what, path string, into any, held func() crypto.PrivKey) (ed25519.PrivateKey, error) {
	if err := checkSecretFile(path); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer clear(b)
	if err := cmtjson.Unmarshal(b, into); err != nil {
		return nil, fmt.Errorf("%s %s: not a CometBFT key file: %w", what, path, err)
	}
	key := held()
	if key == nil || key.Type() != cmted25519.KeyType || len(key.Bytes()) != cmted25519.PrivateKeySize {
		return nil, fmt.Errorf("%s %s: the rule is an Ed25519 key", what, path)
	}
	return ed25519.PrivateKey(key.Bytes()), nil
}

// NodeID is the id by which peers know the node that has a key: 40 hex digits.
func NodeID(key ed25519.PublicKey) string { return string(p2p.PubKeyToID(cmted25519.PubKey(key))) }

// writeKeyFile writes v as CometBFT's JSON to a new file that is durable when it
// returns.
func writeKeyFile(path string, v any) error {
	b, err := cmtjson.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(append(b, '\n'))
	return errors.Join(werr, f.Sync(), f.Close())
}

// checkSecretFile refuses a key file that others than its owner can read.
func checkSecretFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: mode %04o, the rule is 0600 (chmod 600 %s)", path, info.Mode().Perm(), path)
	}
	return nil
}

// openNodeKey takes the key that is given, or reads the one in the node's own
// directory, which it makes if it is missing.
func openNodeKey(given ed25519.PrivateKey, path string) (*p2p.NodeKey, error) {
	if len(given) > 0 {
		return &p2p.NodeKey{PrivKey: cmted25519.PrivKey(given)}, nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := writeKeyFile(path, p2p.NodeKey{PrivKey: cmted25519.GenPrivKey()}); err != nil {
			return nil, fmt.Errorf("make node key: %w", err)
		}
	}
	key, err := ReadNodeKeyFile(path)
	return &p2p.NodeKey{PrivKey: cmted25519.PrivKey(key)}, err
}

// lockDir takes the directory for this process, so that no second node signs
// with the same state files.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("ledger directory %s: another process runs a node in it", dir)
	}
	return f, nil
}

func shortHex(b []byte) string {
	if len(b) > 8 {
		b = b[:8]
	}
	return hex.EncodeToString(b)
}
