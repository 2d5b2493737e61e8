package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	f_note "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// TestFourValidators follows four nodes through the life of a network: commit,
// one stopped, caught up, two stopped, back.
func TestFourValidators(t *testing.T) {
	w := newNetwork(t, 4, func(i int, cfg *ledger.Config) { cfg.StallAfter = 500 * time.Millisecond })

	// A change is visible at all, with one hash.
	c := mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "REGISTER", "Population register"))
	w.agree(c.Height)
	id := civibus.ClientID{MemberID: w.bodies[0].member, Subsystem: "REGISTER"}
	for i, n := range w.nodes {
		if s, ok := n.View().Subsystem(id); !ok || s.Name != "Population register" {
			t.Fatalf("node %d: subsystem %+v, %v", i, s, ok)
		}
	}
	// Any node takes transactions, at once.
	var group sync.WaitGroup
	for i := range w.nodes {
		group.Go(func() {
			for k := range 5 { // one key's transactions in their order
				mustSubmitAsync(t, w.nodes[i], w.bodies[i].notarise(t, fmt.Sprintf("%d/%d", i, k)))
			}
		})
	}
	group.Wait()
	w.agree(0)
	eventually(t, 10*time.Second, "all nodes healthy", func() bool {
		return !slices.ContainsFunc(w.nodes, func(n *ledger.Node) bool { s := n.Status(); return !s.Healthy || len(s.Problems) > 0 || s.CatchingUp })
	})

	var last ledger.Status
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the first node's last status: %+v", last)
		}
	})

	// One of four may fail.
	w.stop(3)
	c = mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "without the fourth"))
	eventually(t, 10*time.Second, "a missing peer is a problem, but not illness", func() bool {
		s := w.nodes[0].Status()
		last = s
		return s.Healthy && s.Peers == 2 && len(s.Problems) == 1 && strings.Contains(s.Problems[0], "missing")
	})
	w.start(3)
	w.agree(c.Height)

	// Two of four are too many.
	w.stop(2)
	w.stop(3)
	height := w.nodes[0].View().Height()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	envelope := w.bodies[0].notarise(t, "waits for a quorum")
	type answer struct {
		c   ledger.Committed
		err error
	}
	answers := make(chan answer, 1)
	go func() { c, err := w.nodes[0].Submit(ctx, envelope); answers <- answer{c, err} }()
	eventually(t, 20*time.Second, "the status says stalled and without quorum", func() bool {
		s := w.nodes[0].Status()
		last = s
		text := strings.Join(s.Problems, "\n")
		return !s.Healthy && strings.Contains(text, "stalled") && strings.Contains(text, "no quorum")
	})
	if got := w.nodes[0].View().Height(); got > height+1 {
		t.Fatalf("two of four made blocks %d to %d", height, got)
	}
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if _, err := w.nodes[1].Submit(short, w.bodies[1].notarise(t, "in vain")); !errors.Is(err, ledger.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("submit without a quorum: %v, want ErrUncertain", err)
	}
	w.start(2)
	got := <-answers
	if got.err != nil || got.c.Code != 0 {
		t.Fatalf("the waiting transaction: %+v, %v", got.c, got.err)
	}
	w.start(3)
	w.agree(got.c.Height)
}

func mustSubmitAsync(t testing.TB, n *ledger.Node, envelope []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if c, err := n.Submit(ctx, envelope); err != nil || c.Code != 0 {
		t.Errorf("submit: %+v, %v", c, err)
	}
}

