package evidence

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/wal"
)

// ArchivePolicy says what is kept of message bodies.
type ArchivePolicy string

// The archive policies.
const (
	// ArchiveNone keeps nothing of a body but its size.
	ArchiveNone ArchivePolicy = "none"
	// ArchiveDigest keeps size and SHA-256. It is the default.
	ArchiveDigest ArchivePolicy = "digest"
	// ArchiveEncrypted also keeps the body itself, encrypted.
	ArchiveEncrypted ArchivePolicy = "encrypted"
)

// Config says where and how a body keeps its evidence. Zero values of optional
// fields mean the default.
type Config struct {
	// Dir holds everything: write-ahead log, Merkle log, index and archive. One
	// process at a time may have it open. Required; a local file system.
	Dir string
	// Origin is the checkpoint origin, civibus/<I>/<C>/<M>/evidence/<n>. Required;
	// a directory belongs to one origin for ever.
	Origin string
	// Signer is the body's log key. Required; Ed25519. A civibus.RotatingSigner
	// changes keys without a restart: each checkpoint is signed with the key in
	// force at the time.
	Signer civibus.Signer
	// Second returns the ML-DSA-44 log key that signs each checkpoint besides, as
	// long as it returns one: a key that comes into force is used from the next
	// checkpoint on. Default: there is none.
	Second func() civibus.Signer
	// Clock tells the time; default time.Now.
	Clock civibus.Clock
	// Logger takes what operators should know; default: discarded.
	Logger *slog.Logger

	// BatchAge is how long entries wait before they are appended to the Merkle
	// log; default 1 s. Shorter costs disk writes, longer delays receipts.
	BatchAge time.Duration
	// BatchSize is the most entries of one batch; default 4096.
	BatchSize int
	// CheckpointInterval is the least time between two checkpoints; default 1 s.
	CheckpointInterval time.Duration
	// MaxPending is how many acknowledged entries may wait for the Merkle log
	// before Append waits (Admit refuses at three quarters); default 65536. An
	// entry costs about 300 bytes of memory while it waits.
	MaxPending int
	// SegmentBytes is the size at which a new write-ahead log segment begins;
	// default 32 MiB.
	SegmentBytes int64
	// SegmentAge is the age at which a new segment begins, so that retention can
	// delete whole segments; default 24 h.
	SegmentAge time.Duration
	// ReserveBytes is the free disk space below which no exchange is admitted, so
	// that those under way can still be evidenced; default 256 MiB.
	ReserveBytes uint64

	// Archive is the policy for bodies; default ArchiveDigest.
	Archive ArchivePolicy
	// ArchiveKey is the file with the key that wraps every body's own key. It is
	// made (0600) when missing. Secret. Default: archive.key in Dir; better on
	// other storage than the archive.
	ArchiveKey string
	// ErasureKeys is the file with the keys that records, the other bodies' halves and
	// archived bodies are sealed with, each with one of its own that can be destroyed
	// (see internal/shred). It is made (0600) with the log. Secret; in no backup: it is
	// copied for itself. Default: erasure.keys in Dir.
	ErasureKeys string
	// BodyRetention is how long archived bodies are kept; 0: for ever.
	BodyRetention time.Duration
	// RecordRetention is how long records and salts are kept; 0: for ever. It may
	// not be shorter than BodyRetention. The Merkle log keeps its leaves.
	RecordRetention time.Duration

	// Statfs tells the free bytes of the file system that holds a directory;
	// default the operating system's answer.
	Statfs func(dir string) (free uint64, err error)
	// OpenFile opens write-ahead log files; default the operating system's.
	OpenFile wal.OpenFunc
}

// defaults fills in the zero fields of c.
func (c Config) defaults() Config {
	c.BatchAge = cmp.Or(c.BatchAge, time.Second)
	c.BatchSize = cmp.Or(c.BatchSize, 4096)
	c.CheckpointInterval = cmp.Or(c.CheckpointInterval, time.Second)
	c.MaxPending = cmp.Or(c.MaxPending, 65536)
	c.SegmentBytes = cmp.Or(c.SegmentBytes, 32<<20)
	c.SegmentAge = cmp.Or(c.SegmentAge, 24*time.Hour)
	c.ReserveBytes = cmp.Or(c.ReserveBytes, 256<<20)
	c.Archive = cmp.Or(c.Archive, ArchiveDigest)
	c.ArchiveKey = cmp.Or(c.ArchiveKey, filepath.Join(c.Dir, "archive.key"))
	c.ErasureKeys = cmp.Or(c.ErasureKeys, filepath.Join(c.Dir, keysFile))
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Statfs == nil {
		c.Statfs = statfs
	}
	return c
}

// Validate reports every problem of c at once.
func (c Config) Validate() error {
	c = c.defaults()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("evidence config: "+format, args...)) }
	if c.Dir == "" {
		bad("dir is empty: name the directory that holds the evidence")
	}
	if err := checkOrigin(c.Origin); err != nil {
		errs = append(errs, err)
	}
	if c.Signer == nil {
		bad("there is no log key: register one with purpose log")
	} else if a := c.Signer.Key().Algorithm; a != civibus.Ed25519 {
		bad("the log key is %s, the rule is ed25519", a)
	}
	switch c.Archive {
	case ArchiveNone, ArchiveDigest, ArchiveEncrypted:
	default:
		bad("archive policy %q: the rule is none, digest or encrypted", c.Archive)
	}
	if c.BatchAge < time.Millisecond || c.BatchAge > 10*time.Second {
		bad("batch age %s: the rule is 1 ms to 10 s", c.BatchAge)
	}
	if c.BatchSize < 1 || c.BatchSize > 16384 {
		bad("batch size %d: the rule is 1 to 16384", c.BatchSize)
	}
	if c.MaxPending < 2*c.BatchSize {
		bad("max pending %d: the rule is at least twice the batch size (%d)", c.MaxPending, c.BatchSize)
	}
	if c.BodyRetention < 0 || c.RecordRetention < 0 {
		bad("a retention is negative: use 0 to keep for ever")
	}
	if c.RecordRetention > 0 && (c.BodyRetention == 0 || c.BodyRetention > c.RecordRetention) && c.Archive == ArchiveEncrypted {
		bad("records would be deleted (after %s) before the bodies they describe (%s): keep records at least as long", c.RecordRetention, c.BodyRetention)
	}
	return errors.Join(errs...)
}

// statfs asks the operating system for the free bytes available to everybody.
func statfs(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return s.Bavail * uint64(s.Bsize), nil
}
