package gateways

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
	civibusprocess "github.com/civibus/civibus/process"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry/registrypb"
)

// soak is four bodies, each a process of its own, that carry out a process together.
type soak struct {
	t       *testing.T
	net     *testnet.Network
	bodies  []*process
	desks   []civibus.ClientID
	process string
	mu      sync.Mutex
	asked   int  // turns that the systems were sent
	held    bool // the systems do nothing yet, so that all instances go on at once
}

var soakRoles = []string{"office", "register", "fund", "school"}

// soakDefinition has what definitions may have: a chain, a branch, guards over public and
// sealed facts, retries, and every outcome of a deadline.
func soakDefinition(within time.Duration) *definition.Definition {
	d := &definition.Definition{
		Format: definition.Format, ID: "soak", Version: 1, Title: "Soak", Law: definition.Law{Act: "Act"},
		Facts: []definition.Fact{
			{ID: "urgent", Title: "Urgent", Type: definition.Bool, Public: true},
			{ID: "age", Title: "Age", Type: definition.Int}, {ID: "number", Title: "Number", Type: definition.Int},
		},
		Ends: []definition.End{
			{ID: "closed", Title: "Closed", Needs: &definition.Needs{All: []string{"enter", "pay"}}},
			{ID: "partly", Title: "Partly"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true},
		},
	}
	for _, r := range soakRoles {
		d.Roles = append(d.Roles, definition.Role{ID: r, Title: r})
	}
	step := func(s definition.Step) {
		s.Title, s.Kind, s.Service, s.Deadline = s.ID, definition.ServiceStep, s.ID, definition.Duration(within)
		d.Steps = append(d.Steps, s)
	}
	after := func(steps ...string) *definition.Needs { return &definition.Needs{All: steps} }
	step(definition.Step{ID: "notify", From: "office", To: "register", Yields: []string{"urgent", "age"}, Undo: "withdraw", Retries: 3})
	step(definition.Step{ID: "enter", From: "register", To: "fund", Needs: after("notify"), Uses: []string{"age"}, Yields: []string{"number"}, Undo: "delete", Retries: 3, OnTimeout: definition.Cancel})
	step(definition.Step{ID: "pay", From: "fund", Needs: after("enter"), When: "age >= 3", Uses: []string{"number"}, Undo: "reclaim", Retries: 2, OnTimeout: definition.Cancel})
	step(definition.Step{ID: "enrol", From: "school", Needs: after("enter"), When: "urgent", Final: true, Retries: 2, OnTimeout: definition.Skip, OnFailure: definition.Skip})
	step(definition.Step{ID: "file", From: "office", Needs: &definition.Needs{Any: []string{"pay", "enrol"}}, Final: true, Retries: 2, OnTimeout: definition.Skip, OnFailure: definition.Skip})
	return d
}

// TestProcessesSoak: instances run at the same time at four bodies, whose systems fail
// now and then, while one body after the other is killed with -9 and comes back. Every
// instance comes to a declared end, and all bodies agree on each.
//
// CIVIBUS_SOAK_INSTANCES sets how many instances there are; without it 24.
func TestProcessesSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four processes")
	}
	instances := 24
	if s := os.Getenv("CIVIBUS_SOAK_INSTANCES"); s != "" {
		var err error
		if instances, err = strconv.Atoi(s); err != nil || instances < 1 {
			t.Fatalf("CIVIBUS_SOAK_INSTANCES=%q: the rule is a number from 1", s)
		}
	}
	within := 30 * time.Second
	if instances > 100 {
		within = 4 * time.Minute // all begin before any goes on
	}
	s := newSoak(t, within)
	// 1. Instances begin, and bodies die.
	done := make(chan struct{})
	var killer sync.WaitGroup
	kills := 0
	killer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(1000+rand.IntN(2000)) * time.Millisecond): // between two faults
			}
			b := s.bodies[i%len(s.bodies)]
			b.kill()
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond) // the fault itself
			b.start()
			b.ready()
			kills++
		}
	})
	began := time.Now()
	s.hold(true)
	ids := s.begin(instances)
	s.hold(false)
	// 2. Nobody is left that waits.
	s.eventually("no instance goes on", 20*time.Minute, func() bool {
		page, err := s.bodies[0].admin.ProcessInstances(t.Context(), admin.ListOptions{Limit: 1000})
		if err != nil {
			return false
		}
		return len(page.Items) == 0
	})
	close(done)
	killer.Wait()
	// 3. Each has a declared end, the same everywhere.
	ends := map[string]int{}
	for _, id := range ids {
		var first admin.ProcessInstance
		for i, b := range s.bodies {
			var in admin.ProcessInstance
			eventually(t, b.name+" has instance "+id, func() bool {
				var err error
				in, err = b.admin.ProcessInstance(t.Context(), id)
				return err == nil && in.Phase == "ended"
			})
			if i == 0 {
				first = in
			}
			if in.End != first.End || in.Events != first.Events || in.End == "" {
				t.Errorf("instance %s: %s at %s, %s at %s", id, first.End, s.bodies[0].name, in.End, b.name)
			}
		}
		ends[first.End]++
	}
	if ends["closed"]+ends["partly"]+ends["cancelled"] != len(ids) {
		t.Errorf("ends %v of %d instances", ends, len(ids))
	}
	t.Logf("%d instances at once, %d kills, %d turns at systems, %v: ends %v", len(ids), kills, s.asked, time.Since(began).Round(time.Second), ends)
}

