package evidence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// follow appends what is pending to the Merkle log, a batch at a time, and
// signs checkpoints, until the log is closed and nothing is pending.
func (l *Log) follow() {
	ctx := context.Background()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// 1. Wait for a batch that is full or old enough, a checkpoint that is due, or the end.
		stopping := l.awaitBatch(timer)
		// 2. Append a batch; try again later when the disk is full.
		stored, err := l.round(ctx)
		switch {
		case err == nil:
		case tiles.IsFull(err) && !stopping:
			if !l.awaitSpace(ctx, timer, err) {
				return
			}
			continue
		default:
			l.fail(ctx, err)
			return
		}
		// 3. Sign a checkpoint when one is due.
		if err := l.publish(stopping && stored == 0); errors.Is(err, tiles.ErrDamaged) {
			l.fail(ctx, err)
			return
		} else if err != nil { // the disk is full or the key cannot be reached
			l.cfg.Logger.WarnContext(ctx, "evidence: no checkpoint could be signed; tried again", "error", err)
		}
		if stopping && (stored == 0 || l.abandon.Load()) {
			return
		}
	}
}

// awaitBatch waits until there is something to do and reports whether the log
// is being closed.
func (l *Log) awaitBatch(timer *time.Timer) (stopping bool) {
	var age <-chan time.Time // set once something is pending
	for {
		l.mu.Lock()
		waiting := len(l.pending)
		unsigned := l.tree.Tree().Size() > l.checkpoint.Size
		l.mu.Unlock()
		if waiting >= l.cfg.BatchSize {
			return false
		}
		if age == nil && (waiting > 0 || unsigned) {
			timer.Reset(l.cfg.BatchAge)
			age = timer.C
		}
		select {
		case <-l.stop:
			return true
		case <-age:
			return false
		case <-l.wake:
		}
	}
}

// awaitSpace waits until a disk that was full takes a batch that was cut off,
// and reports whether the follower may go on.
func (l *Log) awaitSpace(ctx context.Context, timer *time.Timer, err error) bool {
	l.cfg.Logger.WarnContext(ctx, "evidence: the Merkle log waits for disk space", "error", err)
	for retry := retryFirst; ; retry = min(2*retry, retryMost) {
		l.noteTrouble(ctx, err)
		if stopping := l.pause(timer, retry); stopping {
			return false // the next start takes it up
		}
		switch err = l.settle(ctx); {
		case err == nil:
			return true
		case !tiles.IsFull(err):
			l.fail(ctx, err)
			return false
		}
	}
}

// pause waits before the next try and reports whether the log is being closed.
func (l *Log) pause(timer *time.Timer, d time.Duration) (stopping bool) {
	timer.Reset(d)
	select {
	case <-timer.C:
		return false
	case <-l.stop:
		return true
	}
}

// round appends one batch and returns how many entries it had.
func (l *Log) round(ctx context.Context) (int, error) {
	l.mu.Lock()
	batch := l.pending[:min(len(l.pending), l.cfg.BatchSize)]
	l.mu.Unlock()
	if len(batch) == 0 {
		return 0, nil
	}
	entries, err := l.integrate(ctx, batch)
	if err != nil {
		return 0, err
	}
	return len(batch), l.store(entries)
}

// integrate appends entries to the Merkle log.
func (l *Log) integrate(ctx context.Context, batch []*pending) ([]stored, error) {
	leaves := make([][]byte, len(batch))
	for i, p := range batch {
		leaves[i] = p.leaf[:]
	}
	indexes, err := l.tree.Add(ctx, leaves)
	if err != nil {
		return nil, err
	}
	out := make([]stored, len(batch))
	for i, p := range batch {
		out[i] = stored{p, indexes[i]}
	}
	return out, nil
}

// store notes entries that are in the Merkle log, which are the first that are
// pending, and forgets them.
func (l *Log) store(entries []stored) error {
	latest := map[uint64]int64{}
	for _, e := range entries {
		latest[e.pos.Segment] = max(latest[e.pos.Segment], e.finished)
	}
	for segment, t := range latest {
		before, err := l.index.number(key('s', segment))
		if err != nil {
			return err
		}
		latest[segment] = max(t, int64(before))
	}
	next := entries[len(entries)-1].pos.Seq + 1
	if err := l.index.put(entries, next, l.tree.Tree().Size(), latest); err != nil {
		return err
	}
	l.besides.note(entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		l.forget(e.pending)
		if e.slot {
			<-l.slots
		}
	}
	rest := l.pending[len(entries):]
	if len(rest) == 0 {
		rest = nil // lets the array go
	}
	l.pending = rest
	return nil
}

