package node_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// bodies are two bodies of which the first offers population/persons, which
// portal of the second may call.
type bodies struct {
	*testing.T
	provider, consumer *testnet.Body
	log                *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newBodies(t *testing.T, hop func(i int, next http.Handler) http.Handler) *bodies {
	t.Helper()
	return newBodiesAt(t, hop, nil)
}

// newBodiesAt is newBodies with a clock for each.
func newBodiesAt(t *testing.T, hop func(i int, next http.Handler) http.Handler, clock func(i int) civibus.Clock) *bodies {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%q", r.URL.Path) }))
	t.Cleanup(upstream.Close)
	specs := testnet.DefaultBodies()[:2]
	specs[0].Services = []node.ServiceConfig{{ID: "population/persons", URL: upstream.URL}}
	b := &bodies{T: t, log: &syncBuffer{}}
	n, err := testnet.New(t.Context(), testnet.Options{
		Dir: t.TempDir(), Bodies: specs, Hop: hop, Clock: clock,
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	p, c := n.Bodies[0], n.Bodies[1]
	b.provider, b.consumer = p, c
	for _, change := range [][]testnet.Change{
		{p.Subsystem("population", "Population register"), c.Subsystem("portal", "Portal")},
		{p.Publish(civibus.Service{ID: p.Service("population", "persons"), Type: civibus.REST, Title: "Persons"})},
		{p.Grant(civibus.AccessRight{Service: p.Service("population", "persons"), Client: c.Client("portal"), Purpose: "test", LegalBasis: "https://law.example/act/1 (fictitious)"})},
	} {
		if _, err := n.Register(t.Context(), change...); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// call makes one exchange and returns its id.
func (b *bodies) call() string {
	b.Helper()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	portal := &client.Client{Gateway: b.consumer.ConsumerURL(), Client: b.consumer.Client("portal"), HTTP: h}
	answer, err := portal.Do(b.Context(), client.Call{Service: b.provider.Service("population", "persons"), Path: "/1", Purpose: "test"})
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		b.Fatalf("answer %d, %v", answer.StatusCode, err)
	}
	return answer.Exchange
}

// again sends another body a request with the fields of one that was seen.
func (b *bodies) again(from, to *testnet.Body, path string, fields http.Header) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, path, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header = fields.Clone()
	resp, err := from.Node().SendSealed(b.Context(), to.ID, r)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s: answer %d %s %v", path, resp.StatusCode, body, err)
	}
}

func (b *bodies) until(what string, done func() bool) {
	b.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("gave up waiting until %s; log:\n%s", what, b.log)
		}
	}
}

