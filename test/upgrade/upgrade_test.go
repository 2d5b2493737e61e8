package upgrade_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// oldCommit is the build that networks are upgraded from.
const oldCommit = "e584705"

const patience = 90 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv("CIVIBUS_UPGRADE") == "" {
		fmt.Println("skipped: set CIVIBUS_UPGRADE=1 to build other versions and upgrade networks to them; test/fault/run does")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// root is the repository.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	check(t, err)
	return dir
}

// build builds civibus of the source in dir.
func build(t testing.TB, dir, name string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	c := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-trimpath", "-o", out}, flags...), "./cmd/civibus")...)
	c.Dir = dir
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, b)
	}
	return out
}

// oldSource writes the source of oldCommit from the repository's history.
func oldSource(t testing.TB) string {
	t.Helper()
	archive, err := exec.CommandContext(t.Context(), "git", "-C", root(t), "archive", oldCommit).Output()
	if err != nil {
		if os.Getenv("CIVIBUS_UPGRADE") == "required" {
			t.Fatalf("the history has no commit %s: clone all of it", oldCommit)
		}
		t.Skipf("the history has no commit %s, as in a shallow clone: %v", oldCommit, err)
	}
	dir := t.TempDir()
	c := exec.CommandContext(t.Context(), "tar", "-x", "-C", dir)
	c.Stdin = bytes.NewReader(archive)
	check(t, c.Run())
	return dir
}

// body is one body's folder and process.
type body struct {
	dir, binary string
	config      string
	consumer    string
	client      *admin.Client
	process     *exec.Cmd
	log         *os.File
}

// ports are below those that connections take for themselves.
func address(t testing.TB) string {
	t.Helper()
	for range 1000 {
		a := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		if l, err := net.Listen("tcp", a); err == nil {
			check(t, l.Close())
			return a
		}
	}
	t.Fatal("no port is free")
	return ""
}

// found makes four bodies with a build and starts none. The first offers
// population/persons at a URL.
func found(t testing.TB, binary, url string) []*body {
	t.Helper()
	dir := t.TempDir()
	var bodies []*body
	var cards, ledgers []string
	for i := range 4 {
		b := &body{dir: filepath.Join(dir, fmt.Sprint("b", i)), binary: binary, consumer: address(t)}
		b.config = filepath.Join(b.dir, "civibus.toml")
		run(t, binary, "init", "--member", fmt.Sprintf("DEMO/GOV/%d", i+1), "--name", fmt.Sprint("Body ", i+1), "--dir", b.dir,
			"--provider", address(t), "--ledger", address(t), "--consumer", b.consumer, "--metrics", "off")
		cards = append(cards, filepath.Join(b.dir, "body.toml"))
		text, err := os.ReadFile(cards[i])
		check(t, err)
		card, err := node.ParseBody(text)
		check(t, err)
		ledgers = append(ledgers, card.Ledger)
		bodies = append(bodies, b)
	}
	genesis := filepath.Join(dir, "genesis.toml")
	run(t, binary, append([]string{"init", "genesis", "--out", genesis}, cards...)...)
	for i, b := range bodies {
		text, err := os.ReadFile(genesis)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(b.dir, "genesis.toml"), text, 0o644))
		c, err := os.ReadFile(b.config)
		check(t, err)
		cfg, err := node.ParseConfig(c)
		check(t, err)
		socket := filepath.Join(b.dir, "s")
		out := string(c)
		var peers []string
		for j, l := range ledgers {
			if j != i {
				peers = append(peers, fmt.Sprintf("%q", l))
			}
		}
		listen := fmt.Sprintf("listen = %q", cfg.Ledger.Listen)
		if !strings.Contains(out, listen) {
			t.Fatalf("no %s in\n%s", listen, out)
		}
		out = strings.Replace(out, listen, listen+"\npeers = ["+strings.Join(peers, ", ")+"]\nblock_pause = \"50ms\"", 1)
		out = dropKeys(out)
		out = strings.Replace(out, "[admin]\n", "[admin]\nsocket = \""+socket+"\"\n", 1)
		if !strings.Contains(out, socket) {
			out += "\n[admin]\nsocket = \"" + socket + "\"\n"
		}
		if i == 0 {
			out += "\n[[services]]\nid = \"population/persons\"\nurl = \"" + url + "\"\n"
		}
		check(t, os.WriteFile(b.config, []byte(out), 0o600))
		b.client = admin.NewClient(socket)
		t.Cleanup(b.kill)
	}
	return bodies
}