// forget removes an entry from the pending ones by exchange. l.mu is held.
func (l *Log) forget(p *pending) {
	rest := l.byID[p.exchange][:0]
	for _, q := range l.byID[p.exchange] {
		if q != p {
			rest = append(rest, q)
		}
	}
	if len(rest) == 0 {
		delete(l.byID, p.exchange)
		return
	}
	l.byID[p.exchange] = rest
}

// publish signs a checkpoint when the tree has grown and the last one is old
// enough, or at once when the log is being closed.
func (l *Log) publish(now bool) error {
	size := l.tree.Tree().Size()
	l.mu.Lock()
	due := size > l.checkpoint.Size && (now || l.cfg.Clock().Sub(l.signed) >= l.cfg.CheckpointInterval)
	l.mu.Unlock()
	if !due {
		return nil
	}
	cp, err := l.tree.Publish()
	l.mu.Lock()
	l.signError = err
	l.mu.Unlock()
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.checkpoint, l.signed = cp, l.cfg.Clock()
	l.notify()
	l.mu.Unlock()
	return l.collect()
}

// collect removes partial tiles that are no longer needed.
func (l *Log) collect() error {
	if !l.keep.TryLock() {
		return nil // a backup is being made; later
	}
	defer l.keep.Unlock()
	from, err := l.index.number(key('m', "gc"))
	if err != nil {
		return err
	}
	to, err := l.tree.Collect(from)
	if err != nil || to == from {
		return err
	}
	return l.index.set(key('m', "gc"), number(to))
}

// takeUp reads the entries that were acknowledged but not stored when the last
// process ended, and stores those that had become leaves.
func (l *Log) takeUp(ctx context.Context, next, leaves uint64) error {
	if next != leaves {
		return fmt.Errorf("the index counts %d entries and %d leaves, the rule is as many: restore it from a backup", next, leaves)
	}
	if err := l.wal.Scan(next, func(pos wal.Position, payload []byte) error {
		plain, err := unseal(l.keys, payload)
		if err != nil {
			return fmt.Errorf("entry %d: %w", pos.Seq, err)
		}
		p, err := newPending(plain)
		if err != nil {
			return fmt.Errorf("entry %d: %w", pos.Seq, err)
		}
		p.pos = pos
		l.pending = append(l.pending, p)
		l.byID[p.exchange] = append(l.byID[p.exchange], p)
		select {
		case l.slots <- struct{}{}:
			p.slot = true
		default: // the limit was greater before; only new entries wait for a slot
		}
		return nil
	}); err != nil {
		return err
	}
	return l.settle(ctx)
}

// settle finds which pending entries a batch that was cut off has already made
// leaves, by the leaves themselves, and completes that batch. Each entry
// becomes a leaf exactly once, whatever the crash was in the middle of.
func (l *Log) settle(ctx context.Context) error {
	// 1. What is in the tree beyond what is stored?
	_, size, err := l.index.state()
	if err != nil {
		return err
	}
	if err := l.tree.Refresh(); err != nil {
		return err
	}
	now := l.tree.Tree().Size()
	if now < size {
		return fmt.Errorf("the Merkle log has %d entries, but %d were stored: part of the directory comes from an older backup; restore all of it from one", now, size)
	}
	if now == size {
		return nil
	}
	l.mu.Lock()
	waiting := l.pending
	l.mu.Unlock()
	byLeaf := make(map[string]int, len(waiting))
	for i, p := range waiting {
		byLeaf[string(p.leaf[:])] = i
	}
	entries, last := make([]stored, len(waiting)), -1
	if err := l.tree.Tree().Leaves(size, now, func(index uint64, leaf []byte) error {
		i, ok := byLeaf[string(leaf)]
		if !ok {
			return fmt.Errorf("leaf %d of the Merkle log belongs to no entry of the write-ahead log: part of the directory comes from an older backup; restore all of it from one", index)
		}
		entries[i] = stored{waiting[i], index}
		last = max(last, i)
		return nil
	}); err != nil {
		return err
	}
	// 2. Complete the batch: what is missing among its entries.
	var missing []*pending
	for i := 0; i <= last; i++ {
		if entries[i].pending == nil {
			missing = append(missing, waiting[i])
		}
	}
	for len(missing) > 0 {
		n := min(len(missing), l.cfg.BatchSize)
		more, err := l.integrate(ctx, missing[:n])
		if err != nil {
			return err
		}
		for _, e := range more {
			entries[byLeaf[string(e.leaf[:])]] = e
		}
		missing = missing[n:]
	}
	// 3. Store it.
	if last < 0 {
		return errors.New("the Merkle log grew without leaves")
	}
	return l.store(entries[:last+1])
}
