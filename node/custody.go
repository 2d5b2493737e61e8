package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/secret"
)

const (
	watchKeysEvery = 5 * time.Second
	warnKeysEvery  = 24 * time.Hour
)

// Open opens the key folder with the passphrase and the token that are
// configured. A passphrase that comes from a descriptor can be read once in a
// process. Close the ring at the end.
func (c KeysConfig) Open() (*keys.Ring, error) {
	options, err := c.options()
	if err != nil {
		return nil, err
	}
	return keys.OpenRing(c.Dir, options...)
}

func (c KeysConfig) options() ([]keys.Option, error) {
	passphrase, err := c.ReadPassphrase()
	if err != nil {
		return nil, err
	}
	token, err := c.PKCS11.config()
	if err != nil {
		return nil, err
	}
	return []keys.Option{keys.WithPassphrase(passphrase), keys.WithToken(token)}, nil
}

// ReadPassphrase reads the passphrase of the key files, nil if none is configured.
func (c KeysConfig) ReadPassphrase() (*keys.Passphrase, error) {
	if c.Passphrase == "" {
		return nil, nil
	}
	source, err := secret.ParseSource(c.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("passphrase of the keys: %w", err)
	}
	return keys.ReadPassphrase(source)
}

// ReadOnce reports whether the passphrase can be read by the process alone that
// was started with it.
func (c KeysConfig) ReadOnce() bool {
	source, err := secret.ParseSource(c.Passphrase)
	return err == nil && !source.IsFile()
}

func (c PKCS11Config) config() (pkcs11.Config, error) {
	out := pkcs11.Config{Module: c.Module, Token: c.Token, Sessions: c.Sessions}
	if c.PIN == "" {
		return out, nil
	}
	var err error
	if out.PIN, err = secret.ParseSource(c.PIN); err != nil {
		return out, fmt.Errorf("PIN of the token: %w", err)
	}
	return out, nil
}

// resolve makes the paths absolute.
func (c KeysConfig) resolve(base string, abs func(*string)) KeysConfig {
	abs(&c.Dir)
	c.Passphrase = absSource(c.Passphrase, base)
	abs(&c.PKCS11.Module)
	c.PKCS11.PIN = absSource(c.PKCS11.PIN, base)
	return c
}

func (c KeysConfig) validate(v *validator) {
	if c.Passphrase != "" {
		if _, err := secret.ParseSource(c.Passphrase); err != nil {
			v.add("keys.passphrase", "%v", err)
		}
	}
	if c.PKCS11 == (PKCS11Config{}) {
		return
	}
	if !pkcs11.Built {
		v.add("keys.pkcs11", "%v", pkcs11.ErrNotBuilt)
	}
	token, err := c.PKCS11.config()
	if err != nil {
		v.add("keys.pkcs11.pin", "%v", err)
		return
	}
	var all interface{ Unwrap() []error }
	if errors.As(token.Validate(), &all) {
		for _, err := range all.Unwrap() {
			v.add("keys.pkcs11", "%v", err)
		}
	}
}

// absSource makes the path of a source absolute and leaves all else as it is.
func absSource(text, base string) string {
	source, err := secret.ParseSource(text)
	if err != nil {
		return text
	}
	return source.Abs(filepath.Clean(base)).String()
}

// watchKeys takes up new and changed key files without a restart, and warns of
// what an operator should mend.
func (n *Node) watchKeys(ctx context.Context) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "civibus_key_warnings", Help: "Keys of the body that are not kept as they should be; civibus config check names them.",
	})
	n.metrics.MustRegister(gauge)
	warn := func() {
		warnings := n.ring.Warnings(n.clock())
		gauge.Set(float64(len(warnings)))
		for _, w := range warnings {
			n.log.WarnContext(ctx, "key", "file", w.File, "warning", w.Message)
		}
	}
	t := time.NewTicker(watchKeysEvery)
	defer t.Stop()
	warn()
	for warned := n.clock(); ; {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		reloaded, err := n.ring.Refresh()
		switch {
		case err != nil:
			n.log.ErrorContext(ctx, "the key folder changed and cannot be read; the keys of before stay in use", "error", err)
		case reloaded:
			n.log.InfoContext(ctx, "the key folder changed and was read again", "keys", len(n.ring.List()))
		}
		if now := n.clock(); reloaded || now.Sub(warned) >= warnKeysEvery {
			warn()
			warned = now
		}
	}
}
