package light_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/ledger"
)

type liar func(w http.ResponseWriter, r *http.Request, honest http.Handler)

// altered passes a question on and alters the answer to those whose path has a part.
func altered(part string, alter func(b []byte) []byte) liar {
	return func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		if !strings.Contains(r.URL.Path, part) {
			honest.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		honest.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		if rec.Code == http.StatusOK {
			b = alter(b)
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(b)
	}
}

// private is a validator's key.
func private(t testing.TB, b *body) crypto.PrivKey {
	t.Helper()
	key, err := b.validator.Ed25519()
	check(t, err)
	return cmted25519.PrivKey(key)
}

// forge alters a light block's header and has it signed by some validators, who must
// be in its set unless another one is given.
func forge(t testing.TB, b []byte, change func(h *types.Header), set *types.ValidatorSet, signers ...crypto.PrivKey) []byte {
	t.Helper()
	lb := decode(t, b)
	if set != nil {
		lb.ValidatorSet = set
		lb.ValidatorsHash, lb.NextValidatorsHash, lb.ProposerAddress = set.Hash(), set.Hash(), set.Validators[0].Address
	}
	if change != nil {
		change(lb.Header)
	}
	id := types.BlockID{Hash: lb.Header.Hash(), PartSetHeader: lb.Commit.BlockID.PartSetHeader}
	commit := &types.Commit{Height: lb.Height, BlockID: id}
	for i, v := range lb.ValidatorSet.Validators {
		sig := types.NewCommitSigAbsent()
		for _, k := range signers {
			if !bytes.Equal(k.PubKey().Address(), v.Address) {
				continue
			}
			vote := &cmtproto.Vote{Type: cmtproto.PrecommitType, Height: lb.Height, BlockID: id.ToProto(), Timestamp: lb.Time.Add(time.Millisecond), ValidatorAddress: v.Address, ValidatorIndex: int32(i)}
			signature, err := k.Sign(types.VoteSignBytes(chainID, vote))
			check(t, err)
			sig = types.CommitSig{BlockIDFlag: types.BlockIDFlagCommit, ValidatorAddress: v.Address, Timestamp: vote.Timestamp, Signature: signature}
		}
		commit.Signatures = append(commit.Signatures, sig)
	}
	lb.Commit = commit
	pb, err := lb.ToProto()
	check(t, err)
	out, err := pb.Marshal()
	check(t, err)
	return out
}

func decode(t testing.TB, b []byte) *types.LightBlock {
	t.Helper()
	var pb cmtproto.LightBlock
	check(t, pb.Unmarshal(b))
	lb, err := types.LightBlockFromProto(&pb)
	check(t, err)
	return lb
}

// eachBlock alters the blocks of an answer.
func eachBlock(t testing.TB, b []byte, change func(pb *cmtproto.Block)) (out []byte) {
	t.Helper()
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		var pb cmtproto.Block
		check(t, pb.Unmarshal(b[n:n+int(size)]))
		change(&pb)
		raw, err := pb.Marshal()
		check(t, err)
		out = append(binary.AppendUvarint(out, uint64(len(raw))), raw...)
		b = b[n+int(size):]
	}
	return out
}

// lies reads what is kept of full nodes' lies.
func lies(t testing.TB, dir string) (kinds []string, said int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "lies", "*.json"))
	check(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		check(t, err)
		var l struct {
			Kind     string `json:"kind"`
			FullNode string `json:"full_node"`
			Said     []byte `json:"said"`
		}
		check(t, json.Unmarshal(b, &l))
		kinds = append(kinds, l.Kind+" "+l.FullNode)
		said += len(l.Said)
	}
	return kinds, said
}

