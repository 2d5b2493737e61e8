package testnet_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/evidence/evidencepb"
	proofs "github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// system is one of a body's systems, which speaks to its gateway.
type system struct {
	t      *testing.T
	body   *testnet.Body
	client string
}

// do makes a call and returns the answer's status, header and body.
func (s system) do(method, path, contentType string, body []byte) (int, http.Header, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.body.ConsumerURL()+"/civibus/v1/"+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Road-Client", s.client)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := oneShot(s.t).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, raw
}

// ask makes a call with JSON both ways and holds it to a status.
func (s system) ask(want int, method, path string, in, out any) {
	s.t.Helper()
	var body []byte
	if in != nil {
		body, _ = json.Marshal(in)
	}
	status, _, raw := s.do(method, path, "application/json", body)
	if status != want {
		s.t.Fatalf("%s %s: status %d, want %d: %s", method, path, status, want, raw)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			s.t.Fatalf("%s %s: %s: %v", method, path, raw, err)
		}
	}
}

// refused makes a call that must be refused with a type.
func (s system) refused(kind string, status int, method, path string, in any) {
	s.t.Helper()
	body, _ := json.Marshal(in)
	if raw, ok := in.([]byte); ok {
		body = raw
	}
	got, _, raw := s.do(method, path, events.BatchType, body)
	if got != status || !strings.Contains(string(raw), kind) {
		s.t.Errorf("%s %s: %d %s, want %d %s", method, path, got, raw, status, kind)
	}
}

func batch(from, n int, key string) []byte {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/population","type":"example.moved","partitionkey":"%s","data":{"n":%d}}`, from+i, key, from+i))
	}
	return []byte("[" + strings.Join(list, ",") + "]")
}

// fetched is what a system got.
type fetched struct {
	Seq      string `json:"civibusseq"`
	Exchange string `json:"civibusexchange"`
	ID       string `json:"id"`
}

func (s system) fetch(subscription, query string) (list []fetched, cursor string) {
	s.t.Helper()
	status, h, raw := s.do("GET", "subscriptions/"+subscription+"/events?"+query, "", nil)
	if status != 200 || json.Unmarshal(raw, &list) != nil {
		s.t.Fatalf("fetch: %d %s", status, raw)
	}
	return list, h.Get("Events-Cursor")
}

// messages starts the network with a topic of population/persons to which portal of the
// fourth body has the right.
func messages(t *testing.T, change func(i int, c *node.Config)) (n *testnet.Network, publisher, portal system, topic string) {
	n = networkWith(t, func(o *testnet.Options) { o.Configure = change })
	provider, consumer := n.Bodies[0], n.Bodies[3]
	service := provider.Service("population", "persons")
	register(t, n, provider.Topic(service, "moved", "Persons who moved", true, civibus.Active, ""), provider.Topic(service, "born", "Births", false, civibus.Active, ""))
	register(t, n, provider.Grant(civibus.AccessRight{Service: service, Client: consumer.Client("portal"), Purpose: "residence-check", LegalBasis: "https://law.example/act/1 (fictitious)",
		Endpoints: []civibus.Endpoint{{Method: "SUBSCRIBE", Path: "/moved"}}}))
	return n, system{t, provider, provider.Client("population").String()}, system{t, consumer, consumer.Client("portal").String()}, service.String() + "/moved"
}

