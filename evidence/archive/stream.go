package archive

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// stream seals chunks in the STREAM construction: the nonce is the chunk's
// number in 11 bytes and a last byte that is 1 for the last chunk only, so that
// chunks can be neither moved nor left out, and the end is known to be the end.
// The key is used for one stream only. The last chunk may be shorter, and is
// empty only when the whole body is.
type stream struct {
	aead   cipher.AEAD
	number uint64
	plain  []byte
	out    []byte
}

func newStream(aead cipher.AEAD) *stream {
	return &stream{aead: aead, plain: make([]byte, 0, chunkSize), out: make([]byte, 0, chunkSize+tagSize)}
}

// streamNonce returns the nonce of a chunk.
func streamNonce(number uint64, last bool) []byte {
	nonce := make([]byte, nonceSize)
	binary.BigEndian.PutUint64(nonce[3:11], number)
	if last {
		nonce[11] = 1
	}
	return nonce
}

// take takes as much of p as fits and returns a sealed chunk, if one is
// complete and not the last, and the rest of p.
func (s *stream) take(p []byte) (chunk, rest []byte) {
	if len(s.plain) == chunkSize { // there is more, so it is not the last
		chunk = s.aead.Seal(s.out[:0], streamNonce(s.number, false), s.plain, nil)
		s.number++
		s.plain = s.plain[:0]
		return chunk, p
	}
	n := min(len(p), chunkSize-len(s.plain))
	s.plain = append(s.plain, p[:n]...)
	return nil, p[n:]
}

// last seals the last chunk.
func (s *stream) last() []byte {
	return s.aead.Seal(s.out[:0], streamNonce(s.number, true), s.plain, nil)
}

// streamReader opens what stream sealed.
type streamReader struct {
	aead   cipher.AEAD
	src    io.Reader
	number uint64
	sealed []byte // the next chunk, read ahead by one byte more than a chunk
	held   int
	plain  []byte // opened, not yet read
	buffer []byte
	err    error
}

func newStreamReader(aead cipher.AEAD, src io.Reader) *streamReader {
	return &streamReader{aead: aead, src: src, sealed: make([]byte, chunkSize+tagSize+1), buffer: make([]byte, 0, chunkSize)}
}

// Read returns opened bytes; nothing that is not authentic.
func (r *streamReader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 && r.err == nil {
		r.next()
	}
	if len(r.plain) == 0 {
		return 0, r.err
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// next opens one chunk. A chunk is the last when nothing follows it.
func (r *streamReader) next() {
	n, err := io.ReadFull(r.src, r.sealed[r.held:])
	n += r.held
	last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !last {
		r.err = err
		return
	}
	chunk := r.sealed[:n]
	if !last {
		chunk = r.sealed[:n-1]
	}
	plain, err := r.aead.Open(r.buffer[:0], streamNonce(r.number, last), chunk, nil)
	switch {
	case err != nil:
		r.err = fmt.Errorf("%w: chunk %d (byte %d) is not authentic or the body is cut off", ErrDamaged, r.number, int64(headerSize)+int64(r.number)*(chunkSize+tagSize))
		return
	case last && len(plain) == 0 && r.number > 0:
		r.err = fmt.Errorf("%w: it ends with an empty chunk", ErrDamaged)
		return
	case last:
		r.err = io.EOF
	default:
		r.sealed[0], r.held = r.sealed[n-1], 1
		r.number++
	}
	r.plain = plain
}