// dropKeys removes settings that are set again.
func dropKeys(text string) string {
	var out []string
	seen := map[string]bool{}
	for _, line := range strings.Split(text, "\n") {
		key, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if (key == "peers" || key == "block_pause") && seen[key] || key == "socket" {
			continue
		}
		seen[key] = true
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func run(t testing.TB, binary string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("civibus %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start starts the body with a build and does not wait.
func (b *body) start(t testing.TB, binary string) {
	t.Helper()
	var err error
	b.log, err = os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	b.binary = binary
	b.process = exec.Command(binary, "run", "--config", b.config)
	b.process.Stdout, b.process.Stderr = b.log, b.log
	check(t, b.process.Start())
}

// ready waits until the body takes exchanges.
func (b *body) ready(t testing.TB) {
	t.Helper()
	eventually(t, b.dir+" is ready", func() error {
		s, err := b.client.Status(t.Context())
		if err == nil && !s.Ready {
			err = fmt.Errorf("components %v", s.Components)
		}
		return err
	})
}

// at waits until the body is at a height.
func (b *body) at(t testing.TB, height uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is at height %d", b.dir, height), func() error {
		s, err := b.client.Status(t.Context())
		if err == nil && s.Ledger.Height < height {
			err = fmt.Errorf("height %d", s.Ledger.Height)
		}
		return err
	})
}

// stop ends the body in order.
func (b *body) stop(t testing.TB) {
	t.Helper()
	check(t, b.process.Process.Signal(syscall.SIGTERM))
	if err := b.process.Wait(); err != nil {
		text, _ := os.ReadFile(b.log.Name())
		t.Fatalf("%s: %v\n%s", b.dir, err, tail(text))
	}
	b.process = nil
	check(t, b.log.Close())
}

func (b *body) kill() {
	if b.process != nil {
		_ = b.process.Process.Kill()
		_ = b.process.Wait()
		b.process = nil
	}
}

func tail(text []byte) []byte { return text[max(0, len(text)-4000):] }

// eventually waits until what gives no error.
func eventually(t testing.TB, what string, done func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

// agree waits until all bodies are at one height at least, and compares the hashes
// of those that are at the same.
func agree(t testing.TB, bodies []*body, height uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("the bodies agree at height %d", height), func() error {
		hashes, least := map[uint64]string{}, map[uint64]int{}
		for _, b := range bodies {
			s, err := b.client.Status(t.Context())
			if err != nil {
				return err
			}
			if h, ok := hashes[s.Ledger.Height]; ok && h != s.Ledger.AppHash {
				t.Fatalf("two hashes at height %d: %s, %s", s.Ledger.Height, h, s.Ledger.AppHash)
			}
			hashes[s.Ledger.Height] = s.Ledger.AppHash
			least[s.Ledger.Height]++
		}
		for h, n := range least {
			if h >= height && n == len(bodies) {
				return nil
			}
		}
		return fmt.Errorf("heights %v", least)
	})
}

// change makes one change of the registry at a body and returns its height.
func (b *body) change(t testing.TB, tx *registrypb.Tx) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := b.client.Change(ctx, tx)
	if err != nil {
		text, _ := os.ReadFile(b.log.Name())
		t.Fatalf("%s: %v\n%s", b.dir, err, tail(text))
	}
	return c.Height
}

func subsystem(id string) *registrypb.Tx {
	return &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: id}}}
}

