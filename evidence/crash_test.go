package evidence_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence"
)

// EVIDENCE_KILLS says how often the crash test kills; the full form is 200.
const (
	killsVariable    = "EVIDENCE_KILLS"
	crashDirVariable = "EVIDENCE_CRASH_DIR"
	crashRunVariable = "EVIDENCE_CRASH_RUN"
	crashWriters     = 16
)

// crashConfig makes everything happen often: small segments, small batches,
// many checkpoints.
func crashConfig(dir string) evidence.Config {
	c := config(dir)
	c.SegmentBytes = 64 << 10
	c.BatchSize = 64
	c.BatchAge = 3 * time.Millisecond
	c.CheckpointInterval = time.Millisecond
	return c
}

// crashChild appends until it is killed, and prints what was acknowledged and
// which checkpoints were given out.
func crashChild() {
	fail := func(err error) {
		fmt.Printf("error %v\n", err)
		os.Exit(1)
	}
	l, err := evidence.Open(context.Background(), crashConfig(os.Getenv(crashDirVariable)))
	if err != nil {
		fail(err)
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	say("open")
	for w := range crashWriters {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv(crashRunVariable), w, i)
				if err := l.Append(context.Background(), record(id)); err != nil {
					fail(err)
				}
				say("ack %s", id)
			}
		}()
	}
	for {
		changed := l.Changed()
		_, size, root := l.Checkpoint()
		say("checkpoint %d %x", size, root)
		<-changed
	}
}

// runAndKill starts a child, kills it after a random time and returns what it
// had said.
func runAndKill(t *testing.T, dir string, run int, after time.Duration) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDirVariable+"="+dir, crashRunVariable+"="+strconv.Itoa(run))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	// Every third time the kill comes while the log is being opened.
	if run%3 != 0 {
		if first, err := lines.ReadString('\n'); err != nil || first != "open\n" {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("the child said %q, then %q (%v)", first, rest, err)
		}
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	rest, _ := io.ReadAll(lines)
	cmd.Wait()
	said := strings.Split(string(rest), "\n")
	return said[:len(said)-1] // a line that was cut off by the kill does not count
}

// kill -9 at random instants loses no acknowledged record, makes no record a
// leaf twice, and never forks the log.
func TestKill(t *testing.T) {
	kills := 25
	if s := os.Getenv(killsVariable); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	history := &crashHistory{known: map[string]bool{}, roots: map[uint64]string{}}
	for run := 1; run <= kills; run++ {
		after := time.Duration(rng.Int64N(int64(200 * time.Millisecond)))
		if run%3 == 0 {
			after = time.Duration(rng.Int64N(int64(80 * time.Millisecond)))
		}
		history.note(t, runAndKill(t, dir, run, after))
		if run%5 == 0 || run == kills {
			history.verify(t, dir, run == kills || run%25 == 0)
		}
	}
	t.Logf("%d kills, %d acknowledged records, %d checkpoints seen", kills, len(history.known), len(history.roots))
	if len(history.known) < kills {
		t.Fatal("hardly anything was appended")
	}
}

// crashHistory is what children had told before they died.
type crashHistory struct {
	known map[string]bool   // acknowledged exchanges
	fresh []string          // those not yet verified
	roots map[uint64]string // roots of checkpoints by size
}

func (h *crashHistory) note(t *testing.T, said []string) {
	t.Helper()
	for _, line := range said {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "ack":
			h.known[rest] = true
			h.fresh = append(h.fresh, rest)
		case "checkpoint":
			size, root, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseUint(size, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if before, ok := h.roots[n]; ok && before != root {
				t.Fatalf("the log forked: two roots at size %d", n)
			}
			h.roots[n] = root
		case "open":
		default:
			t.Fatalf("the child said %q", line)
		}
	}
}

// verify reopens the log and compares it with what was told. With all, every
// record is looked up and the whole tree is compared with an independent one.
func (h *crashHistory) verify(t *testing.T, dir string, all bool) {
	t.Helper()
	l, err := evidence.Open(context.Background(), crashConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	awaitStored(t, l, 0)
	closeLog(t, l) // integrates everything and signs the last checkpoint
	l = open(t, crashConfig(dir))
	defer closeLog(t, l)
	wanted := h.fresh
	if all {
		wanted = nil
		for id := range h.known {
			wanted = append(wanted, id)
		}
	}
	for _, id := range wanted {
		found, err := l.Find(id)
		if err != nil || len(found) != 1 || !found[0].Integrated {
			t.Fatalf("acknowledged record %s: %d entries, %v", id, len(found), err)
		}
		want, _ := proto.MarshalOptions{Deterministic: true}.Marshal(record(id))
		if !bytes.Equal(found[0].Record, want) {
			t.Fatalf("acknowledged record %s was changed", id)
		}
	}
	h.fresh = nil
	if all {
		h.compareTree(t, l)
		closeLog(t, l)
		clean(t, dir)
	}
}

// compareTree builds the tree from the records with an independent
// implementation and compares every checkpoint ever seen with it.
func (h *crashHistory) compareTree(t *testing.T, l *evidence.Log) {
	t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			out[i] = hashes[at]
		}
		return out, nil
	})
	_, size, root := l.Checkpoint()
	once := map[string]bool{}
	n := int64(0)
	check := func(size int64, want string) {
		t.Helper()
		got, err := tlog.TreeHash(size, reader)
		if err != nil || fmt.Sprintf("%x", got[:]) != want {
			t.Fatalf("root at size %d is %x, a checkpoint said %s (%v)", size, got, want, err)
		}
	}
	for e, err := range l.Entries(context.Background(), 0, size) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != uint64(n) {
			t.Fatalf("leaf %d in place %d", e.Index, n)
		}
		if key := string(e.Record); once[key] {
			t.Fatalf("leaf %d holds a record for the second time", n)
		} else {
			once[key] = true
		}
		more, err := tlog.StoredHashes(n, e.Leaf(), reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, more...)
		n++
		if want, ok := h.roots[uint64(n)]; ok {
			check(n, want)
		}
	}
	if uint64(n) != size {
		t.Fatalf("%d entries, the checkpoint says %d", n, size)
	}
	for seen := range h.roots {
		if seen > size {
			t.Fatalf("a checkpoint of %d entries had been given out, there are %d", seen, size)
		}
	}
	check(n, fmt.Sprintf("%x", root[:]))
}
