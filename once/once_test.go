package once_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

type signer struct {
	private ed25519.PrivateKey
	public  civibus.PublicKey
}

func (s *signer) Key() civibus.PublicKey { return s.public }

func (s *signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.private, message), nil
}

func newSigner(t testing.TB, name string) *signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	s := &signer{private: ed25519.NewKeyFromSeed(seed[:])}
	var err error
	if s.public, err = civibus.NewPublicKey(s.private.Public()); err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	birth = "T/GOV/REG/civil/births/birth"
	born  = "https://law.example/requirements/born"
)

var (
	start = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	town  = civibus.MemberID{Instance: "T", Class: "MUN", Code: "TOWN"}
	desk  = civibus.ClientID{MemberID: town, Subsystem: "desk"}
	other = civibus.ClientID{MemberID: town, Subsystem: "other"}
	civil = civibus.ClientID{MemberID: civibus.MemberID{Instance: "T", Class: "GOV", Code: "REG"}, Subsystem: "civil"}
)

// world is a registry, a town that asks and a register that gives, each with its runtime.
type world struct {
	t             testing.TB
	view          *registry.View
	now           time.Time
	town, reg     *once.Runtime
	dirs          [2]string
	seal, foreign *signer // of the town; of the register
	down          bool    // the hop between them
	lost          int     // answers that get lost on the way back
	service       func(w http.ResponseWriter, r *http.Request)
	fetched       int
	noted         []string
	log           error // of the evidence log, when it keeps a note
	atNote        func()
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, now: start, seal: newSigner(t, "town/seal"), foreign: newSigner(t, "reg/seal"), dirs: [2]string{t.TempDir(), t.TempDir()}}
	admin, validator := newSigner(t, "admin"), newSigner(t, "validator")
	key := func(purpose string, s *signer) registry.GenesisKey {
		return registry.GenesisKey{Purpose: purpose, SPKI: base64.StdEncoding.EncodeToString(s.public.SPKI)}
	}
	m, err := registry.Open(registry.NewMemoryStore())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Init(&registry.Genesis{
		Format: registry.GenesisFormat, Instance: "T", ChainID: "test", Time: start, Registrars: []string{"T/GOV/REG"}, Protocol: 2,
		Members: []registry.GenesisMember{
			{ID: "T/GOV/REG", Name: "Register", Keys: []registry.GenesisKey{key("admin", admin), key("validator", validator), key("seal", w.foreign)}},
			{ID: "T/MUN/TOWN", Name: "Town", Keys: []registry.GenesisKey{key("admin", newSigner(t, "town/admin")), key("seal", w.seal)}},
		},
		Validators: []registry.GenesisValidator{{Member: "T/GOV/REG", Key: key("", validator).SPKI, Power: 1}},
	}); err != nil {
		t.Fatal(err)
	}
	var batch [][]byte
	for i, tx := range []*registrypb.Tx{
		{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: civil.String(), Name: "Civil register"}}},
		{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: "T/GOV/REG/civil/births", Type: 1}}},
		{Body: &registrypb.Tx_SetEvidenceType{SetEvidenceType: &registrypb.SetEvidenceType{Id: birth, Title: "Birth certificate", Law: "Civil Status Act, § 9", Requirements: []string{born}, Status: 1}}},
		{Body: &registrypb.Tx_SetEvidenceType{SetEvidenceType: &registrypb.SetEvidenceType{Id: birth + "-old", Title: "Old", Law: "Act", Requirements: []string{born}, Status: 1}}},
		{Body: &registrypb.Tx_SetEvidenceType{SetEvidenceType: &registrypb.SetEvidenceType{Id: birth + "-old", Title: "Old", Law: "Act", Requirements: []string{born}, Status: 2, Notice: "Moved"}}},
	} {
		tx.ChainId, tx.Sequence = "test", uint64(i+1)
		e, err := registry.SignTx(context.Background(), admin, tx)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, e)
	}
	block, err := m.Execute(m.Height()+1, start, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range block.Results {
		if r.Code != registry.OK {
			t.Fatal(r.Code, r.Reason)
		}
	}
	if err := m.Commit(); err != nil {
		t.Fatal(err)
	}
	w.view = m.View()
	w.service = func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/pdf")
		_, _ = rw.Write([]byte("certificate"))
	}
	w.open()
	t.Cleanup(func() { _, _ = w.town.Close(), w.reg.Close() })
	return w
}

