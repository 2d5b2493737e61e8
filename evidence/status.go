package evidence

import (
	"time"
)

// Status is the state of a log for operators.
type Status struct {
	Origin         string
	Next           uint64    // number of the next entry
	Pending        int       // acknowledged entries that are not yet in the Merkle log
	Size           uint64    // entries in the Merkle log
	CheckpointSize uint64    // entries under the last checkpoint
	CheckpointTime time.Time // when it was signed, or the log opened
	FreeBytes      uint64    // of the disk; 0 when it is not known
	SignError      string    // why no newer checkpoint could be signed
	AnchoredSize   uint64
	AnchoredHeight uint64
	AnchorInterval time.Duration // between anchors while the log grows; 0 before the first attempt
	AnchorError    string        // why the last attempt to anchor failed; empty when it did not
	AnchorRetry    time.Time     // when it is tried again
	Problems       []string      // why no exchange is admitted, if so
}

// Status describes the log for operators.
func (l *Log) Status() Status {
	s := Status{Origin: l.cfg.Origin, Next: l.wal.Next(), Size: l.tree.Tree().Size()}
	if err := l.Admit(); err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	s.FreeBytes, _ = l.freeBytes()
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Pending = len(l.pending)
	s.CheckpointSize, s.CheckpointTime = l.checkpoint.Size, l.signed
	s.AnchoredSize, s.AnchoredHeight, s.AnchorRetry = l.anchor.size, l.anchor.height, l.anchor.retry
	s.AnchorInterval = l.anchor.interval
	if l.signError != nil {
		s.SignError = l.signError.Error()
	}
	if l.anchor.err != nil {
		s.AnchorError = l.anchor.err.Error()
	}
	if l.failed != nil {
		s.Problems = append(s.Problems, l.failed.Error())
	}
	return s
}
