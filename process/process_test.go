package process_test

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
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// The database ends this goroutine within a second of its close.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// signer is a key of a body.
type signer struct{ key ed25519.PrivateKey }

func newSigner(name string) *signer {
	seed := sha256.Sum256([]byte(name))
	return &signer{ed25519.NewKeyFromSeed(seed[:])}
}

func (s *signer) Key() civibus.PublicKey { return must(civibus.NewPublicKey(s.key.Public())) }

func (s *signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.key, message), nil
}

// world is a registry in which every transaction makes a block at once, and the bodies
// that act on it.
type world struct {
	t       *testing.T
	mu      sync.Mutex
	m       *registry.Machine
	now     time.Time
	seq     map[string]uint64
	changed chan struct{}
	bodies  map[string]*body // by member code
	cut     map[string]bool  // who cannot be called
	down    bool             // nothing can be submitted
	sent    [][]byte         // facts that were opened to somebody
}

// body is one of them: its runtime and its system.
type body struct {
	w      *world
	code   string
	sub    civibus.ClientID
	dir    string
	system *httptest.Server
	mu     sync.Mutex
	work   func(t process.Turn) (status int, answer string)
	asked  []process.Turn
	r      *process.Runtime
	stop   context.CancelFunc
	ended  chan error
	log    *bytes.Buffer
	logMu  sync.Mutex
	note   func(what, ground string) (uint64, error) // nil: as numbered by noted
	noted  []string
}

const processID = "TEST/GOV/A/case/1"

var subsystems = map[string]string{"office": "TEST/GOV/A/front", "register": "TEST/GOV/B/books"}

// caseDocument is a process of two bodies: the office notifies, the register decides by
// the sealed age whether it enters, the office pays.
func caseDocument() []byte {
	hour := definition.Duration(time.Hour)
	d := &definition.Definition{
		Format: definition.Format, ID: "case", Version: 1, Title: "A case", Law: definition.Law{Act: "Act"},
		Roles: []definition.Role{{ID: "office", Title: "Office"}, {ID: "register", Title: "Register"}},
		Facts: []definition.Fact{
			{ID: "urgent", Title: "Urgent", Type: definition.Bool, Public: true},
			{ID: "age", Title: "Age", Type: definition.Int},
			{ID: "born", Title: "Born", Type: definition.Date},
			{ID: "number", Title: "Number", Type: definition.Hash},
		},
		Steps: []definition.Step{
			{ID: "notify", Title: "Notify", From: "office", To: "register", Kind: definition.ServiceStep, Service: "notify", Yields: []string{"urgent", "age", "born"}, Deadline: hour, Undo: "withdraw"},
			{ID: "enter", Title: "Enter", From: "register", To: "office", Kind: definition.ServiceStep, Service: "enter", Needs: &definition.Needs{All: []string{"notify"}}, When: "age > 3", Uses: []string{"born"}, Yields: []string{"number"}, Deadline: hour, Retries: 1, Undo: "delete"},
			{ID: "pay", Title: "Pay", From: "office", Kind: definition.ServiceStep, Service: "pay", Needs: &definition.Needs{All: []string{"enter"}}, Uses: []string{"number"}, Deadline: hour, OnTimeout: definition.Cancel, Final: true},
		},
		Ends: []definition.End{{ID: "closed", Title: "Closed"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
	}
	return must(d.Encode())
}

func newWorld(t *testing.T) *world {
	g := &registry.Genesis{Format: registry.GenesisFormat, Instance: "TEST", ChainID: "test-1", Time: time.Now().UTC().Truncate(time.Second), Protocol: registry.Protocol}
	for _, code := range []string{"A", "B"} {
		m := registry.GenesisMember{ID: "TEST/GOV/" + code, Name: code, Gateways: []registry.GenesisGateway{{Code: "gw", Address: "127.0.0.1:4000"}}}
		for _, p := range []civibus.Purpose{civibus.AdminKey, civibus.LogKey, civibus.SealKey, civibus.ValidatorKey} {
			m.Keys = append(m.Keys, registry.GenesisKey{Purpose: p.String(), SPKI: base64.StdEncoding.EncodeToString(newSigner(code + p.String()).Key().SPKI)})
		}
		g.Members = append(g.Members, m)
		g.Validators = append(g.Validators, registry.GenesisValidator{Member: m.ID, Key: m.Keys[3].SPKI, Power: 10})
	}
	w := &world{t: t, m: must(registry.Open(registry.NewMemoryStore())), now: g.Time, seq: map[string]uint64{}, changed: make(chan struct{}), bodies: map[string]*body{}, cut: map[string]bool{}}
	if _, err := w.m.Init(g); err != nil {
		t.Fatal(err)
	}
	for _, tx := range []struct {
		by string
		tx *registrypb.Tx
	}{
		{"A", &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: subsystems["office"], Name: "Front"}}}},
		{"B", &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: subsystems["register"], Name: "Books"}}}},
		{"A", &registrypb.Tx{Body: &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: "TEST/GOV/A", Definition: caseDocument()}}}},
		{"A", &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: processID, Role: "office", Subsystem: subsystems["office"]}}}},
		{"B", &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: processID, Role: "register", Subsystem: subsystems["register"]}}}},
		{"A", &registrypb.Tx{Body: &registrypb.Tx_ApproveRole{ApproveRole: &registrypb.ApproveRole{Process: processID, Role: "register", Subsystem: subsystems["register"]}}}},
	} {
		if out, err := w.submit(tx.by, tx.tx); err != nil || out.Code != registry.OK {
			t.Fatalf("%v: %v %v", tx.tx, out, err)
		}
	}
	return w
}