// TestMessages: events go from a publisher to a subscriber that fetches, each once where
// it was published twice; they are proved offline one by one, by receipts of both bodies;
// a body that was away gets everything; and what is not allowed is refused with its reason.
func TestMessages(t *testing.T) {
	n, publisher, portal, topic := messages(t, nil)
	provider, consumer := n.Bodies[0], n.Bodies[3]
	var published events.Published
	publish := func(from, count int) {
		t.Helper()
		status, _, raw := publisher.do("POST", "topics/"+topic+"/events", events.BatchType, batch(from, count, "k"))
		if status != 202 || json.Unmarshal(raw, &published) != nil {
			t.Fatalf("publish: %d %s", status, raw)
		}
	}
	publish(1, 10)
	publish(1, 12)
	if published.Accepted != 2 || published.Duplicates != 10 || published.Last != 12 {
		t.Errorf("published again: %+v", published)
	}

	// What is refused.
	other := strings.ReplaceAll(string(batch(1, 1, "k")), `"n":1`, `"n":2`)
	publisher.refused("EventConflict", 409, "POST", "topics/"+topic+"/events", []byte(other))
	publisher.refused("InvalidEvent", 400, "POST", "topics/"+topic+"/events", []byte(`[{"specversion":"1.0"}]`))
	publisher.refused("UnknownTopic", 404, "POST", "topics/"+strings.TrimSuffix(topic, "moved")+"none/events", batch(1, 1, "k"))
	portal.refused("NotPublisher", 403, "POST", "topics/"+topic+"/events", batch(1, 1, "k"))
	portal.refused("UnknownTopic", 404, "POST", "subscriptions", events.Wish{Topic: strings.TrimSuffix(topic, "moved") + "none"})
	system{t, n.Bodies[1], n.Bodies[1].ID.String()}.refused("AccessDenied", 403, "POST", "subscriptions", events.Wish{Topic: topic})
	portal.refused("WebhookNotAllowed", 403, "POST", "subscriptions", events.Wish{Topic: topic, Webhook: "http://127.0.0.1:1/"})
	portal.refused("BadCursor", 409, "POST", "subscriptions", events.Wish{Topic: topic, From: "yesterday"})
	portal.refused("UnknownSubscription", 404, "GET", "subscriptions/0123456789abcdef", nil)
	system{t, consumer, "DEMO/NGO/none"}.refused("UnknownMember", 404, "GET", "topics", nil)

	// All from the first on, and then those that come.
	var sub events.Subscription
	portal.ask(201, "POST", "subscriptions", events.Wish{Topic: topic, From: events.FromFirst}, &sub)
	got, cursor := portal.fetch(sub.ID, "wait=20")
	if len(got) != 12 || got[0].Seq != "1" || got[11].ID != "12" || cursor != "12" {
		t.Fatalf("fetched %+v, cursor %s", got, cursor)
	}
	portal.ask(200, "POST", "subscriptions/"+sub.ID+"/ack", map[string]any{"upto": 12, "refused": []any{map[string]any{"seq": 5, "reason": "no such person"}}}, &sub)
	if sub.Cursor != 12 || sub.Dead != 1 {
		t.Errorf("after the acknowledgement %+v", sub)
	}
	portal.refused("BadCursor", 409, "POST", "subscriptions/"+sub.ID+"/ack", map[string]any{"upto": 999})
	publish(13, 1)
	if got, _ = portal.fetch(sub.ID, "wait=20"); len(got) != 1 || got[0].ID != "13" {
		t.Errorf("fetched %+v", got)
	}
	var dead struct{ Dead []events.DeadLetter }
	portal.ask(200, "GET", "subscriptions/"+sub.ID+"/dead", nil, &dead)
	if len(dead.Dead) != 1 || dead.Dead[0].Seq != 5 || dead.Dead[0].Reason != events.DeadRejected || dead.Dead[0].Message != "no such person" {
		t.Errorf("dead letters %+v", dead.Dead)
	}
	if again, _ := portal.fetch(sub.ID, "after=0"); len(again) != 12 {
		t.Errorf("from the beginning %d events, want all 13 but the dead letter", len(again))
	}
	portal.ask(200, "POST", "subscriptions/"+sub.ID+"/dead/5/retry", nil, nil)
	if again, _ := portal.fetch(sub.ID, "after=0"); len(again) != 13 {
		t.Errorf("from the beginning %d events, want all 13", len(again))
	}

	// One event is proved by the receipt of its exchange, at both bodies, offline.
	var p events.Proof
	portal.ask(200, "GET", "subscriptions/"+sub.ID+"/proofs/7", nil, &p)
	for _, b := range []*testnet.Body{consumer, provider} {
		receipt, err := b.Admin().Receipt(t.Context(), p.Exchange, 30*time.Second, true)
		if err != nil {
			t.Fatal(err)
		}
		if r := verified(t, b, receipt); len(r.Summary.Sides) != 2 || r.Summary.Method != "SUBSCRIBE" || r.Summary.Purpose != "residence-check" {
			t.Errorf("the receipt says %+v", r.Summary)
		}
		field := batchField(t, receipt)
		if err := p.Verify(field); err != nil {
			t.Error(err)
		}
		lie := p
		lie.Event = []byte(strings.Replace(string(p.Event), `"n":7`, `"n":8`, 1))
		if lie.Verify(field) == nil {
			t.Error("another event is proved")
		}
	}

	// The subscriber's body is away, and then gets everything; so does one whose
	// provider is away.
	if err := consumer.Stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		publish(100+1000*i, 1000)
	}
	if err := consumer.Start(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	after, seen := "13", 0
	waitFor(t, "five thousand events", func() bool {
		list, cursor := portal.fetch(sub.ID, "wait=1&after="+after)
		after, seen = cursor, seen+len(list)
		return seen >= 5000
	})
	if seen != 5000 || after != "5013" {
		t.Errorf("%d events, cursor %s", seen, after)
	}
	if err := provider.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := provider.Start(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	publish(13, 1)
	if published.Duplicates != 1 {
		t.Errorf("after the restart a repetition is taken: %+v", published)
	}
	publish(20_000, 1)
	waitFor(t, "an event after the provider's restart", func() bool { list, _ := portal.fetch(sub.ID, "wait=1&after=5013"); return len(list) == 1 })

	// Without the right nothing more comes, and the reason is told; the topic may be
	// suspended too.
	rights, _ := n.Bodies[0].Admin().Rights(t.Context(), admin.ListOptions{})
	for _, r := range rights.Items {
		register(t, n, testnet.Change{By: provider, Tx: statusTx(r.ID)})
	}
	publish(20_001, 1)
	portal.ask(200, "POST", "subscriptions/"+sub.ID+"/ack", map[string]any{"upto": 5014}, nil)
	register(t, n, provider.Topic(provider.Service("population", "persons"), "moved", "Moved", true, civibus.Suspended, "For the census"))
	publisher.refused("TopicSuspended", 503, "POST", "topics/"+topic+"/events", batch(30_000, 1, "k"))
	portal.refused("AccessDenied", 403, "POST", "subscriptions", events.Wish{Topic: topic, Name: "another"})
	portal.ask(204, "DELETE", "subscriptions/"+sub.ID, nil, nil)
	portal.refused("UnknownSubscription", 404, "GET", "subscriptions/"+sub.ID, nil)
}

// batchField reads what the provider's seal says of the batch from a receipt.
func batchField(t *testing.T, raw []byte) string {
	t.Helper()
	r, err := proofs.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	rec := &evidencepb.Record{}
	if err := proto.Unmarshal(r.Entries[0].Record, rec); err != nil {
		t.Fatal(err)
	}
	field, err := events.SealedField(rec.GetResponse().GetBase())
	if err != nil {
		t.Fatal(err)
	}
	return field
}

// TestMessagesArePushed: a webhook gets signed events, in the order of their key; one that
// it refuses is a dead letter and holds up nothing; one that is down gets all later; and a
// subscriber that never acknowledges costs the others nothing.
func TestMessagesArePushed(t *testing.T) {
	var mu sync.Mutex
	var order []string
	tries := map[string]int{}
	down := true
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var e fetched
		_ = json.Unmarshal(body, &e)
		mu.Lock()
		defer mu.Unlock()
		tries[e.ID]++
		switch {
		case down:
			w.WriteHeader(503)
		case e.ID == "3": // never
			w.WriteHeader(422)
		case e.ID == "5" && tries[e.ID] < 4:
			w.WriteHeader(500)
		default:
			if r.Header.Get("Webhook-Signature") == "" || r.Header.Get("Signature") == "" || r.Header.Get("Content-Type") != events.StructuredType {
				w.WriteHeader(400)
				return
			}
			order = append(order, e.ID)
		}
	}))
	defer hook.Close()
	n, publisher, portal, topic := messages(t, func(_ int, c *node.Config) {
		c.Events.Webhooks, c.Events.Attempts = []string{hook.URL}, 2
	})
	var sub, sleeper events.Subscription
	portal.ask(201, "POST", "subscriptions", events.Wish{Topic: topic, From: events.FromFirst, Webhook: hook.URL + "/in"}, &sub)
	portal.ask(201, "POST", "subscriptions", events.Wish{Topic: topic, From: events.FromFirst, Name: "sleeper"}, &sleeper)
	if !strings.HasPrefix(sub.Secret, "whsec_") {
		t.Errorf("secret %q", sub.Secret)
	}
	if status, _, raw := publisher.do("POST", "topics/"+topic+"/events", events.BatchType, batch(1, 20, "same")); status != 202 {
		t.Fatalf("%d %s", status, raw)
	}
	waitFor(t, "the webhook to be taken to be down", func() bool {
		var s events.Subscription
		portal.ask(200, "GET", "subscriptions/"+sub.ID, nil, &s)
		return s.Reason == "webhook_down" && s.Dead == 0 && s.Received == 20
	})
	mu.Lock()
	down = false
	mu.Unlock()
	waitFor(t, "all events but one", func() bool {
		var s events.Subscription
		portal.ask(200, "GET", "subscriptions/"+sub.ID, nil, &s)
		return s.Cursor == 20 && s.Dead == 1
	})
	mu.Lock()
	var want []string
	for i := range 20 {
		if i+1 != 3 {
			want = append(want, fmt.Sprint(i+1))
		}
	}
	if !slices.Equal(order, want) {
		t.Errorf("in the order %v", order)
	}
	mu.Unlock()
	var dead struct{ Dead []events.DeadLetter }
	portal.ask(200, "GET", "subscriptions/"+sub.ID+"/dead", nil, &dead)
	if len(dead.Dead) != 1 || dead.Dead[0].Reason != events.DeadRefused || dead.Dead[0].Attempts < 2 || !strings.Contains(string(dead.Dead[0].Event), `"id":"3"`) {
		t.Errorf("dead letters %+v", dead.Dead)
	}
	portal.refused("NetworkError", 502, "POST", "subscriptions/"+sub.ID+"/dead/3/retry", nil)

	// Again from a cursor.
	portal.ask(200, "POST", "subscriptions/"+sub.ID+"/replay", map[string]any{"after": 17}, nil)
	waitFor(t, "the last three again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(order) == 22
	})
	// Who publishes sees who is behind.
	var info struct{ Subscribers []events.Subscriber }
	waitFor(t, "both to have all", func() bool {
		publisher.ask(200, "GET", "topics/"+topic, nil, &info)
		return len(info.Subscribers) == 2
	})
	_ = n
}

func statusTx(right string) *registrypb.Tx {
	return &registrypb.Tx{Body: &registrypb.Tx_SetRightStatus{SetRightStatus: &registrypb.SetRightStatus{Id: right, Status: registrypb.Status_STATUS_ENDED}}}
}
