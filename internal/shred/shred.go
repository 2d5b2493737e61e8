package shred

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
)

const (
	depths  = 64 // of the tree: a leaf for each number
	runBits = 24 // numbers of a run: 16,777,216
	magic   = "civibus-erasure-keys/v1\n"
	maxFile = 1 << 30 // bytes of a file that is read
	// nearBits is how far above the keys a seed is kept at hand.
	nearBits = 8

	// HeadSize is the length of what is in clear before something sealed: its number (8
	// bytes), a nonce (8) and the mark that says what it is.
	HeadSize = 8 + 8 + 1
	// Overhead is by how much sealing makes something longer.
	Overhead = HeadSize + tagSize
	tagSize  = 16
	nodeSize = 1 + 8 + sha256.Size
)

// ErrDestroyed says that the key of a thing was destroyed: the thing has been erased.
var ErrDestroyed = errors.New("it has been erased: its key was destroyed")

// ErrDamaged says that something sealed is not what was sealed.
var ErrDamaged = errors.New("it does not open: it was changed, or is of another set of erasure keys")

// node is a seed from which the keys of the numbers follow that begin with its bits.
type node struct {
	first uint64 // the least of its numbers
	depth int    // how many bits they have in common
	seed  [sha256.Size]byte
}

// last is the greatest of a node's numbers.
func (n *node) last() uint64 { return n.first | (1<<(depths-n.depth) - 1) }

// child is one of a node's halves.
func (n *node) child(bit uint64) node {
	return node{n.first | bit<<(depths-1-n.depth), n.depth + 1, half(n.seed, byte(bit))}
}

func half(seed [sha256.Size]byte, bit byte) [sha256.Size]byte {
	var b [sha256.Size + 1]byte
	copy(b[:], seed[:])
	b[sha256.Size] = bit
	return sha256.Sum256(b[:])
}

// Keys is an open set of keys. Its methods may be called concurrently.
type Keys struct {
	file string // "" of one that is only read

	mu         sync.Mutex // guards what follows
	nodes      []node     // in the order of their numbers, none within another
	generation uint64     // how often keys were destroyed
	next, last uint64     // of the run: the next number, and the last one; 0: there is no run
	near       node       // above the next number, not far; depth 0: not known
}

// Open opens the keys in a file, which is made (0600) when it is missing and fresh says
// that nothing was sealed yet. The caller sees to it that one process has them open.
func Open(file string, fresh bool) (*Keys, error) {
	k, err := read(file)
	if errors.Is(err, fs.ErrNotExist) && fresh {
		k = &Keys{nodes: []node{{}}}
		rand.Read(k.nodes[0].seed[:])
		k.file = file
		return k, k.write(k.nodes, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("erasure keys %s are missing: without them nothing opens that was kept; put the newest copy there (civibus restore --help says how one is made)", file)
	}
	if err != nil {
		return nil, err
	}
	k.file = file
	return k, nil
}

// OpenReader opens the keys in a file for reading; nothing can be sealed or destroyed.
func OpenReader(file string) (*Keys, error) { return read(file) }

// read reads a file, which others than its owner may not use.
func read(file string) (*Keys, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, fmt.Errorf("erasure keys: %w", err)
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("erasure keys %s: the rule is a regular file of at most %d bytes", file, maxFile)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("erasure keys %s: others may read them (mode %04o); chmod 600 the file", file, info.Mode().Perm())
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("erasure keys: %w", err)
	}
	k, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("erasure keys %s: %w", file, err)
	}
	return k, nil
}

