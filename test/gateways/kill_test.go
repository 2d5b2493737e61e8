package gateways

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/evidence/proof"
)

// TestGatewayKilledUnderLoad: two bodies with two gateways each, every one a
// process; clients ask with GET and POST at both gateways of their body. One
// gateway of each body is killed with -9 under load, with the provider's gateways
// at addresses of their own and behind one TCP balancer. No exchange that was
// acknowledged is missing in either body's evidence, a POST is in one log of each, no
// client needs more than one retry, and when the killed gateways are back the receipts
// of what was acknowledged become complete.
//
// CIVIBUS_GATEWAY_ROUNDS sets how often; without it each kind of gateway is killed once.
func TestGatewayKilledUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four processes")
	}
	rounds := 1
	if s := os.Getenv("CIVIBUS_GATEWAY_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil || rounds < 1 {
			t.Fatalf("CIVIBUS_GATEWAY_ROUNDS=%q: the rule is a number from 1", s)
		}
	}
	w := newWorld(t)
	l := w.load(4)
	for round := range rounds {
		w.killed(l, w.providers[1-round%2])
		w.killed(l, w.consumers[round%2])
	}
	w.behind(balancer(t, w.providers[0].provider, w.providers[1].provider))
	for round := range rounds {
		w.killed(l, w.providers[round%2])
		w.killed(l, w.consumers[1-round%2])
	}
	l.stop()
	w.verify(l)
}

// killed kills a gateway under load, waits until exchanges went on without it, and
// brings it back.
func (w *world) killed(l *load, p *process) {
	w.t.Helper()
	const some = 25 // exchanges
	l.progress(some)
	before := l.retries.Load()
	p.kill()
	l.progress(2 * some)
	p.start()
	p.ready()
	l.progress(some)
	w.t.Logf("%s killed: %d calls were tried again", p.name, l.retries.Load()-before)
}

// acknowledged is an exchange that a client was given an answer of.
type acknowledged struct{ exchange, method string }

// load is clients that ask without pause.
type load struct {
	w                 *world
	done              chan struct{}
	workers           sync.WaitGroup
	answered, retries atomic.Int64
	mu                sync.Mutex
	acknowledged      []acknowledged
	lost              []string // calls that failed twice
}

func (w *world) load(workers int) *load {
	l := &load{w: w, done: make(chan struct{})}
	w.t.Cleanup(l.stop)
	for i := range workers {
		l.workers.Go(func() { l.work(i) })
	}
	return l
}

func (l *load) stop() {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	l.workers.Wait()
}

// progress waits until so many more calls were answered.
func (l *load) progress(n int64) {
	l.w.t.Helper()
	from := l.answered.Load()
	eventually(l.w.t, fmt.Sprintf("%d more calls are answered (%v)", n, l.failures()), func() bool { return l.answered.Load() >= from+n || len(l.failures()) > 0 })
	if f := l.failures(); len(f) > 0 {
		l.w.t.Fatalf("calls that failed twice: %q", f)
	}
}

func (l *load) failures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// work is one client: it goes from one gateway of its body to the other, as an HTTP
// balancer would, and tries each call once more, at the other gateway.
func (l *load) work(worker int) {
	transport := &http.Transport{MaxIdleConnsPerHost: 2}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for i := 0; ; i++ {
		select {
		case <-l.done:
			return
		default:
		}
		method := []string{http.MethodGet, http.MethodPost}[i/2%2]
		body := fmt.Sprintf("call %d of client %d", i, worker)
		var failed []string
		for attempt := range 2 {
			exchange, err := l.call(client, l.w.consumers[(i+attempt)%2], method, body)
			if err == nil {
				l.mu.Lock()
				l.acknowledged = append(l.acknowledged, acknowledged{exchange, method})
				l.mu.Unlock()
				l.answered.Add(1)
				l.retries.Add(int64(attempt))
				failed = nil
				break
			}
			failed = append(failed, err.Error())
		}
		if failed != nil {
			l.mu.Lock()
			l.lost = append(l.lost, method+": "+strings.Join(failed, "; and again: "))
			l.mu.Unlock()
			return
		}
		time.Sleep(10 * time.Millisecond) // a client's own work, so that the test's machine has room for its four gateways
	}
}

