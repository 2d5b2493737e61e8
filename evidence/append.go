package evidence

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/shred"
)

const (
	leafVersion = 1
	saltSize    = 16
	freeFor     = 250 * time.Millisecond // how long the answer about free space is used
	probeEvery  = time.Second
	probeBytes  = 1 << 20
)

// payloads are what entries are encoded in, for as long as they are appended.
var payloads = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// maxKeptPayload is the largest payload whose memory is used again, in bytes.
const maxKeptPayload = 64 << 10

// pending is an entry that is acknowledged but not yet stored.
type pending struct {
	pos      wal.Position
	leaf     [1 + sha256.Size]byte
	exchange string
	side     evidencepb.Side
	finished int64
	deliver  bool
	beside   bool   // something is kept beside the record
	content  []byte // that, if it was appended by this process
	slot     bool   // it holds one of the slots
}

// Leaf returns the leaf that commits to a record and its salt.
func Leaf(salt [16]byte, record []byte) []byte {
	leaf := leafOf(salt[:], record)
	return leaf[:]
}

func leafOf(salt, record []byte) (leaf [1 + sha256.Size]byte) {
	h := sha256.New()
	h.Write(salt)
	h.Write(record)
	leaf[0] = leafVersion
	h.Sum(leaf[1:1])
	return leaf
}

// What may follow the first 16 bytes of a write-ahead log entry instead of a record. No
// record begins with it: field 0 does not exist.
const (
	besideMark = 0 // what is kept beside the record comes first
	sealedMark = 1 // the 16 bytes are number and nonce of a key (shred), and an entry follows, sealed
)

// maxBeside is how much may be kept beside a record, in bytes.
const maxBeside = 64 << 10

// unseal opens a write-ahead log entry. One of before entries were sealed is open.
func unseal(keys *shred.Keys, payload []byte) ([]byte, error) {
	if !isSealed(payload) {
		return payload, nil
	}
	if keys == nil {
		return nil, errNoKeys
	}
	plain, err := keys.Open(payload, sealedMark)
	if err != nil {
		return nil, fmt.Errorf("evidence entry: %w", err)
	}
	return plain, nil
}

// errNoKeys says that a log is read without its erasure keys.
var errNoKeys = errors.New("evidence entry: it is sealed, and the log's erasure keys are not there: put their newest copy beside the log as " + keysFile)

// isSealed reports whether an entry is one that shred sealed.
func isSealed(payload []byte) bool {
	return len(payload) >= shred.HeadSize && payload[shred.HeadSize-1] == sealedMark
}

// split takes an open write-ahead log entry apart: salt || record, or salt || mark ||
// length of what is beside it || that || record.
func split(payload []byte) (salt [saltSize]byte, record, beside []byte, err error) {
	if len(payload) < saltSize {
		return salt, nil, nil, fmt.Errorf("evidence entry of %d bytes: it has no salt", len(payload))
	}
	salt, record = [saltSize]byte(payload), payload[saltSize:]
	if len(record) == 0 || record[0] != besideMark {
		return salt, record, nil, nil
	}
	n, width := binary.Uvarint(record[1:])
	if width <= 0 || n > maxBeside || n > uint64(len(record)-1-width) {
		return salt, nil, nil, errors.New("evidence entry: what is kept beside its record is cut")
	}
	beside, record = record[1+width:][:n], record[1+width:][n:]
	return salt, record, beside, nil
}

// newPending describes an open write-ahead log entry.
func newPending(payload []byte) (*pending, error) {
	salt, record, beside, err := split(payload)
	if err != nil {
		return nil, err
	}
	var r evidencepb.Record
	if err := proto.Unmarshal(record, &r); err != nil {
		return nil, fmt.Errorf("evidence entry: its record is not readable: %w", err)
	}
	p := describe(&r)
	p.leaf, p.beside = leafOf(salt[:], record), len(beside) > 0
	return p, nil
}