// Parse reads the form of a file: magic, generation (8 bytes, as all numbers big-endian),
// for each seed its depth (1), the first of its numbers (8) and itself (32), and SHA-256
// of all before.
func Parse(raw []byte) (*Keys, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(magic))
	if !ok || len(rest) < 8+sha256.Size || (len(rest)-8-sha256.Size)%nodeSize != 0 {
		return nil, fmt.Errorf("it does not begin with %q, or is cut: put the newest copy in its place", magic[:len(magic)-1])
	}
	body := rest[:len(rest)-sha256.Size]
	if sum := sha256.Sum256(raw[:len(raw)-sha256.Size]); !bytes.Equal(sum[:], rest[len(body):]) {
		return nil, errors.New("it is damaged: put the newest copy in its place")
	}
	k := &Keys{generation: binary.BigEndian.Uint64(body)}
	for b := body[8:]; len(b) > 0; b = b[nodeSize:] {
		n := node{depth: int(b[0]), first: binary.BigEndian.Uint64(b[1:]), seed: [sha256.Size]byte(b[9:nodeSize])}
		after := len(k.nodes) == 0 || k.nodes[len(k.nodes)-1].last() < n.first
		if n.depth > depths || n.depth < depths && n.first&(1<<(depths-n.depth)-1) != 0 || !after {
			return nil, fmt.Errorf("seed %d of depth %d is not in its place: put the newest copy in its place", len(k.nodes), n.depth)
		}
		k.nodes = append(k.nodes, n)
	}
	return k, nil
}

// encode is the opposite of Parse.
func encode(nodes []node, generation uint64) []byte {
	b := make([]byte, 0, len(magic)+8+len(nodes)*nodeSize+sha256.Size)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, generation)
	for i := range nodes {
		b = append(b, byte(nodes[i].depth))
		b = binary.BigEndian.AppendUint64(b, nodes[i].first)
		b = append(b, nodes[i].seed[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Generation is how often keys were destroyed: a copy of less opens what was erased.
func (k *Keys) Generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}

// Next gives a number that was never given before: of a run that was drawn at random, so
// that nothing has to be remembered, and copies that are put back cannot give one twice.
func (k *Keys) Next() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, _ := k.take()
	return n
}

// take gives the next number with its key.
func (k *Keys) take() (uint64, [sha256.Size]byte) {
	for k.last == 0 || k.next > k.last || k.covering(k.next) == nil {
		if k.last != 0 && k.next < k.last {
			k.next++
			continue
		}
		// A run of which something was destroyed was given before.
		var b [8]byte
		rand.Read(b[:])
		first := binary.BigEndian.Uint64(b[:]) &^ (1<<runBits - 1)
		if at := k.covering(first); at != nil && at.depth <= depths-runBits {
			k.next, k.last = first, first|(1<<runBits-1)
		}
	}
	n := k.next
	k.next++
	if k.near.depth == 0 || n < k.near.first || n > k.near.last() {
		at := k.covering(n)
		k.near = descend(*at, n, max(at.depth, depths-nearBits))
	}
	return n, descend(k.near, n, depths).seed
}

// covering returns the node that a number is under; nil if its key was destroyed.
func (k *Keys) covering(n uint64) *node {
	i := sort.Search(len(k.nodes), func(i int) bool { return k.nodes[i].first > n }) - 1
	if i < 0 || k.nodes[i].last() < n {
		return nil
	}
	return &k.nodes[i]
}

// descend goes down from a node towards a number.
func descend(at node, n uint64, depth int) node {
	for at.depth < depth {
		at = at.child(n >> (depths - 1 - at.depth) & 1)
	}
	return at
}

// Key returns the key of a number.
func (k *Keys) Key(n uint64) ([sha256.Size]byte, error) {
	k.mu.Lock()
	at := k.covering(n)
	if at == nil {
		k.mu.Unlock()
		return [sha256.Size]byte{}, ErrDestroyed
	}
	from := *at
	k.mu.Unlock()
	return descend(from, n, depths).seed, nil
}

// Seal seals something under a number of its own. dst ends with HeadSize bytes of room;
// plain may begin where dst ends.
func (k *Keys) Seal(dst, plain []byte, mark byte) []byte {
	k.mu.Lock()
	n, key := k.take()
	k.mu.Unlock()
	return sealUnder(n, key, dst, plain, mark)
}

func sealUnder(n uint64, key [sha256.Size]byte, dst, plain []byte, mark byte) []byte {
	head := dst[len(dst)-HeadSize:]
	binary.BigEndian.PutUint64(head, n)
	rand.Read(head[8:16])
	head[16] = mark
	return aead(key).Seal(dst, nonce(head), plain, head[16:17])
}

// SealUnder seals something under a number that something was sealed under before, so
// that destroying its key erases both. The nonces are random and of 8 bytes: some
// thousands under one number are few enough.
func (k *Keys) SealUnder(n uint64, dst, plain []byte, mark byte) ([]byte, error) {
	key, err := k.Key(n)
	if err != nil {
		return nil, err
	}
	return sealUnder(n, key, dst, plain, mark), nil
}

// Destroyed reports whether the key of a number was destroyed.
func (k *Keys) Destroyed(n uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.covering(n) == nil
}

// Number is that of something sealed.
func Number(sealed []byte) (uint64, error) {
	if len(sealed) < Overhead {
		return 0, fmt.Errorf("%d bytes: %w", len(sealed), ErrDamaged)
	}
	return binary.BigEndian.Uint64(sealed), nil
}

// Open opens something sealed, with the mark that it was sealed with.
func (k *Keys) Open(sealed []byte, mark byte) ([]byte, error) {
	n, err := Number(sealed)
	if err != nil {
		return nil, err
	}
	key, err := k.Key(n)
	if err != nil {
		return nil, err
	}
	plain, err := aead(key).Open(nil, nonce(sealed), sealed[HeadSize:], []byte{mark})
	if err != nil || sealed[HeadSize-1] != mark {
		return nil, ErrDamaged
	}
	return plain, nil
}

// nonce is that of a head. A key seals few things: one, or those of SealUnder.
func nonce(head []byte) []byte {
	return append(make([]byte, 4, 12), head[8:16]...)
}

func aead(key [sha256.Size]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is one
	}
	g, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return g
}

