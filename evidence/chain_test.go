package evidence_test

import (
	"bytes"
	"context"
	"testing"
)

// TestChains: certificates are kept by their digest, beside each other, and over
// a restart.
func TestChains(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	a, b := [32]byte{1}, [32]byte{2}
	first, second := [][]byte{[]byte("leaf"), {}, []byte("root")}, [][]byte{bytes.Repeat([]byte("x"), 9000)}
	for range 2 {
		if err := l.PutChain(a, first); err != nil {
			t.Fatal(err)
		}
		if err := l.PutChain(b, second); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	l = open(t, c)
	for digest, want := range map[[32]byte][][]byte{a: first, b: second, {3}: nil} {
		got, err := l.Chain(digest[:])
		if err != nil || len(got) != len(want) {
			t.Fatalf("%x: %d certificates, %v", digest[:1], len(got), err)
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%x: certificate %d is %q", digest[:1], i, got[i])
			}
		}
	}
}
