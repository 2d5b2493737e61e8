package keys

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync/atomic"

	"github.com/civibus/civibus/keys/pkcs8"
	"github.com/civibus/civibus/keys/secret"
)

// ErrPassphrase says that a passphrase does not open a key file.
var ErrPassphrase = pkcs8.ErrPassphrase

// Passphrase encrypts and opens key files. It is safe for concurrent use and
// shows nothing but its source when printed.
type Passphrase struct {
	source secret.Source
	cost   pkcs8.Cost
	held   atomic.Pointer[heldPassphrase]
}

type heldPassphrase struct {
	text *secret.Text
	box  *pkcs8.Passphrase
}

// ReadPassphrase reads a passphrase. A file or credential is read again when the
// passphrase does not fit any more.
func ReadPassphrase(source secret.Source) (*Passphrase, error) {
	return readPassphrase(source, pkcs8.DefaultCost())
}

func readPassphrase(source secret.Source, cost pkcs8.Cost) (*Passphrase, error) {
	text, err := source.Read()
	if err != nil {
		return nil, fmt.Errorf("passphrase of the keys: %w", err)
	}
	p := &Passphrase{source: source, cost: cost}
	p.held.Store(&heldPassphrase{text, pkcs8.NewPassphrase(text, cost)})
	return p, nil
}

// CreatePassphraseFile makes a file with 256 random bits in hex, mode 0600, which
// is a passphrase that nobody has to think of. It never overwrites.
func CreatePassphraseFile(path string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("create passphrase file: %w", err)
	}
	defer clear(key)
	text := append(hex.AppendEncode(nil, key), '\n')
	defer clear(text)
	return create(path, text, 0o600)
}

// String names the source.
func (p *Passphrase) String() string {
	if p == nil {
		return "no passphrase"
	}
	return "passphrase from " + p.source.String()
}

func (p *Passphrase) box() *pkcs8.Passphrase { return p.held.Load().box }

// refresh reads the source again and reports whether it holds another passphrase.
func (p *Passphrase) refresh() bool {
	if p == nil || !p.source.IsFile() {
		return false
	}
	text, err := p.source.Read()
	if err != nil || text.Equal(p.held.Load().text) {
		return false
	}
	p.held.Store(&heldPassphrase{text, pkcs8.NewPassphrase(text, p.cost)})
	return true
}