// open opens both runtimes, as after a start.
func (w *world) open() {
	w.t.Helper()
	config := func(i int, member civibus.MemberID, seal *signer) *once.Runtime {
		r, err := once.Open(once.Config{
			Dir: w.dirs[i], Member: member, View: func() *registry.View { return w.view }, Clock: func() time.Time { return w.now },
			Signer: func() (civibus.Signer, error) { return seal, nil }, Logger: slog.New(slog.DiscardHandler), Call: w.call, Fetch: w.fetch, Note: w.note,
		})
		if err != nil {
			w.t.Fatal(err)
		}
		return r
	}
	w.town, w.reg = config(0, town, w.seal), config(1, civil.MemberID, w.foreign)
}

func (w *world) restart() {
	w.t.Helper()
	if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// post sends something to the register's service "once" as some client.
func (w *world) post(from civibus.ClientID, path string, body []byte) (int, []byte) {
	req := httptest.NewRequest("POST", path, bytes.NewReader(body))
	req.Header.Set(civibus.HeaderClient, from.String())
	rec := httptest.NewRecorder()
	w.reg.Inbox(civil).ServeHTTP(rec, req)
	return rec.Code, rec.Body.Bytes()
}

func (w *world) call(_ context.Context, from civibus.ClientID, to civibus.ServiceID, path string, body []byte) ([]byte, error) {
	if to.String() != "T/GOV/REG/civil/once" {
		w.t.Errorf("called %s", to)
	}
	if w.down {
		return nil, errors.New("network error")
	}
	status, answer := w.post(from, path, body)
	if w.lost > 0 {
		w.lost--
		return nil, errors.New("the answer was lost")
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", status, answer)
	}
	return answer, nil
}

func (w *world) fetch(_ context.Context, from civibus.ServiceID, path, client string, request []byte) (*once.Fetched, error) {
	if from.String() != "T/GOV/REG/civil/births" || path != "/birth" || client != desk.String() || !bytes.Contains(request, []byte(`"subject":{"number":"FIC-1"}`)) {
		w.t.Errorf("fetched %s%s for %s: %s", from, path, client, request)
	}
	w.fetched++
	rec := httptest.NewRecorder()
	w.service(rec, httptest.NewRequest("POST", path, bytes.NewReader(request)))
	return &once.Fetched{Status: rec.Code, MediaType: rec.Header().Get("Content-Type"), Content: rec.Body.Bytes(), RetryAfter: 2 * time.Minute}, nil
}

func wanted() *once.Wanted {
	return &once.Wanted{Type: birth, Requirement: born, Subject: json.RawMessage(`{"number":"FIC-1"}`), AskedBy: once.Person, AskedAt: start, Case: "case 7"}
}

func (w *world) ask(want once.State) string {
	w.t.Helper()
	s, err := w.town.Ask(w.t.Context(), desk, wanted())
	if err != nil || s.State != want {
		w.t.Fatalf("%+v, %v; want %s", s, err, want)
	}
	return s.ID
}

func (w *world) decide(id string, d, want once.State) *once.Status {
	w.t.Helper()
	s, err := w.town.Decide(w.t.Context(), desk, id, d, once.Person)
	if err != nil || s.State != want {
		w.t.Fatalf("%+v, %v; want %s", s, err, want)
	}
	return s
}

func refused(t testing.TB, err error, code string) {
	t.Helper()
	var r *once.Refused
	if !errors.As(err, &r) || r.Code != code {
		t.Errorf("%v, want the refusal %s", err, code)
	}
}

// TestOnce: requested explicitly, previewed, approved, delivered; the same evidence, and
// nothing to use before.
func TestOnce(t *testing.T) {
	w := newWorld(t)
	id := w.ask(once.Previewed)
	kind, content, _, err := w.town.Content(desk, id, true)
	if err != nil || kind != "application/pdf" || string(content) != "certificate" {
		t.Fatalf("preview %s %q, %v", kind, content, err)
	}
	_, _, _, err = w.town.Content(desk, id, false)
	refused(t, err, "wrong_state")
	_, _, _, err = w.town.Content(other, id, true)
	refused(t, err, "unknown_request")
	// The service has something else meanwhile: what was shown counts.
	w.service = func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("another")) }
	w.restart()
	s := w.decide(id, once.Approved, once.Delivered)
	kind, content, token, err := w.town.Content(desk, id, false)
	if err != nil || kind != "application/pdf" || string(content) != "certificate" || token == "" || token != s.Token || w.fetched != 1 {
		t.Fatalf("evidence %s %q, %v, fetched %d times", kind, content, err, w.fetched)
	}
	d, err := once.Verify(w.view, token)
	if err != nil || d.ID != id || d.Decision != once.Approved || d.Evidence != once.EvidenceDigest("application/pdf", []byte("certificate")) || d.Client != desk.String() || d.DecidedBy != once.Person || !d.Time.Equal(start) {
		t.Errorf("%+v, %v", d, err)
	}
	w.decide(id, once.Approved, once.Delivered) // again is the same
	_, err = w.town.Decide(t.Context(), desk, id, once.Declined, once.Person)
	refused(t, err, "decided")
}