// describe takes from a record what the index needs.
func describe(r *evidencepb.Record) *pending {
	return &pending{
		exchange: r.GetExchangeId(),
		side:     r.GetSide(),
		finished: r.GetFinishedUnixNano(),
		// The counterparty is sent the receipt of what it took part in.
		deliver: len(r.GetPeerKeyId()) > 0 && r.GetRequest() != nil,
	}
}

// checkRecord checks what the log itself relies on.
func checkRecord(r *evidencepb.Record) error {
	switch {
	case r == nil:
		return errors.New("evidence record: there is none")
	case r.GetVersion() != recordVersion(r):
		return fmt.Errorf("evidence record: version %d, the rule for what it holds is %d", r.GetVersion(), recordVersion(r))
	case r.GetSide() != evidencepb.Side_SIDE_CONSUMER && r.GetSide() != evidencepb.Side_SIDE_PROVIDER:
		return fmt.Errorf("evidence record: side %d, the rule is consumer or provider", r.GetSide())
	case r.GetExchangeId() == "" || len(r.GetExchangeId()) > maxExchangeID:
		return fmt.Errorf("evidence record: the exchange id has %d bytes, the rule is 1 to %d", len(r.GetExchangeId()), maxExchangeID)
	}
	return nil
}

// recordVersion is 3 of a correction, 2 of a record with a second signature or a chain,
// so that who knows version 1 refuses it, and 1 of any other.
func recordVersion(r *evidencepb.Record) uint32 {
	if r.GetCorrection() != nil {
		return 3
	}
	for _, s := range [...]*evidencepb.Seal{r.GetRequest(), r.GetResponse()} {
		if s.GetSecond() != nil || len(s.GetChain()) > 0 {
			return 2
		}
	}
	return 1
}

// Append makes record durable. When it returns nil, the record outlives a
// crash and becomes a leaf of the Merkle log; Append does not wait for that.
// It waits only for the disk and, when the Merkle log is far behind, for room;
// ctx bounds the second wait.
func (l *Log) Append(ctx context.Context, record *evidencepb.Record) error {
	return l.AppendBeside(ctx, record, nil)
}

// AppendBeside does what Append does, and keeps something beside the record, by the same
// write: it is durable when the record is, is no part of the leaf and of no receipt, and
// is deleted with the record. Nobody may change it afterwards.
func (l *Log) AppendBeside(ctx context.Context, record *evidencepb.Record, beside []byte) error {
	// 1. Salt and leaf.
	if len(beside) > maxBeside {
		return fmt.Errorf("evidence record: %d bytes beside it, the rule is at most %d", len(beside), maxBeside)
	}
	if err := checkRecord(record); err != nil {
		return err
	}
	room := payloads.Get().(*[]byte)
	head := (*room)[:shred.HeadSize+saltSize]
	salt := head[shred.HeadSize:]
	rand.Read(salt)
	if len(beside) > 0 {
		head = append(binary.AppendUvarint(append(head, besideMark), uint64(len(beside))), beside...)
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(head, record)
	if err != nil {
		return fmt.Errorf("evidence record: %w", err)
	}
	p := describe(record)
	p.leaf = leafOf(payload[shred.HeadSize:][:saltSize], payload[len(head):])
	if p.beside = len(beside) > 0; len(beside) <= besideMost {
		p.content = beside
	}
	// 2. Sealed, in place, under a key that can be destroyed.
	payload = l.keys.Seal(payload[:shred.HeadSize], payload[shred.HeadSize:], sealedMark)
	if cap(payload) <= maxKeptPayload {
		*room = payload
		defer payloads.Put(room) // the disk has it then, and nobody else keeps it
	}
	// 3. Room: memory is bounded by the slots.
	if err := l.unusable(); err != nil {
		return err
	}
	select {
	case l.slots <- struct{}{}:
	default:
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("evidence record: the Merkle log is too far behind: %w", context.Cause(ctx))
		case <-l.stop:
			return errClosed
		}
	}
	// 4. Durable; committed puts p in its place.
	p.slot = true
	if _, err := l.wal.Append(payload, p); err != nil {
		<-l.slots
		l.noteTrouble(ctx, err)
		return fmt.Errorf("evidence record: %w", err)
	}
	return nil
}

