package evidence_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/internal/pqnote"
)

// pqSigner is an ML-DSA-44 log key.
type pqSigner struct {
	private *mldsa.PrivateKey
	public  civibus.PublicKey
}

func (s pqSigner) Key() civibus.PublicKey { return s.public }

func (s pqSigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	return s.private.Sign(message)
}

// TestSecondSignature: from the moment on at which there is an ML-DSA-44 log key,
// checkpoints bear its signature, what is kept of anchors does, and the registry
// is sent the first signature alone.
func TestSecondSignature(t *testing.T) {
	private, err := mldsa.Generate(civibus.MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	public, err := civibus.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	var inForce atomic.Bool
	c := config(t.TempDir())
	c.Second = func() civibus.Signer {
		if inForce.Load() {
			return pqSigner{private, public}
		}
		return nil
	}
	l := open(t, c)
	w := &keeper{}
	anchored := func(size uint64) evidence.Anchored {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- l.RunAnchors(ctx, 1, w) }()
		for {
			changed := l.Changed()
			if at, ok, err := l.AnchoredFor(size - 1); err != nil {
				t.Fatal(err)
			} else if ok {
				cancel()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				return at
			}
			<-changed
		}
	}
	add(t, l, "a")
	if at := anchored(1); strings.Count(string(at.Note), "\u2014 ") != 1 {
		t.Errorf("signed by a key that is not in force:\n%s", at.Note)
	}
	inForce.Store(true)
	add(t, l, "b")
	at := anchored(2)
	_, lines, _ := strings.Cut(string(at.Note), "\n\n")
	first, second, _ := strings.Cut(lines, "\n")
	size, root, err := evidence.CheckpointOf(at.Note, origin, ptr(newSigner().Key()))
	if err != nil || first == "" {
		t.Fatalf("the first signature: %v", err)
	}
	if _, ok := pqnote.Verify(second, origin, public, pqnote.Checkpoint{Origin: origin, Size: size, Root: root}); !ok {
		t.Errorf("the second signature does not verify:\n%s", at.Note)
	}
	if n := strings.Count(string(w.last), "\u2014 "); n != 1 || !strings.HasPrefix(string(at.Note), string(w.last)) {
		t.Errorf("the registry was sent %d signatures", n)
	}
}

func ptr[T any](v T) *T { return &v }

// keeper is a registry that accepts every checkpoint.
type keeper struct {
	last   []byte
	size   uint64
	root   [32]byte
	height uint64
}

func (k *keeper) Anchor(_ context.Context, checkpoint []byte, _ uint64, _ [][]byte) (uint64, error) {
	var err error
	k.last = checkpoint
	k.size, k.root, err = evidence.CheckpointOf(checkpoint, origin, nil)
	k.height++
	return k.height, err
}

func (k *keeper) Anchored(string) (uint64, [32]byte, bool) { return k.size, k.root, k.size > 0 }
