// Package pkcs11 signs with keys that live in a hardware token and never leave
// it, through the token's PKCS#11 library. The library is C: this package works
// in programs that are built with cgo and the tag pkcs11; in others Open says so.
//
// A token's sessions are pooled and used by many goroutines at a time. When the
// token was away (pulled out, its network down, its service restarted) the next
// signature connects again, at most once a second. A PIN that the token refused
// is not tried again until its file changes, since three wrong ones lock a token.
//
// Trust: the library runs inside this process, so it may do all that the process
// may. The token may refuse to sign but not sign wrongly unnoticed: every
// signature is verified before it is given out.
package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys/secret"
)

var (
	// ErrNotBuilt says that this program cannot use tokens.
	ErrNotBuilt = errors.New("this program is built without PKCS#11; the rule is to build it with cgo and the tag: CGO_ENABLED=1 go build -tags pkcs11 ./cmd/civibus")
	// ErrAway says that the token is not there now.
	ErrAway = errors.New("the token is away")
	// ErrPIN says that the token refused the PIN.
	ErrPIN = errors.New("the token refused the PIN")
	// ErrNoKey says that the token holds no such key.
	ErrNoKey = errors.New("the token holds no such key")
)

const defaultSessions = 8

// Config says which token is used.
type Config struct {
	// Module is the path of the token's PKCS#11 library, for instance
	// /usr/lib/softhsm/libsofthsm2.so.
	Module string
	// Token is the token's label.
	Token string
	// PIN is the file or credential with the token's user PIN.
	PIN secret.Source
	// Sessions is how many signatures may be made at a time. 0 is 8. Some tokens
	// allow fewer.
	Sessions int
	// Clock is for tests. Nil is time.Now.
	Clock civibus.Clock
}

// IsZero reports whether no token is configured.
func (c Config) IsZero() bool {
	return c.Module == "" && c.Token == "" && c.PIN.IsZero() && c.Sessions == 0
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Module == "" {
		errs = append(errs, errors.New("PKCS#11 module: it is empty, the rule is the path of the token's library"))
	}
	if c.Token == "" {
		errs = append(errs, errors.New("PKCS#11 token: it is empty, the rule is the token's label"))
	}
	if !c.PIN.IsFile() {
		errs = append(errs, errors.New("PKCS#11 PIN: the rule is file:PATH or credential:NAME"))
	}
	if c.Sessions < 0 || c.Sessions > 1024 {
		errs = append(errs, fmt.Errorf("PKCS#11 sessions: %d, the rule is 1 to 1024, or 0 for %d", c.Sessions, defaultSessions))
	}
	return errors.Join(errs...)
}

// Key is one private key in a token. Making one asks nothing of the token, so it
// may be away at the time.
type Key struct {
	module *Module
	uri    URI
	public civibus.PublicKey
}

// Key returns the key that uri names, of which public is the public half.
func (m *Module) Key(uri URI, public civibus.PublicKey) (*Key, error) {
	if err := m.names(uri); err != nil {
		return nil, err
	}
	switch public.Algorithm {
	case civibus.Ed25519, civibus.ECDSAP256SHA256:
		return &Key{module: m, uri: uri, public: public}, nil
	}
	return nil, fmt.Errorf("key in token %q: algorithm %q, the rule is %q or %q", m.cfg.Token, public.Algorithm, civibus.Ed25519, civibus.ECDSAP256SHA256)
}

// names reports whether uri may name a key of this module's token.
func (m *Module) names(uri URI) error {
	if uri.Token != m.cfg.Token {
		return fmt.Errorf("key reference %s: the configured token is %q", uri, m.cfg.Token)
	}
	return nil
}

// URI returns the key's name in its token.
func (k *Key) URI() URI { return k.uri }

// Sign makes a signature of 64 bytes: with Ed25519 over the message in, with
// ECDSA over the SHA-256 digest in, r||s as the token made them. It waits for a
// session as long as ctx allows.
func (k *Key) Sign(ctx context.Context, in []byte) ([]byte, error) {
	out, err := k.module.sign(ctx, k, in)
	if err != nil {
		return nil, fmt.Errorf("sign with key %s in token %q: %w", k.public.ID, k.module.cfg.Token, err)
	}
	if !k.verifies(in, out) {
		return nil, fmt.Errorf("sign with key %s in token %q: the signature does not verify; the reference %s names another key than its public key says", k.public.ID, k.module.cfg.Token, k.uri)
	}
	return out, nil
}

func (k *Key) verifies(in, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	switch public := k.public.Key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, in, signature)
	case *ecdsa.PublicKey:
		return ecdsa.Verify(public, in, new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	}
	return false
}

// Every build has the same methods.
var _ interface {
	Generate(ctx context.Context, label string, algorithm civibus.Algorithm) (URI, crypto.PublicKey, error)
	Find(ctx context.Context, uri URI) (crypto.PublicKey, error)
	Close() error
} = (*Module)(nil)
