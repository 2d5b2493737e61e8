package node_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/transport"
)

// TestLedgerFaceLimits: what one member asks too much is refused, and the others
// are answered.
func TestLedgerFaceLimits(t *testing.T) {
	var mu sync.Mutex
	now := time.Unix(1_790_000_000, 0)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	waiting := make(chan struct{}, 64)
	full := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/light/"):
			waiting <- struct{}{}
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/blocks"):
			_, _ = w.Write(make([]byte, 8<<20))
		}
	})
	stop, end := context.WithCancel(t.Context())
	face := node.LedgerFaceOf(full, clock, stop)
	member := func(code string) *transport.Peer {
		return &transport.Peer{Member: civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: code}}
	}
	ask := func(p *transport.Peer, method, path string) int {
		r := httptest.NewRequest(method, ledger.FacePath+path, nil)
		if p != nil {
			r = r.WithContext(transport.WithPeer(r.Context(), *p))
		}
		w := httptest.NewRecorder()
		face.ServeHTTP(w, r)
		return w.Code
	}
	flood := func(p *transport.Peer, method, path string) int {
		for n := range 1000 {
			if code := ask(p, method, path); code != 200 {
				if code != http.StatusTooManyRequests {
					t.Fatalf("%s: status %d", path, code)
				}
				return n
			}
		}
		return 1000
	}
	greedy, other := member("1"), member("2")

	if code := ask(nil, "GET", "status"); code != http.StatusForbidden {
		t.Errorf("nobody is answered %d", code)
	}
	if n := flood(greedy, "GET", "status"); n != 400 {
		t.Errorf("%d questions at once, want 400", n)
	}
	if code := ask(other, "GET", "status"); code != 200 {
		t.Errorf("another member is answered %d", code)
	}
	pass(10 * time.Second)
	if n := flood(greedy, "POST", "submit"); n != 200 {
		t.Errorf("%d envelopes at once, want 200", n)
	}
	pass(10 * time.Second)
	if n := flood(greedy, "GET", "blocks"); n != 8 {
		t.Errorf("%d answers of 8 MiB at once, want 8", n)
	}
	if code := ask(other, "GET", "blocks"); code != 200 {
		t.Errorf("another member is answered %d", code)
	}
	pass(10 * time.Second)

	var polls sync.WaitGroup
	for range 16 {
		polls.Go(func() { ask(greedy, "GET", "light/0?after=1&wait=20") })
	}
	for range 16 {
		<-waiting
	}
	if code := ask(greedy, "GET", "light/0?after=1&wait=20"); code != http.StatusServiceUnavailable {
		t.Errorf("a 17th question that waits is answered %d", code)
	}
	if code := ask(greedy, "GET", "status"); code != 200 {
		t.Errorf("a question beside those that wait is answered %d", code)
	}
	end() // the node stops, and what waits ends
	polls.Wait()
}
