package testnet_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// lockedBuffer takes a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(s))
}

// TestBodyBeginsWithSnapshot: a body that starts when the others have a history takes
// a snapshot of theirs, verified, and then votes and exchanges like them.
func TestBodyBeginsWithSnapshot(t *testing.T) {
	var log lockedBuffer
	var faces []string
	n, err := testnet.Found(testnet.Options{
		Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Configure: func(i int, c *node.Config) {
			faces = append(faces, c.Provider.Listen)
			c.Ledger.SnapshotInterval = 8
			if i == 3 {
				c.Ledger.FullNodes = append([]string{}, faces[:3]...)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var wg sync.WaitGroup
	for _, b := range n.Bodies[:3] {
		wg.Go(func() {
			if err := b.Start(t.Context(), time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := 0; !log.has("snapshot made"); i++ {
		register(t, n, n.Bodies[0].Subsystem(fmt.Sprint("s", i), "A subsystem"))
	}
	for i := range 3 { // the headers after it
		register(t, n, n.Bodies[1].Subsystem(fmt.Sprint("t", i), "A subsystem"))
	}
	late := n.Bodies[3]
	if err := late.Start(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	if !log.has("the ledger node begins with a snapshot") || !log.has("began with a verified snapshot of the registry") {
		t.Error("it did not begin with a snapshot")
	}
	register(t, n, late.Subsystem("own", "Its own"))
	if _, ok := late.Node().Admin().View().Subsystem(n.Bodies[0].Client("s0")); !ok {
		t.Error("it lacks what came before the snapshot")
	}
}
