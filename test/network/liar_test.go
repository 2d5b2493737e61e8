//go:build linux

package network_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/test/network"
)

// liar is a body that signs whatever it likes with its own keys and hands it to the
// others' nodes, past its own.
type liar struct {
	*network.Body
	ring     *keys.Ring
	log      civibus.Signer
	chainID  string
	http     *http.Client
	mu       sync.Mutex
	sequence uint64
}

// newLiar takes a body's keys. Its own node need not know; the sequence numbers of
// its log key begin above those that the node gives out.
func newLiar(r *trial, b *network.Body) *liar {
	r.Helper()
	ring, err := keys.OpenRing(b.Config.Keys.Dir)
	r.ok(err)
	r.Cleanup(func() { _ = ring.Close() })
	always := func(civibus.KeyID) bool { return true }
	log, err := ring.For(civibus.LogKey, always)
	r.ok(err)
	certificate, err := ring.TLS(always)
	r.ok(err)
	s, err := b.Status(r.Context())
	r.ok(err)
	transport := &http.Transport{
		DialContext: b.Machine.DialContext, MaxConnsPerHost: 16, MaxIdleConnsPerHost: 16,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{*certificate}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, // it trusts nobody's answer
	}
	return &liar{Body: b, ring: ring, log: log, chainID: s.ChainID, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}, sequence: 100_000}
}

// sign makes an envelope with the liar's log key.
func (l *liar) sign(r *trial, tx *registrypb.Tx) []byte {
	l.mu.Lock()
	l.sequence++
	tx.Sequence = l.sequence
	l.mu.Unlock()
	tx.ChainId = l.chainID
	envelope, err := registry.SignTx(context.Background(), l.log, tx)
	r.ok(err)
	return envelope
}

// submit hands an envelope to another body's node. ok says that it answered at all:
// whoever sends too much is told to come later.
func (l *liar) submit(ctx context.Context, to *network.Body, envelope []byte) (answer ledger.Submitted, ok bool) {
	url := "https://" + to.Config.Provider.Listen + ledger.FacePath + "submit"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(envelope))
	if err != nil {
		return answer, false
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return answer, false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer, err == nil && resp.StatusCode == http.StatusOK && json.Unmarshal(text, &answer) == nil
}

// TestForkedLog: a member signs two histories of its evidence log. The registry,
// which has one of them, refuses the other, and the two checkpoints of one size, both
// with the member's signature, are the proof against it.
func TestForkedLog(t *testing.T) {
	only(t)
	r := start(t, network.Options{})
	b := r.Bodies[1]
	l := newLiar(r, b)
	r.faults++

	// 1. What is anchored, and the note that the member signed.
	var anchored admin.Log
	var honest []byte
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.ok(network.Until(ctx, func() bool {
		s, err := b.Status(ctx)
		if err != nil || s.Evidence.Size < 8 {
			return false
		}
		honest = []byte(s.Evidence.Checkpoint)
		anchored = anchoredLog(r, r.Bodies[0], s.Evidence.Origin)
		return anchored.Size > 0
	}))
	key := l.log.Key()
	first, err := tiles.ParseCheckpoint(honest, anchored.Origin, &key)
	r.ok(err)

	// 2. Another history, longer than the anchored one and with proofs of its own.
	size := anchored.Size + 1000
	fork := newForkedTree(size)
	signer, err := tiles.NewNoteSigner(anchored.Origin, l.log)
	r.ok(err)
	for _, oldSize := range []uint64{0, anchored.Size} {
		checkpoint, err := tiles.SignCheckpoint(signer, size, fork.root(size))
		r.ok(err)
		tx := &registrypb.Tx{Body: &registrypb.Tx_AnchorLog{AnchorLog: &registrypb.AnchorLog{Checkpoint: checkpoint, OldSize: oldSize, Consistency: fork.consistency(r, oldSize, size)}}}
		l.handAround(r, tx)
	}
	// 3. The registry still has the first, everywhere.
	for _, other := range r.Bodies {
		if log := anchoredLog(r, other, anchored.Origin); log.Size == size {
			t.Errorf("%s took the fork: %+v", other.ID, log)
		}
	}
	// 4. Two checkpoints are the proof: one size, one key, two roots.
	lie, err := tiles.SignCheckpoint(signer, first.Size, fork.root(first.Size))
	r.ok(err)
	second, err := tiles.ParseCheckpoint(lie, anchored.Origin, &key)
	r.ok(err)
	if first.Size != second.Size || first.Root == second.Root {
		t.Errorf("sizes %d and %d with roots %x and %x prove nothing", first.Size, second.Size, first.Root, second.Root)
	}
	r.commit(r.Bodies...)
	r.end()
}

