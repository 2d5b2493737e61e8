package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
)

// cost has that many anchors executed by one validator and prints what each left
// on disk and took of a processor: all of the process, and so the clients' hand-over
// too, but not the signing, which is done before.
func cost(ctx context.Context, o options) error {
	o.keys = min(o.keys, 2048)
	s, err := newRegistry(ctx, o, "anchor", 1)
	if err != nil {
		return err
	}
	n := s.(*network)
	defer n.close()
	rounds := (o.cost + o.keys - 1) / o.keys
	txs := make([][]byte, 0, rounds*o.keys)
	bytes := 0
	for range rounds {
		for k := range o.keys {
			tx := n.sign(k)
			txs, bytes = append(txs, tx), bytes+len(tx)
		}
	}
	before, events := n.disk(), n.members[0].View().EventSize()
	_, done := n.executed()
	used := cpuTime()
	for i, tx := range txs {
		if i%o.keys == 0 { // no transaction of a key overtakes the one before
			if err := n.accepted(done + uint64(i)); err != nil {
				return err
			}
		}
		for {
			ok, err := n.send(0, tx)
			if err != nil {
				return err
			}
			if ok {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err := n.accepted(done + uint64(len(txs))); err != nil {
		return err
	}
	used = cpuTime() - used
	time.Sleep(2 * time.Second) // compactions
	after := n.disk()
	v := n.members[0].View()
	var leaves uint64
	for i := events; i < v.EventSize(); i++ {
		e, err := v.Event(i)
		if err != nil {
			return err
		}
		leaves += uint64(len(e))
	}
	count := float64(len(txs))
	fmt.Printf("%d anchors of %d logs: %.0f bytes each, %.1f us of CPU each at one validator (all of the process)\n",
		len(txs), o.keys, float64(bytes)/count, float64(used.Microseconds())/count)
	for _, part := range []string{"blocks", "engine state", "engine log", "registry", "other"} {
		fmt.Printf("on disk, %-13s %8.0f bytes an anchor\n", part+":", float64(after[part]-before[part])/count)
	}
	fmt.Printf("of the registry, event log's leaves: %.0f bytes an anchor\n", float64(leaves)/count)
	return nil
}

// accepted waits until that many transactions are accepted.
func (n *network) accepted(want uint64) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, have := n.executed(); have >= want {
			return nil
		} else if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d transactions were accepted in a minute", have, want)
		}
	}
}

// disk is what the node's directory holds, by part.
func (n *network) disk() map[string]int64 {
	sizes := make(map[string]int64)
	_ = filepath.WalkDir(filepath.Join(n.dir, "0"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a file that a compaction removed
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		part := "other"
		switch {
		case strings.Contains(path, "blockstore.db"):
			part = "blocks"
		case strings.Contains(path, "state.db"):
			part = "engine state"
		case strings.Contains(path, "cs.wal"):
			part = "engine log"
		case strings.Contains(path, "/registry/"):
			part = "registry"
		}
		sizes[part] += info.Size()
		return nil
	})
	return sizes
}
