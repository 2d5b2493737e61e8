package evidence_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashDirVariable) != "" {
		crashChild()
		return
	}
	// goleveldb lets its buffers go a second after it was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

const origin = "civibus/DEMO/GOV/1001/evidence/1"

// signer is a log key in memory.
type signer struct {
	private ed25519.PrivateKey
	public  civibus.PublicKey
}

func newSigner() signer {
	seed := sha256.Sum256([]byte("log key of the tests"))
	private := ed25519.NewKeyFromSeed(seed[:])
	public, err := civibus.NewPublicKey(private.Public())
	if err != nil {
		panic(err)
	}
	return signer{private, public}
}

func (s signer) Key() civibus.PublicKey { return s.public }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.private, message), nil
}

func config(dir string) evidence.Config {
	return evidence.Config{
		Dir: dir, Origin: origin, Signer: newSigner(),
		BatchAge: 5 * time.Millisecond, CheckpointInterval: 10 * time.Millisecond,
		Statfs: func(string) (uint64, error) { return 1 << 40, nil },
	}
}

func open(t testing.TB, c evidence.Config) *evidence.Log {
	t.Helper()
	l, err := evidence.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func closeLog(t testing.TB, l *evidence.Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// record is a record as a gateway makes it.
func record(id string) *evidencepb.Record {
	seal := func(what string) *evidencepb.Seal {
		return &evidencepb.Seal{Base: []byte(strings.Repeat("\"@method\": "+what+"\n", 20)), Signature: make([]byte, 64), KeyId: make([]byte, 32)}
	}
	return &evidencepb.Record{
		Version: 1, Side: evidencepb.Side_SIDE_CONSUMER, ExchangeId: id, MessageId: "m-" + id,
		Client: "DEMO/GOV/1001/SYS", Service: "DEMO/GOV/1002/REG/persons", RegistryHeight: 7,
		Outcome: evidencepb.Outcome_OUTCOME_ANSWERED, Status: 200,
		Request: seal("POST"), Response: seal("200"),
		StartedUnixNano: 1, FinishedUnixNano: 2, PeerKeyId: make([]byte, 32),
	}
}

func add(t testing.TB, l *evidence.Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Append(context.Background(), record(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func ids(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// await waits for a condition that changes with checkpoints and anchors.
func await(t testing.TB, l *evidence.Log, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		changed := l.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not within 20 s; status %+v", what, l.Status())
		}
	}
}

func awaitSize(t testing.TB, l *evidence.Log, size uint64) {
	t.Helper()
	await(t, l, fmt.Sprintf("checkpoint of %d", size), func() bool {
		_, s, _ := l.Checkpoint()
		return s >= size
	})
}

func fsck(t testing.TB, dir string) *evidence.Report {
	t.Helper()
	r, err := evidence.Fsck(context.Background(), dir, evidence.FsckOptions{PublicKeys: []civibus.PublicKey{newSigner().public}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func clean(t testing.TB, dir string) *evidence.Report {
	t.Helper()
	r := fsck(t, dir)
	if !r.OK() {
		t.Fatalf("fsck found %+v", r.Problems)
	}
	return r
}

// A record is found at once, becomes a leaf, and its proof verifies under the
// signed checkpoint with an independent implementation, also after reopening.
func TestRecordToProof(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	all := ids("x", 700)
	add(t, l, all...)
	for _, id := range all[690:] {
		found, err := l.Find(id)
		if err != nil || len(found) != 1 {
			t.Fatalf("find %s right after it was appended: %d entries, %v", id, len(found), err)
		}
	}
	awaitSize(t, l, 700)
	check := func(l *evidence.Log) {
		t.Helper()
		text, size, root := l.Checkpoint()
		v, err := note.NewVerifier(l.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(text, note.VerifierList(v)); err != nil {
			t.Fatal(err)
		}
		for _, id := range all {
			found, err := l.Find(id)
			if err != nil || len(found) != 1 || !found[0].Integrated {
				t.Fatalf("find %s: %+v, %v", id, found, err)
			}
			e := found[0]
			want, _ := proto.MarshalOptions{Deterministic: true}.Marshal(record(id))
			if !bytes.Equal(e.Record, want) {
				t.Fatalf("record of %s was changed", id)
			}
			proof, err := l.Inclusion(e.Index, size)
			if err != nil {
				t.Fatal(err)
			}
			var p tlog.RecordProof
			for _, h := range proof {
				p = append(p, tlog.Hash(h))
			}
			sum := sha256.Sum256(append(e.Salt[:], e.Record...))
			if err := tlog.CheckRecord(p, int64(size), tlog.Hash(root), int64(e.Index), tlog.RecordHash(append([]byte{1}, sum[:]...))); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(l)
	closeLog(t, l)
	r := clean(t, dir)
	if r.Records != 700 || r.Size != 700 || r.Pending != 0 {
		t.Fatalf("fsck counts %+v", r)
	}
	check(open(t, config(dir)))
}

// Records that are appended at the same time share memory one after the other;
// each is kept as it was, whatever its length.
func TestManyAtOnce(t *testing.T) {
	c := config(t.TempDir())
	l := open(t, c)
	written := func(worker, i int) *evidencepb.Record {
		r := record(fmt.Sprintf("%d-%d", worker, i))
		r.Request.Base = bytes.Repeat([]byte{byte('a' + worker)}, 1+(worker*977+i*131)%9000)
		return r
	}
	const workers, each = 8, 25
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := range each {
				if err := l.Append(context.Background(), written(worker, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	awaitSize(t, l, workers*each)
	for worker := range workers {
		for i := range each {
			want := written(worker, i)
			found, err := l.Find(want.ExchangeId)
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: %d entries, %v", want.ExchangeId, len(found), err)
			}
			got := new(evidencepb.Record)
			if err := proto.Unmarshal(found[0].Record, got); err != nil || !proto.Equal(got, want) {
				t.Fatalf("%s: %v %v, want %v", want.ExchangeId, err, got, want)
			}
		}
	}
	closeLog(t, l)
	clean(t, c.Dir)
}

func TestBothSidesAndRepeats(t *testing.T) {
	l := open(t, config(t.TempDir()))
	provider := record("same")
	provider.Side = evidencepb.Side_SIDE_PROVIDER
	for _, r := range []*evidencepb.Record{record("same"), provider, record("same"), record("same-but-longer")} {
		if err := l.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		found, err := l.Find("same")
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if n := count(); n != 3 {
		t.Fatalf("%d entries before integration, want 3", n)
	}
	awaitSize(t, l, 4)
	if n := count(); n != 3 {
		t.Fatalf("%d entries after integration, want 3", n)
	}
	if found, err := l.Find("sam"); err != nil || found != nil {
		t.Fatalf("an unknown exchange: %v, %v", found, err)
	}
	n := 0
	for e, err := range l.Entries(context.Background(), 1, 100) {
		if err != nil || e.Index != uint64(n+1) {
			t.Fatalf("entry %+v, %v", e, err)
		}
		n++
	}
	if n != 3 {
		t.Fatalf("%d entries from 1 on, want 3", n)
	}
}

func TestBadRecords(t *testing.T) {
	l := open(t, config(t.TempDir()))
	for name, change := range map[string]func(*evidencepb.Record){
		"version": func(r *evidencepb.Record) { r.Version = 2 },
		"side":    func(r *evidencepb.Record) { r.Side = 0 },
		"no id":   func(r *evidencepb.Record) { r.ExchangeId = "" },
		"long id": func(r *evidencepb.Record) { r.ExchangeId = strings.Repeat("x", 256) },
		"utf-8":   func(r *evidencepb.Record) { r.Client = "\xff" },
	} {
		r := record("bad")
		change(r)
		if err := l.Append(context.Background(), r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := l.Append(context.Background(), nil); err == nil {
		t.Error("no record: accepted")
	}
}

func TestConfigProblemsTogether(t *testing.T) {
	_, err := evidence.Open(context.Background(), evidence.Config{Origin: "civibus/a b/evidence/0", Archive: "all", BatchAge: time.Hour, RecordRetention: -1})
	for _, want := range []string{"dir is empty", "origin", "log key", "archive policy", "batch age", "retention"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q: %v", want, err)
		}
	}
}

func TestOneProcessOneOrigin(t *testing.T) {
	dir := t.TempDir()
	l := open(t, config(dir))
	if _, err := evidence.Open(context.Background(), config(dir)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("opened twice: %v", err)
	}
	if _, err := evidence.Fsck(context.Background(), dir, evidence.FsckOptions{}); err == nil {
		t.Fatal("checked while open")
	}
	add(t, l, "a")
	closeLog(t, l)
	closeLog(t, l) // twice is once
	if err := l.Append(context.Background(), record("b")); err == nil {
		t.Fatal("appended to a closed log")
	}
	if f := new(civibus.Fault); !errors.As(l.Admit(), &f) || f.Code != civibus.FaultEvidence {
		t.Fatalf("a closed log admits: %v", l.Admit())
	}
	c := config(dir)
	c.Origin = "civibus/DEMO/GOV/1001/evidence/2"
	if _, err := evidence.Open(context.Background(), c); err == nil || !strings.Contains(err.Error(), "belongs to") {
		t.Fatalf("opened under another origin: %v", err)
	}
}

func TestBodies(t *testing.T) {
	dir := t.TempDir()
	for _, policy := range []evidence.ArchivePolicy{evidence.ArchiveNone, evidence.ArchiveDigest, evidence.ArchiveEncrypted} {
		c := config(filepath.Join(dir, string(policy)))
		c.Archive = policy
		l := open(t, c)
		b, err := l.NewBody(context.Background(), "a", evidencepb.Side_SIDE_CONSUMER)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(b, "one ")
		io.WriteString(b, "body")
		got, err := b.Commit()
		if err != nil {
			t.Fatal(err)
		}
		b.Abort()
		sum := sha256.Sum256([]byte("one body"))
		if got.GetSize() != 8 || (policy != evidence.ArchiveNone) != bytes.Equal(got.GetSha256(), sum[:]) || (policy == evidence.ArchiveEncrypted) != (got.GetArchive() != "") {
			t.Fatalf("%s: %v", policy, got)
		}
		if _, err := b.Write([]byte("x")); err == nil {
			t.Fatalf("%s: a complete body took more", policy)
		}
		if policy == evidence.ArchiveEncrypted {
			r, err := l.OpenBody(got.GetArchive())
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			r.Close()
			if err != nil || string(text) != "one body" {
				t.Fatalf("%q, %v", text, err)
			}
		} else if _, err := l.OpenBody("20261101/" + strings.Repeat("a", 32)); err == nil {
			t.Fatalf("%s: opened a body", policy)
		}
		rec := record("a")
		rec.RequestBody = got
		if err := l.Append(context.Background(), rec); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		if r := clean(t, c.Dir); (r.Bodies == 1) != (policy == evidence.ArchiveEncrypted) {
			t.Fatalf("%s: fsck counts %+v", policy, r)
		}
	}
}

// Records and salts go by whole segments; leaves and later records stay.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	day := 24 * time.Hour
	var days atomic.Int64
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := config(dir)
	c.Clock = func() time.Time { return begin.Add(time.Duration(days.Load()) * day) }
	c.RecordRetention, c.BodyRetention, c.Archive = 30*day, 10*day, evidence.ArchiveEncrypted
	l := open(t, c)
	put := func(id string) {
		t.Helper()
		b, err := l.NewBody(context.Background(), id, evidencepb.Side_SIDE_CONSUMER)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(b, "the secret body of "+id)
		body, err := b.Commit()
		if err != nil {
			t.Fatal(err)
		}
		r := record(id)
		r.RequestBody, r.FinishedUnixNano = body, c.Clock().UnixNano()
		if err := l.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	next := func(n int64) {
		t.Helper()
		days.Add(n)
		if err := l.Expire(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	next(0)
	put("old")
	if err := l.PutCounterparts([]evidence.Counterpart{{ExchangeID: "old", Half: []byte("receipt")}}); err != nil {
		t.Fatal(err)
	}
	awaitStored(t, l, 1)
	next(1) // ends the segment
	put("young")
	awaitStored(t, l, 2)
	next(11)
	e, err := l.Find("old")
	if err != nil || len(e) != 1 {
		t.Fatalf("the record within its retention: %v, %v", e, err)
	}
	var r evidencepb.Record
	if err := proto.Unmarshal(e[0].Record, &r); err != nil {
		t.Fatal(err)
	}
	if _, err := l.OpenBody(r.GetRequestBody().GetArchive()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the body beyond its retention: %v", err)
	}
	copied := filepath.Join(dir+"-copy", "log")
	copyLog(t, copied, dir)
	t.Cleanup(func() { os.RemoveAll(dir + "-copy") })
	next(19) // 31 days after the first, 30 after the second
	if e, err := l.Find("old"); err != nil || e != nil {
		t.Fatalf("the record beyond its retention: %v, %v", e, err)
	}
	if _, err := l.Entry(0); !errors.Is(err, evidence.ErrExpired) {
		t.Fatalf("entry 0: %v", err)
	}
	if c, err := l.Counterpart("old"); err != nil || c != nil {
		t.Fatalf("the counterparty's receipt of a deleted record: %q, %v", c, err)
	}
	if e, err := l.Find("young"); err != nil || len(e) != 1 || e[0].Index != 1 {
		t.Fatalf("the young record: %v, %v", e, err)
	}
	if _, err := l.Inclusion(0, 2); err != nil {
		t.Fatalf("the leaf of a deleted record is gone: %v", err)
	}
	closeLog(t, l)
	report, err := evidence.Fsck(context.Background(), dir, evidence.FsckOptions{BodyRetention: c.BodyRetention, Clock: c.Clock})
	if err != nil || !report.OK() || report.Expired != 1 || report.Records != 1 {
		t.Fatalf("fsck: %+v, %v", report, err)
	}
	// It is gone from a copy of before too, with the erasure keys of now.
	copyKeys(t, copied, dir)
	if report := fsck(t, copied); report.Erased != 1 || report.Records != 1 {
		t.Errorf("the copy: %+v", report)
	}
	l = open(t, c)
	put("again")
	awaitStored(t, l, 3)
}

// awaitStored waits until entries are in the Merkle log, without a checkpoint.
func awaitStored(t *testing.T, l *evidence.Log, size uint64) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for s := l.Status(); s.Size < size || s.Pending > 0; s = l.Status() {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", s)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestReader(t *testing.T) {
	dir := t.TempDir()
	if _, err := evidence.OpenReader(dir); err == nil {
		t.Fatal("read a directory without a log")
	}
	l := open(t, config(dir))
	add(t, l, ids("x", 10)...)
	if _, err := evidence.OpenReader(dir); err == nil {
		t.Fatal("read while open")
	}
	closeLog(t, l)
	r, err := evidence.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if e, err := r.Find("x-3"); err != nil || len(e) != 1 || e[0].Index != 3 {
		t.Fatalf("find: %+v, %v", e, err)
	}
	n := 0
	for e, err := range r.Entries(context.Background(), 0, r.Size()) {
		if err != nil || len(e.Record) == 0 {
			t.Fatal(err)
		}
		n++
	}
	if _, size, _ := r.Checkpoint(); n != 10 || size != 10 || r.Origin() != origin {
		t.Fatalf("%d entries, checkpoint of %d, origin %s", n, size, r.Origin())
	}
}
