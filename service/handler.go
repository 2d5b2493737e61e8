package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// handlerTransport calls a handler in this process as if it were a server. The
// answer streams: the handler's writes wait for the reader.
type handlerTransport struct {
	handler http.Handler
	stall   time.Duration
}

// roundTrip runs the handler and returns when the head of its answer is there.
func (t *handlerTransport) roundTrip(ctx context.Context, r *request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req := t.request(ctx, r)
	reader, writer := io.Pipe()
	w := &handlerWriter{header: make(http.Header), body: writer, head: make(chan struct{}), noBody: req.Method == http.MethodHead}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.finish(t.run(w, req))
	}()
	select {
	case <-w.head:
	case <-ctx.Done():
		// The handler sees the same context; its writes fail from now on.
		_ = reader.CloseWithError(context.Cause(ctx))
		<-done
		cancel(nil)
		return nil, ctx.Err()
	}
	if w.failed != nil {
		<-done
		cancel(nil)
		return nil, w.failed
	}
	resp := &http.Response{
		StatusCode: w.status, Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: contentLength(w.sent), Request: req,
	}
	b := &handlerBody{PipeReader: reader, stall: t.stall, cancel: cancel, done: done}
	b.stop = context.AfterFunc(ctx, func() { _ = reader.CloseWithError(context.Cause(ctx)) })
	b.timer = time.AfterFunc(t.stall, func() { cancel(os.ErrDeadlineExceeded) })
	b.timer.Stop()
	resp.Body = b
	return resp, nil
}

// request is what the handler sees.
func (t *handlerTransport) request(ctx context.Context, r *request) *http.Request {
	req := &http.Request{
		Method: r.method, URL: r.target, Host: r.target.Host, RequestURI: r.target.RequestURI(), RemoteAddr: "gateway",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: EndToEnd(r.header), Body: r.body(), ContentLength: r.length,
	}
	req.Header.Set("User-Agent", userAgent)
	if req.Body == nil {
		req.Body = http.NoBody
	}
	return req.WithContext(ctx)
}

// run turns a panic of the handler into an error.
func (t *handlerTransport) run(w *handlerWriter, req *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the adapter panicked: %v", p)
		}
	}()
	t.handler.ServeHTTP(w, req)
	return nil
}

func contentLength(h http.Header) int64 {
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		return n
	}
	return -1
}

// handlerBody is the handler's answer. It ends one that stalls, and waits for
// the handler to end when it is closed.
type handlerBody struct {
	*io.PipeReader
	stall  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
	stop   func() bool
	done   chan struct{}
}

// Read reads within the stall timeout.
func (b *handlerBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	defer b.timer.Stop()
	return b.PipeReader.Read(p)
}

// Close ends the answer; the handler's further writes fail.
func (b *handlerBody) Close() error {
	b.timer.Stop()
	b.stop()
	err := b.PipeReader.Close()
	b.cancel(nil)
	<-b.done
	return err
}

// handlerWriter is the handler's http.ResponseWriter.
type handlerWriter struct {
	header http.Header
	body   *io.PipeWriter
	noBody bool

	once   sync.Once
	head   chan struct{} // closed when the next three are set
	sent   http.Header
	status int
	failed error
}

// Header returns the header under construction.
func (w *handlerWriter) Header() http.Header { return w.header }

// WriteHeader fixes the head of the answer.
func (w *handlerWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.head)
	})
}

// Write passes a piece of the body to the reader.
func (w *handlerWriter) Write(p []byte) (int, error) {
	if w.header.Get("Content-Type") == "" {
		w.header.Set("Content-Type", http.DetectContentType(p[:min(len(p), 512)]))
	}
	w.WriteHeader(http.StatusOK)
	if w.noBody {
		return len(p), nil
	}
	return w.body.Write(p)
}

// Flush is there for handlers that look for it; nothing is held back.
func (w *handlerWriter) Flush() { w.WriteHeader(http.StatusOK) }

func (w *handlerWriter) finish(err error) {
	w.once.Do(func() {
		w.status, w.sent, w.failed = http.StatusOK, w.header.Clone(), err
		close(w.head)
	})
	if err != nil {
		_ = w.body.CloseWithError(err)
		return
	}
	_ = w.body.Close()
}

var _ http.Flusher = (*handlerWriter)(nil)

// readLimited reads at most limit bytes and says when there are more.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, errors.New("it has more than " + strconv.FormatInt(limit, 10) + " bytes")
	}
	return b.Bytes(), nil
}
