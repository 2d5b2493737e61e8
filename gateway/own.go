package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/problem"
)

// Own is an exchange that the gateway makes for itself, in the name of a client of its
// body: no system calls, and none is authenticated. All else is as with any exchange.
type Own struct {
	Client  civibus.ClientID
	Service civibus.ServiceID
	Method  string
	Path    string // from the slash
	Query   string
	Header  http.Header // further fields
	Body    []byte
	Server  string // the code of one of the provider's gateways; empty: any
	// AnyStatus has every answer of the service be one; without it those that are not
	// 2xx are faults.
	AnyStatus bool
}

// fromNode marks the context of requests that the body's own node makes.
type fromNode struct{}

// isFromNode reports whether the node itself is the calling system: it may speak for
// every client of the body. Nothing that comes from outside can have the mark.
func isFromNode(ctx context.Context) bool {
	mark, _ := ctx.Value(fromNode{}).(bool)
	return mark
}

// OwnAnswer is the service's answer to it.
type OwnAnswer struct {
	Exchange string
	Status   int
	Header   http.Header
	Body     []byte
}

// maxOwnAnswer bounds an answer that is held in memory.
const maxOwnAnswer = 16 << 20

// Do makes an exchange. What is refused is a *civibus.Fault; after says when it may be
// tried again, if the provider said so.
func (g *Gateway) Do(ctx context.Context, own Own) (a *OwnAnswer, after time.Duration, err error) {
	r, err := http.NewRequestWithContext(context.WithValue(ctx, fromNode{}, true), own.Method, "http://gateway.invalid/", bytes.NewReader(own.Body))
	if err != nil {
		return nil, 0, err
	}
	r.RequestURI = "/r1/" + own.Service.String() + own.Path
	if own.Query != "" {
		r.RequestURI += "?" + own.Query
	}
	for k, v := range own.Header {
		r.Header[k] = v
	}
	r.Header.Set(civibus.HeaderClient, own.Client.String())
	if own.Server != "" {
		r.Header.Set(civibus.HeaderSecurityServer, own.Service.MemberID.String()+"/"+civibus.EncodePart(own.Server))
	}
	if len(own.Body) == 0 {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	x := g.begin(civibus.ConsumerGateway, evidencepb.Side_SIDE_CONSUMER)
	w := &memory{header: http.Header{}}
	if err := x.inMemory(w, r); err != nil {
		return nil, 0, err
	}
	if x.fault != nil {
		return nil, x.retryAfter, x.fault
	}
	if !own.AnyStatus && (w.status < 200 || w.status > 299) {
		return nil, 0, civibus.Faultf(civibus.ProviderGateway, civibus.FaultInconsistentAnswer, "the provider answered with the status %d", w.status)
	}
	return &OwnAnswer{Exchange: x.call.requestID, Status: w.status, Header: w.header, Body: w.body.Bytes()}, 0, nil
}

// inMemory carries the exchange. One that its gateway breaks off has told its fault.
func (x *exchange) inMemory(w *memory, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil && x.fault == nil {
			err = fmt.Errorf("the exchange broke off: %v", p)
		}
	}()
	defer x.end()
	x.carry(w, r)
	if w.over {
		return civibus.Faultf(civibus.ConsumerGateway, civibus.FaultInconsistentAnswer, "the answer has more than %d bytes", maxOwnAnswer)
	}
	return nil
}

// memory is a http.ResponseWriter.
type memory struct {
	header http.Header
	status int
	body   bytes.Buffer
	over   bool
}

// Header returns the header.
func (m *memory) Header() http.Header { return m.header }

// WriteHeader notes the status.
func (m *memory) WriteHeader(status int) {
	if m.status == 0 {
		m.status = status
	}
}

// Write keeps what is written, within bounds.
func (m *memory) Write(b []byte) (int, error) {
	m.WriteHeader(http.StatusOK)
	if m.body.Len()+len(b) > maxOwnAnswer {
		m.over = true
		return 0, errors.New("the answer is too long")
	}
	return m.body.Write(b)
}

var _ io.Writer = (*memory)(nil)

// Caller says in the name of which client of this body a system calls, as for an
// exchange.
func (g *Gateway) Caller(r *http.Request) (civibus.ClientID, error) {
	const place = civibus.ConsumerGateway
	text := last(r.Header, civibus.HeaderClient)
	if text == "" {
		return civibus.ClientID{}, civibus.Faultf(place, civibus.FaultMissingClient, "The client identifier is missing: send the header X-Road-Client: INSTANCE/CLASS/MEMBER/SUBSYSTEM")
	}
	client, err := civibus.ParseClientID(text)
	if err != nil {
		return civibus.ClientID{}, civibus.Faultf(place, civibus.FaultBadRequest, "Invalid X-Road-Client: %v", err)
	}
	v := g.config.View()
	if client.MemberID != g.config.Member || !active(v, client) {
		return civibus.ClientID{}, civibus.Faultf(place, civibus.FaultUnknownMember, "Client '%s' not found", client.XRoad())
	}
	return client, g.authenticate(r, client)
}

// Tell answers a system with an error, in the style of all errors, but always with its
// fitting status: no X-Road client calls what is told so.
func (g *Gateway) Tell(w http.ResponseWriter, r *http.Request, err error) {
	x := &exchange{g: g, place: civibus.ConsumerGateway, view: g.config.View()}
	fault := x.faultOf(err)
	d := g.hop.Document(fault, r.Header["Accept"], problem.NewDetail())
	x.log(r.Context(), fault, d.Detail)
	d.WriteTo(w, r)
}