// TestLyingFullNode: whatever one full node says falsely is refused, it is named and
// left alone, what it said is kept, and the client goes on with honest ones.
func TestLyingFullNode(t *testing.T) {
	w := newNetwork(t, 3, nil)
	two := []crypto.PrivKey{private(t, w.bodies[0]), private(t, w.bodies[1])}
	foreign := crypto.PrivKey(private(t, foreignBody(t, w)))
	strangers := types.NewValidatorSet([]*types.Validator{types.NewValidator(foreign.PubKey(), 10)})
	forged := func(h *types.Header) { h.AppHash = bytes.Repeat([]byte{7}, 32) }
	for _, c := range []struct {
		name, kind string
		lie        liar
	}{
		{"a header signed by exactly two thirds", "forged_header", altered("/light/", func(b []byte) []byte { return forge(t, b, forged, nil, two...) })},
		{"a header signed by one validator", "forged_header", altered("/light/", func(b []byte) []byte { return forge(t, b, forged, nil, two[0]) })},
		{"a header signed by validators of its own", "forged_header", altered("/light/", func(b []byte) []byte { return forge(t, b, forged, strangers, foreign) })},
		{"a header altered after it was signed", "malformed", altered("/light/", func(b []byte) []byte {
			lb := decode(t, b)
			lb.AppHash[0] ^= 1
			pb, err := lb.ToProto()
			check(t, err)
			out, err := pb.Marshal()
			check(t, err)
			return out
		})},
		{"a header of another height", "malformed", func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
			if strings.Contains(r.URL.Path, "/light/") {
				r = httptest.NewRequest("GET", ledger.FacePath+"light/1", nil)
			}
			honest.ServeHTTP(w, r)
		}},
		{"validators of impossible power", "malformed", altered("/light/", func(b []byte) []byte {
			var pb cmtproto.LightBlock
			check(t, pb.Unmarshal(b))
			for _, v := range pb.ValidatorSet.Validators {
				v.VotingPower = 1 << 62
			}
			out, err := pb.Marshal()
			check(t, err)
			return out
		})},
		{"an omitted transaction", "forged_block", altered("/blocks", func(b []byte) []byte {
			return eachBlock(t, b, func(pb *cmtproto.Block) { pb.Data.Txs = pb.Data.Txs[:0] })
		})},
		{"an omitted transaction with a header that fits", "forged_block", altered("/blocks", func(b []byte) []byte {
			return eachBlock(t, b, func(pb *cmtproto.Block) {
				if len(pb.Data.Txs) > 0 {
					pb.Data.Txs = pb.Data.Txs[1:]
					pb.Header.DataHash = types.ToTxs(pb.Data.Txs).Hash()
				}
			})
		})},
		{"an added transaction", "forged_block", altered("/blocks", func(b []byte) []byte {
			return eachBlock(t, b, func(pb *cmtproto.Block) { pb.Data.Txs = append(pb.Data.Txs, []byte("forged")) })
		})},
		{"a cut answer", "malformed", altered("/light/", func(b []byte) []byte { return b[:len(b)/2] })},
		{"cut blocks", "forged_block", altered("/blocks", func(b []byte) []byte { return b[:len(b)-1] })},
		{"no bytes at all", "malformed", altered("/light/", func([]byte) []byte { return nil })},
		{"junk", "malformed", altered("/light/", func([]byte) []byte { return bytes.Repeat([]byte("junk"), 1000) })},
		{"a flood of bytes", "flood", func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.config(w.faces[0], w.faces[1], w.faces[2])
			cfg.Dir = filepath.Join(t.TempDir(), "light")
			client := open(t, cfg)
			w.reaches(client, w.nodes[1].View().Height())
			w.faces[0].tell(c.lie)
			defer w.faces[0].tell(nil)
			// Transactions are committed until the liar was asked: it may not be the one
			// that is asked first.
			eventually(t, "the liar is named", func() bool {
				height := w.commit(1, w.bodies[1].note(t, fmt.Sprint(c.name, w.nodes[1].View().Height())))
				w.reaches(client, height)
				return contains(client.Status().Problems, w.faces[0].address())
			})
			kinds, said := lies(t, cfg.Dir)
			if len(kinds) != 1 || kinds[0] != c.kind+" "+w.faces[0].address() {
				t.Fatalf("kept %v, want one of kind %s by %s", kinds, c.kind, w.faces[0].address())
			}
			if said == 0 && c.name != "no bytes at all" {
				t.Error("what it said was not kept")
			}
			if s := client.Status(); !s.Healthy {
				t.Errorf("one liar makes it unhealthy: %v", s.Problems)
			}
		})
	}
}

// foreignBody has keys that nobody knows.
func foreignBody(t testing.TB, w *network) *body {
	other := &network{t: t, dir: t.TempDir(), genesis: w.genesis}
	members, validators := w.genesis.Members, w.genesis.Validators
	b := other.makeBody(99, 10)
	w.genesis.Members, w.genesis.Validators = members, validators
	return b
}

// TestStallingFullNode: one that takes connections and never answers is no liar and
// holds nothing up for long.
func TestStallingFullNode(t *testing.T) {
	w := newNetwork(t, 1, nil)
	honest, second := newFace(t, func() *ledger.Node { return w.nodes[0] }), newFace(t, func() *ledger.Node { return w.nodes[0] })
	release := make(chan struct{})
	defer close(release)
	w.faces[0].tell(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	cfg := w.config(w.faces[0], honest, second)
	cfg.AnswerTimeout = 300 * time.Millisecond
	c := open(t, cfg)
	for i := range 3 {
		w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, fmt.Sprint("S", i))))
	}
	if kinds, _ := lies(t, cfg.Dir); len(kinds) != 0 {
		t.Errorf("named as liars: %v", kinds)
	}
}

