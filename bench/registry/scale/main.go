// Command scale measures a registry as it grows: how long a node takes to start
// with it, what a policy decision costs, the memory, the time of a block, and what
// state sync has to move. Run with
//
//	go run ./bench/registry/scale
//	go run ./bench/registry/scale -rights 10000,100000
//
// Each size is a network of rights/200 bodies with four services each and as many
// access rights as asked for, built in blocks by the bodies' own keys on a synced
// goleveldb with the ledger's settings. Every figure of a size is taken in a
// process of its own, so that memory is that of one node's registry.
//
// Trust: it is not part of the product; an attacker who controls it can at most
// mislead those who read its figures.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	rights := flag.String("rights", "10000,100000,1000000", "sizes, in access rights")
	dir := flag.String("dir", "", "where the databases go; default: a temporary folder that is removed")
	step := flag.String("step", "", "internal: build or measure")
	flag.Parse()
	if err := run(*rights, *dir, *step); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(rights, dir, step string) error {
	if step != "" {
		n, err := strconv.Atoi(rights)
		if err != nil {
			return err
		}
		figures, err := map[string]func(string, size) (any, error){"build": build, "measure": measure}[step](dir, sizeOf(n))
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(figures)
	}
	if dir == "" {
		temp, err := os.MkdirTemp("", "scale")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temp)
		dir = temp
	}
	fmt.Println("| rights | members | services | build tx/s | block of 500 rights, p50 / p95 ms | disk MB | start s | heap MB | RSS MB | decision p50 / p99 us | refused p50 us | dump MB | dump s | import s |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for s := range strings.SplitSeq(rights, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("-rights %q: %w", rights, err)
		}
		at := filepath.Join(dir, s)
		var b built
		var m measured
		if err := inProcess(at, s, "build", &b); err != nil {
			return err
		}
		if err := inProcess(at, s, "measure", &m); err != nil {
			return err
		}
		z := sizeOf(n)
		fmt.Printf("| %d | %d | %d | %.0f | %.1f / %.1f | %.0f | %.2f | %.0f | %.0f | %.2f / %.2f | %.2f | %.0f | %.1f | %.1f |\n",
			n, z.members, z.members*servicesOf, b.PerSecond, m.BlockP50, m.BlockP95, b.DiskMB, m.Start, m.HeapMB, m.RSSMB,
			m.DecideP50, m.DecideP99, m.RefuseP50, m.DumpMB, m.DumpSeconds, m.ImportSeconds)
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	}
	return nil
}

// inProcess runs one step in a process of its own and reads its figures.
func inProcess(dir, rights, step string, figures any) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-dir", dir, "-rights", rights, "-step", step)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s %s: %w", step, rights, err)
	}
	return json.Unmarshal(out, figures)
}

// servicesOf is how many services a member has.
const servicesOf = 4

type size struct{ members, rights int }

func sizeOf(rights int) size { return size{max(10, rights/200), rights} }
