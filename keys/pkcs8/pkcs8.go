// Package pkcs8 encrypts private keys at rest: PKCS#8 EncryptedPrivateKeyInfo
// (RFC 5958) by PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC, which
// OpenSSL reads. It reads PBKDF2 with HMAC-SHA-256 or -512 too, which OpenSSL
// writes by default.
//
// CBC does not notice changes, and OpenSSL knows no mode for key files that does.
// A changed file gives another key or none: who opens it compares the key id.
//
// Trust: nobody; what a file asks for in memory and time is bounded before it is
// spent. Whoever has the file and guesses the passphrase has the key.
package pkcs8

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"sync"

	"golang.org/x/crypto/scrypt"

	"github.com/civibus/civibus/keys/secret"
)

// ErrPassphrase says that the passphrase does not open the key. A damaged file
// cannot be told from it.
var ErrPassphrase = errors.New("the passphrase is wrong, or the file is damaged")

// MinLength is the shortest passphrase to encrypt with, in bytes. Shorter ones
// only decrypt.
const MinLength = 16

// Cost is what one guess costs an attacker, in scrypt's parameters.
type Cost struct{ N, R, P int }

// DefaultCost takes about a quarter of a second and 16 MiB: OWASP's
// recommendation in the form that stays within OpenSSL's limit of 32 MiB.
func DefaultCost() Cost { return Cost{N: 1 << 14, R: 8, P: 5} }

// The bounds of what a file may ask for.
const (
	maxMemory     = 256 << 20 // bytes, of scrypt
	maxWork       = 1 << 24   // N*r*p, of scrypt
	maxIterations = 10_000_000
	maxSalt       = 1 << 10
	maxDerived    = 64 // keys remembered
)

// keySize is that of AES-256.
const keySize = 32

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidHMACSHA512 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

type encryptedPrivateKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	Derivation pkix.AlgorithmIdentifier
	Encryption pkix.AlgorithmIdentifier
}

type scryptParams struct {
	Salt    []byte
	N, R, P int
	KeySize int `asn1:"optional"`
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeySize    int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// Passphrase encrypts and decrypts private keys. Keys that it encrypts share one
// salt, and derived keys are remembered, so that a folder of keys costs one
// derivation; a guess at the passphrase of a folder costs the same with one salt
// as with many. It is safe for concurrent use and shows nothing when printed.
type Passphrase struct {
	derive func(d derivation) ([]byte, error)
	own    func(proven *scryptParams) (derivation, error)
	length int
}

// NewPassphrase makes a Passphrase of text. New keys are encrypted at cost.
func NewPassphrase(text *secret.Text, cost Cost) *Passphrase {
	var mu sync.Mutex
	derived := make(map[string][]byte)
	var ours *scryptParams // of what is encrypted
	return &Passphrase{
		length: text.Len(),
		derive: func(d derivation) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			if key, ok := derived[d.name]; ok {
				return key, nil
			}
			var key []byte
			var err error
			text.Use(func(text []byte) { key, err = d.run(text) })
			if err != nil {
				return nil, err
			}
			if len(derived) >= maxDerived {
				clear(derived)
			}
			derived[d.name] = key
			return key, nil
		},
		own: func(proven *scryptParams) (derivation, error) {
			mu.Lock()
			defer mu.Unlock()
			if proven != nil && ours == nil && (Cost{proven.N, proven.R, proven.P}) == cost {
				ours = proven
			}
			if ours == nil {
				salt := make([]byte, 16)
				if _, err := rand.Read(salt); err != nil {
					return derivation{}, err
				}
				ours = &scryptParams{Salt: salt, N: cost.N, R: cost.R, P: cost.P, KeySize: keySize}
			}
			return ours.derivation()
		},
	}
}

