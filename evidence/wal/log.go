package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("write-ahead log: it is closed")

// ErrPoisoned is returned once the disk failed to make something durable: what
// a kernel does with data after a failed sync is not known, so nothing is
// acknowledged until the log has been reopened and reread.
var ErrPoisoned = errors.New("write-ahead log: the disk failed to make entries durable; restart after the disk has been checked")

const (
	fillBytes  = 1 << 20 // room that is zeroed ahead, so that a sync need not change the file's metadata
	groupBytes = 4 << 20 // most bytes of one write
	openFiles  = 16      // segments kept open for reading
	aloneAfter = 16      // groups of one entry after which appends are taken to come one by one
)

// zeros is what room is filled with. Nothing writes to it.
var zeros [64 << 10]byte

// Options says how to open a log.
type Options struct {
	Dir          string
	SegmentBytes int64    // size at which a new segment begins
	OpenFile     OpenFunc // default OpenOS
	// Durable is a sequence number; entries below it are known from elsewhere to
	// have been acknowledged, so that their absence is damage.
	Durable uint64
	// Committed is told of entries in their order, after they are durable and
	// before Append returns; payload is only valid during the call.
	Committed func(pos Position, tag any)
}

// Log is an open log. Its methods may be called concurrently.
type Log struct {
	opts Options

	mu       sync.Mutex // guards what follows
	waiting  []*waiter  // appended, not yet written
	leading  bool       // somebody is writing
	idle     *sync.Cond // signalled when nobody is writing any more
	closed   bool
	rotate   bool // the next write begins a segment
	durable  uint64
	poisoned error
	segments []Segment // oldest first; the last one is written to
	readers  map[uint64]*handle
	recovery string

	// Owned by whoever leads.
	active File
	end    int64  // offset of the next frame
	filled int64  // offset up to which the file is written, zeros included
	next   uint64 // number of the next entry
	buffer []byte
	sync   syncer
	alone  int    // groups in a row that had one entry
	spare  *spare // the next segment's file; nil: not begun
}

// waiter is one entry on its way.
type waiter struct {
	payload []byte // the caller's, who waits
	tag     any
	pos     Position
	done    chan outcome
}

// outcome ends a wait: with the result, or with the duty to lead the next write.
type outcome struct {
	lead bool
	err  error
}

// Open opens the log in o.Dir, which it makes if necessary.
func Open(o Options) (*Log, error) {
	if o.OpenFile == nil {
		o.OpenFile = OpenOS
	}
	if o.Committed == nil {
		o.Committed = func(Position, any) {}
	}
	l := &Log{opts: o, readers: map[uint64]*handle{}, alone: aloneAfter}
	l.idle = sync.NewCond(&l.mu)
	// 1. Find the segments.
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open write-ahead log: %w", err)
	}
	if err := removeTemporary(o.Dir); err != nil {
		return nil, fmt.Errorf("open write-ahead log: %w", err)
	}
	var err error
	if l.segments, err = List(o.Dir); err != nil {
		return nil, fmt.Errorf("open write-ahead log: %w", err)
	}
	if len(l.segments) == 0 {
		if o.Durable > 0 {
			return nil, &DamageError{File: o.Dir, What: fmt.Sprintf("there is no segment, but entries up to %d were acknowledged", o.Durable-1)}
		}
		return l, l.begin(0)
	}
	// 2. Read the last one and cut a torn tail.
	if err := l.recover(); err != nil {
		return nil, err
	}
	return l, nil
}

