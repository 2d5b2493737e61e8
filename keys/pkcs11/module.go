//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys/secret"
)

// Built reports whether this program can use tokens.
const Built = true

const (
	// retryAfter is how long a failure to connect is believed.
	retryAfter = time.Second
	// signLimit is how long a signature may wait for a session when the caller sets no limit.
	signLimit = 10 * time.Second
)

// Module is a token's library and the sessions with the token. It is safe for
// concurrent use.
type Module struct {
	cfg     Config
	lib     *library
	tickets chan struct{} // one for each session in use

	mu       sync.Mutex   // taken before the library's, never after
	conn     *connection  // nil while the token is away
	failed   error        // of the last attempt to connect
	failedAt time.Time    // when that was
	refused  *secret.Text // the PIN that the token refused
	closed   bool
}

// connection is one login at the token and its sessions.
type connection struct {
	generation uint64
	slot       uint
	base       p11.SessionHandle // stays open, since the login ends with the last session

	mu      sync.Mutex
	dropped bool
	idle    []p11.SessionHandle
	handles map[string]p11.ObjectHandle // private keys by URI
}

// Open loads the token's library. The token itself may be away.
func Open(cfg Config) (*Module, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = defaultSessions
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	lib, err := openLibrary(cfg.Module)
	if err != nil {
		return nil, err
	}
	return &Module{cfg: cfg, lib: lib, tickets: make(chan struct{}, cfg.Sessions)}, nil
}

// Close ends all sessions. Signatures that are under way end first.
func (m *Module) Close() error {
	// 1. No connection is made any more.
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	c := m.conn
	m.conn = nil
	m.mu.Unlock()
	// 2. Who signs has a ticket.
	for range cap(m.tickets) {
		m.tickets <- struct{}{}
	}
	if c != nil {
		m.end(c)
	}
	return m.lib.close()
}

