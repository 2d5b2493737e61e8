//go:build pkcs11 && cgo

package pkcs11

import (
	"context"

	p11 "github.com/miekg/pkcs11"
)

// Occupy takes one session until the function that it returns is called.
func (m *Module) Occupy() (release func()) {
	m.tickets <- struct{}{}
	return func() { <-m.tickets }
}

// EndSessions closes all sessions behind the module's back.
func (m *Module) EndSessions() {
	m.lib.mu.Lock()
	defer m.lib.mu.Unlock()
	_ = m.lib.ctx.CloseAllSessions(m.conn.slot)
}

// Finalise ends the library behind the module's back.
func (m *Module) Finalise() {
	m.lib.mu.Lock()
	defer m.lib.mu.Unlock()
	_ = m.lib.ctx.Finalize()
}

// PrivateValue asks the token for the private key itself.
func (m *Module) PrivateValue(k *Key) (value []byte, err error) {
	err = m.with(context.Background(), func(c *connection, s p11.SessionHandle) error {
		handle, err := m.private(c, s, k.uri)
		if err != nil {
			return err
		}
		attributes, err := m.lib.ctx.GetAttributeValue(s, handle, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})
		if err == nil {
			value = attributes[0].Value
		}
		return err
	})
	return value, err
}
