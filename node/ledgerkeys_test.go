package node_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/keys/secret"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/node"
)

// engineFile writes a key as CometBFT does.
func engineFile(t *testing.T, path string, private ed25519.PrivateKey, public bool) {
	t.Helper()
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`{"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": %q}}`, b64(private))
	if public {
		text = fmt.Sprintf(`{"address": "00", "pub_key": {"type": "tendermint/PubKeyEd25519", "value": %q}, %s`, b64(private.Public().(ed25519.PublicKey)), text[1:])
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestEngineKeyFilesAreTakenOver: keys in the engine's files of an earlier version
// are the same keys afterwards, encrypted if the others are, and their files are
// gone; what is no such file is refused and stays.
func TestEngineKeyFilesAreTakenOver(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	_, validator, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, named, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, encrypted := range []bool{false, true} {
		dir := t.TempDir()
		var options []keys.Option
		if encrypted {
			file := filepath.Join(t.TempDir(), "passphrase")
			if err := keys.CreatePassphraseFile(file); err != nil {
				t.Fatal(err)
			}
			source, err := secret.ParseSource("file:" + file)
			if err != nil {
				t.Fatal(err)
			}
			passphrase, err := keys.ReadPassphrase(source)
			if err != nil {
				t.Fatal(err)
			}
			options = append(options, keys.WithPassphrase(passphrase))
		}
		ring, err := keys.CreateRing(dir, options...)
		if err != nil {
			t.Fatal(err)
		}
		engineFile(t, filepath.Join(dir, "validator_key.json"), validator, true)
		engineFile(t, filepath.Join(dir, "node_key.json"), named, false)
		taken, err := node.TakeEngineKeys(ring, dir, now)
		if err != nil || len(taken) != 2 {
			t.Fatalf("taken %v, %v", taken, err)
		}
		voting, err := ring.All(civibus.ValidatorKey)[0].Ed25519()
		if err != nil || !voting.Equal(validator) {
			t.Fatalf("the validator's key is another one: %v", err)
		}
		private, err := node.NodeKey(ring, now)
		if err != nil || ledger.NodeID(private.Public().(ed25519.PublicKey)) != ledger.NodeID(named.Public().(ed25519.PublicKey)) {
			t.Fatalf("the node has another id: %v", err)
		}
		for _, h := range ring.List() {
			if want := map[bool]keys.Custody{false: keys.PlainFile, true: keys.EncryptedFile}[encrypted]; h.Custody != want {
				t.Errorf("%s is kept as %s, want %s", h.File, h.Custody, want)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		// A copy that comes back, e.g. from a backup, is the same key and not a second one.
		engineFile(t, filepath.Join(dir, "validator_key.json"), validator, true)
		if _, err := node.TakeEngineKeys(ring, dir, now); err != nil || len(ring.All(civibus.ValidatorKey)) != 1 {
			t.Errorf("taken again: %d keys, %v", len(ring.All(civibus.ValidatorKey)), err)
		}
	}
	for text, want := range map[string]string{"{": "not a CometBFT key file", "{}": "the rule is an Ed25519 key"} {
		dir := t.TempDir()
		ring, err := keys.CreateRing(dir)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "validator_key.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := node.TakeEngineKeys(ring, dir, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("a file that was not taken over is gone: %v", err)
		}
	}
}