// verified returns what a receipt proves, and its own record.
func (b *bodies) verified(at *testnet.Body, raw []byte, err error) (*proof.Report, *evidencepb.Record) {
	b.Helper()
	if err != nil {
		b.Fatalf("receipt at %s: %v", at.ID, err)
	}
	policy, err := at.Admin().Policy(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	report, err := proof.Verify(raw, policy)
	if err != nil {
		b.Fatalf("receipt at %s: %v", at.ID, err)
	}
	receipt, err := proof.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	rec := &evidencepb.Record{}
	if err := proto.Unmarshal(receipt.Entries[0].Record, rec); err != nil {
		b.Fatal(err)
	}
	return report, rec
}

func (b *bodies) exchange(at *testnet.Body, id string) admin.Exchange {
	b.Helper()
	x, err := at.Admin().Exchange(b.Context(), id)
	if err != nil {
		b.Fatal(err)
	}
	return x
}

// TestHalfThatDisagreesCostsNoReceipt has a provider that answers, and puts into
// its log, anchors and delivers that it never did. Its half is genuine and
// stands alone; the consumer's receipt is then made of its own half.
func TestHalfThatDisagreesCostsNoReceipt(t *testing.T) {
	var honest atomic.Int32 // halves kept from the consumer
	var lying atomic.Bool
	b := newBodies(t, func(i int, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i != 1 || lying.Load() || !strings.HasSuffix(r.URL.Path, "/receipts") {
				next.ServeHTTP(w, r)
				return
			}
			raw, err := io.ReadAll(r.Body)
			var in evidencepb.HalfReceipts
			if err == nil {
				err = proto.Unmarshal(raw, &in)
			}
			answer := &evidencepb.HalfReceiptsAnswer{}
			for range in.Halves {
				answer.Results = append(answer.Results, &evidencepb.HalfResult{Status: evidencepb.HalfStatus_HALF_STATUS_INVALID})
			}
			out, merr := proto.Marshal(answer)
			if err != nil || merr != nil {
				t.Error(err, merr)
			}
			_, _ = w.Write(out)
			honest.Add(int32(len(in.Halves)))
		})
	})
	// 1. The exchange; the provider's true half does not arrive.
	id := b.call()
	b.until("the true half was sent", func() bool { return honest.Load() > 0 })

	// 2. The provider's false record: a leaf of its real log, anchored and delivered.
	log := b.provider.Node().EvidenceLog()
	entries, err := log.Find(id)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the provider's entries: %d, %v", len(entries), err)
	}
	lie := &evidencepb.Record{}
	if err := proto.Unmarshal(entries[0].Record, lie); err != nil {
		t.Fatal(err)
	}
	lie.Outcome, lie.Fault, lie.RightId, lie.Status, lie.Response, lie.ResponseBody = evidencepb.Outcome_OUTCOME_FAILED, "io_error", "", 0, nil, nil
	lying.Store(true)
	if err := log.Append(t.Context(), lie); err != nil {
		t.Fatal(err)
	}
	b.until("the false half is kept", func() bool { return b.exchange(b.consumer, id).Counterpart })

	// 3. The consumer's receipt is of its own half alone, and the log says why.
	raw, err := b.consumer.Admin().Receipt(t.Context(), id, 30*time.Second, false)
	report, own := b.verified(b.consumer, raw, err)
	if len(report.Summary.Sides) != 1 || own.Side != evidencepb.Side_SIDE_CONSUMER || own.Outcome != evidencepb.Outcome_OUTCOME_ANSWERED || report.Summary.Status != 200 {
		t.Errorf("the receipt says %+v", report.Summary)
	}
	if text := b.log.String(); !strings.Contains(text, "half of a receipt is left out") || !strings.Contains(text, id) || !strings.Contains(text, "the sides recorded another outcome") {
		t.Errorf("the log does not say that the other half disagrees:\n%s", text)
	}
	// 4. Whoever wants both halves is told.
	if _, err := b.consumer.Admin().Receipt(t.Context(), id, 30*time.Second, true); !admin.IsCode(err, "invalid_half") || !strings.Contains(err.Error(), "another outcome") {
		t.Errorf("a receipt of both halves: %v", err)
	}
	// 5. The false half was not merely invalid: alone it verifies.
	for _, e := range b.exchange(b.provider, id).Entries {
		if e.Fault == "" {
			continue
		}
		raw, err := b.provider.Admin().ReceiptOfEntry(t.Context(), id, e.Index, 30*time.Second, false)
		if report, rec := b.verified(b.provider, raw, err); len(report.Summary.Sides) != 1 || rec.Fault != "io_error" {
			t.Errorf("the false half says %+v", report.Summary)
		}
		return
	}
	t.Error("the provider has no false record")
}

