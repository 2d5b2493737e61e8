package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/test/fixture"
)

func TestProviderGatewayDown(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	closed := fixture.Listen(t)
	_ = closed.Close()
	p.Registry.Change(func(v *fixture.View) {
		m, _ := v.Member(p.office.ID)
		m.Gateways = []civibus.Gateway{{Code: "gw1", Address: closed.Addr().String()}}
		v.SetMember(m)
	})
	a := p.call("POST", "/x", strings.NewReader("body"))
	wantError(t, a, "Server.ClientProxy.NetworkError", "")
	r := p.town.Record(a.Header.Get("X-Road-Request-Id"))
	if r.Outcome != evidencepb.Outcome_OUTCOME_FAILED || r.Fault != "network_error" || r.Request != nil || r.Response != nil || r.Status != 0 {
		t.Errorf("the consumer's record: %v", r)
	}
	p.Registry.Change(func(v *fixture.View) {
		m, _ := v.Member(p.office.ID)
		m.Gateways = nil
		v.SetMember(m)
	})
	wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.UnknownMember", "no gateway address")
}

// TestServiceFailures holds that a service that breaks in whatever way makes a
// sealed fault that both sides record, and never a whole-looking answer.
func TestServiceFailures(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	raw := func(serve func(net.Conn, *http.Request)) string {
		l := fixture.Listen(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					serve(c, r)
				}
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		return "http://" + l.Addr().String()
	}
	release := make(chan struct{})
	defer close(release)
	for _, c := range []struct {
		name, typ, code string
		change          func(*service.Upstream)
	}{
		{"reset", "Server.ServerProxy.NetworkError", "network_error", func(u *service.Upstream) {
			u.URL = raw(func(c net.Conn, _ *http.Request) { _ = c.(*net.TCPConn).SetLinger(0) })
		}},
		{"slow", "Server.ServerProxy.IOError", "timeout", func(u *service.Upstream) {
			u.AnswerTimeout = 50 * time.Millisecond
			u.URL = raw(func(c net.Conn, _ *http.Request) { <-release })
		}},
		{"cut", "Server.ServerProxy.IOError", "io_error", func(u *service.Upstream) {
			u.URL = raw(func(c net.Conn, _ *http.Request) {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
			})
		}},
		{"nonsense", "Server.ServerProxy.NetworkError", "network_error", func(u *service.Upstream) {
			u.URL = raw(func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n") })
		}},
		{"unknown host", "Server.ServerProxy.NetworkError", "unknown_host", func(u *service.Upstream) {
			u.URL = "http://no-such-host.invalid"
		}},
		{"no address", "Server.ServerProxy.ServiceMissingUrl", "service_missing_url", func(u *service.Upstream) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.T, p.office.World.T = t, t
			code := strings.ReplaceAll(c.name, " ", "-")
			id := p.office.AddService(p.register, code, nil, func(_ *civibus.Service, u *service.Upstream) { c.change(u) })
			p.Grant("r-"+code, p.desk, id)
			a := p.town.Call("POST", "/r1/TEST/GOV/OFFICE/register/"+code, strings.NewReader("body"), "X-Road-Client", client)
			wantError(t, a, c.typ, "")
			for _, b := range []*fixture.Body{p.town, p.office} {
				r := b.Record(a.Header.Get("X-Road-Request-Id"))
				if r.Fault != c.code || r.Request == nil || r.Response == nil || r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED {
					t.Errorf("%s's record: %v", b.ID, r)
				}
			}
		})
	}
}

// TestLongAnswerCutByTheService holds that the client system sees no end.
func TestLongAnswerCutByTheService(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	id := p.office.AddService(p.register, "cut", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4000000")
		_, _ = w.Write(make([]byte, 3_000_000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}), nil)
	p.Grant("r2", p.desk, id)
	a, err := p.town.TryCall("GET", "/r1/TEST/GOV/OFFICE/register/cut", nil, "X-Road-Client", client)
	if err == nil {
		t.Fatalf("the answer came to its end: %d, %d bytes", a.StatusCode, len(a.Body))
	}
	for _, b := range []*fixture.Body{p.town, p.office} {
		fixture.Eventually(t, "it is recorded", func() bool { return len(b.Records(a.Header.Get("X-Road-Request-Id"))) == 1 })
		if r := b.Record(a.Header.Get("X-Road-Request-Id")); r.Outcome != evidencepb.Outcome_OUTCOME_FAILED || r.Fault != "io_error" {
			t.Errorf("%s's record: %v", b.ID, r)
		}
	}
}