// TestSubmitResults goes through what Submit can answer, on one validator.
func TestSubmitResults(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.Metrics, cfg.TimeoutCommit = reg, -1 })
	n, b := w.nodes[0], w.bodies[0]

	envelope := b.notarise(t, "once")
	first := mustSubmit(t, n, envelope)
	if again := mustSubmit(t, n, envelope); again != first {
		t.Fatalf("submitted again: %+v, want the same %+v", again, first)
	}
	if _, ok, err := n.View().Notarisation([32]byte{}); ok || err != nil {
		t.Fatalf("a digest nobody notarised: %v, %v", ok, err)
	}

	refuse := func(name string, envelope []byte, code string) {
		t.Helper()
		c, err := n.Submit(within(t, 10*time.Second), envelope)
		if err != nil || c.Code.String() != code || c.Reason == "" || c.Height != 0 {
			t.Errorf("%s: %+v (%s), %v; want code %s, a reason and no height", name, c, c.Code, err, code)
		}
	}
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
	refuse("flipped signature", flip(b.notarise(t, "bad signature")), "bad_signature")
	refuse("no envelope", []byte("not an envelope"), "bad_encoding")
	refuse("empty", nil, "bad_encoding")
	b.sequence.Store(0)
	refuse("sequence used", b.notarise(t, "old sequence"), "bad_sequence")
	b.sequence.Store(10)
	refuse("too large", append(b.notarise(t, "x"), make([]byte, 1<<20)...), "too_large")
	stranger, _ := makeBodies(t, 1)
	refuse("unknown key", stranger[0].notarise(t, "x"), "unknown_key")

	// Two of the same sequence in one block: one is refused by the block.
	b.sequence.Store(100)
	one := b.notarise(t, "first of a sequence")
	b.sequence.Store(100)
	two := b.notarise(t, "second of a sequence")
	var group sync.WaitGroup
	results := make([]ledger.Committed, 2)
	for i, e := range [][]byte{one, two} {
		group.Go(func() {
			var err error
			if results[i], err = n.Submit(within(t, 10*time.Second), e); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if (results[0].Code == 0) == (results[1].Code == 0) {
		t.Fatalf("two transactions with one sequence: %+v; want exactly one accepted", results)
	}

	mustSubmit(t, n, b.notarise(t, "still alive"))
	if s := n.Status(); !s.Healthy || len(s.Problems) != 0 {
		t.Fatalf("status %+v", s)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) != 0 {
		t.Fatalf("metrics: %v, %v", problems, err)
	}
	if got := testutil.ToFloat64(counter(t, reg, "civibus_ledger_height")); got == 0 {
		t.Fatal("the height metric is 0")
	}
}

// counter reads one metric as a collector.
func counter(t testing.TB, reg *prometheus.Registry, name string) prometheus.Collector {
	t.Helper()
	families, err := reg.Gather()
	check(t, err)
	for _, f := range families {
		if f.GetName() == name {
			g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"})
			m := f.GetMetric()[0]
			g.Set(m.GetGauge().GetValue() + m.GetCounter().GetValue())
			return g
		}
	}
	t.Fatalf("no metric %s", name)
	return nil
}

// TestFollowerSubmitsAndStrangerIsRefused: a node without a vote follows and
// submits; a node that nobody configured stays outside.
func TestFollowerSubmitsAndStrangerIsRefused(t *testing.T) {
	w := newNetwork(t, 1, nil)
	follower := func(name string, permitted bool) *ledger.Node {
		t.Helper()
		key := nodeKey(t)
		id := ledger.NodeID(key.Public().(ed25519.PublicKey))
		if permitted {
			w.stop(0)
			w.change = func(_ int, cfg *ledger.Config) { cfg.Peers = append(cfg.Peers, id) }
			w.start(0)
		}
		n, err := ledger.Open(context.Background(), ledger.Config{
			Dir: filepath.Join(w.dir, name), Genesis: w.genesis, NodeKey: key, WatchInterval: 20 * time.Millisecond,
			Peers: []string{w.bodies[0].nodeID + "@" + w.listen[0]}, TimeoutCommit: 20 * time.Millisecond, Logger: testLogger(),
		})
		check(t, err)
		t.Cleanup(func() { check(t, n.Close(within(t, 20*time.Second))) })
		return n
	}
	f := follower("follower", true)
	c := mustSubmit(t, f, w.bodies[0].notarise(t, "from a follower"))
	check(t, w.nodes[0].WaitView(within(t, 10*time.Second), func(v *registry.View) bool { return v.Height() >= c.Height }))
	if s := f.Status(); s.Validator || s.Peers != 1 {
		t.Fatalf("follower's status %+v", s)
	}
	if _, err := f.Cosign(context.Background(), 1); !errors.Is(err, ledger.ErrNoWitness) {
		t.Fatalf("cosign without a key: %v", err)
	}

	stranger := follower("stranger", false)
	eventually(t, 10*time.Second, "the stranger says that it has no peer", func() bool {
		s := stranger.Status()
		return !s.Healthy && s.Peers == 0 && stranger.View() != nil && stranger.View().Height() == 0
	})
	if got := w.nodes[0].Status().Peers; got != 1 {
		t.Fatalf("the validator has %d peers, want the follower only", got)
	}
}

// TestCosignatures: checkpoints of executed sizes are cosigned, verify with the
// policy's keys, and nothing else is signed.
func TestCosignatures(t *testing.T) {
	w := newNetwork(t, 4, nil)
	c := mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "to be witnessed"))
	w.agree(c.Height)
	v := w.nodes[0].View()
	size, ok, err := v.EventSizeAt(c.Height)
	if err != nil || !ok {
		t.Fatalf("event size at height %d: %v, %v", c.Height, ok, err)
	}
	policy, err := ledger.PolicyText(v)
	check(t, err)
	text, err := w.nodes[0].Checkpoint(size)
	check(t, err)
	signed := text + "\n"
	for _, n := range w.nodes {
		line, err := n.Cosign(context.Background(), size)
		check(t, err)
		if again, err := n.Cosign(context.Background(), size); err != nil || again != line {
			t.Fatalf("cosigned again: %q, %v; want %q", again, err, line)
		}
		signed += line
	}
	var verifiers []note.Verifier
	for _, l := range strings.Split(policy, "\n") {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "witness" {
			verifier, err := f_note.NewVerifierForCosignatureV1(f[2])
			check(t, err)
			verifiers = append(verifiers, verifier)
		}
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(verifiers...))
	check(t, err)
	if len(opened.Sigs) != 4 || len(opened.UnverifiedSigs) != 0 {
		t.Fatalf("%d cosignatures verify, want 4", len(opened.Sigs))
	}
	if !strings.Contains(policy, "group ledger 3 ") || !strings.HasSuffix(policy, "\nquorum ledger\n") {
		t.Fatalf("policy:\n%s", policy)
	}
	for _, bad := range []uint64{0, size - 1, size + 1000} {
		if _, err := w.nodes[0].Cosign(context.Background(), bad); !errors.Is(err, ledger.ErrNotExecuted) {
			t.Errorf("cosign size %d: %v, want ErrNotExecuted", bad, err)
		}
	}
}

