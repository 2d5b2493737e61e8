package seal_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
)

// nonce returns the nth nonce.
func nonce(n int) (out [16]byte) {
	binary.BigEndian.PutUint64(out[:], uint64(n))
	return out
}

// journalClock is a clock that tests set.
type journalClock struct{ now time.Time }

func (c *journalClock) Now() time.Time { return c.now }

func openJournal(t testing.TB, dir, boot string, c *journalClock) *seal.ReplayJournal {
	t.Helper()
	j, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: dir, Now: c.Now, BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func use(j *seal.ReplayJournal, n int, created, now time.Time) error {
	return j.Use(civibus.KeyID{1}, nonce(n), created, now)
}

func TestReplayJournalRemembers(t *testing.T) {
	c := &journalClock{start}
	j := openJournal(t, t.TempDir(), "boot", c)
	if r := j.Recovery(); len(r.Problems) > 0 || !r.RefuseUntil.IsZero() {
		t.Errorf("a new journal has problems: %+v", r)
	}
	// Over 30 minutes, each nonce is refused as long as its request could be accepted.
	var made []time.Time
	for i := range 180 {
		now := start.Add(time.Duration(i) * 10 * time.Second)
		made = append(made, now)
		if err := use(j, i, now, now); err != nil {
			t.Fatal(err)
		}
		for k, created := range made {
			if now.Sub(created) <= seal.DefaultMaxAge+seal.DefaultMaxSkew {
				wantFault(t, use(j, k, created, now), civibus.FaultReplay, "")
			}
		}
	}
	if n := j.Nonces(); n > 80 {
		t.Errorf("%d nonces are kept for a window of 42", n)
	}
	// Another key may use the same nonce.
	last := made[len(made)-1]
	if err := j.Use(civibus.KeyID{2}, nonce(179), last, last); err != nil {
		t.Error(err)
	}
	// A clock set back does not open what was dropped.
	wantFault(t, use(j, 0, start, start), civibus.FaultReplay, "cannot rule out")
}

func TestReplayJournalRestart(t *testing.T) {
	dir, c := t.TempDir(), &journalClock{start}
	j := openJournal(t, dir, "boot 1", c)
	for i := range 100 {
		if err := use(j, i, start, start); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: dir, Now: c.Now}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("it was opened twice: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantFault(t, use(j, 1000, start, start), civibus.FaultEvidence, "stopping")
	// After a clean stop even another boot refuses nothing but what was seen.
	c.now = start.Add(time.Minute)
	j = openJournal(t, dir, "boot 2", c)
	if r := j.Recovery(); r.Nonces != 100 || len(r.Problems) > 0 {
		t.Errorf("recovery %+v", r)
	}
	for i := range 100 {
		wantFault(t, use(j, i, start, c.now), civibus.FaultReplay, "received before")
	}
	if err := use(j, 100, start, c.now); err != nil {
		t.Error(err)
	}
}

// TestConcurrentCopies sends every request eight times at once: exactly one
// copy gets through.
func TestConcurrentCopies(t *testing.T) {
	people := newCast(t)
	v := verifier(people.ed)
	v.Replay = openJournal(t, t.TempDir(), "boot", &journalClock{start})
	for range 20 {
		m, _ := people.whole(t, people.ed, "POST", "{}", start)
		var passed atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := v.Request(m.request()); err == nil {
					passed.Add(1)
				} else if f := civibus.AsFault(civibus.ProviderGateway, err); f.Code != civibus.FaultReplay {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if passed.Load() != 1 {
			t.Fatalf("%d copies got through", passed.Load())
		}
	}
}

func TestReplayJournalPowerLoss(t *testing.T) {
	dir, c := t.TempDir(), &journalClock{start}
	j := openJournal(t, dir, "boot1", c)
	if err := use(j, 1, start, start); err != nil {
		t.Fatal(err)
	}
	copyDir := t.TempDir()
	copyFiles(t, dir, copyDir) // what was on disk when the power went
	c.now = start.Add(10 * time.Second)
	j = openJournal(t, copyDir, "boot2", c)
	r := j.Recovery()
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "state: the machine was restarted") || !r.RefuseUntil.Equal(c.now.Add(seal.DefaultMaxSkew)) {
		t.Fatalf("recovery %+v", r)
	}
	// All that may have been accepted before is refused, to the second; later requests are not.
	for _, created := range []time.Time{start, c.now, r.RefuseUntil} {
		wantFault(t, use(j, 2, created, c.now), civibus.FaultReplay, r.RefuseUntil.UTC().Format(time.RFC3339))
	}
	if err := use(j, 2, r.RefuseUntil.Add(time.Second), r.RefuseUntil.Add(time.Second)); err != nil {
		t.Error(err)
	}
	// The rule outlives a further restart of the process.
	again := t.TempDir()
	copyFiles(t, copyDir, again)
	j = openJournal(t, again, "boot2", c)
	wantFault(t, use(j, 3, r.RefuseUntil, c.now), civibus.FaultReplay, "cannot rule out")
}

func copyFiles(t testing.TB, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newest returns the file that is written to.
func newest(t testing.TB, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "nonces-*.log"))
	if err != nil || len(names) == 0 {
		t.Fatal(err, names)
	}
	return names[len(names)-1]
}

func TestReplayJournalDamage(t *testing.T) {
	for name, damage := range map[string]struct {
		do   func(t *testing.T, dir string)
		says string
	}{
		"cut short":       {func(t *testing.T, dir string) { truncate(t, newest(t, dir), -5) }, "entry 9 is cut short"},
		"header cut":      {func(t *testing.T, dir string) { truncate(t, newest(t, dir), -28*10-1) }, "header is damaged"},
		"empty":           {func(t *testing.T, dir string) { truncate(t, newest(t, dir), -28*11) }, "header is damaged"},
		"one bit":         {func(t *testing.T, dir string) { flipBit(t, newest(t, dir), 28+28*4+3) }, "entry 4 is damaged"},
		"zeros at end":    {func(t *testing.T, dir string) { truncate(t, newest(t, dir), 28) }, "entry 10 is damaged"},
		"file missing":    {func(t *testing.T, dir string) { remove(t, newest(t, dir)) }, "are missing"},
		"state missing":   {func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "state")) }, "state: it is missing"},
		"state damaged":   {func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, "state"), -3) }, "state: it is damaged"},
		"file renamed":    {func(t *testing.T, dir string) { rename(t, newest(t, dir)) }, "its name is not"},
		"file in between": {func(t *testing.T, dir string) { gap(t, dir) }, "a file before it is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			live, dir, c := t.TempDir(), t.TempDir(), &journalClock{start}
			j := openJournal(t, live, "boot", c)
			for i := range 10 {
				if err := use(j, i, start, start); err != nil {
					t.Fatal(err)
				}
			}
			copyFiles(t, live, dir)
			damage.do(t, dir)
			c.now = start.Add(time.Second)
			j = openJournal(t, dir, "boot", c)
			r := j.Recovery()
			if len(r.Problems) == 0 || !strings.Contains(strings.Join(r.Problems, "\n"), damage.says) || !strings.Contains(r.Problems[0], dir) {
				t.Fatalf("problems %q, want %q", r.Problems, damage.says)
			}
			for i := range 12 {
				wantFault(t, use(j, i, start, c.now), civibus.FaultReplay, "")
				wantFault(t, use(j, i, r.RefuseUntil, r.RefuseUntil), civibus.FaultReplay, "cannot rule out")
			}
			after := r.RefuseUntil.Add(time.Second)
			if err := use(j, 50, after, after); err != nil {
				t.Error(err)
			}
		})
	}
}

