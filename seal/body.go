package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal/httpsig"
)

type readCloser = io.ReadCloser

// holdBack is how much of the end of a body is withheld at most.
const holdBack = 32 << 10

// buffers holds the two halves of each streaming body in use.
var buffers = sync.Pool{New: func() any { return new([holdBack]byte) }}

// Body reads a sealed message's body. A body that was not verified before is
// withheld by one piece, of at least one byte and at most 32 KiB, until the
// digest and the seal verify; if they do not, Read fails with a
// *civibus.Fault and the end never comes out.
type Body struct {
	check  *check
	out    *Verified
	src    readCloser
	length int64 // expected, -1 if not known

	content []byte // of a body verified beforehand
	known   bool
	ready   []byte // verified or followed by more: may be given out
	held    []byte // withheld
	bufs    [2]*[holdBack]byte
	sum     hash.Hash
	size    int64
	err     error
	closed  atomic.Bool
	beyond  [1]byte // room to see that a body has ended
}

// Bytes returns the whole body if it was verified beforehand. The caller must
// not change it.
func (b *Body) Bytes() ([]byte, bool) { return b.content, b.known }

// whole reads and verifies a body of n bytes.
func (b *Body) whole(n int) error {
	var content []byte
	if n > 0 {
		content = make([]byte, n)
		if m, err := io.ReadFull(b.src, content); err != nil {
			return b.fail(civibus.FaultIO, err, "the %s's body was cut: %d of %d bytes came", b.check.what, m, n)
		}
	}
	if m, err := b.src.Read(b.beyond[:]); m > 0 {
		return b.fail(civibus.FaultIO, nil, "the %s's body is longer than announced", b.check.what)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return b.fail(civibus.FaultIO, err, "the %s's body was cut", b.check.what)
	}
	if err := b.finish(sha256.Sum256(content), int64(n)); err != nil {
		return err
	}
	b.content, b.known, b.ready, b.err = content, true, content, io.EOF
	return nil
}

// Read gives out what may be given out.
func (b *Body) Read(p []byte) (int, error) {
	for len(b.ready) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.closed.Load() {
			return 0, fault(b.check.place, civibus.FaultIO, nil, "the %s's body was closed", b.check.what)
		}
		if len(p) == 0 {
			return 0, nil
		}
		b.advance()
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	if len(b.ready) == 0 && b.err != nil {
		b.release()
		return n, b.err
	}
	return n, nil
}

// WriteTo gives the body out without a copy in between.
func (b *Body) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(b.ready) > 0 {
			n, err := w.Write(b.ready)
			total += int64(n)
			b.ready = b.ready[n:]
			if err != nil {
				return total, err
			}
			continue
		}
		if b.err != nil {
			b.release()
			if errors.Is(b.err, io.EOF) {
				return total, nil
			}
			return total, b.err
		}
		if b.closed.Load() {
			return total, fault(b.check.place, civibus.FaultIO, nil, "the %s's body was closed", b.check.what)
		}
		b.advance()
	}
}

// advance reads the next piece. Once it is there the one before may go out;
// at the end the last one may, if everything verifies.
func (b *Body) advance() {
	if b.sum == nil {
		b.sum = sha256.New()
		b.bufs[0], b.bufs[1] = buffers.Get().(*[holdBack]byte), buffers.Get().(*[holdBack]byte)
	}
	next := b.bufs[0][:]
	n, err := b.src.Read(next)
	if n > 0 {
		b.sum.Write(next[:n])
		b.size += int64(n)
		if b.length >= 0 && b.size > b.length {
			b.err = b.fail(civibus.FaultIO, nil, "the %s's body is longer than the %d bytes announced", b.check.what, b.length)
			return
		}
		b.ready, b.held = b.held, next[:n]
		b.bufs[0], b.bufs[1] = b.bufs[1], b.bufs[0]
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.end()
	default:
		b.held = nil
		b.err = b.fail(civibus.FaultIO, err, "the %s's body was cut after %d bytes", b.check.what, b.size)
	}
}

