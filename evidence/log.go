package evidence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/archive"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/internal/shred"
)

// The parts of a log's directory.
const (
	walDir     = "wal"    // write-ahead log and record store
	treeDir    = "tree"   // Merkle log, C2SP tlog-tiles
	indexDir   = "index"  // where everything is
	archiveDir = "bodies" // archived bodies
	lockFile   = "lock"
	keysFile   = "erasure.keys" // what all of that but the tree is sealed with
)

// The layout of a log's directory, which its file SCHEMA names. From 2 on entries are
// sealed with keys of their own.
const (
	schemaName   = "civibus-evidence"
	schemaKnown  = 2
	schemaSealed = 2
)

// Log is an open evidence log. Its methods may be called concurrently.
type Log struct {
	cfg     Config
	lock    *os.File
	wal     *wal.Log
	tree    *tiles.Writer
	index   *index
	archive *archive.Archive
	keys    *shred.Keys

	besides besides

	slots   chan struct{} // one for every entry that waits for the Merkle log
	wake    chan struct{} // tells the follower that there is something to do
	stop    chan struct{} // closed by Close
	keep    sync.Mutex    // held while a backup copies what must not be deleted meanwhile, and by who deletes
	abandon atomic.Bool   // Close waits no longer than for the batch under way
	done    sync.WaitGroup

	mu          sync.Mutex // guards what follows
	pending     []*pending // acknowledged, not yet stored; in order
	byID        map[string][]*pending
	checkpoint  tiles.Checkpoint
	signed      time.Time
	changed     chan struct{}
	closed      bool
	signError   error // why the last checkpoint could not be signed
	failed      error // why the log has stopped for good, until it is reopened
	trouble     error // why it has stopped for now
	free        uint64
	freeAt      time.Time
	probeAt     time.Time
	anchor      anchorState
	segment     uint64 // the active segment, and since when
	segmentSeen time.Time
}

// Open opens or makes the log in cfg.Dir and takes up what a crash left.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg = cfg.defaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Log{
		cfg:     cfg,
		slots:   make(chan struct{}, cfg.MaxPending),
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		byID:    map[string][]*pending{},
		changed: make(chan struct{}),
	}
	if err := l.open(ctx); err != nil {
		l.release()
		return nil, err
	}
	l.done.Go(l.follow)
	l.done.Go(l.retain)
	return l, nil
}

// open opens the parts in the order in which they vouch for each other.
func (l *Log) open(ctx context.Context) error {
	dir := l.cfg.Dir
	// 1. One process at a time.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	var err error
	if l.lock, err = lockDir(dir, os.O_RDWR|os.O_CREATE); err != nil {
		return err
	}
	version, err := schema.Check(dir, schemaName, schemaKnown)
	if err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	if l.keys, err = shred.Open(l.cfg.ErasureKeys, version < schemaSealed); err == nil && version < schemaSealed {
		err = schema.Mark(dir, schemaName, schemaSealed)
	}
	if err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	// 2. The index knows what was acknowledged and stored.
	fresh, err := isFresh(dir)
	if err != nil {
		return err
	}
	if l.index, err = openIndex(filepath.Join(dir, indexDir), false); err != nil {
		return err
	}
	if err := l.checkOwner(fresh); err != nil {
		return err
	}
	next, leaves, err := l.index.state()
	if err != nil {
		return err
	}
	// 3. The write-ahead log must have all of that.
	l.wal, err = wal.Open(wal.Options{Dir: filepath.Join(dir, walDir), SegmentBytes: l.cfg.SegmentBytes, OpenFile: l.cfg.OpenFile, Durable: next, Committed: l.committed})
	if err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	if cut := l.wal.Recovery(); cut != "" {
		l.cfg.Logger.WarnContext(ctx, "evidence: cut a write that was never acknowledged", "where", cut)
	}
	// 4. So must the Merkle log.
	if l.tree, err = tiles.OpenWriter(ctx, filepath.Join(dir, treeDir), l.cfg.Origin, l.cfg.Signer, l.second(), l.cfg.BatchSize); err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	l.checkpoint, l.signed = l.tree.Last(), l.cfg.Clock()
	// 5. What was acknowledged but not stored is taken up again.
	if err := l.takeUp(ctx, next, leaves); err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	if l.cfg.Archive == ArchiveEncrypted {
		if l.archive, err = archive.Open(filepath.Join(dir, archiveDir), l.cfg.ArchiveKey, l.keys); err != nil {
			return err
		}
		if err := l.archive.RemoveUnfinished(); err != nil {
			return err
		}
	}
	// 6. So is an erasure that was begun.
	if err := l.eraseAgain(ctx); err != nil {
		return fmt.Errorf("open evidence log: %w", err)
	}
	return l.loadAnchors()
}

