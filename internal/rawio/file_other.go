//go:build !linux

package rawio

import "os"

// CanPeek says that Silent knows.
const CanPeek = false

// Silent reports whether a read of the socket would wait.
func Silent(uintptr) bool { return false }

// Write writes all of p at f's position.
func Write(f *os.File, p []byte) (int, error) { return f.Write(p) }

// WriteAt writes all of p at the offset at.
func WriteAt(f *os.File, p []byte, at int64) (int, error) { return f.WriteAt(p, at) }