// submit makes a block of one transaction.
func (w *world) submit(code string, tx *registrypb.Tx) (process.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return process.Outcome{}, errors.New("the ledger stands still")
	}
	name := code + registry.PurposeOf(tx).String()
	w.seq[name]++
	tx.ChainId, tx.Sequence, tx.KeyId = "test-1", w.seq[name], nil
	envelope := must(registry.SignTx(w.t.Context(), newSigner(name), tx))
	w.now = w.now.Add(time.Millisecond)
	b := must(w.m.Execute(w.m.Height()+1, w.now, [][]byte{envelope}, nil))
	if err := w.m.Commit(); err != nil {
		return process.Outcome{}, err
	}
	if b.Results[0].Code != registry.OK {
		w.seq[name]--
	}
	close(w.changed)
	w.changed = make(chan struct{})
	return process.Outcome{Code: b.Results[0].Code, Reason: b.Results[0].Reason, TxHash: b.Results[0].TxHash, Height: w.m.Height()}, nil
}

func (w *world) changes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// later moves the clock of all.
func (w *world) later(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// call is an exchange between two bodies.
func (w *world) call(_ context.Context, from civibus.ClientID, to civibus.ServiceID, path string, text []byte) (int, []byte, error) {
	w.mu.Lock()
	cut, b := w.cut[to.Code], w.bodies[to.Code]
	w.sent = append(w.sent, slices.Clone(text))
	w.mu.Unlock()
	if cut || b == nil || to.Service != process.ServiceCode {
		return 0, nil, errors.New("not reached")
	}
	req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(text))
	req.Header.Set(civibus.HeaderClient, from.String())
	rec := httptest.NewRecorder()
	b.r.Inbox().ServeHTTP(rec, req)
	return rec.Code, rec.Body.Bytes(), nil
}

// Write takes the log.
func (b *body) Write(p []byte) (int, error) {
	b.logMu.Lock()
	defer b.logMu.Unlock()
	return b.log.Write(p)
}

