package wal

import (
	"os"
	"path/filepath"
	"sync/atomic"
)

// spare is the file of the segment to come. Its room is written and durable
// before the first entry needs it: filled while entries wait, it costs each of
// them a share of the zeros' way to the disk (at 16 connections a tenth of the
// throughput).
type spare struct {
	path  string
	stop  atomic.Bool
	ended chan struct{} // closed when the maker has ended
	file  File          // nil after ended: there was no room or the disk failed
	bytes int64
}

// makeSpare begins to make the next segment's file once the active one is a
// quarter full. An idle log never gets there and costs no disk. Only the leader
// calls it.
func (l *Log) makeSpare() {
	if l.spare != nil || l.end < l.opts.SegmentBytes/4 {
		return
	}
	l.spare = &spare{
		path:  filepath.Join(l.opts.Dir, "spare.wal.tmp"),
		ended: make(chan struct{}),
		// The last group of a segment goes beyond its end.
		bytes: l.opts.SegmentBytes + min(l.opts.SegmentBytes, fillBytes),
	}
	go l.spare.fill(l.opts.OpenFile)
}

// fill writes the file's zeros, a little at a time so that the disk has time for
// the entries. Without it the segment's room is filled as it is needed.
func (s *spare) fill(open OpenFunc) {
	defer close(s.ended)
	f, err := open(s.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	for at := int64(0); at < s.bytes && err == nil && !s.stop.Load(); {
		n := min(int64(len(zeros)), s.bytes-at)
		err = writeAt(f, zeros[:n], at)
		if at += n; err == nil && (at%fillBytes == 0 || at == s.bytes) {
			err = f.Datasync()
		}
	}
	if err != nil || s.stop.Load() {
		_ = f.Close() // nothing was kept in it
		_ = os.Remove(s.path)
		return
	}
	s.file = f
}

// takeSpare returns the file that is ready, if there is one. Only the leader
// calls it.
func (l *Log) takeSpare() *spare {
	if l.spare == nil {
		return nil
	}
	select {
	case <-l.spare.ended:
	default:
		return nil // for the segment after this one
	}
	s := l.spare
	l.spare = nil
	if s.file == nil {
		return nil
	}
	return s
}

// dropSpare ends the maker and removes the file.
func (l *Log) dropSpare() error {
	if l.spare == nil {
		return nil
	}
	l.spare.stop.Store(true)
	<-l.spare.ended
	s := l.spare
	l.spare = nil
	if s.file == nil {
		return nil
	}
	if err := s.file.Close(); err != nil {
		return err
	}
	return os.Remove(s.path)
}