// second tells the Merkle log with which key it signs besides, and the time.
func (l *Log) second() tiles.Second {
	if l.cfg.Second == nil {
		return nil
	}
	return func() (civibus.Signer, time.Time) { return l.cfg.Second(), l.cfg.Clock() }
}

// isFresh reports whether dir holds no log yet. A directory from which only the
// index is gone is not fresh.
func isFresh(dir string) (bool, error) {
	for _, part := range []string{walDir, treeDir, indexDir} {
		if _, err := os.Stat(filepath.Join(dir, part)); err == nil {
			return false, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("open evidence log: %w", err)
		}
	}
	return true, nil
}

// checkOwner binds a new directory to its origin and compares an old one.
func (l *Log) checkOwner(fresh bool) error {
	origin, err := l.index.get(key('m', "origin"))
	if err != nil {
		return err
	}
	if origin == nil {
		if segments, err := wal.List(filepath.Join(l.cfg.Dir, walDir)); !fresh && err == nil && len(segments) > 0 {
			return fmt.Errorf("open evidence log: %s has entries, but its index knows nothing of them: restore %s from a backup taken with the rest of the directory", l.cfg.Dir, indexDir)
		}
		return l.index.set(key('m', "origin"), []byte(l.cfg.Origin))
	}
	if string(origin) != l.cfg.Origin {
		return fmt.Errorf("open evidence log: %s belongs to %s, not to %s: use another directory for another log", l.cfg.Dir, origin, l.cfg.Origin)
	}
	return nil
}

// lockDir takes the directory for this process. The flags open the lock file:
// who only reads needs no right to write.
func lockDir(dir string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock evidence log: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the evidence log %s is in use by another process: stop it first (%w)", dir, err)
	}
	return f, nil
}

// Close takes no more records, appends what is pending to the Merkle log, signs
// the last checkpoint and releases the directory. When ctx ends first, what is
// pending stays in the write-ahead log for the next Open.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	// 1. Let the writes under way finish; none begins any more.
	walErr := l.wal.Close()
	// 2. Let the follower bring everything into the Merkle log.
	close(l.stop)
	abandon := context.AfterFunc(ctx, func() { l.abandon.Store(true) })
	l.done.Wait()
	abandon()
	// 3. Release.
	l.mu.Lock()
	left, failed := len(l.pending), l.failed
	l.mu.Unlock()
	var leftErr error
	if left > 0 {
		leftErr = fmt.Errorf("close evidence log: %d entries stay in the write-ahead log for the next start: %w", left, errors.Join(context.Cause(ctx), failed))
	}
	return errors.Join(walErr, leftErr, l.release())
}

// release closes what is open.
func (l *Log) release() error {
	var errs []error
	if l.tree != nil {
		l.tree.Close()
	}
	if l.wal != nil {
		errs = append(errs, l.wal.Close())
	}
	if l.index != nil {
		errs = append(errs, l.index.close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

// fail stops the log until it is reopened.
func (l *Log) fail(ctx context.Context, err error) {
	l.mu.Lock()
	first := l.failed == nil
	if first {
		l.failed = err
	}
	l.mu.Unlock()
	if first {
		l.cfg.Logger.ErrorContext(ctx, "evidence: stopped; no exchange is accepted", "error", err)
	}
}

// Changed returns a channel that is closed at the next new checkpoint or anchor.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// notify wakes who waits on Changed. l.mu is held.
func (l *Log) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// checkOrigin checks the form civibus/<I>/<C>/<M>/evidence/<n>.
func checkOrigin(origin string) error {
	parts := strings.Split(origin, "/")
	ok := len(parts) == 6 && parts[0] == "civibus" && parts[4] == "evidence" && !strings.ContainsAny(origin, "+ \t\r\n")
	for _, p := range parts {
		ok = ok && p != ""
	}
	if ok {
		n := parts[5]
		ok = n[0] != '0' && strings.Trim(n, "0123456789") == ""
	}
	if !ok {
		return fmt.Errorf("evidence origin %q: the rule is civibus/<instance>/<class>/<member>/evidence/<number from 1>, parts percent-encoded, no + or space", origin)
	}
	return nil
}
