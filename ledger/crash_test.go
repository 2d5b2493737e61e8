package ledger_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// childConfig is what a child process is told, in a file.
type childConfig struct {
	Config  ledger.Config `json:"-"`
	Dir     string
	Genesis string
	Listen  string
	Peers   []string
	Voting  string // validator key file
	Node    []byte // node key
	Log     string // log key file
	Code    string // of the body
	First   uint64 // first sequence
}

// childMain runs a node that submits one transaction after the other and tells
// which are committed, until it is killed.
func childMain() int {
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	b, err := os.ReadFile(os.Getenv("CIVIBUS_LEDGER_CHILD"))
	if err != nil {
		return fail(err)
	}
	var c childConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return fail(err)
	}
	genesis, err := registry.ParseGenesis([]byte(c.Genesis))
	if err != nil {
		return fail(err)
	}
	key, err := keys.Open(c.Log)
	if err != nil {
		return fail(err)
	}
	voting, err := keys.Open(c.Voting)
	if err != nil {
		return fail(err)
	}
	n, err := ledger.Open(context.Background(), ledger.Config{
		Dir: c.Dir, Genesis: genesis, ListenAddress: c.Listen, Peers: c.Peers, ValidatorKeys: votesWith(voting), NodeKey: c.Node,
		TimeoutCommit: -1, Logger: testLogger(),
	})
	if err != nil {
		return fail(err)
	}
	fmt.Println("open")
	body := &body{log: key}
	body.sequence.Store(c.First)
	for k := 0; ; k++ {
		envelope := body.notarise(fatal{}, fmt.Sprintf("%s/%d/%d", c.Code, c.First, k))
		res, err := n.Submit(context.Background(), envelope)
		if err != nil || res.Code != 0 {
			return fail(fmt.Errorf("submit %d: %+v, %w", k, res, err))
		}
		fmt.Printf("ack %d %s\n", res.Height, hex.EncodeToString(envelope))
	}
}

// fatal is a testing.TB outside of a test.
type fatal struct{ testing.TB }

func (fatal) Helper()           {}
func (fatal) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// acked is a transaction whose commit was told.
type acked struct {
	height   uint64
	envelope []byte
}

// killChild runs a child and kills it after it has acknowledged a number of
// transactions and some more microseconds.
func killChild(t *testing.T, c childConfig, acks int, more time.Duration) (got []acked) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "child.json")
	b, err := json.Marshal(c)
	check(t, err)
	check(t, os.WriteFile(path, b, 0o600))
	exe, err := os.Executable()
	check(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CIVIBUS_LEDGER_CHILD="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	guard := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	defer guard.Stop()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	killed := false
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 || f[0] != "ack" {
			continue
		}
		height, err := strconv.ParseUint(f[1], 10, 64)
		check(t, err)
		envelope, err := hex.DecodeString(f[2])
		if err != nil { // cut by the kill
			continue
		}
		got = append(got, acked{height, envelope})
		if len(got) == acks && !killed {
			killed = true
			time.AfterFunc(more, func() { cmd.Process.Signal(syscall.SIGKILL) })
		}
	}
	err = cmd.Wait()
	if !killed {
		t.Fatalf("the child ended by itself after %d acknowledgements: %v", len(got), err)
	}
	return got
}

// writeChild makes a child's configuration of body i.
func (w *network) writeChild(i int) childConfig {
	w.t.Helper()
	cfg := w.config(i)
	g, err := w.genesis.TOML()
	check(w.t, err)
	path, voting := filepath.Join(w.dir, fmt.Sprintf("log-%d.pem", i)), filepath.Join(w.dir, fmt.Sprintf("validator-%d.pem", i))
	if _, err := os.Stat(path); err != nil {
		check(w.t, w.bodies[i].log.Write(path))
		check(w.t, w.bodies[i].validator.Write(voting))
	}
	return childConfig{Dir: cfg.Dir, Genesis: string(g), Listen: cfg.ListenAddress, Peers: cfg.Peers,
		Voting: voting, Node: cfg.NodeKey, Log: path, Code: w.bodies[i].member.Code}
}

// kills is how often a child is killed: a few times by default.
func kills(byDefault int) int {
	if n, err := strconv.Atoi(os.Getenv("CIVIBUS_LEDGER_KILLS")); err == nil {
		return n
	}
	return byDefault
}