// TestOpenRefuses: bad configurations and directories are named, not run.
func TestOpenRefuses(t *testing.T) {
	w := newNetwork(t, 1, nil)
	open := func(change func(*ledger.Config)) error {
		cfg := w.config(0)
		cfg.ListenAddress = ""
		change(&cfg)
		n, err := ledger.Open(context.Background(), cfg)
		if err == nil {
			check(t, n.Close(context.Background()))
			t.Fatal("opened")
		}
		return err
	}
	for _, c := range []struct {
		name, want string
		change     func(*ledger.Config)
	}{
		{"directory in use", "another process", func(*ledger.Config) {}},
		{"nothing set", "genesis: it is missing", func(c *ledger.Config) { *c = ledger.Config{} }},
		{"bad peer", "40 lower-case hex", func(c *ledger.Config) { c.Peers = []string{"body@example:1"} }},
		{"peer twice", "listed twice", func(c *ledger.Config) { id := strings.Repeat("a", 40); c.Peers = []string{id, id + "@x:1"} }},
		{"retain too little", "at least", func(c *ledger.Config) { c.RetainBlocks = 5 }},
		{"no key", "validator key: there is none", func(c *ledger.Config) { c.Dir, c.ValidatorKeys = t.TempDir(), votesWith() }},
		{"address taken", "address already in use; change ledger.listen", func(c *ledger.Config) { c.Dir, c.ListenAddress = t.TempDir(), w.listen[0] }},
	} {
		if err := open(c.change); !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "a block"))
	w.stop(0)
	_, other := makeBodies(t, 1)
	if err := open(func(c *ledger.Config) { c.Genesis = other }); !strings.Contains(err.Error(), "another genesis") {
		t.Errorf("another genesis: %v", err)
	}
	w.start(0)
	mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "still usable"))
}
