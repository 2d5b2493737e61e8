// Command ledger measures the ledger against the plainest application that its
// engine can carry, in one process and in turns:
//
//	kv        a key-value application that checks one Ed25519 signature per
//	          transaction and does nothing else, on the ledger's engine settings,
//	          with transactions as long as the registry's
//	registry  the ledger with the registry and transactions of many members, of
//	          one kind:
//	            notarise  digests
//	            anchor    checkpoints of logs of 1 to 5 million entries, each with
//	                      its consistency proof
//	            right     grants, each for a service that exists
//	            step      events of processes of eight steps: each step is done and
//	                      yields a sealed fact, a tenth begins an instance
//
// with one validator and with four, and then the commit latency at 50
// transactions a second with four validators. It prints medians and ratios and
// asserts nothing. With -cost it measures instead what an anchor leaves on disk
// and takes of a processor.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

type options struct {
	rounds  int
	seconds time.Duration
	kinds   string
	keys    int
	bytes   int
	rate    int
	most    int
	only    int
	profile string
	cost    int
	base    string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each pair")
	flag.DurationVar(&o.seconds, "for", 12*time.Second, "length of one throughput run; some seconds' worth of transactions wait in the pools, so short ones scatter")
	flag.StringVar(&o.kinds, "kinds", "notarise,anchor,right", "kinds of transactions, each measured for itself")
	flag.IntVar(&o.keys, "keys", 8192, "signing keys, each of a member of its own")
	flag.IntVar(&o.bytes, "bytes", 0, "length of kv's transactions; 0: that of the registry's")
	flag.IntVar(&o.rate, "rate", 50, "transactions a second of the latency run")
	flag.IntVar(&o.most, "most", 40_000, "transactions a second, over the number of validators, that are signed in advance")
	flag.IntVar(&o.only, "validators", 0, "only this number of validators, and no latency run")
	flag.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles of the last run of each: this file for the registry, with .kv for kv")
	flag.IntVar(&o.cost, "cost", 0, "measure the cost of that many anchors and nothing else")
	flag.StringVar(&o.base, "base", "", "compare with the registry and this kind, instead of with kv")
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200) // as "civibus run" does
		runtime.MemProfileRate = 0
	}
	measure := run
	if o.cost > 0 {
		measure = cost
	}
	if err := measure(context.Background(), o); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, o options) error {
	fmt.Printf("%-9s %10s %7s %8s %14s %6s %13s %13s %6s\n", "kind", "validators", "rounds", cmp.Or(o.base, "kv")+" tx/s", "registry tx/s", "ratio", cmp.Or(o.base, "kv")+" us CPU/tx", "registry", "ratio")
	for _, validators := range []int{1, 4} {
		if o.only != 0 && o.only != validators {
			continue
		}
		for kind := range strings.SplitSeq(o.kinds, ",") {
			if err := compare(ctx, o, kind, validators); err != nil {
				return fmt.Errorf("%s, %d validators: %w", kind, validators, err)
			}
		}
	}
	if o.only != 0 {
		return nil
	}
	return latency(ctx, o)
}

// compare prints one row: pairs of runs, in turns.
func compare(ctx context.Context, o options, kind string, validators int) error {
	var kv, reg, ratios, kvCPU, regCPU, cpuRatios []float64
	for round := range o.rounds {
		pair := make([]measure, 2)
		order := []int{0, 1}
		if round%2 == 1 {
			slices.Reverse(order) // neither always runs on the warmer machine
		}
		for _, which := range order {
			start, what := newKV, kind
			switch {
			case which == 1:
				start = newRegistry
			case o.base != "":
				start, what = newRegistry, o.base
			}
			var err error
			if pair[which], err = throughput(ctx, o, what, validators, start, profile(o, which, round)); err != nil {
				return err
			}
		}
		kv, reg = append(kv, pair[0].perSecond), append(reg, pair[1].perSecond)
		kvCPU, regCPU = append(kvCPU, pair[0].cpu), append(regCPU, pair[1].cpu)
		ratios = append(ratios, pair[1].perSecond/pair[0].perSecond)
		cpuRatios = append(cpuRatios, pair[0].cpu/pair[1].cpu)
	}
	fmt.Printf("%-9s %10d %7d %8.0f %14.0f %6.2f %13.1f %13.1f %6.2f   (ratios %.2f to %.2f)\n", kind, validators, o.rounds,
		median(kv), median(reg), median(ratios), median(kvCPU), median(regCPU), median(cpuRatios), slices.Min(ratios), slices.Max(ratios))
	return nil
}

// profile names the file of a run's CPU profile, if it is to have one.
func profile(o options, which, round int) string {
	switch {
	case o.profile == "" || round < o.rounds-1:
		return ""
	case which == 0:
		return o.profile + ".kv"
	}
	return o.profile
}

// throughput runs one system for the given time with its pool kept full and
// returns the transactions that blocks took per second.
func throughput(ctx context.Context, o options, kind string, validators int, start func(context.Context, options, string, int) (system, error), profile string) (m measure, err error) {
	s, err := start(ctx, o, kind, validators)
	if err != nil {
		return m, err
	}
	defer s.close()
	o.profile = profile
	return drive(ctx, o, s)
}

func median(x []float64) float64 {
	x = slices.Clone(x)
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

func percentile(x []time.Duration, p float64) time.Duration {
	return x[min(len(x)-1, int(p*float64(len(x))))]
}