// join makes a body with a system that works as it is told.
func (w *world) join(code, role string, work func(t process.Turn) (int, string)) *body {
	b := &body{w: w, code: code, sub: must(civibus.ParseClientID(subsystems[role])), dir: w.t.TempDir(), work: work, log: new(bytes.Buffer)}
	b.system = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var e struct {
			Type, Source, ID string
			Data             process.Turn
		}
		text, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(text, &e); err != nil || r.Header.Get("X-Signed") != fmt.Sprintf("%x", sha256.Sum256(text)) {
			w.t.Errorf("the system of %s got %s", code, text)
		}
		b.mu.Lock()
		b.asked = append(b.asked, e.Data)
		work := b.work
		b.mu.Unlock()
		status, answer := work(e.Data)
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, answer)
	}))
	w.t.Cleanup(b.system.Close)
	w.mu.Lock()
	w.bodies[code] = b
	w.mu.Unlock()
	b.start()
	w.t.Cleanup(b.close)
	return b
}

func (b *body) start() {
	b.open()
	ctx, stop := context.WithCancel(context.Background())
	b.stop, b.ended = stop, make(chan error, 1)
	go func() { b.ended <- b.r.Run(ctx) }()
}

func (b *body) open() {
	transport := &http.Transport{DisableKeepAlives: true}
	b.r = must(process.Open(process.Config{
		Dir: b.dir, Member: b.sub.MemberID, Parts: []process.Part{{Subsystem: b.sub, System: b.system.URL}},
		View: b.w.m.View, Changed: b.w.changes,
		Submit: func(_ context.Context, tx *registrypb.Tx) (process.Outcome, error) { return b.w.submit(b.code, tx) },
		Call:   b.w.call, HTTP: &http.Client{Transport: transport}, Clock: b.w.clock, Logger: slog.New(slog.NewTextHandler(b, nil)), Note: b.keepNote,
		Sign: func(_ context.Context, r *http.Request, text []byte) error {
			r.Header.Set("X-Signed", fmt.Sprintf("%x", sha256.Sum256(text)))
			return nil
		},
	}))
}

// close stops the body's runtime.
func (b *body) close() {
	if b.stop == nil {
		return
	}
	b.stop()
	if err := errors.Join(<-b.ended, b.r.Close()); err != nil {
		b.w.t.Error(err)
	}
	b.stop = nil
}

func (b *body) told(work func(t process.Turn) (int, string)) {
	b.mu.Lock()
	b.work = work
	b.mu.Unlock()
}

func (b *body) turns() []process.Turn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

func officeWork(t process.Turn) (int, string) {
	if t.Step == "notify" && !t.Undo {
		return 200, `{"outcome":"done","facts":{"urgent":true,"age":7,"born":"2019-02-03"}}`
	}
	return 200, `{"outcome":"done"}`
}

func registerWork(t process.Turn) (int, string) {
	if t.Undo {
		return 200, `{"outcome":"done"}`
	}
	return 200, fmt.Sprintf(`{"outcome":"done","facts":{"number":"%x"}}`, sha256.Sum256([]byte(t.Instance)))
}

// begin starts a case at the office.
func (b *body) begin() string {
	b.w.t.Helper()
	return must(b.r.Start(b.w.t.Context(), b.sub, &process.Beginning{Process: processID, Parts: subsystems}))
}

// await waits until the body sees an instance as it should be.
func (b *body) await(id string, done func(*process.InstanceStatus) bool) *process.InstanceStatus {
	b.w.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(30 * time.Second)
	for {
		s, err := b.r.Status(b.sub, id)
		if err == nil && done(s) {
			return s
		}
		select {
		case <-ticker.C:
		case <-timeout:
			text, _ := json.MarshalIndent(s, "", " ")
			b.w.t.Fatalf("instance %s: %v\n%s\n%s", id, err, text, b.log)
		}
	}
}

func ended(s *process.InstanceStatus) bool { return s.Phase == "ended" }

