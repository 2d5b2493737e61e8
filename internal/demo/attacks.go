package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/keys"
)

// tap stands on the hop of the population office as a thief who broke its TLS
// terminator would, and keeps one sealed request.
type tap struct {
	mu    sync.Mutex
	armed bool
	taken *captured
}

// captured is a request as it came over the wire.
type captured struct {
	method, uri string
	header      http.Header
	body        []byte
}

// arm keeps the next request.
func (t *tap) arm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = true
}

func (t *tap) request() *captured {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}

func (t *tap) listen(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.mu.Lock()
		take := t.armed && strings.HasPrefix(r.RequestURI, "/r1/")
		t.armed = t.armed && !take
		t.mu.Unlock()
		if take {
			body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
			if err == nil {
				t.mu.Lock()
				t.taken = &captured{r.Method, r.RequestURI, r.Header.Clone(), body}
				t.mu.Unlock()
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	})
}

// attacks makes what must be refused, and looks at why it was.
func (d *Demo) attacks(ctx context.Context, done []exchange, receipts [][]byte) error {
	stolen := d.tap.request()
	if stolen == nil {
		return errors.New("demo: no request was seen on the hop")
	}
	thief, err := thiefOf(d.Network.Bodies[town])
	if err != nil {
		return err
	}
	defer thief.CloseIdleConnections()
	address := d.Network.Bodies[populationOffice].ProviderAddress()

	// 1. The stolen transport key, and a request whose path was changed.
	forged := *stolen
	forged.uri = strings.Replace(stolen.uri, "FIC-0007", "FIC-0008", 1)
	d.onTheWire(ctx, thief, address, &forged, "forged request", "another person's entry is asked for under the portal's seal, over the stolen transport key of the town", civibus.FaultSeal)

	// 2. The same request again, byte for byte.
	d.onTheWire(ctx, thief, address, stolen, "replayed request", "a sealed request that was overheard is sent again, byte for byte", civibus.FaultReplay)

	// 3. A body that has no right asks in its own name.
	d.withoutRight(ctx)

	// 4. A receipt that was tampered with.
	return d.tampered(done, receipts)
}

// thiefOf makes an HTTP client with a body's transport key.
func thiefOf(b *testnet.Body) (*http.Client, error) {
	ring, err := keys.OpenRing(b.Config.Keys.Dir)
	if err != nil {
		return nil, err
	}
	cert, err := ring.TLS(func(civibus.KeyID) bool { return true })
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{Certificates: []tls.Certificate{*cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, // a thief does not care whom he talks to
	}}, nil
}

// send puts a captured request on the wire.
func (c *captured) send(ctx context.Context, h *http.Client, address string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, "https://"+address+"/", bytes.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	path, query, _ := strings.Cut(c.uri, "?")
	req.URL.Opaque, req.URL.RawQuery = path, query
	req.Header = c.header.Clone()
	if len(c.body) == 0 {
		req.Body = http.NoBody
	}
	return h.Do(req)
}

// onTheWire sends a request to a gateway, which must refuse it for a reason.
func (d *Demo) onTheWire(ctx context.Context, h *http.Client, address string, c *captured, name, what string, want civibus.FaultCode) {
	began := time.Now()
	step := Step{Kind: KindAttack, Name: name, Request: c.method + " " + c.uri}
	resp, err := c.send(ctx, h, address)
	if err != nil {
		step.Detail = err.Error()
		d.report(began, step)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // an unreadable body shows as an empty reason
	var doc struct{ Type, Message string }
	_ = json.Unmarshal(body, &doc)
	step.Status = resp.StatusCode
	step.Detail = fmt.Sprintf("%s; refused: %s: %s", what, doc.Type, doc.Message)
	step.OK = resp.Header.Get(civibus.HeaderFault) == string(want) && resp.Header.Get(civibus.HeaderError) != ""
	if !step.OK {
		step.Detail = fmt.Sprintf("%s; expected a refusal with %s, got %s: %s", what, want, resp.Header.Get(civibus.HeaderFault), excerpt(body))
	}
	d.report(began, step)
}

// withoutRight calls the population register in the name of a body that has no
// right to it. The provider refuses, with its seal.
func (d *Demo) withoutRight(ctx context.Context) {
	b := d.Network.Bodies[businessRegister]
	s := d.services[populationOffice]
	caller := &client.Client{Gateway: b.ConsumerURL(), Client: b.Client("audit"), HTTP: oneShot()}
	began := time.Now()
	step := Step{Kind: KindAttack, Name: "call without a right", Client: caller.Client.String(), Service: s.service.ID.String(), Request: s.method + " " + s.path}
	_, err := caller.Do(ctx, client.Call{Service: s.service.ID, Path: s.path, Purpose: s.purpose})
	if e, ok := refusedWith(err, "AccessDenied"); ok {
		step.OK, step.Status, step.Exchange = strings.HasPrefix(e.Type, "Server.ServerProxy."), e.Status, e.Exchange
		step.Detail = "refused: " + e.Error()
	} else {
		step.Detail = fmt.Sprintf("expected a refusal for want of a right, got %v", err)
	}
	d.report(began, step)
}

// tampered changes one bit of fact in a valid receipt: the status that the
// service answered.
func (d *Demo) tampered(done []exchange, receipts [][]byte) error {
	began := time.Now()
	step := Step{Kind: KindAttack, Name: "tampered receipt"}
	if len(receipts) == 0 || receipts[0] == nil {
		step.Detail = "there is no receipt to tamper with"
		d.report(began, step)
		return nil
	}
	step.Exchange = done[0].id
	r, err := proof.Parse(receipts[0])
	if err != nil {
		return err
	}
	rec := &evidencepb.Record{}
	if err := proto.Unmarshal(r.Entries[0].Record, rec); err != nil {
		return err
	}
	rec.Status = http.StatusNotFound
	if r.Entries[0].Record, err = proto.Marshal(rec); err != nil {
		return err
	}
	raw, err := r.Marshal()
	if err != nil {
		return err
	}
	policy, err := d.readPolicy()
	if err != nil {
		return err
	}
	report, err := proof.Verify(raw, policy)
	var failure *proof.Error
	if errors.As(err, &failure) {
		step.OK = true
		step.Detail = fmt.Sprintf("the record now claims status 404; refused: %s (%s)", report.Failure, failure.Detail)
	} else {
		step.Detail = fmt.Sprintf("a changed receipt was not refused: %v", err)
	}
	d.report(began, step)
	return nil
}
