package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry"
)

type measured struct {
	Start, HeapMB, RSSMB               float64
	DecideP50, DecideP99, RefuseP50    float64 // us
	BlockP50, BlockP95                 float64 // ms
	DumpMB, DumpSeconds, ImportSeconds float64
}

// measure starts a registry that was built and asks it.
func measure(dir string, z size) (any, error) {
	var m measured
	// 1. The start, and the memory after it.
	begin := time.Now()
	n, err := openNetwork(dir, z)
	if err != nil {
		return nil, err
	}
	m.Start = time.Since(begin).Seconds()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.HeapMB = float64(stats.HeapAlloc) / 1e6
	if m.RSSMB, err = residentMB(); err != nil {
		return nil, err
	}
	// 2. Decisions over random calls, allowed ones and refused ones.
	m.DecideP50, m.DecideP99, err = decisions(n.m.View(), z, true)
	if err != nil {
		return nil, err
	}
	if m.RefuseP50, _, err = decisions(n.m.View(), z, false); err != nil {
		return nil, err
	}
	// 3. Blocks of new rights, by many bodies.
	for i := range n.sequences {
		n.sequences[i] = n.m.View().Sequence(n.admins[i].public.ID)
	}
	n.now = n.m.View().Time()
	var blocks []time.Duration
	for b := range 40 {
		var batch [][]byte
		for i := range 500 {
			e, err := n.grant(z, rand.IntN(z.rights), purpose(b, i))
			if err != nil {
				return nil, err
			}
			batch = append(batch, e)
		}
		took, err := n.block(batch)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, took)
	}
	slices.Sort(blocks)
	m.BlockP50, m.BlockP95 = blocks[len(blocks)/2].Seconds()*1e3, blocks[len(blocks)*95/100].Seconds()*1e3
	// 4. What a node that joins has to get and to do.
	return m, m.sync(n, dir)
}

func (m *measured) sync(n *network, dir string) (err error) {
	file, err := os.Create(filepath.Join(dir, "dump"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	begin := time.Now()
	if err := n.m.Dump(file); err != nil {
		return err
	}
	m.DumpSeconds = time.Since(begin).Seconds()
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	m.DumpMB = float64(at) / 1e6
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	into, err := openDatabase(filepath.Join(dir, "import"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, into.close()) }()
	begin = time.Now()
	_, hash, err := registry.Import(file, into)
	if err != nil {
		return err
	}
	m.ImportSeconds = time.Since(begin).Seconds()
	if want := n.m.AppHash(); !bytes.Equal(hash[:], want[:]) {
		return errors.New("the import is another registry")
	}
	return nil
}

// decisions times single decisions on random calls, in microseconds.
func decisions(v *registry.View, z size, allowed bool) (p50, p99 float64, err error) {
	times := make([]time.Duration, 20_000)
	now := start.Add(time.Hour)
	for i := range times {
		client, service := z.right(rand.IntN(z.rights))
		if !allowed {
			client = service.ClientID // only the CASES subsystems have rights
		}
		q := civibus.Question{Client: client, Service: service, Method: "GET", Path: "/persons/1234"}
		begin := time.Now()
		d := policy.Decide(v, q, now)
		times[i] = time.Since(begin)
		if d.Allowed() != allowed {
			return 0, 0, errors.New(d.Message)
		}
	}
	slices.Sort(times)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return us(times[len(times)/2]), us(times[len(times)*99/100]), nil
}
