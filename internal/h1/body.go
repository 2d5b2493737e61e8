package h1

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
)

// framing is how the end of a body is known.
type framing uint8

const (
	none framing = iota // there is no body
	sized
	chunked
	untilClosed
)

// maxTrailerBytes bounds the trailers of an answer.
const maxTrailerBytes = 16 << 10

// body is the body of an answer. It reads straight from the connection, which
// goes back to the pool at its end.
type body struct {
	conn     *conn
	answer   *http.Response
	stop     func() bool // ends the watch on the caller; false: he is gone
	framing  framing
	left     int64     // of a sized one
	chunks   io.Reader // of a chunked one
	reusable bool      // the connection may carry another request
	final    error     // what reading ended with
	over     atomic.Bool
}

// begin makes the body ready.
func (b *body) begin(c *conn, a *answer) {
	b.conn, b.answer = c, &a.Response
	a.Body = b
	switch b.framing {
	case none:
		a.Body = http.NoBody
	case chunked:
		b.chunks = httputil.NewChunkedReader(c.in)
	}
}

// Read reads the body. io.EOF comes with its last bytes, if that is known, and
// after its trailers.
func (b *body) Read(p []byte) (int, error) {
	if b.final != nil {
		return 0, b.final
	}
	if b.over.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.read(p)
	if err != nil {
		b.final = err
		b.finish(err == io.EOF)
	}
	return n, err
}

func (b *body) read(p []byte) (n int, err error) {
	switch b.framing {
	case sized:
		if int64(len(p)) > b.left {
			p = p[:b.left]
		}
		n, err = b.conn.in.Read(p)
		switch b.left -= int64(n); {
		case b.left == 0:
			err = io.EOF
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
	case chunked:
		if n, err = b.chunks.Read(p); err == io.EOF {
			err = b.readTrailer()
		}
	default:
		n, err = b.conn.in.Read(p)
	}
	return n, err
}

// readTrailer reads what follows the last chunk.
func (b *body) readTrailer() error {
	room := maxTrailerBytes
	lines, err := b.conn.readHead(&room, false)
	if err != nil {
		return err
	}
	if lines == "" {
		return io.EOF
	}
	fields, err := parseFields(lines)
	if err != nil {
		return err
	}
	for name := range fields {
		if ownField(name) {
			return fmt.Errorf("h1: the trailer %s", name)
		}
	}
	if b.answer.Trailer == nil {
		b.answer.Trailer = fields
		return io.EOF
	}
	for name, values := range fields {
		b.answer.Trailer[name] = values
	}
	return io.EOF
}

// Close ends the exchange. A body that was not read to its end takes the
// connection with it.
func (b *body) Close() error {
	b.finish(false)
	return nil
}

// finish gives the connection back or up, once. atEnd says that the answer is
// complete.
func (b *body) finish(atEnd bool) {
	if !b.over.CompareAndSwap(false, true) {
		return
	}
	c := b.conn
	stayed := b.stop()
	if s := c.sending; s != nil && (!atEnd || !s.ended()) {
		atEnd = false
		_ = c.wire.Close()
		_ = s.body.Close()
	}
	if !atEnd || !stayed {
		c.pool.drop(c)
		return
	}
	// Nothing is under way: a farewell is in order.
	c.broken = false
	if b.reusable && c.reading == nil && c.in.Buffered() == 0 {
		c.pool.put(c)
		return
	}
	c.pool.drop(c)
}
