package process_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// keepNote is the evidence log's part.
func (b *body) keepNote(_ context.Context, what, ground string) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.note != nil {
		return b.note(what, ground)
	}
	b.noted = append(b.noted, what+": "+ground)
	return uint64(len(b.noted)), nil
}

// copyStore copies a store as it is on disk.
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

// holds are the files below a folder that hold one of some texts.
func holds(t *testing.T, dir string, texts ...string) (out []string) {
	t.Helper()
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
	return out
}

// TestErase: what a body has of an instance is gone, from its files and with the keys of
// after from a copy of before; everything else is as it was, and nothing comes back.
func TestErase(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", registerWork)
	id, other := a.begin(), a.begin()
	for _, id := range []string{id, other} {
		a.await(id, ended)
		b.await(id, func(s *process.InstanceStatus) bool { return ended(s) && fact(s, "born").Value != nil })
	}
	b.close()
	before := copyStore(t, b.dir)
	b.start()
	// 1. It is erased once, by a body that has a part, and noted.
	n, err := b.r.Erase(t.Context(), id, "Act 9")
	if err != nil || n != 1 || !slices.Equal(b.noted, []string{"instance " + id + ": Act 9"}) {
		t.Fatalf("erasure %d, %v, notes %q", n, err, b.noted)
	}
	var gone *process.ErasedError
	if _, err := b.r.Erase(t.Context(), id, "Act 9"); !errors.As(err, &gone) || gone.Number != 1 {
		t.Errorf("again: %v", err)
	}
	var missing *process.NotFoundError
	if _, err := b.r.Erase(t.Context(), strings.Repeat("0", 32), "Act 9"); !errors.As(err, &missing) {
		t.Errorf("unknown: %v", err)
	}
	// 2. Nothing of it is left, here.
	check := func(b *body, erased bool) {
		t.Helper()
		for _, f := range []string{"age", "born", "number"} {
			s, err := b.r.Status(b.sub, id)
			if err != nil || !fact(s, f).Sealed || fact(s, f).Value != nil || (s.Erased != nil) != erased {
				t.Errorf("%s of the erased one: %+v, %v", f, s, err)
			}
			if s, err = b.r.Status(b.sub, other); err != nil || fact(s, f).Value == nil || s.Erased != nil {
				t.Errorf("%s of the other one: %+v, %v", f, s, err)
			}
		}
	}
	check(b, true)
	if s := must(a.r.Status(a.sub, id)); fact(s, "born").Value != "2019-02-03" {
		t.Errorf("the other body has lost it: %+v", s)
	}
	if found := holds(t, b.dir, "2019-02-03", `"text"`, `"salt"`, "commitment"); found != nil {
		t.Error(found)
	}
	// 3. What comes late is not taken, and is not tried again.
	for _, text := range w.sent {
		if !strings.Contains(string(text), id) {
			continue
		}
		req := httptest.NewRequest(http.MethodPost, "/facts", bytes.NewReader(text))
		req.Header.Set(civibus.HeaderClient, subsystems["office"])
		rec := httptest.NewRecorder()
		if strings.Contains(string(text), `"step":"notify"`) {
			if b.r.Inbox().ServeHTTP(rec, req); rec.Code != http.StatusConflict || !strings.Contains(rec.Body.String(), `"erased"`) {
				t.Errorf("a late fact: %d %s", rec.Code, rec.Body)
			}
		}
	}
	check(b, true)
	b.close()
	b.open()
	check(b, true)
	if err := b.r.Close(); err != nil {
		t.Fatal(err)
	}
	// 4. A copy of before has it until the keys are replaced, with its own keys.
	dir := b.dir
	b.dir = before
	b.open()
	if s := must(b.r.Status(b.sub, id)); fact(s, "born").Value != "2019-02-03" {
		t.Errorf("a copy with its own keys: %+v", s)
	}
	err = b.r.Close()
	raw := must(os.ReadFile(filepath.Join(dir, "erasure.keys")))
	if err = errors.Join(err, os.WriteFile(filepath.Join(before, "erasure.keys"), raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	b.open()
	check(b, false) // it knows of no erasure
	if err := b.r.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEraseEarly: while an instance goes on a body may erase it if it has nothing to do
// any more, nothing to take back and nothing to show, and not before.
func TestEraseEarly(t *testing.T) {
	w := newWorld(t)
	hour := definition.Duration(time.Hour)
	d := &definition.Definition{
		Format: definition.Format, ID: "case", Version: 2, Title: "A case", Law: definition.Law{Act: "Act"},
		Roles: []definition.Role{{ID: "office", Title: "Office"}, {ID: "register", Title: "Register"}},
		Facts: []definition.Fact{{ID: "number", Title: "Number", Type: definition.Hash}},
		Steps: []definition.Step{
			{ID: "enter", Title: "Enter", From: "register", To: "office", Kind: definition.ServiceStep, Service: "enter", Yields: []string{"number"}, Deadline: hour, Final: true},
			{ID: "pay", Title: "Pay", From: "office", Kind: definition.ServiceStep, Service: "pay", Needs: &definition.Needs{All: []string{"enter"}}, Uses: []string{"number"}, Deadline: hour, Final: true},
		},
		Ends: []definition.End{{ID: "closed", Title: "Closed"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
	}
	const id2 = "TEST/GOV/A/case/2"
	if out, err := w.submit("A", &registrypb.Tx{Body: &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: "TEST/GOV/A", Definition: must(d.Encode())}}}); err != nil || out.Code != registry.OK {
		t.Fatal(out, err)
	}
	for role, subsystem := range subsystems {
		by := must(civibus.ParseClientID(subsystem)).Code
		if out, err := w.submit(by, &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: id2, Role: role, Subsystem: subsystem}}}); err != nil || out.Code != registry.OK {
			t.Fatal(out, err)
		}
	}
	if out, err := w.submit("A", &registrypb.Tx{Body: &registrypb.Tx_ApproveRole{ApproveRole: &registrypb.ApproveRole{Process: id2, Role: "register", Subsystem: subsystems["register"]}}}); err != nil || out.Code != registry.OK {
		t.Fatal(out, err)
	}
	cut := func(is bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cut["A"] = is
	}
	a := w.join("A", "office", func(process.Turn) (int, string) { return 202, "" })
	b := w.join("B", "register", func(process.Turn) (int, string) { return 202, "" })
	cut(true)
	id := must(b.r.Start(t.Context(), b.sub, &process.Beginning{Process: id2, Parts: subsystems}))
	erase := func(b *body, want string) {
		t.Helper()
		var early *process.NotEndedError
		if _, err := b.r.Erase(t.Context(), id, "Act 9"); !errors.As(err, &early) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	erase(b, "step enter is open")
	if err := b.r.Report(t.Context(), b.sub, id, "enter", 1, &process.Report{Outcome: "done", Facts: map[string]any{"number": strings.Repeat("ab", 32)}}); err != nil {
		t.Fatal(err)
	}
	erase(b, "another body is still to be shown a fact")
	cut(false)
	waitFor(t, func() bool {
		w.later(100 * time.Millisecond)
		s, err := a.r.Status(a.sub, id)
		return err == nil && fact(s, "number").Value != nil
	})
	erase(a, "step pay is open")
	waitFor(t, func() bool { // the register knows a moment later that it was taken
		_, err := b.r.Erase(t.Context(), id, "Act 9")
		return err == nil
	})
	if err := a.r.Report(t.Context(), a.sub, id, "pay", 1, &process.Report{Outcome: "done"}); err != nil {
		t.Fatal(err)
	}
	if s := b.await(id, ended); !fact(s, "number").Sealed {
		t.Errorf("%+v", s)
	}
}

// TestNoteLater: an erasure whose note could not be made, or that a crash cut off before,
// is noted by itself; and not before what it is about is gone.
func TestNoteLater(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	b := w.join("B", "register", registerWork)
	id := a.begin()
	b.await(id, func(s *process.InstanceStatus) bool { return ended(s) && fact(s, "born").Value != nil })
	var crashed string
	b.mu.Lock()
	b.note = func(string, string) (uint64, error) {
		if crashed == "" {
			crashed = copyStore(t, b.dir)
		}
		return 0, errors.New("the log does not run yet")
	}
	b.mu.Unlock()
	if _, err := b.r.Erase(t.Context(), id, "Act 9"); err == nil || !strings.Contains(err.Error(), "its note is made later") {
		t.Fatal(err)
	}
	b.close()
	b.mu.Lock()
	b.note = nil
	b.mu.Unlock()
	for _, dir := range []string{b.dir, crashed} {
		b.dir, b.noted = dir, nil
		b.start()
		if s := must(b.r.Status(b.sub, id)); s.Erased == nil || !fact(s, "born").Sealed {
			t.Errorf("%+v", s)
		}
		var gone *process.ErasedError
		waitFor(t, func() bool {
			_, err := b.r.Erase(t.Context(), id, "another ground")
			return errors.As(err, &gone) && gone.Number == 1
		})
		b.close()
		if !slices.Equal(b.noted, []string{"instance " + id + ": Act 9"}) {
			t.Errorf("notes %q", b.noted)
		}
	}
}

// TestBackupIsSealed: a backup of the facts has none in clear, and not their keys.
func TestBackupIsSealed(t *testing.T) {
	w := newWorld(t)
	a := w.join("A", "office", officeWork)
	w.join("B", "register", registerWork)
	a.await(a.begin(), ended)
	var all bytes.Buffer
	var names []string
	put := func(name string, _ int64, content io.Reader) error {
		names = append(names, name)
		_, err := io.Copy(&all, content)
		return err
	}
	if err := a.r.Backup(t.Context(), put, "process"); err != nil {
		t.Fatal(err)
	}
	if len(names) < 2 || slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, "erasure.keys") }) {
		t.Errorf("%q", names)
	}
	if !bytes.Contains(all.Bytes(), []byte("/born")) {
		t.Error("the fact is not in the backup")
	}
	for _, text := range []string{"2019-02-03", "salt", "commitment"} {
		if bytes.Contains(all.Bytes(), []byte(text)) {
			t.Errorf("%s is in the backup in clear", text)
		}
	}
}
