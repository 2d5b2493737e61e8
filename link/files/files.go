// Package files lets a system that knows nothing but files take part in
// exchanges. A request becomes a file in the directory in/; the system picks it
// up in its own time and leaves its answer in out/; the adapter waits for it and
// returns it. Who does not wait gets an identifier and fetches the answer later.
//
//	POST /        drop the body as a new request, wait for the answer
//	PUT  /{id}    the same under an identifier of the caller's choice; repeating
//	              it with the same body drops nothing a second time
//	GET  /{id}    the answer: 200, or 202 while there is none, or 404
//
// The directory has four parts: in/ and out/ are for the system, tmp/ and state/
// are the adapter's own. A file appears in in/ whole or not at all, because it is
// written in tmp/, made durable, and renamed. The system must do the same in
// out/: write under another name, then rename to the answer's name.
//
// The adapter is an http.Handler that a body's own gateway runs as an upstream.
//
// Trust: an attacker who controls a request can at most add a file of bounded
// size with a name of the adapter's making, and sees answers to requests of the
// same client only; one who controls the system can at
// most answer wrongly. No name leads out of the directory, also not through a
// symbolic link: all access goes through os.Root.
package files

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// Config describes one drop directory.
type Config struct {
	// Dir is the directory; in, out, tmp and state are made in it. All of it must
	// be on one file system.
	Dir string
	// RequestSuffix and AnswerSuffix end the files' names. Default: .req and .ans.
	RequestSuffix string
	AnswerSuffix  string
	// ErrorSuffix ends the name of an answer that says that the request was
	// refused; it is returned with status 422. Default: .err.
	ErrorSuffix string
	// ContentType is the content type of answers. Default: application/octet-stream.
	ContentType string
	// MaxBytes bounds requests and answers. Default 16 MiB.
	MaxBytes int64
	// Wait is how long a POST or PUT waits for the answer; 0: not at all.
	Wait time.Duration
	// Poll is how often the adapter looks. Default 100 ms.
	Poll time.Duration
	// Ticker makes the ticks of the waiting; tests bring their own. Default: time.NewTicker.
	Ticker func(time.Duration) (ticks <-chan time.Time, stop func())
	// Logger gets failures. Default: none.
	Logger *slog.Logger
}

// Adapter serves a drop directory.
type Adapter struct {
	config Config
	root   *os.Root
}

var _ http.Handler = (*Adapter)(nil)

// New makes the directories and the adapter. Close it when done.
func New(config Config) (*Adapter, error) {
	for _, d := range []struct {
		value *string
		to    string
	}{{&config.RequestSuffix, ".req"}, {&config.AnswerSuffix, ".ans"}, {&config.ErrorSuffix, ".err"}, {&config.ContentType, "application/octet-stream"}} {
		if *d.value == "" {
			*d.value = d.to
		}
	}
	for _, suffix := range []string{config.RequestSuffix, config.AnswerSuffix, config.ErrorSuffix} {
		if !validSuffix(suffix) {
			return nil, fmt.Errorf("files adapter: suffix %q, the rule is a dot and 1 to 16 letters or digits", suffix)
		}
	}
	if config.AnswerSuffix == config.ErrorSuffix {
		return nil, fmt.Errorf("files adapter: answers and errors both end in %q", config.AnswerSuffix)
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = 16 << 20
	}
	if config.Poll == 0 {
		config.Poll = 100 * time.Millisecond
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Ticker == nil {
		config.Ticker = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTicker(d)
			return t.C, t.Stop
		}
	}
	root, err := os.OpenRoot(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("files adapter: open directory: %w", err)
	}
	for _, name := range []string{"in", "out", "tmp", "state"} {
		if err := root.MkdirAll(name, 0o770); err != nil {
			_ = root.Close()
			return nil, fmt.Errorf("files adapter: make directory: %w", err)
		}
	}
	a := &Adapter{config: config, root: root}
	if err := a.clean(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("files adapter: clean up after a crash: %w", err)
	}
	return a, nil
}

// Close gives the directory back.
func (a *Adapter) Close() error { return a.root.Close() }

func validSuffix(s string) bool {
	return len(s) >= 2 && len(s) <= 17 && s[0] == '.' && validID(s[1:]) && !strings.ContainsAny(s[1:], "-_")
}

// validID: letters, digits, hyphen and underscore, so that an identifier is
// never a path, a hidden file or a name with a suffix.
func validID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-' || c == '_':
		default:
			return false
		}
	}
	return true
}

// problem is an RFC 9457 answer of the adapter itself.
type problem struct {
	status int
	detail string
	cause  error
}

// Error says what is wrong, for the log.
func (p *problem) Error() string {
	if p.cause != nil {
		return p.detail + ": " + p.cause.Error()
	}
	return p.detail
}

