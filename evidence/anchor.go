package evidence

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/syndtr/goleveldb/leveldb"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
)

// The default interval of anchors. All logs of a registry together make at most
// DefaultAnchorRate anchors a second, so that a ledger with thousands of logs keeps
// most of its capacity, and its disks, for other things.
const (
	DefaultAnchorInterval = 2 * time.Second  // up to 100 logs, or when nobody knows
	DefaultAnchorMost     = 10 * time.Minute // from 30,000 logs on
	DefaultAnchorRate     = 50
)

// DefaultAnchorIntervalOf is the default interval in a registry with so many
// anchored logs: 2 s up to 100 logs, then in proportion, at most 10 minutes.
func DefaultAnchorIntervalOf(logs int) time.Duration {
	return min(max(time.Duration(logs)*time.Second/DefaultAnchorRate, DefaultAnchorInterval), DefaultAnchorMost)
}

const anchorBackoffMost = 5 * time.Minute

// ErrRollback says that the registry has seen a state of this log that the
// directory does not have, or has differently: it was restored from an old
// backup, or another process writes under the same origin. Going on would fork
// the log.
var ErrRollback = errors.New("the registry has anchored a state of this evidence log that the directory does not have")

// Anchored is a checkpoint that the registry accepted.
type Anchored struct {
	Size   uint64
	Height uint64 // registry height of the anchor event; 0 when it is not known
	Note   []byte // the signed checkpoint
}

// Anchorer is the registry as the log sees it.
type Anchorer interface {
	// Anchor has the registry accept checkpoint, a note with one signature, with the consistency proof from
	// oldSize, and returns the height at which it did.
	Anchor(ctx context.Context, checkpoint []byte, oldSize uint64, proof [][]byte) (height uint64, err error)
	// Anchored returns the last anchored state of the log with this origin.
	Anchored(origin string) (size uint64, root [32]byte, ok bool)
}

// HeightAnchorer is an Anchorer that also knows at which height the last
// anchored state was accepted. With it, the height of an anchor is known even
// when the process died between the registry's acceptance and its own note of it.
type HeightAnchorer interface {
	Anchorer
	AnchoredHeight(origin string) (height uint64, ok bool)
}

// CountingAnchorer is an Anchorer that knows how many logs the registry has
// anchored, which the default interval follows.
type CountingAnchorer interface {
	Anchorer
	AnchoredLogs() int
}

// anchorState is what operators see of anchoring.
type anchorState struct {
	size     uint64
	height   uint64
	err      error
	retry    time.Time
	interval time.Duration
}

// loadAnchors reads the last anchor.
func (l *Log) loadAnchors() error {
	last, ok, err := l.index.lastAnchor()
	if err != nil || !ok {
		return err
	}
	l.anchor.size, l.anchor.height = last.Size, last.Height
	return nil
}

