package seal

import (
	"crypto/ed25519"
	"syscall"

	"github.com/civibus/civibus"
)

// VerifyEd25519 verifies as the Verifier does, with and without a cached key.
func VerifyEd25519(pub, message, signature []byte) bool {
	var c keyCache
	k := civibus.PublicKey{Key: ed25519.PublicKey(pub)}
	first := c.verify(k, message, signature)
	if second := c.verify(k, message, signature); second != first {
		panic("a cached key verifies otherwise")
	}
	return first
}

// Nonces returns how many nonces are remembered.
func (j *ReplayJournal) Nonces() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, g := range j.gens {
		n += len(g.seen)
	}
	if n != j.count {
		panic("the count is wrong")
	}
	return n
}

// JournalDir returns the folder of j.
func JournalDir(j *ReplayJournal) string { return j.cfg.Dir }

// Disk stands between a journal and its file.
type Disk struct {
	journalFile
	Full, Stuck bool
}

// FillDisk puts a Disk under j.
func FillDisk(j *ReplayJournal) *Disk {
	d := &Disk{journalFile: j.file}
	j.file = d
	return d
}

// Write writes half and fails when the disk is full.
func (d *Disk) Write(p []byte) (int, error) {
	if d.Full || d.Stuck {
		n, _ := d.journalFile.Write(p[:len(p)/2])
		return n, syscall.ENOSPC
	}
	return d.journalFile.Write(p)
}

// Truncate fails when the disk is stuck.
func (d *Disk) Truncate(size int64) error {
	if d.Stuck {
		return syscall.ENOSPC
	}
	return d.journalFile.Truncate(size)
}

// CachedVerifier returns the Verifier's check of one key, its cache kept.
func CachedVerifier(k civibus.PublicKey) func(message, signature []byte) bool {
	c := new(keyCache)
	return func(message, signature []byte) bool { return c.verify(k, message, signature) }
}