func (s *soak) eventually(what string, within time.Duration, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func newSoak(t *testing.T, within time.Duration) *soak {
	s := &soak{t: t}
	program := filepath.Join(t.TempDir(), "civibus")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/civibus/civibus/cmd/civibus").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	system := httptest.NewServer(http.HandlerFunc(s.system))
	t.Cleanup(system.Close)
	// 1. Four bodies.
	var specs []testnet.BodySpec
	for _, role := range soakRoles {
		specs = append(specs, testnet.BodySpec{Class: "GOV", Code: role, Name: role + " (fictitious)"})
	}
	n, err := testnet.Found(testnet.Options{Dir: t.TempDir(), FirstPort: freePorts(t, 4*testnet.PortsPerBody), Bodies: specs, Configure: func(i int, c *node.Config) {
		c.Process = []node.ProcessConfig{{Subsystem: "desk", System: system.URL}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil { // the ports are the processes'
		t.Fatal(err)
	}
	s.net = n
	w := &world{t: t, program: program}
	for _, b := range n.Bodies {
		p := &process{t: t, name: b.ID.Code, program: program, config: b.ConfigFile, consumer: b.Config.Consumer.Listen, provider: b.Config.Provider.Listen, admin: b.Admin()}
		w.run(p)
		s.bodies, s.desks = append(s.bodies, p), append(s.desks, b.Client("desk"))
	}
	for _, p := range s.bodies {
		p.ready()
	}
	// 2. The process that they agree on.
	d := soakDefinition(within)
	document, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	s.process = n.Bodies[0].ID.String() + "/soak/1"
	first := []testnet.Change{{By: n.Bodies[0], Tx: &registrypb.Tx{Body: &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: n.Bodies[0].ID.String(), Definition: document}}}}}
	var second, third []testnet.Change
	for i, b := range n.Bodies {
		desk := s.desks[i]
		first = append(first, b.Subsystem("desk", "Desk"))
		second = append(second, testnet.Change{By: b, Tx: &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: s.process, Role: soakRoles[i], Subsystem: desk.String()}}}},
			b.Publish(civibus.Service{ID: b.Service("desk", civibusprocess.ServiceCode), Type: civibus.REST, Title: "Facts"}))
		if i > 0 {
			third = append(third, testnet.Change{By: n.Bodies[0], Tx: &registrypb.Tx{Body: &registrypb.Tx_ApproveRole{ApproveRole: &registrypb.ApproveRole{Process: s.process, Role: soakRoles[i], Subsystem: desk.String()}}}})
		}
	}
	openings, err := compiled.Openings("")
	if err != nil {
		t.Fatal(err)
	}
	place := func(role string) int {
		for i, r := range soakRoles {
			if r == role {
				return i
			}
		}
		return -1
	}
	for _, o := range openings {
		to, from := place(o.To), place(o.From)
		third = append(third, n.Bodies[to].Grant(civibus.AccessRight{Service: n.Bodies[to].Service("desk", civibusprocess.ServiceCode), Client: s.desks[from], Purpose: civibusprocess.Purpose, LegalBasis: "none, this is a test"}))
	}
	for _, changes := range [][]testnet.Change{first, second, third} {
		if _, err := n.Register(t.Context(), changes...); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *soak) hold(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
}

// system is the system of every body: it fails now and then, in every way.
func (s *soak) system(w http.ResponseWriter, r *http.Request) {
	var event struct{ Data civibusprocess.Turn }
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, "no event", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.asked++
	held := s.held
	s.mu.Unlock()
	t := event.Data
	switch {
	case held:
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	case rand.IntN(20) == 0:
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	case rand.IntN(12) == 0:
		_, _ = io.WriteString(w, `{"outcome":"failed"}`)
		return
	}
	facts := map[string]any{}
	for _, id := range t.Yields {
		switch id {
		case "urgent":
			facts[id] = rand.IntN(2) == 0
		default:
			facts[id] = rand.IntN(10)
		}
	}
	report := civibusprocess.Report{Outcome: "done"}
	if len(facts) > 0 {
		report.Facts = facts
	}
	_ = json.NewEncoder(w).Encode(report) // who has gone asks again
}

// begin starts instances at the office, a few at a time, and returns their ids.
func (s *soak) begin(n int) (ids []string) {
	in := civibusprocess.Beginning{Process: s.process, Parts: map[string]string{}}
	for i, role := range soakRoles {
		in.Parts[role] = s.desks[i].String()
	}
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	h := &http.Client{Transport: transport, Timeout: patience}
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range min(n, 16) {
		workers.Go(func() {
			for {
				mu.Lock()
				enough := len(ids) >= n
				mu.Unlock()
				if enough {
					return
				}
				id, err := s.start(h, body)
				if err != nil {
					time.Sleep(100 * time.Millisecond) // the office may be down
					continue
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return ids
}

func (s *soak) start(h *http.Client, body []byte) (string, error) {
	r, err := http.NewRequest(http.MethodPost, "http://"+s.bodies[0].consumer+civibusprocess.APIPath+"instances", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set(civibus.HeaderClient, s.desks[0].String())
	resp, err := h.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var out struct{ Instance, Error, Message string }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("%d %s %s: %w", resp.StatusCode, out.Error, out.Message, err)
	}
	return out.Instance, nil
}
