package wal

// Waiting returns how many entries wait to be written.
func Waiting(l *Log) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// ParseFrame parses one frame.
func ParseFrame(b []byte) (seq, group uint64, payload []byte, size int64, err error) {
	f, err := parseFrame(b)
	return f.seq, f.group, f.payload, f.size, err
}

// Frame makes one frame.
func Frame(seq, group uint64, payload []byte) []byte {
	b := appendFrame(nil, payload)
	sealFrame(b, seq, group)
	return b
}

// ScanBytes scans a segment's bytes.
func ScanBytes(first uint64, data []byte, last bool, fn func(Position, []byte) error) (end int64, next uint64, torn string, err error) {
	t, err := scan(Segment{First: first, Path: "segment"}, data, last, 0, fn)
	return t.end, t.next, t.torn, err
}

// Header makes a segment's header.
func Header(first uint64) []byte { return segmentHeader(first) }

// HandsOver reports whether a sync has been handed to the kernel, and whether
// the kernel refused that.
func HandsOver(l *Log) (handed, refused bool) { return l.sync.context != 0, l.sync.refused }

// Refuse makes every sync block, as where the kernel refuses.
func Refuse(l *Log) { l.sync.refused = true }

// WaitSpare waits until the next segment's file has been made, and reports
// whether that was begun at all. Nothing may be appended meanwhile.
func WaitSpare(l *Log) bool {
	if l.spare == nil {
		return false
	}
	<-l.spare.ended
	return true
}
