// Package tlsprofile is the one TLS profile of the node's ports and of the
// connections between bodies: TLS 1.3 alone, key agreement with X25519MLKEM768,
// X25519 or P-256, and no resumption. A resumed session would take its
// certificates from a ticket; whether a key is in force is asked anew instead, at
// every connection and every request.
//
// Trust: the standard library's TLS. Who the other side is, the profile does not
// say: its users check certificates against the registry or against rules.
package tlsprofile

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
)

// groups are the key agreements, the post-quantum hybrid first: what is recorded
// today is not opened by a quantum computer later. Both sides of a connection
// between bodies have it, so that the others serve other people's clients only.
func groups() []tls.CurveID {
	return []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256}
}

// New returns the profile for a server or a client.
func New() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       groups(),
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
	}
}

// Upstream returns the profile for calls to the body's own systems, which may be
// as old as TLS 1.2: they are named by the configuration, inside the body's own
// network, and what they say is sealed only after it has come.
func Upstream() *tls.Config {
	c := New()
	c.MinVersion = tls.VersionTLS12
	return c
}

const maxFile = 256 << 10 // bytes of a certificate or key file

// LoadPair reads a certificate, with its chain, and its private key, both PEM. The
// key's file must be a regular one that its owner alone may read.
func LoadPair(certificate, key string) (tls.Certificate, error) {
	certificateText, err := read(certificate, false)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	keyText, err := read(key, true)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key of certificate %s: %w", certificate, err)
	}
	defer clear(keyText)
	pair, err := tls.X509KeyPair(certificateText, keyText)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s with key %s: they do not load as a PEM pair", certificate, key)
	}
	return pair, nil
}

// read looks at the file that it then reads, and not at its name twice.
func read(name string, secret bool) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", name, maxFile)
	case secret && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o, the rule is 0600: chmod 600 %s", name, info.Mode().Perm(), name)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