// call makes one call and returns the exchange that answered it.
func (l *load) call(client *http.Client, at *process, method, body string) (exchange string, err error) {
	var src io.Reader
	want := method + " "
	if method == http.MethodPost {
		src, want = strings.NewReader(body), want+body
	}
	r, err := http.NewRequest(method, "http://"+at.consumer+"/r1/"+l.w.service+"/x", src)
	if err != nil {
		return "", err
	}
	r.Header.Set("X-Road-Client", l.w.asker)
	r.GetBody = nil // so that net/http sends nothing twice by itself
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || string(got) != want {
		return "", fmt.Errorf("%s: status %d %.300s, want %q", at.name, resp.StatusCode, got, want)
	}
	return resp.Header.Get("X-Road-Request-Id"), nil
}

// verify holds the evidence of both bodies against what clients were told.
func (w *world) verify(l *load) {
	w.t.Helper()
	if len(l.acknowledged) == 0 {
		w.t.Fatal("nothing was acknowledged")
	}
	begun := time.Now()
	holders := map[*process]int{}
	twice := 0
	for i, a := range l.acknowledged {
		exchange := a.exchange
		for _, side := range [2]struct {
			name     string
			gateways [2]*process
		}{{"consumer", w.consumers}, {"provider", w.providers}} {
			// 1. The record is at one of the body's gateways, and says that it was answered. A GET may
			// be at both of the provider's: the first one answered and was killed before the answer was
			// out, and the consumer's gateway asked the other one.
			var with []*process
			for _, p := range side.gateways {
				x, err := p.admin.Exchange(w.t.Context(), exchange)
				if err != nil {
					if !strings.Contains(err.Error(), "not in this body's evidence") {
						w.t.Fatal(err)
					}
					continue
				}
				if len(x.Entries) != 1 || x.Entries[0].Side != side.name || x.Entries[0].Outcome != "answered" {
					w.t.Fatalf("acknowledged exchange %s at %s: %+v", exchange, p.name, x.Entries)
				}
				with = append(with, p)
			}
			switch {
			case len(with) == 0:
				w.t.Fatalf("acknowledged exchange %s is in no log of the %s", exchange, side.name)
			case len(with) > 1 && (side.name != "provider" || a.method != http.MethodGet):
				w.t.Fatalf("acknowledged exchange %s, a %s, is in both logs of the %s", exchange, a.method, side.name)
			case len(with) > 1:
				twice++
			}
			// 2. The other body's half has come to exactly one: that which gave the answer.
			var at *process
			eventually(w.t, fmt.Sprintf("one of %d gateways of the %s has the other half of %s", len(with), side.name, exchange), func() bool {
				for _, p := range with {
					if x, err := p.admin.Exchange(w.t.Context(), exchange); err == nil && x.Counterpart {
						if at != nil && at != p {
							w.t.Fatalf("%s and %s both have the other half of %s", at.name, p.name, exchange)
						}
						at = p
					}
				}
				return at != nil
			})
			holders[at]++
			// 3. Some receipts are made and verified offline, of each gateway.
			if i%20 == 0 {
				w.receipt(at, exchange)
			}
		}
	}
	for _, p := range append(w.consumers[:], w.providers[:]...) {
		if holders[p] == 0 {
			w.t.Errorf("%s has no record of an acknowledged exchange: it was not used", p.name)
		}
	}
	// 4. Who asks at the wrong gateway is told of the others.
	for _, p := range w.consumers {
		_, err := p.admin.Exchange(w.t.Context(), "00000000-0000-4000-8000-000000000000")
		if err == nil || !strings.Contains(fmt.Sprint(hint(err)), "gateway-") {
			w.t.Errorf("%s does not say where else an exchange may be: %v %s", p.name, err, hint(err))
		}
	}
	w.t.Logf("%d exchanges acknowledged, %d calls tried again once, %d in both logs of the provider, %d calls at the service; verified in %v", len(l.acknowledged), l.retries.Load(), twice, w.calls.Load(), time.Since(begun).Round(time.Millisecond))
}

// receipt makes a receipt with both halves and verifies it.
func (w *world) receipt(at *process, exchange string) {
	w.t.Helper()
	raw, err := at.admin.Receipt(w.t.Context(), exchange, time.Minute, true)
	if err != nil {
		w.t.Fatalf("receipt of %s at %s: %v", exchange, at.name, err)
	}
	policy, err := at.admin.Policy(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	report, err := proof.Verify(raw, policy)
	if err != nil || len(report.Summary.Sides) != 2 {
		w.t.Fatalf("receipt of %s at %s: %+v %v", exchange, at.name, report, err)
	}
}
