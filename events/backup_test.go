package events

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
)

// archive is what a backup put, in a folder.
type archive string

func (a archive) put(name string, size int64, content io.Reader) error {
	file := filepath.Join(string(a), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(content, size))
	if err == nil && int64(len(text)) != size {
		err = fmt.Errorf("%s has %d of %d bytes", name, len(text), size)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// restored makes a room's folder of a backup.
func restored(t *testing.T, backup func(a archive) error) string {
	t.Helper()
	a := archive(t.TempDir())
	if err := backup(a); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(string(a), "data", "events")
	if err := RestoreDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// eventIDs fetches events after a cursor until there are n and returns their ids.
func eventIDs(t *testing.T, r *Room, sub string, after uint64, n int) (ids []string) {
	t.Helper()
	for len(ids) < n {
		list, last, err := r.subs[sub].events(timeout(t), r.ctx, after, 1000)
		if err != nil || len(list) == 0 {
			t.Fatalf("after %d: %d events of %d, %v", after, len(ids), n, err)
		}
		for _, e := range list {
			_, rest, _ := strings.Cut(string(e), `"id":"`)
			id, _, _ := strings.Cut(rest, `"`)
			ids = append(ids, id)
		}
		after = last
	}
	return ids
}

// TestRestoredSubscriber: a backup that is made while events come and are taken holds
// all of before; restored, the inbox goes on where it was, with the same provider,
// without a gap and with nothing twice, and the cursor is not behind what the backup knew.
func TestRestoredSubscriber(t *testing.T) {
	dir := t.TempDir()
	a := openRoom(dir+"/a", provider, nil, nil)
	defer a.Close()
	b := openRoom(dir+"/b", consumer, func() *Room { return a }, nil)
	client := testTopic.Service.ClientID
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	ended := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst, Name: "ended"}))
	// 1. Some events are taken, one of them is a dead letter.
	must(a.Publish(t.Context(), client, testTopic, testEvents("before", 50)))
	eventIDs(t, b, s.ID, 0, 50)
	if err := b.subs[s.ID].bury(DeadLetter{Seq: 7, Reason: DeadRejected}); err != nil {
		t.Fatal(err)
	}
	if err := b.subs[s.ID].advance(30); err != nil {
		t.Fatal(err)
	}
	if err := b.Unsubscribe(b.subs[ended.ID]); err != nil {
		t.Fatal(err)
	}
	// 2. A backup, while more come.
	stop, published := make(chan struct{}), 50
	var busy sync.WaitGroup
	busy.Go(func() {
		for i := 0; ; i++ {
			must(a.Publish(context.Background(), client, testTopic, testEvents(fmt.Sprint("during", i), 3)))
			published += 3
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	dirs := []string{restored(t, func(to archive) error { return b.Backup(t.Context(), to.put, "data/events") })}
	close(stop)
	busy.Wait()
	// 3. And one of the room when it is closed.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	dirs = append(dirs, restored(t, func(to archive) error { return BackupDir(t.Context(), dir+"/b", to.put, "data/events") }))
	must(a.Publish(t.Context(), client, testTopic, testEvents("after", 5)))
	published += 5
	for i, dir := range dirs {
		b := openRoom(dir, consumer, func() *Room { return a }, nil)
		again, made, err := b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst})
		if err != nil || made || again.ID != s.ID || again.Cursor != 30 || again.Dead != 1 {
			t.Fatalf("backup %d: the subscription is %+v, made %t, %v", i, again, made, err)
		}
		if _, err := os.Stat(filepath.Join(dir, inboxDir, ended.ID)); !os.IsNotExist(err) {
			t.Errorf("backup %d: the inbox of a subscription that has ended is there", i)
		}
		ids, seen := eventIDs(t, b, s.ID, 0, published-1), map[string]bool{}
		for _, id := range ids {
			if seen[id] {
				t.Errorf("backup %d: event %s is there twice", i, id)
			}
			seen[id] = true
		}
		if len(ids) != published-1 || seen["before-6"] || !seen["before-0"] || !seen["after-4"] {
			t.Errorf("backup %d: %d events, published %d, one of them a dead letter", i, len(ids), published)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestoredPublisher: after a restore every event of before the backup is there, and
// one that is published again is the same event; its numbering is another, so that a
// subscriber who had more than the backup takes no event for another, and one who
// subscribes again has all of it.
func TestRestoredPublisher(t *testing.T) {
	dir := t.TempDir()
	a := openRoom(dir+"/a", provider, nil, nil)
	current := func() *Room { return a }
	b := openRoom(dir+"/b", consumer, func() *Room { return current() }, nil)
	client := testTopic.Service.ClientID
	must(a.Publish(t.Context(), client, testTopic, testEvents("before", 40)))
	s := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst}))
	eventIDs(t, b, s.ID, 0, 40)
	running := restored(t, func(to archive) error { return a.Backup(t.Context(), to.put, "data/events") })
	must(a.Publish(t.Context(), client, testTopic, testEvents("lost", 10)))
	eventIDs(t, b, s.ID, 40, 10)
	for _, r := range []*Room{b, a} {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stopped := restored(t, func(to archive) error { return BackupDir(t.Context(), dir+"/a", to.put, "data/events") })
	for _, c := range []struct {
		dir  string
		kept int
	}{{running, 40}, {stopped, 50}} {
		a = openRoom(c.dir, provider, nil, nil)
		o := must(a.boxes.get(testTopic.String(), false))
		if known := o.list(); len(known) != 1 || known[0].Client != subscriber.String() {
			t.Errorf("of %d: it knows of %+v", c.kept, known)
		}
		if p := must(a.Publish(t.Context(), client, testTopic, testEvents("before", 40))); p.Duplicates != 40 || p.Last != 40 {
			t.Errorf("of %d: published again: %+v", c.kept, p)
		}
		// What has the numbers of what was lost must reach nobody as that.
		must(a.Publish(t.Context(), client, testTopic, testEvents("new", 20)))
		b := openRoom(dir+"/b", consumer, current, nil)
		waitUntil(t, func() error {
			v := b.subs[s.ID].snapshot()
			if v.Received != 50 {
				t.Fatalf("of %d: %+v", c.kept, v)
			}
			if v.Reason != string(civibus.FaultBadCursor) || !strings.Contains(v.Message, "restored") {
				return fmt.Errorf("%+v", v)
			}
			return nil
		})
		again := must2(b.Subscribe(subscriber, Wish{Topic: testTopic.String(), From: FromFirst, Name: fmt.Sprint("of", c.kept)}))
		ids := eventIDs(t, b, again.ID, 0, c.kept+20)
		if len(ids) != c.kept+20 || ids[0] != "before-0" || ids[c.kept-1] != map[int]string{40: "before-39", 50: "lost-9"}[c.kept] || ids[c.kept] != "new-0" {
			t.Errorf("of %d: %q", c.kept, ids)
		}
		for _, r := range []*Room{b, a} {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDamagedBackupOfMessages: a restore reads every event.
func TestDamagedBackupOfMessages(t *testing.T) {
	dir := t.TempDir()
	a := openRoom(dir+"/a", provider, nil, nil)
	for i := range 10 {
		must(a.Publish(t.Context(), testTopic.Service.ClientID, testTopic, testEvents(fmt.Sprint(i), 10)))
	}
	to := archive(t.TempDir())
	if err := a.Backup(t.Context(), to.put, "data/events"); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(string(to), "data/events/outbox/*/*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text := must(os.ReadFile(files[0]))
	text[len(text)/2] ^= 1
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RestoreDir(filepath.Join(string(to), "data/events")); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged backup is restored: %v", err)
	}
}

// waitUntil calls fn until it is content.
func waitUntil(t *testing.T, fn func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