// handAround gives an envelope to every node and holds the registry to refusing it:
// at once, or in the block.
func (l *liar) handAround(r *trial, tx *registrypb.Tx) {
	r.Helper()
	envelope := l.sign(r, tx)
	for _, to := range r.others(l.Body) {
		answer, ok := l.submit(r.Context(), to, envelope)
		r.Logf("%s answers the fork: %v %+v", to.ID, ok, answer)
	}
}

// anchoredLog is what a body's registry knows of a log; the zero Log if nothing.
func anchoredLog(r *trial, b *network.Body, origin string) admin.Log {
	r.Helper()
	page, err := b.Admin().Logs(r.Context(), admin.ListOptions{Limit: 1000})
	r.ok(err)
	for _, log := range page.Items {
		if log.Origin == origin {
			return log
		}
	}
	return admin.Log{}
}

// forkedTree is a log of entries that nobody ever made.
type forkedTree struct{ leaves [][]byte }

func newForkedTree(size uint64) *forkedTree {
	f := &forkedTree{}
	for k := range size {
		leaf := sha256.Sum256(fmt.Append(nil, "forged ", k))
		f.leaves = append(f.leaves, rfc6962.DefaultHasher.HashLeaf(leaf[:]))
	}
	return f
}

// hash is that of the leaves from..to (to excluded), which are a whole subtree or
// the right edge.
func (f *forkedTree) hash(from, to uint64) []byte {
	if to-from == 1 {
		return f.leaves[from]
	}
	split := uint64(1)
	for split*2 < to-from {
		split *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(f.hash(from, from+split), f.hash(from+split, to))
}

func (f *forkedTree) root(size uint64) tiles.Hash { return tiles.Hash(f.hash(0, size)) }

func (f *forkedTree) consistency(r *trial, oldSize, size uint64) [][]byte {
	r.Helper()
	if oldSize == 0 {
		return nil
	}
	nodes, err := proof.Consistency(oldSize, size)
	r.ok(err)
	var hashes [][]byte
	for _, id := range nodes.IDs {
		from, to := id.Coverage()
		hashes = append(hashes, f.hash(from, to))
	}
	out, err := nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	r.ok(err)
	return out
}

// TestFlood: one member hands valid and invalid transactions to all nodes as fast as
// it can. What the others register is still taken, every one of them.
func TestFlood(t *testing.T) {
	only(t)
	r := start(t, network.Options{})
	l := newLiar(r, r.Bodies[3])
	others := r.others(l.Body)
	quiet := r.taken(others, lasts())

	r.faults++
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var flood sync.WaitGroup
	var mu sync.Mutex
	var sent, heard, good int
	for worker := range 24 {
		flood.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				digest := sha256.Sum256(fmt.Append(nil, worker, " ", k))
				envelope := l.sign(r, &registrypb.Tx{Body: &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: digest[:]}}})
				switch k % 4 {
				case 1:
					envelope[len(envelope)-1] ^= 1 // a signature that is none
				case 2:
					envelope = bytes.Repeat([]byte{0xff}, 4096) // no envelope
				case 3:
					envelope = bytes.Repeat(envelope, 64) // too long and more than one
				}
				answer, ok := l.submit(ctx, r.Bodies[(worker+k)%4], envelope)
				mu.Lock()
				sent++
				if ok {
					heard++
					if answer.Code == 0 {
						good++
					}
				}
				mu.Unlock()
			}
		})
	}
	flooded := r.taken(others, 2*lasts())
	stop()
	flood.Wait()
	t.Logf("the flood sent %d, %d were looked at, %d were valid; changes of others taken in a second: %v before, %v meanwhile", sent, heard, good, quiet, flooded)
	for i, b := range others {
		if flooded[i] == 0 {
			t.Errorf("nothing that %s registered was taken during the flood", b.ID)
		}
	}
	if sent == 0 || good == 0 {
		t.Errorf("%d sent, %d valid: that was no flood", sent, good)
	}
	r.commit(r.Bodies...)
	r.end()
}

