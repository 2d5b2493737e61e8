package usage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/usage"
)

// log is an evidence log that is there already: each entry is a leaf.
type log []evidence.Entry

func (l log) Checkpoint() ([]byte, uint64, [32]byte) { return nil, uint64(len(l)), [32]byte{} }
func (l log) Changed() <-chan struct{}               { return make(chan struct{}) }

func (l log) Erasures(uint64, int) ([]evidence.Erasure, error) { return nil, nil }
func (l log) Besides(_ context.Context, from, to uint64) iter.Seq2[evidence.Entry, error] {
	return func(yield func(evidence.Entry, error) bool) {
		for _, e := range l[from:to] {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// body is a body's keeper, its log and its clock.
type body struct {
	t      testing.TB
	keeper *usage.Keeper
	log    log
	now    time.Time
	dir    string
}

func newBody(t testing.TB) *body {
	k, err := usage.NewKeeper(filepath.Join(t.TempDir(), "usage.key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &body{t: t, keeper: k, now: time.Unix(1_900_000_000, 0), dir: t.TempDir()}
}

// use adds an exchange to the log: about a person, or about nobody ("").
func (b *body) use(person string, d civibus.Disclosure, from time.Time) {
	b.now = b.now.Add(time.Second)
	e := evidence.Entry{Index: uint64(len(b.log)), Integrated: true}
	if person != "" {
		beside, _, err := b.keeper.Make(&usage.Use{
			Exchange: fmt.Sprint("x", len(b.log)), Client: "TEST/MUN/TOWN/desk", Service: "TEST/GOV/OFFICE/register/persons", Subject: person, Time: b.now, Case: "7/2026",
			Right: &civibus.AccessRight{ID: "r", Purpose: "permit", LegalBasis: "Act § 1", Sentence: "The town looked.", Disclosure: d, DisclosedFrom: from},
		})
		if err != nil {
			b.t.Fatal(err)
		}
		e.Beside = beside
	}
	b.log = append(b.log, e)
}

func (b *body) open(retention time.Duration) *usage.Store {
	b.t.Helper()
	s, err := usage.Open(usage.Config{Dir: b.dir, Keeper: b.keeper, Retention: retention, Clock: func() time.Time { return b.now }})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = s.Close() })
	if err := s.CatchUp(context.Background(), b.log); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// TestDisclosure: what is shown is shown, newest first; what is shown later appears by
// itself at its date; what is never shown is counted.
func TestDisclosure(t *testing.T) {
	b := newBody(t)
	b.use("anna", civibus.Shown, time.Time{})
	b.use("", 0, time.Time{})
	b.use("anna", civibus.ShownLater, b.now.Add(time.Hour))
	b.use("anna", civibus.NeverShown, time.Time{})
	b.use("boris", civibus.Shown, time.Time{})
	b.use("anna", civibus.Shown, time.Time{})
	s := b.open(0)
	leaves := func(q usage.Query) (out []uint64) {
		t.Helper()
		p, err := s.Find(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.Items {
			out = append(out, f.Leaf)
		}
		return out
	}
	if got := leaves(usage.Query{Subject: "anna"}); fmt.Sprint(got) != "[5 0]" {
		t.Errorf("shown %v", got)
	}
	if got := leaves(usage.Query{Subject: "anna", All: true}); fmt.Sprint(got) != "[5 3 2 0]" {
		t.Errorf("to the body %v", got)
	}
	if _, err := s.Get("anna", 2, false); err != usage.ErrNotFound {
		t.Errorf("a withheld record by its number: %v", err)
	}
	if _, err := s.Get("boris", 0, true); err != usage.ErrNotFound {
		t.Errorf("somebody else's record: %v", err)
	}
	b.now = b.now.Add(2 * time.Hour)
	if got := leaves(usage.Query{Subject: "anna"}); fmt.Sprint(got) != "[5 2 0]" {
		t.Errorf("shown later %v", got)
	}
	p, err := s.Sum(1, 0, 6, b.now)
	if err != nil || p.Shown != 3 || p.Later != 1 || p.Never != 1 {
		t.Errorf("period %+v, %v", p, err)
	}
}

// TestPages: pages follow each other without gaps and without repeats.
func TestPages(t *testing.T) {
	b := newBody(t)
	for range 2500 {
		b.use("anna", civibus.Shown, time.Time{})
	}
	s := b.open(0)
	want, after := uint64(2499), ""
	for _, n := range []int{1000, 1000, 500} {
		p, err := s.Find(usage.Query{Subject: "anna", After: after})
		if err != nil || len(p.Items) != n {
			t.Fatalf("%d items, %v, want %d", len(p.Items), err, n)
		}
		for _, f := range p.Items {
			if f.Leaf != want {
				t.Fatalf("leaf %d, want %d", f.Leaf, want)
			}
			want--
		}
		after = p.Next
	}
	if after != "" {
		t.Errorf("a page after the last: %q", after)
	}
	from, to := b.now.Add(-10*time.Second), b.now.Add(-5*time.Second)
	if p, err := s.Find(usage.Query{Subject: "anna", From: from, To: to}); err != nil || len(p.Items) != 5 || p.Items[0].Time().Add(time.Second) != to.UTC() || p.Items[4].Time() != from.UTC() {
		t.Errorf("a stretch of time has %d, %v", len(p.Items), err)
	}
	for _, q := range []usage.Query{{}, {Subject: strings.Repeat("x", 300)}, {Subject: "x", Limit: 1001}, {Subject: "x", Limit: -1}, {Subject: "x", After: "zz"}} {
		if _, err := s.Find(q); err == nil {
			t.Errorf("%+v is answered", q)
		}
	}
}

// TestProofs: each record of an anchored period is proven to be in it, and one that is
// left out changes the root. The index is derived: built again it is the same.
func TestProofs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBody(t)
		n := rapid.IntRange(1, 40).Draw(rt, "leaves")
		for range n {
			b.use(rapid.SampledFrom([]string{"", "anna", "boris"}).Draw(rt, "person"), civibus.Shown, time.Time{})
		}
		s := b.open(0)
		first := uint64(rapid.IntRange(0, n-1).Draw(rt, "first"))
		p, err := s.Sum(1, first, uint64(n), b.now)
		if err != nil {
			rt.Fatal(err)
		}
		if err := s.Anchored(p); err != nil {
			rt.Fatal(err)
		}
		root, _ := hex.DecodeString(p.Root)
		for _, person := range []string{"anna", "boris"} {
			page, err := s.Find(usage.Query{Subject: person})
			if err != nil {
				rt.Fatal(err)
			}
			for _, f := range page.Items {
				proof, ok, err := s.Prove(f)
				if err != nil || ok != (f.Leaf >= first) {
					rt.Fatalf("leaf %d of %d to %d: %t, %v", f.Leaf, first, n, ok, err)
				}
				if !ok {
					continue
				}
				var path [][32]byte
				for _, h := range proof.Path {
					raw, _ := hex.DecodeString(h)
					path = append(path, [32]byte(raw))
				}
				c := usage.Commit(f.Salt, f.Raw)
				if !usage.VerifyInclusion(c, proof.Index, p.Size(), [32]byte(root), path) {
					rt.Fatalf("leaf %d is not proven", f.Leaf)
				}
				c[0] ^= 1
				if usage.VerifyInclusion(c, proof.Index, p.Size(), [32]byte(root), path) || p.Size() > 1 && usage.VerifyInclusion(usage.Commit(f.Salt, f.Raw), (proof.Index+1)%p.Size(), p.Size(), [32]byte(root), path) {
					rt.Fatal("something else is proven")
				}
			}
		}
		again := *b
		again.dir = t.TempDir()
		if q, err := again.open(0).Sum(1, first, uint64(n), b.now); err != nil || q != p {
			rt.Fatalf("built again: %+v, %v, want %+v", q, err, p)
		}
		if p.Size() > 0 {
			for i := first; i < uint64(n); i++ {
				if len(again.log[i].Beside) > 0 {
					again.log = append(log(nil), again.log...)
					again.log[i].Beside, again.dir = nil, t.TempDir()
					break
				}
			}
			if q, err := again.open(0).Sum(1, first, uint64(n), b.now); err != nil || q.Root == p.Root || q.Size() != p.Size()-1 {
				rt.Fatalf("a record is left out and the root is the same: %v", err)
			}
		}
	})
}

// TestRetention: what has reached its end is gone from the index, and the period's root
// stays what it was.
func TestRetention(t *testing.T) {
	b := newBody(t)
	for range 10 {
		b.use("anna", civibus.Shown, time.Time{})
	}
	s := b.open(time.Hour)
	before, err := s.Sum(1, 0, 10, b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Hour - 4*time.Second)
	if err := s.Expire(context.Background()); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.Find(usage.Query{Subject: "anna"}); len(p.Items) != 5 || p.Items[4].Leaf != 5 {
		t.Errorf("%d records are left", len(p.Items))
	}
	if first, err := s.First(); err != nil || !first.Equal(time.Unix(1_900_000_006, 0)) {
		t.Errorf("the first is of %v, %v", first, err)
	}
	after, err := s.Sum(1, 0, 10, before.Until)
	if err != nil || after != before {
		t.Errorf("period %+v, %v, was %+v", after, err, before)
	}
}

// TestKey: without the body's key nobody is found; a key that others may read, or of
// another length, is refused.
func TestKey(t *testing.T) {
	b := newBody(t)
	b.use("anna", civibus.Shown, time.Time{})
	b.open(0).Close()
	name := filepath.Join(t.TempDir(), "k")
	other, err := usage.NewKeeper(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if other.Tag("anna") == b.keeper.Tag("anna") {
		t.Error("two bodies have the same pseudonym of one person")
	}
	same, err := usage.NewKeeper(name, nil)
	if err != nil || same.Tag("anna") != other.Tag("anna") {
		t.Errorf("the key is another after a restart: %v", err)
	}
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := usage.NewKeeper(name, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	if err := os.WriteFile(name, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(name, 0o600)
	if _, err := usage.NewKeeper(name, nil); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("a short key: %v", err)
	}
	if err := filepath.WalkDir(b.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte("anna")) {
			t.Errorf("%s holds the person's identifier", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestRules: a rule that says nothing, or more than one thing, is refused.
func TestRules(t *testing.T) {
	for _, r := range []usage.Rule{{}, {Path: "/{}", Query: "x"}, {Path: "persons/{}"}, {Path: "/persons"}, {Path: "/{}/{}"}, {Path: "/a{}"}, {Path: "/**/{}"}, {Path: "/{}/a*"}, {JSON: "a..b"}, {JSON: "."}} {
		if r.Validate() == nil {
			t.Errorf("%+v is taken", r)
		}
	}
	for _, r := range []usage.Rule{{Path: "/{}"}, {Path: "/*/{}/x/**"}, {Query: "code"}, {JSON: "a.b"}} {
		if err := r.Validate(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// TestAPI: portals get answers in the form of the data tracker, an objection opens a case
// that the body closes, and bad requests are told what the rule is.
func TestAPI(t *testing.T) {
	b := newBody(t)
	b.use("anna", civibus.Shown, time.Time{})
	b.use("anna", civibus.NeverShown, time.Time{})
	s := b.open(0)
	api := usage.NewAPI(s, func(civibus.MemberID) string { return "The town" })
	call := func(method, target, body string) (int, map[string]any) {
		t.Helper()
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
		var out map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatalf("%s %s: %s", method, target, w.Body)
		}
		return w.Code, out
	}
	code, out := call("POST", "/findUsage", `{"userCode":"anna"}`)
	list, _ := out["usages"].([]any)
	if code != 200 || len(list) != 1 {
		t.Fatalf("%d %v", code, out)
	}
	u := list[0].(map[string]any)
	for name, want := range map[string]string{"logtime": "2030-03-17T17:46:41.000Z", "action": "The town looked.", "receiverCode": "TEST/MUN/TOWN", "receiverName": "The town", "receiverSystem": "desk", "id": "0", "caseReference": "7/2026"} {
		if u[name] != want {
			t.Errorf("%s is %v, want %s", name, u[name], want)
		}
	}
	if code, again := call("GET", "/findUsage?userCode=anna&limit=5", ""); code != 200 || fmt.Sprint(again) != fmt.Sprint(out) {
		t.Errorf("by GET: %d %v", code, again)
	}
	if code, out := call("GET", "/usagePeriod", ""); code != 200 || out["from"] != "2030-03-17T17:46:41Z" || out["to"] != "2030-03-17T17:46:42Z" {
		t.Errorf("usagePeriod: %d %v", code, out)
	}
	if code, out := call("GET", "/heartbeat", ""); code != 200 || out["status"] != "ok" || out["leaves"] != 2.0 {
		t.Errorf("heartbeat: %d %v", code, out)
	}
	if code, _ := call("POST", "/usageProof", `{"userCode":"anna","id":"0"}`); code != 400 {
		t.Errorf("a proof before the anchor: %d", code)
	}
	p, err := s.Sum(1, 0, 2, b.now)
	if err != nil || s.Anchored(p) != nil {
		t.Fatal(err)
	}
	if code, out := call("POST", "/usageProof", `{"userCode":"anna","id":"0"}`); code != 200 || out["index"] != 0.0 || len(out["path"].([]any)) != 1 {
		t.Errorf("proof: %d %v", code, out)
	}
	if code, out := call("POST", "/objection", `{"userCode":"anna","id":"0","text":"I applied for nothing."}`); code != 200 || out["case"] != 1.0 {
		t.Errorf("objection: %d %v", code, out)
	}
	if _, err := s.Answer(1, "You were right."); err != nil {
		t.Error(err)
	}
	if _, err := s.Answer(1, "Again."); err == nil {
		t.Error("a case is closed twice")
	}
	if all, err := s.Objections(9); err != nil || len(all) != 1 || all[0].Answer == "" || all[0].Closed.IsZero() {
		t.Errorf("cases %+v, %v", all, err)
	}
	for _, bad := range []struct {
		method, target, body string
		code                 int
	}{
		{"POST", "/findUsage", `{}`, 400}, {"POST", "/findUsage", `{"user":"anna"}`, 400}, {"POST", "/findUsage", `no`, 400},
		{"POST", "/findUsage", `{"userCode":"anna","limit":1001}`, 400}, {"POST", "/findUsage", `{"userCode":"anna","from":"x"}`, 400},
		{"GET", "/findUsage?userCode=anna&userCode=boris", "", 400}, {"GET", "/findUsage?code=anna", "", 400}, {"GET", "/findUsage?userCode=anna&limit=x", "", 400},
		{"DELETE", "/findUsage", "", 405}, {"GET", "/objection?userCode=anna&id=0", "", 405}, {"GET", "/other", "", 404},
		{"POST", "/objection", `{"userCode":"anna","id":"1","text":"x"}`, 404}, {"POST", "/objection", `{"userCode":"boris","id":"0","text":"x"}`, 404},
		{"POST", "/objection", `{"userCode":"anna","id":"0","text":" "}`, 400}, {"POST", "/usageProof", `{"userCode":"anna","id":"x"}`, 400},
	} {
		code, out := call(bad.method, bad.target, bad.body)
		if code != bad.code || out["detail"] == "" {
			t.Errorf("%s %s %s: %d %v, want %d", bad.method, bad.target, bad.body, code, out, bad.code)
		}
		if code == http.StatusOK || strings.Contains(fmt.Sprint(out["detail"]), "anna") {
			t.Errorf("%s %s: %v", bad.method, bad.target, out)
		}
	}
}

// FuzzBeside: what is kept beside a record is read or refused, never believed in part.
func FuzzBeside(f *testing.F) {
	b := newBody(f)
	b.use("anna", civibus.Shown, time.Time{})
	f.Add([]byte(b.log[0].Beside))
	f.Add(binary.BigEndian.AppendUint64(nil, 7))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := newBody(t)
		c.log = log{{Index: 0, Beside: raw, Integrated: true}}
		s, err := usage.Open(usage.Config{Dir: c.dir, Keeper: c.keeper})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		err = s.CatchUp(context.Background(), c.log)
		next, _ := s.Next()
		if (err == nil) != (next == 1) {
			t.Errorf("error %v, and the index is at %d", err, next)
		}
	})
}
