package receipttest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry/registrypb"
)

// merkleLog is an RFC 6962 log in memory.
type merkleLog struct {
	leaves [][]byte
	hashes []tlog.Hash
}

// ReadHashes lets tlog read what merkleLog stored.
func (l *merkleLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(l.hashes)) {
			return nil, fmt.Errorf("hash %d is not stored", x)
		}
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *merkleLog) add(leaf []byte) (index uint64) {
	n := len(l.leaves)
	h, err := tlog.StoredHashes(int64(n), leaf, l)
	must(err)
	l.hashes = append(l.hashes, h...)
	l.leaves = append(l.leaves, leaf)
	return uint64(n)
}

func (l *merkleLog) size() uint64 { return uint64(len(l.leaves)) }

func (l *merkleLog) root(size uint64) [32]byte {
	h, err := tlog.TreeHash(int64(size), l)
	must(err)
	return h
}

func (l *merkleLog) prove(index, size uint64) [][]byte {
	p, err := tlog.ProveRecord(int64(size), int64(index), l)
	must(err)
	out := make([][]byte, len(p))
	for i := range p {
		out[i] = p[i][:]
	}
	return out
}

// stateTree is the compact sparse Merkle tree, built anew from its leaves by
// its definition.
type stateTree []stateLeaf

type stateLeaf struct{ key, hash [32]byte }

func newStateTree(state map[string][]byte) stateTree {
	var t stateTree
	for k, v := range state {
		key, value := sha256.Sum256([]byte(k)), sha256.Sum256(v)
		t = append(t, stateLeaf{key, sha256.Sum256(bytes.Join([][]byte{{0}, key[:], value[:]}, nil))})
	}
	sort.Slice(t, func(i, j int) bool { return bytes.Compare(t[i].key[:], t[j].key[:]) < 0 })
	return t
}

// root returns the hash of the subtree of these leaves at a level.
func (t stateTree) root(level int) [32]byte {
	switch len(t) {
	case 0:
		return [32]byte{}
	case 1:
		return t[0].hash
	}
	left, right := t.split(level)
	l, r := left.root(level+1), right.root(level+1)
	return sha256.Sum256(bytes.Join([][]byte{{1}, l[:], r[:]}, nil))
}

func (t stateTree) split(level int) (left, right stateTree) {
	i := sort.Search(len(t), func(i int) bool { return bitOf(t[i].key, level) == 1 })
	return t[:i], t[i:]
}

func bitOf(h [32]byte, i int) byte { return h[i/8] >> (7 - i%8) & 1 }

// prove returns the StateProof of a key that is or is not in the state.
func (t stateTree) prove(state map[string][]byte, key string) []byte {
	want := sha256.Sum256([]byte(key))
	p := new(registrypb.StateProof)
	level := 0
	var path []byte
	for len(t) > 1 {
		mine, other := t.split(level)
		if bitOf(want, level) == 1 {
			mine, other = other, mine
		}
		bit := byte(0)
		if len(other) > 0 {
			h := other.root(level + 1)
			bit, p.Siblings = 1, append(p.Siblings, h[:])
		}
		path = append(path, bit)
		t = mine
		level++
	}
	p.Depth = uint32(level)
	p.Bitmap = make([]byte, (level+7)/8)
	for i, b := range path {
		p.Bitmap[i/8] |= b << (7 - i%8)
	}
	if len(t) == 1 && t[0].key != want {
		for k, v := range state {
			if h := sha256.Sum256([]byte(k)); h == t[0].key {
				value := sha256.Sum256(v)
				p.OtherKeyHash, p.OtherValueHash = h[:], value[:]
			}
		}
	}
	return marshal(p)
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	must(err)
	return b
}

// checkpointText returns the text of a checkpoint without signatures.
func checkpointText(origin string, size uint64, root [32]byte) string {
	return origin + "\n" + strconv.FormatUint(size, 10) + "\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n"
}

// signatureLine writes one line of a note.
func signatureLine(name string, kind byte, public, signature []byte) string {
	h := sha256.Sum256(bytes.Join([][]byte{[]byte(name), {'\n', kind}, public}, nil))
	return "\u2014 " + name + " " + base64.StdEncoding.EncodeToString(append(h[:4:4], signature...)) + "\n"
}

// logLine signs a checkpoint's text as a log.
func logLine(name, text string, k *Key) string {
	return signatureLine(name, 1, k.Raw(), k.Sign([]byte(text)))
}

// secondLine cosigns a checkpoint with an ML-DSA-44 key at a time.
func secondLine(name, origin string, size uint64, root [32]byte, k *Key, time uint64) string {
	var m bytes.Buffer
	m.WriteString("subtree/v1\n\x00")
	m.WriteByte(byte(len(name)))
	m.WriteString(name)
	must(binary.Write(&m, binary.BigEndian, time))
	m.WriteByte(byte(len(origin)))
	m.WriteString(origin)
	must(binary.Write(&m, binary.BigEndian, [2]uint64{0, size}))
	m.Write(root[:])
	return signatureLine(name, 6, k.RawSecond(), append(binary.BigEndian.AppendUint64(nil, time), k.Sign(m.Bytes())...))
}

// cosignLine cosigns a checkpoint's text as a witness at a time.
func cosignLine(name, text string, k *Key, time uint64) string {
	message := "cosignature/v1\ntime " + strconv.FormatUint(time, 10) + "\n" + text
	return signatureLine(name, 4, k.Raw(), append(binary.BigEndian.AppendUint64(nil, time), k.Sign([]byte(message))...))
}
