package keys

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/secret"
)

// Ring is all keys of a body, read from one directory. It is safe for
// concurrent use.
type Ring struct {
	dir        string
	passphrase *Passphrase
	token      pkcs11.Config
	module     *pkcs11.Module // nil if no token is configured

	mu      sync.Mutex // held while the directory is read or written
	state   atomic.Pointer[ringState]
	refused atomic.Value // the stamp with which Refresh failed
}

// ringState is one reading of the directory and never changes.
type ringState struct {
	keys  map[civibus.Purpose][]ringKey // oldest first
	stamp string                        // of the directory before it was read
}

type ringKey struct {
	key   *Key
	name  string
	how   protection
	tls   *tls.Certificate // transport keys with a certificate
	chain *Chain           // seal keys with a certificate
}

// Custody is where a private key is.
type Custody int

// The custodies.
const (
	PlainFile Custody = iota + 1
	EncryptedFile
	InToken
)

// String returns the name for people.
func (c Custody) String() string {
	return [...]string{"unknown", "file, not encrypted", "file, encrypted", "token"}[c]
}

// Option says how a ring reaches its keys.
type Option func(*Ring)

// WithPassphrase opens encrypted key files and encrypts new ones.
func WithPassphrase(p *Passphrase) Option { return func(r *Ring) { r.passphrase = p } }

// WithToken opens keys in a PKCS#11 token. The zero Config is no token.
func WithToken(c pkcs11.Config) Option { return func(r *Ring) { r.token = c } }

// OpenRing reads the keys in dir. Files ending in .pem are keys, files ending in
// .pkcs11 name keys in a token, files ending in .crt are certificates of the key
// with the same name; others are left alone. The error matches ErrPassphrase or
// ErrEncrypted if it is about the passphrase.
func OpenRing(dir string, options ...Option) (*Ring, error) {
	r := &Ring{dir: dir}
	for _, o := range options {
		o(r)
	}
	if !r.token.IsZero() {
		var err error
		if r.module, err = pkcs11.Open(r.token); err != nil {
			return nil, fmt.Errorf("open key directory: %w", err)
		}
	}
	if err := r.Reload(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// CreateRing makes dir (mode 0700) if it is missing and opens it.
func CreateRing(dir string, options ...Option) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create key directory: %w", err)
	}
	return OpenRing(dir, options...)
}

// Close ends the sessions with the token. Keys in files go on working.
func (r *Ring) Close() error {
	if r.module == nil {
		return nil
	}
	return r.module.Close()
}

// Reload reads the directory again. Either all of it counts or, on an error,
// nothing changes. The errors of all files are reported together, but a wrong
// passphrase at once.
func (r *Ring) Reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// 1. A change of the passphrase that was interrupted is carried through. If that
	// is not possible here, the files are read from where they are.
	if _, err := os.Lstat(filepath.Join(r.dir, changed)); err == nil {
		if lock, err := lockDir(r.dir, unix.LOCK_EX); err == nil {
			_ = finishChange(r.dir, func(string) {})
			lock.Close()
		}
	}
	// 2. Nobody changes the directory while it is read.
	lock, err := lockDir(r.dir, unix.LOCK_SH)
	if err != nil {
		return fmt.Errorf("open key directory: %w", err)
	}
	defer lock.Close()
	return r.load()
}

// load reads the directory. The passphrase may have been changed together with
// its file, so a wrong one is read again.
func (r *Ring) load() error {
	next, err := r.read()
	if errors.Is(err, ErrPassphrase) && r.passphrase.refresh() {
		next, err = r.read()
	}
	if err != nil {
		return err
	}
	r.state.Store(next)
	return nil
}

