package h1serve

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
)

// maxDrain is how much of a body that the handler left is read, to keep the
// connection. It is what the network has under way as a rule.
const maxDrain = 256 << 10

// maxTrailer bounds a trailer section.
const maxTrailer = 8 << 10

// body is a request's body.
type body struct {
	c       *conn
	r       *http.Request // gets the trailers
	chunked io.Reader     // nil: the length is known
	closed  atomic.Bool

	mu   sync.Mutex // held while reading
	left int64      // of a known length
	err  error      // sticky; io.EOF: all of it was read

	sayMu   sync.Mutex // held while 100 Continue is sent
	waiting bool       // the client sends nothing before it gets that
}

func (b *body) init(c *conn, r *http.Request) {
	b.c, b.r, b.left = c, r, r.ContentLength
	if r.ContentLength < 0 {
		b.chunked = httputil.NewChunkedReader(c.in)
	}
	b.waiting = r.ProtoMinor > 0 && r.Header["Expect"] != nil
}

// Read reads the body. At its end the trailers are in the request.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case b.err != nil || len(p) == 0:
		return 0, b.err
	}
	if b.err = b.goOn(); b.err != nil {
		b.c.lost()
		return 0, b.err
	}
	return b.read(p)
}

// goOn tells a client that waits for it to send the body.
func (b *body) goOn() error {
	b.sayMu.Lock()
	defer b.sayMu.Unlock()
	if !b.waiting {
		return nil
	}
	b.waiting = false
	_, err := io.WriteString(b.c.net, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

// told reports whether the client was told to send the body, if it waits for
// that. Afterwards it is not told any more: the answer begins.
func (b *body) told() bool {
	b.sayMu.Lock()
	defer b.sayMu.Unlock()
	told := !b.waiting
	b.waiting = false
	return told
}

func (b *body) read(p []byte) (n int, err error) {
	if b.chunked != nil {
		if n, err = b.chunked.Read(p); err == io.EOF {
			if terr := b.trailer(); terr != nil {
				err = terr
			}
		}
	} else {
		n, err = b.c.in.Read(p[:min(int64(len(p)), b.left)])
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		} else if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	switch b.err = err; err {
	case nil:
	case io.EOF:
		b.c.bodyEnded()
	default:
		b.c.lost()
	}
	return n, err
}

// trailer reads what follows the last chunk.
func (b *body) trailer() error {
	text, err := readSection(b.c.in, maxTrailer, func() {})
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	fields, refused := parseFields(text)
	if refused != nil {
		return refused
	}
	for name, values := range fields {
		if framing(name) {
			return bad("a trailer that tells where the message ends")
		}
		if b.r.Trailer == nil {
			b.r.Trailer = make(http.Header, len(fields))
		}
		b.r.Trailer[name] = values
	}
	return nil
}

// Close makes further reads fail. What is left is the connection's business.
func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// drain reads a short rest that the handler left and reports whether the
// request is at its end.
func (b *body) drain() bool {
	if !b.mu.TryLock() {
		return false // somebody reads it still
	}
	defer b.mu.Unlock()
	if b.err != nil || b.left > maxDrain {
		return b.err == io.EOF
	}
	var room [4 << 10]byte
	for n, err := 0, error(nil); n <= maxDrain; {
		var m int
		if m, err = b.read(room[:]); err != nil {
			return err == io.EOF
		}
		n += m
	}
	return false
}

var errTooLong = errors.New("section too long")

// readSection reads fields up to the empty line after them, which it takes too:
// at most limit bytes. wait is called before each read that may wait.
func readSection(in *bufio.Reader, limit int, wait func()) (string, error) {
	const end = "\r\n\r\n"
	// 1. As a rule all of it is in the buffer.
	for from := 0; ; {
		buf, _ := in.Peek(in.Buffered())
		if bytes.HasPrefix(buf, []byte("\r\n")) {
			_, _ = in.Discard(2)
			return "", nil
		}
		if i := bytes.Index(buf[from:], []byte(end)); i >= 0 && from+i+2 <= limit {
			text := string(buf[:from+i+2])
			_, _ = in.Discard(from + i + 4)
			return text, nil
		} else if i >= 0 || len(buf) > limit {
			return "", errTooLong
		}
		if bytes.Contains(buf[from:], []byte("\n\n")) {
			return string(buf), nil // an end only to some: parsing refuses it
		}
		if len(buf) == in.Size() {
			break
		}
		wait()
		if _, err := in.Peek(len(buf) + 1); err != nil {
			return "", err
		}
		from = max(0, len(buf)-3)
	}
	// 2. Long ones are put together.
	var text []byte
	for len(text) <= limit {
		wait()
		if _, err := in.Peek(1); err != nil {
			return "", err
		}
		buf, _ := in.Peek(in.Buffered())
		had := len(text)
		text = append(text, buf...)
		from := max(0, had-3)
		if i := bytes.Index(text[from:], []byte(end)); i >= 0 && from+i+2 <= limit {
			_, _ = in.Discard(from + i + 4 - had)
			return string(text[:from+i+2]), nil
		}
		_, _ = in.Discard(len(buf))
	}
	return "", errTooLong
}
