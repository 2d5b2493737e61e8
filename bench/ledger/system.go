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
	"github.com/civibus/civibus/registry/registrypb"
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
	perKey := int((o.seconds+time.Second).Seconds()*float64(o.most))/s.nodes()/o.keys + 2
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
	time.Sleep(500 * time.Millisecond) // let the first blocks pass
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
	begin, accepted := s.executed()
	start, used := time.Now(), cpuTime()
	select {
	case <-time.After(o.seconds):
	case <-ctx.Done():
	}
	end, acceptedEnd := s.executed()
	took, used := time.Since(start), cpuTime()-used
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
	dir     string
	keys    []*keys.Key
	next    []uint64
	members []*ledger.Node
	metrics *prometheus.Registry
}

const chainID = "bench-1"

// genesis makes a genesis with validators and signing keys, 64 keys a member.
func genesis(signers []*keys.Key, validators int) (g *registry.Genesis, voters []*keys.Key, err error) {
	g = &registry.Genesis{Format: registry.GenesisFormat, Instance: "BENCH", ChainID: chainID,
		Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Registrars: []string{"BENCH/GOV/M0"}}
	const each = 64
	for m := 0; m*each < len(signers) || m < validators; m++ {
		gm := registry.GenesisMember{ID: fmt.Sprintf("BENCH/GOV/M%d", m), Name: "A body"}
		add := func(p civibus.Purpose, spki []byte) string {
			s := base64.StdEncoding.EncodeToString(spki)
			gm.Keys = append(gm.Keys, registry.GenesisKey{Purpose: p.String(), SPKI: s})
			return s
		}
		admin, err := keys.Generate(civibus.AdminKey, civibus.Ed25519)
		if err != nil {
			return nil, nil, err
		}
		add(civibus.AdminKey, admin.Key().SPKI)
		for _, k := range signers[min(m*each, len(signers)):min((m+1)*each, len(signers))] {
			add(civibus.LogKey, k.Key().SPKI)
		}
		if m < validators {
			voting, err := keys.Generate(civibus.ValidatorKey, civibus.Ed25519)
			if err != nil {
				return nil, nil, err
			}
			voters = append(voters, voting)
			g.Validators = append(g.Validators, registry.GenesisValidator{Member: gm.ID, Key: add(civibus.ValidatorKey, voting.Key().SPKI), Power: 10})
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

func newRegistry(ctx context.Context, o options, validators int) (system, error) {
	return startRegistry(ctx, o.keys, validators)
}

func startRegistry(ctx context.Context, signers, validators int) (_ *network, err error) {
	n := &network{next: make([]uint64, signers), metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.dir, err = os.MkdirTemp("", "civibus-bench-"); err != nil {
		return nil, err
	}
	for range signers {
		k, err := keys.Generate(civibus.LogKey, civibus.Ed25519)
		if err != nil {
			return nil, err
		}
		n.keys = append(n.keys, k)
	}
	g, voters, err := genesis(n.keys, validators)
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

func (n *network) sign(key int) []byte {
	n.next[key]++
	digest := make([]byte, 32)
	for i := range digest {
		digest[i] = byte(mrand.Uint32())
	}
	envelope, err := registry.SignTx(context.Background(), n.keys[key], &registrypb.Tx{
		ChainId: chainID, Sequence: n.next[key], Body: &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: digest}}})
	if err != nil {
		panic(err)
	}
	return envelope
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
	n, err := startRegistry(ctx, o.keys, 4)
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