func fact(s *process.InstanceStatus, id string) process.FactStatus {
	for _, f := range s.Facts {
		if f.Fact == id {
			return f
		}
	}
	return process.FactStatus{}
}

// TestProcess: two bodies bring a case to its end, each with its own system; each is
// shown the facts that concern it, and no others.
func TestProcess(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", registerWork)
	id := a.begin()
	s := b.await(id, ended)
	if s.End != "closed" || fact(s, "urgent").Value != true || fact(s, "age").Value != int64(7) || fact(s, "born").Value != "2019-02-03" {
		t.Errorf("%+v", s)
	}
	turns := b.turns()
	if len(turns) != 1 || turns[0].Service != "enter" || turns[0].Facts["born"] != "2019-02-03" || turns[0].Facts["age"] != 7.0 || turns[0].Instance != id {
		t.Errorf("the register was asked %+v", turns)
	}
	last := a.turns()[1]
	if last.Step != "pay" || last.Facts["number"] != fmt.Sprintf("%x", sha256.Sum256([]byte(id))) || last.Facts["age"] != nil {
		t.Errorf("the office was asked %+v", last)
	}
	// Neither the ledger nor a log has a fact about a person.
	view := w.m.View()
	for i := range view.EventSize() {
		if e := must(view.Event(i)); bytes.Contains(e, []byte("2019-02-03")) || bytes.Contains(e, []byte("age=7")) {
			t.Errorf("event %d holds a sealed fact", i)
		}
	}
	for _, x := range []*body{a, b} {
		x.close()
		if strings.Contains(x.log.String(), "2019-02-03") {
			t.Errorf("a log holds a sealed fact:\n%s", x.log)
		}
	}
}

// TestSealedGuard: the body that has the facts decides that its step is not to be done.
func TestSealedGuard(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", func(t process.Turn) (int, string) {
		return 200, `{"outcome":"done","facts":{"urgent":false,"age":2,"born":"2024-02-03"}}`
	})
	b := w.join("B", "register", registerWork)
	s := a.await(a.begin(), ended)
	if s.End != "closed" || len(b.turns()) != 0 {
		t.Errorf("%+v, the register was asked %+v", s, b.turns())
	}
}

// TestSystems: whatever a system answers, nothing is kept that does not fit its turn,
// it is asked again, and other instances go on meanwhile.
func TestSystems(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	answers := []string{"", "{}", "null", `{"outcome":"won"}`, `{"outcome":"skipped"}x`, `{"outcome":"done"}`, `{"outcome":"done","facts":{"number":7}}`,
		`{"outcome":"done","facts":{"number":"zz"}}`, `{"outcome":"done","facts":{"number":"` + strings.Repeat("00", 32) + `","more":1}}`, `{"outcome":"failed","facts":{"number":"x"}}`, strings.Repeat(" ", 300<<10)}
	poisoned := ""
	var mu sync.Mutex
	tried := 0
	b := w.join("B", "register", func(t process.Turn) (int, string) {
		mu.Lock()
		defer mu.Unlock()
		if t.Instance != poisoned {
			return registerWork(t)
		}
		tried++
		if tried <= len(answers) {
			return 200, answers[tried-1]
		}
		if tried == len(answers)+1 {
			return 500, ""
		}
		return registerWork(t)
	})
	mu.Lock()
	poisoned = a.begin()
	mu.Unlock()
	for range 5 {
		if s := a.await(a.begin(), ended); s.End != "closed" {
			t.Errorf("%+v", s)
		}
	}
	// Its clock goes on until it has been asked often enough.
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.await(poisoned, ended)
	}()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-done:
			open = false
		case <-ticker.C:
			if -time.Since(w.clock()) < 50*time.Minute {
				w.later(5 * time.Second)
			}
		}
	}
	if s := b.await(poisoned, ended); s.End != "closed" {
		t.Errorf("%+v", s)
	}
}

