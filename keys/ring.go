package keys

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus"
)

// Ring is all keys of a body, read from one directory. It is safe for
// concurrent use.
type Ring struct {
	dir   string
	state atomic.Pointer[ringState]
}

// ringState is one reading of the directory and never changes.
type ringState struct {
	keys map[civibus.Purpose][]ringKey // oldest first
}

type ringKey struct {
	key  *Key
	name string
	tls  *tls.Certificate // transport keys with a certificate
}

// OpenRing reads the keys in dir. Files ending in .pem are keys, files ending in
// .crt are certificates of the key with the same name; others are left alone.
func OpenRing(dir string) (*Ring, error) {
	r := &Ring{dir: dir}
	if err := r.Reload(); err != nil {
		return nil, err
	}
	return r, nil
}

// CreateRing makes dir (mode 0700) if it is missing and opens it.
func CreateRing(dir string) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create key directory: %w", err)
	}
	return OpenRing(dir)
}

// Reload reads the directory again. Either all of it counts or, on an error,
// nothing changes. The errors of all files are reported together.
func (r *Ring) Reload() error {
	names, err := os.ReadDir(r.dir) // sorted by name, which is by age
	if err != nil {
		return fmt.Errorf("open key directory: %w", err)
	}
	next := &ringState{keys: make(map[civibus.Purpose][]ringKey)}
	seen := make(map[civibus.KeyID]string)
	var problems []error
	for _, entry := range names {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || filepath.Ext(name) != ".pem" {
			continue
		}
		k, err := r.open(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		id := k.key.public.ID
		if other := seen[id]; other != "" {
			problems = append(problems, fmt.Errorf("key files %s and %s hold the same key, the rule is one purpose for a key; remove one", other, name))
			continue
		}
		seen[id] = name
		next.keys[k.key.purpose] = append(next.keys[k.key.purpose], k)
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	r.state.Store(next)
	return nil
}

func (r *Ring) open(name string) (ringKey, error) {
	path := filepath.Join(r.dir, name)
	key, err := Open(path)
	if err != nil {
		return ringKey{}, err
	}
	out := ringKey{key: key, name: name}
	if key.purpose != civibus.TransportKey {
		return out, nil
	}
	der, err := OpenCertificate(strings.TrimSuffix(path, ".pem") + ".crt")
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil // can sign, cannot serve
	}
	if err != nil {
		return ringKey{}, err
	}
	out.tls, err = TLSCertificate(key, der)
	if err != nil {
		return ringKey{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return out, nil
}

// Create makes a key, writes it to the directory and adds it to the ring. It
// signs nothing until the registry says that it is in force.
func (r *Ring) Create(purpose civibus.Purpose, algorithm civibus.Algorithm, now time.Time) (*Key, error) {
	k, err := Generate(purpose, algorithm)
	if err != nil {
		return nil, err
	}
	if err := k.Write(filepath.Join(r.dir, k.FileName(now))); err != nil {
		return nil, err
	}
	return k, r.Reload()
}

// CreateTransport makes a transport key with its certificate, as Create does,
// and returns the certificate too, for the registry.
func (r *Ring) CreateTransport(member civibus.MemberID, addresses []string, algorithm civibus.Algorithm, now time.Time) (*Key, []byte, error) {
	k, err := Generate(civibus.TransportKey, algorithm)
	if err != nil {
		return nil, nil, err
	}
	der, err := Certificate(k, member, addresses, now)
	if err != nil {
		return nil, nil, err
	}
	// The certificate goes first: a key without it would be taken for one that cannot serve.
	path := filepath.Join(r.dir, k.FileName(now))
	if err := WriteCertificate(strings.TrimSuffix(path, ".pem")+".crt", der); err != nil {
		return nil, nil, err
	}
	if err := k.Write(path); err != nil {
		return nil, nil, err
	}
	return k, der, r.Reload()
}

// For returns the newest key of a purpose that is in force. inForce asks the
// current registry view.
func (r *Ring) For(purpose civibus.Purpose, inForce func(civibus.KeyID) bool) (civibus.Signer, error) {
	k, err := r.newest(purpose, inForce)
	if err != nil {
		return nil, err
	}
	return k.key, nil
}

// TLS returns the newest transport key in force with its certificate.
func (r *Ring) TLS(inForce func(civibus.KeyID) bool) (*tls.Certificate, error) {
	k, err := r.newest(civibus.TransportKey, inForce)
	if err != nil {
		return nil, err
	}
	if k.tls == nil {
		return nil, fmt.Errorf("transport key file %s has no certificate; the rule is a file of the same name that ends in .crt beside it", filepath.Join(r.dir, k.name))
	}
	return k.tls, nil
}

// All returns the keys of a purpose, oldest first.
func (r *Ring) All(purpose civibus.Purpose) []*Key {
	held := r.state.Load().keys[purpose]
	out := make([]*Key, len(held))
	for i, k := range held {
		out[i] = k.key
	}
	return out
}

func (r *Ring) newest(purpose civibus.Purpose, inForce func(civibus.KeyID) bool) (ringKey, error) {
	held := r.state.Load().keys[purpose]
	for i := len(held) - 1; i >= 0; i-- {
		if inForce(held[i].key.public.ID) {
			return held[i], nil
		}
	}
	if len(held) == 0 {
		return ringKey{}, fmt.Errorf("no %s key in %s; make one and register it", purpose, r.dir)
	}
	return ringKey{}, fmt.Errorf("none of the %d %s keys in %s is in force in the registry (newest: %s); register one, or wait for its activation height", len(held), purpose, r.dir, held[len(held)-1].key.public.ID)
}
