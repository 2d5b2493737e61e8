package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/transport"
)

// BenchmarkExchange is one exchange through both gateways, with real seals and
// the real registry, and with nothing beneath them: a function call for the
// network and the service, and no disk but the replay journal's.
//
//	go test ./gateway -run '^$' -bench Exchange -benchmem
func BenchmarkExchange(b *testing.B) {
	town, w := newWired(b)
	question, answer := bytes.Repeat([]byte("q"), 1024), &answerWriter{header: http.Header{}}
	header := http.Header{
		"Accept": {"*/*"}, "Content-Type": {"application/json"}, "Content-Length": {"1024"},
		civibus.HeaderClient: {client}, "User-Agent": {"bench"},
	}
	u := &url.URL{Path: persons}
	b.ReportAllocs()
	for b.Loop() {
		clear(answer.header)
		answer.status = 0
		town.ServeHTTP(answer, &http.Request{
			Method: http.MethodPost, URL: u, RequestURI: persons, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: header, Body: io.NopCloser(bytes.NewReader(question)), ContentLength: 1024, RemoteAddr: "127.0.0.1:40000",
		})
		if answer.status != http.StatusOK || answer.size != 1024 {
			b.Fatalf("status %d, %d bytes", answer.status, answer.size)
		}
	}
	if w.records == 0 {
		b.Fatal("nothing was recorded")
	}
}

// newWired returns the consumer face of a gateway whose provider is a function
// call away.
func newWired(t testing.TB) (http.Handler, *wired) {
	w := &wired{answer: bytes.Repeat([]byte("a"), 1024)}
	world := fixture.NewOverMachine(fixture.New(t))
	office := world.AddBody("GOV", "OFFICE", fixture.Options{Gateway: func(c *gateway.Config) { c.Evidence, c.Upstreams = w, w }})
	town := world.AddBody("MUN", "TOWN", fixture.Options{Gateway: func(c *gateway.Config) { c.Evidence, c.Transport = w, w }})
	register, desk := office.AddSubsystem("register"), town.AddSubsystem("desk")
	service := office.AddService(register, "persons", nil, nil)
	world.Grant("r1", desk, service)
	w.provider = office.Gateway.Provider()
	ours, theirs := town.TLS.Key().ID, office.TLS.Key().ID
	w.from, w.to = transport.Peer{Member: town.ID, Key: ours, Own: theirs}, transport.Peer{Member: office.ID, Key: theirs, Own: ours}
	return town.Gateway.Consumer(), w
}

// wired stands for all that is outside the gateways: transport, service and
// evidence.
type wired struct {
	gateway.Upstreams // none for descriptions
	provider          http.Handler
	from, to          transport.Peer
	answer            []byte
	records           int
}

// Do hands the request to the provider's face.
func (w *wired) Do(ctx context.Context, _ civibus.MemberID, _ string, request transport.Request) (*http.Response, transport.Peer, error) {
	r, err := request(ctx, w.to)
	if err != nil {
		return nil, transport.Peer{}, err
	}
	received := &http.Request{
		Method: r.Method, URL: r.URL, RequestURI: r.URL.RequestURI(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: r.Header, Body: r.Body, ContentLength: r.ContentLength, RemoteAddr: "127.0.0.1:40001",
	}
	answer := &answerWriter{header: http.Header{}}
	w.provider.ServeHTTP(answer, received.WithContext(transport.WithPeer(ctx, w.from)))
	return &http.Response{
		StatusCode: answer.status, Header: answer.header, ContentLength: int64(len(answer.body)), Body: io.NopCloser(bytes.NewReader(answer.body)),
	}, w.to, nil
}

// Call is the service.
func (w *wired) Call(_ context.Context, _ civibus.ServiceID, _, _, _ string, _ http.Header, body io.Reader, _ int64) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"1024"}},
		ContentLength: int64(len(w.answer)), Body: io.NopCloser(bytes.NewReader(w.answer)),
	}, nil
}

// Admit admits everything.
func (w *wired) Admit() error { return nil }

// Append only counts.
func (w *wired) Append(context.Context, *evidencepb.Record) error { w.records++; return nil }

// NewBody is not reached: the archive keeps digests.
func (w *wired) NewBody(context.Context, string, evidencepb.Side) (*evidence.Body, error) {
	return nil, fixture.ErrBroken
}

// answerWriter takes an answer without a connection.
type answerWriter struct {
	header http.Header
	status int
	size   int
	body   []byte // the last piece that was written
}

func (a *answerWriter) Header() http.Header    { return a.header }
func (a *answerWriter) WriteHeader(status int) { a.status, a.size = status, 0 }
func (a *answerWriter) Write(p []byte) (int, error) {
	a.size, a.body = a.size+len(p), p
	return len(p), nil
}

// SetReadDeadline is what the gateway uses of a http.ResponseController.
func (a *answerWriter) SetReadDeadline(time.Time) error { return nil }