// TestReports: a system that reports by itself may do so twice, and not otherwise the
// second time; nobody else can.
func TestReports(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", func(process.Turn) (int, string) { return 202, "" })
	id := a.begin()
	a.await(id, func(s *process.InstanceStatus) bool { return s.Steps[1].Status == "open" })
	api := httptest.NewServer(b.r.API())
	defer api.Close()
	ask := func(method, path, client, text string) (int, string) {
		req := must(http.NewRequestWithContext(t.Context(), method, api.URL+process.APIPath+path, strings.NewReader(text)))
		req.Header.Set(civibus.HeaderClient, client)
		resp := must((&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req))
		defer resp.Body.Close()
		return resp.StatusCode, string(must(io.ReadAll(resp.Body)))
	}
	register, path := subsystems["register"], "instances/"+id+"/steps/enter/1"
	report := fmt.Sprintf(`{"outcome":"done","facts":{"number":"%x"}}`, sha256.Sum256([]byte("n")))
	// The fact that decides has come, or it will have.
	b.await(id, func(s *process.InstanceStatus) bool {
		return fact(s, "age").Value != nil && fact(s, "born").Value != nil
	})
	for _, c := range []struct {
		method, path, client, text string
		status                     int
		want                       string
	}{
		{"GET", "turns", register, "", 200, `"step":"enter"`},
		{"GET", "turns", subsystems["office"], "", 403, "no_part"},
		{"GET", "turns", "", "", 403, "no_part"},
		{"GET", "instances", register, "", 200, id},
		{"GET", "instances/" + id, register, "", 200, `"status":"open"`},
		{"GET", "instances/00", register, "", 404, "not_found"},
		{"POST", path, register, "{", 400, "bad_json"},
		{"POST", path, register, `{"outcome":"done","what":1}`, 400, "unknown field"},
		{"POST", path, register, `{"outcome":"done"}`, 400, "fact number is missing"},
		{"POST", "instances/" + id + "/steps/enter/x", register, report, 400, "bad_attempt"},
		{"POST", "instances/" + id + "/steps/enter/2", register, report, 409, "not_your_turn"},
		{"POST", "instances/" + id + "/steps/notify/1", register, `{"outcome":"done"}`, 409, "not_your_turn"},
		{"POST", path, register, report, 200, `"posted":true`},
		{"POST", path, register, report, 200, `"posted":true`},
		{"POST", path, register, strings.Replace(report, "done", "failed", 1), 409, "not_your_turn"},
		{"POST", path, register, `{"outcome":"done","facts":{"number":"` + strings.Repeat("00", 32) + `"}}`, 409, "not_your_turn"},
		{"POST", "instances", register, `{"process":"x","parts":{}}`, 400, "CLASS/MEMBER/ID/VERSION"},
		{"POST", "instances", register, `{"process":"TEST/GOV/A/case/2","parts":{}}`, 404, "not_found"},
		{"POST", "instances", register, `{"process":"` + processID + `","parts":{}}`, 400, "one subsystem for each"},
		{"POST", "instances", register, `{"process":"` + processID + `","parts":{"office":"TEST/GOV/A/front","register":"TEST/GOV/B/books"}}`, 409, "not_authorised"},
	} {
		if status, text := ask(c.method, c.path, c.client, c.text); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s as %q with %s: %d %s", c.method, c.path, c.client, c.text, status, text)
		}
	}
	if s := a.await(id, ended); s.End != "closed" {
		t.Errorf("%+v", s)
	}
}