// Encrypt returns the EncryptedPrivateKeyInfo of a PKCS#8 PrivateKeyInfo, both DER.
func (p *Passphrase) Encrypt(der []byte) ([]byte, error) {
	if p.length < MinLength {
		return nil, fmt.Errorf("encrypt private key: a passphrase of %d bytes, the rule is at least %d", p.length, MinLength)
	}
	// 1. The key that encrypts.
	d, err := p.own(nil)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	key, err := p.derive(d)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	// 2. AES-256-CBC with a fresh vector and PKCS#7 padding.
	iv := make([]byte, aes.BlockSize)
	if _, err := rand.Read(iv); err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	pad := aes.BlockSize - len(der)%aes.BlockSize
	data := append(bytes.Clone(der), bytes.Repeat([]byte{byte(pad)}, pad)...)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, data)
	// 3. The envelope.
	encryption, err := identifier(oidAES256CBC, iv)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	algorithm, err := identifier(oidPBES2, pbes2Params{d.identifier, encryption})
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	return asn1.Marshal(encryptedPrivateKeyInfo{algorithm, data})
}

// Decrypt returns the PrivateKeyInfo. It matches ErrPassphrase when the
// passphrase does not fit. The caller clears what it gets.
func (p *Passphrase) Decrypt(der []byte) ([]byte, error) {
	e, err := parse(der)
	if err != nil {
		return nil, fmt.Errorf("decrypt private key: %w", err)
	}
	key, err := p.derive(e.derivation)
	if err != nil {
		return nil, fmt.Errorf("decrypt private key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("decrypt private key: %w", err)
	}
	plain := make([]byte, len(e.data))
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(plain, e.data)
	// The padding fits by chance once in 256 times; then the DER around the key does not.
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > aes.BlockSize || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) || !isSequence(plain[:len(plain)-pad]) {
		clear(plain)
		return nil, ErrPassphrase
	}
	if e.scrypt != nil {
		if _, err := p.own(e.scrypt); err != nil {
			return nil, fmt.Errorf("decrypt private key: %w", err)
		}
	}
	return plain[:len(plain)-pad], nil
}

func isSequence(der []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	return err == nil && len(rest) == 0 && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence && v.IsCompound
}

// Weak says why an encrypted key is easier to guess than those that Encrypt
// makes; it is empty if it is not.
func Weak(der []byte) string {
	e, err := parse(der)
	switch {
	case err != nil:
		return err.Error()
	case e.iterations > 0 && e.iterations < 600_000:
		return fmt.Sprintf("PBKDF2 with %d iterations, the rule is at least 600000", e.iterations)
	case e.scrypt != nil && e.scrypt.N*e.scrypt.R*e.scrypt.P < 1<<14*8*5:
		return fmt.Sprintf("scrypt with N=%d, r=%d, p=%d, the rule is at least N=16384, r=8, p=5", e.scrypt.N, e.scrypt.R, e.scrypt.P)
	}
	return ""
}

// String says that this is a secret.
func (p *Passphrase) String() string { return "(passphrase)" }

// GoString is String.
func (p *Passphrase) GoString() string { return p.String() }

