package ledger_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
	"github.com/civibus/civibus/registry"
)

// sourceOf vouches for snapshots by asking the faces of full nodes.
func sourceOf(t *testing.T, g *registry.Genesis, height uint64, hash []byte, nodes ...*ledger.Node) *light.Source {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	cfg := light.Config{Dir: t.TempDir(), Genesis: g, TrustHeight: height, TrustHash: hash, Logger: testLogger(), Certificate: func() (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}}
	for _, n := range nodes {
		srv := httptest.NewUnstartedServer(n.Face())
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		srv.StartTLS()
		t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
		cfg.FullNodes = append(cfg.FullNodes, srv.Listener.Addr().String())
	}
	s, err := light.NewSource(context.Background(), cfg)
	check(t, err)
	t.Cleanup(s.Close)
	return s
}

// TestNewNodeBeginsWithSnapshot: after the validators changed and the peers dropped
// their first blocks, a new node takes a snapshot that a light client vouches for,
// fetches the blocks since, and starts again from what it has. A process that was
// killed in the middle of it begins anew.
func TestNewNodeBeginsWithSnapshot(t *testing.T) {
	var joiner string
	w := governed(t, 2, func(_ int, cfg *ledger.Config) {
		cfg.TimeoutCommit, cfg.HeartbeatInterval, cfg.SnapshotInterval, cfg.SnapshotKeep = -1, 500*time.Millisecond, 6, 40
		cfg.Peers = append(cfg.Peers, joiner)
	})
	key := nodeKey(t)
	joiner = ledger.NodeID(key.Public().(ed25519.PublicKey))
	w.startAll()

	// 1. A validator is removed: less than two thirds of the genesis's power is left.
	first := mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "FIRST", "Before the snapshot"))
	w.pass([]int{0, 1}, w.bodies[1].removal())
	check(t, w.nodes[0].AwaitHeight(within(t, time.Minute), w.nodes[0].View().Height()+3))
	changed := w.nodes[0].View().Height()
	for i := range 14 {
		mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, fmt.Sprint("S", i), "A subsystem"))
	}
	var snapshot uint64
	eventually(t, time.Minute, "a snapshot after the change", func() bool {
		list, err := w.nodes[0].Snapshots()
		check(t, err)
		if len(list) > 0 {
			snapshot = list[0]
		}
		return snapshot > changed
	})
	check(t, w.nodes[0].AwaitHeight(within(t, time.Minute), snapshot+3))
	check(t, w.nodes[0].Prune(int64(snapshot)-1))
	if s, err := w.nodes[0].PublicStatus(); err != nil || s.Base < 2 {
		t.Fatalf("the peer keeps blocks from %d, %v", s.Base, err)
	}

	// 2. The operator names a block, because the genesis's validators cannot vouch for
	// it without the blocks between.
	hash, err := w.nodes[0].HeaderHash(snapshot)
	check(t, err)
	source := sourceOf(t, w.genesis, snapshot, hash, w.nodes[0], w.nodes[0])
	height, err := source.Snapshot(within(t, time.Minute))
	check(t, err)
	if height < snapshot {
		t.Fatalf("the newest snapshot is of height %d, want %d", height, snapshot)
	}

	// 3. The new node was killed once, when it had the registry.
	cfg := ledger.Config{
		Dir: filepath.Join(w.dir, "joiner"), Genesis: w.genesis, NodeKey: key, Logger: testLogger(), WatchInterval: 50 * time.Millisecond,
		Peers: []string{w.bodies[0].nodeID + "@" + w.listen[0]}, TimeoutCommit: -1, HeartbeatInterval: 500 * time.Millisecond,
		StateProvider: source,
	}
	check(t, ledger.Adopting(cfg, filepath.Join(w.dir, "body0", "snapshots", fmt.Sprint(snapshot))))
	n, err := ledger.Open(within(t, 2*time.Minute), cfg)
	check(t, err)
	later := mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "LATER", "After the snapshot"))
	check(t, n.WaitView(within(t, time.Minute), func(v *registry.View) bool { return v.Height() >= later.Height }))
	if s, err := n.PublicStatus(); err != nil || s.Base <= first.Height {
		t.Errorf("the new node has blocks from %d (%v): it did not begin with a snapshot", s.Base, err)
	}
	for _, code := range []string{"FIRST", "LATER"} {
		if _, ok := n.View().Subsystem(civibus.ClientID{MemberID: w.bodies[0].member, Subsystem: code}); !ok {
			t.Errorf("the new node lacks %s", code)
		}
	}
	sameHash(t, w.nodes[0], n)

	// 4. A restart begins nothing anew.
	height = n.View().Height()
	check(t, n.Close(within(t, time.Minute)))
	n, err = ledger.Open(context.Background(), cfg)
	check(t, err)
	defer func() { check(t, n.Close(within(t, time.Minute))) }()
	if n.View().Height() < height {
		t.Errorf("after the restart at height %d, was at %d", n.View().Height(), height)
	}
	last := mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "LAST", "After the restart"))
	check(t, n.WaitView(within(t, time.Minute), func(v *registry.View) bool { return v.Height() >= last.Height }))
	sameHash(t, w.nodes[0], n)
}

// TestNewNodeBeginsWithBlocks: where no peer has a snapshot the new node begins with
// the first block, also when what vouches for snapshots says that there is one.
func TestNewNodeBeginsWithBlocks(t *testing.T) {
	var joiner string
	w := governed(t, 1, func(_ int, cfg *ledger.Config) {
		cfg.TimeoutCommit, cfg.HeartbeatInterval = -1, 500*time.Millisecond
		cfg.Peers = append(cfg.Peers, joiner)
	})
	key := nodeKey(t)
	joiner = ledger.NodeID(key.Public().(ed25519.PublicKey))
	w.startAll()
	first := mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "FIRST", "A subsystem"))
	source := sourceOf(t, w.genesis, 0, nil, w.nodes[0], w.nodes[0])
	if height, err := source.Snapshot(within(t, time.Minute)); err != nil || height != 0 {
		t.Fatalf("a snapshot of height %d, %v", height, err)
	}
	cfg := ledger.Config{
		Dir: filepath.Join(w.dir, "joiner"), Genesis: w.genesis, NodeKey: key, Logger: testLogger(), WatchInterval: 50 * time.Millisecond,
		Peers: []string{w.bodies[0].nodeID + "@" + w.listen[0]}, TimeoutCommit: -1, HeartbeatInterval: 500 * time.Millisecond,
		StateProvider: source, StateSyncWait: 500 * time.Millisecond,
	}
	n, err := ledger.Open(within(t, time.Minute), cfg)
	check(t, err)
	defer func() { check(t, n.Close(within(t, time.Minute))) }()
	check(t, n.WaitView(within(t, time.Minute), func(v *registry.View) bool { return v.Height() >= first.Height }))
	if s, err := n.PublicStatus(); err != nil || s.Base != 1 {
		t.Errorf("blocks from %d, %v", s.Base, err)
	}
	sameHash(t, w.nodes[0], n)
}

// sameHash compares two nodes at the second one's height.
func sameHash(t *testing.T, a, b *ledger.Node) {
	t.Helper()
	v := b.View()
	check(t, a.AwaitHeight(within(t, time.Minute), v.Height()+1))
	want, err := a.AgreedHash(v.Height())
	check(t, err)
	if v.AppHash() != want {
		t.Fatalf("application hash %x at height %d, agreed is %x", v.AppHash(), v.Height(), want)
	}
}