// TestDeclined: what she declines is deleted on both sides, and can be had no more.
func TestDeclined(t *testing.T) {
	w := newWorld(t)
	id := w.ask(once.Previewed)
	s := w.decide(id, once.Declined, once.Declined)
	for _, preview := range []bool{true, false} {
		_, _, _, err := w.town.Content(desk, id, preview)
		refused(t, err, "wrong_state")
	}
	status, body := w.post(desk, "/decision", []byte(s.Token))
	if status != http.StatusOK || bytes.Contains(body, []byte("content")) {
		t.Errorf("the token again: %d %s", status, body)
	}
	_, err := w.town.Decide(t.Context(), desk, id, once.Approved, once.Person)
	refused(t, err, "decided")
}

// TestNotAvailableAndLater: the provider has none; or not yet, and then it has.
func TestNotAvailableAndLater(t *testing.T) {
	w := newWorld(t)
	good := w.service
	w.service = func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotFound) }
	id := w.ask(once.NotAvailable)
	_, err := w.town.Preview(t.Context(), desk, id)
	refused(t, err, "wrong_state")
	w.service = func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusAccepted) }
	id = w.ask(once.Later)
	s, err := w.town.Find(desk, id)
	if err != nil || s.RetryAt == nil || !s.RetryAt.Equal(start.Add(2*time.Minute)) {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = w.town.Decide(t.Context(), desk, id, once.Approved, once.Person)
	refused(t, err, "wrong_state")
	w.service = good
	if s, err = w.town.Preview(t.Context(), desk, id); err != nil || s.State != once.Previewed || s.RetryAt != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestOutage: what the other body cannot be told stays and is told later; a lost answer
// gives the same evidence again, and nothing is used twice.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	w.down = true
	id := w.ask(once.Requested)
	w.restart()
	w.down = false
	if s, err := w.town.Preview(t.Context(), desk, id); err != nil || s.State != once.Previewed {
		t.Fatalf("%+v, %v", s, err)
	}
	w.down = true
	first := w.decide(id, once.Approved, once.Approved)
	w.restart()
	w.down, w.lost = false, 1
	w.decide(id, once.Approved, once.Approved)
	w.restart()
	w.now = w.now.Add(time.Hour)
	second := w.decide(id, once.Approved, once.Delivered)
	if first.Token != second.Token || w.fetched != 1 {
		t.Errorf("another token, or fetched %d times", w.fetched)
	}
}