// LogValue is what slog shows.
func (p *Passphrase) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText is String, for JSON.
func (p *Passphrase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// derivation makes an encryption key of a passphrase. Equal names derive equal keys.
type derivation struct {
	name       string
	identifier pkix.AlgorithmIdentifier
	run        func(passphrase []byte) ([]byte, error)
}

// envelope is an encrypted key, checked but not opened.
type envelope struct {
	derivation derivation
	scrypt     *scryptParams // nil for PBKDF2
	iterations int           // 0 for scrypt
	iv, data   []byte
}

func parse(der []byte) (*envelope, error) {
	var info encryptedPrivateKeyInfo
	if err := unmarshal(der, &info); err != nil {
		return nil, errors.New("it is not a PKCS#8 EncryptedPrivateKeyInfo")
	}
	var params pbes2Params
	if !info.Algorithm.Algorithm.Equal(oidPBES2) || unmarshal(info.Algorithm.Parameters.FullBytes, &params) != nil {
		return nil, errors.New("it is not encrypted by PBES2; convert it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc -scrypt\"")
	}
	e := &envelope{data: info.Data}
	if !params.Encryption.Algorithm.Equal(oidAES256CBC) || unmarshal(params.Encryption.Parameters.FullBytes, &e.iv) != nil || len(e.iv) != aes.BlockSize {
		return nil, errors.New("its cipher is not AES-256-CBC; convert it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc -scrypt\"")
	}
	if len(e.data) == 0 || len(e.data)%aes.BlockSize != 0 {
		return nil, errors.New("the encrypted key is not a number of whole blocks")
	}
	var err error
	switch {
	case params.Derivation.Algorithm.Equal(oidScrypt):
		e.scrypt = new(scryptParams)
		if unmarshal(params.Derivation.Parameters.FullBytes, e.scrypt) != nil {
			return nil, errors.New("its scrypt parameters cannot be read")
		}
		e.derivation, err = e.scrypt.derivation()
	case params.Derivation.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if unmarshal(params.Derivation.Parameters.FullBytes, &p) != nil {
			return nil, errors.New("its PBKDF2 parameters cannot be read")
		}
		e.iterations = p.Iterations
		e.derivation, err = p.derivation()
	default:
		err = errors.New("its key derivation is neither scrypt nor PBKDF2; convert it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc -scrypt\"")
	}
	return e, err
}

func (s scryptParams) derivation() (derivation, error) {
	const most = 1 << 24 // of each factor, so that products do not overflow
	switch {
	case s.N < 2 || s.N&(s.N-1) != 0 || s.R < 1 || s.P < 1 || len(s.Salt) > maxSalt || s.KeySize != 0 && s.KeySize != keySize:
		return derivation{}, errors.New("its scrypt parameters are out of range")
	case s.N > most || s.R > most || s.P > most || 128*s.N*s.R > maxMemory || s.N*s.R*s.P > maxWork:
		return derivation{}, fmt.Errorf("scrypt with N=%d, r=%d, p=%d asks for more memory or time than a key file may", s.N, s.R, s.P)
	}
	id, err := identifier(oidScrypt, s)
	return derivation{
		name:       fmt.Sprintf("scrypt %x %d %d %d", s.Salt, s.N, s.R, s.P),
		identifier: id,
		run:        func(text []byte) ([]byte, error) { return scrypt.Key(text, s.Salt, s.N, s.R, s.P, keySize) },
	}, err
}

func (p pbkdf2Params) derivation() (derivation, error) {
	var h func() hash.Hash
	switch {
	case p.PRF.Algorithm.Equal(oidHMACSHA256):
		h = sha256.New
	case p.PRF.Algorithm.Equal(oidHMACSHA512):
		h = sha512.New
	default:
		return derivation{}, errors.New("its PBKDF2 uses neither HMAC-SHA-256 nor HMAC-SHA-512; convert it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc -scrypt\"")
	}
	switch {
	case p.Iterations < 1 || len(p.Salt) > maxSalt || p.KeySize != 0 && p.KeySize != keySize:
		return derivation{}, errors.New("its PBKDF2 parameters are out of range")
	case p.Iterations > maxIterations:
		return derivation{}, fmt.Errorf("PBKDF2 with %d iterations asks for more time than a key file may", p.Iterations)
	}
	return derivation{
		name: fmt.Sprintf("pbkdf2 %s %x %d", p.PRF.Algorithm, p.Salt, p.Iterations),
		run: func(text []byte) ([]byte, error) {
			return pbkdf2.Key(h, string(text), p.Salt, p.Iterations, keySize)
		},
	}, nil
}

func identifier(oid asn1.ObjectIdentifier, params any) (pkix.AlgorithmIdentifier, error) {
	der, err := asn1.Marshal(params)
	return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: der}}, err
}

func unmarshal(der []byte, to any) error {
	rest, err := asn1.Unmarshal(der, to)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing data")
	}
	return err
}
