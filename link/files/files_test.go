package files_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus/link/files"
)

func newAdapter(t *testing.T, change ...func(*files.Config)) (*files.Adapter, string) {
	t.Helper()
	config := files.Config{Dir: t.TempDir(), MaxBytes: 1 << 20}
	for _, c := range change {
		c(&config)
	}
	a, err := files.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a, config.Dir
}

// ticker is a clock in the test's hand.
type ticker struct {
	ticks   chan time.Time
	started chan struct{}
}

func newTicker() *ticker {
	return &ticker{ticks: make(chan time.Time), started: make(chan struct{}, 16)}
}

func (k *ticker) make(time.Duration) (<-chan time.Time, func()) {
	k.started <- struct{}{}
	return k.ticks, func() {}
}

func do(a http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

func list(t *testing.T, dir, part string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, part))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRequestIsDroppedAndItsAnswerReturned(t *testing.T) {
	k := newTicker()
	a, dir := newAdapter(t, func(c *files.Config) {
		c.Wait, c.Ticker, c.ContentType = time.Hour, k.make, "text/csv"
	})
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- do(a, "POST", "/", "request") }()
	<-k.started
	names := list(t, dir, "in")
	if len(names) != 1 || !strings.HasSuffix(names[0], ".req") {
		t.Fatalf("in/ holds %v", names)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "in", names[0])); err != nil || string(content) != "request" {
		t.Errorf("%q %v", content, err)
	}
	id := strings.TrimSuffix(names[0], ".req")
	// Names under which the system writes are never read.
	for _, half := range []string{id + ".ans.tmp", "." + id + ".ans", id + ".ans~", id, id + ".ANS", "x" + id + ".ans"} {
		put(t, filepath.Join(dir, "out", half), "half")
	}
	k.ticks <- time.Time{}
	k.ticks <- time.Time{} // the adapter has looked in between and waits again
	put(t, filepath.Join(dir, "tmp", "answer"), "whole answer")
	if err := os.Rename(filepath.Join(dir, "tmp", "answer"), filepath.Join(dir, "out", id+".ans")); err != nil {
		t.Fatal(err)
	}
	// The look that the second tick allowed may have found the answer already.
	var w *httptest.ResponseRecorder
	select {
	case k.ticks <- time.Time{}:
		w = <-done
	case w = <-done:
	}
	if w.Code != 200 || w.Body.String() != "whole answer" || w.Header().Get("Content-Type") != "text/csv" || w.Header().Get("Location") != id {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	if w := do(a, "GET", "/"+id, ""); w.Code != 200 || w.Body.String() != "whole answer" {
		t.Errorf("again: %d %q", w.Code, w.Body)
	}
}

func TestLateAnswersAndRefusals(t *testing.T) {
	a, dir := newAdapter(t) // does not wait
	w := do(a, "POST", "/", "request")
	id := w.Header().Get("Location")
	if w.Code != 202 || id == "" || !strings.Contains(w.Body.String(), id) || w.Header().Get("Retry-After") == "" {
		t.Fatalf("%d %q %v", w.Code, w.Body, w.Header())
	}
	if w := do(a, "GET", "/"+id, ""); w.Code != 202 {
		t.Errorf("waiting: %d", w.Code)
	}
	_ = os.Remove(filepath.Join(dir, "in", id+".req")) // the system took it
	if w := do(a, "GET", "/"+id, ""); w.Code != 202 {
		t.Errorf("taken: %d", w.Code)
	}
	put(t, filepath.Join(dir, "out", id+".err"), "no such permit")
	if w := do(a, "GET", "/"+id, ""); w.Code != 422 || w.Body.String() != "no such permit" {
		t.Errorf("refused: %d %q", w.Code, w.Body)
	}
	if w := do(a, "GET", "/unknown", ""); w.Code != 404 {
		t.Errorf("unknown: %d", w.Code)
	}
}

