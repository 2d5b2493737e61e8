package evidence_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/wal"
)

// No exchange's key is the prefix of another's, whatever the ids are, and keys
// and positions are read back as they were made.
func TestIndexKeyProperty(t *testing.T) {
	id := rapid.StringN(0, 60, 255)
	rapid.Check(t, func(t *rapid.T) {
		a, b := id.Draw(t, "a"), id.Draw(t, "b")
		if a != b && bytes.HasPrefix(evidence.EntryKey(b, 1, 7), evidence.ExchangeKey(a)) {
			t.Fatalf("%q finds the entries of %q", a, b)
		}
		side := evidencepb.Side(rapid.IntRange(1, 2).Draw(t, "side"))
		seq := rapid.Uint64().Draw(t, "seq")
		gotID, gotSide, gotSeq, err := evidence.ParseExchangeKey(evidence.EntryKey(a, side, seq))
		if err != nil || gotID != a || gotSide != side || gotSeq != seq {
			t.Fatalf("%q %d %d %v", gotID, gotSide, gotSeq, err)
		}
		pos := wal.Position{Seq: seq, Segment: rapid.Uint64().Draw(t, "segment"), Offset: rapid.Int64Min(0).Draw(t, "offset"), Length: rapid.Uint32().Draw(t, "length")}
		got, err := evidence.DecodePosition(evidence.EncodePosition(pos))
		if err != nil || got != pos {
			t.Fatalf("%+v %v", got, err)
		}
	})
}

func FuzzExchangeKey(f *testing.F) {
	f.Add(evidence.EntryKey("an id", 1, 9))
	f.Fuzz(func(t *testing.T, k []byte) {
		id, side, seq, err := evidence.ParseExchangeKey(k)
		if err == nil && !bytes.Equal(evidence.EntryKey(id, side, seq), k) {
			t.Fatalf("%x is read as %q %d %d", k, id, side, seq)
		}
	})
}

// Any mixture of appends, restarts and lookups: what was acknowledged is found,
// in its order, and nothing else.
func TestModelProperty(t *testing.T) {
	steps := rapid.SliceOfN(rapid.IntRange(0, 3), 1, 12)
	rng := rand.New(rand.NewPCG(7, 7))
	for seed := range 12 {
		dir := t.TempDir()
		c := config(dir)
		c.SegmentBytes, c.BatchSize, c.BatchAge = 4<<10, 5, time.Millisecond
		l := open(t, c)
		want := map[string]int{}
		total := uint64(0)
		for _, step := range steps.Example(seed) {
			switch step {
			case 0, 1:
				for range 1 + rng.IntN(12) {
					id := fmt.Sprint("e", rng.IntN(6))
					add(t, l, id)
					want[id]++
					total++
				}
			case 2:
				closeLog(t, l)
				l = open(t, c)
			case 3:
				awaitSize(t, l, total)
			}
			for id, n := range want {
				found, err := l.Find(id)
				if err != nil || len(found) != n {
					t.Fatalf("seed %d: %s has %d entries, want %d (%v)", seed, id, len(found), n, err)
				}
			}
		}
		closeLog(t, l)
		if report := clean(t, dir); report.Records != total || report.Size != total {
			t.Fatalf("seed %d: fsck counts %+v, want %d", seed, report, total)
		}
	}
}

// A new log key signs the last checkpoint anew, and both are valid to fsck.
func TestKeyRotation(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	add(t, l, "a")
	awaitSize(t, l, 1)
	closeLog(t, l)
	c := config(dir)
	seed := sha256.Sum256([]byte("the next log key"))
	private := ed25519.NewKeyFromSeed(seed[:])
	public, err := civibus.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	c.Signer = signer{private, public}
	l = open(t, c)
	v, err := note.NewVerifier(l.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	text, size, _ := l.Checkpoint()
	if _, err := note.Open(text, note.VerifierList(v)); err != nil || size != 1 {
		t.Fatalf("checkpoint of %d after the rotation: %v", size, err)
	}
	closeLog(t, l)
	r, err := evidence.Fsck(context.Background(), dir, evidence.FsckOptions{PublicKeys: []civibus.PublicKey{newSigner().public, public}})
	if err != nil || !r.OK() {
		t.Fatalf("fsck with both keys: %+v, %v", r, err)
	}
	if r := fsck(t, dir); r.OK() {
		t.Fatal("fsck without the new key finds nothing")
	}
}

// A key that cannot be reached delays checkpoints, nothing else.
func TestSignerUnavailable(t *testing.T) {
	c := config(t.TempDir())
	s := &failingSigner{signer: newSigner()}
	c.Signer = s
	l := open(t, c)
	s.broken.Store(true)
	add(t, l, "a")
	deadline := time.Now().Add(20 * time.Second)
	for l.Status().SignError == "" {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", l.Status())
		}
		time.Sleep(time.Millisecond)
	}
	if err := l.Admit(); err != nil {
		t.Fatal(err)
	}
	add(t, l, "b")
	s.broken.Store(false)
	awaitSize(t, l, 2)
	if e := l.Status().SignError; e != "" {
		t.Fatal(e)
	}
}

var errNoKey = errors.New("the key cannot be reached")