// Destroy destroys the keys of numbers. When it returns without an error, they are gone
// from the file; after an error they may be or not, and it is to be done again.
func (k *Keys) Destroy(numbers ...uint64) error {
	numbers = slices.Compact(slices.Sorted(slices.Values(numbers)))
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == "" {
		return errors.New("erasure keys: they are open for reading")
	}
	// 1. What is left.
	var nodes []node
	changed := false
	for i := range k.nodes {
		n := &k.nodes[i]
		from, _ := slices.BinarySearch(numbers, n.first)
		to := from
		for to < len(numbers) && numbers[to] <= n.last() {
			to++
		}
		if from == to {
			nodes = append(nodes, *n)
			continue
		}
		changed = true
		nodes = puncture(nodes, *n, numbers[from:to])
	}
	if !changed {
		return nil
	}
	// 2. Durable.
	if err := k.write(nodes, k.generation+1); err != nil {
		return err
	}
	// 3. In memory.
	clear(k.nodes)
	k.nodes, k.generation, k.near = nodes, k.generation+1, node{}
	return nil
}

// puncture appends what is left of a node without some of its numbers.
func puncture(out []node, n node, without []uint64) []node {
	if len(without) == 0 {
		return append(out, n)
	}
	if n.depth == depths {
		return out
	}
	left, right := n.child(0), n.child(1)
	at, _ := slices.BinarySearch(without, right.first)
	return puncture(puncture(out, left, without[:at]), right, without[at:])
}

// write writes the file whole or not at all, and overwrites what it was before.
func (k *Keys) write(nodes []node, generation uint64) error {
	old, err := os.OpenFile(k.file, os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("erasure keys: %w", err)
	}
	if old != nil {
		defer old.Close()
	}
	dir := filepath.Dir(k.file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("erasure keys: %w", err)
	}
	f, err := os.CreateTemp(dir, ".erasure") // of mode 0600
	if err != nil {
		return fmt.Errorf("erasure keys: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(encode(nodes, generation))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), k.file)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("erasure keys: %w", err)
	}
	if old != nil {
		if err := overwrite(old); err != nil {
			return fmt.Errorf("erasure keys: overwrite what they were before: %w", err)
		}
	}
	return nil
}

func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
