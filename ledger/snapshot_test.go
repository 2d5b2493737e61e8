package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// exported makes a network of one validator with some history and a snapshot of
// it.
func exported(t testing.TB, interval uint64) (w *network, snapshot string) {
	t.Helper()
	w = newNetwork(t, 1, func(_ int, cfg *ledger.Config) {
		cfg.TimeoutCommit, cfg.HeartbeatInterval, cfg.SnapshotInterval = -1, 500*time.Millisecond, interval
	})
	for k := range 5 {
		mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, fmt.Sprint("SUB", k), "A subsystem"))
	}
	snapshot, err := w.nodes[0].ExportSnapshot(within(t, 20*time.Second), filepath.Join(w.dir, "snapshots"))
	check(t, err)
	return w, snapshot
}

// follower is the configuration of a node without a vote in dir.
func (w *network) follower(dir string) (cfg ledger.Config, id string) {
	w.t.Helper()
	key := w.followers[dir]
	if key == nil {
		if w.followers == nil {
			w.followers = make(map[string]ed25519.PrivateKey)
		}
		key = nodeKey(w.t)
		w.followers[dir] = key
	}
	return ledger.Config{Dir: dir, Genesis: w.genesis, NodeKey: key, Logger: testLogger(), WatchInterval: 50 * time.Millisecond,
		Peers: []string{w.bodies[0].nodeID + "@" + w.listen[0]}, TimeoutCommit: -1, HeartbeatInterval: 500 * time.Millisecond}, ledger.NodeID(key.Public().(ed25519.PublicKey))
}

// TestSnapshotRestoresANode: a node restored from a snapshot goes on with the
// blocks since, without the ones before, also after a restart.
func TestSnapshotRestoresANode(t *testing.T) {
	w, snapshot := exported(t, 0)
	m, err := ledger.ReadManifest(snapshot)
	check(t, err)
	dir := filepath.Join(w.dir, "restored")
	cfg, id := w.follower(dir)
	check(t, ledger.RestoreSnapshot(context.Background(), cfg, snapshot))
	if err := ledger.RestoreSnapshot(context.Background(), cfg, snapshot); err == nil || !strings.Contains(err.Error(), "without blocks and registry") {
		t.Fatalf("restored over a node: %v", err)
	}
	later := mustSubmit(t, w.nodes[0], w.bodies[0].subsystem(t, "LATER", "After the snapshot"))

	// Start it once without peers: it stands at the snapshot and survives a
	// restart there.
	alone := cfg
	alone.Peers = nil
	for range 2 {
		n, err := ledger.Open(context.Background(), alone)
		check(t, err)
		if v := n.View(); v.Height() != m.Height || hashOf(v) != fmt.Sprintf("%x", []byte(m.AppHash)) {
			t.Fatalf("restored to height %d, want %d", v.Height(), m.Height)
		}
		check(t, n.Close(within(t, 10*time.Second)))
	}

	w.stop(0)
	w.change = func(_ int, c *ledger.Config) {
		c.TimeoutCommit, c.HeartbeatInterval, c.Peers = -1, 500*time.Millisecond, append(c.Peers, id)
	}
	w.start(0)
	n, err := ledger.Open(context.Background(), cfg)
	check(t, err)
	defer func() { check(t, n.Close(within(t, 10*time.Second))) }()
	check(t, n.WaitView(within(t, 20*time.Second), func(v *registry.View) bool { return v.Height() >= later.Height }))
	subsystem := civibus.ClientID{MemberID: w.bodies[0].member, Subsystem: "LATER"}
	if _, ok := n.View().Subsystem(subsystem); !ok {
		t.Fatal("the restored node lacks what came after the snapshot")
	}
	w.nodes = append(w.nodes, n)
	w.agree(later.Height)
	w.nodes = w.nodes[:1]
}

func hashOf(v *registry.View) string { return fmt.Sprintf("%x", v.AppHash()) }

