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

	"github.com/civibus/civibus"
)

// GenValidatorKey makes an Ed25519 validator key and writes it to path in
// CometBFT's priv_validator_key.json format, mode 0600. An existing file is
// refused. The public key goes into the registry's genesis.
func GenValidatorKey(path string) (civibus.PublicKey, error) {
	key := cmted25519.GenPrivKey()
	file := privval.FilePVKey{Address: key.PubKey().Address(), PubKey: key.PubKey(), PrivKey: key}
	if err := writeKeyFile(path, file); err != nil {
		return civibus.PublicKey{}, fmt.Errorf("make validator key: %w", err)
	}
	return publicKey(key.PubKey())
}

// ValidatorPublicKey reads the public half of a validator key file.
func ValidatorPublicKey(path string) (civibus.PublicKey, error) {
	key, err := loadValidatorKey(path)
	if err != nil {
		return civibus.PublicKey{}, err
	}
	return publicKey(key.PubKey)
}

// GenNodeKey makes the key that names a node to its peers, writes it to path in
// CometBFT's node_key.json format, mode 0600, and returns the node id. An
// existing file is refused.
func GenNodeKey(path string) (id string, err error) {
	key := p2p.NodeKey{PrivKey: cmted25519.GenPrivKey()}
	if err := writeKeyFile(path, key); err != nil {
		return "", fmt.Errorf("make node key: %w", err)
	}
	return string(key.ID()), nil
}

// NodeID reads the node id of a node key file: 40 hex digits.
func NodeID(path string) (string, error) {
	key, err := p2p.LoadNodeKey(path)
	if err != nil {
		return "", fmt.Errorf("node key %s: %w", path, err)
	}
	if key.PrivKey == nil {
		return "", fmt.Errorf("node key %s: it holds no key", path)
	}
	return string(key.ID()), nil
}

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

// loadValidatorKey reads a validator key file. CometBFT's own reader ends the
// process on an error.
func loadValidatorKey(path string) (privval.FilePVKey, error) {
	var key privval.FilePVKey
	if err := checkSecretFile(path); err != nil {
		return key, fmt.Errorf("validator key: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return key, fmt.Errorf("validator key: %w", err)
	}
	if err := cmtjson.Unmarshal(b, &key); err != nil {
		return key, fmt.Errorf("validator key %s: not a CometBFT key file: %w", path, err)
	}
	if key.PrivKey == nil || key.PrivKey.Type() != cmted25519.KeyType || len(key.PrivKey.Bytes()) != cmted25519.PrivateKeySize {
		return key, fmt.Errorf("validator key %s: the rule is an Ed25519 key", path)
	}
	key.PubKey = key.PrivKey.PubKey()
	key.Address = key.PubKey.Address()
	return key, nil
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

// openValidator opens the validator's key with its last-sign state, or, for a
// follower, a fresh key that is in no validator set.
func openValidator(keyPath, statePath string) (*privval.FilePV, error) {
	if keyPath == "" {
		return privval.NewFilePV(cmted25519.GenPrivKey(), os.DevNull, os.DevNull), nil
	}
	key, err := loadValidatorKey(keyPath)
	if err != nil {
		return nil, err
	}
	pv := privval.NewFilePV(key.PrivKey, keyPath, statePath)
	b, err := os.ReadFile(statePath)
	if errors.Is(err, fs.ErrNotExist) {
		return pv, nil
	}
	if err != nil {
		return nil, fmt.Errorf("validator's last-sign state: %w", err)
	}
	var probe privval.FilePVLastSignState
	if err := cmtjson.Unmarshal(b, &probe); err != nil {
		return nil, fmt.Errorf("validator's last-sign state %s is damaged: %w; restore it or use a new validator key, a guess could sign twice", statePath, err)
	}
	return privval.LoadFilePV(keyPath, statePath), nil
}

// openNodeKey reads the node key, or makes it.
func openNodeKey(path string) (*p2p.NodeKey, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := GenNodeKey(path); err != nil {
			return nil, err
		}
	}
	if err := checkSecretFile(path); err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	if _, err := NodeID(path); err != nil {
		return nil, err
	}
	return p2p.LoadNodeKey(path)
}

func publicKey(k crypto.PubKey) (civibus.PublicKey, error) {
	if k.Type() != cmted25519.KeyType {
		return civibus.PublicKey{}, fmt.Errorf("validator key type %s: the rule is ed25519", k.Type())
	}
	return civibus.NewPublicKey(ed25519.PublicKey(k.Bytes()))
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
