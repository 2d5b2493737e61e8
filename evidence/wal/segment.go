package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Position says where an entry is.
type Position struct {
	Seq     uint64 // number of the entry; the first is 0
	Segment uint64 // number of the first entry of its segment
	Offset  int64  // of its frame in the segment's file
	Length  uint32 // of its payload
}

// Segment is one file of the log.
type Segment struct {
	First uint64 // number of its first entry
	Path  string
	Bytes int64 // up to the end of the last entry; known of the newest segment only
}

// DamageError says that entries which were acknowledged cannot be read.
type DamageError struct {
	File   string
	Offset int64
	Seq    uint64 // the first entry that cannot be read
	What   string
}

// Error names the place and says what to do.
func (e *DamageError) Error() string {
	return fmt.Sprintf("write-ahead log %s is damaged at byte %d (entry %d): %s; nothing was changed: restore the file from a backup or the other half of a mirror, or keep a copy and ask for help before you cut it by hand",
		e.File, e.Offset, e.Seq, e.What)
}

// segmentName is the file name of the segment that begins with entry first.
func segmentName(first uint64) string { return fmt.Sprintf("%020d.wal", first) }

// List returns the segments in dir, oldest first.
func List(dir string) ([]Segment, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list segments: %w", err)
	}
	var out []Segment
	for _, n := range names {
		base, ok := strings.CutSuffix(n.Name(), ".wal")
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(base, 10, 64)
		if err != nil || segmentName(first) != n.Name() {
			return nil, fmt.Errorf("list segments: %s is not the name of a segment (20 digits and .wal); move it away", filepath.Join(dir, n.Name()))
		}
		out = append(out, Segment{First: first, Path: filepath.Join(dir, n.Name())})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].First < out[j].First })
	return out, nil
}

// tail describes where the frames of a segment end.
type tail struct {
	end  int64  // offset after the last whole frame
	next uint64 // number of the entry that would follow
	torn string // why the bytes after end are not a frame; empty: they are zero or absent
}

// scan goes through the frames of a segment's bytes. The last return value is a
// *DamageError when entries before the end cannot be read. With last, the
// segment may end in room that was filled ahead or in a write that was cut
// off; without it, it must end with a whole frame. Entries numbered below
// durable are known to have been acknowledged.
func scan(seg Segment, data []byte, last bool, durable uint64, fn func(Position, []byte) error) (tail, error) {
	if err := checkSegmentHeader(data, seg.First); err != nil {
		return tail{}, &DamageError{File: seg.Path, Seq: seg.First, What: err.Error()}
	}
	t := tail{end: SegmentHeader, next: seg.First}
	for t.end < int64(len(data)) {
		f, err := parseFrame(data[t.end:])
		if err == nil && f.seq != t.next {
			err = fmt.Errorf("entry %d is where entry %d should be", f.seq, t.next)
		}
		if err != nil {
			return judgeTail(seg, data, t, err, last, durable)
		}
		if fn != nil {
			if err := fn(Position{Seq: f.seq, Segment: seg.First, Offset: t.end, Length: uint32(len(f.payload))}, f.payload); err != nil {
				return t, err
			}
		}
		t.end += f.size
		t.next++
	}
	if t.next < durable && last {
		return t, &DamageError{File: seg.Path, Offset: t.end, Seq: t.next, What: fmt.Sprintf("it ends here, but entries up to %d were acknowledged", durable-1)}
	}
	return t, nil
}

// judgeTail decides what the unreadable bytes at t.end are: room filled ahead,
// a write that was cut off before it was acknowledged, or damage.
//
// A write is made durable before the next one begins, so a whole frame of a
// later write proves that the unreadable one had been acknowledged. A frame of
// the same write proves nothing: parts of one write may reach the disk in any
// order.
func judgeTail(seg Segment, data []byte, t tail, cause error, last bool, durable uint64) (tail, error) {
	damage := func(what string) (tail, error) {
		return t, &DamageError{File: seg.Path, Offset: t.end, Seq: t.next, What: what}
	}
	if !last {
		return damage(cause.Error())
	}
	if t.next < durable {
		return damage(fmt.Sprintf("%s, but entries up to %d were acknowledged", cause, durable-1))
	}
	rest := data[t.end:]
	if allZero(rest) {
		return t, nil
	}
	mark := []byte("CVWF")
	for at := 0; at < len(rest); {
		i := bytes.Index(rest[at:], mark)
		if i < 0 {
			break
		}
		at += i
		if f, err := parseFrame(rest[at:]); err == nil && (t.end+int64(at))%8 == 0 && f.group > t.next {
			return damage(fmt.Sprintf("%s, and entry %d of a later write follows at byte %d", cause, f.seq, t.end+int64(at)))
		}
		at++
	}
	t.torn = cause.Error()
	return t, nil
}

func allZero(b []byte) bool {
	zero := make([]byte, 4096)
	for len(b) > 0 {
		n := min(len(b), len(zero))
		if !bytes.Equal(b[:n], zero[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// readAll reads a whole file through its handle.
func readAll(f File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) != size {
		return nil, fmt.Errorf("read %d of %d bytes: %w", n, size, err)
	}
	return b, nil
}

// Check reads every segment in dir and reports each damaged place to problem;
// whole entries go to fn (which may be nil), also those after a damaged place
// in later segments. It changes nothing. torn is the torn tail, if there is one.
func Check(dir string, durable uint64, fn func(Position, []byte) error, problem func(*DamageError)) (next uint64, torn string, err error) {
	segments, err := List(dir)
	if err != nil {
		return 0, "", err
	}
	for i, seg := range segments {
		if i > 0 && seg.First != next {
			problem(&DamageError{File: seg.Path, Seq: next, What: fmt.Sprintf("the segment before ends with entry %d, this one begins with entry %d", int64(next)-1, seg.First)})
		}
		data, err := os.ReadFile(seg.Path)
		if err != nil {
			return 0, "", fmt.Errorf("check segment: %w", err)
		}
		t, err := scan(seg, data, i == len(segments)-1, durable, fn)
		var damage *DamageError
		if errors.As(err, &damage) {
			problem(damage)
			if i < len(segments)-1 {
				t.next = segments[i+1].First
			}
		} else if err != nil {
			return 0, "", err
		}
		next = t.next
		if t.torn != "" {
			torn = fmt.Sprintf("%s ends at byte %d with a write that was cut off before it was acknowledged (%s)", seg.Path, t.end, t.torn)
		}
	}
	return next, torn, nil
}