// TestKilledAlone: the only validator is killed at random instants. What it
// acknowledged is there afterwards, and executing all blocks again gives the same
// hash.
func TestKilledAlone(t *testing.T) {
	w := &network{t: t, dir: t.TempDir(), nodes: make([]*ledger.Node, 1), listen: []string{"127.0.0.1:0"}}
	w.bodies, w.genesis = makeBodies(t, 1)
	c := w.writeChild(0)
	var all []acked
	for range kills(6) {
		all = append(all, killChild(t, c, 1+rand.IntN(20), time.Duration(rand.IntN(8000))*time.Microsecond)...)
		c.First += 1_000 // those in flight at the kill may be committed too
	}
	n := w.start(0)
	defer func() { w.stop(0) }()
	verify := func(n *ledger.Node) {
		t.Helper()
		for _, a := range all {
			res, err := n.Submit(within(t, 10*time.Second), a.envelope)
			if err != nil || res.Code != 0 || res.Height != a.height {
				t.Fatalf("acknowledged at height %d: now %+v, %v", a.height, res, err)
			}
		}
	}
	verify(n)
	mustSubmit(t, n, w.bodies[0].subsystem(t, "S", "after the kills"))
	height, hash := n.View().Height(), n.View().AppHash()
	w.stop(0)

	check(t, os.RemoveAll(filepath.Join(w.dir, "body0", "registry")))
	n = w.start(0)
	if v := n.View(); v.Height() < height || (v.Height() == height && v.AppHash() != hash) {
		t.Fatalf("replayed to height %d with hash %x, want %d with %x", v.Height(), v.AppHash(), height, hash)
	}
	verify(n)
	t.Logf("%d acknowledged transactions", len(all))
}

// TestKilledAmongFour: one of four validators is killed while it submits; it comes
// back with the others' hash, and the others have what it acknowledged.
func TestKilledAmongFour(t *testing.T) {
	w := &network{t: t, dir: t.TempDir(), nodes: make([]*ledger.Node, 4), listen: make([]string, 4)}
	w.bodies, w.genesis = makeBodies(t, 4)
	t.Cleanup(func() {
		for i := range w.nodes {
			w.stop(i)
		}
	})
	for i := range 3 {
		w.start(i)
	}
	c := w.writeChild(3)
	var all []acked
	for range kills(2) {
		all = append(all, killChild(t, c, 1+rand.IntN(10), time.Duration(rand.IntN(50))*time.Millisecond)...)
		c.First += 1_000
	}
	for i := range 3 {
		for _, a := range all {
			res, err := w.nodes[i].Submit(within(t, 10*time.Second), a.envelope)
			if err != nil || res.Code != 0 || res.Height != a.height {
				t.Fatalf("acknowledged at height %d: node %d says %+v, %v", a.height, i, res, err)
			}
		}
	}
	w.start(3)
	last := mustSubmit(t, w.nodes[3], w.bodies[0].subsystem(t, "S", "after the kills"))
	w.agree(last.Height)
}

// TestRegistryAheadIsNamed: block files older than the registry are refused with
// what to do, and doing it works.
func TestRegistryAheadIsNamed(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	dir := filepath.Join(w.dir, "body0")
	mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "1"))
	w.stop(0)
	old := filepath.Join(w.dir, "old")
	check(t, os.CopyFS(old, os.DirFS(filepath.Join(dir, "engine"))))
	w.start(0)
	for k := range 3 {
		mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, fmt.Sprint("later ", k)))
	}
	w.stop(0)
	for _, name := range []string{"blockstore.db", "state.db", "cs.wal"} {
		check(t, os.RemoveAll(filepath.Join(dir, "engine", name)))
		check(t, os.CopyFS(filepath.Join(dir, "engine", name), os.DirFS(filepath.Join(old, name))))
	}
	_, err := ledger.Open(context.Background(), w.config(0))
	if err == nil || !strings.Contains(err.Error(), "move "+dir+"/registry away") {
		t.Fatalf("registry ahead of the blocks: %v", err)
	}
	check(t, os.Rename(filepath.Join(dir, "registry"), filepath.Join(w.dir, "away")))
	w.start(0)
	if !w.nodes[0].Status().Validator || w.nodes[0].View().ChainID() != chainID {
		t.Fatal("the node did not come back")
	}
}

// TestAlteredRegistryIsNamed: a registry that is not the one agreed on does not
// start.
func TestAlteredRegistryIsNamed(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "1"))
	height := w.nodes[0].View().Height()
	w.stop(0)

	dir := filepath.Join(w.dir, "body0", "registry")
	check(t, os.RemoveAll(dir))
	check(t, ledger.FalseRegistry(dir, w.genesis, height))
	_, err := ledger.Open(context.Background(), w.config(0))
	if err == nil || !strings.Contains(err.Error(), "the validators agreed on") {
		t.Fatalf("a false registry: %v", err)
	}
}