// TestEarlyAnswers holds what happens when a service answers before it has
// read the request: an error answers at once, other answers once the request
// has verified; the rest of the request is not lost for the evidence.
func TestEarlyAnswers(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	for code, status := range map[string]int{"too-large": 413, "fine": 200} {
		id := p.office.AddService(p.register, code, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "early")
		}), nil)
		p.Grant("r-"+code, p.desk, id)
		a := p.town.Call("POST", "/r1/TEST/GOV/OFFICE/register/"+code, bytes.NewReader(make([]byte, 5<<20)), "X-Road-Client", client)
		if a.StatusCode != status || string(a.Body) != "early" || a.Header.Get("X-Road-Error") != "" {
			t.Errorf("%s: %d %s", code, a.StatusCode, a.Body)
		}
		for _, b := range []*fixture.Body{p.town, p.office} {
			if r := b.Record(a.Header.Get("X-Road-Request-Id")); r.RequestBody.GetSize() != 5<<20 || len(r.RequestBody.GetSha256()) != 32 {
				t.Errorf("%s: %s's record: %v", code, b.ID, r.RequestBody)
			}
		}
	}
}

// disk is a disk whose free space a test sets.
type disk struct{ free atomic.Uint64 }

func (d *disk) config(c *evidence.Config) {
	c.ReserveBytes = 1 << 20
	c.Statfs = func(string) (uint64, error) { return d.free.Load(), nil }
}

// TestFullDisk holds that a gateway that cannot keep evidence calls nobody,
// says so, and recovers by itself.
func TestFullDisk(t *testing.T) {
	var town, office disk
	town.free.Store(math.MaxUint64)
	office.free.Store(math.MaxUint64)
	p := newPair(t, fixture.Options{Evidence: town.config}, fixture.Options{Evidence: office.config})
	if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	until := func(what, want string, d *disk, free uint64) {
		t.Helper()
		d.free.Store(free)
		fixture.Eventually(t, what, func() bool { return p.call("GET", "/x", nil).Header.Get("X-Road-Error") == want })
	}
	until("the provider refuses", "Server.ServerProxy.LoggingFailed", &office, 0)
	before := p.begun.Load()
	wantError(t, p.call("GET", "/x", nil), "Server.ServerProxy.LoggingFailed", "disk is full")
	if p.begun.Load() != before {
		t.Error("the service was called though no evidence could be kept")
	}
	until("the provider recovers", "", &office, math.MaxUint64)
	until("the consumer refuses", "Server.ClientProxy.LoggingFailed", &town, 0)
	before = p.begun.Load()
	wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.LoggingFailed", "disk is full")
	if p.begun.Load() != before {
		t.Error("the provider was called though no evidence could be kept")
	}
	until("the consumer recovers", "", &town, math.MaxUint64)
}

// failing is an evidence log whose Append fails.
type failing struct {
	gateway.Evidence
	broken atomic.Bool
}

func (f *failing) Append(ctx context.Context, r *evidencepb.Record) error {
	if f.broken.Load() {
		return errors.New("write: no space left on device")
	}
	return f.Evidence.Append(ctx, r)
}

// TestNoAnswerWithoutEvidence holds that when the record cannot be written no
// answer's end leaves, at either side, for short and long bodies.
func TestNoAnswerWithoutEvidence(t *testing.T) {
	var town, office failing
	with := func(f *failing) fixture.Options {
		return fixture.Options{Gateway: func(c *gateway.Config) { f.Evidence, c.Evidence = c.Evidence, f }}
	}
	p := newPair(t, with(&town), with(&office))
	for name, f := range map[string]*failing{"Server.ClientProxy.LoggingFailed": &town, "Server.ServerProxy.LoggingFailed": &office} {
		f.broken.Store(true)
		a := p.call("POST", "/x", strings.NewReader("short"))
		wantError(t, a, name, "cannot keep evidence")
		if strings.Contains(string(a.Body), "no space left") {
			t.Errorf("the cause leaks: %s", a.Body)
		}
		long := make([]byte, 3<<20)
		if a, err := p.town.TryCall("POST", persons, bytes.NewReader(long), "X-Road-Client", client); err == nil && a.StatusCode == 200 {
			t.Errorf("%s: a long answer came to its end: %d bytes", name, len(a.Body))
		}
		f.broken.Store(false)
	}
}

func TestRateLimit(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	p.Registry.Change(func(v *fixture.View) {
		v.SetRight(civibus.AccessRight{ID: "r1", Service: p.service, Client: p.desk, Status: civibus.Active, Limit: civibus.RateLimit{Requests: 2, Per: time.Hour}})
	})
	for range 2 {
		if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
	}
	a := p.call("GET", "/x", nil)
	wantError(t, a, "Server.ServerProxy.RateLimitExceeded", "Access right r1 allows 2 calls in 1h0m0s")
	if s := a.Header.Get("Retry-After"); s != "1800" && s != "1799" {
		t.Errorf("Retry-After %q, want half an hour", s)
	}
	if r := p.office.Record(a.Header.Get("X-Road-Request-Id")); r.Fault != "rate_limited" || r.Response == nil || r.Outcome != evidencepb.Outcome_OUTCOME_REFUSED {
		t.Errorf("the provider's record: %v", r)
	}
}