func (r *Ring) read() (*ringState, error) {
	next := &ringState{keys: make(map[civibus.Purpose][]ringKey), stamp: r.stamp()}
	names, err := os.ReadDir(r.dir) // sorted by name, which is by age
	if err != nil {
		return nil, fmt.Errorf("open key directory: %w", err)
	}
	seen := make(map[civibus.KeyID]string)
	var problems []error
	opened := false // by the passphrase
	for _, entry := range names {
		name := entry.Name()
		ending := filepath.Ext(name)
		if strings.HasPrefix(name, ".") || ending != keyEnding && ending != referenceEnding {
			continue
		}
		k, err := r.open(name)
		if errors.Is(err, ErrPassphrase) && !opened || errors.Is(err, ErrEncrypted) {
			return nil, err // the other files would say the same
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		opened = opened || k.how.custody == EncryptedFile
		id := k.key.public.ID
		if other := seen[id]; other != "" {
			problems = append(problems, fmt.Errorf("key files %s and %s hold the same key, the rule is one purpose for a key; remove one", other, name))
			continue
		}
		seen[id] = name
		next.keys[k.key.purpose] = append(next.keys[k.key.purpose], k)
	}
	return next, errors.Join(problems...)
}

func (r *Ring) open(name string) (ringKey, error) {
	path := filepath.Join(r.dir, name)
	out := ringKey{name: name}
	var err error
	if filepath.Ext(name) == referenceEnding {
		out.key, err = r.openReference(path)
		out.how.custody = InToken
	} else {
		out.key, out.how, err = openFile(path, r.passphrase)
	}
	if err != nil {
		return ringKey{}, err
	}
	switch out.key.purpose {
	case civibus.TransportKey:
		out.tls, err = openTransportCertificate(out.key, certificatePath(path))
	case civibus.SealKey:
		out.chain, err = openChain(out.key, certificatePath(path))
	}
	if err != nil {
		return ringKey{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return out, nil
}

func certificatePath(path string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + certificateEnding
}

// openTransportCertificate is nil without an error if there is none: the key can
// sign and cannot serve.
func openTransportCertificate(key *Key, path string) (*tls.Certificate, error) {
	der, err := OpenCertificate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return TLSCertificate(key, der)
}

// openReference opens a key in the token.
func (r *Ring) openReference(path string) (*Key, error) {
	purpose, err := purposeOf(path)
	if err != nil {
		return nil, err
	}
	if r.module == nil {
		err := errors.New("no token is configured; configure the PKCS#11 module, the token and the file with its PIN")
		if !pkcs11.Built {
			err = pkcs11.ErrNotBuilt
		}
		return nil, fmt.Errorf("open key file %s: the key is in a token: %w", path, err)
	}
	raw, err := secret.ReadFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	f, err := parseReference(raw)
	if err == nil && f.public.ID.IsZero() {
		f.public, err = r.find(f.uri)
	}
	if err == nil {
		err = checkName(path, f.public.ID)
	}
	var k *Key
	if err == nil {
		k, err = r.tokenKey(purpose, f)
	}
	if err != nil {
		return nil, fmt.Errorf("open key file %s: %w", path, err)
	}
	return k, nil
}

func (r *Ring) find(uri pkcs11.URI) (civibus.PublicKey, error) {
	k, err := r.module.Find(context.Background(), uri)
	if err != nil {
		return civibus.PublicKey{}, err
	}
	return civibus.NewPublicKey(k)
}

func (r *Ring) tokenKey(purpose civibus.Purpose, f reference) (*Key, error) {
	held, err := r.module.Key(f.uri, f.public)
	if err != nil {
		return nil, err
	}
	return newTokenKey(purpose, f.public, held)
}

// Create makes a key, writes it to the directory, encrypted if the ring has a
// passphrase, and adds it to the ring. It signs nothing until the registry says
// that it is in force.
func (r *Ring) Create(purpose civibus.Purpose, algorithm civibus.Algorithm, now time.Time) (*Key, error) {
	k, err := Generate(purpose, algorithm)
	if err != nil {
		return nil, err
	}
	return k, r.change(func() error { return k.WriteEncrypted(filepath.Join(r.dir, k.FileName(now)), r.passphrase) })
}

// Take is Create for a key that was made elsewhere: an ed25519.PrivateKey or an
// *ecdsa.PrivateKey (P-256).
func (r *Ring) Take(purpose civibus.Purpose, private crypto.PrivateKey, now time.Time) (*Key, error) {
	k, err := newKey(purpose, private)
	if err != nil {
		return nil, err
	}
	return k, r.change(func() error { return k.WriteEncrypted(filepath.Join(r.dir, k.FileName(now)), r.passphrase) })
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
	path := filepath.Join(r.dir, k.FileName(now))
	err = r.change(func() error {
		// The certificate goes first: a key without it would be taken for one that cannot serve.
		if err := WriteCertificate(certificatePath(path), der); err != nil {
			return err
		}
		return k.WriteEncrypted(path, r.passphrase)
	})
	if err != nil {
		return nil, nil, err
	}
	return k, der, nil
}

// CreateInToken makes a seal, transport or admin key in the token and writes the
// file that names it. A transport key needs Certify next.
func (r *Ring) CreateInToken(purpose civibus.Purpose, algorithm civibus.Algorithm, now time.Time) (*Key, error) {
	if err := checkTokenKey(purpose, algorithm); err != nil {
		return nil, err
	}
	if r.module == nil {
		return nil, r.noToken()
	}
	uri, public, err := r.module.Generate(context.Background(), purpose.String()+" "+now.UTC().Format(time.RFC3339), algorithm)
	if err != nil {
		return nil, err
	}
	named, err := civibus.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return r.refer(purpose, reference{uri, named}, now)
}

// TakeFromToken writes the file that names a key that was made in the token by
// its own tools. The URI is that of RFC 7512 with token and id.
func (r *Ring) TakeFromToken(purpose civibus.Purpose, uri string, now time.Time) (*Key, error) {
	named, err := pkcs11.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if r.module == nil {
		return nil, r.noToken()
	}
	public, err := r.find(named)
	if err != nil {
		return nil, err
	}
	return r.refer(purpose, reference{named, public}, now)
}

func (r *Ring) noToken() error {
	if !pkcs11.Built {
		return pkcs11.ErrNotBuilt
	}
	return errors.New("no token is configured; configure the PKCS#11 module, the token and the file with its PIN")
}

func (r *Ring) refer(purpose civibus.Purpose, f reference, now time.Time) (*Key, error) {
	k, err := r.tokenKey(purpose, f)
	if err != nil {
		return nil, err
	}
	return k, r.change(func() error {
		return create(filepath.Join(r.dir, k.stem(now)+referenceEnding), f.text(purpose), 0o600)
	})
}

// Certify makes the certificate of a transport key that has none and returns it,
// for the registry.
func (r *Ring) Certify(id civibus.KeyID, member civibus.MemberID, addresses []string, now time.Time) ([]byte, error) {
	k, err := r.held(id)
	if err != nil {
		return nil, err
	}
	der, err := Certificate(k.key, member, addresses, now)
	if err != nil {
		return nil, err
	}
	return der, r.change(func() error { return WriteCertificate(certificatePath(filepath.Join(r.dir, k.name)), der) })
}

// change writes to the directory and reads it again. It writes only if the
// directory can be read, so that all its files stay under one passphrase.
func (r *Ring) change(write func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	lock, err := lockDir(r.dir, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("open key directory: %w", err)
	}
	defer lock.Close()
	if err := finishChange(r.dir, func(string) {}); err != nil {
		return fmt.Errorf("carry the change of the passphrase through: %w", err)
	}
	if err := r.load(); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	return r.load()
}

// For returns the newest key of a purpose that is in force and makes the first
// signature: Ed25519 or ECDSA. inForce asks the current registry view.
func (r *Ring) For(purpose civibus.Purpose, inForce func(civibus.KeyID) bool) (civibus.Signer, error) {
	k, err := r.newest(purpose, first, inForce)
	if err != nil {
		return nil, err
	}
	return k.key, nil
}

// Second returns the newest ML-DSA key of a purpose that is in force, for the
// second signature.
func (r *Ring) Second(purpose civibus.Purpose, inForce func(civibus.KeyID) bool) (civibus.Signer, error) {
	k, err := r.newest(purpose, second, inForce)
	if err != nil {
		return nil, err
	}
	return k.key, nil
}

// SecondOrNone is Second without an error: nil if there is no such key. It costs
// nothing where a body has none.
func (r *Ring) SecondOrNone(purpose civibus.Purpose, inForce func(civibus.KeyID) bool) civibus.Signer {
	held := r.state.Load().keys[purpose]
	for i := len(held) - 1; i >= 0; i-- {
		if second(held[i].key) && inForce(held[i].key.public.ID) {
			return held[i].key
		}
	}
	return nil
}

// TLS returns the newest transport key in force with its certificate.
func (r *Ring) TLS(inForce func(civibus.KeyID) bool) (*tls.Certificate, error) {
	k, err := r.newest(civibus.TransportKey, first, inForce)
	if err != nil {
		return nil, err
	}
	if k.tls == nil {
		return nil, fmt.Errorf("transport key file %s has no certificate; the rule is a file of the same name that ends in .crt beside it", filepath.Join(r.dir, k.name))
	}
	return k.tls, nil
}

// All returns the keys of a purpose that make first signatures, oldest first.
func (r *Ring) All(purpose civibus.Purpose) []*Key { return r.of(purpose, first) }

// AllSecond returns the ML-DSA keys of a purpose, oldest first.
func (r *Ring) AllSecond(purpose civibus.Purpose) []*Key { return r.of(purpose, second) }

// Held is a key of the ring with what the directory says of it.
type Held struct {
	*Key
	File    string // name in the directory
	Custody Custody
	Chain   *Chain // nil if the key has no certificate of an authority
}

// List returns all keys, by purpose and age.
func (r *Ring) List() []Held {
	state := r.state.Load()
	var out []Held
	for _, purpose := range purposes {
		for _, k := range state.keys[purpose] {
			out = append(out, Held{k.key, k.name, k.how.custody, k.chain})
		}
	}
	return out
}

// first and second are the kinds of signatures. A validator makes one only.
func first(k *Key) bool { return !second(k) }
func second(k *Key) bool {
	return k.public.Algorithm.PostQuantum() && k.purpose != civibus.ValidatorKey
}

func (r *Ring) of(purpose civibus.Purpose, kind func(*Key) bool) []*Key {
	var out []*Key
	for _, k := range r.state.Load().keys[purpose] {
		if kind(k.key) {
			out = append(out, k.key)
		}
	}
	return out
}

// held returns the key with an id, of any purpose.
func (r *Ring) held(id civibus.KeyID) (ringKey, error) {
	for _, held := range r.state.Load().keys {
		if i := slices.IndexFunc(held, func(k ringKey) bool { return k.key.public.ID == id }); i >= 0 {
			return held[i], nil
		}
	}
	return ringKey{}, fmt.Errorf("no key %s in %s", id, r.dir)
}

func (r *Ring) newest(purpose civibus.Purpose, kind func(*Key) bool, inForce func(civibus.KeyID) bool) (ringKey, error) {
	held := r.state.Load().keys[purpose]
	count, last := 0, civibus.KeyID{}
	for i := len(held) - 1; i >= 0; i-- {
		if !kind(held[i].key) {
			continue
		}
		if inForce(held[i].key.public.ID) {
			return held[i], nil
		}
		if count++; count == 1 {
			last = held[i].key.public.ID
		}
	}
	if count == 0 {
		return ringKey{}, fmt.Errorf("no %s key in %s; make one and register it", PurposeName(purpose), r.dir)
	}
	return ringKey{}, fmt.Errorf("none of the %d %s keys in %s is in force in the registry (newest: %s); register one, or wait for its activation height", count, purpose, r.dir, last)
}
