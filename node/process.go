package node

import (
	"bytes"
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
		Clock: n.clock, Logger: n.log.With("room", "process"),
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
	p := n.process.Load()
	if p == nil {
		return exchanges
	}
	processes := r.gateway.Local(p.API())
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, process.APIPath) {
			processes.ServeHTTP(w, req)
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

// maxOwnAnswer bounds the answer to an exchange that the node itself makes.
const maxOwnAnswer = 256 << 10

// callAsSystem makes an exchange in the name of one of the body's subsystems, as one of
// its systems would.
func (n *Node) callAsSystem(ctx context.Context, from civibus.ClientID, to civibus.ServiceID, path string, body []byte) (int, []byte, error) {
	r := n.current.Load()
	if r == nil {
		return 0, nil, errors.New("the gateway does not run yet")
	}
	target := "/r1/" + to.String() + path
	req, err := http.NewRequestWithContext(gateway.FromNode(ctx), http.MethodPost, "http://localhost/", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.URL.Path, req.URL.RawPath, req.RequestURI = target, target, target
	req.Header.Set(civibus.HeaderClient, from.String())
	req.Header.Set(civibus.HeaderPurpose, process.Purpose)
	req.Header.Set("Content-Type", "application/json")
	w := &ownAnswer{header: make(http.Header)}
	r.gateway.Consumer().ServeHTTP(w, req)
	if kind := w.header.Get(civibus.HeaderError); kind != "" {
		return 0, nil, fmt.Errorf("%s: %s", kind, bytes.TrimSpace(w.body.Bytes()))
	}
	return w.status, w.body.Bytes(), nil
}

// ownAnswer keeps the answer to an exchange of the node's own.
type ownAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *ownAnswer) Header() http.Header { return w.header }

func (w *ownAnswer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *ownAnswer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(p) > maxOwnAnswer {
		return 0, fmt.Errorf("the answer has more than %d bytes", maxOwnAnswer)
	}
	return w.body.Write(p)
}

// Flush does nothing: the answer is read when it is whole.
func (w *ownAnswer) Flush() {}
