package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/civibus/civibus/evidence/wal"
)

// Entry is one event of a stream.
type Entry struct {
	Seq   uint64
	Event []byte
	Meta  []byte // of the block that it came in
	Place int    // in its block
	Block int    // how many events its block has
}

// GoneError says that events are no longer kept.
type GoneError struct {
	After, Oldest uint64 // asked for what follows After; the first that there is
}

// Error names both.
func (e *GoneError) Error() string {
	return fmt.Sprintf("the events from %d to %d are no longer kept", e.After+1, e.Oldest-1)
}

// stream is a durable sequence of events, numbered from 1, in the blocks in which they
// were appended. It is a write-ahead log of the house with an index of its blocks in
// memory, 40 bytes for each.
type stream struct {
	log   *wal.Log
	write sync.Mutex // held by whoever appends

	mu      sync.Mutex
	blocks  []block // oldest first
	bytes   int64   // of the blocks
	last    uint64  // the newest event; 0: there was none yet
	changed chan struct{}
}

// block says where a block is.
type block struct {
	first   uint64 // its first event
	count   uint32
	length  uint32 // of its payload
	segment uint64
	seq     uint64
	offset  int64
	at      int64 // Unix seconds
}

func (b *block) last() uint64 { return b.first + uint64(b.count) - 1 }

func (b *block) position() wal.Position {
	return wal.Position{Seq: b.seq, Segment: b.segment, Offset: b.offset, Length: b.length}
}

const (
	blockVersion = 1
	blockHeader  = 1 + 8 + 4 + 8 + 2 // version, first, count, time, length of meta
	segmentBytes = 32 << 20
)

// openStream opens or makes the stream in a folder.
func openStream(dir string, open wal.OpenFunc) (*stream, error) {
	s := &stream{changed: make(chan struct{})}
	log, err := wal.Open(wal.Options{Dir: dir, SegmentBytes: segmentBytes, OpenFile: open})
	if err != nil {
		return nil, err
	}
	s.log = log
	if err := log.Scan(0, func(pos wal.Position, payload []byte) error {
		b, err := readBlockHeader(payload)
		if err != nil {
			return err
		}
		if b.first <= s.last {
			return fmt.Errorf("block %d begins with event %d, and event %d came before", pos.Seq, b.first, s.last)
		}
		s.add(b, pos)
		return nil
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("open the events in %s: %w", dir, err), log.Close())
	}
	return s, nil
}

func readBlockHeader(p []byte) (b block, err error) {
	if len(p) < blockHeader || p[0] != blockVersion {
		return b, fmt.Errorf("a block of events of an unknown form")
	}
	b.first, b.count = binary.BigEndian.Uint64(p[1:]), binary.BigEndian.Uint32(p[9:])
	b.at = int64(binary.BigEndian.Uint64(p[13:])) / int64(time.Second)
	if b.first == 0 {
		return b, fmt.Errorf("a block that begins with event 0")
	}
	return b, nil
}

// add puts a block into the index. s.mu is held, or nobody else has s.
func (s *stream) add(b block, pos wal.Position) {
	if b.count == 0 { // a mark: the events before it are gone, and their numbers are not used again
		s.last = b.first - 1
		return
	}
	b.segment, b.seq, b.offset, b.length = pos.Segment, pos.Seq, pos.Offset, pos.Length
	s.blocks = append(s.blocks, b)
	s.bytes += int64(b.length)
	s.last = b.last()
}

// append makes events durable as one block that begins with event number first, which
// must be above all before; 0 is the next.
func (s *stream) append(first uint64, meta []byte, at time.Time, events [][]byte) (uint64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if first == 0 {
		first = last + 1
	}
	if first <= last {
		return 0, fmt.Errorf("event %d after event %d", first, last)
	}
	// 1. The block.
	size := blockHeader + len(meta)
	for _, e := range events {
		size += 4 + len(e)
	}
	p := make([]byte, blockHeader, size)
	p[0] = blockVersion
	binary.BigEndian.PutUint64(p[1:], first)
	binary.BigEndian.PutUint32(p[9:], uint32(len(events)))
	binary.BigEndian.PutUint64(p[13:], uint64(at.UnixNano()))
	binary.BigEndian.PutUint16(p[21:], uint16(len(meta)))
	p = append(p, meta...)
	for _, e := range events {
		p = binary.BigEndian.AppendUint32(p, uint32(len(e)))
		p = append(p, e...)
	}
	// 2. Durable, then known.
	pos, err := s.log.Append(p, nil)
	if err != nil {
		return 0, err
	}
	b, err := readBlockHeader(p)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.add(b, pos)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return first, nil
}

