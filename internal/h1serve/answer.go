package h1serve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeBuffer is what goes out in one write.
	writeBuffer = 8 << 10
	// holdLimit is how much of a body of unknown length is held back, in the
	// hope that the answer ends and can say its length.
	holdLimit = 4 << 10
	// headerRoom is how many fields an answer has as a rule: more than this, and
	// a map takes twice the memory.
	headerRoom = 14
)

// buffers are what an answer is put together in.
type buffers struct {
	out  *bufio.Writer
	head []byte
	held []byte
}

var bufferPool = sync.Pool{New: func() any {
	return &buffers{out: bufio.NewWriterSize(nil, writeBuffer), head: make([]byte, 0, 2<<10), held: make([]byte, 0, holdLimit)}
}}

// answer is the http.ResponseWriter of one request.
type answer struct {
	c      *conn
	body   *body // of the request; nil: it has none
	header http.Header
	*buffers

	minor    int  // the client's HTTP version is 1.minor
	isHead   bool // it asked with HEAD
	status   int  // 0: not set yet
	length   int64
	written  int64 // by the handler
	trailers []string
	dated    bool // the handler set Date
	noBody   bool // the status allows none
	duplex   bool // the rest of the request may come after the answer's begin
	framed   bool // the head is complete and on its way
	chunked  bool
	close    bool // the connection ends after it
}

func (a *answer) init(c *conn, r *http.Request) {
	*a = answer{c: c, header: make(http.Header, headerRoom), minor: r.ProtoMinor, isHead: r.Method == http.MethodHead, length: -1, close: r.Close}
}

// Header returns the fields. What is set after WriteHeader counts only as
// trailers: a field that was declared to be one is sent again after the body, as
// it is then.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader fixes status and fields.
func (a *answer) WriteHeader(status int) {
	if a.status != 0 {
		return
	}
	if status < 200 || status > 999 {
		panic(fmt.Sprintf("h1serve: status %d, the rule is 200 to 999", status))
	}
	a.status = status
	a.noBody = status == http.StatusNoContent || status == http.StatusNotModified
	a.buffers = bufferPool.Get().(*buffers)
	a.out.Reset(a.c.net)
	if a.body != nil && !a.body.told() {
		a.close = true // the body will not come, or it may
	}

	b := append(a.head[:0], "HTTP/1."...)
	b = append(b, byte('0'+a.minor), ' ')
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	for _, line := range a.header["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t")); isToken(name) && !framing(name) {
				a.trailers = append(a.trailers, name)
			}
		}
	}
	for name, values := range a.header {
		switch name {
		case "Content-Length":
			a.declare(values)
			continue
		case "Transfer-Encoding": // the connection's business
			continue
		case "Connection":
			a.close = a.close || hasToken(values, "close")
			continue
		case "Date":
			a.dated = true
		}
		b = appendField(b, name, values)
	}
	a.head = b
}

// declare takes the length from the handler's Content-Length, if it is one.
func (a *answer) declare(values []string) {
	if len(values) == 0 || a.noBody {
		return
	}
	if n, err := strconv.ParseUint(values[0], 10, 63); err == nil {
		a.length = int64(n)
	}
}

// appendField adds a line for each value. What would break the line is made a
// space, and a name that is none is left out.
func appendField(b []byte, name string, values []string) []byte {
	if !isToken(name) {
		return b
	}
	for _, v := range values {
		b = append(append(b, name...), ": "...)
		from := len(b)
		b = append(b, v...)
		if !isFieldValue(v) {
			for i, c := range b[from:] {
				if class[c]&text == 0 {
					b[from+i] = ' '
				}
			}
		}
		b = append(b, "\r\n"...)
	}
	return b
}

// Write writes a part of the body.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	switch {
	case len(p) == 0:
		return 0, nil
	case a.noBody:
		return 0, http.ErrBodyNotAllowed
	case a.buffers == nil:
		return 0, errEnded
	}
	if a.written += int64(len(p)); a.length >= 0 && a.written > a.length {
		return 0, http.ErrContentLength
	}
	if a.isHead {
		return len(p), nil
	}
	if !a.framed {
		if a.length < 0 && len(a.trailers) == 0 && len(a.held)+len(p) <= holdLimit {
			a.held = append(a.held, p...)
			return len(p), nil
		}
		a.frame(false)
	}
	return a.emit(p)
}

