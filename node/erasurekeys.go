package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/backup/dump"
)

// erasureKeysFile is the name of the keys that what is in its folder is sealed with, one
// by one. They are in no backup, so that what was erased is erased in all of them; they
// are copied for themselves, and the newest copy replaces the others.
const erasureKeysFile = "erasure.keys"

// eachErasureKeys finds those of the body and of the bodies that it hosts, with their
// names within a backup.
func (c Config) eachErasureKeys(fn func(name, file string) error) error {
	for root, body := range c.bodies() {
		if err := body.ownErasureKeys(root, fn); err != nil {
			return err
		}
	}
	return nil
}

// ownErasureKeys finds those of one body. A folder of a log that is not evidence has none.
func (c Config) ownErasureKeys(root string, fn func(name, file string) error) error {
	err := filepath.WalkDir(c.DataDir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it went meanwhile
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "tree" || d.Name() == "bodies" || d.Name() == "ledger" || d.Name() == "wal"):
			return fs.SkipDir // many files, none of them
		case d.Name() != erasureKeysFile || !d.Type().IsRegular():
			return nil
		}
		rel, err := filepath.Rel(c.DataDir, path)
		if err != nil {
			return err
		}
		return fn(root+"/"+filepath.ToSlash(rel), path)
	})
	if err != nil {
		return fmt.Errorf("find the erasure keys of %s: %w", c.Member, err)
	}
	return nil
}

// WriteErasureKeys writes a copy of all erasure keys as an archive that is not encrypted:
// the caller does that. The node may run.
func (c Config) WriteErasureKeys(to io.Writer) (backup.Manifest, error) {
	now := time.Now()
	w := backup.NewWriter(to, now)
	m := c.manifest(now)
	m.Kind = backup.ErasureKeys
	err := c.eachErasureKeys(func(name, file string) error { return dump.File(w.Put, name, file, -1) })
	if err != nil {
		return m, err
	}
	m.Finished = time.Now().UTC()
	return m, w.Close(&m)
}

// placeErasureKeys puts a copy of erasure keys beside what was restored below temp, and
// tells whose folder is not there.
func placeErasureKeys(keys io.Reader, member, temp string) (notes []string, err error) {
	dir, err := os.MkdirTemp(temp, ".erasure-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, err := backup.Extract(keys, dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the copy of the erasure keys: %w", err)
	case m.Kind != backup.ErasureKeys:
		return nil, errors.New("what was given as erasure keys is no copy of them, but a backup")
	case m.Member != member:
		return nil, fmt.Errorf("the erasure keys are of %s, the backup is of %s", m.Member, member)
	}
	for _, f := range m.Files {
		to := filepath.Join(temp, filepath.FromSlash(f.Path))
		if !exists(filepath.Dir(to)) && !exists(filepath.Dir(to)+dump.Suffix) {
			notes = append(notes, fmt.Sprintf("the erasure keys %s belong to what is not in the backup: they are left out", f.Path))
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return nil, err
		}
		if err := os.Rename(filepath.Join(dir, filepath.FromSlash(f.Path)), to); err != nil {
			return nil, err
		}
	}
	return notes, nil
}