// bounds returns the first event that is kept and the newest one. With none kept, oldest
// is newest+1.
func (s *stream) bounds() (oldest, newest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.blocks) == 0 {
		return s.last + 1, s.last
	}
	return s.blocks[0].first, s.last
}

// wait returns the newest event and a channel that is closed when there is a newer one.
func (s *stream) wait() (newest uint64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.changed
}

// from returns the block with the first event after a cursor, and where to go on.
func (s *stream) from(after uint64) (b block, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.blocks), func(i int) bool { return s.blocks[i].last() > after })
	if i == len(s.blocks) {
		return block{}, false
	}
	return s.blocks[i], true
}

// read returns events after a cursor, at most so many with at most so many bytes, though
// one at least. Numbers that the stream never had are passed over.
func (s *stream) read(after uint64, events, bytes int) ([]Entry, error) {
	var out []Entry
	size := 0
	for len(out) < events {
		b, ok := s.from(after)
		if !ok {
			return out, nil
		}
		entries, err := s.readBlock(b)
		if errors.Is(err, wal.ErrGone) {
			if len(out) > 0 {
				return out, nil
			}
			oldest, _ := s.bounds()
			return nil, &GoneError{after, oldest}
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Seq <= after {
				continue
			}
			if len(out) == events || len(out) > 0 && size+len(e.Event) > bytes {
				return out, nil
			}
			out, size, after = append(out, e), size+len(e.Event), e.Seq
		}
	}
	return out, nil
}

// block returns all events of the block that an event is in.
func (s *stream) block(seq uint64) ([]Entry, error) {
	b, ok := s.from(seq - 1)
	if !ok || b.first > seq {
		oldest, _ := s.bounds()
		return nil, &GoneError{seq - 1, oldest}
	}
	return s.readBlock(b)
}

func (s *stream) readBlock(b block) ([]Entry, error) {
	p, err := s.log.Read(b.position())
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf("the block with event %d is malformed", b.first)
	if _, err := readBlockHeader(p); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(p[21:]))
	rest := p[blockHeader:]
	if len(rest) < n {
		return nil, bad
	}
	meta, rest := rest[:n:n], rest[n:]
	out := make([]Entry, b.count)
	for i := range out {
		if len(rest) < 4 {
			return nil, bad
		}
		n := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; uint64(len(rest)) < uint64(n) {
			return nil, bad
		}
		out[i] = Entry{Seq: b.first + uint64(i), Event: rest[:n:n], Meta: meta, Place: i, Block: int(b.count)}
		rest = rest[n:]
	}
	return out, nil
}

// trim removes whole segments: those whose newest event came before a time, and the
// oldest ones while there are more bytes than wanted; but none with an event above keep.
func (s *stream) trim(before time.Time, most int64, keep uint64) error {
	// 1. An old event must not stay because nothing new comes.
	s.mu.Lock()
	old := len(s.blocks) > 0 && s.blocks[0].at < before.Unix()
	s.mu.Unlock()
	segments := s.log.Segments()
	if old && len(segments) == 1 {
		if err := s.log.Rotate(); err != nil {
			return err
		}
		segments = s.log.Segments()
	}
	for _, seg := range segments[:len(segments)-1] {
		// 2. Which blocks are in it, and may they go?
		s.mu.Lock()
		n, size := 0, int64(0)
		for n < len(s.blocks) && s.blocks[n].segment == seg.First {
			size += int64(s.blocks[n].length)
			n++
		}
		var newest block
		if n > 0 {
			newest = s.blocks[n-1]
		}
		if n > 0 && (newest.last() > keep || newest.at >= before.Unix() && s.bytes <= most) {
			s.mu.Unlock()
			return nil
		}
		if n > 0 && n == len(s.blocks) { // the numbers go on after it
			s.mu.Unlock()
			if _, err := s.append(0, nil, before, nil); err != nil {
				return err
			}
			s.mu.Lock()
		}
		s.blocks, s.bytes = s.blocks[n:], s.bytes-size
		if len(s.blocks) > 0 {
			s.blocks = append([]block(nil), s.blocks...)
		}
		s.mu.Unlock()
		// 3. Gone.
		if err := s.log.Remove(seg.First); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) close() error { return s.log.Close() }