func truncate(t testing.TB, name string, by int64) {
	t.Helper()
	s, err := os.Stat(name)
	if err == nil {
		err = os.Truncate(name, s.Size()+by)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flipBit(t testing.TB, name string, at int) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 4
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, name string) {
	t.Helper()
	if err := os.Rename(name, filepath.Join(filepath.Dir(name), fmt.Sprintf("nonces-%016x.log", 99))); err != nil {
		t.Fatal(err)
	}
}

// gap opens the journal twice more and takes the file in the middle away.
func gap(t *testing.T, dir string) {
	c := &journalClock{start}
	for range 2 {
		j, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: dir, Now: c.Now, BootID: "boot"})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	remove(t, filepath.Join(dir, fmt.Sprintf("nonces-%016x.log", 2)))
}

// TestReplayJournalFullDisk fails writes half way and shows that nothing is
// accepted unrecorded, and that the journal is whole afterwards.
func TestReplayJournalFullDisk(t *testing.T) {
	dir, c := t.TempDir(), &journalClock{start}
	j := openJournal(t, dir, "boot", c)
	disk := seal.FillDisk(j)
	accepted := map[int]bool{}
	for i := range 60 {
		disk.Full = i%3 == 1
		disk.Stuck = i%9 == 1 // not even the torn entry can be cut off
		err := use(j, i, start, start)
		if disk.Full || disk.Stuck {
			wantFault(t, err, civibus.FaultEvidence, "cannot record")
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the cause is lost: %v", err)
			}
			if i == 4 { // nothing torn is left behind, should the process end now
				now := t.TempDir()
				copyFiles(t, dir, now)
				if r := openJournal(t, now, "boot", c).Recovery(); len(r.Problems) > 0 {
					t.Errorf("after a failed write: %q", r.Problems)
				}
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		accepted[i] = true
	}
	copied := t.TempDir()
	copyFiles(t, dir, copied)
	j = openJournal(t, copied, "boot", c)
	if r := j.Recovery(); len(r.Problems) > 0 || r.Nonces != len(accepted) {
		t.Fatalf("recovery %+v, want %d nonces", r, len(accepted))
	}
	for i := range 60 {
		if err := use(j, i, start, start); (err != nil) != accepted[i] {
			t.Errorf("nonce %d: accepted before %v, now %v", i, accepted[i], err)
		}
	}
}

// TestReplayJournalBounded floods a small journal: it forgets, and refuses
// what it forgot.
func TestReplayJournalBounded(t *testing.T) {
	c := &journalClock{start}
	j, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: t.TempDir(), Now: c.Now, BootID: "b", MaxNonces: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	now := start
	for i := range 1000 {
		now = start.Add(time.Duration(i) * 2 * time.Second)
		if err := use(j, i, now, now); err != nil {
			t.Fatal(err)
		}
		if n := j.Nonces(); n > 80 {
			t.Fatalf("%d nonces are kept", n)
		}
	}
	for i := range 1000 {
		wantFault(t, use(j, i, start.Add(time.Duration(i)*2*time.Second), now), civibus.FaultReplay, "")
	}
	names, _ := filepath.Glob(filepath.Join(seal.JournalDir(j), "nonces-*.log"))
	if len(names) > 12 {
		t.Errorf("%d files are left", len(names))
	}
}

// TestReplayJournalModel compares with a memory without bounds, over restarts
// of both kinds.
func TestReplayJournalModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "model")
		if err != nil {
			rt.Fatal(err)
		}
		c := &journalClock{start}
		boot := 0
		open := func() *seal.ReplayJournal {
			j, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: dir, Now: c.Now, BootID: fmt.Sprint("boot", boot)})
			if err != nil {
				rt.Fatal(err)
			}
			return j
		}
		j := open()
		defer func() { _ = j.Close() }()
		accepted := map[int]bool{}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			c.now = c.now.Add(time.Duration(rapid.IntRange(0, 100).Draw(rt, "seconds")) * time.Second)
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				boot += rapid.IntRange(0, 1).Draw(rt, "reboot")
				j = open()
			default:
				n := rapid.IntRange(0, 20).Draw(rt, "nonce")
				created := start.Add(time.Duration(n) * 37 * time.Second)
				if created.After(c.now.Add(seal.DefaultMaxSkew)) || created.Before(c.now.Add(-seal.DefaultMaxAge-seal.DefaultMaxSkew)) {
					continue
				}
				err := use(j, n, created, c.now)
				if err == nil && accepted[n] {
					rt.Fatalf("nonce %d was accepted twice", n)
				}
				if err != nil && !accepted[n] {
					rt.Fatalf("nonce %d was refused though it is new: %v", n, err)
				}
				accepted[n] = true
			}
		}
	})
}