// TestOutages: what a system said is not lost when the ledger stands still, the other
// body is not reached, or the node dies: the event is posted as it was, and the facts
// come later.
func TestOutages(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", registerWork)
	w.mu.Lock()
	w.cut["B"] = true
	w.mu.Unlock()
	id := a.begin()
	a.await(id, func(s *process.InstanceStatus) bool { return s.Steps[0].Status == "done" })
	// The register waits for the facts.
	if turns := must(b.r.Turns(b.sub)); len(turns) != 1 || !slices.Equal(turns[0].Missing, []string{"age", "born"}) {
		t.Errorf("%+v", turns)
	}
	// Its ledger stands still while its system answers; then the node dies.
	answered := make(chan struct{})
	var once sync.Once
	b.told(func(t process.Turn) (int, string) {
		defer once.Do(func() { close(answered) })
		w.mu.Lock()
		w.down = true
		w.mu.Unlock()
		return registerWork(t)
	})
	w.mu.Lock()
	w.cut["B"] = false
	w.mu.Unlock()
	// The facts are sent again after a while.
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-answered:
			open = false
		case <-ticker.C:
			w.later(time.Second)
		}
	}
	waitFor(t, func() bool { return len(must(b.r.Turns(b.sub))) == 1 && must(b.r.Turns(b.sub))[0].Waiting })
	b.close()
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
	b.told(func(turn process.Turn) (int, string) {
		t.Errorf("the system is asked again: %+v", turn)
		return 500, ""
	})
	b.start()
	if s := a.await(id, ended); s.End != "closed" || fact(s, "number").Sealed {
		t.Errorf("%+v", s)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(30 * time.Second); !done(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatal("it does not come about")
		}
	}
}

// TestDeadlines: the others say that a body is late, and what was done is taken back.
func TestDeadlines(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", registerWork)
	a.told(func(t process.Turn) (int, string) {
		if t.Step == "pay" {
			return 202, ""
		}
		return officeWork(t)
	})
	id := a.begin()
	b.await(id, func(s *process.InstanceStatus) bool { return s.Steps[2].Status == "open" })
	w.later(2 * time.Hour)
	s := b.await(id, ended)
	if s.End != "cancelled" || s.Steps[0].Status != "reverted" || s.Steps[1].Status != "reverted" {
		t.Errorf("%+v", s)
	}
	var undone []string
	for _, turn := range append(a.turns(), b.turns()...) {
		if turn.Undo {
			undone = append(undone, turn.Service)
		}
	}
	if !slices.Contains(undone, "withdraw") || !slices.Contains(undone, "delete") {
		t.Errorf("taken back by %q", undone)
	}
}

