package testnet_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// concerns makes a call of the portal that concerns a person.
func concerns(t *testing.T, consumer *testnet.Body, service civibus.ServiceID, path, person, body string) string {
	t.Helper()
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
	c := client.Call{Service: service, Path: path, Purpose: "permit", Header: http.Header{civibus.HeaderSubject: {person}}}
	if body != "" {
		c.Method, c.Body, c.Header["Content-Type"] = http.MethodPost, strings.NewReader(body), []string{"application/json"}
	}
	answer, err := portal.Do(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("answer %d %s %v", answer.StatusCode, text, err)
	}
	return answer.Exchange
}

// restart starts a body in the folder of an archive.
func restart(t *testing.T, b *testnet.Body, archive []byte) (node.Restored, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	out, err := node.RestoreBackup(t.Context(), bytes.NewReader(archive), erasureKeys(t, b.Config), dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Config, err = node.LoadConfig(filepath.Join(dir, "civibus.toml")); err != nil {
		t.Fatal(err)
	}
	return out, dir
}

// TestRestoredMessagesAndUsageRecords: the outbox of a running publisher, the inbox of a
// subscriber that is stopped, and the periods, cases and the key of usage records are in
// the backup; restored, nothing is missing of them, and without its key a body with usage
// records does not start with another.
func TestRestoredMessagesAndUsageRecords(t *testing.T) {
	n, publisher, portal, topic := messages(t, func(i int, c *node.Config) {
		if i == 0 {
			c.Usage.Subsystem, c.Usage.Period = "population", node.Duration(time.Second)
		}
	})
	provider, consumer := n.Bodies[0], n.Bodies[3]
	service, ask := provider.Service("population", "persons"), provider.Service("population", "usage")
	register(t, n, provider.Publish(civibus.Service{ID: ask, Type: civibus.REST, Title: "Who asked about me"}))
	register(t, n,
		provider.Grant(civibus.AccessRight{Service: service, Client: consumer.Client("portal"), Purpose: "permit", LegalBasis: "https://law.example/act/7 (fictitious)", Disclosure: civibus.Shown, Sentence: "The town looked up your address.",
			Endpoints: []civibus.Endpoint{{Method: "GET", Path: "/*"}}}),
		provider.Grant(civibus.AccessRight{Service: ask, Client: consumer.Client("portal"), Purpose: "permit", LegalBasis: "https://law.example/act/15 (fictitious)"}))

	// 1. Events, of which the subscriber's system has taken some.
	if status, _, raw := publisher.do("POST", "topics/"+topic+"/events", events.BatchType, batch(1, 20, "k")); status != 202 {
		t.Fatalf("publish: %d %s", status, raw)
	}
	var sub events.Subscription
	portal.ask(201, "POST", "subscriptions", events.Wish{Topic: topic, From: events.FromFirst}, &sub)
	if got, _ := portal.fetch(sub.ID, "wait=20"); len(got) != 20 {
		t.Fatalf("fetched %+v", got)
	}
	portal.ask(200, "POST", "subscriptions/"+sub.ID+"/ack", map[string]any{"upto": 8, "refused": []any{map[string]any{"seq": 5, "reason": "no such person"}}}, &sub)

	// 2. A person, a case of hers, and the period that they are in.
	concerns(t, consumer, service, "/1", "FIC-0001", "")
	usage := func(subject string) admin.UsageAnswer {
		t.Helper()
		out, err := provider.Admin().Usage(t.Context(), admin.UsageQuery{Subject: subject, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	wait(t, "the record is found", func() bool { return len(usage("FIC-0001").Records) == 1 })
	id := usage("FIC-0001").Records[0].ID
	concerns(t, consumer, ask, "/objection", "FIC-0001", `{"userCode":"FIC-0001","id":"`+id+`","text":"I asked for no permit."}`)
	wait(t, "the period is anchored", func() bool {
		s, err := provider.Admin().Status(t.Context())
		p := usage("").Periods
		return err == nil && len(p) > 0 && p[0].EndLeaf == s.Evidence.Size
	})
	before := usage("")

	// 3. The publisher is backed up while it runs, the subscriber when it is stopped.
	archive, without := backUp(t, provider), backUpWith(t, provider, false)
	key, err := os.ReadFile(filepath.Join(provider.Config.DataDir, "usage.key"))
	if err != nil || bytes.Contains(without, key) || !bytes.Contains(archive, key) {
		t.Errorf("the key of usage records is in the backup without keys, or not in the one with keys: %v", err)
	}
	for _, b := range []*testnet.Body{provider, consumer} {
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	var stopped bytes.Buffer
	w := backup.NewWriter(&stopped, time.Now())
	m := consumer.Config.Manifest(time.Now(), true)
	if err := errors.Join(consumer.Config.BackupStopped(t.Context(), w.Put, &m), consumer.Config.BackupFiles(w.Put, consumer.ConfigFile, true), w.Close(&m)); err != nil {
		t.Fatal(err)
	}

	// 4. Without the key of the usage records the publisher does not start.
	ours := provider.Config
	out, dir := restart(t, provider, without)
	if !slices.ContainsFunc(out.Notes, func(n string) bool { return strings.Contains(n, filepath.Join(dir, "data", "usage.key")) }) {
		t.Errorf("notes without keys: %q", out.Notes)
	}
	provider.Config.Keys = ours.Keys
	if err := provider.Start(t.Context(), 60*time.Second); err == nil || !strings.Contains(err.Error(), "the usage key is not the one") {
		t.Fatalf("started with another key: %v", err)
	}

	// 5. With it everything is there.
	restart(t, provider, archive)
	if err := provider.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	wait(t, "the record is found again", func() bool { return len(usage("FIC-0001").Records) == 1 })
	after := usage("")
	if len(after.Objections) != 1 || after.Objections[0] != before.Objections[0] || len(after.Periods) != len(before.Periods) || after.Periods[0] != before.Periods[0] {
		t.Errorf("restored %+v, before %+v", after, before)
	}
	if got := usage("FIC-0001").Records[0].ID; got != id {
		t.Errorf("the record is %s, was %s", got, id)
	}
	var info struct{ Newest uint64 }
	publisher.ask(200, "GET", "topics/"+topic, nil, &info)
	if info.Newest != 20 {
		t.Errorf("the newest event is %d, want 20", info.Newest)
	}
	var published events.Published
	status, _, raw := publisher.do("POST", "topics/"+topic+"/events", events.BatchType, batch(1, 21, "k"))
	if err := json.Unmarshal(raw, &published); status != 202 || err != nil || published.Duplicates != 20 || published.Last != 21 {
		t.Errorf("published again: %d %s", status, raw)
	}
	restart(t, consumer, stopped.Bytes())
	if err := consumer.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	portal.ask(200, "GET", "subscriptions/"+sub.ID, nil, &sub)
	if sub.Cursor != 8 || sub.Dead != 1 || sub.Received != 20 {
		t.Errorf("the restored subscription is %+v", sub)
	}
	if got, _ := portal.fetch(sub.ID, "limit=100"); len(got) != 12 || got[0].ID != "9" || got[11].ID != "20" {
		t.Errorf("fetched after the restore %+v", got)
	}
}