// TestWhoseRefusal holds that a refusal by the consumer's gateway is recorded
// there without seals, and that with AskProvider it is the provider's, sealed.
func TestWhoseRefusal(t *testing.T) {
	for _, ask := range []bool{false, true} {
		p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) { c.AskProvider = ask }}, fixture.Options{})
		p.Registry.Change(func(v *fixture.View) {
			v.SetRight(civibus.AccessRight{ID: "r1", Service: p.service, Client: p.desk, Status: civibus.Suspended})
		})
		a := p.call("GET", "/x", nil)
		wantError(t, a, "Server.ServerProxy.AccessDenied", "access right r1 is suspended")
		id := a.Header.Get("X-Road-Request-Id")
		r := p.town.Record(id)
		if r.Outcome != evidencepb.Outcome_OUTCOME_REFUSED || r.Fault != "access_denied" || (r.Request != nil) != ask || (r.Response != nil) != ask || (r.Status != 0) != ask {
			t.Errorf("ask %v: the consumer's record: %v", ask, r)
		}
		if n := len(p.office.Records(id)); (n == 1) != ask {
			t.Errorf("ask %v: the provider keeps %d records", ask, n)
		}
	}
}

func TestMaintenanceAndStaleRegistry(t *testing.T) {
	var notice atomic.Value
	var stale atomic.Bool
	notice.Store("")
	change := fixture.Options{Gateway: func(c *gateway.Config) {
		c.Maintenance = func() string { return notice.Load().(string) }
		c.Fresh = func() error {
			if stale.Load() {
				return errors.New("no block for an hour")
			}
			return nil
		}
	}}
	check := func(p *pair, prefix string) {
		t.Helper()
		notice.Store("back at noon")
		wantError(t, p.call("GET", "/x", nil), prefix+"MaintenanceMode", "back at noon")
		notice.Store("")
		stale.Store(true)
		wantError(t, p.call("GET", "/x", nil), prefix+"OutdatedGlobalConf", "too old")
		stale.Store(false)
		if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	}
	check(newPair(t, change, fixture.Options{}), "Server.ClientProxy.")
	check(newPair(t, fixture.Options{}, change), "Server.ServerProxy.")
}

// TestStyles holds the two settings of error answers, for faults of either
// gateway.
func TestStyles(t *testing.T) {
	p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) {
		c.Vocabulary, c.CorrectStatuses, c.AskProvider = problem.Snake, true, true
	}}, fixture.Options{})
	for path, want := range map[string]struct {
		status int
		typ    string
	}{
		"/r1/x":                                {400, "server.clientproxy.internal_error"},
		persons + "z":                          {404, "server.serverproxy.unknown_service"},
		"/r1/TEST/GOV/NOBODY/register/persons": {404, "server.clientproxy.unknown_member"},
		persons + "/..%2fx":                    {403, "server.serverproxy.access_denied"},
	} {
		a := p.town.Call("GET", path, nil, "X-Road-Client", client, "Accept", "application/problem+json")
		if a.StatusCode != want.status || a.Header.Get("X-Road-Error") != want.typ || a.Header.Get("Content-Type") != "application/problem+json" ||
			!bytes.Contains(a.Body, []byte(`"type":"urn:civibus:fault:`)) {
			t.Errorf("%s: %d %v %s", path, a.StatusCode, a.Header, a.Body)
		}
	}
}

// TestEncryptedArchive holds that bodies of both directions are archived and
// can be read back, short and long ones.
func TestEncryptedArchive(t *testing.T) {
	archive := fixture.Options{
		Evidence: func(c *evidence.Config) { c.Archive = evidence.ArchiveEncrypted },
		Gateway:  func(c *gateway.Config) { c.Archive = evidence.ArchiveEncrypted },
	}
	p := newPair(t, archive, archive)
	for _, size := range []int{10, 3 << 20} {
		content := bytes.Repeat([]byte("0123456789"), size/10)
		a := p.call("POST", "/x", bytes.NewReader(content))
		if a.StatusCode != 200 || !bytes.Equal(a.Body, content) {
			t.Fatalf("%d, %d bytes", a.StatusCode, len(a.Body))
		}
		for _, b := range []*fixture.Body{p.town, p.office} {
			r := b.Record(a.Header.Get("X-Road-Request-Id"))
			for _, body := range []*evidencepb.Body{r.RequestBody, r.ResponseBody} {
				f, err := b.Evidence.OpenBody(body.GetArchive())
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				if _ = f.Close(); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s's archive: %d bytes, %v", b.ID, len(got), err)
				}
			}
		}
	}
}
