package tiles

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// Hash is a SHA-256 hash.
type Hash = [32]byte

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	cacheTiles = 1024 // about 16 KiB each
)

// ErrDamaged says that a file of the tree is not what the tree's own hashes
// promise.
var ErrDamaged = errors.New("the Merkle log is damaged")

// Tree reads a tree of tiles. Its methods may be called concurrently.
type Tree struct {
	dir  string
	size atomic.Uint64 // leaves on disk; tiles of this size exist

	mu    sync.Mutex
	cache map[tileID]*list.Element // of *tile
	order *list.List               // most recently used first
	limit int
}

type tileID struct{ level, index uint64 }

// tile is a tile with its inner nodes: nodes[k] holds the hashes k levels above
// the tile's bottom row, as far as their subtrees are complete.
type tile struct {
	id    tileID
	nodes [tileHeight + 1][]Hash
}

func (t *tile) width() int { return len(t.nodes[0]) }

// NewTree reads the tree of size leaves in dir.
func NewTree(dir string, size uint64) *Tree {
	t := &Tree{dir: dir, cache: map[tileID]*list.Element{}, order: list.New(), limit: cacheTiles}
	t.size.Store(size)
	return t
}

// Size returns the number of leaves.
func (t *Tree) Size() uint64 { return t.size.Load() }

// Grow says that the tree on disk now has size leaves.
func (t *Tree) Grow(size uint64) { t.size.Store(size) }

// Inclusion proves the leaf at index in the tree of the first size leaves
// (RFC 6962 section 2.1.1).
func (t *Tree) Inclusion(index, size uint64) ([][]byte, error) {
	if size > t.Size() {
		return nil, fmt.Errorf("inclusion proof: size %d, the log has %d entries", size, t.Size())
	}
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("inclusion proof: %w", err)
	}
	return t.prove(nodes)
}

// Consistency proves that the tree of newSize leaves extends that of oldSize
// (RFC 6962 section 2.1.2). The proof from 0 is empty.
func (t *Tree) Consistency(oldSize, newSize uint64) ([][]byte, error) {
	if newSize > t.Size() {
		return nil, fmt.Errorf("consistency proof: size %d, the log has %d entries", newSize, t.Size())
	}
	if oldSize == 0 && newSize == 0 {
		return nil, nil
	}
	nodes, err := proof.Consistency(oldSize, newSize)
	if err != nil {
		return nil, fmt.Errorf("consistency proof: %w", err)
	}
	return t.prove(nodes)
}

