package h1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// stream is a request body that is being written while the answer is read.
type stream struct {
	body io.ReadCloser
	done chan struct{}
	err  error // why it did not get to its end; there once done is closed
}

// pieces are what bodies are copied through: room for the size of a chunk, two
// full TLS records, room for the chunk's end.
var pieces = sync.Pool{New: func() any { return new([chunkHead + pieceSize + 2]byte) }}

const (
	chunkHead = 6 // four hexadecimal digits, CR LF
	pieceSize = 32<<10 - chunkHead - 2
)

// send starts to write the request's body.
func (c *conn) send(req *Request) *stream {
	s := &stream{body: req.Body, done: make(chan struct{})}
	length, trailer := req.Length, req.Trailer
	go func() {
		s.err = s.write(c, length, trailer)
		_ = s.body.Close()
		var body *bodyError
		broken := errors.As(s.err, &body)
		if !broken {
			c.answerWithin(c.patience(s.err))
		}
		close(s.done)
		if broken {
			_ = c.wire.Close() // the other side must not take it for complete
		}
	}()
	return s
}

// write copies the body, in chunks if its length is not known.
func (s *stream) write(c *conn, length int64, trailer http.Header) error {
	piece := pieces.Get().(*[chunkHead + pieceSize + 2]byte)
	defer pieces.Put(piece)
	sent := int64(0)
	for {
		n, err := s.body.Read(piece[chunkHead : chunkHead+pieceSize])
		sent += int64(n)
		if length >= 0 && sent > length {
			return &bodyError{fmt.Errorf("it has more than the %d bytes announced", length)}
		}
		if n > 0 {
			if err := c.writePiece(piece, n, length < 0); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
			continue
		case err != io.EOF:
			return &bodyError{err}
		case length >= 0 && sent < length:
			return &bodyError{fmt.Errorf("it has %d bytes, %d were announced", sent, length)}
		case length >= 0:
			return nil
		}
		end, err := appendTrailer(piece[:0], trailer)
		if err != nil {
			return &bodyError{err}
		}
		_, err = c.secure.Write(end)
		return err
	}
}

// writePiece writes n bytes of the piece, as a chunk or as they are.
func (c *conn) writePiece(piece *[chunkHead + pieceSize + 2]byte, n int, chunk bool) error {
	from, to := chunkHead, chunkHead+n
	if chunk {
		var size [chunkHead]byte
		head := append(strconv.AppendUint(size[:0], uint64(n), 16), '\r', '\n')
		from -= len(head)
		copy(piece[from:], head)
		to += copy(piece[to:], "\r\n")
	}
	_, err := c.secure.Write(piece[from:to])
	return err
}

// ended reports whether the body was written to its end, or soon is.
func (s *stream) ended() bool {
	select {
	case <-s.done:
		return s.err == nil
	default:
	}
	soon := time.NewTimer(lateRequest)
	defer soon.Stop()
	select {
	case <-s.done:
		return s.err == nil
	case <-soon.C:
		return false
	}
}
