package node_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/civibus/civibus/node"
)

// TestOnlySocketsAreRemoved holds that a mistaken path of the administration
// socket costs no file.
func TestOnlySocketsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	file, link, socket := filepath.Join(dir, "key.pem"), filepath.Join(dir, "link"), filepath.Join(dir, "s")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if err := node.RemoveSocket(path); err == nil {
			t.Errorf("%s was removed", path)
		}
	}
	for _, path := range []string{socket, filepath.Join(dir, "nothing")} {
		if err := node.RemoveSocket(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("%q %v", text, err)
	}
}