// end verifies digest and seal and gives the withheld piece free.
func (b *Body) end() {
	if b.length >= 0 && b.size != b.length {
		b.held = nil
		b.err = b.fail(civibus.FaultIO, nil, "the %s's body was cut: %d of %d bytes came", b.check.what, b.size, b.length)
		return
	}
	if b.err = b.finish([32]byte(b.sum.Sum(nil)), b.size); b.err != nil {
		b.held = nil
		return
	}
	b.err = io.EOF
	if len(b.ready) == 0 {
		b.ready, b.held = b.held, nil
		return
	}
	// Both pieces may go out; they lie in two buffers.
	b.ready, b.held = append(bytes.Clone(b.ready), b.held...), nil
}

// release gives the buffers back. Only the reading goroutine does it, and only
// when nothing refers to them any more.
func (b *Body) release() {
	b.ready, b.held = nil, nil
	for i, p := range b.bufs {
		if p != nil {
			buffers.Put(p)
			b.bufs[i] = nil
		}
	}
}

// Close closes the connection's side. A body that was not read to its end is
// not verified.
func (b *Body) Close() error {
	b.closed.Store(true)
	return b.src.Close()
}

func (b *Body) fail(code civibus.FaultCode, cause error, format string, args ...any) error {
	f := civibus.Faultf(b.check.place, code, format, args...)
	f.Err = cause
	b.out.failed.Store(f)
	return f
}

// finish compares the digest and, for a streamed message, verifies the seal in
// the trailers.
func (b *Body) finish(digest [32]byte, size int64) error {
	c := b.check
	s := c.now.seal
	if c.streamed {
		var err error
		if s, err = c.trailers(digest, b.out); err != nil {
			f := civibus.AsFault(c.place, err)
			b.out.failed.Store(f)
			return f
		}
	} else if digest != c.digest {
		return b.fail(civibus.FaultSeal, nil, "the %s's body is not the one that was sealed", c.what)
	}
	s.Digest, s.Size = digest, size
	if c.request {
		s.binding = b.out.binding
		if c.streamed {
			s.binding.complete(c.digestField, httpsig.FormatSignature(Label, s.Signature))
		}
	}
	b.out.done.Store(s)
	return nil
}

// trailers verifies the seal proper of a streamed message.
func (c *check) trailers(digest [32]byte, out *Verified) (*Seal, error) {
	t := *c.trailer
	if n := lengthOf(t[fieldInput]); n == 0 || n > MaxInput {
		return nil, c.refuse("its trailers have no seal")
	}
	in, second, err := find(t, Label)
	if err != nil {
		return nil, c.refuse("in the trailers: %v", err)
	}
	sig, secondSig, err := signatures(t, in, second)
	if err != nil {
		return nil, c.refuse("in the trailers: %v", err)
	}
	// 1. It says the same of itself as the head's seal, and covers the same.
	first, fields := c.now, c.fields
	if err := c.params(in); err != nil {
		return nil, err
	}
	same := c.now.created.Equal(first.created) && c.now.nonce == first.nonce && in.Params.KeyID == first.key.ID.String() &&
		in.Params.Alg == string(first.key.Algorithm)
	if !same {
		return nil, c.refuse("the trailers' seal is not of the same time, nonce and key as the head's")
	}
	// 2. What it covers.
	c.m.Trailer = t
	if c.req != nil {
		c.m.Request = c.req.message()
	}
	bound, err := c.components(in, true)
	if err != nil {
		return nil, c.refuse("in the trailers: %v", err)
	}
	if err := mayAnswer(c.place, bound, c.m.Status); c.req != nil && err != nil {
		return nil, err
	}
	if !slices.Equal(c.fields, fields) {
		return nil, c.refuse("the trailers' seal does not cover the fields of the head's")
	}
	// 3. Digest and signature.
	field, want, err := parseDigest(t[fieldDigest])
	if err != nil {
		return nil, c.refuse("in the trailers: %v", err)
	}
	if want != digest {
		return nil, c.refuse("the body is not the one that was sealed")
	}
	c.digestField = field
	out.early.Store(c.req != nil && bound == toHead)
	s := new(Seal)
	if err := c.signed(s, in, sig); err != nil {
		return nil, err
	}
	if err := c.checkSecond(s, in, second, secondSig, true); err != nil {
		return nil, err
	}
	if head := c.head.Second; (head == nil) != (s.Second == nil) || head != nil && head.KeyID != s.Second.KeyID {
		return nil, c.refuse("the trailers' second signature is not of the same key as the head's")
	}
	return s, nil
}
