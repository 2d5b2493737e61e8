//go:build !pkcs11 || !cgo

package pkcs11

import (
	"context"
	"crypto"

	"github.com/civibus/civibus"
)

// Built reports whether this program can use tokens.
const Built = false

// Module is a token's library and the sessions with the token.
type Module struct{ cfg Config }

// Open is ErrNotBuilt in this build.
func Open(Config) (*Module, error) { return nil, ErrNotBuilt }

// Generate is ErrNotBuilt in this build.
func (m *Module) Generate(context.Context, string, civibus.Algorithm) (URI, crypto.PublicKey, error) {
	return URI{}, nil, ErrNotBuilt
}

// Find is ErrNotBuilt in this build.
func (m *Module) Find(context.Context, URI) (crypto.PublicKey, error) { return nil, ErrNotBuilt }

// Close does nothing in this build.
func (m *Module) Close() error { return nil }

func (m *Module) sign(context.Context, *Key, []byte) ([]byte, error) { return nil, ErrNotBuilt }
