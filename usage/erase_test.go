package usage_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/archive"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/shred"
	"github.com/civibus/civibus/usage"
)

type logKey struct{ private ed25519.PrivateKey }

func (k logKey) Key() civibus.PublicKey {
	public, err := civibus.NewPublicKey(k.private.Public())
	if err != nil {
		panic(err)
	}
	return public
}

func (k logKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private, message), nil
}

// register is a body with a real evidence log, with bodies, and a real store.
type register struct {
	t       testing.TB
	dir     string
	keeper  *usage.Keeper
	log     *evidence.Log
	store   *usage.Store
	records map[string][]made // of each person
}

// made is what an exchange about a person left.
type made struct {
	exchange string
	body     []byte
	entry    evidence.Entry
}

func newRegister(t testing.TB) *register {
	r := &register{t: t, dir: t.TempDir(), records: map[string][]made{}}
	var err error
	if r.keeper, err = usage.NewKeeper(filepath.Join(r.dir, "usage.key"), nil); err != nil {
		t.Fatal(err)
	}
	r.open()
	return r
}

func (r *register) open() {
	r.t.Helper()
	seed := sha256.Sum256([]byte("log key"))
	var err error
	r.log, err = evidence.Open(context.Background(), evidence.Config{
		Dir: filepath.Join(r.dir, "evidence"), Origin: "civibus/TEST/GOV/OFFICE/evidence/1", Signer: logKey{ed25519.NewKeyFromSeed(seed[:])},
		BatchAge: time.Millisecond, CheckpointInterval: time.Millisecond, Archive: evidence.ArchiveEncrypted,
	})
	if err == nil {
		r.store, err = usage.Open(usage.Config{Dir: filepath.Join(r.dir, "usage"), Keeper: r.keeper})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *register) close() {
	r.t.Helper()
	if err := errors.Join(r.store.Close(), r.log.Close(context.Background())); err != nil {
		r.t.Fatal(err)
	}
}

// exchange is one that concerns a person.
func (r *register) exchange(person string) {
	r.t.Helper()
	n := len(r.records[person])
	body := fmt.Appendf(nil, `{"code":%q,"question":%d}`, person, n)
	b, err := r.log.NewBody(r.t.Context(), "", evidencepb.Side_SIDE_PROVIDER)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := b.Write(body); err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", person, n, r.dir))
	rec := &evidencepb.Record{
		Version: 1, Side: evidencepb.Side_SIDE_PROVIDER, ExchangeId: hex.EncodeToString(sum[:16]), Client: "TEST/MUN/TOWN/desk", Service: "TEST/GOV/OFFICE/register/persons",
		Request: &evidencepb.Seal{Base: []byte(`"@path": /persons/` + person), Signature: make([]byte, 64)}, PeerKeyId: make([]byte, 32), FinishedUnixNano: 1,
	}
	if rec.RequestBody, err = b.Commit(); err != nil {
		r.t.Fatal(err)
	}
	beside, c, err := r.keeper.Make(&usage.Use{
		Exchange: rec.ExchangeId, Client: rec.Client, Service: rec.Service, Subject: person, Time: time.Unix(1_900_000_000, int64(n)), Case: "case of " + person,
		Right: &civibus.AccessRight{ID: "r", Purpose: "permit", LegalBasis: "Act 1", Sentence: "The town looked.", Disclosure: civibus.Shown},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	rec.Usage = c[:]
	if err := r.log.AppendBeside(r.t.Context(), rec, beside); err != nil {
		r.t.Fatal(err)
	}
	r.records[person] = append(r.records[person], made{exchange: rec.ExchangeId, body: body})
}

// settle waits until all is under a checkpoint and in the index, with the other bodies'
// halves and a case of each person.
func (r *register) settle() {
	r.t.Helper()
	for {
		changed := r.log.Changed()
		if _, size, _ := r.log.Checkpoint(); size == r.log.Appended() {
			break
		}
		<-changed
	}
	if err := r.store.CatchUp(r.t.Context(), r.log); err != nil {
		r.t.Fatal(err)
	}
	for person, all := range r.records {
		for i, m := range all {
			found, err := r.log.Find(m.exchange)
			if err != nil || len(found) != 1 {
				r.t.Fatalf("%v, %v", found, err)
			}
			all[i].entry = found[0]
			half := append([]byte("\x0ahalf about "+person+" "), found[0].Record...)
			if err := r.log.PutCounterparts([]evidence.Counterpart{{ExchangeID: m.exchange, Half: half}}); err != nil {
				r.t.Fatal(err)
			}
		}
		if _, err := r.store.Object(person, all[0].entry.Index, "I am "+person+" and object."); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *register) leaves(person string) (out []uint64) {
	for _, m := range r.records[person] {
		out = append(out, m.entry.Index)
	}
	return out
}

// everything is all bytes below folders, and all that opens of them with the keys there.
func everything(t testing.TB, dirs ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, dir := range dirs {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			out.Write(raw)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		reader, err := evidence.OpenReader(filepath.Join(dir, "evidence"))
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range reader.Entries(t.Context(), 0, reader.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			out.Write(e.Salt[:])
			out.Write(e.Beside)
			out.Write(e.Record)
		}
		reader.Close()
		keys, err := shred.OpenReader(filepath.Join(dir, "evidence", "erasure.keys"))
		if err != nil {
			t.Fatal(err)
		}
		bodies := filepath.Join(dir, "evidence", "bodies")
		a, err := archive.OpenReader(bodies, filepath.Join(dir, "evidence", "archive.key"), keys)
		if err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(bodies, "*", "*.body"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			rel, _ := filepath.Rel(bodies, strings.TrimSuffix(name, ".body"))
			if body, err := a.Read(filepath.ToSlash(rel)); err == nil {
				_, _ = io.Copy(&out, body)
				body.Close()
			} else if !errors.Is(err, shred.ErrDestroyed) {
				t.Fatal(err)
			}
		}
	}
	return out.Bytes()
}

// links is what somebody finds in bytes who has all of them, every key that is left, the
// person's identifier and, of each of her exchanges, all but the salts.
func links(have []byte, r *register, person string) (out []string) {
	id := []byte(person)
	tag := r.keeper.Tag(person)
	s1, m5, s2, s5 := sha1.Sum(id), md5.Sum(id), sha256.Sum256(id), sha512.Sum512(id)
	for name, mark := range map[string][]byte{
		"the identifier": id, "in hex": []byte(hex.EncodeToString(id)), "in base64": []byte(base64.StdEncoding.EncodeToString(id))[:4*(len(id)/3)],
		"reversed": reversed(id), "SHA-1": s1[:], "MD5": m5[:], "SHA-256": s2[:], "SHA-512": s5[:], "SHA-256 in hex": []byte(hex.EncodeToString(s2[:])), "the body's tag": tag[:],
	} {
		if bytes.Contains(have, mark) {
			out = append(out, name)
		}
	}
	// Any salt that is left anywhere, tried on the leaf.
	leaves := map[[33]byte]bool{}
	for _, m := range r.records[person] {
		leaves[[33]byte(m.entry.Leaf())] = true
	}
	zero := make([]byte, 16)
	for _, m := range r.records[person] {
		for at := 0; at+16 <= len(have); at++ {
			if salt := have[at : at+16]; !bytes.Equal(salt, zero) && leaves[[33]byte(evidence.Leaf([16]byte(salt), m.entry.Record))] {
				return append(out, "a salt of its leaf")
			}
		}
	}
	return out
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// TestNothingLinksToThePersonErased is the property that erasure stands for: with all
// bytes that are public, all that the body has left, with every key, and a backup of
// before, and with the register of the whole population and even the content of the
// exchanges, nothing links to the person; with what there was before, everything does.
func TestNothingLinksToThePersonErased(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 3 {
		r := newRegister(t)
		var people []string
		for i := range 2 + random.IntN(4) {
			people = append(people, fmt.Sprintf("%02d%010d", i+10, random.Uint64N(1e10)))
		}
		for range 1 + random.IntN(12) {
			r.exchange(people[random.IntN(len(people))])
		}
		for _, p := range people {
			r.exchange(p)
		}
		r.settle()
		gone := people[random.IntN(len(people))]
		until := time.Unix(2_000_000_000, 0)
		_, size, _ := r.log.Checkpoint()
		before, err := r.store.Sum(1, 0, size, until)
		if err != nil {
			t.Fatal(err)
		}
		r.close()

		// 1. A backup has all but the erasure keys, and before the erasure everything links.
		backup := filepath.Join(t.TempDir(), "backup")
		if err := os.CopyFS(backup, os.DirFS(r.dir)); err != nil {
			t.Fatal(err)
		}
		if found := links(everything(t, r.dir), r, gone); !slices.Contains(found, "the identifier") || !slices.Contains(found, "a salt of its leaf") || !slices.Contains(found, "the body's tag") {
			t.Fatalf("before the erasure only %q links: the test sees nothing", found)
		}

		// 2. Erased.
		r.open()
		e, err := r.log.Erase(t.Context(), r.leaves(gone), "GDPR Article 17(1)")
		if err == nil {
			err = r.store.CatchUp(t.Context(), r.log)
		}
		if err != nil {
			t.Fatal(err)
		}
		if page, err := r.store.Find(usage.Query{Subject: gone, All: true}); err != nil || len(page.Items) != 0 {
			t.Errorf("she is found: %v, %v", page, err)
		}
		after, err := r.store.Sum(1, 0, size, until)
		if err != nil || after != before {
			t.Errorf("the period %+v is now %+v, %v", before, after, err)
		}
		for _, p := range people {
			cases, err := r.store.Objections(100)
			if has := slices.ContainsFunc(cases, func(o usage.Objection) bool { return strings.Contains(o.Text, p) }); err != nil || has != (p != gone) {
				t.Errorf("the case of %s is there: %v, %v", p, has, err)
			}
			page, err := r.store.Find(usage.Query{Subject: p, All: true})
			if err != nil || p != gone && len(page.Items) != len(r.records[p]) {
				t.Errorf("%s has %d records, %v", p, len(page.Items), err)
			}
			for _, f := range page.Items {
				if _, ok, err := r.store.Prove(f); ok || err != nil {
					t.Errorf("no period is anchored: %v %v", ok, err)
				}
			}
		}
		// The database's own records name the bounds of its files until it starts again.
		r.close()
		r.open()
		r.close()

		// 3. The backup is opened with the keys that are left.
		for _, name := range []string{"evidence", "usage"} {
			keys, err := os.ReadFile(filepath.Join(r.dir, name, "erasure.keys"))
			if err == nil {
				err = errors.Join(os.Remove(filepath.Join(backup, name, "erasure.keys")), os.WriteFile(filepath.Join(backup, name, "erasure.keys"), keys, 0o600))
			}
			// The index is derived and in no backup.
			if err = errors.Join(err, os.RemoveAll(filepath.Join(backup, "usage", "index"))); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(backup, "evidence", "archive.key"), 0o600); err != nil {
			t.Fatal(err)
		}
		have := append(everything(t, r.dir, backup), e.Note...)
		if found := links(have, r, gone); len(found) > 0 {
			t.Errorf("after the erasure %q links", found)
		}
		for _, p := range people {
			if found := links(have, r, p); p != gone && !slices.Contains(found, "a salt of its leaf") {
				t.Errorf("of %s, who was not erased, only %q is left", p, found)
			}
		}
		report, err := evidence.Fsck(t.Context(), filepath.Join(r.dir, "evidence"), evidence.FsckOptions{})
		if err != nil || !report.OK() || report.Erased != uint64(len(r.records[gone])) {
			t.Errorf("%+v, %v", report, err)
		}

		// 4. An index that is built again has the same periods.
		if err := os.RemoveAll(filepath.Join(r.dir, "usage", "index")); err != nil {
			t.Fatal(err)
		}
		r.open()
		if err := r.store.CatchUp(t.Context(), r.log); err != nil {
			t.Fatal(err)
		}
		if again, err := r.store.Sum(1, 0, size, until); err != nil || again != before {
			t.Errorf("built again, the period %+v is %+v, %v", before, again, err)
		}
		r.close()
	}
}

// TestCorrection: a correction supersedes a record and is linked with it both ways; the
// person it did not concern is told so; both go together.
func TestCorrection(t *testing.T) {
	r := newRegister(t)
	r.exchange("anna")
	r.settle()
	find := func(person string) []usage.Usage {
		t.Helper()
		for {
			changed := r.log.Changed()
			if _, size, _ := r.log.Checkpoint(); size == r.log.Appended() {
				break
			}
			<-changed
		}
		if err := r.store.CatchUp(t.Context(), r.log); err != nil {
			t.Fatal(err)
		}
		page, err := r.store.Find(usage.Query{Subject: person})
		if err != nil {
			t.Fatal(err)
		}
		var out []usage.Usage
		for _, f := range page.Items {
			out = append(out, usage.Show(f, nil))
		}
		return out
	}
	correct := func(person string, leaf uint64, c usage.Change) error {
		t.Helper()
		old, err := r.store.Get(person, leaf, true)
		if err != nil {
			return err
		}
		rec, beside, err := r.store.Correct(old, c)
		if err != nil {
			return err
		}
		return r.log.AppendBeside(t.Context(), rec, beside)
	}
	if err := correct("anna", 0, usage.Change{Subject: "vera", Reason: "The clerk mistook the number."}); err != nil {
		t.Fatal(err)
	}
	if u := find("anna"); len(u) != 1 || u[0].SupersededBy != "1" || u[0].Supersedes != "" {
		t.Errorf("anna is shown %+v", u)
	}
	if u := find("vera"); len(u) != 1 || u[0].Supersedes != "0" || u[0].Reason != "The clerk mistook the number." || u[0].Action != "The town looked." {
		t.Errorf("vera is shown %+v", u)
	}
	if err := correct("anna", 0, usage.Change{Case: "8", Reason: "again"}); err == nil || !strings.Contains(err.Error(), "was corrected by record 1") {
		t.Errorf("the superseded record is corrected again: %v", err)
	}
	if err := correct("vera", 1, usage.Change{Sentence: "The town looked up an address.", Reason: "The sentence was not clear."}); err != nil {
		t.Fatal(err)
	}
	if u := find("vera"); len(u) != 2 || u[0].ID != "1" || u[1].ID != "2" || u[1].Supersedes != "1" || u[0].SupersededBy != "2" || u[1].Action != "The town looked up an address." {
		t.Errorf("vera is shown %+v", u)
	}
	for _, c := range []usage.Change{{Reason: "nothing else"}, {Case: "8"}, {Case: "8", Reason: strings.Repeat("x", 1001)}, {Case: "8", Reason: " blank"}, {Sentence: "\xff", Reason: "x"}} {
		if err := correct("vera", 2, c); err == nil || !strings.Contains(err.Error(), "the rule is") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	found, err := r.store.Get("vera", 1, true)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := r.store.Chain(found)
	if err != nil || !slices.Equal(chain, []uint64{0, 1, 2}) {
		t.Fatalf("chain %v, %v", chain, err)
	}
	if _, err := r.log.Erase(t.Context(), chain, "Act 1"); err != nil {
		t.Fatal(err)
	}
	if u := append(find("anna"), find("vera")...); len(u) != 0 {
		t.Errorf("left: %+v", u)
	}
	r.close()
}