// recover reads the last segment and gets ready to append to it.
func (l *Log) recover() error {
	seg := &l.segments[len(l.segments)-1]
	f, err := l.opts.OpenFile(seg.Path, os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open write-ahead log: %w", err)
	}
	data, err := readAll(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("open write-ahead log %s: %w", seg.Path, err)
	}
	t, err := scan(*seg, data, true, l.opts.Durable, nil)
	if err != nil {
		f.Close()
		return err
	}
	if t.torn != "" {
		l.recovery = fmt.Sprintf("%s: cut at byte %d, where a write was cut off before it was acknowledged (%s; %d bytes)", seg.Path, t.end, t.torn, int64(len(data))-t.end)
	}
	if t.end < int64(len(data)) {
		if err := f.Truncate(t.end); err != nil {
			f.Close()
			return fmt.Errorf("cut write-ahead log %s: %w", seg.Path, err)
		}
	}
	// The bytes may never have been synced: the process that wrote them died.
	if err := f.Datasync(); err != nil {
		f.Close()
		return fmt.Errorf("sync write-ahead log %s: %w", seg.Path, err)
	}
	seg.Bytes = t.end
	l.active, l.end, l.filled, l.next, l.durable = f, t.end, t.end, t.next, t.next
	return nil
}

// Recovery says what Open had to cut off; empty in the normal case.
func (l *Log) Recovery() string { return l.recovery }

// Append makes payload durable and returns its position. It does not return
// before it knows: giving up the wait would leave the caller in doubt.
func (l *Log) Append(payload []byte, tag any) (Position, error) {
	if len(payload) > MaxPayload {
		return Position{}, fmt.Errorf("write-ahead log: entry of %d bytes, the rule is at most %d", len(payload), MaxPayload)
	}
	w := &waiter{payload: payload, tag: tag, done: make(chan outcome, 1)}
	w.pos.Length = uint32(len(payload))
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return Position{}, err
	}
	l.waiting = append(l.waiting, w)
	lead := !l.leading
	l.leading = true
	l.mu.Unlock()
	if lead {
		l.lead()
	}
	out := <-w.done
	if out.lead {
		l.lead()
		out = <-w.done
	}
	return w.pos, out.err
}

// usable reports why nothing can be appended. l.mu is held.
func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	return l.poisoned
}

// lead writes one group: everything that waits, the leader's entry first. It
// then hands the lead to somebody who came meanwhile.
func (l *Log) lead() {
	// Whoever can run now may be about to append: a sync costs more than letting
	// them go first. When nobody can, this returns at once.
	runtime.Gosched()
	l.mu.Lock()
	group, size := 0, int64(0)
	for group < len(l.waiting) && (group == 0 || size+frameSize(len(l.waiting[group].payload)) <= groupBytes) {
		size += frameSize(len(l.waiting[group].payload))
		group++
	}
	batch := l.waiting[:group:group]
	l.waiting = l.waiting[group:]
	err, rotate := l.poisoned, l.rotate
	l.rotate = false
	l.mu.Unlock()

	if err == nil {
		err = l.write(batch, rotate)
	}
	if err == nil {
		for _, w := range batch {
			l.opts.Committed(w.pos, w.tag)
		}
	}

	l.mu.Lock()
	if errors.Is(err, ErrPoisoned) {
		l.poisoned = err
	}
	l.segments[len(l.segments)-1].Bytes = l.end
	l.durable = l.next
	l.passLead()
	l.mu.Unlock()
	for _, w := range batch {
		w.done <- outcome{err: err}
	}
}

// passLead hands the lead to the first who waits. l.mu is held.
func (l *Log) passLead() {
	if len(l.waiting) > 0 {
		l.waiting[0].done <- outcome{lead: true}
		return
	}
	l.waiting = nil
	l.leading = false
	l.idle.Broadcast()
}

