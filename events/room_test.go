package events

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// view is a registry in which everybody may do everything.
type view struct{ topic registry.Topic }

func (view) Height() uint64 { return 1 }
func (view) Member(id civibus.MemberID) (civibus.Member, bool) {
	return civibus.Member{ID: id, Status: civibus.Active}, true
}
func (view) Subsystem(id civibus.ClientID) (civibus.Subsystem, bool) {
	return civibus.Subsystem{ID: id, Status: civibus.Active}, true
}
func (view) Service(id civibus.ServiceID) (civibus.Service, bool) {
	return civibus.Service{ID: id, Type: civibus.REST, Status: civibus.Active}, true
}
func (view) RightsFor(s civibus.ServiceID, c civibus.ClientID) iter.Seq[*civibus.AccessRight] {
	return func(yield func(*civibus.AccessRight) bool) {
		yield(&civibus.AccessRight{ID: "r", Service: s, Client: c, Status: civibus.Active})
	}
}
func (v view) Topic(registry.TopicID) (registry.Topic, bool)     { return v.topic, true }
func (v view) Topics(string, int) ([]registry.Topic, string)     { return []registry.Topic{v.topic}, "" }
func (v view) TopicsOf(civibus.ServiceID) (out []registry.Topic) { return []registry.Topic{v.topic} }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	provider   = must(civibus.ParseMemberID("TEST/GOV/A"))
	consumer   = must(civibus.ParseMemberID("TEST/GOV/B"))
	testTopic  = must(registry.ParseTopicID("TEST/GOV/A/S/svc/topic"))
	subscriber = must(civibus.ParseClientID("TEST/GOV/B/S"))
	allowAll   = view{registry.Topic{ID: testTopic, Status: civibus.Active}}
)

// openRoom opens a room that reaches another one.
func openRoom(dir string, member civibus.MemberID, other func() *Room, change func(*Config)) *Room {
	c := Config{
		Dir: dir, Member: member, View: func() View { return allowAll }, FirstBackOff: time.Millisecond, MaxBackOff: 10 * time.Millisecond,
		Ask: func(ctx context.Context, q Question) (*Answer, time.Duration, error) {
			resp, err := other().Answer(ctx, q.Service, q.Path, q.Query, http.Header{"X-Road-Client": {q.Client.String()}}, bytes.NewReader(q.Body))
			if err != nil {
				return nil, 0, err
			}
			body, err := io.ReadAll(resp.Body)
			return &Answer{Exchange: "00000000-0000-4000-8000-000000000000", Header: resp.Header, Body: body}, 0, err
		},
		Wait: func(ctx context.Context, _ civibus.MemberID, _ string, wants []Want) ([]int, error) {
			return other().Await(ctx, wants), ctx.Err()
		},
	}
	if change != nil {
		change(&c)
	}
	return must(Open(c))
}

func testEvents(prefix string, n int) []*Event {
	var out []*Event
	for i := range n {
		out = append(out, must(ParseEvent(fmt.Appendf(nil, `{"specversion":"1.0","id":"%s-%d","source":"/s","type":"t"}`, prefix, i))))
	}
	return out
}

const killDir = "CIVIBUS_TEST_EVENTS_KILL"

// TestKillChild is the process that TestKilledLosesNothing kills.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("it is run by TestKilledLosesNothing")
	}
	a := openRoom(dir+"/a", provider, nil, nil)
	b := openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	go func() {
		for {
			b.mu.Lock()
			sub := b.subs[s.ID]
			b.mu.Unlock()
			list, last, err := sub.events(context.Background(), b.ctx, sub.snapshot().Cursor, 100)
			if err == nil && len(list) > 0 && sub.advance(last) == nil {
				fmt.Printf("C %d\n", last)
			}
		}
	}()
	for i := 0; ; i++ {
		prefix := fmt.Sprintf("%d.%d", os.Getpid(), i)
		p, err := a.Publish(context.Background(), testTopic.Service.ClientID, testTopic, testEvents(prefix, 1+i%5))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("P %d %s-%d\n", p.Last, prefix, i%5)
	}
}

func must2[T any](v T, _ bool, err error) T { return must(v, err) }

