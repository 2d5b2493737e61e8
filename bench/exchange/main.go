// Command exchange measures sealed, durably evidenced exchanges through two
// gateways, each in its own process, against two plain Caddy hops and against
// our own two hops with seal and evidence off, all in the same run on the same
// machine: 1 KiB JSON bodies, keep-alive, mutual TLS 1.3 and HTTP/1.1 between
// the hops, closed loop at concurrency 1, 16 and 64. The variants take turns
// within each round, so that a drift of the machine meets all of them; medians
// over the rounds and ratios pair by pair are printed.
//
// The variant usage is the same exchange, in the same processes, under a right that
// concerns persons, with one of 10,000 persons in turns: what a usage record adds to an
// exchange. -only civibus,usage measures the two beside each other.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bench is one run's set-up.
type bench struct {
	dir      string
	log      *os.File
	caddy    string // path of the caddy binary; empty: no yardstick
	civibus  string // path of the civibus binary
	upstream string // host:port of the provider's service
	self     string // path of this program

	bus     *variant // civibus, once it runs
	persons call     // its exchange that concerns persons
}

// variant is one chain of two hops in front of the upstream.
type variant struct {
	name    string
	call    call
	hops    []*process
	shared  bool // the hops are another variant's
	samples map[int][]sample
	// drain, which may be nil, waits until the variant has done what the load left
	// for later, so that this is counted, and not in the next variant's time.
	drain func(context.Context) error
}

func (v *variant) stop() {
	if v.shared {
		return
	}
	for _, p := range v.hops {
		p.stop()
	}
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "upstream" {
		exit(runUpstream())
	}
	if len(os.Args) > 2 && os.Args[1] == "plain" {
		exit(runPlainHop(os.Args[2:]))
	}
	var (
		b           bench
		rounds      = flag.Int("rounds", 5, "rounds; each measures every variant at every concurrency")
		lasting     = flag.Duration("duration", 4*time.Second, "length of one measurement")
		concurrency = flag.String("concurrency", "1,16,64", "numbers of connections")
		asJSON      = flag.Bool("json", false, "print one JSON object")
		only        = flag.String("only", "caddy,plain,civibus", "variants to run")
	)
	flag.StringVar(&b.caddy, "caddy", "", "path of caddy v2.11.9")
	flag.StringVar(&b.civibus, "civibus", "", "path of civibus")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	exit(run(ctx, &b, strings.Split(*only, ","), *rounds, *lasting, *concurrency, *asJSON))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "exchange: error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, b *bench, only []string, rounds int, lasting time.Duration, concurrency string, asJSON bool) error {
	var levels []int
	for _, s := range strings.Split(concurrency, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("concurrency %q: the rule is positive numbers separated by commas", concurrency)
		}
		levels = append(levels, n)
	}
	// 1. A folder, a log and the provider's service.
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "civibus-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.log, err = os.CreateTemp("", "civibus-bench-*.log"); err != nil {
		return err
	}
	defer b.log.Close()
	up, err := start(ctx, b.log, b.self, "upstream")
	if err != nil {
		return err
	}
	defer up.stop()
	if b.upstream, err = up.line(); err != nil {
		return err
	}
	// 2. The variants, all up before the first measurement.
	starters := map[string]func(context.Context, *bench) (*variant, error){
		"caddy": startCaddy, "plain": startPlain, "civibus": startCivibus, "usage": startUsage,
	}
	var variants []*variant
	for _, name := range only {
		if name == "caddy" && b.caddy == "" {
			fmt.Fprintln(os.Stderr, "exchange: no -caddy given: measuring without the yardstick")
			continue
		}
		starter, ok := starters[name]
		if !ok {
			return fmt.Errorf("variant %q: the rule is caddy, plain, civibus or usage", name)
		}
		v, err := starter(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w (log: %s)", name, err, b.log.Name())
		}
		defer v.stop()
		v.samples = map[int][]sample{}
		variants = append(variants, v)
	}
	// 3. A warm-up, then the rounds.
	for _, v := range variants {
		if _, err := drive(ctx, v.call, 8, time.Second); err != nil {
			return fmt.Errorf("%s: warm-up: %w (log: %s)", v.name, err, b.log.Name())
		}
	}
	for round := range rounds {
		for _, n := range levels {
			order := slices.Clone(variants)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, v := range order {
				if err := v.measure(ctx, n, lasting); err != nil {
					return fmt.Errorf("%s at %d: %w (log: %s)", v.name, n, err, b.log.Name())
				}
			}
		}
	}
	// 4. Medians and ratios.
	return report(os.Stdout, variants, levels, asJSON)
}
func (v *variant) measure(ctx context.Context, n int, lasting time.Duration) error {
	before := v.cpu()
	s, err := drive(ctx, v.call, n, lasting)
	if err != nil {
		return err
	}
	s.CPUMicros = float64((v.cpu() - before).Microseconds()) / (s.PerSecond * lasting.Seconds())
	if v.drain != nil {
		before := v.cpu()
		if err := v.drain(ctx); err != nil {
			return err
		}
		s.LaterMicros = float64((v.cpu() - before).Microseconds()) / (s.PerSecond * lasting.Seconds())
	}
	v.samples[n] = append(v.samples[n], s)
	return nil
}

