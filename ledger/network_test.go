package ledger_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const chainID = "test-1"

// body is one public body of a test network with all its keys.
type body struct {
	member    civibus.MemberID
	admin     *keys.Key
	log       *keys.Key
	witness   *keys.Key
	validator *keys.Key
	nodeKey   ed25519.PrivateKey
	nodeID    string
	sequence  atomic.Uint64
}

// makeBodies makes n bodies with validators and a genesis that names them.
func makeBodies(t testing.TB, n int) ([]*body, *registry.Genesis) {
	t.Helper()
	g := &registry.Genesis{
		Format: registry.GenesisFormat, Instance: "TEST", ChainID: chainID,
		Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Registrars: []string{"TEST/GOV/BODY0"},
	}
	var bodies []*body
	for i := range n {
		b, gm, v := makeBody(t, i)
		g.Validators = append(g.Validators, v)
		g.Members = append(g.Members, gm)
		bodies = append(bodies, b)
	}
	return bodies, g
}

// makeBody makes one body with its keys, and how a genesis names it.
func makeBody(t testing.TB, i int) (*body, registry.GenesisMember, registry.GenesisValidator) {
	t.Helper()
	b := &body{member: civibus.MemberID{Instance: "TEST", Class: "GOV", Code: fmt.Sprintf("BODY%d", i)}}
	b.validator = newKey(t, civibus.ValidatorKey, civibus.Ed25519)
	b.nodeKey = nodeKey(t)
	b.nodeID = ledger.NodeID(b.nodeKey.Public().(ed25519.PublicKey))
	gm := registry.GenesisMember{ID: b.member.String(), Name: b.member.Code}
	add := func(purpose civibus.Purpose, spki []byte) string {
		s := base64.StdEncoding.EncodeToString(spki)
		gm.Keys = append(gm.Keys, registry.GenesisKey{Purpose: purpose.String(), SPKI: s})
		return s
	}
	for purpose, to := range map[civibus.Purpose]**keys.Key{civibus.AdminKey: &b.admin, civibus.LogKey: &b.log, civibus.WitnessKey: &b.witness} {
		*to = newKey(t, purpose, civibus.Ed25519)
		add(purpose, (*to).Key().SPKI)
	}
	key := add(civibus.ValidatorKey, b.validator.Key().SPKI)
	return b, gm, registry.GenesisValidator{Member: gm.ID, Key: key, Power: 10}
}

func newKey(t testing.TB, purpose civibus.Purpose, algorithm civibus.Algorithm) *keys.Key {
	t.Helper()
	k, err := keys.Generate(purpose, algorithm)
	check(t, err)
	return k
}

func nodeKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	k, err := newKey(t, keys.NodeKey, civibus.Ed25519).Ed25519()
	check(t, err)
	return k
}

// votesWith hands validator keys to a node.
func votesWith(held ...*keys.Key) func() []ledger.ValidatorKey {
	var out []ledger.ValidatorKey
	for _, k := range held {
		var v ledger.ValidatorKey
		var err error
		if k.Key().Algorithm == civibus.MLDSA65 {
			var seed []byte
			if seed, err = k.Seed(); err == nil {
				v, err = ledger.NewMLDSAValidatorKey(seed)
			}
		} else {
			var private ed25519.PrivateKey
			if private, err = k.Ed25519(); err == nil {
				v, err = ledger.NewValidatorKey(private)
			}
		}
		if err != nil {
			panic(err)
		}
		out = append(out, v)
	}
	return func() []ledger.ValidatorKey { return out }
}

// notarise signs a transaction that records a digest.
func (b *body) notarise(t testing.TB, text string) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	return b.sign(t, b.log, &registrypb.Tx{Body: &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: digest[:]}}})
}

// subsystem signs a transaction that creates or renames a subsystem.
func (b *body) subsystem(t testing.TB, code, name string) []byte {
	t.Helper()
	id := civibus.ClientID{MemberID: b.member, Subsystem: code}.String()
	return b.sign(t, b.admin, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: name}}})
}

func (b *body) sign(t testing.TB, key *keys.Key, tx *registrypb.Tx) []byte {
	t.Helper()
	tx.ChainId = chainID
	tx.Sequence = b.sequence.Add(1)
	envelope, err := registry.SignTx(context.Background(), key, tx)
	check(t, err)
	return envelope
}

