package evidence

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/civibus/civibus/evidence/evidencepb"
)

// Entry is one record that the log keeps.
type Entry struct {
	Seq        uint64 // position in the write-ahead log
	Record     []byte // evidencepb.Record, verbatim
	Salt       [16]byte
	Integrated bool   // whether the entry is in the Merkle log
	Index      uint64 // its leaf index, when Integrated
}

// Leaf returns the entry's leaf in the Merkle log: 0x01 || SHA-256(salt || record).
func (e Entry) Leaf() []byte { return Leaf(e.Salt, e.Record) }

// Leaf returns the leaf that commits to a record and its salt.
func Leaf(salt [16]byte, record []byte) []byte { panic("unwritten") }

// Anchored is a checkpoint that the registry accepted.
type Anchored struct {
	Size   uint64
	Height uint64 // registry height of the anchor event; 0 when it is not known
	Note   []byte // the signed checkpoint
}

// Anchorer is the registry as the log sees it.
type Anchorer interface {
	// Anchor has the registry accept checkpoint, with the consistency proof from
	// oldSize, and returns the height at which it did.
	Anchor(ctx context.Context, checkpoint []byte, oldSize uint64, proof [][]byte) (height uint64, err error)
	// Anchored returns the last anchored state of the log with this origin.
	Anchored(origin string) (size uint64, root [32]byte, ok bool)
}

// HeightAnchorer is an Anchorer that also knows at which height the last
// anchored state was accepted; with it no anchor is lost when the process dies
// between the registry's acceptance and the log's own note of it.
type HeightAnchorer interface {
	Anchorer
	AnchoredHeight(origin string) (height uint64, ok bool)
}

// Delivery is an exchange whose own half of the receipt the counterparty has
// not yet been sent.
type Delivery struct {
	Index      uint64
	ExchangeID string
	Side       evidencepb.Side
}

// Status is the state of a log for operators.
type Status struct {
	Origin         string
	Next           uint64    // sequence number of the next entry
	Pending        int       // acknowledged entries that are not yet in the Merkle log
	Size           uint64    // entries in the Merkle log
	CheckpointSize uint64    // entries under the last checkpoint
	CheckpointTime time.Time // when it was signed
	FreeBytes      uint64
	AnchoredSize   uint64
	AnchoredHeight uint64
	AnchorError    string    // why the last attempt to anchor failed; empty when it did not
	AnchorRetry    time.Time // when it is tried again
	Undelivered    int       // receipts that counterparties still have to be sent, as far as known
	Problems       []string  // why no exchange is admitted, if so
}

var errTodo = errors.New("evidence: not yet")

// Log is an open evidence log.
type Log struct{}

// Open opens or makes the log in cfg.Dir.
func Open(ctx context.Context, cfg Config) (*Log, error) { return nil, errTodo }

// Close appends what is pending to the Merkle log, publishes the last checkpoint and releases the directory.
func (l *Log) Close(ctx context.Context) error { return nil }

// Admit reports whether an exchange can be evidenced; the error is a *civibus.Fault.
func (l *Log) Admit() error { return nil }

// Append makes record durable.
func (l *Log) Append(ctx context.Context, record *evidencepb.Record) error { return errTodo }

// NewBody begins a body in the archive.
func (l *Log) NewBody(ctx context.Context, exchangeID string, side evidencepb.Side) (*Body, error) {
	return nil, errTodo
}

// Body takes one message body as it passes: an io.Writer, then Commit or Abort.
type Body struct{}

// Write adds p to the body.
func (b *Body) Write(p []byte) (int, error) { return 0, errTodo }

// Commit makes the body durable and returns its description for the record.
func (b *Body) Commit() (*evidencepb.Body, error) { return nil, errTodo }

// Abort drops the body; it does nothing after Commit.
func (b *Body) Abort() {}

// Find returns every entry of an exchange, at most one per side in the normal case.
func (l *Log) Find(exchangeID string) ([]Entry, error) { return nil, errTodo }

// Entry returns the entry at a leaf index.
func (l *Log) Entry(index uint64) (Entry, error) { return Entry{}, errTodo }

// Entries goes through the integrated entries from..to (to excluded).
func (l *Log) Entries(ctx context.Context, from, to uint64) iter.Seq2[Entry, error] {
	return func(func(Entry, error) bool) {}
}

