//go:build linux

package network_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/test/network"
)

// patience is how long one step of a walk-through may take.
const patience = 90 * time.Second

// TestWalkthrough does what docs/operate/walkthrough.md says, on machines of their
// own: each machine of its table is a network namespace with its address, a folder
// and a shell. Handing a file over with scp is simulated by a copy between the
// machines' folders.
func TestWalkthrough(t *testing.T) {
	needs(t)
	text, err := os.ReadFile("../../docs/operate/walkthrough.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWalk(t, string(text))
	steps := 0
	for _, block := range parseWalk(t, string(text)) {
		for _, name := range block.machines {
			m := w.machines[name]
			if m == nil {
				t.Fatalf("machine %q is not in the table", name)
			}
			for _, s := range block.steps {
				w.step(m, s)
				steps++
				if t.Failed() {
					return
				}
			}
		}
	}
	if steps < 10 || len(w.machines) < 4 || len(w.running) < 4 {
		t.Errorf("%d steps on %d machines, of which %d ran a node: this is no walk-through any more", steps, len(w.machines), len(w.running))
	}
}

// block is steps, all of which are done on one machine after the other.
type block struct {
	machines []string
	steps    []step
}

// step is one thing to do.
type step struct {
	line     int
	commands string
	until    string // the commands are repeated until they say this
	says     string // they must say this
}

// run is the command that stays.
const run = "civibus run"

var (
	machineRow = regexp.MustCompile(`(?m)^\| *([a-z]+) *\| *(192\.0\.2\.\d+) *\|`)
	onMachines = regexp.MustCompile(`^# on ([a-z]+(?:, [a-z]+)*)$`)
)

// parseWalk reads the blocks of commands that begin with "# on MACHINE, ...". In
// them "# repeat until it says: TEXT" stands before a command and "# it says: TEXT"
// after one.
func parseWalk(t *testing.T, text string) (blocks []block) {
	t.Helper()
	var b block
	var s step
	end := func() { // of a step
		if strings.TrimSpace(s.commands) != "" {
			b.steps = append(b.steps, s)
		}
		s = step{}
	}
	inside := false
	for i, line := range strings.Split(text, "\n") {
		said, says := strings.CutPrefix(line, "# it says: ")
		asked, repeat := strings.CutPrefix(line, "# repeat until it says: ")
		on := onMachines.FindStringSubmatch(line)
		switch {
		case line == "```sh":
			inside = true
		case line == "```":
			end()
			if len(b.machines) > 0 {
				blocks = append(blocks, b)
			}
			inside, b = false, block{}
		case !inside:
		case on != nil:
			b.machines = strings.Split(on[1], ", ")
		case len(b.machines) == 0: // a block for readers
		case says:
			s.says = said
			end()
		case repeat:
			end()
			s.until = asked
		default:
			if s.commands == "" {
				s.line = i + 1
			}
			s.commands += line + "\n"
			if s.until != "" { // one command
				end()
			}
		}
	}
	if len(blocks) == 0 {
		t.Fatal("no block of commands begins with \"# on MACHINE\"")
	}
	return blocks
}

// walk is a walk-through under way.
type walk struct {
	*testing.T
	root     string
	machines map[string]*walker
	running  []*network.Process
}

// walker is a machine with its folder and its shell.
type walker struct {
	*network.Machine
	dir   string
	shell io.WriteCloser
	lines chan string
	count int
}

// newWalk makes the machines of the table.
func newWalk(t *testing.T, text string) *walk {
	t.Helper()
	civibus, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "civibus-walk-")
	if err != nil {
		t.Fatal(err)
	}
	space, err := network.NewSpace()
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{T: t, root: root, machines: map[string]*walker{}}
	t.Cleanup(func() { w.close(space) })
	bin := filepath.Join(root, "bin")
	w.ok(os.Mkdir(bin, 0o755))
	w.ok(os.Symlink(civibus, filepath.Join(bin, "civibus")))
	w.ok(os.WriteFile(filepath.Join(bin, "scp"), []byte(handOver), 0o755))
	for _, row := range machineRow.FindAllStringSubmatch(text, -1) {
		m, err := space.Machine(row[1], netip.MustParseAddr(row[2]))
		w.ok(err)
		w.ok(m.Serve())
		w.machines[row[1]] = w.terminal(m, row[2], bin)
	}
	return w
}

// handOver is scp between the folders of two machines.
const handOver = `#!/bin/sh
# scp ADDRESS:FILE... FILE: what is before the colon is a machine's folder.
path() { case "$1" in *:*) echo "$WALK/${1%%:*}/${1#*:}" ;; *) echo "$1" ;; esac; }
for last; do :; done
while [ $# -gt 1 ]; do cp "$(path "$1")" "$(path "$last")" || exit 1; shift; done
`