// ServeHTTP answers a request.
func (a *Adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	var err error
	switch {
	case id != "" && !validID(id):
		err = &problem{status: http.StatusNotFound, detail: "the rule for an identifier is 1 to 64 letters, digits, hyphens and underscores"}
	case id == "" && r.Method == http.MethodPost:
		err = a.drop(w, r, strings.ToLower(rand.Text()))
	case id != "" && r.Method == http.MethodPut:
		err = a.drop(w, r, id)
	case id != "" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		err = a.fetch(w, r, id)
	default:
		w.Header().Set("Allow", map[bool]string{true: "POST", false: "GET, HEAD, PUT"}[id == ""])
		err = &problem{status: http.StatusMethodNotAllowed, detail: "POST to the service, PUT or GET an identifier under it"}
	}
	if err != nil {
		a.fail(w, r, err)
	}
}

func (a *Adapter) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	if !errors.As(err, &p) {
		p = &problem{status: http.StatusInternalServerError, detail: "the drop directory cannot be used", cause: err}
	}
	if p.status >= 500 {
		a.config.Logger.ErrorContext(r.Context(), "files adapter", "status", p.status, "err", p)
	}
	writeJSON(w, "application/problem+json", p.status, map[string]any{"type": "about:blank", "title": http.StatusText(p.status), "status": p.status, "detail": p.detail})
}

func writeJSON(w http.ResponseWriter, contentType string, status int, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// drop puts a request into in/ and waits for the answer.
func (a *Adapter) drop(w http.ResponseWriter, r *http.Request, id string) error {
	// 1. The whole body, durable, where the system does not look.
	temp, digest, err := a.spool(r.Body)
	if err != nil {
		return err
	}
	defer a.discard(temp)
	// 2. Claim the identifier. Who repeats a PUT finds it claimed.
	fresh, err := a.claim(id, hex.EncodeToString(digest[:])+" "+owner(r), temp)
	if err != nil {
		return err
	}
	// 3. Hand it over, whole or not at all.
	if fresh {
		if err := a.root.Rename(temp, "in/"+id+a.config.RequestSuffix); err != nil {
			_ = a.root.Remove("state/" + id) // nothing was handed over: the identifier is free again
			return err
		}
		if err := a.sync("in"); err != nil {
			return err
		}
		if err := a.handedOver(id); err != nil {
			return err
		}
	}
	// 4. Wait.
	w.Header().Set("Location", id)
	w.Header().Set("Civibus-File-Id", id)
	return a.wait(r.Context(), w, id)
}

// spool writes the body to a file in tmp/.
func (a *Adapter) spool(body io.Reader) (name string, digest [32]byte, err error) {
	name = "tmp/" + rand.Text()
	f, err := a.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o660)
	if err != nil {
		return "", digest, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), &bodyReader{io.LimitReader(body, a.config.MaxBytes+1)})
	if err == nil && n > a.config.MaxBytes {
		err = &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is larger than " + strconv.FormatInt(a.config.MaxBytes, 10) + " bytes"}
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		a.discard(name)
		return "", digest, err
	}
	return name, [32]byte(h.Sum(nil)), nil
}

// bodyReader marks the errors of reading the caller's body, to tell them from
// those of the disk.
type bodyReader struct{ io.Reader }

// Read reads the body.
func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = &problem{status: http.StatusBadRequest, detail: "the body could not be read to its end", cause: err}
	}
	return n, err
}

// owner names the client that asks, as the gateway verified it: identifiers may
// be guessed, and what one client asked is no other's business.
func owner(r *http.Request) string {
	sum := sha256.Sum256([]byte(r.Header.Get(civibus.HeaderClient)))
	return hex.EncodeToString(sum[:16])
}

// claim makes state/ID. It holds the digest of the request that has the
// identifier and its owner, then the request's name in tmp/, then a line "in" once the request
// has been handed over. Without that line a call is at it, or was when the
// adapter died; clean finds out at the next start.
func (a *Adapter) claim(id, want, temp string) (fresh bool, err error) {
	if err := a.sync("tmp"); err != nil {
		return false, err
	}
	f, err := a.root.OpenFile("state/"+id, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o660)
	if errors.Is(err, fs.ErrExist) {
		held, err := a.root.ReadFile("state/" + id)
		if err != nil {
			return false, err
		}
		had, _, handed := parseClaim(held)
		switch {
		case had != "" && had != want:
			return false, &problem{status: http.StatusConflict, detail: "the identifier belongs to another request"}
		case handed:
			return false, nil
		}
		return false, &problem{status: http.StatusConflict, detail: "another call is handing this request over; repeat it in a moment"}
	}
	if err != nil {
		return false, err
	}
	_, err = io.WriteString(f, want+"\n"+temp+"\n")
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = a.sync("state")
	}
	if err != nil {
		_ = a.root.Remove("state/" + id)
		return false, err
	}
	return true, nil
}