// with runs do in a session. If the token turns out to have been away since the
// session was made, it connects again and runs do once more.
func (m *Module) with(ctx context.Context, do func(c *connection, s p11.SessionHandle) error) error {
	// 1. A ticket, so that no more sessions are used than the token allows.
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return errClosed
	}
	ctx, cancel := context.WithTimeout(ctx, signLimit)
	defer cancel()
	select {
	case m.tickets <- struct{}{}:
		defer func() { <-m.tickets }()
	case <-ctx.Done():
		return fmt.Errorf("all %d sessions are busy: %w", m.cfg.Sessions, ctx.Err())
	}
	// 2. The work.
	err := m.once(do)
	if isGone(err) {
		err = m.once(do)
	}
	if isGone(err) {
		err = fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

func (m *Module) once(do func(c *connection, s p11.SessionHandle) error) error {
	c, err := m.connected()
	if err != nil {
		return err
	}
	m.lib.mu.RLock()
	s, err := m.session(c)
	if err == nil {
		err = do(c, s)
		m.release(c, s, err)
	}
	m.lib.mu.RUnlock()
	if isGone(err) {
		m.drop(c)
	}
	return err
}

// connected returns the connection, made anew if there is none.
func (m *Module) connected() (*connection, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	if m.conn != nil {
		return m.conn, nil
	}
	now := m.cfg.Clock()
	if since := now.Sub(m.failedAt); m.failed != nil && since >= 0 && since < retryAfter {
		return nil, m.failed
	}
	c, err := m.connect()
	if errors.Is(err, ErrAway) {
		if err = m.lib.again(c.generation); err == nil {
			c, err = m.connect()
		}
	}
	if err != nil {
		m.failed, m.failedAt = err, now
		return nil, err
	}
	m.conn, m.failed, m.refused = c, nil, nil
	return c, nil
}

// connect finds the token and logs in. With ErrAway the connection says of which
// initialisation the library is.
func (m *Module) connect() (*connection, error) {
	m.lib.mu.RLock()
	defer m.lib.mu.RUnlock()
	c := &connection{generation: m.lib.generation, handles: make(map[string]p11.ObjectHandle)}
	// 1. The slot with the token.
	slots, err := m.lib.ctx.GetSlotList(true)
	if err != nil {
		return c, fmt.Errorf("%w: list slots: %w", ErrAway, err)
	}
	found := slices.IndexFunc(slots, func(slot uint) bool {
		info, err := m.lib.ctx.GetTokenInfo(slot)
		return err == nil && info.Label == m.cfg.Token
	})
	if found < 0 {
		return c, fmt.Errorf("%w: none of the %d slots of %s has a token %q", ErrAway, len(slots), m.cfg.Module, m.cfg.Token)
	}
	c.slot = slots[found]
	// 2. The login.
	c.base, err = m.lib.ctx.OpenSession(c.slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return c, fmt.Errorf("%w: open session: %w", ErrAway, err)
	}
	if err := m.login(c); err != nil {
		_ = m.lib.ctx.CloseSession(c.base)
		return c, err
	}
	return c, nil
}

func (m *Module) login(c *connection) error {
	pin, err := m.cfg.PIN.Read()
	if err != nil {
		return err
	}
	if pin.Equal(m.refused) {
		return fmt.Errorf("%w in %s; it is not tried again before the file changes, so that the token is not locked", ErrPIN, m.cfg.PIN)
	}
	pin.Use(func(text []byte) { err = m.lib.ctx.Login(c.base, p11.CKU_USER, string(text)) })
	var code p11.Error
	if !errors.As(err, &code) {
		return err
	}
	switch code {
	case p11.CKR_USER_ALREADY_LOGGED_IN: // by another user of the library
		return nil
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE:
		m.refused = pin
		return fmt.Errorf("%w in %s: %w", ErrPIN, m.cfg.PIN, err)
	case p11.CKR_PIN_LOCKED:
		return fmt.Errorf("%w: it is locked; unlock it with the token's own tool: %w", ErrPIN, err)
	}
	return fmt.Errorf("log in: %w", err)
}

// session takes an idle session or opens one.
func (m *Module) session(c *connection) (p11.SessionHandle, error) {
	if c.generation != m.lib.generation {
		return 0, errGone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped {
		return 0, errGone
	}
	if n := len(c.idle); n > 0 {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return s, nil
	}
	return m.lib.ctx.OpenSession(c.slot, p11.CKF_SERIAL_SESSION)
}

// release keeps a session for the next user. One that failed may be in the
// middle of something and is closed.
func (m *Module) release(c *connection, s p11.SessionHandle, failed error) {
	c.mu.Lock()
	keep := failed == nil && !c.dropped
	if keep {
		c.idle = append(c.idle, s)
	}
	c.mu.Unlock()
	if !keep {
		_ = m.lib.ctx.CloseSession(s)
	}
}

// drop forgets a connection whose token was away.
func (m *Module) drop(c *connection) {
	m.mu.Lock()
	mine := m.conn == c
	if mine {
		m.conn = nil
	}
	m.mu.Unlock()
	if mine {
		m.end(c)
	}
}

// end closes what can be closed of a connection.
func (m *Module) end(c *connection) {
	m.lib.mu.RLock()
	defer m.lib.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped = true
	if c.generation != m.lib.generation {
		return // the numbers may mean others' sessions by now
	}
	for _, s := range append(c.idle, c.base) {
		_ = m.lib.ctx.CloseSession(s)
	}
	c.idle = nil
}

// sign makes the raw signature.
func (m *Module) sign(ctx context.Context, k *Key, in []byte) (out []byte, err error) {
	mechanism := p11.NewMechanism(p11.CKM_ECDSA, nil)
	if k.public.Algorithm == civibus.Ed25519 {
		mechanism = p11.NewMechanism(ckmEdDSA, nil)
	}
	err = m.with(ctx, func(c *connection, s p11.SessionHandle) error {
		handle, err := m.private(c, s, k.uri)
		if err != nil {
			return err
		}
		if err := m.lib.ctx.SignInit(s, []*p11.Mechanism{mechanism}, handle); err != nil {
			return err
		}
		out, err = m.lib.ctx.Sign(s, in)
		return err
	})
	return out, err
}

// private finds the private key's handle, which lasts as long as the login.
func (m *Module) private(c *connection, s p11.SessionHandle, uri URI) (p11.ObjectHandle, error) {
	name := uri.String()
	c.mu.Lock()
	handle, ok := c.handles[name]
	c.mu.Unlock()
	if ok {
		return handle, nil
	}
	handle, err := m.object(s, uri, p11.CKO_PRIVATE_KEY)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.handles[name] = handle
	c.mu.Unlock()
	return handle, nil
}

func (m *Module) object(s p11.SessionHandle, uri URI, class uint) (p11.ObjectHandle, error) {
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_ID, uri.ID)}
	if uri.Object != "" {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, uri.Object))
	}
	if err := m.lib.ctx.FindObjectsInit(s, template); err != nil {
		return 0, err
	}
	found, _, err := m.lib.ctx.FindObjects(s, 2)
	if finalErr := m.lib.ctx.FindObjectsFinal(s); err == nil {
		err = finalErr
	}
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, fmt.Errorf("%w as %s", ErrNoKey, uri)
	case len(found) > 1:
		return 0, fmt.Errorf("the token holds two keys as %s, the rule is an id for each", uri)
	}
	return found[0], nil
}

// Find returns the public half of the key that uri names, from the public key
// object beside the private key.
func (m *Module) Find(ctx context.Context, uri URI) (public crypto.PublicKey, err error) {
	if err := m.names(uri); err != nil {
		return nil, err
	}
	err = m.with(ctx, func(c *connection, s p11.SessionHandle) error {
		if _, err := m.object(s, uri, p11.CKO_PRIVATE_KEY); err != nil {
			return err
		}
		handle, err := m.object(s, uri, p11.CKO_PUBLIC_KEY)
		if err != nil {
			return fmt.Errorf("public key: %w", err)
		}
		public, err = m.public(s, handle)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find key in token %q: %w", m.cfg.Token, err)
	}
	return public, nil
}

var (
	errGone   = errors.New("the session ended")
	errClosed = errors.New("the module is closed")
)

// isGone reports whether an error may mean that the token was away, so that
// connecting again may help.
func isGone(err error) bool {
	if errors.Is(err, errGone) {
		return true
	}
	var code p11.Error
	if errors.Is(err, ErrAway) || errors.Is(err, ErrPIN) || !errors.As(err, &code) {
		return false
	}
	return slices.Contains([]p11.Error{
		p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_DEVICE_REMOVED, p11.CKR_DEVICE_ERROR, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_CRYPTOKI_NOT_INITIALIZED,
		p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_SLOT_ID_INVALID, p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED,
	}, code)
}
