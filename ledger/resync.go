package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// SetAside moves what is damaged in the ledger directory dir, which no process may
// have open, into a new folder within it, whose path it returns, so that the next
// start makes it anew: with blocks false the registry alone, which is then executed
// again from the blocks that are kept here; with blocks true the blocks and the
// consensus state too, which come from peers. It deletes nothing. The validator's
// last-sign state and the witness's journal stay where they are; where blocks are
// moved the guard is put before the key, since what damaged the one may have damaged
// the other.
func SetAside(dir string, blocks bool, now time.Time) (to string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("set the ledger's files aside: %w", err) }
	if _, err := os.Stat(dir); err != nil {
		return fail(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	parts := []string{"registry"}
	if blocks {
		parts = append(parts, "engine/blockstore.db", "engine/state.db", "engine/evidence.db", "engine/cs.wal")
	}
	// 1. The guard first: whatever happens next, nothing is signed too early.
	if blocks {
		if err := SetGuard(dir, Guard{Since: now.UTC(), Cause: "the ledger's files were set aside to be fetched again"}); err != nil {
			return fail(err)
		}
	}
	// 2. Away.
	to = filepath.Join(dir, "aside-"+now.UTC().Format("20060102T150405.000Z"))
	if err := os.MkdirAll(filepath.Join(to, "engine"), 0o700); err != nil {
		return fail(err)
	}
	moved := 0
	for _, p := range parts {
		err := os.Rename(filepath.Join(dir, filepath.FromSlash(p)), filepath.Join(to, filepath.FromSlash(p)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		moved++
	}
	if moved == 0 {
		return fail(errors.Join(fmt.Errorf("%s holds no ledger", dir), os.RemoveAll(to)))
	}
	return to, errors.Join(syncDir(filepath.Join(dir, "engine")), syncDir(dir))
}
