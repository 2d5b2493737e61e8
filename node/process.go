package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/internal/tlsprofile"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/transport"
)

// processParts are the body's subsystems that play roles.
func (n *Node) processParts() []process.Part {
	var out []process.Part
	for _, p := range n.cfg.Process {
		code, err := civibus.DecodePart(p.Subsystem)
		if err != nil {
			continue // the configuration was checked
		}
		out = append(out, process.Part{Subsystem: civibus.ClientID{MemberID: n.member, Subsystem: code}, System: p.System})
	}
	return out
}

// openProcess opens the runtime of the body's processes, if it plays roles.
func (n *Node) openProcess(closers *closers) error {
	if len(n.cfg.Process) == 0 || n.host != nil {
		return nil
	}
	systems, err := n.systemTransport()
	if err != nil {
		return err
	}
	r, err := process.Open(process.Config{
		Dir: filepath.Join(n.cfg.DataDir, "process"), Member: n.member, Parts: n.processParts(),
		View: n.view, Changed: func() <-chan struct{} { return n.ledger.Load().Changed() },
		Submit: func(ctx context.Context, tx *registrypb.Tx) (process.Outcome, error) {
			c, err := n.submit(ctx, civibus.LogKey, tx)
			return process.Outcome{Code: c.Code, Reason: c.Reason, TxHash: c.TxHash, Height: c.Height}, err
		},
		Call: n.callAsSystem, Sign: n.signForSystem, HTTP: &http.Client{Transport: systems, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Note: n.noteErasure, Clock: n.clock, Logger: n.log.With("room", "process"),
	})
	if err != nil {
		return err
	}
	n.process.Store(r)
	closers.add("processes", func(context.Context) error { systems.CloseIdleConnections(); return r.Close() })
	return nil
}

// systemTransport reaches the systems that play roles.
func (n *Node) systemTransport() (*http.Transport, error) {
	tc := tlsprofile.Upstream()
	for _, p := range n.cfg.Process {
		if p.CA == "" {
			continue
		}
		text, err := os.ReadFile(p.CA)
		if err != nil {
			return nil, err
		}
		if tc.RootCAs == nil {
			tc.RootCAs = x509.NewCertPool()
		}
		if !tc.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("process.ca %s: no PEM certificate in it", p.CA)
		}
	}
	return &http.Transport{TLSClientConfig: tc, MaxConnsPerHost: 32, IdleConnTimeout: 30 * time.Second, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}, nil
}

// runProcess drives the body's processes.
func (n *Node) runProcess(ctx context.Context, group *errgroup.Group) {
	if r := n.process.Load(); r != nil && n.host == nil {
		group.Go(func() error { return r.Run(ctx) })
	}
}

// consumerFace is the gateway's, and what else the node offers to the body's systems.
func (n *Node) consumerFace(r *rooms) http.Handler {
	exchanges := n.house(r).Consumer()
	local := make(map[string]http.Handler)
	if p := n.process.Load(); p != nil {
		local[process.APIPath] = p.API()
	}
	if o := n.once.Load(); o != nil {
		local[once.APIPath] = o.API()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for path, handler := range local {
			if !strings.HasPrefix(req.URL.Path, path) {
				continue
			}
			if _, err := r.gateway.Caller(req); err != nil {
				r.gateway.Tell(w, req, err)
				return
			}
			handler.ServeHTTP(w, req)
			return
		}
		exchanges.ServeHTTP(w, req)
	})
}

// signForSystem seals an event for one of the body's systems with the body's seal key.
func (n *Node) signForSystem(ctx context.Context, r *http.Request, body []byte) error {
	v := n.view()
	if v == nil {
		return errors.New("there is no registry view yet")
	}
	signer, err := n.sealSigner(transport.InForce(v, n.member, civibus.SealKey))
	if err != nil {
		return err
	}
	_, err = seal.SealRequest(ctx, signer, r, body, n.clock())
	return err
}

// callAsSystem makes an exchange in the name of one of the body's subsystems.
func (n *Node) callAsSystem(ctx context.Context, from civibus.ClientID, to civibus.ServiceID, path string, body []byte) (int, []byte, error) {
	r := n.current.Load()
	if r == nil {
		return 0, nil, errors.New("the gateway does not run yet")
	}
	header := http.Header{"Content-Type": {"application/json"}}
	header.Set(civibus.HeaderPurpose, process.Purpose)
	a, _, err := r.gateway.Do(ctx, gateway.Own{Client: from, Service: to, Method: http.MethodPost, Path: path, Header: header, Body: body, AnyStatus: true})
	if err != nil {
		return 0, nil, err
	}
	return a.Status, a.Body, nil
}
