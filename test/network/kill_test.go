//go:build linux

package network_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/civibus/civibus/test/network"
)

// TestKilledNodes: under load, one of four nodes after the other is killed at some
// moment and started again.
func TestKilledNodes(t *testing.T) {
	kill(t, 4, 1, kills(times(2, 8, 500)))
}

// TestKilledNodesAmongSeven: of seven, two at a time.
func TestKilledNodesAmongSeven(t *testing.T) {
	only(t)
	kill(t, 7, 2, times(0, 2, 100))
}

// kills is how often a node of four is killed: CIVIBUS_FAULT_KILLS, if it is set.
func kills(otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv("CIVIBUS_FAULT_KILLS")); err == nil {
		return n
	}
	return otherwise
}

func kill(t *testing.T, bodies, at, rounds int) {
	r := start(t, network.Options{Bodies: bodies})
	for range rounds {
		victims := r.some(at)
		r.Sick(victims...)
		for _, b := range victims {
			b.Kill()
			r.faults++
		}
		// Without them the others go on, for some moments or for some blocks.
		if rand.IntN(2) == 0 {
			r.commit(r.others(victims...)...)
		}
		for _, b := range victims {
			r.ok(b.Start())
		}
		r.ready(victims...)
		r.commit(r.Bodies...)
		r.Healthy(victims...)
		r.ok(r.Issue(t.Context()))
	}
	r.end()
}

// TestPartition: the network is cut into halves of which neither may commit, and
// joined.
func TestPartition(t *testing.T) {
	r := start(t, network.Options{})
	for range times(1, 2, 20) {
		half := r.some(2)
		rest := r.others(half...)
		r.faults++
		r.Sick(r.Bodies...)
		var machines []*network.Machine
		for _, b := range half {
			machines = append(machines, b.Machine)
		}
		r.ok(r.Space.Split(machines...))
		r.stands(half, rest, time.Duration(times(2, 15, 30))*time.Second)
		r.ok(r.Space.Heal())
		r.commit(r.Bodies...)
		r.Healthy(r.Bodies...)
	}
	r.end()
}

// stands checks that neither half commits for a while. A block that was decided
// before the cut may still arrive within its half.
func (r *trial) stands(half, rest []*network.Body, d time.Duration) {
	r.Helper()
	before := r.Highest(r.Context(), r.Bodies)
	time.Sleep(d) // what must not happen has no condition to wait for
	for _, side := range [][]*network.Body{half, rest} {
		if after := r.Highest(r.Context(), side); after > before+1 {
			r.Errorf("one half went from height %d to %d", before, after)
		}
	}
}
