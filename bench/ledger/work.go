package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// chainID is that of every network here.
const chainID = "bench-1"

// work makes the transactions of one kind. Each key is of a member of its own.
type work struct {
	kind   string
	keys   []*keys.Key
	admins []*keys.Key // of the same members, where others sign first
	next   []uint64    // transactions of the member
	logs   []*memberLog
	runs   []string // instance of a process that the member carries out
}

// kinds are the kinds of transactions and what signs them.
func purposeOf(kind string) (civibus.Purpose, error) {
	switch kind {
	case "notarise", "anchor", "step":
		return civibus.LogKey, nil
	case "right":
		return civibus.AdminKey, nil
	}
	return 0, fmt.Errorf("kind %q, the rule is notarise, anchor, right or step", kind)
}

func newWork(kind string, signers int) (*work, error) {
	purpose, err := purposeOf(kind)
	if err != nil {
		return nil, err
	}
	w := &work{kind: kind, next: make([]uint64, signers), logs: make([]*memberLog, signers), runs: make([]string, signers)}
	for i := range signers {
		k, err := keys.Generate(purpose, civibus.Ed25519)
		if err != nil {
			return nil, err
		}
		w.keys = append(w.keys, k)
		if kind == "step" {
			admin, err := keys.Generate(civibus.AdminKey, civibus.Ed25519)
			if err != nil {
				return nil, err
			}
			w.admins = append(w.admins, admin)
		}
		if kind == "anchor" {
			if w.logs[i], err = newMemberLog(k, i); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

func memberName(i int) string { return fmt.Sprintf("BENCH/GOV/M%d", i) }

// before is how many transactions of each key are executed before anything is
// measured: rounds of them, each of which needs the one before it.
func (w *work) before() int {
	switch w.kind {
	case "anchor":
		return 1 // the first of a log needs no proof and is not like the others
	case "right":
		return 2 // a subsystem, and its service
	case "step":
		return setUp // what a member's process needs
	}
	return 0
}

// sign makes the next transaction of a key.
func (w *work) sign(key int) []byte {
	w.next[key]++
	n := w.next[key]
	if w.kind == "step" {
		return w.signStep(key, n)
	}
	tx := &registrypb.Tx{ChainId: chainID, Sequence: n}
	subsystem := memberName(key) + "/SUB"
	switch {
	case w.kind == "notarise":
		digest := make([]byte, 32)
		for i := range digest {
			digest[i] = byte(mrand.Uint32())
		}
		tx.Body = &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: digest}}
	case w.kind == "anchor":
		tx.Body = &registrypb.Tx_AnchorLog{AnchorLog: w.logs[key].grow(n > 1)}
	case n == 1:
		tx.Body = &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: subsystem, Name: "Population register"}}
	case n == 2:
		tx.Body = &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: subsystem + "/persons/v1", Type: registrypb.ServiceType(civibus.REST), Title: "Personal data"}}
	default:
		tx.Body = &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{Service: subsystem + "/persons/v1",
			Subject:   &registrypb.GrantRight_Client{Client: memberName(mrand.IntN(len(w.keys))) + "/SUB"},
			Endpoints: []*registrypb.Endpoint{{Method: "GET", Path: "/persons/*"}},
			Purpose:   "child-benefit", LegalBasis: "Social Benefits Act, section 12(3)", ValidUntil: 4102444800}}
	}
	envelope, err := registry.SignTx(context.Background(), w.keys[key], tx)
	if err != nil {
		panic(err)
	}
	return envelope
}

// memberLog is a body's evidence log as its anchors show it. Of what it had before
// the run nothing is kept but the roots of its perfect subtrees, which is what the
// proofs need: a log of some millions of entries would not fit in 8,192 copies.
type memberLog struct {
	origin string
	signer note.Signer
	size   uint64
	roots  map[compact.NodeID][]byte // of the perfect subtrees that make up size leaves
}

// noteSigner signs a checkpoint as evidence logs do.
type noteSigner struct {
	name string
	hash uint32
	key  *keys.Key
}

func (s noteSigner) Name() string    { return s.name }
func (s noteSigner) KeyHash() uint32 { return s.hash }
func (s noteSigner) Sign(msg []byte) ([]byte, error) {
	return s.key.Sign(context.Background(), msg)
}

func newMemberLog(k *keys.Key, member int) (*memberLog, error) {
	id, err := civibus.ParseMemberID(memberName(member))
	if err != nil {
		return nil, err
	}
	l := &memberLog{origin: registry.EvidenceOrigin(id, 1), size: 1<<20 + mrand.Uint64N(1<<22), roots: make(map[compact.NodeID][]byte)}
	public := k.Key().Key.(ed25519.PublicKey)
	sum := sha256.Sum256(append([]byte(l.origin+"\n\x01"), public...))
	l.signer = noteSigner{l.origin, binary.BigEndian.Uint32(sum[:]), k}
	for _, n := range compact.RangeNodes(0, l.size, nil) {
		l.roots[n] = randomHash()
	}
	return l, nil
}

func randomHash() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	return b
}

// grow appends 1 to 64 entries and anchors them.
func (l *memberLog) grow(proven bool) *registrypb.AnchorLog {
	old := l.size
	grown := make(map[compact.NodeID][]byte)
	for n, h := range l.roots {
		grown[n] = h
	}
	for range 1 + mrand.IntN(64) {
		l.append(grown)
	}
	out := &registrypb.AnchorLog{Checkpoint: l.checkpoint(grown)}
	if proven {
		out.OldSize = old
		out.Consistency = l.consistency(old, grown)
	}
	l.roots = make(map[compact.NodeID][]byte)
	for _, n := range compact.RangeNodes(0, l.size, nil) {
		l.roots[n] = grown[n]
	}
	return out
}

// append adds a leaf, and the subtrees that it completes, to nodes.
func (l *memberLog) append(nodes map[compact.NodeID][]byte) {
	id := compact.NewNodeID(0, l.size)
	nodes[id] = randomHash()
	for id.Index&1 == 1 {
		left := compact.NewNodeID(id.Level, id.Index-1)
		up := compact.NewNodeID(id.Level+1, id.Index/2)
		nodes[up] = rfc6962.DefaultHasher.HashChildren(nodes[left], nodes[id])
		id = up
	}
	l.size++
}

func (l *memberLog) checkpoint(nodes map[compact.NodeID][]byte) []byte {
	ids := compact.RangeNodes(0, l.size, nil)
	root := nodes[ids[len(ids)-1]]
	for i := len(ids) - 2; i >= 0; i-- {
		root = rfc6962.DefaultHasher.HashChildren(nodes[ids[i]], root)
	}
	msg, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", l.origin, l.size, base64.StdEncoding.EncodeToString(root))}, l.signer)
	if err != nil {
		panic(err)
	}
	return msg
}

func (l *memberLog) consistency(old uint64, nodes map[compact.NodeID][]byte) [][]byte {
	needed, err := proof.Consistency(old, l.size)
	if err != nil {
		panic(err)
	}
	hashes := make([][]byte, len(needed.IDs))
	for i, id := range needed.IDs {
		if hashes[i] = nodes[id]; hashes[i] == nil {
			panic(fmt.Sprintf("proof from %d to %d: node %v is not known", old, l.size, id))
		}
	}
	out, err := needed.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		panic(err)
	}
	return out
}
