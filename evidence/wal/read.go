package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// ErrGone says that the segment of an entry has been deleted.
var ErrGone = errors.New("write-ahead log: the entry's segment has been deleted")

// Next returns the number of the next entry to be durable.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Poisoned returns the error that Append gives since the disk failed.
func (l *Log) Poisoned() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.poisoned
}

// Segments returns the segments, oldest first; the last one is still written to.
func (l *Log) Segments() []Segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Segment(nil), l.segments...)
}

// Read returns the payload of the entry at pos.
func (l *Log) Read(pos Position) ([]byte, error) {
	h, err := l.reader(pos.Segment)
	if err != nil {
		return nil, err
	}
	defer l.release(h)
	return readFrame(h.file, segmentName(pos.Segment), pos)
}

// ReadAt returns the payload of the entry at pos of a log in dir that nobody has
// open.
func ReadAt(dir string, pos Position) ([]byte, error) {
	f, err := OpenOS(filepath.Join(dir, segmentName(pos.Segment)), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("read write-ahead log: %w", err)
	}
	defer f.Close()
	return readFrame(f, segmentName(pos.Segment), pos)
}

// readFrame reads and checks one frame.
func readFrame(f File, name string, pos Position) ([]byte, error) {
	if pos.Length > MaxPayload {
		return nil, &DamageError{File: name, Offset: pos.Offset, Seq: pos.Seq, What: "the index gives an impossible length"}
	}
	b := make([]byte, frameSize(int(pos.Length)))
	if n, err := f.ReadAt(b, pos.Offset); n != len(b) {
		return nil, &DamageError{File: name, Offset: pos.Offset, Seq: pos.Seq, What: fmt.Sprintf("only %d of %d bytes can be read: %v", n, len(b), err)}
	}
	got, err := parseFrame(b)
	if err == nil && (got.seq != pos.Seq || len(got.payload) != int(pos.Length)) {
		err = fmt.Errorf("it is entry %d of %d bytes", got.seq, len(got.payload))
	}
	if err != nil {
		return nil, &DamageError{File: name, Offset: pos.Offset, Seq: pos.Seq, What: err.Error()}
	}
	return got.payload, nil
}

// handle is a segment open for reading. It closes when nobody reads through it
// and it is no longer kept: pushed out by others, its segment removed, or the log
// closed.
type handle struct {
	file    File
	readers int
	kept    bool
}

// reader returns a handle of a segment, for release.
func (l *Log) reader(first uint64) (*handle, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if h, ok := l.readers[first]; ok {
		h.readers++
		return h, nil
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].First >= first })
	if i == len(l.segments) || l.segments[i].First != first {
		return nil, ErrGone
	}
	f, err := l.opts.OpenFile(l.segments[i].Path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("read write-ahead log: %w", err)
	}
	if len(l.readers) >= openFiles {
		for k := range l.readers {
			_ = l.drop(k) // it was only read
			break
		}
	}
	h := &handle{file: f, readers: 1, kept: true}
	l.readers[first] = h
	return h, nil
}

// release gives a handle back.
func (l *Log) release(h *handle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.readers--; h.readers == 0 && !h.kept {
		_ = h.file.Close() // it was only read
	}
}

// drop keeps a segment's handle no longer. l.mu is held.
func (l *Log) drop(first uint64) error {
	h, ok := l.readers[first]
	if !ok {
		return nil
	}
	delete(l.readers, first)
	h.kept = false
	if h.readers > 0 {
		return nil
	}
	return h.file.Close()
}

// Scan goes through the durable entries from number from on, in order. The
// payload is only valid during the call. Nothing may be appended meanwhile.
func (l *Log) Scan(from uint64, fn func(Position, []byte) error) error {
	segments := l.Segments()
	for i, seg := range segments {
		if i+1 < len(segments) && segments[i+1].First <= from {
			continue
		}
		data, err := os.ReadFile(seg.Path)
		if err != nil {
			return fmt.Errorf("scan write-ahead log: %w", err)
		}
		t, err := scan(seg, data, i == len(segments)-1, l.opts.Durable, func(p Position, b []byte) error {
			if p.Seq < from {
				return nil
			}
			return fn(p, b)
		})
		if err != nil {
			return err
		}
		if i+1 < len(segments) && t.next != segments[i+1].First {
			return &DamageError{File: seg.Path, Offset: t.end, Seq: t.next, What: fmt.Sprintf("it ends here, but the next segment begins with entry %d", segments[i+1].First)}
		}
	}
	return nil
}

// ScanSegment goes through the entries of one segment that is no longer
// written to.
func (l *Log) ScanSegment(seg Segment, fn func(Position, []byte) error) error {
	data, err := os.ReadFile(seg.Path)
	if err != nil {
		return fmt.Errorf("scan segment: %w", err)
	}
	_, err = scan(seg, data, false, 0, fn)
	return err
}

// Rotate ends the active segment if it has entries, so that it can be removed
// later: at once when nothing is being written, otherwise with the next write.
func (l *Log) Rotate() error {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return err
	}
	if l.leading {
		l.rotate = true
		l.mu.Unlock()
		return nil
	}
	l.leading = true
	l.mu.Unlock()
	var err error
	if l.end > SegmentHeader {
		err = l.begin(l.next)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, ErrPoisoned) {
		l.poisoned = err
	}
	l.passLead()
	return err
}

// Remove overwrites and deletes a whole segment that is no longer written to.
func (l *Log) Remove(first uint64) error {
	l.mu.Lock()
	at := -1
	for i, s := range l.segments[:max(0, len(l.segments)-1)] {
		if s.First == first {
			at = i
		}
	}
	if at < 0 {
		l.mu.Unlock()
		return fmt.Errorf("remove segment %d: there is none that could be removed", first)
	}
	seg := l.segments[at]
	l.segments = append(append([]Segment(nil), l.segments[:at]...), l.segments[at+1:]...)
	_ = l.drop(first) // it was only read
	l.mu.Unlock()
	if err := overwrite(seg.Path); err != nil {
		return fmt.Errorf("remove segment: %w", err)
	}
	if err := os.Remove(seg.Path); err != nil {
		return fmt.Errorf("remove segment: %w", err)
	}
	return syncDir(l.opts.Dir)
}

// overwrite zeroes a file, so that its content does not lie about in free
// blocks of file systems that write in place.
func overwrite(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zero, size := make([]byte, fillBytes), info.Size()
	for at := int64(0); at < size; at += int64(len(zero)) {
		if _, err := f.WriteAt(zero[:min(int64(len(zero)), size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// Close waits for what is under way, cuts the room filled ahead and closes the
// files. Append fails afterwards.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	for l.leading {
		l.idle.Wait()
	}
	errs := []error{l.dropSpare()}
	if l.active != nil {
		if l.poisoned == nil && l.filled > l.end {
			errs = append(errs, l.active.Truncate(l.end))
		}
		if l.poisoned == nil {
			errs = append(errs, l.active.Datasync())
		}
		errs = append(errs, l.active.Close())
	}
	errs = append(errs, l.sync.close())
	for first := range l.readers {
		errs = append(errs, l.drop(first))
	}
	return errors.Join(errs...)
}
