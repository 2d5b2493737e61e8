package rawio_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/civibus/civibus/internal/rawio"
)

// Short and long writes leave what the os package's would.
func TestFileWrites(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	long := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, p := range [][]byte{[]byte("begin "), nil, long} {
		if n, err := rawio.Write(f, p); n != len(p) || err != nil {
			t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
		}
	}
	want := append([]byte("begin "), long...)
	for _, w := range []struct {
		at int64
		p  []byte
	}{{2, []byte("XY")}, {int64(len(want)) - 3, []byte("beyond")}, {8, long[:70_000]}} {
		if n, err := rawio.WriteAt(f, w.p, w.at); n != len(w.p) || err != nil {
			t.Fatalf("WriteAt %d of %d bytes: %d, %v", w.at, len(w.p), n, err)
		}
		want = append(want[:max(int64(len(want)), 0)], make([]byte, max(0, w.at+int64(len(w.p))-int64(len(want))))...)
		copy(want[w.at:], w.p)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the file has %d bytes that are not the %d expected", len(got), len(want))
	}
}

// A refused write names the file and the kernel's reason.
func TestFileWriteRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for what, write := range map[string]func() (int, error){
		"Write":   func() (int, error) { return rawio.Write(f, []byte("x")) },
		"WriteAt": func() (int, error) { return rawio.WriteAt(f, []byte("x"), 1) },
	} {
		var path *os.PathError
		if n, err := write(); n != 0 || !errors.As(err, &path) || path.Path != name || !errors.Is(err, syscall.EBADF) {
			t.Errorf("%s to a file open for reading: %d, %v", what, n, err)
		}
	}
}