// Checkpoint returns the last checkpoint.
func (l *Log) Checkpoint() (note []byte, size uint64, root [32]byte) { return nil, 0, root }

// Inclusion proves the leaf at index in the tree of size.
func (l *Log) Inclusion(index, size uint64) ([][]byte, error) { return nil, errTodo }

// Consistency proves that the tree of size newSize extends that of oldSize.
func (l *Log) Consistency(oldSize, newSize uint64) ([][]byte, error) { return nil, errTodo }

// TLogProof returns the C2SP tlog-proof text of the leaf at index in an anchored checkpoint.
func (l *Log) TLogProof(index uint64, in Anchored) ([]byte, error) { return nil, errTodo }

// RunAnchors anchors the newest checkpoint every interval while the log grows, until ctx ends.
func (l *Log) RunAnchors(ctx context.Context, interval time.Duration, anchorer Anchorer) error {
	return errTodo
}

// AnchoredFor returns the first anchored checkpoint that covers the leaf at index.
func (l *Log) AnchoredFor(index uint64) (Anchored, bool, error) { return Anchored{}, false, errTodo }

// PutCounterpart keeps the counterparty's half of an exchange's receipt.
func (l *Log) PutCounterpart(exchangeID string, receipt []byte) error { return errTodo }

// Counterpart returns it; nil when there is none.
func (l *Log) Counterpart(exchangeID string) ([]byte, error) { return nil, errTodo }

// Undelivered lists, from leaf index `after` on, anchored entries whose receipt the counterparty has not been sent.
func (l *Log) Undelivered(after uint64, limit int) ([]Delivery, error) { return nil, errTodo }

// Delivered notes durably that the receipts of these leaf indexes were delivered (or need not be).
func (l *Log) Delivered(indexes ...uint64) error { return errTodo }

// Status describes the log for operators.
func (l *Log) Status() Status { return Status{} }

// Changed returns a channel that is closed at the next new checkpoint or anchor.
func (l *Log) Changed() <-chan struct{} { return nil }

// FsckOptions says how thoroughly and with which keys Fsck works.
type FsckOptions struct {
	// PublicKey is the log key's SubjectPublicKeyInfo; without it signatures are not checked.
	PublicKey []byte
	// ArchiveKey is the file with the archive key; default as in Config.
	ArchiveKey string
	// SkipArchive leaves the archived bodies unread.
	SkipArchive bool
	// Progress, when set, is told what is being checked.
	Progress func(step string, done, total uint64)
}

// Problem is one finding of Fsck.
type Problem struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // -1 when the file as a whole is meant
	What   string `json:"what"`
	Fix    string `json:"fix"`
}

// Report is the outcome of Fsck.
type Report struct {
	Origin      string    `json:"origin"`
	Size        uint64    `json:"size"`        // leaves in the Merkle log
	Records     uint64    `json:"records"`     // records checked against their leaves
	Expired     uint64    `json:"expired"`     // leaves whose record is beyond its retention
	Pending     uint64    `json:"pending"`     // records not yet in the Merkle log
	Bodies      uint64    `json:"bodies"`      // archived bodies decrypted and compared
	Checkpoints uint64    `json:"checkpoints"` // checkpoints compared with the rebuilt tree
	Notes       []string  `json:"notes"`       // what is unusual but not wrong
	Problems    []Problem `json:"problems"`
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// Fsck checks the closed log in dir against itself and changes nothing.
func Fsck(ctx context.Context, dir string, opts FsckOptions) (*Report, error) { return nil, errTodo }

// OpenReader opens the log in dir for reading only, while no process has it open.
func OpenReader(dir string) (*Reader, error) { return nil, errTodo }

// Reader reads a closed log.
type Reader struct{}

// Close releases the directory.
func (r *Reader) Close() error { return nil }

// Find returns every entry of an exchange.
func (r *Reader) Find(exchangeID string) ([]Entry, error) { return nil, errTodo }

// Size returns how many entries the Merkle log has.
func (r *Reader) Size() uint64 { return 0 }

// Entries goes through the integrated entries from..to (to excluded).
func (r *Reader) Entries(ctx context.Context, from, to uint64) iter.Seq2[Entry, error] {
	return func(func(Entry, error) bool) {}
}

// Checkpoint returns the last checkpoint.
func (r *Reader) Checkpoint() (note []byte, size uint64, root [32]byte) { return nil, 0, root }

func checkOrigin(string) error { return nil }