// load are exchanges that go on, and which were answered.
type load struct {
	mu   sync.Mutex
	done []string
	errs int
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (b *body) load(t testing.TB) *load {
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop}
	for range 2 {
		l.wg.Go(func() {
			c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			pause := time.NewTicker(20 * time.Millisecond)
			defer pause.Stop()
			for ctx.Err() == nil {
				<-pause.C
				id, err := call(ctx, c, b.consumer)
				l.mu.Lock()
				if err == nil {
					l.done = append(l.done, id)
				} else {
					l.errs++
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *load) count() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.done) }

func (l *load) end() { l.stop(); l.wg.Wait() }

// more waits until some more exchanges were answered.
func (l *load) more(t testing.TB, n int) {
	t.Helper()
	from := l.count()
	eventually(t, "exchanges go on", func() error {
		if got := l.count() - from; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

func call(ctx context.Context, c *http.Client, consumer string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+consumer+"/r1/DEMO/GOV/1/population/persons/1", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Road-Client", "DEMO/GOV/4/portal")
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	return resp.Header.Get("X-Road-Request-Id"), nil
}

// service registers what the exchanges need.
func service(t testing.TB, bodies []*body) {
	t.Helper()
	p := bodies[0]
	p.change(t, subsystem("DEMO/GOV/1/population"))
	bodies[3].change(t, subsystem("DEMO/GOV/4/portal"))
	p.change(t, &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: "DEMO/GOV/1/population/persons", Type: registrypb.ServiceType_SERVICE_TYPE_REST, Title: "Persons"}}})
	h := p.change(t, &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{
		Service: "DEMO/GOV/1/population/persons", Purpose: "p", LegalBasis: "b", Subject: &registrypb.GrantRight_Client{Client: "DEMO/GOV/4/portal"}}}})
	agree(t, bodies, h)
}

func upstream(t testing.TB) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	t.Cleanup(srv.Close)
	return srv.URL
}

