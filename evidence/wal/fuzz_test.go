package wal_test

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/civibus/civibus/evidence/wal"
)

func sched() { runtime.Gosched() }

// Whatever is on the disk, a segment is read without a panic, and every entry
// that is reported is a frame that this package would have written.
func FuzzSegment(f *testing.F) {
	good := wal.Header(7)
	good = append(good, wal.Frame(7, 7, []byte("one"))...)
	good = append(good, wal.Frame(8, 8, bytes.Repeat([]byte("two"), 40))...)
	f.Add(good)
	f.Add(good[:len(good)-5])
	f.Add(append(bytes.Clone(good), make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, last := range []bool{true, false} {
			var again []byte
			end, next, _, err := wal.ScanBytes(7, data, last, func(p wal.Position, b []byte) error {
				frame := data[p.Offset : p.Offset+int64(32+(len(b)+7)&^7)]
				_, group, _, _, err := wal.ParseFrame(frame)
				if err != nil {
					t.Fatal(err)
				}
				again = append(again, wal.Frame(p.Seq, group, b)...)
				return nil
			})
			var damage *wal.DamageError
			if err != nil && !errors.As(err, &damage) {
				t.Fatalf("error of another kind: %v", err)
			}
			if end > 0 && !bytes.Equal(data[wal.SegmentHeader:end], again) {
				t.Fatal("entries are not what is on the disk")
			}
			if err == nil && !last && end != int64(len(data)) {
				t.Fatal("an inner segment with a tail was accepted")
			}
			_ = next
		}
	})
}

// A frame is read back as it was made, and no single changed byte goes unseen.
func TestFrameProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		seq := rapid.Uint64().Draw(t, "seq")
		group := rapid.Uint64Max(seq).Draw(t, "group")
		b := wal.Frame(seq, group, payload)
		s, g, p, n, err := wal.ParseFrame(append(bytes.Clone(b), 1, 2, 3))
		if err != nil || s != seq || g != group || !bytes.Equal(p, payload) || n != int64(len(b)) {
			t.Fatalf("%d %d %q %d %v", s, g, p, n, err)
		}
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[at] ^= rapid.ByteRange(1, 255).Draw(t, "change")
		if _, _, _, _, err := wal.ParseFrame(b); err == nil {
			t.Fatalf("a change of byte %d went unseen", at)
		}
	})
}