// terminal opens a shell on a machine, which stays until the end.
func (w *walk) terminal(m *network.Machine, address, bin string) *walker {
	w.Helper()
	x := &walker{Machine: m, dir: filepath.Join(w.root, address), lines: make(chan string)}
	w.ok(os.Mkdir(x.dir, 0o700))
	shell := m.Command(context.Background(), "bash")
	shell.Dir = x.dir
	shell.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "WALK="+w.root, "ADDRESS="+address, "MACHINE="+m.Name)
	var err error
	x.shell, err = shell.StdinPipe()
	w.ok(err)
	out, err := shell.StdoutPipe()
	w.ok(err)
	shell.Stderr = shell.Stdout
	w.ok(shell.Start())
	go func() {
		defer close(x.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			x.lines <- s.Text()
		}
		_ = shell.Wait() // the machine's shell ends with the walk
	}()
	_, err = io.WriteString(x.shell, "set -E; trap 'echo \"FAILED: $BASH_COMMAND\"' ERR; must_fail() { if \"$@\"; then return 1; fi; }\n")
	w.ok(err)
	return x
}

func (w *walk) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// step does one step on one machine.
func (w *walk) step(m *walker, s step) {
	w.Helper()
	began := time.Now()
	// 1. A node is started and stays.
	if strings.TrimSpace(s.commands) == run {
		node := m.Command(context.Background(), filepath.Join(w.root, "bin", "civibus"), "run")
		node.Dir = m.dir
		p, err := network.Start(node, filepath.Join(m.dir, "log.txt"))
		w.ok(err)
		w.running = append(w.running, p)
		return
	}
	// 2. Anything else is done, again and again if the text says so.
	var said string
	var failed bool
	for {
		said, failed = w.do(m, s)
		if s.until == "" || contains(said, s.until) && !failed {
			break
		}
		if time.Since(began) > patience {
			w.Fatalf("line %d on %s: %s\nnever said %q, at last:\n%s", s.line, m.Name, s.commands, s.until, said)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if failed || !contains(said, s.says) {
		w.Errorf("line %d on %s: %s\nsaid (%q is wanted):\n%s", s.line, m.Name, s.commands, s.says, said)
	}
	w.Logf("%5.1f s  %s: %s", time.Since(began).Seconds(), m.Name, strings.TrimSpace(s.commands))
}

// do runs commands in a machine's shell and returns what they say.
func (w *walk) do(m *walker, s step) (said string, failed bool) {
	w.Helper()
	m.count++
	file := filepath.Join(w.root, fmt.Sprintf("%s-%d.sh", m.Name, m.count))
	script := regexp.MustCompile(`(?m)^! `).ReplaceAllString(s.commands, "must_fail ")
	w.ok(os.WriteFile(file, []byte(script), 0o600))
	end := fmt.Sprintf("end of step %d", m.count)
	_, err := fmt.Fprintf(m.shell, ". %s </dev/null\necho; echo '%s'\n", file, end)
	w.ok(err)
	timeout := time.After(patience)
	for {
		select {
		case line, open := <-m.lines:
			if !open {
				w.Fatalf("line %d on %s: the shell ended\n%s", s.line, m.Name, said)
			}
			if line == end {
				return said, failed
			}
			failed = failed || strings.HasPrefix(line, "FAILED: ")
			said += line + "\n"
		case <-timeout:
			w.Fatalf("line %d on %s: %s\ndoes not end; so far:\n%s", s.line, m.Name, s.commands, said)
		}
	}
}

// contains looks for text, whatever spaces are between its words.
func contains(said, text string) bool {
	return strings.Contains(strings.Join(strings.Fields(said), " "), strings.Join(strings.Fields(text), " "))
}

// close stops the nodes, which must end in order, and removes everything.
func (w *walk) close(space *network.Space) {
	for _, p := range w.running {
		if err := p.Stop(30 * time.Second); err != nil {
			w.Errorf("%v; its log ends with\n%s", err, p.Tail(20))
		} else if w.Failed() {
			w.Logf("a log ends with\n%s", p.Tail(20))
		}
	}
	for _, m := range w.machines {
		_ = m.shell.Close()
		for range m.lines { // until it ended
		}
	}
	if err := space.Close(); err != nil {
		w.Error(err)
	}
	if err := os.RemoveAll(w.root); err != nil {
		w.Error(err)
	}
}
