//go:build linux

package network_test

import (
	"testing"
	"time"

	"github.com/civibus/civibus/test/network"
)

// lasts is how long a fault that is not a moment stays.
func lasts() time.Duration { return time.Duration(times(2, 2, 30)) * time.Second }

// TestPausedNode: a node's process is stopped where it is and goes on later, as a
// virtual machine that is moved.
func TestPausedNode(t *testing.T) {
	only(t)
	r := start(t, network.Options{})
	for range times(1, 1, 20) {
		victims := r.some(1)
		r.faults++
		r.Sick(victims...)
		r.ok(victims[0].Pause())
		r.commit(r.others(victims...)...)
		time.Sleep(lasts())
		r.ok(victims[0].Resume())
		r.commit(r.Bodies...)
		r.Healthy(victims...)
	}
	r.end()
}

// TestUnplugged: a machine's link is gone for a while.
func TestUnplugged(t *testing.T) {
	only(t)
	r := start(t, network.Options{})
	for range times(1, 1, 20) {
		victims := r.some(1)
		r.faults++
		r.Sick(victims...)
		r.ok(victims[0].Machine.Unplug())
		r.commit(r.others(victims...)...)
		time.Sleep(lasts())
		r.ok(victims[0].Machine.Plug())
		r.commit(r.Bodies...)
		r.Healthy(victims...)
	}
	r.end()
}

// TestBadLinks: far, narrow, silent, stalled and breaking lines, by a relay between
// the machines.
func TestBadLinks(t *testing.T) {
	only(t)
	r := start(t, network.Options{Relayed: true})
	ones := func(b *network.Body) []*network.Body { return []*network.Body{b} }
	for range times(1, 1, 10) {
		for _, fault := range []struct {
			name string
			sick bool // whether nobody can expect anything of the one body meanwhile
			do   func(one *network.Body)
		}{
			{"300 ms everywhere", false, func(*network.Body) {
				r.Relay.Set(network.Line{Latency: 300 * time.Millisecond}, true, r.Bodies, r.Bodies)
			}},
			{"1 Mbit/s", false, func(one *network.Body) {
				r.Relay.Set(network.Line{Rate: 125_000}, true, ones(one), r.others(one))
			}},
			{"not heard", true, func(one *network.Body) {
				r.Relay.Set(network.Line{Silent: true}, false, ones(one), r.others(one))
			}},
			{"hears nothing", true, func(one *network.Body) {
				r.Relay.Set(network.Line{Silent: true}, false, r.others(one), ones(one))
			}},
			{"stalled", true, func(one *network.Body) {
				r.Relay.Set(network.Line{Silent: true}, true, ones(one), r.others(one))
			}},
			{"reset", true, func(one *network.Body) {
				if r.Relay.Reset(one) == 0 {
					t.Errorf("%s had no connection to reset", one.ID)
				}
			}},
		} {
			one := r.some(1)[0]
			r.faults++
			held := r.Bodies
			if fault.sick {
				r.Sick(one)
				held = r.others(one)
			}
			fault.do(one)
			meanwhile := r.commit(held...)
			time.Sleep(lasts())
			r.Relay.Clear()
			after := r.commit(r.Bodies...)
			if fault.sick {
				r.Healthy(one)
			}
			t.Logf("%s: committed after %v, and after its end %v", fault.name, meanwhile, after)
		}
	}
	r.end()
}