func (v *variant) cpu() (total time.Duration) {
	for _, p := range v.hops {
		total += p.cpu()
	}
	return total
}

func median[T int | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func collect[T int | float64 | time.Duration](samples []sample, get func(sample) T) []T {
	out := make([]T, len(samples))
	for i, s := range samples {
		out[i] = get(s)
	}
	return out
}

func ratios(a, b []sample, get func(sample) float64) float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = get(a[i]) / get(b[i])
	}
	return median(out)
}

type row struct {
	Variant     string  `json:"variant"`
	Concurrency int     `json:"concurrency"`
	PerSecond   float64 `json:"per_second"`
	P50Micros   int64   `json:"p50_us"`
	P99Micros   int64   `json:"p99_us"`
	CPUMicros   float64 `json:"cpu_us"`
	LaterMicros float64 `json:"later_cpu_us"`
	RSSMiB      []int   `json:"rss_mib"`
	VsCaddy     float64 `json:"throughput_vs_caddy,omitempty"`
	VsPlain     float64 `json:"throughput_vs_plain,omitempty"`
	P99VsCaddy  float64 `json:"p99_vs_caddy,omitempty"`
	AddedP50    int64   `json:"added_p50_vs_plain_us,omitempty"`
	VsCivibus   float64 `json:"throughput_vs_civibus,omitempty"` // of usage, like the two that follow
	P50VsBus    float64 `json:"p50_vs_civibus,omitempty"`
	CPUVsBus    float64 `json:"all_cpu_vs_civibus,omitempty"` // under load and later
}

func report(out *os.File, variants []*variant, levels []int, asJSON bool) error {
	byName := map[string]*variant{}
	for _, v := range variants {
		byName[v.name] = v
	}
	throughput := func(s sample) float64 { return s.PerSecond }
	p99 := func(s sample) float64 { return float64(s.P99) }
	var rows []row
	for _, n := range levels {
		for _, v := range variants {
			s := v.samples[n]
			r := row{
				Variant: v.name, Concurrency: n,
				PerSecond:   median(collect(s, throughput)),
				P50Micros:   median(collect(s, func(s sample) time.Duration { return s.P50 })).Microseconds(),
				P99Micros:   median(collect(s, func(s sample) time.Duration { return s.P99 })).Microseconds(),
				CPUMicros:   median(collect(s, func(s sample) float64 { return s.CPUMicros })),
				LaterMicros: median(collect(s, func(s sample) float64 { return s.LaterMicros })),
			}
			for _, p := range v.hops {
				r.RSSMiB = append(r.RSSMiB, p.resident())
			}
			if caddy := byName["caddy"]; caddy != nil && v != caddy {
				r.VsCaddy = ratios(s, caddy.samples[n], throughput)
				r.P99VsCaddy = ratios(s, caddy.samples[n], p99)
			}
			if plain := byName["plain"]; plain != nil && v.name == "civibus" {
				r.VsPlain = ratios(s, plain.samples[n], throughput)
				r.AddedP50 = r.P50Micros - median(collect(plain.samples[n], func(s sample) time.Duration { return s.P50 })).Microseconds()
			}
			if bus := byName["civibus"]; bus != nil && v.name == "usage" {
				r.VsCivibus = ratios(s, bus.samples[n], throughput)
				r.P50VsBus = ratios(s, bus.samples[n], func(s sample) float64 { return float64(s.P50) })
				r.CPUVsBus = ratios(s, bus.samples[n], func(s sample) float64 { return s.CPUMicros + s.LaterMicros })
			}
			rows = append(rows, r)
		}
	}
	if asJSON {
		return json.NewEncoder(out).Encode(rows)
	}
	fmt.Fprintf(out, "%-8s %4s %10s %9s %9s %8s %8s %9s %9s %9s %10s  %s\n", "variant", "c", "per s", "p50 us", "p99 us", "cpu us", "later us", "/caddy", "/plain", "p99/caddy", "+p50 us", "RSS MiB")
	for _, r := range rows {
		fmt.Fprintf(out, "%-8s %4d %10.0f %9d %9d %8.0f %8.0f %9.2f %9.2f %9.2f %10d  %v\n", r.Variant, r.Concurrency, r.PerSecond, r.P50Micros, r.P99Micros, r.CPUMicros, r.LaterMicros, r.VsCaddy, r.VsPlain, r.P99VsCaddy, r.AddedP50, r.RSSMiB)
	}
	for _, r := range rows {
		if r.VsCivibus > 0 {
			fmt.Fprintf(out, "usage record at %d: %.3f of the exchanges a second without, p50 %.3f, processor time with all that is done later %.3f (bound 1.05)\n", r.Concurrency, r.VsCivibus, r.P50VsBus, r.CPUVsBus)
		}
	}
	return nil
}