// network is a number of nodes in this process.
type network struct {
	t       testing.TB
	dir     string
	bodies  []*body
	genesis *registry.Genesis
	nodes   []*ledger.Node
	listen  []string
	change  func(i int, cfg *ledger.Config)

	followers map[string]ed25519.PrivateKey // node keys by directory
}

// newNetwork starts n validators that are all connected.
func newNetwork(t testing.TB, n int, change func(i int, cfg *ledger.Config)) *network {
	t.Helper()
	w := makeNetwork(t, n, change)
	for i := range n {
		w.start(i)
	}
	return w
}

// makeNetwork makes n validators and starts none.
func makeNetwork(t testing.TB, n int, change func(i int, cfg *ledger.Config)) *network {
	t.Helper()
	w := &network{t: t, dir: t.TempDir(), change: change}
	w.bodies, w.genesis = makeBodies(t, n)
	w.nodes, w.listen = make([]*ledger.Node, n), make([]string, n)
	t.Cleanup(func() {
		for i := range w.nodes {
			w.stop(i)
		}
	})
	return w
}

// config is node i's configuration. It dials every node whose address is known.
func (w *network) config(i int) ledger.Config {
	cfg := ledger.Config{
		Dir: filepath.Join(w.dir, fmt.Sprintf("body%d", i)), Genesis: w.genesis,
		ValidatorKeys: votesWith(w.bodies[i].validator), NodeKey: w.bodies[i].nodeKey, Witness: w.bodies[i].witness,
		TimeoutCommit: 20 * time.Millisecond, WatchInterval: 50 * time.Millisecond,
		Logger: testLogger(), ListenAddress: "127.0.0.1:0",
	}
	if w.listen[i] != "" {
		cfg.ListenAddress = w.listen[i]
	}
	for j, b := range w.bodies {
		switch {
		case j == i:
		case w.listen[j] == "":
			cfg.Peers = append(cfg.Peers, b.nodeID)
		default:
			cfg.Peers = append(cfg.Peers, b.nodeID+"@"+w.listen[j])
		}
	}
	if w.change != nil {
		w.change(i, &cfg)
	}
	return cfg
}

func (w *network) start(i int) *ledger.Node {
	w.t.Helper()
	n, err := ledger.Open(context.Background(), w.config(i))
	check(w.t, err)
	w.nodes[i], w.listen[i] = n, n.ListenAddress()
	return n
}

func (w *network) stop(i int) {
	w.t.Helper()
	if w.nodes[i] == nil {
		return
	}
	check(w.t, w.nodes[i].Close(within(w.t, 20*time.Second)))
	w.nodes[i] = nil
}

// agree waits until all running nodes have the height and compares their hashes
// at one height.
func (w *network) agree(height uint64) {
	w.t.Helper()
	ctx := within(w.t, 30*time.Second)
	want := make(map[uint64][32]byte)
	for try := 0; ; try++ {
		same := true
		for i, n := range w.nodes {
			if n == nil {
				continue
			}
			if err := n.WaitView(ctx, func(v *registry.View) bool { return v.Height() >= height }); err != nil {
				w.t.Fatalf("node %d at height %d, want %d: %v; %v", i, n.View().Height(), height, err, n.Status().Problems)
			}
			v := n.View()
			hash, ok := want[v.Height()]
			if ok && hash != v.AppHash() {
				w.t.Fatalf("node %d has application hash %x at height %d, another has %x", i, v.AppHash(), v.Height(), hash)
			}
			want[v.Height()] = v.AppHash()
			same = same && (len(want) == 1)
			height = max(height, v.Height())
		}
		if same {
			return
		}
		want = make(map[uint64][32]byte)
	}
}

// mustSubmit submits and wants the transaction accepted.
func mustSubmit(t testing.TB, n *ledger.Node, envelope []byte) ledger.Committed {
	t.Helper()
	c, err := n.Submit(within(t, 30*time.Second), envelope)
	if err != nil {
		t.Fatalf("submit: %v; %v", err, n.Status().Problems)
	}
	if c.Code != 0 || c.Height == 0 || c.TxHash != registry.TxHash(envelope) {
		t.Fatalf("submit: %+v, want code 0 and a height", c)
	}
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until what becomes true.
func eventually(t testing.TB, d time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(d); ; <-tick.C {
		if done() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testLogger() *slog.Logger {
	level := slog.LevelError + 4
	if os.Getenv("CIVIBUS_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
