package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReadmeTour runs the README's tour as it stands: the first block starts the
// demonstration, every later block is run by a shell and must succeed. Only the
// first port is another, since tests do not fix ports.
func TestReadmeTour(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		blocks = append(blocks, string(m[1]))
	}
	if len(blocks) < 6 {
		t.Fatalf("the README's tour has %d blocks of commands, it had at least 6", len(blocks))
	}
	first := freePorts(t)
	for i := range blocks {
		blocks[i] = movePorts(blocks[i], first)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()

	// 1. Build as the README says, from the repository's root into the folder.
	build, start, found := strings.Cut(blocks[0], "\n")
	if !found || !strings.HasPrefix(build, "go build -o civibus ") {
		t.Fatalf("the tour begins with %q, not with the build", build)
	}
	if out, err := exec.Command("go", "build", "-C", root, "-o", filepath.Join(dir, "civibus"), "./cmd/civibus").CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	if err := os.Symlink(filepath.Join(root, "test"), filepath.Join(dir, "test")); err != nil {
		t.Fatal(err)
	}

	// 2. The demonstration, until it says that it stays up.
	var log lockedBuffer
	demo := exec.Command("bash", "-c", "exec "+strings.TrimSpace(start))
	demo.Dir, demo.Stdout, demo.Stderr = dir, &log, &log
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- demo.Wait() }()
	t.Cleanup(func() {
		_ = demo.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			t.Errorf("the demonstration ended with %v\n%s", err, log.String())
		}
	})
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(log.String(), "Ctrl-C ends it") {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("the demonstration ended: %v\n%s", err, log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the demonstration does not stay up\n%s", log.String())
		}
	}

	// 3. The other blocks, each command by itself.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, block := range blocks[1:] {
		for command := range strings.Lines(block) {
			command = strings.TrimSpace(command)
			if command == "" || strings.HasPrefix(command, "#") {
				continue
			}
			if _, err := exec.LookPath(strings.Fields(command)[0]); err != nil && !strings.HasPrefix(command, "./") && !strings.HasPrefix(command, "!") {
				t.Logf("not run, since this machine has no %s: %s", strings.Fields(command)[0], command)
				continue
			}
			shell := exec.CommandContext(ctx, "bash", "-c", "set -e\n"+command)
			shell.Dir = dir
			out, err := shell.CombinedOutput()
			if strings.HasPrefix(command, "!") && strings.Contains(string(out), "AccessDenied") {
				continue
			}
			if err != nil || strings.HasPrefix(command, "!") {
				t.Errorf("%s: %v\n%s", command, err, out)
			}
			if strings.HasPrefix(command, "curl") && !strings.Contains(string(out), `"id":"FIC-0001"`) {
				t.Errorf("%s: answered %s", command, out)
			}
		}
	}
}

const tourPort = 7000

// movePorts replaces the tour's sixteen ports by those from first on.
func movePorts(block string, first int) string {
	return regexp.MustCompile(`\b70[01][0-9]\b`).ReplaceAllStringFunc(block, func(s string) string {
		port, _ := strconv.Atoi(s)
		return strconv.Itoa(first + port - tourPort)
	})
}

// freePorts finds sixteen ports in a row that are free now. They are below those
// that systems give to outgoing connections, one of which could take them before
// the tour does.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 50 {
		if first := 10_000 + rand.IntN(20_000); free(first, 16) {
			return first
		}
	}
	t.Fatal("no sixteen free ports in a row")
	return 0
}

func free(first, n int) bool {
	if first+n > 65535 {
		return false
	}
	for p := first; p < first+n; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// lockedBuffer is a buffer that a child writes while the test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
