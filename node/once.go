package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/transport"
)

// evidenceGivers are the body's subsystems that give evidence.
func (n *Node) evidenceGivers() []civibus.ClientID {
	if !n.cfg.Once.Enabled || n.host != nil {
		return nil
	}
	var out []civibus.ClientID
	for _, s := range n.cfg.Once.Provide {
		if code, err := civibus.DecodePart(s); err == nil { // the configuration was checked
			out = append(out, civibus.ClientID{MemberID: n.member, Subsystem: code})
		}
	}
	return out
}

// openOnce opens the body's requests for evidence.
func (n *Node) openOnce(closers *closers) error {
	if !n.cfg.Once.Enabled || n.host != nil {
		return nil
	}
	r, err := once.Open(once.Config{
		Dir: filepath.Join(n.cfg.DataDir, "once"), Member: n.member, Provides: n.evidenceGivers(), View: n.view,
		Signer: func() (civibus.Signer, error) {
			v := n.view()
			if v == nil {
				return nil, errors.New("there is no registry view yet")
			}
			return n.sealSigner(transport.InForce(v, n.member, civibus.SealKey))
		},
		Call: n.callOnce, Fetch: n.fetchEvidence, Keep: time.Duration(n.cfg.Once.Keep), Note: n.noteErasure, Clock: n.clock, Logger: n.log.With("room", "once"),
	})
	if err != nil {
		return err
	}
	n.once.Store(r)
	closers.add("requests for evidence", func(context.Context) error { return r.Close() })
	return nil
}

// onceUpstreams are the services "once" of the subsystems that give evidence.
func (n *Node) onceUpstreams() (out []service.Upstream) {
	for _, s := range n.evidenceGivers() {
		out = append(out, service.Upstream{Service: civibus.ServiceID{ClientID: s, Service: once.ServiceCode}, Handler: n.once.Load().Inbox(s)})
	}
	return out
}

// runOnce deletes what has lapsed.
func (n *Node) runOnce(ctx context.Context, group *errgroup.Group) {
	if r := n.once.Load(); r != nil {
		group.Go(func() error { return r.Run(ctx) })
	}
}

// callOnce makes an exchange about evidence in the name of one of the body's subsystems.
// What the provider or a gateway refuses for good is a *once.Refused.
func (n *Node) callOnce(ctx context.Context, from civibus.ClientID, to civibus.ServiceID, path string, body []byte) ([]byte, error) {
	r := n.current.Load()
	if r == nil {
		return nil, errors.New("the gateway does not run yet")
	}
	a, _, err := r.gateway.Do(ctx, gateway.Own{
		Client: from, Service: to, Method: http.MethodPost, Path: path, Header: http.Header{"Content-Type": {"application/json"}}, Body: body, AnyStatus: true,
	})
	var fault *civibus.Fault
	switch {
	case errors.As(err, &fault) && (fault.Code == civibus.FaultAccessDenied || fault.Code == civibus.FaultRule || fault.Code == civibus.FaultUnknownService):
		return nil, &once.Refused{Code: "not_allowed", Reason: fault.Message}
	case err != nil:
		return nil, err
	}
	var told struct{ Error, Message string }
	_ = json.Unmarshal(a.Body, &told) // it may be something else
	switch {
	case a.Status >= 400 && a.Status < 500 && told.Error != "":
		return nil, &once.Refused{Code: told.Error, Reason: told.Message}
	case a.Status != http.StatusOK:
		return nil, fmt.Errorf("the provider answered with status %d: %.200s", a.Status, a.Body)
	}
	return a.Body, nil
}

// fetchEvidence asks one of the body's own services for evidence.
func (n *Node) fetchEvidence(ctx context.Context, from civibus.ServiceID, path, client string, request []byte) (*once.Fetched, error) {
	r := n.current.Load()
	if r == nil {
		return nil, errors.New("the services do not run yet")
	}
	header := http.Header{"Content-Type": {"application/json"}, civibus.HeaderClient: {client}}
	resp, err := r.services.Call(ctx, from, http.MethodPost, path, "", header, bytes.NewReader(request), int64(len(request)))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, once.MaxEvidence+1))
	if err != nil {
		return nil, err
	}
	f := &once.Fetched{Status: resp.StatusCode, MediaType: resp.Header.Get("Content-Type"), Content: content}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		f.RetryAfter = time.Duration(s) * time.Second
	}
	return f, nil
}