// TestStaleFullNode: one that gives true but old answers is left for one that has
// newer blocks, and is named when it withheld them for long.
func TestStaleFullNode(t *testing.T) {
	w := newNetwork(t, 1, nil)
	stale, honest := w.faces[0], newFace(t, func() *ledger.Node { return w.nodes[0] })
	var frozen atomic.Uint64
	cfg := w.config(stale, honest)
	cfg.Poll, cfg.StaleAfter = 200*time.Millisecond, 500*time.Millisecond
	c := open(t, cfg)
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "FIRST")))
	eventually(t, "it is at the newest block", func() bool { return !c.Status().CatchingUp })

	// The honest one is gone for a while, and the other one stands still.
	frozen.Store(heightOf(c))
	honest.tell(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "gone", http.StatusBadGateway)
	})
	stale.tell(func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		if strings.Contains(r.URL.Path, "/light/0") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.ServeHTTP(w, r)
	})
	old := w.nodes[0].View().Height()
	check(t, w.nodes[0].AwaitHeight(within(t), old+4)) // by heartbeats
	height := w.commit(0, w.bodies[0].subsystem(t, "SECOND"))
	honest.tell(nil)
	w.reaches(c, height)
	eventually(t, "the stale one is named", func() bool {
		kinds, _ := lies(t, cfg.Dir)
		return len(kinds) == 1 && kinds[0] == "stale "+stale.address()
	})
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "THIRD")))
}

// TestFalseSnapshot: an altered chunk is fetched from another full node, a false
// manifest is refused, and both liars are named.
func TestFalseSnapshot(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.SnapshotInterval, cfg.SnapshotKeep = 8, 40 })
	for i := range 10 {
		w.commit(0, w.bodies[0].subsystem(t, fmt.Sprint("S", i)))
	}
	eventually(t, "a snapshot", func() bool { s, err := w.nodes[0].Snapshots(); return err == nil && len(s) > 0 })
	honest, second := newFace(t, func() *ledger.Node { return w.nodes[0] }), newFace(t, func() *ledger.Node { return w.nodes[0] })
	for _, c := range []struct {
		name string
		lie  liar
	}{
		{"chunk", func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/0") && strings.Contains(r.URL.Path, "/snapshots/") {
				altered("", func(b []byte) []byte { b[len(b)/2] ^= 1; return b })(w, r, h)
				return
			}
			h.ServeHTTP(w, r)
		}},
		{"manifest with another hash", altered("/snapshots/", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"app_hash": "`), []byte(`"app_hash": "00`), 1)
		})},
		{"manifest with chunks of its own", func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/0") && strings.Contains(r.URL.Path, "/snapshots/"):
				_, _ = w.Write(ownChunk)
			default:
				altered("/snapshots/", ownManifest)(w, r, h)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.config(w.faces[0], honest, second)
			cfg.Dir, cfg.SnapshotGap = filepath.Join(t.TempDir(), "light"), 5
			w.faces[0].tell(c.lie)
			defer w.faces[0].tell(nil)
			client := open(t, cfg)
			w.reaches(client, w.nodes[0].View().Height())
			if kinds, _ := lies(t, cfg.Dir); len(kinds) != 1 || kinds[0] != "false_snapshot "+w.faces[0].address() {
				t.Fatalf("kept %v", kinds)
			}
		})
	}
}

// ownChunk is what a liar makes of a registry.
var ownChunk = []byte("a registry in which the liar has all rights")

// ownManifest says that it is the registry.
func ownManifest(b []byte) []byte {
	var m ledger.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return b
	}
	m.Chunks = []ledger.Chunk{ledger.ChunkOf(ownChunk)}
	out, _ := json.Marshal(m)
	return out
}

// TestClockBehind: a block from the future by this machine's clock is the clock's
// fault, and nobody is called a liar for it.
func TestClockBehind(t *testing.T) {
	w := newNetwork(t, 1, nil)
	honest := newFace(t, func() *ledger.Node { return w.nodes[0] })
	cfg := w.config(w.faces[0], honest)
	var behind atomic.Int64
	behind.Store(int64(5 * time.Minute))
	cfg.Clock = func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) }
	c := open(t, cfg)
	w.commit(0, w.bodies[0].subsystem(t, "FIRST"))
	eventually(t, "it says what is wrong", func() bool { return contains(c.Status().Problems, "clock") })
	if kinds, _ := lies(t, cfg.Dir); len(kinds) != 0 || heightOf(c) > 1 {
		t.Fatalf("height %d, named %v", heightOf(c), kinds)
	}
	behind.Store(int64(10 * time.Second)) // within what is tolerated
	w.reaches(c, w.nodes[0].View().Height())
}
