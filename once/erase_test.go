package once_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/civibus/civibus/once"
)

// note is the evidence log's part.
func (w *world) note(_ context.Context, what, ground string) (uint64, error) {
	if w.atNote != nil {
		w.atNote()
	}
	if w.log != nil {
		return 0, w.log
	}
	w.noted = append(w.noted, what+": "+ground)
	return uint64(len(w.noted)), nil
}

func copyStore(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(to, "erasure.keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// holds are the files below folders that hold one of some texts.
func holds(t *testing.T, dirs []string, texts ...string) (out []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			for _, text := range texts {
				if bytes.Contains(raw, []byte(text)) {
					out = append(out, text+" in "+path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// secrets are what a store holds of a person: subject and document, as they are kept.
var secrets = []string{"FIC-1", "certificate", string(must(json.Marshal([]byte("certificate")))), "token"}

// TestErase: what both bodies have of a request is gone, from their files and with the
// keys of after from copies of before; others stay, and nothing comes back.
func TestErase(t *testing.T) {
	w := newWorld(t)
	id, other := w.ask(once.Previewed), w.ask(once.Previewed)
	// 1. Not before it is decided.
	for _, r := range []*once.Runtime{w.town, w.reg} {
		_, err := r.Erase(t.Context(), id, "Act 9")
		refused(t, err, "not_ended")
		_, err = r.Erase(t.Context(), "00000000000000000000000000000000", "Act 9")
		refused(t, err, "unknown_request")
		_, err = r.Erase(t.Context(), "x", "Act 9")
		refused(t, err, "unknown_request")
	}
	s := w.decide(id, once.Approved, once.Delivered)
	w.decide(other, once.Approved, once.Delivered)
	w.restart()
	if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
		t.Fatal(err)
	}
	before := [2]string{copyStore(t, w.dirs[0]), copyStore(t, w.dirs[1])}
	w.open()
	// 2. At both sides, with a note each.
	for i, r := range []*once.Runtime{w.town, w.reg} {
		if n, err := r.Erase(t.Context(), id, "Act 9"); err != nil || n != uint64(i+1) {
			t.Fatalf("erasure %d, %v", n, err)
		}
		_, err := r.Erase(t.Context(), id, "Act 9")
		refused(t, err, "erased")
	}
	if want := "request " + id + ": Act 9"; !slices.Equal(w.noted, []string{want, want}) {
		t.Errorf("notes %q", w.noted)
	}
	check := func(code string) {
		t.Helper()
		_, _, _, err := w.town.Content(desk, id, false)
		refused(t, err, code)
		if _, content, _, err := w.town.Content(desk, other, false); err != nil || string(content) != "certificate" {
			t.Errorf("the other one: %q, %v", content, err)
		}
	}
	check("erased")
	if found := holds(t, w.dirs[:], secrets...); found != nil {
		t.Error(found)
	}
	// 3. What comes late is refused for good, and nothing is fetched again.
	fetched := w.fetched
	if status, body := w.post(desk, "/decision", []byte(s.Token)); status != http.StatusGone || !bytes.Contains(body, []byte("erased")) {
		t.Errorf("the token again: %d %s", status, body)
	}
	q := once.Request{Format: once.RequestFormat, ID: id, Client: desk.String(), Type: birth, Requirement: born, Subject: json.RawMessage(`{"number":"FIC-1"}`), AskedBy: once.Person, AskedAt: start, Case: "case 7"}
	if status, body := w.post(desk, "/preview", must(json.Marshal(&q))); status != http.StatusGone || w.fetched != fetched {
		t.Errorf("the request again: %d %s", status, body)
	}
	w.restart()
	check("erased")
	if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
		t.Fatal(err)
	}
	// 4. Copies of before, with the keys of after.
	for i, dir := range before {
		raw := must(os.ReadFile(filepath.Join(w.dirs[i], "erasure.keys")))
		if err := os.WriteFile(filepath.Join(dir, "erasure.keys"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.dirs = before
	w.open()
	check("unknown_request")
	_, err := w.reg.Erase(t.Context(), id, "Act 9")
	refused(t, err, "unknown_request")
}

// TestLapsedFromCopies: what has lapsed, and what was declined, has no key any more.
func TestLapsedFromCopies(t *testing.T) {
	w := newWorld(t)
	lapsed, declined := w.ask(once.Previewed), w.ask(once.Previewed)
	if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
		t.Fatal(err)
	}
	before := [2]string{copyStore(t, w.dirs[0]), copyStore(t, w.dirs[1])}
	w.open()
	w.decide(declined, once.Declined, once.Declined)
	w.now = w.now.Add(25 * time.Hour)
	w.restart() // which sweeps
	for id, want := range map[string]once.State{lapsed: once.Expired, declined: once.Declined} {
		if s, err := w.town.Find(desk, id); err != nil || s.State != want {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
		t.Fatal(err)
	}
	for i, dir := range before {
		raw := must(os.ReadFile(filepath.Join(w.dirs[i], "erasure.keys")))
		if err := os.WriteFile(filepath.Join(dir, "erasure.keys"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.dirs, w.now = before, start
	w.open()
	for _, id := range []string{lapsed, declined} {
		_, err := w.town.Find(desk, id)
		refused(t, err, "unknown_request")
		_, err = w.reg.Erase(t.Context(), id, "Act 9")
		refused(t, err, "unknown_request")
	}
}

// TestNoteLater: an erasure whose note could not be made, or that a crash cut off before,
// is noted by itself, once what it is about is gone.
func TestNoteLater(t *testing.T) {
	w := newWorld(t)
	id := w.ask(once.Previewed)
	w.decide(id, once.Declined, once.Declined)
	crashed := ""
	w.log = errors.New("the log does not run yet")
	w.atNote = func() { crashed = copyStore(t, w.dirs[0]) }
	if _, err := w.town.Erase(t.Context(), id, "Act 9"); err == nil {
		t.Fatal("a note was made")
	}
	w.log = nil
	if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{w.dirs[0], crashed} {
		w.dirs[0], w.noted = dir, nil
		w.open()
		_, err := w.town.Find(desk, id)
		refused(t, err, "erased")
		ctx, stop := context.WithCancel(t.Context())
		w.atNote = stop // Run ends after the note
		if err := w.town.Run(ctx); err != nil {
			t.Fatal(err)
		}
		_, err = w.town.Erase(t.Context(), id, "another ground")
		refused(t, err, "erased")
		if !slices.Equal(w.noted, []string{"request " + id + ": Act 9"}) {
			t.Errorf("notes %q", w.noted)
		}
		if err := errors.Join(w.town.Close(), w.reg.Close()); err != nil {
			t.Fatal(err)
		}
	}
	// What is left of it goes after a year, like all that is known of requests.
	w.atNote = nil
	w.now = w.now.Add(500 * 24 * time.Hour)
	w.open()
	_, err := w.town.Find(desk, id)
	refused(t, err, "unknown_request")
}