// RunAnchors anchors the newest checkpoint every interval (0: the default, see
// CountingAnchorer) while the log grows, until ctx ends or the log is closed. When the registry refuses
// or cannot be reached, it tries again after growing pauses and Status says why.
// When the registry has seen what this log does not have, it stops the log and
// returns ErrRollback.
func (l *Log) RunAnchors(ctx context.Context, interval time.Duration, anchorer Anchorer) error {
	every := func() time.Duration {
		if interval > 0 {
			return interval
		}
		if c, ok := anchorer.(CountingAnchorer); ok {
			return DefaultAnchorIntervalOf(c.AnchoredLogs())
		}
		return DefaultAnchorInterval
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errClosed
	}
	l.done.Add(1) // Close waits for the anchor under way, which stop cancels
	l.mu.Unlock()
	defer l.done.Done()
	go func() {
		select {
		case <-l.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait := every()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		now := every() // others may have begun logs
		l.mu.Lock()
		l.anchor.interval = now
		l.mu.Unlock()
		err := l.anchorOnce(ctx, anchorer)
		switch {
		case errors.Is(err, ErrRollback):
			l.fail(ctx, err)
			return err
		case ctx.Err() != nil:
			return nil
		case err != nil:
			l.cfg.Logger.WarnContext(ctx, "evidence: the checkpoint could not be anchored", "error", err, "retry", wait)
		default:
			wait = now
		}
		l.mu.Lock()
		l.anchor.err, l.anchor.retry = err, time.Time{}
		if err != nil {
			l.anchor.retry = l.cfg.Clock().Add(wait)
		}
		l.mu.Unlock()
		timer.Reset(wait)
		if err != nil {
			wait = min(2*wait, max(anchorBackoffMost, now))
		}
	}
}

// anchorOnce anchors the newest checkpoint if it is newer than the registry's.
func (l *Log) anchorOnce(ctx context.Context, anchorer Anchorer) error {
	// 1. What has the registry seen? It knows, also when this process has died
	// since or the index is old.
	oldSize, oldRoot, known := anchorer.Anchored(l.cfg.Origin)
	if !known {
		oldSize = 0
	}
	if known {
		if err := l.compareAnchor(oldSize, oldRoot); err != nil {
			return err
		}
		if err := l.adoptAnchor(anchorer, oldSize, oldRoot); err != nil {
			return err
		}
	}
	// 2. Anything new?
	l.mu.Lock()
	cp := l.checkpoint
	l.mu.Unlock()
	if cp.Size <= oldSize {
		return nil
	}
	// 3. Anchor it.
	proof, err := l.Consistency(oldSize, cp.Size)
	if err != nil {
		return fmt.Errorf("anchor checkpoint: %w", err)
	}
	height, err := anchorer.Anchor(ctx, tiles.First(cp.Note), oldSize, proof)
	if err != nil {
		return fmt.Errorf("anchor checkpoint of size %d (from %d): %w", cp.Size, oldSize, err)
	}
	// 4. Keep it for receipts.
	return l.noteAnchor(Anchored{Size: cp.Size, Height: height, Note: cp.Note})
}

// compareAnchor checks that the log has what the registry has seen.
func (l *Log) compareAnchor(size uint64, root [32]byte) error {
	const advice = "restore the newest backup, or begin a new log with the next number and have the registry revoke this log's key"
	if have := l.tree.Tree().Size(); size > have {
		return fmt.Errorf("%w: %s was anchored with %d entries and has %d: %s", ErrRollback, l.cfg.Origin, size, have, advice)
	}
	own, err := l.tree.Tree().Root(size)
	if err != nil {
		return fmt.Errorf("compare with the anchored state: %w", err)
	}
	if own != root {
		return fmt.Errorf("%w: %s was anchored at size %d with root %x and has %x: %s", ErrRollback, l.cfg.Origin, size, root, own, advice)
	}
	return nil
}

// adoptAnchor notes an anchor that the registry accepted without this index
// having noted it: the process died in between.
func (l *Log) adoptAnchor(anchorer Anchorer, size uint64, root [32]byte) error {
	if size == 0 {
		return nil
	}
	noted, err := l.index.get(key('a', size))
	if err != nil || noted != nil {
		return err
	}
	note, err := l.tree.Sign(size, root)
	if err != nil {
		return fmt.Errorf("sign the anchored checkpoint again: %w", err)
	}
	a := Anchored{Size: size, Note: note}
	if h, ok := anchorer.(HeightAnchorer); ok {
		a.Height, _ = h.AnchoredHeight(l.cfg.Origin)
	}
	return l.noteAnchor(a)
}

// noteAnchor keeps an anchored checkpoint.
func (l *Log) noteAnchor(a Anchored) error {
	if err := l.index.set(key('a', a.Size), append(number(a.Height), a.Note...)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.Size >= l.anchor.size {
		l.anchor.size, l.anchor.height = a.Size, a.Height
	}
	l.notify()
	return nil
}

// AnchoredFor returns the first anchored checkpoint that covers the leaf at
// index and whose height is known; ok is false when there is none yet.
func (l *Log) AnchoredFor(index uint64) (a Anchored, ok bool, err error) {
	err = l.index.eachAnchor(index+1, func(found Anchored) bool {
		if found.Height == 0 {
			return true
		}
		a, ok = found, true
		return false
	})
	return a, ok, err
}

// eachAnchor goes through the anchors from a size on until fn returns false.
func (x *index) eachAnchor(from uint64, fn func(Anchored) bool) error {
	return x.each([]byte{'a'}, key('a', from), func(k, v []byte) (bool, error) {
		a, err := decodeAnchor(k, v)
		if err != nil {
			return false, err
		}
		return fn(a), nil
	})
}

func decodeAnchor(k, v []byte) (Anchored, error) {
	if len(k) != 9 || len(v) < 8 {
		return Anchored{}, fmt.Errorf("evidence index: the anchor %x is not readable", k)
	}
	return Anchored{
		Size:   binary.BigEndian.Uint64(k[1:]),
		Height: binary.BigEndian.Uint64(v),
		Note:   append([]byte(nil), v[8:]...),
	}, nil
}

// lastAnchor returns the greatest anchor.
func (x *index) lastAnchor() (a Anchored, ok bool, err error) {
	err = x.last([]byte{'a'}, func(k, v []byte) error {
		a, err = decodeAnchor(k, v)
		ok = err == nil
		return err
	})
	return a, ok, err
}

// Undelivered lists at most limit entries, from leaf index from on, that are
// anchored and whose receipt the counterparty has not yet been sent. The list is
// durable: an entry stays on it until Delivered is told.
func (l *Log) Undelivered(from uint64, limit int) ([]Delivery, error) {
	l.mu.Lock()
	anchored := l.anchor.size
	l.mu.Unlock()
	var out []Delivery
	err := l.index.each([]byte{'d'}, key('d', from), func(k, v []byte) (bool, error) {
		if len(k) != 9 || len(v) < 2 {
			return false, fmt.Errorf("evidence index: the delivery %x is not readable", k)
		}
		d := Delivery{Index: binary.BigEndian.Uint64(k[1:]), Side: evidencepb.Side(v[0]), ExchangeID: string(v[1:])}
		if d.Index >= anchored || len(out) >= limit {
			return false, nil
		}
		out = append(out, d)
		return true, nil
	})
	return out, err
}

// Delivered notes durably that the receipts of these leaf indexes have arrived,
// or need not be delivered.
func (l *Log) Delivered(indexes ...uint64) error {
	b := new(leveldb.Batch)
	for _, i := range indexes {
		b.Delete(key('d', i))
	}
	return l.index.write(b)
}
