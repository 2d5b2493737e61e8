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
// compares every tile with it. leaf is told of every leaf (it may be nil); the
// result holds the roots at the wanted sizes, as far as bundles could be read.
func Rebuild(ctx context.Context, dir string, size uint64, wanted []uint64, leaf func(index uint64, leaf []byte) error, found func(Damage)) (map[uint64]Hash, error) {
	r := &rebuild{dir: dir, size: size, wanted: map[uint64]bool{}, rows: map[uint64][]byte{}, roots: map[uint64]Hash{}, found: found}
	for _, w := range wanted {
		r.wanted[w] = true
	}
	r.wanted[size] = true
	if r.wanted[0] {
		r.roots[0] = Hash(rfc6962.DefaultHasher.EmptyRoot())
	}
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for bundle := uint64(0); bundle*tileWidth < size; bundle++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		leaves, name, err := readBundle(dir, bundle, tilesWidth(tileID{0, bundle}, size))
		if want := tilesWidth(tileID{0, bundle}, size); err == nil && len(leaves) != want {
			err = fmt.Errorf("it has %d entries, the rule is %d", len(leaves), want)
		}
		if err != nil {
			// What follows cannot be rebuilt without these leaves.
			found(Damage{File: name, Offset: -1, What: err.Error()})
			return r.roots, nil
		}
		for i, l := range leaves {
			if leaf != nil {
				if err := leaf(bundle*tileWidth+uint64(i), l); err != nil {
					return nil, err
				}
			}
			if err := r.add(tree, l); err != nil {
				return nil, err
			}
		}
	}
	r.flush()
	return r.roots, nil
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

// add takes one leaf.
func (r *rebuild) add(tree *compact.Range, leaf []byte) error {
	if err := tree.Append(rfc6962.DefaultHasher.HashLeaf(leaf), func(id compact.NodeID, hash []byte) {
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