// parseClaim reads a claim; whose is empty if it was not written to its end.
func parseClaim(held []byte) (whose, temp string, handed bool) {
	lines := strings.Split(string(held), "\n")
	if len(lines) < 3 {
		return "", "", false
	}
	return lines[0], lines[1], len(lines) > 3 && lines[2] == "in"
}

func (a *Adapter) handedOver(id string) error {
	f, err := a.root.OpenFile("state/"+id, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "in\n")
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// clean settles what a crash left. A claim that is not marked was handed over
// exactly if its request is gone from tmp/: the rename is what hands it over.
func (a *Adapter) clean() error {
	claims, err := fs.ReadDir(a.root.FS(), "state")
	if err != nil {
		return err
	}
	for _, c := range claims {
		held, err := a.root.ReadFile("state/" + c.Name())
		if err != nil {
			return err
		}
		digest, temp, handed := parseClaim(held)
		if handed {
			continue
		}
		_, err = a.root.Lstat(temp)
		if digest != "" && errors.Is(err, fs.ErrNotExist) {
			err = a.handedOver(c.Name())
		} else if err == nil || digest == "" {
			err = a.root.Remove("state/" + c.Name())
		}
		if err != nil {
			return err
		}
	}
	temps, err := fs.ReadDir(a.root.FS(), "tmp")
	if err != nil {
		return err
	}
	for _, t := range temps {
		if err := a.root.Remove("tmp/" + t.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (a *Adapter) discard(name string) {
	if err := a.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.config.Logger.Error("files adapter: remove temporary file", "err", err)
	}
}

// sync makes renames in a directory durable.
func (a *Adapter) sync(dir string) error {
	d, err := a.root.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// wait looks for the answer until it is there, the time is over, or the caller
// goes away.
func (a *Adapter) wait(ctx context.Context, w http.ResponseWriter, id string) error {
	ctx, cancel := context.WithTimeout(ctx, a.config.Wait)
	defer cancel()
	ticks, stop := a.config.Ticker(a.config.Poll)
	defer stop()
	for {
		done, err := a.answer(w, id)
		if done || err != nil {
			return err
		}
		select {
		case <-ticks:
		case <-ctx.Done():
			// One last look: the answer may have come with the deadline.
			if done, err := a.answer(w, id); done || err != nil {
				return err
			}
			waiting(w, id)
			return nil
		}
	}
}

func waiting(w http.ResponseWriter, id string) {
	w.Header().Set("Retry-After", "5")
	writeJSON(w, "application/json", http.StatusAccepted, map[string]string{"id": id, "state": "waiting"})
}

// fetch returns an answer, or says that there is none yet.
func (a *Adapter) fetch(w http.ResponseWriter, r *http.Request, id string) error {
	held, err := a.root.ReadFile("state/" + id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if whose, _, _ := parseClaim(held); !strings.HasSuffix(whose, " "+owner(r)) {
		return &problem{status: http.StatusNotFound, detail: "no request of yours has this identifier"}
	}
	done, err := a.answer(w, id)
	if !done && err == nil {
		waiting(w, id)
	}
	return err
}

// answer writes the system's answer if it is there.
func (a *Adapter) answer(w http.ResponseWriter, id string) (done bool, err error) {
	for _, kind := range []struct {
		suffix string
		status int
	}{{a.config.AnswerSuffix, http.StatusOK}, {a.config.ErrorSuffix, http.StatusUnprocessableEntity}} {
		f, err := a.open("out/" + id + kind.suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		defer f.Close()
		info, err := f.Stat()
		switch {
		case err != nil:
			return false, err
		case info.Size() > a.config.MaxBytes:
			return false, &problem{status: http.StatusBadGateway, detail: "the answer is larger than " + strconv.FormatInt(a.config.MaxBytes, 10) + " bytes"}
		}
		w.Header().Set("Content-Type", a.config.ContentType)
		w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
		w.WriteHeader(kind.status)
		// The head is out: a failure from here on can only cut the answer short,
		// which the length above makes plain.
		if _, err := io.CopyN(w, f, info.Size()); err != nil {
			a.config.Logger.Error("files adapter: answer cut", "err", err)
		}
		return true, nil
	}
	return false, nil
}

// open opens an answer. A symbolic link or a pipe is not one.
func (a *Adapter) open(name string) (*os.File, error) {
	info, err := a.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &problem{status: http.StatusBadGateway, detail: "the answer is not a regular file"}
	}
	return a.root.Open(name)
}
