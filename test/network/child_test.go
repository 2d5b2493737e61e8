//go:build linux

package network_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/obs"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/test/network"
)

// clockVariable makes this test's program a body's node whose clock is off by the
// variable's value. The civibus command has no such switch: a node takes its clock
// from node.Options, which only a program that embeds it can set.
const clockVariable = "CIVIBUS_NETWORK_CLOCK"

// childMain is "civibus run" with a wrong clock.
func childMain(offset string) int {
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	off, err := time.ParseDuration(offset)
	if err != nil {
		return fail(err)
	}
	cfg, err := node.LoadConfig("civibus.toml")
	if err != nil {
		return fail(err)
	}
	log, err := obs.NewLogger(os.Stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return fail(err)
	}
	n, err := node.New(cfg, node.Options{Logger: log, Clock: func() time.Time { return time.Now().Add(off) }})
	if err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := n.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// skewed is a body's node with a wrong clock.
func skewed(t *testing.T, b *network.Body, off time.Duration) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := b.Machine.Command(context.Background(), self)
	c.Env = append(os.Environ(), clockVariable+"="+off.String())
	return c
}

// TestWrongClock: the clock of one body's node is five minutes off, either way. Its
// exchanges are refused by name, the others' go on, the ledger commits, and when the
// clock is right again so is everything. CometBFT reads the computer's clock itself,
// which cannot be another on one machine: docs/operate/faults.md says what follows
// from that.
func TestWrongClock(t *testing.T) {
	only(t)
	r := start(t, network.Options{})
	one, other := r.Bodies[3], r.Bodies[0]
	for _, off := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		r.faults++
		r.Sick(one)
		r.ok(one.Process().Stop(30 * time.Second))
		r.ok(one.StartAs(skewed(t, one, off)))
		r.ready(one)
		for _, pair := range [][2]*network.Body{{one, other}, {other, one}} {
			r.refused(pair[0], pair[1], "ClockSkew")
		}
		r.commit(r.Bodies...) // it still votes and follows
		time.Sleep(lasts())
		r.ok(one.Process().Stop(30 * time.Second))
		r.ok(one.Start())
		r.ready(one)
		r.Healthy(one)
		r.commit(r.Bodies...)
	}
	r.end()
}

// refused makes a call that must be refused with a type that ends so.
func (r *trial) refused(consumer, provider *network.Body, kind string) {
	r.Helper()
	_, err := consumer.Call(r.Context(), provider, "/refused")
	var e *client.Error
	if !errors.As(err, &e) || !strings.HasSuffix(e.Type, kind) {
		r.Errorf("%s calls %s: %v, want a refusal %s", consumer.ID, provider.ID, err, kind)
	}
}