var errClosed = errors.New("evidence: the log is closed")

// unusable reports why nothing can be appended.
func (l *Log) unusable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	if l.failed != nil {
		return fmt.Errorf("evidence: the log has stopped: %w", l.failed)
	}
	return nil
}

// committed is called with every durable entry in order.
func (l *Log) committed(pos wal.Position, tag any) {
	p := tag.(*pending)
	p.pos = pos
	l.mu.Lock()
	l.pending = append(l.pending, p)
	l.byID[p.exchange] = append(l.byID[p.exchange], p)
	full := len(l.pending) == 1 || len(l.pending) >= l.cfg.BatchSize
	l.mu.Unlock()
	if full {
		l.poke()
	}
}

// poke wakes the follower.
func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// noteTrouble remembers that the disk refused, so that nothing is admitted
// before a probe has succeeded.
func (l *Log) noteTrouble(ctx context.Context, err error) {
	if errors.Is(err, wal.ErrClosed) {
		return
	}
	if errors.Is(err, wal.ErrPoisoned) {
		l.fail(ctx, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = err
	l.probeAt = l.cfg.Clock().Add(probeEvery)
}

// Admit reports whether an exchange can be evidenced; it is asked before a
// service is called. The error is a *civibus.Fault without a place, which the
// gateway fills in. The log recovers by itself when the cause goes away, unless
// the message says that it has to be restarted.
func (l *Log) Admit() error {
	refuse := func(err error, format string, args ...any) error {
		f := civibus.Faultf(0, civibus.FaultEvidence, "evidence cannot be kept: "+format, args...)
		f.Err = err
		return f
	}
	l.mu.Lock()
	closed, failed, trouble, waiting := l.closed, l.failed, l.trouble, len(l.pending)
	l.mu.Unlock()
	switch {
	case closed:
		return refuse(errClosed, "the gateway is stopping")
	case failed != nil:
		return refuse(failed, "the evidence log has stopped and needs its operator")
	case waiting >= l.cfg.MaxPending/4*3:
		return refuse(nil, "the evidence log is too far behind")
	}
	free, err := l.freeBytes()
	if err != nil {
		return refuse(err, "the free disk space is not known")
	}
	if free < l.cfg.ReserveBytes {
		return refuse(nil, "the disk is full")
	}
	if trouble != nil {
		if err := l.probe(); err != nil {
			return refuse(err, "the disk refuses writes")
		}
	}
	return nil
}

// freeBytes asks for free disk space, at most a few times a second.
func (l *Log) freeBytes() (uint64, error) {
	now := l.cfg.Clock()
	l.mu.Lock()
	free, at := l.free, l.freeAt
	l.mu.Unlock()
	if d := now.Sub(at); d >= 0 && d < freeFor && !at.IsZero() {
		return free, nil
	}
	free, err := l.cfg.Statfs(l.cfg.Dir)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	l.free, l.freeAt = free, now
	l.mu.Unlock()
	return free, nil
}

// probe tries, at most once a second, whether the disk takes writes again.
func (l *Log) probe() error {
	l.mu.Lock()
	now, trouble := l.cfg.Clock(), l.trouble
	if trouble == nil || now.Before(l.probeAt) {
		l.mu.Unlock()
		return trouble
	}
	l.probeAt = now.Add(probeEvery)
	l.mu.Unlock()
	name := filepath.Join(l.cfg.Dir, "probe")
	err := errors.Join(os.WriteFile(name, make([]byte, probeBytes), 0o600), os.Remove(name))
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.trouble = nil
	l.mu.Unlock()
	return nil
}
