package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/test/fixture"
)

// The evidence index's database lets its buffer pool drain after it is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

// bus is two bodies: a town whose desk calls a population office's register.
type bus struct {
	*fixture.World
	town, office *fixture.Body
	desk         civibus.ClientID
	register     civibus.ClientID
	service      civibus.ServiceID // "persons", which echoes
	last         received
}

const client = "TEST/MUN/TOWN/desk"

// received is what the service got last.
type received struct {
	mu     sync.Mutex
	r      *http.Request
	target string
	body   []byte
}

func (s *received) get() (*http.Request, string, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r, s.target, s.body
}

// ServeHTTP notes the request and echoes its body.
func (s *received) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.r, s.target, s.body = r, r.RequestURI, body
	s.mu.Unlock()
	if ct := r.Header.Get("Content-Type"); ct != "" {
		w.Header().Set("Content-Type", ct)
	}
	_, _ = w.Write(body)
}

func newBus(t *testing.T) *bus { return newBusWith(t, nil) }

func newBusWith(t *testing.T, change func(*gateway.Config)) *bus {
	t.Helper()
	return newBusOn(fixture.NewOverMachine(fixture.New(t)), change)
}

func newBusOn(w *fixture.World, change func(*gateway.Config)) *bus {
	w.T.Helper()
	b := &bus{World: w}
	b.office = b.AddBody("GOV", "OFFICE", fixture.Options{})
	b.town = b.AddBody("MUN", "TOWN", fixture.Options{Gateway: change})
	b.register, b.desk = b.office.AddSubsystem("register"), b.town.AddSubsystem("desk")
	b.service = b.office.AddService(b.register, "persons", &b.last, nil)
	b.Grant("r1", b.desk, b.service)
	return b
}

// path is the path of a service of the register.
func path(service string) string { return "/r1/TEST/GOV/OFFICE/register/" + service }

// call calls the persons service as the desk.
func (b *bus) call(method, rest string, body io.Reader, fields ...string) *fixture.Answer {
	b.T.Helper()
	return b.town.Call(method, path("persons")+rest, body, append([]string{"X-Road-Client", client}, fields...)...)
}

// serve adds another service that the desk may call.
func (b *bus) serve(code string, h http.HandlerFunc) {
	b.T.Helper()
	b.Grant("right-"+code, b.desk, b.office.AddService(b.register, code, h, nil))
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// wantError holds an answer to be X-Road's error of this type.
func wantError(t *testing.T, a *fixture.Answer, typ string) {
	t.Helper()
	if a.StatusCode != 500 {
		t.Errorf("status %d, want 500 (%s)", a.StatusCode, a.Body)
	}
	if got := a.Header.Get("X-Road-Error"); got != typ {
		t.Errorf("X-Road-Error %q, want %q (%s)", got, typ, a.Body)
	}
	var doc map[string]string
	if err := json.Unmarshal(a.Body, &doc); err != nil {
		t.Fatalf("error document %s: %v", a.Body, err)
	}
	if len(doc) != 3 || doc["type"] != typ || doc["message"] == "" || !uuidForm.MatchString(doc["detail"]) {
		t.Errorf("error document %s, want type %s, a message and a uuid", a.Body, typ)
	}
}

func wantOK(t *testing.T, a *fixture.Answer, body string) {
	t.Helper()
	if a.StatusCode != 200 || string(a.Body) != body {
		t.Errorf("status %d, body %.200q; want 200 and %.200q", a.StatusCode, a.Body, body)
	}
	if e := a.Header.Get("X-Road-Error"); e != "" {
		t.Errorf("X-Road-Error %s on an answer of the service", e)
	}
}

func jsonBody(s string) io.Reader { return strings.NewReader(s) }

func message(t *testing.T, a *fixture.Answer) string {
	t.Helper()
	var doc struct{ Message string }
	if err := json.Unmarshal(a.Body, &doc); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", a.Body, err))
	}
	return doc.Message
}
