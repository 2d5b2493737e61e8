package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// system is what is measured.
type system interface {
	// sign makes the next transaction of a key.
	sign(key int) []byte
	// send hands a transaction to a node; false when there is no room.
	send(node int, tx []byte) (bool, error)
	// waiting is how many transactions wait at a node.
	waiting(node int) int
	// executed is how many transactions blocks took, and how many were accepted.
	executed() (all, accepted uint64)
	nodes() int
	close()
}

// drive signs transactions beforehand, keeps the pools full for the given time and
// counts. No key has two transactions under way, so that none overtakes another.
func drive(ctx context.Context, o options, s system) (m measure, err error) {
	perKey := int((o.seconds+2*time.Second).Seconds()*float64(o.most))/s.nodes()/o.keys + 3
	txs := make([][][]byte, o.keys)
	var group sync.WaitGroup
	for part := range 2 {
		group.Go(func() {
			for k := part; k < o.keys; k += 2 {
				for range perKey {
					txs[k] = append(txs[k], s.sign(k))
				}
			}
		})
	}
	group.Wait()

	var stop atomic.Bool
	var failure atomic.Pointer[error]
	for node := range s.nodes() {
		group.Go(func() {
			if err := feed(s, node, txs, &stop); err != nil {
				failure.Store(&err)
			}
		})
	}
	// The pools fill first, which the nodes do at the cost of blocks: begin when
	// one transaction of each key is through.
	for before, _ := s.executed(); failure.Load() == nil && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if now, _ := s.executed(); now-before >= uint64(o.keys) {
			break
		}
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return m, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return m, err
		}
		defer pprof.StopCPUProfile()
	}
	// From the end of a block to the end of a block: there are few in a second.
	start, begin, accepted := nextBlock(ctx, s)
	used := cpuTime()
	select {
	case <-time.After(o.seconds):
	case <-ctx.Done():
	}
	stopped, end, acceptedEnd := nextBlock(ctx, s)
	took, used := stopped.Sub(start), cpuTime()-used
	stop.Store(true)
	group.Wait()
	if err := failure.Load(); err != nil {
		return m, *err
	}
	if bad := (end - begin) - (acceptedEnd - accepted); bad*100 > end-begin {
		return m, fmt.Errorf("%d of %d transactions were refused by blocks", bad, end-begin)
	}
	count := float64(end - begin)
	return measure{perSecond: count / took.Seconds(), cpu: float64(used.Microseconds()) / count}, nil
}

// nextBlock waits for the end of a block and tells when that was, and how many
// transactions blocks took and accepted until then.
func nextBlock(ctx context.Context, s system) (at time.Time, all, accepted uint64) {
	first, _ := s.executed()
	for patience := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all, accepted = s.executed()
		if at = time.Now(); all != first || ctx.Err() != nil || at.After(patience) {
			return at, all, accepted
		}
	}
}

// measure is the outcome of one run.
type measure struct {
	perSecond float64
	cpu       float64 // microseconds of CPU per transaction, all nodes together
}