// TestEveryExchangeWithOneIDIsProvable has a consumer whose gateway uses the id
// of an exchange for more of them, and a provider that uses it in turn for an
// exchange in the other direction: no record hides another.
func TestEveryExchangeWithOneIDIsProvable(t *testing.T) {
	seen := make(chan http.Header, 1)
	b := newBodies(t, func(i int, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i == 0 && strings.HasPrefix(r.RequestURI, "/r1/") {
				select {
				case seen <- r.Header.Clone():
				default: // only the first is looked at
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	id := b.call()
	fields := <-seen
	if fields.Get(civibus.HeaderRequestID) != id {
		t.Fatalf("the id on the hop is %q", fields.Get(civibus.HeaderRequestID))
	}
	for _, name := range []string{"Signature", "Signature-Input", "Content-Digest"} {
		fields.Del(name)
	}
	service := "/r1/" + b.provider.Service("population", "persons").String()
	b.again(b.consumer, b.provider, service+"/2", fields)
	b.again(b.consumer, b.provider, service+"/3", fields)

	t.Run("the provider proves each", func(t *testing.T) {
		b := &bodies{t, b.provider, b.consumer, b.log}
		at := b.provider.Admin()
		b.until("all are leaves", func() bool {
			x := b.exchange(b.provider, id)
			for _, e := range x.Entries {
				if !e.Integrated {
					return false
				}
			}
			return len(x.Entries) == 3 && x.Counterpart
		})
		x := b.exchange(b.provider, id)
		if !x.Several() {
			t.Error("three entries are not several")
		}
		for i, e := range x.Entries {
			raw, err := at.ReceiptOfEntry(t.Context(), id, e.Index, 30*time.Second, false)
			report, rec := b.verified(b.provider, raw, err)
			if path := fmt.Sprintf("/%d", i+1); !strings.Contains(string(rec.Request.Base), service+path+"\n") {
				t.Errorf("the receipt of entry %d is not of %s:\n%s", e.Index, path, rec.Request.Base)
			}
			// The consumer's gateway keeps and sent its half of the first only.
			if want := map[bool]int{true: 2, false: 1}[i == 0]; len(report.Summary.Sides) != want {
				t.Errorf("the receipt of entry %d has %d sides, want %d", e.Index, len(report.Summary.Sides), want)
			}
			if _, err := at.ReceiptOfEntry(t.Context(), id, e.Index, 30*time.Second, true); (err == nil) != (i == 0) || err != nil && !admin.IsCode(err, "other_entry") {
				t.Errorf("both halves of entry %d: %v", e.Index, err)
			}
		}
		raw, err := at.Receipt(t.Context(), id, 30*time.Second, true)
		if _, rec := b.verified(b.provider, raw, err); !strings.Contains(string(rec.Request.Base), service+"/1\n") {
			t.Errorf("without an entry the receipt is not of the first:\n%s", rec.Request.Base)
		}
		if _, err := at.ReceiptOfEntry(t.Context(), id, 1<<40, 0, false); !admin.IsCode(err, "not_found") {
			t.Errorf("an entry that there is not: %v", err)
		}
	})

	t.Run("the other direction", func(t *testing.T) {
		b := &bodies{t, b.provider, b.consumer, b.log}
		fields := fields.Clone()
		fields.Set(civibus.HeaderClient, b.provider.Client("population").String())
		fields.Del(civibus.HeaderPurpose)
		b.again(b.provider, b.consumer, "/r1/"+b.consumer.Client("portal").String()+"/listMethods", fields)
		x := b.exchange(b.consumer, id)
		if len(x.Entries) != 2 || !x.Several() {
			t.Fatalf("the consumer's entries: %+v", x.Entries)
		}
		raw, err := b.consumer.Admin().Receipt(t.Context(), id, 30*time.Second, true)
		report, rec := b.verified(b.consumer, raw, err)
		if len(report.Summary.Sides) != 2 || rec.Side != evidencepb.Side_SIDE_CONSUMER || report.Summary.Service != b.provider.Service("population", "persons").String() {
			t.Errorf("the consumer's receipt says %+v", report.Summary)
		}
		b.until("the other entry is a leaf", func() bool {
			x = b.exchange(b.consumer, id)
			return x.Entries[0].Integrated && x.Entries[1].Integrated
		})
		for _, e := range x.Entries {
			raw, err := b.consumer.Admin().ReceiptOfEntry(t.Context(), id, e.Index, 30*time.Second, false)
			if _, rec := b.verified(b.consumer, raw, err); rec.Client != e.Client {
				t.Errorf("the receipt of entry %d is of client %s", e.Index, rec.Client)
			}
		}
	})
}

// TestUnknownExchangeHoldsUpNoOther: the consumer's gateway was killed before it had
// recorded an exchange that the provider answered. The provider offers its half again
// and again, at growing intervals and for an hour; what both know gets its half
// meanwhile.
func TestUnknownExchangeHoldsUpNoOther(t *testing.T) {
	const lost = "9a4b3f2e-0c1d-4e5f-8a6b-7c8d9e0f1a2b"
	var ahead, offered atomic.Int64 // the provider's clock; deliveries of the lost exchange
	fields := make(chan http.Header, 1)
	b := newBodiesAt(t, func(i int, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case i == 0 && strings.HasPrefix(r.URL.Path, "/r1/"):
				select {
				case fields <- r.Header.Clone():
				default:
				}
			case i == 1 && strings.HasSuffix(r.URL.Path, "/receipts"):
				raw, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				if bytes.Contains(raw, []byte(lost)) {
					defer offered.Add(1)
				}
				r.Body = io.NopCloser(bytes.NewReader(raw))
			}
			next.ServeHTTP(w, r)
		})
	}, func(i int) civibus.Clock {
		return map[int]civibus.Clock{0: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}[i]
	})
	undelivered := func() int {
		d, err := b.provider.Node().EvidenceLog().Undelivered(0, 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}

	// 1. An exchange that the consumer's gateway knows nothing of, offered four times:
	// the next time is after 40 s, longer than anything here waits.
	b.call()
	seen := <-fields
	seen.Set(civibus.HeaderRequestID, lost)
	b.again(b.consumer, b.provider, "/r1/"+b.provider.Service("population", "persons").String()+"/lost", seen)
	for wait := deliverEvery; wait < 40*time.Second; wait *= 2 {
		n := offered.Load()
		b.until("the lost exchange is offered", func() bool { return offered.Load() > n })
		ahead.Add(int64(wait))
	}
	n := offered.Load()
	b.until("the lost exchange is offered", func() bool { return offered.Load() > n })

	// 2. Others get their halves.
	for range 3 {
		known := b.call()
		b.until("the consumer has the provider's half of a later exchange", func() bool { return b.exchange(b.consumer, known).Counterpart })
	}

	// 3. After an hour it is given up.
	b.until("nothing else waits", func() bool { return undelivered() == 1 })
	ahead.Add(int64(time.Hour))
	b.until("the half of the lost exchange is given up", func() bool { return undelivered() == 0 })
}

// deliverEvery is the first interval of deliveries.
const deliverEvery = 5 * time.Second
