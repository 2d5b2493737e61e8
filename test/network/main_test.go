//go:build linux

package network_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus/test/network"
)

// TestMain runs the tests and removes the command that they built, or is itself a
// node with a wrong clock.
func TestMain(m *testing.M) {
	if offset := os.Getenv(clockVariable); offset != "" {
		os.Exit(childMain(offset))
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

var built string

// binary builds civibus once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "civibus-bin-")
	if err != nil {
		return "", err
	}
	built = filepath.Join(dir, "civibus")
	if out, err := exec.Command("go", "build", "-C", "../..", "-o", built, "./cmd/civibus").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return built, nil
})

// needs skips a test on a computer that cannot make network namespaces. Where the
// whole suite must run, that is a failure.
func needs(t *testing.T) {
	t.Helper()
	if err := network.Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// only skips a test that is not part of "go test ./...": test/fault/run runs it.
func only(t *testing.T) {
	t.Helper()
	if os.Getenv("CIVIBUS_FAULT") == "" {
		t.Skip("part of the fault suite: test/fault/run --short, or CIVIBUS_FAULT=short")
	}
}

// times is how often a fault is repeated: in "go test ./...", in the short suite,
// and in the long one.
func times(byDefault, short, long int) int {
	switch os.Getenv("CIVIBUS_FAULT") {
	case "long":
		return long
	case "short":
		return short
	}
	return byDefault
}

// trial is a network under load and what is counted while faults happen to it.
type trial struct {
	*testing.T
	*network.Network
	started time.Time
	faults  int
	commits []time.Duration
}

// start founds a network and puts load on it.
func start(t *testing.T, o network.Options) *trial {
	t.Helper()
	needs(t)
	var err error
	if o.Binary, err = binary(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n, err := network.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			n.Tell(t.Logf)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d bodies take exchanges after %v", len(n.Bodies), time.Since(began).Round(time.Millisecond))
	n.Run(100*time.Millisecond, 500*time.Millisecond)
	return &trial{T: t, Network: n, started: time.Now()}
}

// others are all bodies but those given.
func (r *trial) others(but ...*network.Body) (out []*network.Body) {
next:
	for _, b := range r.Bodies {
		for _, x := range but {
			if b == x {
				continue next
			}
		}
		out = append(out, b)
	}
	return out
}

// some draws n different bodies.
func (r *trial) some(n int) (out []*network.Body) {
	for _, i := range rand.Perm(len(r.Bodies))[:n] {
		out = append(out, r.Bodies[i])
	}
	return out
}

// commits holds the bodies to committing within the bound and counts how long it
// took. It is called when a fault has ended, or when one has begun that must not
// stop them.
func (r *trial) commit(bodies ...*network.Body) time.Duration {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), network.CommitBound())
	defer cancel()
	took, err := r.Commits(ctx, bodies...)
	if err != nil {
		r.Fatalf("after fault %d: %v", r.faults, err)
	}
	r.commits = append(r.commits, took)
	return took.Round(time.Millisecond)
}

// ready waits until bodies take exchanges.
func (r *trial) ready(bodies ...*network.Body) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	r.ok(r.Await(ctx, bodies...))
}

func (r *trial) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// end verifies all that must hold and tells the figures, also to the file that
// CIVIBUS_FAULT_REPORT names.
func (r *trial) end() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Minute)
	defer cancel()
	took := time.Since(r.started)
	f, err := r.Verify(ctx)
	if err != nil {
		r.Error(err)
	}
	var slowest time.Duration
	for _, c := range r.commits {
		slowest = max(slowest, c)
	}
	line := struct {
		Test    string  `json:"test"`
		Passed  bool    `json:"passed"`
		Bodies  int     `json:"bodies"`
		Seconds float64 `json:"seconds"`
		Faults  int     `json:"faults"`
		network.Figures
		LongestGap  float64 `json:"longest_gap_seconds"`
		SlowestNext float64 `json:"slowest_next_commit_seconds"`
	}{r.Name(), !r.Failed(), len(r.Bodies), seconds(took), r.faults, f, seconds(f.LongestGap), seconds(slowest)}
	text, err := json.Marshal(line)
	r.ok(err)
	r.Logf("%s", text)
	if file := os.Getenv("CIVIBUS_FAULT_REPORT"); file != "" {
		out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		r.ok(err)
		_, err = out.Write(append(text, '\n'))
		r.ok(err)
		r.ok(out.Close())
	}
}

func seconds(d time.Duration) float64 {
	s, _ := strconv.ParseFloat(fmt.Sprintf("%.2f", d.Seconds()), 64)
	return s
}
