package evidence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/syndtr/goleveldb/leveldb"

	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/shred"
)

const expireEvery = 10 * time.Minute

// retain deletes what has reached the end of its retention, from time to time.
func (l *Log) retain() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-timer.C:
		}
		if err := l.Expire(ctx); err != nil && !errors.Is(err, wal.ErrClosed) {
			l.cfg.Logger.WarnContext(ctx, "evidence: what has reached the end of its retention could not be deleted", "error", err)
		}
		timer.Reset(expireEvery)
	}
}

// Expire deletes bodies and records that have reached the end of their
// retention. Records go by whole write-ahead log segments, with their salts and
// everything that the index knows of them; without its salt a leaf says nothing.
func (l *Log) Expire(ctx context.Context) error {
	if !l.keep.TryLock() {
		return nil // a backup is being made; later
	}
	defer l.keep.Unlock()
	now := l.cfg.Clock()
	if l.archive != nil && l.cfg.BodyRetention > 0 {
		n, err := l.archive.Expire(ctx, now.Add(-l.cfg.BodyRetention))
		if n > 0 {
			l.cfg.Logger.InfoContext(ctx, "evidence: deleted bodies at the end of their retention", "bodies", n)
		}
		if err != nil {
			return err
		}
	}
	if l.cfg.RecordRetention == 0 {
		return nil
	}
	if err := l.rotateOld(now); err != nil {
		return err
	}
	cutoff := now.Add(-l.cfg.RecordRetention).UnixNano()
	next, _, err := l.index.state()
	if err != nil {
		return err
	}
	segments := l.wal.Segments()
	for i, seg := range segments[:len(segments)-1] {
		after := segments[i+1].First
		latest, err := l.index.number(key('s', seg.First))
		if err != nil {
			return err
		}
		if after > next || int64(latest) >= cutoff {
			return nil // segments are in order of time
		}
		if err := l.expireSegment(ctx, seg, after); err != nil {
			return err
		}
		l.cfg.Logger.InfoContext(ctx, "evidence: deleted records at the end of their retention", "records", after-seg.First)
	}
	return nil
}

// rotateOld ends a segment that is SegmentAge old.
func (l *Log) rotateOld(now time.Time) error {
	segments := l.wal.Segments()
	last := segments[len(segments)-1]
	l.mu.Lock()
	if l.segment != last.First || l.segmentSeen.IsZero() {
		l.segment, l.segmentSeen = last.First, now
	}
	old := now.Sub(l.segmentSeen) >= l.cfg.SegmentAge
	l.mu.Unlock()
	if !old || last.Bytes <= wal.SegmentHeader {
		return nil
	}
	return l.wal.Rotate()
}

// expireSegment deletes a segment's entries from the index, then the segment.
// Done again after a crash, it deletes what is left.
func (l *Log) expireSegment(ctx context.Context, seg wal.Segment, after uint64) error {
	b := new(leveldb.Batch)
	var sealed []uint64
	b.Put(key('m', "expired"), number(after))
	if err := l.wal.ScanSegment(seg, func(pos wal.Position, payload []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if isSealed(payload) {
			n, err := shred.Number(payload)
			if err != nil {
				return fmt.Errorf("entry %d: %w", pos.Seq, err)
			}
			sealed = append(sealed, n)
		}
		plain, err := unseal(l.keys, payload)
		if errors.Is(err, shred.ErrDestroyed) {
			return nil // it was erased
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", pos.Seq, err)
		}
		p, err := newPending(plain)
		if err != nil {
			return fmt.Errorf("entry %d: %w", pos.Seq, err)
		}
		k := append(append(exchangeKey(p.exchange), byte(p.side)), number(pos.Seq)...)
		at, err := l.index.get(k)
		if err != nil || at == nil {
			return err
		}
		b.Delete(k)
		b.Delete(append([]byte{'i'}, at...))
		b.Delete(append([]byte{'d'}, at...))
		b.Delete(key('c', p.exchange))
		return nil
	}); err != nil {
		return err
	}
	b.Delete(key('s', seg.First))
	if err := l.index.write(b); err != nil {
		return err
	}
	// What is in backups ends with its retention too.
	if err := l.keys.Destroy(sealed...); err != nil {
		return err
	}
	return l.wal.Remove(seg.First)
}
