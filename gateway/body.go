package gateway

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/seal"
)

// stallTimeout bounds how long a client system may make no progress while its
// body is read, or while a service still reads a body after it has answered.
const stallTimeout = 30 * time.Second

// copyBuffers are what streaming bodies are copied through.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readBody reads a body of a known (or, with -1, unknown) length into memory
// if it has at most limit bytes. Otherwise it returns a reader of all of it.
func readBody(r io.Reader, length, limit int64) (whole []byte, stream io.Reader, err error) {
	switch {
	case r == nil || r == http.NoBody || length == 0:
		return nil, nil, nil
	case length > limit:
		return nil, r, nil
	case length > 0:
		room := make([]byte, length+1) // a byte more, to see the end
		whole = room[:length:length]
		if _, err = io.ReadFull(r, whole); err == nil {
			err = ended(r, room[length:])
		}
		return whole, nil, err
	}
	var b bytes.Buffer
	n, err := io.CopyN(&b, r, limit+1)
	switch {
	case n > limit && err == nil:
		return nil, io.MultiReader(&b, r), nil
	case errors.Is(err, io.EOF):
		return b.Bytes(), nil, nil
	}
	return nil, nil, err
}

// ended makes sure that a body of the announced length is at its end.
func ended(r io.Reader, room []byte) error {
	switch n, err := r.Read(room); {
	case n > 0:
		return errors.New("the body is longer than announced")
	case err == nil || errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// meter sees a body as it passes: for the request hash and the archive.
type meter struct {
	src  io.Reader
	sum  hash.Hash // SHA-512; nil: not wanted
	keep *keeper
	size int64
}

// Read passes the body on.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.src.Read(p)
	if n > 0 {
		m.size += int64(n)
		if m.sum != nil {
			m.sum.Write(p[:n])
		}
		_, _ = m.keep.Write(p[:n]) // the error stays in the keeper
	}
	return n, err
}

// digest returns the SHA-512 of what passed, nil if that was nothing.
func (m *meter) digest() *[sha512.Size]byte {
	if m.size == 0 {
		return nil
	}
	return (*[sha512.Size]byte)(m.sum.Sum(nil))
}

// digest512 is the same for a body at hand.
func digest512(body []byte) *[sha512.Size]byte {
	if len(body) == 0 {
		return nil
	}
	sum := sha512.Sum512(body)
	return &sum
}

// patientReader reads a client system's body as long as it makes progress.
type patientReader struct {
	src io.Reader
	rc  http.ResponseController
	err error // sticky, io.EOF included
}

// Read reads within the stall timeout. No deadline is left once the body has
// ended.
func (p *patientReader) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	_ = p.rc.SetReadDeadline(time.Now().Add(stallTimeout)) // not every writer has one: then the server's limits hold
	n, err := p.src.Read(b)
	_ = p.rc.SetReadDeadline(time.Time{})
	p.err = err
	return n, err
}

// feed is a streamed request body on its way to the service. The gateway can
// take it back, to read the rest itself.
type feed struct {
	mu     sync.Mutex
	src    io.Reader
	taken  bool
	passed int64
	err    error       // sticky, io.EOF included
	left   atomic.Bool // the service's connection reads no more
}

// NoLongerRead is how package service tells that it reads no more.
func (f *feed) NoLongerRead() { f.left.Store(true) }

var errTaken = errors.New("the gateway reads the rest of the body")

// Read passes the body on until it is taken back.
func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken && f.err == nil {
		return 0, errTaken
	}
	return f.read(p)
}

func (f *feed) read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.src.Read(p)
	f.passed += int64(n)
	f.err = err
	return n, err
}

// progress returns how much has passed and whether that was all.
func (f *feed) progress() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.passed, f.err
}

// finish makes sure that the request has come to its end after the service has
// answered: while the service reads on, it may; otherwise the gateway reads the
// rest, because only a request's end tells whether its seal holds.
func (f *feed) finish(ctx context.Context, patience time.Duration) error {
	before, err := f.progress()
	step := time.Millisecond
	for waited := time.Duration(0); err == nil && waited < patience && !f.left.Load(); waited += step {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(step):
		}
		step = min(2*step, 50*time.Millisecond)
		var now int64
		if now, err = f.progress(); now != before {
			before, waited = now, 0
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = true
	buffer := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buffer)
	for f.err == nil {
		_, _ = f.read(buffer[:]) // the error is sticky
	}
	if errors.Is(f.err, io.EOF) {
		return nil
	}
	return f.err
}

// withholding copies src to dst but for the last piece: once src has ended
// well, release decides whether it may go out too. A failure means that dst is
// incomplete.
func withholding(dst io.Writer, src io.Reader, flush func(), release func() error) (int64, error) {
	read, held := copyBuffers.Get().(*[32 << 10]byte), copyBuffers.Get().(*[32 << 10]byte)
	defer func() { copyBuffers.Put(read); copyBuffers.Put(held) }()
	var total int64
	n := 0 // in held
	write := func() error {
		m, err := dst.Write(held[:n])
		total += int64(m)
		n = 0
		return err
	}
	for {
		m, err := src.Read(read[:])
		if m > 0 {
			if n > 0 {
				if err := write(); err != nil {
					return total, err
				}
				flush()
			}
			read, held, n = held, read, m
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return total, err
		default:
			if err := release(); err != nil {
				return total, err
			}
			return total, write()
		}
	}
}

// keeper takes one body as it passes, for the archive and the record.
type keeper struct {
	mu      sync.Mutex
	archive *evidence.Body
	err     error
	ended   bool
}

// keep opens a keeper; without an archive it keeps nothing itself.
func (x *exchange) keep(ctx context.Context) *keeper {
	k := &keeper{}
	if x.g.config.Archive == evidence.ArchiveEncrypted {
		k.archive, k.err = x.g.config.Evidence.NewBody(ctx, x.call.requestID, x.side)
	}
	return k
}

// keepWhole keeps a body that is at hand.
func (x *exchange) keepWhole(ctx context.Context, body []byte) *keeper {
	if len(body) == 0 || x.g.config.Archive != evidence.ArchiveEncrypted {
		return nil
	}
	k := x.keep(ctx)
	_, _ = k.Write(body) // the error stays in k
	return k
}

// Write never fails: an archive that does is reported by commit, so that a
// body is not cut for want of archive while it passes.
func (k *keeper) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.archive != nil && k.err == nil && !k.ended {
		_, k.err = k.archive.Write(p)
	}
	return len(p), nil
}

// commit returns what the record says of the body with this seal, in room unless
// the archive says it. A body whose seal is not complete was not seen to its end
// and is not kept.
func (k *keeper) commit(room *evidencepb.Body, policy evidence.ArchivePolicy, s *seal.Seal) (*evidencepb.Body, error) {
	if s == nil || s.Head {
		return nil, nil
	}
	if k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended = true
		if k.err != nil {
			return nil, k.err
		}
		if archive := k.archive; archive != nil {
			k.archive = nil
			return archive.Commit()
		}
	}
	room.Size = uint64(s.Size)
	if policy != evidence.ArchiveNone {
		room.Sha256 = s.Digest[:]
	}
	return room, nil
}

// abort drops what was not committed.
func (k *keeper) abort() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	if k.archive != nil {
		k.archive.Abort()
		k.archive = nil
	}
}
