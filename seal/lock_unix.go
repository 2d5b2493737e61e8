//go:build unix

package seal

import (
	"os"
	"syscall"
)

// lockExclusive takes the lock that the end of the process gives back.
func lockExclusive(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