// TestSnapshotRefused: whatever is altered in a snapshot is named and nothing is
// left behind.
func TestSnapshotRefused(t *testing.T) {
	w, snapshot := exported(t, 0)
	chunk := filepath.Join("000000.chunk")
	manifest := func(change func(m map[string]any)) func(dir string) {
		return func(dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
			check(t, err)
			var m map[string]any
			d := json.NewDecoder(bytes.NewReader(b))
			d.UseNumber()
			check(t, d.Decode(&m))
			change(m)
			b, err = json.Marshal(m)
			check(t, err)
			check(t, os.WriteFile(filepath.Join(dir, "manifest.json"), b, 0o600))
		}
	}
	_, foreign := makeBodies(t, 1)
	for _, c := range []struct {
		name, want string
		damage     func(dir string)
		genesis    *registry.Genesis
	}{
		{"chunk altered", "chunk 000000.chunk is damaged", func(dir string) {
			b, err := os.ReadFile(filepath.Join(dir, chunk))
			check(t, err)
			b[len(b)/2] ^= 1
			check(t, os.WriteFile(filepath.Join(dir, chunk), b, 0o600))
		}, nil},
		{"chunk cut", "chunk 000000.chunk is damaged", func(dir string) { check(t, os.Truncate(filepath.Join(dir, chunk), 10)) }, nil},
		{"chunk missing", "000000.chunk", func(dir string) { check(t, os.Remove(filepath.Join(dir, chunk))) }, nil},
		{"no manifest", "manifest.json", func(dir string) { check(t, os.Remove(filepath.Join(dir, "manifest.json"))) }, nil},
		{"another format", "format", manifest(func(m map[string]any) { m["format"] = "civibus-snapshot/v2" }), nil},
		{"another chain", "chain id", manifest(func(m map[string]any) { m["chain_id"] = "other" }), nil},
		{"another hash", "the validators signed", manifest(func(m map[string]any) { m["app_hash"] = strings.Repeat("ab", 32) }), nil},
		{"another state root", "state root", manifest(func(m map[string]any) { m["state_root"] = strings.Repeat("ab", 32) }), nil},
		{"another height", "headers of heights", manifest(func(m map[string]any) { m["height"] = 1 }), nil},
		{"no header", "incomplete", manifest(func(m map[string]any) { m["engine"].(map[string]any)["next_header"] = "" }), nil},
		{"other validators", "validators of height", manifest(func(m map[string]any) { m["engine"].(map[string]any)["then_validators"] = "" }), nil},
		{"another genesis", "not signed by more than two thirds", func(string) {}, foreign},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "snapshot")
			check(t, os.CopyFS(dir, os.DirFS(snapshot)))
			c.damage(dir)
			cfg, _ := w.follower(filepath.Join(t.TempDir(), "node"))
			if c.genesis != nil {
				cfg.Genesis = c.genesis
			}
			err := ledger.RestoreSnapshot(context.Background(), cfg, dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			for _, left := range []string{"registry", "engine/state.db", "restoring"} {
				if _, err := os.Stat(filepath.Join(cfg.Dir, left)); err == nil {
					t.Errorf("%s was left behind", left)
				}
			}
		})
	}
}

// TestStateSyncMethods drives the engine's snapshot calls from one node's
// automatic snapshot into an empty node's application.
func TestStateSyncMethods(t *testing.T) {
	w, _ := exported(t, 2)
	ctx := context.Background()
	from := w.nodes[0].App()
	var offered *abci.Snapshot
	eventually(t, 20*time.Second, "an automatic snapshot", func() bool {
		res, err := from.ListSnapshots(ctx, &abci.RequestListSnapshots{})
		check(t, err)
		if len(res.Snapshots) == 0 || len(res.Snapshots) > 3 {
			return false
		}
		offered = res.Snapshots[0]
		return true
	})
	m, err := ledger.ReadManifest(filepath.Join(w.dir, "body0", "snapshots", fmt.Sprint(offered.Height)))
	check(t, err)
	var chunks [][]byte
	for i := range offered.Chunks {
		res, err := from.LoadSnapshotChunk(ctx, &abci.RequestLoadSnapshotChunk{Height: offered.Height, Format: offered.Format, Chunk: i})
		check(t, err)
		chunks = append(chunks, res.Chunk)
	}
	for _, bad := range []*abci.RequestLoadSnapshotChunk{{Height: 1 << 40, Format: 1}, {Height: offered.Height, Format: 9}, {Height: offered.Height, Format: 1, Chunk: 1 << 30}} {
		if res, err := from.LoadSnapshotChunk(ctx, bad); err != nil || res.Chunk != nil {
			t.Fatalf("chunk %v: %v, %v", bad, res, err)
		}
	}

	to, err := ledger.NewApp(ledger.Config{Dir: filepath.Join(w.dir, "empty"), Genesis: w.genesis})
	check(t, err)
	defer to.CloseStore()
	offer := func(hash []byte) abci.ResponseOfferSnapshot_Result {
		res, err := to.OfferSnapshot(ctx, &abci.RequestOfferSnapshot{Snapshot: offered, AppHash: hash})
		check(t, err)
		return res.Result
	}
	if got := offer(make([]byte, 32)); got != abci.ResponseOfferSnapshot_REJECT {
		t.Fatalf("a snapshot with another hash than the verified one: %v", got)
	}
	if got := offer(m.AppHash); got != abci.ResponseOfferSnapshot_ACCEPT {
		t.Fatalf("offer: %v", got)
	}
	bad := bytes.Clone(chunks[0])
	bad[0] ^= 1
	res, err := to.ApplySnapshotChunk(ctx, &abci.RequestApplySnapshotChunk{Index: 0, Chunk: bad, Sender: "liar"})
	check(t, err)
	if res.Result != abci.ResponseApplySnapshotChunk_RETRY || len(res.RejectSenders) != 1 || len(res.RefetchChunks) != 1 {
		t.Fatalf("a damaged chunk: %+v", res)
	}
	for i, c := range chunks {
		res, err := to.ApplySnapshotChunk(ctx, &abci.RequestApplySnapshotChunk{Index: uint32(i), Chunk: c})
		check(t, err)
		if res.Result != abci.ResponseApplySnapshotChunk_ACCEPT {
			t.Fatalf("chunk %d: %v", i, res.Result)
		}
	}
	info, err := to.Info(ctx, &abci.RequestInfo{})
	check(t, err)
	if info.LastBlockHeight != int64(m.Height) || !bytes.Equal(info.LastBlockAppHash, m.AppHash) {
		t.Fatalf("restored %+v, want height %d", info, m.Height)
	}
	if got := offer(m.AppHash); got != abci.ResponseOfferSnapshot_ABORT {
		t.Fatalf("a second snapshot over a registry: %v", got)
	}
}