// cpuTime is the CPU time that this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// feed sends the transactions of the keys that belong to a node, in rounds.
func feed(s system, node int, txs [][][]byte, stop *atomic.Bool) error {
	var mine []int
	for k := node; k < len(txs); k += s.nodes() {
		mine = append(mine, k)
	}
	window := len(txs) - len(txs)/8
	for round := 0; ; round++ {
		for _, k := range mine {
			if round >= len(txs[k]) {
				return errors.New("too few transactions were signed in advance; raise the number")
			}
			for {
				if stop.Load() {
					return nil
				}
				if s.waiting(node) < window {
					ok, err := s.send(node, txs[k][round])
					if err != nil {
						return err
					}
					if ok {
						break
					}
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// network is the ledger with the registry.
type network struct {
	*work
	dir     string
	members []*ledger.Node
	metrics *prometheus.Registry
}

// genesis makes a genesis with validators and with a member for each signing key.
func genesis(signers, admins []*keys.Key, validators int) (g *registry.Genesis, voters []*keys.Key, err error) {
	g = &registry.Genesis{Format: registry.GenesisFormat, Instance: "BENCH", ChainID: chainID, Protocol: registry.Protocol,
		Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Registrars: []string{"BENCH/GOV/M0"}}
	for m := 0; m < max(len(signers), validators); m++ {
		gm := registry.GenesisMember{ID: memberName(m), Name: "A body"}
		add := func(k *keys.Key) string {
			s := base64.StdEncoding.EncodeToString(k.Key().SPKI)
			gm.Keys = append(gm.Keys, registry.GenesisKey{Purpose: k.Purpose().String(), SPKI: s})
			return s
		}
		if m < len(signers) {
			add(signers[m])
		}
		if m < len(admins) {
			add(admins[m])
		} else if m >= len(signers) || signers[m].Purpose() != civibus.AdminKey {
			admin, err := keys.Generate(civibus.AdminKey, civibus.Ed25519)
			if err != nil {
				return nil, nil, err
			}
			add(admin)
		}
		if m < validators {
			voting, err := keys.Generate(civibus.ValidatorKey, civibus.Ed25519)
			if err != nil {
				return nil, nil, err
			}
			voters = append(voters, voting)
			g.Validators = append(g.Validators, registry.GenesisValidator{Member: gm.ID, Key: add(voting), Power: 10})
		}
		g.Members = append(g.Members, gm)
	}
	return g, voters, nil
}

// configs makes the nodes' configurations: every node dials the ones before it.
func configs(dir string, g *registry.Genesis, voters []*keys.Key) (ids []string, config func(i int, listen []string) ledger.Config, err error) {
	var nodes []ed25519.PrivateKey
	var votes []ledger.ValidatorKey
	for _, k := range voters {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		ids, nodes = append(ids, ledger.NodeID(public)), append(nodes, private)
		voting, err := k.Ed25519()
		if err != nil {
			return nil, nil, err
		}
		v, err := ledger.NewValidatorKey(voting)
		if err != nil {
			return nil, nil, err
		}
		votes = append(votes, v)
	}
	return ids, func(i int, listen []string) ledger.Config {
		c := ledger.Config{Dir: filepath.Join(dir, fmt.Sprint(i)), Genesis: g, NodeKey: nodes[i],
			ValidatorKeys: func() []ledger.ValidatorKey { return votes[i : i+1] }}
		for j, id := range ids {
			switch {
			case j < i:
				c.Peers = append(c.Peers, id+"@"+listen[j])
			case j > i:
				c.Peers = append(c.Peers, id)
			}
		}
		return c
	}, nil
}

func newRegistry(ctx context.Context, o options, kind string, validators int) (system, error) {
	n, err := startRegistry(ctx, o, kind, validators)
	if err != nil {
		return nil, err
	}
	for round := range n.before() {
		if err := n.prepare(ctx, uint64((round+1)*o.keys)); err != nil {
			n.close()
			return nil, err
		}
	}
	return n, nil
}

func startRegistry(ctx context.Context, o options, kind string, validators int) (_ *network, err error) {
	n := &network{metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.work, err = newWork(kind, o.keys); err != nil {
		return nil, err
	}
	if n.dir, err = os.MkdirTemp("", "civibus-bench-"); err != nil {
		return nil, err
	}
	g, voters, err := genesis(n.keys, n.admins, validators)
	if err != nil {
		return nil, err
	}
	_, config, err := configs(n.dir, g, voters)
	if err != nil {
		return nil, err
	}
	var listen []string
	for i := range validators {
		c := config(i, listen)
		if i == 0 {
			c.Metrics = n.metrics
		}
		node, err := ledger.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		n.members, listen = append(n.members, node), append(listen, node.ListenAddress())
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, node := range n.members {
		if err := node.WaitView(wait, func(v *registry.View) bool { return v.Height() >= 1 }); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *network) nodes() int           { return len(n.members) }
func (n *network) waiting(node int) int { return n.members[node].Waiting() }

// prepare has one transaction of each key executed, until want are.
func (n *network) prepare(ctx context.Context, want uint64) error {
	for k := range n.keys {
		for tx := n.sign(k); ; time.Sleep(time.Millisecond) {
			ok, err := n.send(k%len(n.members), tx)
			if err != nil {
				return fmt.Errorf("prepare: %w", err)
			}
			if ok {
				break
			}
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, accepted := n.executed()
		switch {
		case accepted >= want:
			return n.settled(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("prepare: %d of %d transactions were accepted in a minute", accepted, want)
		}
	}
}

// settled waits until every node has the blocks that node 0 has.
func (n *network) settled(ctx context.Context) error {
	height := n.members[0].View().Height()
	for _, m := range n.members {
		if err := m.WaitView(ctx, func(v *registry.View) bool { return v.Height() >= height }); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) send(node int, tx []byte) (bool, error) {
	c, err := n.members[node].Enqueue(tx)
	switch {
	case errors.Is(err, ledger.ErrBusy):
		return false, nil
	case err == nil && c.Code != 0:
		err = fmt.Errorf("refused: %s: %s", c.Code, c.Reason)
	}
	return err == nil, err
}

func (n *network) executed() (all, accepted uint64) {
	families, err := n.metrics.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == "civibus_ledger_transactions_total" {
			for _, m := range f.GetMetric() {
				all += uint64(m.GetCounter().GetValue())
				if m.GetLabel()[0].GetValue() == "ok" {
					accepted += uint64(m.GetCounter().GetValue())
				}
			}
		}
	}
	return all, accepted
}

func (n *network) close() {
	for _, m := range n.members {
		m.Close(context.Background())
	}
	os.RemoveAll(n.dir)
}

// latency submits at a fixed mean rate, with exponential gaps, round the nodes of
// a network of four.
func latency(ctx context.Context, o options) error {
	n, err := startRegistry(ctx, o, "notarise", 4)
	if err != nil {
		return err
	}
	defer n.close()
	var mu sync.Mutex
	var times []time.Duration
	var failed error
	var group sync.WaitGroup
	count := int(4 * o.seconds.Seconds() * float64(o.rate))
	for i := range count {
		time.Sleep(time.Duration(mrand.ExpFloat64() * float64(time.Second) / float64(o.rate)))
		tx := n.sign(i % o.keys)
		group.Go(func() {
			start := time.Now()
			c, err := n.members[i%4].Submit(ctx, tx)
			took := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, took)
			if err != nil || c.Code != 0 {
				failed = errors.Join(err, fmt.Errorf("%+v", c))
			}
		})
	}
	group.Wait()
	if failed != nil {
		return failed
	}
	slices.Sort(times)
	fmt.Printf("commit latency, 4 validators, %d tx/s, %d transactions: p50 %s  p95 %s  p99 %s  max %s\n", o.rate, len(times),
		percentile(times, .5).Round(time.Millisecond), percentile(times, .95).Round(time.Millisecond),
		percentile(times, .99).Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	return nil
}