// TestHostileFacts: a fact that the registry has no commitment to, or that is another
// body's, is not taken.
func TestHostileFacts(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", func(process.Turn) (int, string) { return 202, "" })
	id := a.begin()
	b.await(id, func(s *process.InstanceStatus) bool { return fact(s, "age").Value != nil })
	send := func(to *body, from, text string) (int, string) {
		req := httptest.NewRequest(http.MethodPost, "/facts", strings.NewReader(text))
		req.Header.Set(civibus.HeaderClient, from)
		rec := httptest.NewRecorder()
		to.r.Inbox().ServeHTTP(rec, req)
		return rec.Code, rec.Body.String()
	}
	salt := strings.Repeat("00", 32)
	held := func(instance, fact, text string) string {
		return fmt.Sprintf(`{"instance":%q,"fact":%q,"step":"notify","attempt":1,"text":%q,"salt":%q}`, instance, fact, text, salt)
	}
	office := subsystems["office"]
	for _, c := range []struct {
		to         *body
		from, text string
		status     int
		want       string
	}{
		{b, "", held(id, "age", "7"), 400, "bad_client"},
		{b, office, "{", 400, "bad_fact"},
		{b, office, `{"salt":"00"}`, 400, "bad_fact"},
		{b, office, strings.Repeat(" ", 300<<10), 413, "too_large"},
		{b, office, held(strings.Repeat("0", 32), "age", "7"), 503, "unknown_instance"},
		{b, office, held(id, "age", "7"), 409, "bad_commitment"},
		{b, office, held(id, "urgent", "true"), 409, "bad_commitment"},
		{b, subsystems["register"], held(id, "age", "7"), 409, "not_yours"},
		{b, office, held(id, "number", "7"), 503, "unknown_fact"},
		{a, office, held(id, "age", "7"), 409, "not_concerned"},
	} {
		if status, text := send(c.to, c.from, c.text); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("from %q %.120s: %d %s", c.from, c.text, status, text)
		}
	}
	if s, err := b.r.Status(b.sub, id); err != nil || fact(s, "age").Value != int64(7) {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestRulesOfSteps: a rule of the process's owner is asked before a body says that its
// step is done: with the facts that it has and those that it says. One that forbids it in any
// case keeps the turn from its system.
func TestRulesOfSteps(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", func(t process.Turn) (int, string) {
		if t.Undo {
			return registerWork(t)
		}
		return 202, ""
	})
	enact := func(number, step, applies, requires string, facts ...rule.Fact) {
		t.Helper()
		d := &rule.Document{
			Format: rule.Format, Number: number, Version: 1, Title: "Rule " + number, Text: "The law demands it.",
			Law: rule.Law{Act: "Act", Provision: "section " + number}, Scope: rule.Scope{Process: "TEST/GOV/A/case", Step: step}, Facts: facts,
			Applies: applies, Requires: requires, Remedy: "Ask the court.",
		}
		out, err := w.submit("A", &registrypb.Tx{Body: &registrypb.Tx_SetRule{SetRule: &registrypb.SetRule{Document: must(d.Encode())}}})
		if err != nil || out.Code != registry.OK {
			t.Fatalf("rule %s: %v %v", number, out, err)
		}
	}
	age, number := rule.Fact{ID: "age", Type: rule.Int}, rule.Fact{ID: "number", Type: rule.Hash}
	enact("7", "enter", "age >= 3", "size(number) == 32", age, number)
	enact("8", "enter", "", `member == "TEST/GOV/B"`)
	enact("9", "pay", "urgent", "age < 5", rule.Fact{ID: "urgent", Type: rule.Bool}, age)
	id := a.begin()
	b.await(id, func(s *process.InstanceStatus) bool {
		return fact(s, "age").Value != nil && fact(s, "born").Value != nil
	})
	number32 := fmt.Sprintf("%x", sha256.Sum256([]byte(id)))
	if err := b.r.Report(t.Context(), b.sub, id, "enter", 1, &process.Report{Outcome: "done", Facts: map[string]any{"number": number32}}); err != nil {
		t.Fatal(err)
	}
	// The office may not pay: the child is too old, whatever its system says.
	a.await(id, func(s *process.InstanceStatus) bool {
		return s.Steps[2].Status == "open" && fact(s, "number").Value != nil
	})
	err := a.r.Report(t.Context(), a.sub, id, "pay", 1, &process.Report{Outcome: "done"})
	var unlawful *process.RuleNotKept
	if !errors.As(err, &unlawful) || unlawful.Refusal.Number != "9" || !strings.Contains(err.Error(), "section 9") || !strings.Contains(err.Error(), "Ask the court.") {
		t.Fatalf("paying: %v", err)
	}
	turns := must(a.r.Turns(a.sub))
	if len(turns) != 1 || turns[0].Rule == nil || turns[0].Rule.Number != "9" || turns[0].Waiting {
		t.Errorf("%+v", turns)
	}
	for _, asked := range a.turns() {
		if asked.Step == "pay" {
			t.Error("the system was sent a turn that no rule allows")
		}
	}
	// It may say that it failed, and when it is late the others go on as the definition says.
	w.later(2 * time.Hour)
	if s := a.await(id, ended); s.End != "cancelled" {
		t.Errorf("%+v", s)
	}
}

// TestStoreIsPrivate: the facts are for the node's user alone.
func TestStoreIsPrivate(t *testing.T) {
	dir := t.TempDir() + "/process"
	r := must(process.Open(process.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}))
	defer r.Close()
	if info := must(os.Stat(dir)); info.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v", info.Mode())
	}
}
