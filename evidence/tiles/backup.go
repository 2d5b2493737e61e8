package tiles

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/civibus/civibus/internal/backup/dump"
)

// Backup adds the tree in dir to a backup as of now: the last checkpoint, and what
// the tree needs that is integrated at least that far. The tree may grow meanwhile,
// but nothing of it may be collected. It returns the size.
func Backup(put dump.Put, name, dir string) (size uint64, err error) {
	fail := func(err error) (uint64, error) { return 0, fmt.Errorf("back up Merkle log: %w", err) }
	// 1. The checkpoint first: the tree is never smaller than it.
	checkpoint, err := os.ReadFile(filepath.Join(dir, layout.CheckpointPath))
	if err != nil {
		return fail(err)
	}
	// 2. How far the tree goes.
	size, _, err = readTreeState(dir)
	if err != nil {
		return fail(err)
	}
	state, err := os.ReadFile(filepath.Join(dir, ".state", "treeState"))
	if err != nil {
		return fail(err)
	}
	if again, _, err := readTreeState(dir); err != nil || again != size {
		return Backup(put, name, dir) // it grew between the two readings
	}
	for file, b := range map[string][]byte{layout.CheckpointPath: checkpoint, ".state/treeState": state} {
		if err := put(name+"/"+file, int64(len(b)), bytes.NewReader(b)); err != nil {
			return fail(err)
		}
	}
	err = dump.File(put, name+"/.state/version", filepath.Join(dir, ".state", "version"), -1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	// 3. Entries and tiles of a tree of that size; what is written once stays as it is.
	for level := uint64(0); level < 8; level++ {
		for index := uint64(0); ; index++ {
			width := tilesWidth(tileID{level, index}, size)
			if width == 0 {
				if index == 0 {
					return size, nil
				}
				break
			}
			files := []string{layout.TilePath(level, index, uint8(width%tileWidth))}
			if level == 0 {
				files = append(files, layout.EntriesPath(index, uint8(width%tileWidth)))
			}
			for _, f := range files {
				if err := dump.File(put, name+"/"+f, filepath.Join(dir, filepath.FromSlash(f)), -1); err != nil {
					return fail(err)
				}
			}
		}
	}
	return size, nil
}