// taken counts how many changes of each body are acknowledged in a second.
func (r *trial) taken(bodies []*network.Body, d time.Duration) (rates []float64) {
	before := make([]int, len(bodies))
	for i, b := range bodies {
		before[i] = r.Acknowledged(b)
	}
	time.Sleep(d) // a rate needs a time
	for i, b := range bodies {
		rates = append(rates, seconds(time.Duration(float64(r.Acknowledged(b)-before[i])/d.Seconds()*float64(time.Second))))
	}
	return rates
}

// TestTwin: a validator's key runs in two nodes at once, as after a backup that was
// restored beside the original. The others prove it: the key loses its power and is
// revoked, and all else goes on, the body's exchanges too.
func TestTwin(t *testing.T) {
	only(t)
	r := start(t, network.Options{Bodies: 5})
	original, twin := r.Bodies[3], r.Bodies[4]
	r.Sick(original, twin)
	r.faults++
	r.ok(twin.Process().Stop(30 * time.Second))
	r.ok(copyValidatorKey(original.Config.Keys.Dir, twin.Config.Keys.Dir))
	r.ok(twin.Start())
	r.ready(twin)

	key := validatorKey(r, original)
	var now admin.Key
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	began := time.Now()
	err := network.Until(ctx, func() bool {
		var err error
		now, err = r.Bodies[0].Admin().Key(ctx, key)
		return err == nil && now.RevokeHeight > 0
	})
	if err != nil {
		t.Fatalf("nobody proved that the key %s signs in two places: %+v", key, now)
	}
	t.Logf("proved after %.1f s: %s at height %d", time.Since(began).Seconds(), now.Reason, now.RevokeHeight)
	if !strings.Contains(now.Reason, "compromised") {
		t.Errorf("the key is revoked as %q, want compromised", now.Reason)
	}
	r.commit(r.Bodies...)
	r.Healthy(original, twin)
	r.end()
}

// validatorKey is the id of a body's registered validator key.
func validatorKey(r *trial, b *network.Body) string {
	r.Helper()
	page, err := r.Bodies[0].Admin().Keys(r.Context(), admin.ListOptions{Member: b.ID.String(), Purpose: "validator"})
	r.ok(err)
	if len(page.Items) != 1 {
		r.Fatalf("%s has %d validator keys, want one", b.ID, len(page.Items))
	}
	return page.Items[0].ID
}

// copyValidatorKey puts the validator key of one folder into another, in the place
// of its own.
func copyValidatorKey(from, to string) error {
	found := 0
	for _, pattern := range []string{"validator_key.json", "validator-*"} {
		own, err := filepath.Glob(filepath.Join(to, pattern))
		if err != nil {
			return err
		}
		theirs, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			return err
		}
		for _, file := range own {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
		for _, file := range theirs {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600); err != nil {
				return err
			}
			found++
		}
	}
	if found == 0 {
		return errors.New("there is no validator key in " + from)
	}
	return nil
}