// TestReplayJournalKilled kills a process that records nonces as fast as it
// can; every nonce that it reported is refused afterwards.
func TestReplayJournalKilled(t *testing.T) {
	dir := t.TempDir()
	total := 0
	for round := range 10 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "CIVIBUS_REPLAY_CHILD="+dir, fmt.Sprintf("CIVIBUS_REPLAY_FROM=%d", total))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		want := total + 20 + 37*round
		for lines.Scan() {
			if _, err := fmt.Sscanf(lines.Text(), "used %d", &total); err != nil {
				t.Errorf("the child says %q", lines.Text())
				break
			}
			if total == want {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		total++
		if total < want {
			t.Fatalf("the child ended by itself at %d", total)
		}
	}
	c := &journalClock{start}
	j := openJournal(t, dir, "boot", c)
	if r := j.Recovery(); len(r.Problems) > 0 || r.Nonces < total {
		t.Fatalf("recovery %+v after %d nonces", r, total)
	}
	for i := range total {
		wantFault(t, use(j, i, start, start), civibus.FaultReplay, "received before")
	}
}

// replayChild is the process that TestReplayJournalKilled kills.
func replayChild() bool {
	dir := os.Getenv("CIVIBUS_REPLAY_CHILD")
	if dir == "" {
		return false
	}
	j, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: dir, Now: clock, BootID: "boot"})
	if err != nil {
		fmt.Println(err)
		return true
	}
	var from int
	_, _ = fmt.Sscan(os.Getenv("CIVIBUS_REPLAY_FROM"), &from)
	for i := from; i < from+1_000_000; i++ {
		if err := use(j, i, start, start); err != nil {
			// The parent may not have read the last line before the kill.
			continue
		}
		fmt.Printf("used %d\n", i)
	}
	return true
}

