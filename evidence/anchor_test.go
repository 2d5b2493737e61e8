package evidence_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
)

// witness is a registry that checks what it is given.
type witness struct {
	vkey string

	mu      sync.Mutex
	size    uint64
	root    tlog.Hash
	height  uint64
	refuse  error
	calls   int
	sizes   []uint64
	swallow bool // accepts, but the answer is lost
}

func (w *witness) Anchor(_ context.Context, checkpoint []byte, oldSize uint64, proof [][]byte) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.refuse != nil {
		return 0, w.refuse
	}
	v, err := note.NewVerifier(w.vkey)
	if err != nil {
		return 0, err
	}
	n, err := note.Open(checkpoint, note.VerifierList(v))
	if err != nil {
		return 0, err
	}
	var name, hash string
	var size uint64
	if _, err := fmt.Sscanf(n.Text, "%s\n%d\n%s\n", &name, &size, &hash); err != nil {
		return 0, err
	}
	root, err := tlog.ParseHash(hash)
	if err != nil {
		return 0, err
	}
	if oldSize != w.size {
		return 0, fmt.Errorf("old size %d, want %d", oldSize, w.size)
	}
	if w.size > 0 {
		var p tlog.TreeProof
		for _, h := range proof {
			p = append(p, tlog.Hash(h))
		}
		if err := tlog.CheckTree(p, int64(size), root, int64(w.size), w.root); err != nil {
			return 0, err
		}
	}
	w.size, w.root = size, root
	w.height++
	w.sizes = append(w.sizes, size)
	if w.swallow {
		return 0, errors.New("the connection broke")
	}
	return w.height, nil
}

func (w *witness) Anchored(string) (uint64, [32]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size, w.root, w.size > 0
}

func (w *witness) AnchoredHeight(string) (uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.height, w.height > 0
}

var _ evidence.HeightAnchorer = (*witness)(nil)

// anchors runs the anchoring of a log until the test or stop ends it.
func anchors(t *testing.T, l *evidence.Log, w *witness) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- l.RunAnchors(ctx, 2*time.Millisecond, w) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			err = <-result
		})
		return err
	}
	t.Cleanup(func() { stop() })
	return stop
}

func awaitAnchor(t *testing.T, l *evidence.Log, size uint64) {
	t.Helper()
	await(t, l, fmt.Sprintf("anchor of %d", size), func() bool { return l.Status().AnchoredSize >= size })
}

// TestDefaultAnchorInterval: all logs together never make more than the rate, until
// an anchor would be too rare to be of use.
func TestDefaultAnchorInterval(t *testing.T) {
	for logs, want := range map[int]time.Duration{
		0: 2 * time.Second, 4: 2 * time.Second, 100: 2 * time.Second, 150: 3 * time.Second,
		3000: time.Minute, 30_000: 10 * time.Minute, 90_000: 10 * time.Minute,
	} {
		if got := evidence.DefaultAnchorIntervalOf(logs); got != want {
			t.Errorf("%d logs: %s, want %s", logs, got, want)
		}
	}
}

// counting is a witness that knows how many logs there are.
type counting struct {
	*witness
	logs int
}

func (c counting) AnchoredLogs() int { return c.logs }

