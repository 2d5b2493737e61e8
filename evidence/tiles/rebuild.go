package tiles

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// Damage is a file that does not fit the tree.
type Damage struct {
	File   string
	Offset int64 // of the first wrong byte; -1 when the file as a whole is meant
	What   string
}

// Rebuild computes the tree of size leaves anew from the entry bundles and
// compares every tile with it. leaf is told of every sound leaf (it may be nil);
// the result holds the roots at the wanted sizes, as far as the tree could be
// rebuilt.
func Rebuild(ctx context.Context, dir string, size uint64, wanted []uint64, leaf func(index uint64, leaf []byte) error, found func(Damage)) (map[uint64]Hash, error) {
	r := &rebuild{dir: dir, size: size, wanted: map[uint64]bool{}, rows: map[uint64][]byte{}, roots: map[uint64]Hash{}, found: found}
	for _, w := range wanted {
		r.wanted[w] = true
	}
	r.wanted[size] = true
	if r.wanted[0] {
		r.roots[0] = Hash(rfc6962.DefaultHasher.EmptyRoot())
	}
	stored, trusted := trustedTree(dir, size)
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for bundle := uint64(0); bundle*tileWidth < size; bundle++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// 1. The entries, and what the tiles say of them.
		width := tilesWidth(tileID{0, bundle}, size)
		leaves, name, err := readBundle(dir, bundle, width)
		if err == nil && len(leaves) != width {
			err = fmt.Errorf("it has %d entries, the rule is %d", len(leaves), width)
		}
		var promised *tile
		if trusted {
			promised, _ = stored.tile(tileID{0, bundle}, width) // nil: reported when it is compared
		}
		if err != nil {
			found(Damage{File: name, Offset: -1, What: err.Error()})
			if promised == nil { // what follows cannot be rebuilt
				return r.roots, nil
			}
			leaves = make([][]byte, width)
		}
		// 2. Where they differ and the tiles fit the root, the entry is wrong.
		at := int64(0)
		for i, l := range leaves {
			index, hash := bundle*tileWidth+uint64(i), rfc6962.DefaultHasher.HashLeaf(l)
			if promised != nil && Hash(hash) != promised.nodes[0][i] {
				hash = promised.nodes[0][i][:]
				if err == nil {
					found(Damage{File: name, Offset: at, What: fmt.Sprintf("entry %d is not the one that the tree commits to", index)})
				}
			} else if leaf != nil && err == nil {
				if err := leaf(index, l); err != nil {
					return nil, err
				}
			}
			at += int64(2 + len(l))
			if err := r.add(tree, hash); err != nil {
				return nil, err
			}
		}
	}
	r.flush()
	return r.roots, nil
}

// trustedTree returns the tree as its tiles give it, and whether they fit the
// root that the log notes.
func trustedTree(dir string, size uint64) (*Tree, bool) {
	t := NewTree(dir, size)
	noted, root, err := readTreeState(dir)
	if err != nil || noted != size {
		return t, false
	}
	got, err := t.Root(size)
	return t, err == nil && got == root
}

// rebuild is a tree that is being computed anew.
type rebuild struct {
	dir    string
	size   uint64
	wanted map[uint64]bool
	rows   map[uint64][]byte // bottom row of the open tile of each level
	roots  map[uint64]Hash
	found  func(Damage)
}

// add takes one leaf hash.
func (r *rebuild) add(tree *compact.Range, leafHash []byte) error {
	if err := tree.Append(leafHash, func(id compact.NodeID, hash []byte) {
		if id.Level%tileHeight == 0 {
			r.node(uint64(id.Level/tileHeight), id.Index, hash)
		}
	}); err != nil {
		return err
	}
	if end := tree.End(); r.wanted[end] {
		root, err := tree.GetRootHash(nil)
		if err != nil {
			return err
		}
		r.roots[end] = Hash(root)
	}
	return nil
}

// node takes one hash of a tile's bottom row.
func (r *rebuild) node(level, index uint64, hash []byte) {
	r.rows[level] = append(r.rows[level], hash...)
	if index%tileWidth == tileWidth-1 {
		r.compare(tileID{level, index / tileWidth}, r.rows[level])
		r.rows[level] = r.rows[level][:0]
	}
}

// flush compares the partial tiles of the right edge.
func (r *rebuild) flush() {
	for level, row := range r.rows {
		if len(row) > 0 {
			r.compare(tileID{level, (r.size >> (tileHeight * level)) / tileWidth}, row)
		}
	}
}

// compare reads a tile and compares it with what it should be.
func (r *rebuild) compare(id tileID, want []byte) {
	width := len(want) / 32
	name := filepath.Join(r.dir, filepath.FromSlash(layout.TilePath(id.level, id.index, uint8(width%tileWidth))))
	got, err := os.ReadFile(name)
	if err != nil {
		r.found(Damage{File: name, Offset: -1, What: fmt.Sprintf("the tile cannot be read: %v", err)})
		return
	}
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	r.found(Damage{File: name, Offset: int64(at), What: "the tile is not the one that the entries give"})
}