// write puts a group on the disk with one write and one sync.
func (l *Log) write(batch []*waiter, rotate bool) error {
	// 1. Begin a new segment when this one is full.
	if (rotate || l.end >= l.opts.SegmentBytes) && l.end > SegmentHeader {
		if err := l.begin(l.next); err != nil {
			return err
		}
	}
	// 2. Number the frames.
	b := l.buffer[:0]
	at, seq, segment := l.end, l.next, l.segmentFirst()
	for _, w := range batch {
		begin := len(b)
		b = appendFrame(b, w.payload)
		sealFrame(b[begin:], seq, l.next)
		w.pos.Seq, w.pos.Segment, w.pos.Offset = seq, segment, at
		at += frameSize(len(w.payload))
		seq++
	}
	if cap(b) <= groupBytes {
		l.buffer = b
	}
	// 3. Zero room ahead; a full disk is no reason not to try without.
	if at > l.filled {
		if err := l.fill(at); err != nil {
			return err
		}
	}
	// 4. Write; what was written of a group that failed is taken back.
	if err := writeAt(l.active, b, l.end); err != nil {
		return l.takeBack(fmt.Errorf("write-ahead log: write: %w", err))
	}
	// 5. Make it durable.
	if l.alone++; len(batch) > 1 {
		l.alone = 0
	}
	if err := l.sync.datasync(l.active, l.alone < aloneAfter); err != nil {
		return fmt.Errorf("%w (fdatasync: %w)", ErrPoisoned, err)
	}
	l.end, l.next = at, seq
	l.filled = max(l.filled, at)
	// 6. See to the segment after this one.
	l.makeSpare()
	return nil
}

// fill writes zeros up to some way behind need, so that the syncs to come find
// the file's length and blocks unchanged.
func (l *Log) fill(need int64) error {
	from := max(l.filled, need)
	for to := from; to < from+fillBytes; to += int64(len(zeros)) {
		if err := writeAt(l.active, zeros[:], to); err != nil {
			// Not enough disk for room ahead; go on without it.
			return l.takeBack(nil)
		}
	}
	l.filled = from + fillBytes
	return nil
}

// takeBack cuts the file to the last acknowledged entry and returns cause.
func (l *Log) takeBack(cause error) error {
	if err := l.active.Truncate(l.end); err != nil {
		return fmt.Errorf("%w (truncate: %w)", ErrPoisoned, err)
	}
	l.filled = l.end
	return cause
}

// writeAt writes all of b.
func writeAt(f File, b []byte, at int64) error {
	n, err := f.WriteAt(b, at)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

func (l *Log) segmentFirst() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[len(l.segments)-1].First
}

// begin ends the active segment and makes the one that begins with entry first.
// Only the leader calls it.
func (l *Log) begin(first uint64) error {
	// 1. The old one ends with its last frame.
	if l.active != nil {
		if err := l.active.Truncate(l.end); err != nil {
			return fmt.Errorf("%w (truncate: %w)", ErrPoisoned, err)
		}
		l.filled = l.end
		if err := l.active.Datasync(); err != nil {
			return fmt.Errorf("%w (fdatasync: %w)", ErrPoisoned, err)
		}
	}
	// 2. The new one appears under its name only when its header is durable.
	name := filepath.Join(l.opts.Dir, segmentName(first))
	s := l.takeSpare()
	if s == nil {
		f, err := l.opts.OpenFile(name+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("begin segment: %w", err)
		}
		s = &spare{path: name + ".tmp", file: f, bytes: SegmentHeader}
	}
	f := s.file
	if err := writeAt(f, segmentHeader(first), 0); err != nil {
		f.Close()
		return fmt.Errorf("begin segment: %w", err)
	}
	if err := f.Datasync(); err != nil {
		f.Close()
		return fmt.Errorf("begin segment: %w", err)
	}
	if err := os.Rename(s.path, name); err != nil {
		f.Close()
		return fmt.Errorf("begin segment: %w", err)
	}
	if err := syncDir(l.opts.Dir); err != nil {
		f.Close()
		return fmt.Errorf("%w (fsync of the directory: %w)", ErrPoisoned, err)
	}
	// 3. Switch.
	l.mu.Lock()
	if l.active != nil {
		l.segments[len(l.segments)-1].Bytes = l.end
		l.active.Close()
	}
	l.segments = append(l.segments, Segment{First: first, Path: name, Bytes: SegmentHeader})
	l.active, l.end, l.filled, l.next = f, SegmentHeader, s.bytes, first
	l.mu.Unlock()
	return nil
}

// syncDir makes a directory's entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeTemporary removes what a crash left of segments that never began.
func removeTemporary(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal.tmp"))
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Remove(n); err != nil {
			return err
		}
	}
	return nil
}