// receipt fetches the receipt of an exchange with a body's own build, and the policy.
func (b *body) receipt(t testing.TB, id string) (receipt, policy string) {
	t.Helper()
	receipt, policy = filepath.Join(t.TempDir(), "r"), filepath.Join(t.TempDir(), "p")
	eventually(t, "a receipt of "+id, func() error {
		out, err := exec.CommandContext(t.Context(), b.binary, "receipt", "get", id, "-o", receipt, "--config", b.config).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	text, err := b.client.Policy(t.Context())
	check(t, err)
	check(t, os.WriteFile(policy, text, 0o600))
	return receipt, policy
}

// TestRollingUpgrade replaces the bodies' software one after the other while
// exchanges go on, from the build of oldCommit to this one.
func TestRollingUpgrade(t *testing.T) {
	old := build(t, oldSource(t), "civibus-old")
	now := build(t, root(t), "civibus-new")
	bodies := found(t, old, upstream(t))
	for _, b := range bodies {
		b.start(t, old)
	}
	for _, b := range bodies {
		b.ready(t)
	}
	service(t, bodies)
	consumer := bodies[3]
	l := consumer.load(t)
	defer l.end()
	l.more(t, 20)
	l.mu.Lock()
	first := l.done[0]
	l.mu.Unlock()
	before, beforePolicy := consumer.receipt(t, first)

	// One after the other; after each, blocks are made, hashes agree and exchanges go on.
	for i, b := range bodies {
		b.stop(t)
		b.start(t, now)
		b.ready(t)
		h := bodies[(i+1)%4].change(t, subsystem(fmt.Sprintf("DEMO/GOV/%d/after%d", (i+1)%4+1, i)))
		agree(t, bodies, h)
		l.more(t, 20)
	}
	l.end()

	// Nothing that was answered is lost, at either side.
	for _, id := range l.done {
		for _, b := range []*body{bodies[0], consumer} {
			if x, err := b.client.Exchange(t.Context(), id); err != nil || len(x.Entries) == 0 {
				t.Fatalf("exchange %s was answered and %s does not have it: %v", id, b.dir, err)
			}
		}
	}
	// Receipts of before and after verify with both builds.
	after, afterPolicy := consumer.receipt(t, l.done[len(l.done)-1])
	again, againPolicy := consumer.receipt(t, first)
	for _, binary := range []string{old, now} {
		run(t, binary, "receipt", "verify", before, "--policy", beforePolicy)
		run(t, binary, "receipt", "verify", after, "--policy", afterPolicy)
		run(t, binary, "receipt", "verify", again, "--policy", againPolicy)
	}
	t.Logf("%d exchanges answered, %d calls refused or broken off while a body was down", len(l.done), l.errs)
}

// TestUpgradeByVote: the members decide on an upgrade at a height. The version that
// does not know it stops before that block, refuses to start with exit code 5, and
// the one that does goes on in the same folders.
func TestUpgradeByVote(t *testing.T) {
	const name = "test-upgrade"
	old := build(t, root(t), "civibus-before")
	now := build(t, root(t), "civibus-after", "-ldflags", "-X github.com/civibus/civibus/registry.upgrades="+name)
	bodies := found(t, old, upstream(t))
	for _, b := range bodies {
		b.start(t, old)
	}
	for _, b := range bodies {
		b.ready(t)
	}
	service(t, bodies)
	s, err := bodies[0].client.Status(t.Context())
	check(t, err)
	height := s.Ledger.Height + 25
	plan := &registrypb.Change{Change: &registrypb.Change_PlanUpgrade{PlanUpgrade: &registrypb.PlanUpgrade{Name: name, Height: height}}}
	bodies[0].change(t, &registrypb.Tx{Body: &registrypb.Tx_Propose{Propose: &registrypb.Propose{Change: plan}}})
	for i, b := range bodies[1:] {
		before, err := bodies[i].client.Status(t.Context())
		check(t, err)
		b.at(t, before.Ledger.Height) // has the proposal and the votes before
		open, err := b.client.OpenProposals(t.Context(), admin.ListOptions{})
		check(t, err)
		for _, p := range open.Items {
			b.change(t, &registrypb.Tx{Body: &registrypb.Tx_CastVote{CastVote: &registrypb.CastVote{Proposal: p.ID, Yes: true}}})
		}
	}
	// Up to the height: every body stops before it and says what it needs.
	for k := 0; ; k++ {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := bodies[0].client.Change(ctx, subsystem(fmt.Sprintf("DEMO/GOV/1/s%d", k)))
		cancel()
		if err != nil {
			break
		}
		if k > 60 {
			t.Fatal("the height of the upgrade does not come")
		}
	}
	for _, b := range bodies {
		eventually(t, b.dir+" stops before the upgrade", func() error {
			s, err := b.client.Status(t.Context())
			if err == nil && (s.Ledger.Height != height-1 || !strings.Contains(strings.Join(s.Ledger.Problems, "\n"), name)) {
				err = fmt.Errorf("height %d of %d: %v", s.Ledger.Height, height, s.Ledger.Problems)
			}
			return err
		})
		b.stop(t)
		out, err := exec.CommandContext(t.Context(), old, "run", "--config", b.config).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.Contains(string(out), name) || !strings.Contains(string(out), "install") {
			t.Fatalf("the old version at the upgrade: %v\n%s", err, out)
		}
	}
	for _, b := range bodies {
		b.start(t, now)
	}
	for _, b := range bodies {
		b.ready(t)
	}
	h := bodies[2].change(t, subsystem("DEMO/GOV/3/after"))
	if h < height {
		t.Fatalf("the new version made block %d, the upgrade was at %d", h, height)
	}
	agree(t, bodies, h)
	l := bodies[3].load(t)
	l.more(t, 5)
	l.end()
}
