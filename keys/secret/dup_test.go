package secret_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// dup returns a descriptor of its own for f, as a process inherits one.
func dup(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