var errEnded = errors.New("h1serve: the answer is at its end")

// WriteString writes a part of the body.
func (a *answer) WriteString(s string) (int, error) { return a.Write([]byte(s)) }

// emit puts a part of the body on its way.
func (a *answer) emit(p []byte) (n int, err error) {
	if a.chunked {
		_, _ = a.out.Write(append(strconv.AppendUint(a.out.AvailableBuffer(), uint64(len(p)), 16), "\r\n"...))
	}
	n, err = a.out.Write(p)
	if a.chunked {
		_, err = a.out.WriteString("\r\n")
	}
	if err != nil {
		a.c.lost()
	}
	return n, err
}

// frame decides how the body's end will be seen and puts the head on its way.
// last says that the handler is done.
func (a *answer) frame(last bool) {
	a.framed = true
	if a.length < 0 && last && !a.noBody && len(a.trailers) == 0 && (!a.isHead || a.written > 0) {
		a.length = a.written
	}
	// A client may read the answer only once it has sent its request.
	if a.body != nil && !a.close && !a.duplex && !a.body.drain() {
		a.close = true
	}
	if a.c.server.closing.Load() {
		a.close = true
	}
	b := a.head
	switch {
	case a.length >= 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), a.length, 10), "\r\n"...)
	case a.noBody || a.isHead:
	case a.minor > 0:
		a.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		a.close = true
	}
	switch {
	case a.close && a.minor > 0:
		b = append(b, "Connection: close\r\n"...)
	case !a.close && a.minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	if !a.dated {
		b = append(b, date()...)
	}
	b = append(b, "\r\n"...)
	a.head = b
	_, _ = a.out.Write(b) // its error stays
	if len(a.held) > 0 {
		_, _ = a.emit(a.held)
		a.held = a.held[:0]
	}
}

// FlushError sends what was written so far.
func (a *answer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if a.buffers == nil {
		return errEnded
	}
	if !a.framed {
		a.frame(false)
	}
	err := a.out.Flush()
	if err != nil {
		a.c.lost()
	}
	return err
}

// Flush sends what was written so far.
func (a *answer) Flush() { _ = a.FlushError() }

// SetReadDeadline bounds the wait for the request's body.
func (a *answer) SetReadDeadline(t time.Time) error {
	a.c.setReadDeadline(t)
	return nil
}

// SetWriteDeadline bounds the writing of the answer.
func (a *answer) SetWriteDeadline(t time.Time) error { return a.c.net.SetWriteDeadline(t) }

// EnableFullDuplex lets the answer begin before the request's end.
func (a *answer) EnableFullDuplex() error {
	a.duplex = true
	return nil
}

// finish sends the end of the answer and reports whether the connection may
// take another request.
func (a *answer) finish() bool {
	a.WriteHeader(http.StatusOK)
	if !a.framed {
		a.frame(true)
	}
	if a.chunked {
		b := append(a.out.AvailableBuffer(), "0\r\n"...)
		for _, name := range a.trailers {
			b = appendField(b, name, a.header[name])
		}
		_, _ = a.out.Write(append(b, "\r\n"...))
	}
	err := a.out.Flush()
	a.release()
	if err != nil || a.close {
		return false
	}
	return a.isHead || a.noBody || a.length < 0 || a.written == a.length // else it is cut
}

// abort lets the client see that the answer has no end.
func (a *answer) abort() {
	if a.framed {
		_ = a.out.Flush()
	}
	a.release()
}

// release gives the buffers back.
func (a *answer) release() {
	if b := a.buffers; b != nil {
		a.buffers = nil
		b.out.Reset(nil)
		b.head, b.held = b.head[:0], b.held[:0]
		if cap(b.head) <= 16<<10 {
			bufferPool.Put(b)
		}
	}
}

// dateLine is a Date field of one second.
type dateLine struct {
	second int64
	line   string
}

var dateNow atomic.Pointer[dateLine]

// date returns the Date field of now.
func date() string {
	now := time.Now()
	if d := dateNow.Load(); d != nil && d.second == now.Unix() {
		return d.line
	}
	d := &dateLine{now.Unix(), "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"}
	dateNow.Store(d)
	return d.line
}

// Interface guards.
var (
	_ http.Flusher    = (*answer)(nil)
	_ io.StringWriter = (*answer)(nil)
)