func TestPutIsIdempotent(t *testing.T) {
	a, dir := newAdapter(t)
	if w := do(a, "PUT", "/case-1", "one"); w.Code != 202 {
		t.Fatal(w.Code, w.Body)
	}
	_ = os.Remove(filepath.Join(dir, "in", "case-1.req")) // the system took it
	if w := do(a, "PUT", "/case-1", "one"); w.Code != 202 {
		t.Error(w.Code, w.Body)
	}
	if names := list(t, dir, "in"); names != nil {
		t.Errorf("the request was dropped again: %v", names)
	}
	if w := do(a, "PUT", "/case-1", "another"); w.Code != 409 {
		t.Error(w.Code, w.Body)
	}
	put(t, filepath.Join(dir, "out", "case-1.ans"), "done")
	if w := do(a, "PUT", "/case-1", "one"); w.Code != 200 || w.Body.String() != "done" {
		t.Error(w.Code, w.Body)
	}
	if left := list(t, dir, "tmp"); left != nil {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestConcurrentPutsDropOnce(t *testing.T) {
	a, dir := newAdapter(t)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			if w := do(a, "PUT", "/x", "same"); w.Code != 202 && w.Code != 409 {
				t.Error(w.Code, w.Body)
			}
		})
	}
	group.Wait()
	if names := list(t, dir, "in"); len(names) != 1 {
		t.Errorf("in/ holds %v", names)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	a, dir := newAdapter(t)
	put(t, filepath.Join(dir, "secret"), "secret")
	for _, path := range []string{"/..%2Fsecret", "/../secret", "/..", "/.", "/a/b", "/%2e%2e%2fsecret", "/a%00", "/a.req", "/.hidden", "/" + strings.Repeat("a", 65), "/a%20b", "//x"} {
		for _, method := range []string{"GET", "PUT", "POST"} {
			r := httptest.NewRequest(method, "/", strings.NewReader("x"))
			var err error
			if r.URL.Path, err = url.PathUnescape(path); err != nil {
				t.Fatal(err)
			}
			r.URL.RawPath = path
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			if w.Code != 404 && w.Code != 405 {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
	for _, part := range []string{"in", "state", "tmp"} {
		if names := list(t, dir, part); names != nil {
			t.Errorf("%s/ holds %v", part, names)
		}
	}
	for _, c := range []struct{ method, target, allow string }{{"GET", "/", "POST"}, {"DELETE", "/x", "GET, HEAD, PUT"}, {"POST", "/x", "GET, HEAD, PUT"}} {
		if w := do(a, c.method, c.target, ""); w.Code != 405 || w.Header().Get("Allow") != c.allow {
			t.Errorf("%+v: %d %v", c, w.Code, w.Header())
		}
	}
}

func TestLinksAndLargeAnswersAreNoAnswers(t *testing.T) {
	a, dir := newAdapter(t, func(c *files.Config) { c.MaxBytes = 100 })
	outside := filepath.Join(t.TempDir(), "outside")
	put(t, outside, "secret of another system")
	for id, make := range map[string]func(string) error{
		"link":  func(p string) error { return os.Symlink(outside, p) },
		"dir":   func(p string) error { return os.Mkdir(p, 0o755) },
		"large": func(p string) error { return os.WriteFile(p, make([]byte, 101), 0o644) },
	} {
		if w := do(a, "PUT", "/"+id, "x"); w.Code != 202 {
			t.Fatal(w.Code)
		}
		if err := make(filepath.Join(dir, "out", id+".ans")); err != nil {
			t.Fatal(err)
		}
		if w := do(a, "GET", "/"+id, ""); w.Code != 502 || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
}

func TestBodiesThatAreRefused(t *testing.T) {
	a, dir := newAdapter(t, func(c *files.Config) { c.MaxBytes = 10 })
	if w := do(a, "PUT", "/x", "12345678901"); w.Code != 413 {
		t.Error(w.Code)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("PUT", "/x", io.MultiReader(strings.NewReader("123"), &broken{}))
	a.ServeHTTP(w, r)
	if w.Code != 400 {
		t.Error(w.Code)
	}
	for _, part := range []string{"in", "state", "tmp"} {
		if names := list(t, dir, part); names != nil {
			t.Errorf("%s/ holds %v", part, names)
		}
	}
	if w := do(a, "PUT", "/x", "1234567890"); w.Code != 202 { // the identifier is still free
		t.Error(w.Code)
	}
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, errors.New("cut") }

func TestCallerThatGoesAway(t *testing.T) {
	k := newTicker()
	a, dir := newAdapter(t, func(c *files.Config) { c.Wait, c.Ticker = time.Hour, k.make })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-k.started; cancel() }()
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "PUT", "/x", strings.NewReader("r")))
	if w.Code != 202 || len(list(t, dir, "in")) != 1 {
		t.Errorf("%d: the request must be there to be fetched later", w.Code)
	}
}

// TestCrashes starts the adapter on directories as a crash leaves them.
func TestCrashes(t *testing.T) {
	const digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 e3b0c44298fc1c149afbf4c8996fb924" // of "x", asked by nobody
	for _, c := range []struct {
		name    string
		leave   map[string]string
		putCode int
		in      int
	}{
		{"while the request was written", map[string]string{"tmp/T": "par"}, 202, 1},
		{"before the claim was whole", map[string]string{"tmp/T": "x", "state/id": digest[:10]}, 202, 1},
		{"before the request was handed over", map[string]string{"tmp/T": "x", "state/id": digest + "\ntmp/T\n"}, 202, 1},
		{"after it was handed over", map[string]string{"in/id.req": "x", "state/id": digest + "\ntmp/T\n"}, 202, 1},
		{"after the system took it", map[string]string{"state/id": digest + "\ntmp/T\n"}, 202, 0},
		{"after all was done", map[string]string{"state/id": digest + "\ntmp/T\nin\n", "out/id.ans": "done"}, 200, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, part := range []string{"in", "out", "tmp", "state"} {
				if err := os.Mkdir(filepath.Join(dir, part), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, content := range c.leave {
				put(t, filepath.Join(dir, name), content)
			}
			a, _ := newAdapter(t, func(config *files.Config) { config.Dir = dir })
			if w := do(a, "PUT", "/id", "x"); w.Code != c.putCode {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if names := list(t, dir, "in"); len(names) != c.in {
				t.Errorf("in/ holds %v, want %d", names, c.in)
			}
			if names := list(t, dir, "tmp"); names != nil {
				t.Errorf("tmp/ holds %v", names)
			}
		})
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, c := range []files.Config{
		{Dir: filepath.Join(t.TempDir(), "missing")},
		{Dir: t.TempDir(), RequestSuffix: "req"},
		{Dir: t.TempDir(), AnswerSuffix: "./x"},
		{Dir: t.TempDir(), AnswerSuffix: ".a", ErrorSuffix: ".a"},
	} {
		if a, err := files.New(c); err == nil {
			_ = a.Close()
			t.Errorf("%+v was accepted", c)
		}
	}
	if _, err := files.New(files.Config{Dir: "/no/such/dir"}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzIdentifier(f *testing.F) {
	dir := f.TempDir()
	a, err := files.New(files.Config{Dir: filepath.Join(dir)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("x")
	f.Add("../x")
	f.Add("%2e%2e%2fx")
	f.Fuzz(func(t *testing.T, id string) {
		r := httptest.NewRequest("PUT", "/", strings.NewReader("x"))
		r.URL.Path = "/" + id
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code == 202 {
			if _, err := os.Stat(filepath.Join(dir, "in", fmt.Sprintf("%s.req", id))); err != nil || strings.ContainsAny(id, "/.\\") {
				t.Errorf("identifier %q was taken: %v", id, err)
			}
		}
	})
}

// TestOthersIdentifiers holds that a client neither reads nor repeats what
// another one asked, though it may guess the identifier.
func TestOthersIdentifiers(t *testing.T) {
	a, dir := newAdapter(t)
	as := func(client, method, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/case-7", strings.NewReader(body))
		r.Header.Set("X-Road-Client", client)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w
	}
	put(t, filepath.Join(dir, "out", "case-7.ans"), "personal")
	if w := as("T/GOV/A/desk", "PUT", "x"); w.Code != 200 || w.Body.String() != "personal" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for method, want := range map[string]int{"GET": 404, "HEAD": 404, "PUT": 409} {
		if w := as("T/GOV/B/desk", method, "x"); w.Code != want || strings.Contains(w.Body.String(), "personal") {
			t.Errorf("%s by another client: %d %s", method, w.Code, w.Body)
		}
	}
	if w := as("T/GOV/A/desk", "GET", ""); w.Code != 200 {
		t.Errorf("its own: %d %s", w.Code, w.Body)
	}
}