// TestTokens: a token counts for its request, its evidence and its body, in its time and
// with a key in force.
func TestTokens(t *testing.T) {
	w := newWorld(t)
	id := w.ask(once.Previewed)
	text := must(json.Marshal(&once.Request{Format: once.RequestFormat, ID: strings.Repeat("ab", 16), Client: desk.String(), Type: birth, Requirement: born,
		Subject: json.RawMessage(`{"number":"FIC-1"}`), AskedBy: once.Person, AskedAt: start}))
	if status, body := w.post(desk, "/preview", text); status != http.StatusOK {
		t.Fatal(status, string(body))
	}
	good := once.Decision{ID: strings.Repeat("ab", 16), Request: once.RequestDigest(text), Evidence: once.EvidenceDigest("application/pdf", []byte("certificate")),
		Client: desk.String(), Type: birth, Decision: once.Approved, DecidedBy: once.Person, Time: start}
	sign := func(s *signer, change func(*once.Decision)) string {
		d := good
		change(&d)
		return must(once.Sign(t.Context(), s, d))
	}
	token := sign(w.seal, func(*once.Decision) {})
	head, tail, _ := strings.Cut(token, ".")
	flipped := []byte(tail)
	flipped[10] ^= 1
	for name, c := range map[string]struct {
		from  civibus.ClientID
		token string
		code  string
	}{
		"nothing":           {desk, "", "bad_token"},
		"no signature":      {desk, head, "bad_token"},
		"another signature": {desk, head + "." + string(flipped), "bad_signature"},
		"padded":            {desk, head + "=." + tail, "bad_token"},
		"line break":        {desk, head + "\n." + tail, "bad_token"},
		"another payload":   {desk, base64.RawURLEncoding.EncodeToString([]byte(`{"format":"x"}`)) + "." + tail, "bad_token"},
		"another's key":     {desk, sign(w.foreign, func(*once.Decision) {}), "bad_signer"},
		"no registered key": {desk, sign(newSigner(t, "x"), func(*once.Decision) {}), "bad_signer"},
		"another client":    {other, token, "bad_client"},
		"another evidence":  {desk, sign(w.seal, func(d *once.Decision) { d.Evidence[0]++ }), "other_evidence"},
		"another request":   {desk, sign(w.seal, func(d *once.Decision) { d.ID = id }), "other_request"},
		"another digest":    {desk, sign(w.seal, func(d *once.Decision) { d.Request[0]++ }), "other_request"},
		"unknown request":   {desk, sign(w.seal, func(d *once.Decision) { d.ID = strings.Repeat("00", 16) }), "unknown_request"},
		"no decision":       {desk, sign(w.seal, func(d *once.Decision) { d.Decision = once.Delivered }), "bad_token"},
		"decided by nobody": {desk, sign(w.seal, func(d *once.Decision) { d.DecidedBy = "system" }), "bad_token"},
		"before it was":     {desk, sign(w.seal, func(d *once.Decision) { d.Time = start.Add(-time.Hour) }), "bad_time"},
		"in the future":     {desk, sign(w.seal, func(d *once.Decision) { d.Time = start.Add(time.Hour) }), "bad_time"},
	} {
		status, body := w.post(c.from, "/decision", []byte(c.token))
		if status < 400 || !strings.Contains(string(body), `"error":"`+c.code+`"`) {
			t.Errorf("%s: %d %s, want %s", name, status, body, c.code)
		}
	}
	if status, body := w.post(desk, "/decision", []byte(token)); status != http.StatusOK || !bytes.Contains(body, []byte(`"state":"delivered"`)) {
		t.Fatalf("the token itself: %d %s", status, body)
	}
	for name, second := range map[string]string{
		"another time": sign(w.seal, func(d *once.Decision) { d.Time = start.Add(time.Second) }),
		"declined":     sign(w.seal, func(d *once.Decision) { d.Decision = once.Declined }),
	} {
		if status, body := w.post(desk, "/decision", []byte(second)); status != http.StatusConflict || !bytes.Contains(body, []byte(`"decided"`)) {
			t.Errorf("a second token, %s: %d %s", name, status, body)
		}
	}
	if status, body := w.post(desk, "/preview", text); status != http.StatusConflict {
		t.Errorf("the request again after the decision: %d %s", status, body)
	}
}

// TestBadRequests: what is not explicit, not in the catalogue or malformed is refused, by
// the asking body's part before anything is sent and by the providing one's again.
func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	for code, change := range map[string]func(*once.Wanted){
		"not_explicit":        func(q *once.Wanted) { q.AskedBy = "" },
		"unknown_type":        func(q *once.Wanted) { q.Type += "x" },
		"unknown_requirement": func(q *once.Wanted) { q.Requirement += "x" },
		"suspended":           func(q *once.Wanted) { q.Type += "-old" },
		"bad_request":         func(q *once.Wanted) { q.Subject = nil },
		"too_large":           func(q *once.Wanted) { q.Subject = json.RawMessage(`"` + strings.Repeat("x", 70000) + `"`) },
	} {
		q := wanted()
		change(q)
		_, err := w.town.Ask(t.Context(), desk, q)
		refused(t, err, code)
	}
	for _, at := range []time.Time{{}, start.Add(time.Hour), start.Add(-25 * time.Hour)} {
		q := wanted()
		q.AskedAt = at
		_, err := w.town.Ask(t.Context(), desk, q)
		refused(t, err, "not_explicit")
	}
	good := func() *once.Request {
		return &once.Request{Format: once.RequestFormat, ID: strings.Repeat("ab", 16), Client: desk.String(), Type: birth, Requirement: born,
			Subject: json.RawMessage(`{"number":"FIC-1"}`), AskedBy: once.Person, AskedAt: start}
	}
	for name, change := range map[string]func(*once.Request){
		"format": func(q *once.Request) { q.Format = "x" }, "id": func(q *once.Request) { q.ID = "../x" },
		"client": func(q *once.Request) { q.Client = other.String() }, "asked by": func(q *once.Request) { q.AskedBy = "system" },
	} {
		q := good()
		change(q)
		if status, body := w.post(desk, "/preview", must(json.Marshal(q))); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _ := w.post(desk, "/preview", []byte(`{}x`)); status != http.StatusBadRequest || w.fetched != 0 {
		t.Errorf("%d, fetched %d times", status, w.fetched)
	}
	// Another request with an id that is there.
	if status, body := w.post(desk, "/preview", must(json.Marshal(good()))); status != http.StatusOK {
		t.Fatal(status, string(body))
	}
	q := good()
	q.Case = "another"
	if status, body := w.post(desk, "/preview", must(json.Marshal(q))); status != http.StatusConflict {
		t.Errorf("another request with the id: %d %s", status, body)
	}
}