// prove fetches a proof's nodes.
func (t *Tree) prove(nodes proof.Nodes) ([][]byte, error) {
	hashes, err := t.fetch(nodes.IDs)
	if err != nil {
		return nil, err
	}
	return nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// Root returns the root of the first size leaves.
func (t *Tree) Root(size uint64) (Hash, error) {
	if size == 0 {
		return Hash(rfc6962.DefaultHasher.EmptyRoot()), nil
	}
	if size > t.Size() {
		return Hash{}, fmt.Errorf("root at size %d: the log has %d entries", size, t.Size())
	}
	hashes, err := t.fetch(compact.RangeNodes(0, size, nil))
	if err != nil {
		return Hash{}, err
	}
	root := hashes[len(hashes)-1]
	for i := len(hashes) - 2; i >= 0; i-- {
		root = rfc6962.DefaultHasher.HashChildren(hashes[i], root)
	}
	return Hash(root), nil
}

// LeafHash returns the hash of the leaf at index, as its tile has it.
func (t *Tree) LeafHash(index uint64) (Hash, error) {
	hashes, err := t.fetch([]compact.NodeID{compact.NewNodeID(0, index)})
	if err != nil {
		return Hash{}, err
	}
	return Hash(hashes[0]), nil
}

// fetch returns the hashes of complete subtrees.
func (t *Tree) fetch(ids []compact.NodeID) ([][]byte, error) {
	out := make([][]byte, len(ids))
	for i, id := range ids {
		level, up := uint64(id.Level/tileHeight), id.Level%tileHeight
		at := id.Index & (1<<(tileHeight-up) - 1)
		tile, err := t.tile(tileID{level, id.Index >> (tileHeight - up)}, int(at+1)<<up)
		if err != nil {
			return nil, err
		}
		out[i] = tile.nodes[up][at][:]
	}
	return out, nil
}

// tile returns a tile with at least width hashes in its bottom row.
func (t *Tree) tile(id tileID, width int) (*tile, error) {
	t.mu.Lock()
	if e, ok := t.cache[id]; ok {
		if got := e.Value.(*tile); got.width() >= width {
			t.order.MoveToFront(e)
			t.mu.Unlock()
			return got, nil
		}
	}
	t.mu.Unlock()
	got, err := t.load(id)
	if err != nil {
		return nil, err
	}
	if got.width() < width {
		return nil, fmt.Errorf("%w: tile %d/%d has %d hashes, %d are needed", ErrDamaged, id.level, id.index, got.width(), width)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.cache[id]; ok {
		e.Value = got
		t.order.MoveToFront(e)
		return got, nil
	}
	t.cache[id] = t.order.PushFront(got)
	for t.order.Len() > t.limit {
		last := t.order.Back()
		delete(t.cache, last.Value.(*tile).id)
		t.order.Remove(last)
	}
	return got, nil
}

// load reads a tile of the present size and compares it with its parent.
func (t *Tree) load(id tileID) (*tile, error) {
	var name string
	var raw []byte
	for attempt := 0; ; attempt++ {
		size := t.Size()
		width := tilesWidth(id, size)
		if width == 0 {
			return nil, fmt.Errorf("tile %d/%d is beyond the log's %d entries", id.level, id.index, size)
		}
		name = filepath.Join(t.dir, filepath.FromSlash(layout.TilePath(id.level, id.index, uint8(width%tileWidth))))
		var err error
		if raw, err = os.ReadFile(name); err == nil {
			if len(raw) != width*32 {
				return nil, fmt.Errorf("%w: tile %s has %d bytes, the rule is %d", ErrDamaged, name, len(raw), width*32)
			}
			break
		}
		// A partial tile goes away when the full one is there: look again.
		if attempt > 0 && (!errors.Is(err, fs.ErrNotExist) || t.Size() == size) {
			return nil, fmt.Errorf("%w: read tile: %w", ErrDamaged, err)
		}
	}
	out := newTile(id, raw)
	if out.width() < tileWidth {
		return out, nil
	}
	parent, err := t.tile(tileID{id.level + 1, id.index / tileWidth}, int(id.index%tileWidth)+1)
	if err != nil {
		return nil, err
	}
	if parent.nodes[0][id.index%tileWidth] != out.nodes[tileHeight][0] {
		return nil, fmt.Errorf("%w: tile %s does not hash to what the tile above says", ErrDamaged, name)
	}
	return out, nil
}

// tilesWidth returns how many hashes a tile's bottom row has in a tree of size.
func tilesWidth(id tileID, size uint64) int {
	row := uint64(0)
	if id.level < 8 {
		row = size >> (tileHeight * id.level)
	}
	first := id.index * tileWidth
	if row <= first {
		return 0
	}
	return int(min(tileWidth, row-first))
}

// newTile computes the inner nodes of a tile.
func newTile(id tileID, raw []byte) *tile {
	t := &tile{id: id}
	row := make([]Hash, len(raw)/32)
	for i := range row {
		copy(row[i][:], raw[i*32:])
	}
	t.nodes[0] = row
	for k := 1; k <= tileHeight; k++ {
		up := make([]Hash, len(row)/2)
		for i := range up {
			up[i] = Hash(rfc6962.DefaultHasher.HashChildren(row[2*i][:], row[2*i+1][:]))
		}
		t.nodes[k], row = up, up
	}
	return t
}

// Leaves calls fn with the leaves from..to (to excluded) as they are stored.
func (t *Tree) Leaves(from, to uint64, fn func(index uint64, leaf []byte) error) error {
	size := t.Size()
	if to > size {
		return fmt.Errorf("leaves %d to %d: the log has %d entries", from, to, size)
	}
	for bundle := from / tileWidth; bundle*tileWidth < to; bundle++ {
		width := tilesWidth(tileID{0, bundle}, size)
		leaves, name, err := readBundle(t.dir, bundle, width)
		if err != nil {
			return err
		}
		if len(leaves) != width {
			return fmt.Errorf("%w: entry bundle %s has %d entries, the rule is %d", ErrDamaged, name, len(leaves), width)
		}
		for i, leaf := range leaves {
			if index := bundle*tileWidth + uint64(i); index >= from && index < to {
				if err := fn(index, leaf); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readBundle reads the entries of a bundle.
func readBundle(dir string, bundle uint64, width int) ([][]byte, string, error) {
	name := filepath.Join(dir, filepath.FromSlash(layout.EntriesPath(bundle, uint8(width%tileWidth))))
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, name, fmt.Errorf("%w: read entry bundle: %w", ErrDamaged, err)
	}
	leaves, err := parseBundle(raw)
	if err != nil {
		return nil, name, fmt.Errorf("%w: entry bundle %s: %w", ErrDamaged, name, err)
	}
	return leaves, name, nil
}

// parseBundle splits a bundle into its entries.
func parseBundle(raw []byte) ([][]byte, error) {
	var out [][]byte
	for at := 0; at < len(raw); {
		if len(raw)-at < 2 {
			return nil, fmt.Errorf("byte %d: an entry's length is cut off", at)
		}
		n := int(binary.BigEndian.Uint16(raw[at:]))
		at += 2
		if len(raw)-at < n {
			return nil, fmt.Errorf("byte %d: an entry of %d bytes is cut off", at, n)
		}
		out = append(out, raw[at:at+n])
		at += n
	}
	return out, nil
}
