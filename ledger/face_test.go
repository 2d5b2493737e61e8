package ledger_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// ask asks a full node's face.
func ask(t *testing.T, base, path string) (int, []byte) {
	t.Helper()
	resp, err := http.Get(base + ledger.FacePath + path)
	check(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, b
}

// TestFaceTellsWhatTheChainProves: light blocks verify, headers are linked to them,
// and blocks hash to what their headers say.
func TestFaceTellsWhatTheChainProves(t *testing.T) {
	w, _ := exported(t, 2)
	n := w.nodes[0]
	srv := httptest.NewServer(n.Face())
	defer srv.Close()

	// 1. The newest block, signed by its validators.
	var s ledger.PublicStatus
	code, b := ask(t, srv.URL, "status")
	check(t, json.Unmarshal(b, &s))
	if code != 200 || s.ChainID != chainID || s.Height == 0 || len(s.Hash) != 32 || s.Base != 1 {
		t.Fatalf("status %d %s", code, b)
	}
	code, b = ask(t, srv.URL, fmt.Sprint("light/", s.Height))
	var pb cmtproto.LightBlock
	check(t, pb.Unmarshal(b))
	lb, err := types.LightBlockFromProto(&pb)
	check(t, err)
	check(t, lb.ValidateBasic(chainID))
	check(t, lb.ValidatorSet.VerifyCommitLight(chainID, lb.Commit.BlockID, lb.Height, lb.Commit))
	if code != 200 || !bytes.Equal(lb.Hash(), s.Hash) {
		t.Fatalf("light block of %X, the status says %X", lb.Hash(), s.Hash)
	}
	// 2. All blocks from the first, each linked to the next.
	code, b = ask(t, srv.URL, fmt.Sprintf("blocks?from=1&to=%d", s.Height))
	if code != 200 {
		t.Fatalf("blocks: %d %s", code, b)
	}
	var last types.Header
	txs := 0
	for i := uint64(1); i <= s.Height; i++ {
		size, k := binary.Uvarint(b)
		var pb cmtproto.Block
		check(t, pb.Unmarshal(b[k:k+int(size)]))
		b = b[k+int(size):]
		h, err := types.HeaderFromProto(&pb.Header)
		check(t, err)
		if uint64(h.Height) != i || i > 1 && !bytes.Equal(h.LastBlockID.Hash, last.Hash()) {
			t.Fatalf("header %d is not linked", h.Height)
		}
		if !bytes.Equal(types.ToTxs(pb.Data.Txs).Hash(), h.DataHash) {
			t.Fatalf("block %d does not hash to its header's data hash", i)
		}
		txs += len(pb.Data.Txs)
		last = h
	}
	if len(b) != 0 || txs != 5 || !bytes.Equal(last.Hash(), s.Hash) {
		t.Fatalf("%d bytes left over, %d transactions, last header %X", len(b), txs, last.Hash())
	}
	code, b = ask(t, srv.URL, "headers?from=2&to=3")
	size, k := binary.Uvarint(b)
	if code != 200 || len(b) < k+int(size) {
		t.Fatalf("headers: %d, %d bytes", code, len(b))
	}
	// 3. Snapshots.
	var heights []uint64
	eventually(t, 60*time.Second, "a snapshot", func() bool {
		_, b := ask(t, srv.URL, "snapshots")
		check(t, json.Unmarshal(b, &heights))
		return len(heights) > 0
	})
	for _, path := range []string{fmt.Sprint("snapshots/", heights[0]), fmt.Sprintf("snapshots/%d/0", heights[0])} {
		if code, b := ask(t, srv.URL, path); code != 200 || len(b) == 0 {
			t.Fatalf("%s: %d", path, code)
		}
	}
	// 4. Questions that have no answer.
	for path, want := range map[string]int{
		"light/99999999": 404, "light/x": 400, "light/-1": 400, "light/3?after=2": 400, "light/0?after=99999999": 204, "light/0?after=99999999&wait=0": 204,
		"blocks?from=0&to=3": 410, "blocks?from=3&to=2": 400, "blocks?from=99999999&to=99999999": 404, "headers": 400,
		"snapshots/77777777": 410, "snapshots/1/x": 400, "snapshots/1/99999999": 400, "snapshots/..%2f..%2fengine/0": 400, "other": 404,
	} {
		if code, b := ask(t, srv.URL, path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, b, want)
		}
	}
}

// TestFaceWaitsAndSubmits: a question waits for its block, and an envelope reaches a
// block, whoever brings it.
func TestFaceWaitsAndSubmits(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	n := w.nodes[0]
	srv := httptest.NewServer(n.Face())
	defer srv.Close()
	mustSubmit(t, n, w.bodies[0].subsystem(t, "FIRST", "A subsystem"))
	height := n.View().Height()
	got := make(chan int, 1)
	go func() {
		resp, err := http.Get(srv.URL + ledger.FacePath + fmt.Sprintf("light/0?after=%d&wait=20", height+1))
		if err != nil {
			got <- 0
			return
		}
		resp.Body.Close()
		got <- resp.StatusCode
	}()
	post := func(envelope []byte) (int, ledger.Submitted) {
		t.Helper()
		resp, err := http.Post(srv.URL+ledger.FacePath+"submit", "application/octet-stream", bytes.NewReader(envelope))
		check(t, err)
		defer resp.Body.Close()
		var s ledger.Submitted
		if resp.StatusCode == 200 {
			check(t, json.NewDecoder(resp.Body).Decode(&s))
		}
		return resp.StatusCode, s
	}
	second := w.bodies[0].subsystem(t, "SECOND", "A subsystem")
	if code, s := post(second); code != 200 || s.Code != 0 || s.Height < height {
		t.Fatalf("submit: %d %+v", code, s)
	}
	if c := mustSubmit(t, n, second); c.Height <= height {
		t.Fatalf("the submitted envelope is in block %d", c.Height)
	}
	for range 3 { // the waiting question sees a later block
		mustSubmit(t, n, w.bodies[0].notarise(t, fmt.Sprint(n.View().Height())))
	}
	if code := <-got; code != 200 {
		t.Fatalf("the question that waited: %d", code)
	}
	if code, s := post([]byte("junk")); code != 200 || registry.Code(s.Code) != registry.BadEncoding || s.Reason == "" {
		t.Fatalf("junk: %d %+v", code, s)
	}
	if code, _ := post(make([]byte, 2<<20)); code != 413 {
		t.Fatalf("an envelope of 2 MiB: %d", code)
	}
}