// TestLapse: what nobody decides in time is deleted on both sides, evidence and subject.
func TestLapse(t *testing.T) {
	w := newWorld(t)
	id := w.ask(once.Previewed)
	w.now = w.now.Add(25 * time.Hour)
	_, err := w.town.Decide(t.Context(), desk, id, once.Approved, once.Person)
	refused(t, err, "expired")
	w.restart() // which sweeps
	if s, err := w.town.Find(desk, id); err != nil || s.State != once.Expired {
		t.Errorf("%+v, %v", s, err)
	}
	_, _, _, err = w.town.Content(desk, id, true)
	refused(t, err, "wrong_state")
	w.now = w.now.Add(500 * 24 * time.Hour)
	if err := w.town.Sweep(); err != nil {
		t.Fatal(err)
	}
	_, err = w.town.Find(desk, id)
	refused(t, err, "unknown_request")
}

// TestAPI: the interface for the body's systems, over HTTP.
func TestAPI(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w.town.API())
	defer srv.Close()
	do := func(method, path, client, body string) (int, http.Header, string) {
		req := must(http.NewRequestWithContext(t.Context(), method, srv.URL+once.APIPath+path, strings.NewReader(body)))
		req.Header.Set(civibus.HeaderClient, client)
		resp := must(srv.Client().Do(req))
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header, string(must(io.ReadAll(resp.Body)))
	}
	if status, _, body := do("GET", "types?requirement="+born, desk.String(), ""); status != 200 || !strings.Contains(body, `"id":"`+birth+`"`) || !strings.Contains(body, "Civil Status Act") {
		t.Errorf("types: %d %s", status, body)
	}
	if status, _, body := do("GET", "types?requirement=x:y", desk.String(), ""); status != 200 || !strings.Contains(body, `"types":[]`) {
		t.Errorf("no types: %d %s", status, body)
	}
	if status, _, _ := do("GET", "types", civil.String(), ""); status != http.StatusBadRequest {
		t.Errorf("another body's client: %d", status)
	}
	status, _, body := do("POST", "requests", desk.String(), string(must(json.Marshal(wanted()))))
	var s once.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || status != http.StatusCreated || s.State != once.Previewed {
		t.Fatalf("%d %s, %v", status, body, err)
	}
	at := "requests/" + s.ID
	if status, h, body := do("GET", at+"/preview", desk.String(), ""); status != 200 || body != "certificate" || h.Get(once.StateField) != "previewed" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("preview: %d %v %s", status, h, body)
	}
	if status, _, body := do("GET", at+"/evidence", desk.String(), ""); status != http.StatusConflict || !strings.Contains(body, "wrong_state") {
		t.Errorf("evidence before the decision: %d %s", status, body)
	}
	if status, _, body := do("POST", at+"/decision", desk.String(), `{"decision":"maybe","decided_by":"person"}`); status != http.StatusBadRequest {
		t.Errorf("maybe: %d %s", status, body)
	}
	if status, _, body := do("POST", at+"/decision", desk.String(), `{"decision":"approved","decided_by":"person"}`); status != 200 || !strings.Contains(body, `"delivered"`) {
		t.Errorf("decision: %d %s", status, body)
	}
	if status, h, body := do("GET", at+"/evidence", desk.String(), ""); status != 200 || body != "certificate" || h.Get(once.StateField) != "delivered" || h.Get(once.TokenField) == "" || h.Get("Content-Type") != "application/pdf" {
		t.Errorf("evidence: %d %v %s", status, h, body)
	}
	if status, _, _ := do("GET", at, other.String(), ""); status != http.StatusNotFound {
		t.Errorf("another client's request: %d", status)
	}
}

// FuzzVerify: no token that the key did not sign is taken.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	token := must(once.Sign(context.Background(), w.seal, once.Decision{ID: strings.Repeat("ab", 16), Client: desk.String(), Type: birth, Decision: once.Approved, DecidedBy: once.Person, Time: start}))
	f.Add(token)
	f.Add("e30.e30")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := once.Verify(w.view, s); err == nil && s != token {
			t.Errorf("taken: %q", s)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
