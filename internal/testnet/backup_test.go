package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// backUp makes an archive of a running body, as civibus backup does before it
// encrypts.
func backUp(t *testing.T, b *testnet.Body) []byte { return backUpWith(t, b, true) }

func backUpWith(t *testing.T, b *testnet.Body, keys bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w := backup.NewWriter(&out, time.Now())
	m := b.Config.Manifest(time.Now(), keys)
	stores, err := b.Admin().Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent, err := backup.Each(stores, w.Put)
	if err := errors.Join(err, stores.Close()); err != nil {
		t.Fatal(err)
	}
	m.Ledger, m.Logs, m.ChainID = sent.Ledger, sent.Logs, sent.ChainID
	if err := errors.Join(b.Config.BackupFiles(w.Put, b.ConfigFile, keys), w.Close(&m)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// problems are what a body says of its ledger.
func problems(t *testing.T, b *testnet.Body) string {
	t.Helper()
	s, err := b.Admin().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(s.Ledger.Problems, "\n")
}

// TestRestoredBodyGoesOn backs up a body under load, lets it go on, and puts the
// restored folder in its place. Nothing that was acknowledged before the backup
// began is missing in it, the evidence log that the registry has seen more of is
// refused by name, the validator signs again without having signed twice, and
// exchanges go on in a new log.
func TestRestoredBodyGoesOn(t *testing.T) {
	n := network(t)
	provider, consumer := n.Bodies[0], n.Bodies[3]

	// 1. Load, and a backup in the middle of it.
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	var done []string
	var load sync.WaitGroup
	for range 3 {
		load.Go(func() {
			portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot(t)}
			for i := 0; ctx.Err() == nil; i++ {
				answer, err := portal.Do(ctx, client.Call{Service: provider.Service("population", "persons"), Path: fmt.Sprint("/", i), Purpose: "residence-check"})
				if err != nil {
					continue
				}
				_, err = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				if err == nil && answer.StatusCode == 200 {
					mu.Lock()
					done = append(done, answer.Exchange)
					mu.Unlock()
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(done) }
	wait(t, "exchanges before the backup", func() bool { return count() >= 50 })
	mu.Lock()
	before := append([]string(nil), done...)
	mu.Unlock()
	archive := backUp(t, consumer)
	during := count()
	wait(t, "exchanges after the backup", func() bool { return count() >= during+50 })
	stop()
	load.Wait()
	receiptOf(t, consumer, done[len(done)-1]) // so that the registry has seen more than the backup

	// 2. The body is lost and restored.
	if err := consumer.Stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	damaged := bytes.Clone(archive)
	damaged[len(damaged)/2] ^= 1
	if _, err := node.RestoreBackup(t.Context(), bytes.NewReader(damaged), erasureKeys(t, consumer.Config), dir); err == nil {
		t.Fatal("a damaged backup was restored")
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) > 0 {
		t.Fatalf("a refused backup left %v, %v", left, err)
	}
	restored, err := node.RestoreBackup(t.Context(), bytes.NewReader(archive), erasureKeys(t, consumer.Config), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(restored.Logs) != 1 || restored.Logs[0].Records+restored.Logs[0].Pending < uint64(len(before)) {
		t.Fatalf("restored %+v, want at least %d records", restored.Logs, len(before))
	}
	t.Logf("%d exchanges before the backup began, %d in all; restored %d records at height %d", len(before), len(done), restored.Logs[0].Records+restored.Logs[0].Pending, restored.Height)
	if _, err := node.RestoreBackup(t.Context(), bytes.NewReader(archive), nil, dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Fatalf("restored over a body: %v", err)
	}

	// 3. Its log is behind what the registry has seen: it says so and takes nothing.
	if consumer.Config, err = node.LoadConfig(filepath.Join(dir, "civibus.toml")); err != nil {
		t.Fatal(err)
	}
	if err := consumer.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	if p := problems(t, consumer); !strings.Contains(p, "this validator does not sign") || !strings.Contains(p, "restored from the backup of") {
		t.Errorf("problems of the restored node: %s", p)
	}
	for _, id := range before {
		if x, err := consumer.Admin().Exchange(t.Context(), id); err != nil || len(x.Entries) == 0 {
			t.Fatalf("exchange %s was acknowledged before the backup and is not in it: %v", id, err)
		}
	}
	wait(t, "the old log is refused", func() bool {
		s, err := consumer.Admin().Status(t.Context())
		return err != nil || !s.Evidence.Accepting
	})
	_ = consumer.Stop() // with the error that says why

	// 4. A new log. The guard comes down while the others go on.
	consumer.Config.Evidence.Log = 2
	if err := consumer.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	receiptOf(t, consumer, call(t, consumer, provider, "/again"))
	k := 0
	wait(t, "the validator signs again", func() bool {
		k++
		register(t, n, provider.Subsystem(fmt.Sprint("s", k), "makes a block"))
		return !strings.Contains(problems(t, consumer), "this validator does not sign")
	})
	if err := n.Bodies[1].Stop(); err != nil { // now every vote of the three is needed
		t.Fatal(err)
	}
	if _, err := provider.Admin().Change(t.Context(), provider.Subsystem("last", "needs its vote").Tx); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*testnet.Body{provider, consumer} {
		all, _ := b.Node().Admin().View().Misbehaviour("", 0)
		if len(all) > 0 {
			t.Fatalf("a validator signed twice: %+v", all)
		}
	}
}

// wait waits until what becomes true.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(60 * time.Second); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// erasureKeys is a copy of what a body's records are sealed with.
func erasureKeys(t *testing.T, c node.Config) io.Reader {
	t.Helper()
	var out bytes.Buffer
	if _, err := c.WriteErasureKeys(&out); err != nil {
		t.Fatal(err)
	}
	return &out
}