// TestKilledLosesNothing kills the process of publisher and subscriber again and again
// at any moment: what was acknowledged is there, in its place, once; the subscriber has
// all of it in order; and no acknowledged cursor goes back.
func TestKilledLosesNothing(t *testing.T) {
	dir := t.TempDir()
	published, cursor := map[uint64]string{}, uint64(0)
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKillChild$", "-test.v")
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			var seq uint64
			var id string
			if k, _ := fmt.Sscanf(lines.Text(), "P %d %s", &seq, &id); k == 2 {
				published[seq] = id
				n++
			} else if k, _ := fmt.Sscanf(lines.Text(), "C %d", &seq); k == 1 {
				cursor = max(cursor, seq)
			}
			if n == 30+17*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				n++
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
	}
	if len(published) < 200 || cursor == 0 {
		t.Fatalf("%d publications, cursor %d: the processes did not do their work", len(published), cursor)
	}
	a := openRoom(dir+"/a", provider, nil, nil)
	b := openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	if s.Cursor < cursor {
		t.Errorf("the cursor is %d, and %d was acknowledged", s.Cursor, cursor)
	}
	o := must(a.boxes.get(testTopic.String(), true))
	_, newest := o.stream.bounds()
	sub := b.subs[s.ID]
	after, ids := uint64(0), map[string]bool{}
	for after < newest {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		list, _, err := sub.events(ctx, b.ctx, after, 100)
		cancel()
		if err != nil || len(list) == 0 {
			t.Fatalf("after %d of %d: %d events, %v", after, newest, len(list), err)
		}
		for _, e := range list {
			after++
			id, ok := published[after]
			if !strings.HasPrefix(string(e), fmt.Sprintf(`{"civibusseq":"%d",`, after)) || ok && !strings.Contains(string(e), `"id":"`+id+`"`) {
				t.Fatalf("event %d, published as %q, is %s", after, id, e)
			}
			_, rest, _ := strings.Cut(string(e), `"id":"`)
			rest, _, _ = strings.Cut(rest, `"`)
			if ids[rest] {
				t.Fatalf("event %s is there twice", rest)
			}
			ids[rest] = true
		}
	}
	for seq := range published {
		if seq > newest {
			t.Errorf("event %d was acknowledged, the newest is %d", seq, newest)
		}
	}
}

// TestMissedEventsAreTold: a subscriber that was away for longer than the provider keeps
// events goes on with what there is, and a dead letter says what is missing.
func TestMissedEventsAreTold(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1_000_000, 0)
	a := openRoom(dir+"/a", provider, nil, func(c *Config) { c.Clock = func() time.Time { return now }; c.Retention = time.Hour })
	b := openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	ctx, client := t.Context(), testTopic.Service.ClientID
	must(a.Publish(ctx, client, testTopic, testEvents("one", 3)))
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	if list, _, err := b.subs[s.ID].events(timeout(t), b.ctx, 0, 10); err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openRoom(dir+"/a", provider, nil, func(c *Config) { c.Clock = func() time.Time { return now }; c.Retention = time.Hour })
	defer a.Close()
	must(a.Publish(ctx, client, testTopic, testEvents("two", 4)))
	if known := must(a.boxes.get(testTopic.String(), true)).list(); len(known) != 1 || known[0].Waiting < 4 {
		t.Errorf("after a restart the provider knows of %+v", known)
	}
	now = now.Add(2 * time.Hour)
	a.tidy()
	must(a.Publish(ctx, client, testTopic, testEvents("three", 2)))
	b = openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	defer b.Close()
	list, last, err := b.subs[s.ID].events(timeout(t), b.ctx, 3, 10)
	if err != nil || len(list) != 2 || last != 9 || !strings.Contains(string(list[0]), "three-0") {
		t.Fatalf("%q up to %d, %v", list, last, err)
	}
	dead := must(b.subs[s.ID].deadLetters(0, 10))
	if len(dead) != 1 || dead[0].Seq != 4 || dead[0].Until != 7 || dead[0].Reason != DeadGone {
		t.Errorf("dead letters %+v", dead)
	}
}