// TestAnchorIntervalInForce: Status tells it; one that is set stays as it is.
func TestAnchorIntervalInForce(t *testing.T) {
	for _, c := range []struct{ set, want time.Duration }{{0, time.Minute}, {7 * time.Second, 7 * time.Second}} {
		l := open(t, config(t.TempDir()))
		add(t, l, ids("e", 3)...)
		await(t, l, "a checkpoint", func() bool { return l.Status().CheckpointSize == 3 })
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.RunAnchors(ctx, c.set, counting{&witness{vkey: l.VerifierKey()}, 3000}) }()
		awaitAnchor(t, l, 3)
		if got := l.Status().AnchorInterval; got != c.want {
			t.Errorf("set to %s: %s is in force, want %s", c.set, got, c.want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Every anchor is accepted with its proof, the first that covers an entry is
// found, and all goes on after a restart.
func TestAnchors(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	w := &witness{vkey: l.VerifierKey()}
	stop := anchors(t, l, w)
	for i := range 5 {
		add(t, l, ids(fmt.Sprint("a", i), 10+i)...)
		awaitAnchor(t, l, l.Status().Next)
	}
	check := func(l *evidence.Log) {
		t.Helper()
		for index := range l.Status().AnchoredSize {
			a, ok, err := l.AnchoredFor(index)
			if err != nil || !ok {
				t.Fatalf("anchor of %d: %v, %v", index, ok, err)
			}
			at := slices.IndexFunc(w.sizes, func(s uint64) bool { return s > index })
			if a.Size != w.sizes[at] || a.Height != uint64(at+1) {
				t.Fatalf("entry %d: anchor of %d at %d, want %d at %d", index, a.Size, a.Height, w.sizes[at], at+1)
			}
			text, err := l.TLogProof(index, a)
			if err != nil || !strings.HasPrefix(string(text), fmt.Sprintf("c2sp.org/tlog-proof@v1\nindex %d\n", index)) || !strings.HasSuffix(string(text), "\n\n"+string(a.Note)) {
				t.Fatalf("proof of %d: %q, %v", index, text, err)
			}
		}
	}
	check(l)
	if _, ok, err := l.AnchoredFor(l.Status().Next); ok || err != nil {
		t.Fatalf("an entry that does not exist is anchored: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	if r := clean(t, dir); r.Anchors != uint64(len(w.sizes)) {
		t.Fatalf("fsck counts %d anchors, want %d", r.Anchors, len(w.sizes))
	}
	l = open(t, config(dir))
	anchors(t, l, w)
	check(l)
	add(t, l, "more")
	awaitAnchor(t, l, l.Status().Next)
	check(l)
}

// A registry that refuses is asked again after growing pauses; the status says why.
func TestAnchorRefused(t *testing.T) {
	l := open(t, config(t.TempDir()))
	w := &witness{vkey: l.VerifierKey(), refuse: errors.New("key_not_in_force")}
	anchors(t, l, w)
	add(t, l, "a")
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(l.Status().AnchorError, "key_not_in_force") || l.Status().AnchorRetry.IsZero() {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", l.Status())
		}
		time.Sleep(time.Millisecond)
	}
	if err := l.Admit(); err != nil {
		t.Fatalf("an anchor that waits stops exchanges: %v", err)
	}
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	awaitAnchor(t, l, 1)
	for l.Status().AnchorError != "" {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", l.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

// The answer to an anchor is lost: the registry knows, and so does the log,
// with the same note and the height.
func TestAnchorAnswerLost(t *testing.T) {
	l := open(t, config(t.TempDir()))
	w := &witness{vkey: l.VerifierKey(), swallow: true}
	anchors(t, l, w)
	add(t, l, "a")
	awaitAnchor(t, l, 1)
	text, _, _ := l.Checkpoint()
	a, ok, err := l.AnchoredFor(0)
	if err != nil || !ok || a.Height != 1 || string(a.Note) != string(text) {
		t.Fatalf("%+v, %v, %v", a, ok, err)
	}
}

// A log restored from an old backup stops instead of forking.
func TestRollbackStops(t *testing.T) {
	for _, grown := range []bool{false, true} {
		dir := t.TempDir()
		l := open(t, config(filepath.Join(dir, "log")))
		add(t, l, ids("a", 5)...)
		closeLog(t, l)
		copyLog(t, filepath.Join(dir, "backup"), filepath.Join(dir, "log"))
		l = open(t, config(filepath.Join(dir, "log")))
		w := &witness{vkey: l.VerifierKey()}
		stop := anchors(t, l, w)
		add(t, l, ids("b", 5)...)
		awaitAnchor(t, l, 10)
		stop()
		closeLog(t, l)

		l = open(t, config(filepath.Join(dir, "backup")))
		if grown { // it even outgrew what was anchored
			add(t, l, ids("c", 20)...)
			awaitSize(t, l, 25)
		}
		err := l.RunAnchors(context.Background(), time.Millisecond, w)
		if !errors.Is(err, evidence.ErrRollback) || !strings.Contains(err.Error(), "restore the newest backup") {
			t.Fatalf("grown %v: anchoring a restored backup: %v", grown, err)
		}
		if err := l.Admit(); err == nil {
			t.Fatal("admitted with a forked log")
		}
		if err := l.Append(context.Background(), record("d")); !errors.Is(err, evidence.ErrRollback) {
			t.Fatalf("appended to a forked log: %v", err)
		}
		if len(l.Status().Problems) == 0 {
			t.Fatal("the status does not say so")
		}
	}
}

// The list of receipts to deliver is durable and has only what is anchored and
// had a counterparty.
func TestDeliveries(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	w := &witness{vkey: l.VerifierKey()}
	add(t, l, "a", "b")
	refusal := record("refused here")
	refusal.PeerKeyId, refusal.Response = nil, nil
	if err := l.Append(context.Background(), refusal); err != nil {
		t.Fatal(err)
	}
	provider := record("c")
	provider.Side = evidencepb.Side_SIDE_PROVIDER
	if err := l.Append(context.Background(), provider); err != nil {
		t.Fatal(err)
	}
	awaitSize(t, l, 4)
	if d, err := l.Undelivered(0, 10); err != nil || len(d) != 0 {
		t.Fatalf("before the anchor: %v, %v", d, err)
	}
	stop := anchors(t, l, w)
	awaitAnchor(t, l, 4)
	stop()
	list := func(l *evidence.Log, from uint64, limit int) string {
		t.Helper()
		d, err := l.Undelivered(from, limit)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, d := range d {
			out = append(out, fmt.Sprintf("%d %s %d", d.Index, d.ExchangeID, d.Side))
		}
		return strings.Join(out, ", ")
	}
	if got := list(l, 0, 10); got != "0 a 1, 1 b 1, 3 c 2" {
		t.Fatalf("undelivered: %s", got)
	}
	if got := list(l, 1, 1); got != "1 b 1" {
		t.Fatalf("undelivered from 1, one: %s", got)
	}
	if err := l.Delivered(0, 3); err != nil {
		t.Fatal(err)
	}
	if err := l.PutCounterparts([]evidence.Counterpart{{ExchangeID: "a", Half: []byte("the other half")}, {ExchangeID: "c", Half: []byte("another")}}); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	l = open(t, config(dir))
	if got := list(l, 0, 10); got != "1 b 1" {
		t.Fatalf("undelivered after a restart: %s", got)
	}
	if c, err := l.Counterpart("a"); err != nil || string(c) != "the other half" {
		t.Fatalf("counterpart: %q, %v", c, err)
	}
	if c, err := l.Counterpart("b"); err != nil || c != nil {
		t.Fatalf("counterpart that has not arrived: %q, %v", c, err)
	}
	if err := l.PutCounterparts([]evidence.Counterpart{{ExchangeID: "d", Half: []byte("good")}, {}}); err == nil {
		t.Fatal("a counterpart of no exchange was kept")
	}
	if c, err := l.Counterpart("d"); err != nil || c != nil {
		t.Fatalf("a part of what was refused was kept: %q, %v", c, err)
	}
	if c, err := l.Counterpart("c"); err != nil || string(c) != "another" {
		t.Fatalf("the second counterpart: %q, %v", c, err)
	}
}
