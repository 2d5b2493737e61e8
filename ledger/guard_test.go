package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
)

// guarded says whether a node reports its guard, with a text.
func guarded(n *ledger.Node, text string) bool {
	all := strings.Join(n.Status().Problems, "\n")
	return strings.Contains(all, "this validator does not sign") && strings.Contains(all, text)
}

// goOn makes blocks at a node until done says so.
func (w *network) goOn(i int, what string, done func() bool) {
	w.t.Helper()
	for k := 0; !done(); k++ {
		if k == 500 {
			w.t.Fatalf("not within %d blocks: %s; %v", k, what, w.nodes[i].Status().Problems)
		}
		mustSubmit(w.t, w.nodes[i], w.bodies[i].notarise(w.t, fmt.Sprint(what, time.Now().UnixNano())))
	}
}

// innocent wants that no validator was proved to have signed twice, and that the
// chain needs and gets the signature of the given one: with another stopped.
func (w *network) innocent(signs, stopped int) {
	w.t.Helper()
	all, _ := w.nodes[signs].View().Misbehaviour("", 0)
	if len(all) > 0 {
		w.t.Fatalf("a validator signed twice: %+v", all)
	}
	w.stop(stopped)
	w.agree(mustSubmit(w.t, w.nodes[signs], w.bodies[signs].notarise(w.t, "it signs again")).Height)
	w.start(stopped)
	all, _ = w.nodes[signs].View().Misbehaviour("", 0)
	if len(all) > 0 {
		w.t.Fatalf("a validator signed twice: %+v", all)
	}
}

// TestOldCopyDoesNotSignTwice: a validator's folder is copied, the validator goes
// on, and the copy is put in its place by hand, so that nothing marks it as old.
// The blocks that it fetches tell it, and it signs again once the chain has gone
// on without it.
func TestOldCopyDoesNotSignTwice(t *testing.T) {
	w := governed(t, 4, nil)
	w.startAll()
	w.agree(mustSubmit(t, w.nodes[3], w.bodies[3].notarise(t, "before the copy")).Height)
	dir, old := filepath.Join(w.dir, "body3"), filepath.Join(w.dir, "copy")
	w.stop(3)
	check(t, os.CopyFS(old, os.DirFS(dir)))
	w.start(3)
	until := w.nodes[0].View().Height() + 8
	w.goOn(3, "beyond the copy", func() bool { return w.nodes[3].View().Height() > until })
	w.stop(3)

	check(t, os.RemoveAll(dir))
	check(t, os.Rename(old, dir))
	w.start(3)
	w.goOn(0, "the guard goes up", func() bool { return guarded(w.nodes[3], "carries a signature of this validator's key") })
	if _, err := os.Stat(filepath.Join(dir, "engine", "guard.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.nodes[3].Cosign(within(t, 10*time.Second), w.nodes[3].View().EventSize()); !errors.Is(err, ledger.ErrGuarded) {
		t.Fatalf("cosigned while guarded: %v", err)
	}
	w.goOn(0, "the guard comes down", func() bool { return !guarded(w.nodes[3], "") })
	if _, err := os.Stat(filepath.Join(dir, "engine", "guard.json")); !os.IsNotExist(err) {
		t.Fatalf("the guard's file: %v", err)
	}
	v := w.nodes[3].View()
	if _, err := w.nodes[3].Cosign(within(t, 10*time.Second), v.EventSize()); err != nil {
		t.Fatalf("cosign after the guard: %v", err)
	}
	w.innocent(3, 2)
}

// TestGuardSurvivesRestarts: a guard that was set stays up over restarts and
// without the last-sign state, and a lost last-sign state raises one by itself.
func TestGuardSurvivesRestarts(t *testing.T) {
	w := governed(t, 4, nil)
	w.startAll()
	w.goOn(3, "some history", func() bool { return w.nodes[3].View().Height() > 8 })
	w.stop(3)
	dir := filepath.Join(w.dir, "body3")
	check(t, os.Remove(filepath.Join(dir, "engine", "priv_validator_state.json")))
	check(t, ledger.SetGuard(dir, ledger.Guard{Since: time.Now(), Cause: "restored by a test"}))
	for range 2 {
		w.start(3)
		if !guarded(w.nodes[3], "restored by a test") {
			t.Fatalf("problems: %v", w.nodes[3].Status().Problems)
		}
		w.stop(3)
	}
	check(t, os.Remove(filepath.Join(dir, "engine", "guard.json")))
	w.start(3)
	if !guarded(w.nodes[3], "carries a signature of this validator's key") {
		t.Fatalf("problems: %v", w.nodes[3].Status().Problems)
	}
	w.goOn(0, "the guard comes down", func() bool { return !guarded(w.nodes[3], "") })
	w.innocent(3, 2)
}

// TestGuardSeesTheOtherNode: while another node uses the key, the guard stays up
// and says so.
func TestGuardSeesTheOtherNode(t *testing.T) {
	var w *network
	w = governed(t, 4, func(i int, cfg *ledger.Config) {
		if i == 4 {
			cfg.ValidatorKeys = votesWith(w.bodies[3].validator)
		}
	})
	w.add()
	for i := range 4 {
		w.start(i)
	}
	w.goOn(3, "some history", func() bool { return w.nodes[3].View().Height() > 8 })
	w.start(4) // a new folder with a key in use: the blocks that it fetches tell it
	w.goOn(0, "the guard sees the other node", func() bool { return guarded(w.nodes[4], "another node uses its key") })
	all, _ := w.nodes[0].View().Misbehaviour("", 0)
	if len(all) > 0 {
		t.Fatalf("a validator signed twice: %+v", all)
	}
}

// TestLiftGuard: an instance whose validators are all guarded stands still until
// its operators lift the guards.
func TestLiftGuard(t *testing.T) {
	w := governed(t, 2, nil)
	w.startAll()
	last := mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "1"))
	w.agree(last.Height)
	for i := range 2 {
		w.stop(i)
		dir := filepath.Join(w.dir, fmt.Sprint("body", i))
		check(t, os.Remove(filepath.Join(dir, "engine", "priv_validator_state.json")))
		check(t, os.RemoveAll(filepath.Join(dir, "engine", "cs.wal")))
		check(t, ledger.SetGuard(dir, ledger.Guard{Since: time.Now(), Cause: "restored by a test"}))
	}
	w.startAll()
	short, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if c, err := w.nodes[0].Submit(short, w.bodies[0].notarise(t, "too early")); !errors.Is(err, ledger.ErrUncertain) {
		t.Fatalf("a block without any validator: %+v, %v", c, err)
	}
	for i := range 2 {
		w.stop(i)
		dir := filepath.Join(w.dir, fmt.Sprint("body", i))
		height, err := ledger.LiftGuard(dir)
		if err != nil || height < last.Height {
			t.Fatalf("lifted at height %d: %v", height, err)
		}
		if _, err := ledger.LiftGuard(dir); err == nil || !strings.Contains(err.Error(), "nothing to lift") {
			t.Fatalf("lifted twice: %v", err)
		}
	}
	w.startAll()
	w.agree(mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "after")).Height)
	for i := range 2 {
		if guarded(w.nodes[i], "") {
			t.Fatalf("node %d: %v", i, w.nodes[i].Status().Problems)
		}
	}
}