// TestTopicBegunAnew: a provider that lost its outbox numbers anew, and no subscriber
// mistakes one of its events for another.
func TestTopicBegunAnew(t *testing.T) {
	dir := t.TempDir()
	a := openRoom(dir+"/a", provider, nil, nil)
	b := openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	must(a.Publish(t.Context(), testTopic.Service.ClientID, testTopic, testEvents("old", 3)))
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	if list, _, err := b.subs[s.ID].events(timeout(t), b.ctx, 0, 10); err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	for _, r := range []*Room{b, a} {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir + "/a"); err != nil {
		t.Fatal(err)
	}
	a = openRoom(dir+"/a", provider, nil, nil)
	defer a.Close()
	must(a.Publish(t.Context(), testTopic.Service.ClientID, testTopic, testEvents("new", 5)))
	b = openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	defer b.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		v := b.subs[s.ID].snapshot()
		if v.Received != 3 || time.Now().After(deadline) {
			t.Fatalf("%+v", v)
		}
		if v.Reason == string(civibus.FaultBadCursor) && strings.Contains(v.Message, "anew") {
			break
		}
	}
	again := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst, Name: "again"}))
	if list, _, err := b.subs[again.ID].events(timeout(t), b.ctx, 0, 10); err != nil || len(list) != 5 {
		t.Fatal(list, err)
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestPoisonFromTheProvider: what a provider's gateway seals and is no event is a dead
// letter at once, the provider is told, and what comes after is delivered.
func TestPoisonFromTheProvider(t *testing.T) {
	dir := t.TempDir()
	a := openRoom(dir+"/a", provider, nil, nil)
	defer a.Close()
	o := must(a.boxes.get(testTopic.String(), true))
	must(o.stream.append(0, nil, time.Now(), [][]byte{
		[]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t"}`), []byte("\x00\xff"), []byte(`{"id":"3"}`), []byte(`{ "specversion":"1.0","id":"4","source":"/s","type":"t"}`),
		[]byte(`{"specversion":"1.0","id":"5","source":"/s","type":"t"}`),
	}))
	b := openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	defer b.Close()
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	list, last, err := b.subs[s.ID].events(timeout(t), b.ctx, 0, 10)
	if err != nil || len(list) != 2 || last != 5 || !strings.Contains(string(list[1]), `"id":"5"`) {
		t.Fatalf("%q up to %d, %v", list, last, err)
	}
	dead := must(b.subs[s.ID].deadLetters(0, 10))
	if len(dead) != 3 || dead[0].Seq != 2 || dead[0].Raw == nil || dead[1].Reason != DeadInvalid || !strings.Contains(dead[1].Message, "specversion") || !strings.Contains(dead[2].Message, "compact") {
		t.Errorf("dead letters %+v", dead)
	}
	if p := must(b.subs[s.ID].prove(2)); p.Count != 5 { // proved with the others
		t.Errorf("proof %+v", p)
	}
	must(a.Publish(t.Context(), testTopic.Service.ClientID, testTopic, testEvents("x", 1)))
	if list, _, err := b.subs[s.ID].events(timeout(t), b.ctx, 5, 10); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if told := o.list(); len(told) != 1 || told[0].Refused != 3 {
		t.Errorf("the provider knows %+v", told)
	}
}

// TestBatchesThatLie: a batch that is not what was asked for, or not what its head says,
// brings nothing into the inbox.
func TestBatchesThatLie(t *testing.T) {
	lies := map[string]func(*Answer){
		"another place": func(a *Answer) { a.Body, a.Header = encoded(&Batch{First: 7, Events: lines(7, 1), Newest: 7}) },
		"altered":       func(a *Answer) { a.Body = append(a.Body[:len(a.Body)-1:len(a.Body)-1], 'x') },
		"no head":       func(a *Answer) { a.Header = http.Header{} },
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a := openRoom(dir+"/a", provider, nil, nil)
			defer a.Close()
			must(a.Publish(t.Context(), testTopic.Service.ClientID, testTopic, testEvents("x", 2)))
			lied := make(chan struct{})
			first := true
			b := openRoom(dir+"/b", consumer, func() *Room { return a }, func(c *Config) {
				ask := c.Ask
				c.Ask = func(ctx context.Context, q Question) (*Answer, time.Duration, error) {
					if strings.Contains(q.Query, "after=first") { // begins honestly
						q.Query = strings.Replace(q.Query, "max=2048", "max=1", 1)
						return ask(ctx, q)
					}
					out, after, err := ask(ctx, q)
					if err == nil {
						lie(out)
						if !first {
							return out, after, err
						}
						first = false
						close(lied)
					}
					return out, after, err
				}
			})
			defer b.Close()
			s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
			<-lied
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				v := b.subs[s.ID].snapshot()
				if v.Received != 1 {
					t.Fatalf("%+v", v)
				}
				if v.Reason == string(civibus.FaultInconsistentAnswer) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("no reason: %+v", v)
				}
			}
		})
	}
}

func encoded(b *Batch) ([]byte, http.Header) {
	body, field := b.Encode()
	return body, http.Header{BatchField: {field}}
}