func FuzzReplayJournal(f *testing.F) {
	f.Add([]byte("CVNONCE1"), []byte("civibus-nonces/v1 clean\n"))
	f.Fuzz(func(t *testing.T, file, state []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("nonces-%016x.log", 1)), file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state"), state, 0o600); err != nil {
			t.Fatal(err)
		}
		c := &journalClock{start}
		j := openJournal(t, dir, "boot", c)
		if err := use(j, 1, start, start); err != nil {
			wantFault(t, err, civibus.FaultReplay, "")
		}
	})
}

// TestReplayJournalKeepsItsFloor holds that what was dropped stays refused by
// its time, also after the process has died right after and when the clock that
// it was dropped by was wrong.
func TestReplayJournalKeepsItsFloor(t *testing.T) {
	t.Run("killed after a drop", func(t *testing.T) {
		c, dir := &journalClock{start}, t.TempDir()
		config := seal.ReplayConfig{Dir: dir, Now: c.Now, BootID: "b", MaxNonces: 80}
		j, err := seal.OpenReplayJournal(config)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		for i := range 83 { // the first of them are dropped for want of room
			c.now = c.now.Add(2 * time.Second)
			if err := use(j, i, c.now, c.now); err != nil {
				t.Fatal(i, err)
			}
		}
		if j.Nonces() >= 83 {
			t.Fatal("nothing was dropped")
		}
		config.Dir = filepath.Join(t.TempDir(), "as it was when the process died")
		if err := os.CopyFS(config.Dir, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		again, err := seal.OpenReplayJournal(config)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if r := again.Recovery(); len(r.Problems) > 0 {
			t.Fatalf("%+v", r)
		}
		for i := range 83 {
			created := start.Add(time.Duration(i+1) * 2 * time.Second)
			wantFault(t, use(again, i, created, c.now), civibus.FaultReplay, "")
		}
	})
	t.Run("opened with a clock ahead", func(t *testing.T) {
		c, dir := &journalClock{start}, t.TempDir()
		j := openJournal(t, dir, "b", c)
		if err := use(j, 1, start, start); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		c.now = start.Add(time.Hour)
		j = openJournal(t, dir, "b", c)
		c.now = start.Add(time.Minute) // set right
		wantFault(t, use(j, 1, start, c.now), civibus.FaultReplay, "")
		if err := use(j, 2, c.now, c.now); err != nil {
			t.Error(err)
		}
	})
}
