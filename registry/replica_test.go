package registry_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// drawBody makes a transaction that may or may not be accepted, over few
// identifiers, so that transactions meet.
func drawBody(t *rapid.T, v *registry.View) (*testSigner, any) {
	admin := edKey(rapid.SampledFrom([]string{"A/admin", "B/admin", "C/admin", "D/admin"}).Draw(t, "admin"))
	log := edKey(rapid.SampledFrom([]string{"A/log", "B/log", "C/log"}).Draw(t, "log"))
	memberID := rapid.SampledFrom([]string{idA, idB, idC, "TEST/GOV/D", "TEST/GOV/E"})
	sub := rapid.Custom(func(t *rapid.T) string {
		return memberID.Draw(t, "member") + rapid.SampledFrom([]string{"/S", "/T"}).Draw(t, "sub")
	})
	service := rapid.Custom(func(t *rapid.T) string {
		return sub.Draw(t, "of") + rapid.SampledFrom([]string{"/x", "/y", "/x/v1"}).Draw(t, "service")
	})
	group := rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "global") {
			return "global/g"
		}
		return "local/" + sub.Draw(t, "of") + "/g"
	})
	status := rapid.SampledFrom([]registrypb.Status{active, suspended, suspended, active, active, suspended, ended})
	name := rapid.SampledFrom([]string{"One", "Two", "Three"})
	key := edKey(rapid.SampledFrom([]string{"D/admin", "k1", "k2", "k3", "B/seal"}).Draw(t, "key"))
	purpose := civibus.Purpose(rapid.IntRange(1, 6).Draw(t, "purpose"))
	height := func() uint64 {
		return rapid.SampledFrom([]uint64{0, 0, v.Height() + 2, v.Height() + 5}).Draw(t, "height")
	}
	if rapid.IntRange(0, 2).Draw(t, "of the network") == 0 {
		return admin, drawNetworkBody(t, v)
	}
	if rapid.IntRange(0, 2).Draw(t, "of a process") == 0 {
		return drawProcessBody(t, v)
	}
	if rapid.IntRange(0, 5).Draw(t, "of an evidence type") == 0 {
		return drawEvidenceTypeBody(t)
	}
	if rapid.IntRange(0, 5).Draw(t, "of a rule") == 0 {
		return drawRuleBody(t)
	}
	if rapid.IntRange(0, 5).Draw(t, "of a topic") == 0 {
		return drawTopicBody(t)
	}
	if rapid.IntRange(0, 5).Draw(t, "of usage") == 0 {
		return drawUsageBody(t, v)
	}
	switch rapid.IntRange(0, 14).Draw(t, "kind") {
	case 0:
		return admin, setMember(memberID.Draw(t, "id"), name.Draw(t, "name"), rapid.SampledFrom([]string{"", idA, idB, "TEST/GOV/D"}).Draw(t, "parent"))
	case 1:
		return admin, &registrypb.SetMemberStatus{Id: memberID.Draw(t, "id"), Status: status.Draw(t, "status")}
	case 2:
		m := addKey(key, memberID.Draw(t, "id"), purpose)
		m.ActivateHeight = height()
		return admin, m
	case 3:
		return admin, &registrypb.RevokeKey{KeyId: key.public.ID[:], RevokeHeight: height(), Reason: 1}
	case 4, 5:
		return admin, &registrypb.SetSubsystem{Id: sub.Draw(t, "id"), Name: name.Draw(t, "name")}
	case 6:
		return admin, &registrypb.SetSubsystemStatus{Id: sub.Draw(t, "id"), Status: status.Draw(t, "status")}
	case 7, 8:
		m := setService(service.Draw(t, "id"))
		m.Title = name.Draw(t, "title")
		return admin, m
	case 9:
		return admin, &registrypb.SetServiceStatus{Id: service.Draw(t, "id"), Status: active}
	case 10, 11:
		if rapid.Bool().Draw(t, "to group") {
			return admin, groupGrant(service.Draw(t, "id"), group.Draw(t, "group"))
		}
		g := grant(service.Draw(t, "id"), sub.Draw(t, "client"))
		if rights, _ := v.Rights("", 3); len(rights) > 0 && rapid.Bool().Draw(t, "supersede") {
			g.Supersedes = rights[0].ID
		}
		return admin, g
	case 12:
		if rights, _ := v.Rights("", 9); len(rights) > 0 {
			r := rapid.SampledFrom(rights).Draw(t, "right")
			return admin, &registrypb.SetRightStatus{Id: r.ID, Status: status.Draw(t, "status")}
		}
		return admin, &registrypb.SetGroup{Id: group.Draw(t, "id"), Title: name.Draw(t, "title")}
	case 13:
		if rapid.Bool().Draw(t, "group itself") {
			return admin, &registrypb.SetGroup{Id: group.Draw(t, "id"), Title: name.Draw(t, "title")}
		}
		return admin, &registrypb.SetGroupMember{Group: group.Draw(t, "id"), Client: sub.Draw(t, "client"), Member: rapid.Bool().Draw(t, "in")}
	}
	digest := sha256.Sum256([]byte{byte(rapid.IntRange(0, 20).Draw(t, "digest"))})
	return log, &registrypb.Notarise{Digest: digest[:]}
}

// TestReplicas gives random blocks to two replicas: one checks every envelope
// and is never restarted; the other checks none, is restarted from its store at
// random, executes some blocks twice and is now and then replaced by an import
// of the first one's dump. They agree after every block; nothing accepted is
// accepted again; no view ever changes.
func TestReplicas(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		g := quickGenesis()
		g.MemberQuota = rapid.Uint64Range(100, 120).Draw(rt, "quota")
		w := newWorldOf(t, g)
		store := registry.NewMemoryStore()
		second := must(registry.Open(store))
		if hash, err := second.Init(g); err != nil || hash != w.m.AppHash() {
			rt.Fatalf("genesis: %v", err)
		}
		type snapshot struct {
			view *registry.View
			dump []byte
		}
		var history []snapshot
		var done [][]byte
		for range rapid.IntRange(1, 12).Draw(rt, "blocks") {
			var block [][]byte
			for range rapid.IntRange(0, 10).Draw(rt, "transactions") {
				s, body := drawBody(rt, w.view())
				block = append(block, w.tx(s, body))
			}
			if len(done) > 0 && rapid.Bool().Draw(rt, "replay") {
				block = append(block, rapid.SampledFrom(done).Draw(rt, "old"))
			}
			for _, e := range block {
				w.m.Check(e)
			}
			w.evidence = drawEvidence(rt)
			first := w.block(block...)
			if rapid.IntRange(0, 3).Draw(rt, "twice") == 0 {
				if _, err := second.Execute(second.Height()+1, w.now, block[:len(block)/2], nil); err != nil {
					rt.Fatalf("%v", err)
				}
			}
			got, err := second.Execute(second.Height()+1, w.now, block, w.evidence)
			if err != nil {
				rt.Fatalf("%v", err)
			}
			if err := second.Commit(); err != nil {
				rt.Fatalf("%v", err)
			}
			if got.AppHash != first.AppHash || !slices.Equal(got.Results, first.Results) || !slices.EqualFunc(got.Events, first.Events, bytes.Equal) {
				rt.Fatalf("height %d: the replicas differ: %x, %x", w.m.Height(), got.AppHash, first.AppHash)
			}
			for i, r := range first.Results {
				if r.Code != registry.OK {
					continue
				}
				accepted++
				if slices.ContainsFunc(done, func(e []byte) bool { return bytes.Equal(e, block[i]) }) {
					rt.Fatalf("height %d: an envelope was accepted twice", w.m.Height())
				}
				done = append(done, block[i])
			}
			for _, code := range []string{"A", "B", "C", "D", "E"} {
				if got, want := second.View().Usage(member(code)), w.view().Usage(member(code)); got != want {
					rt.Fatalf("height %d: %s has %d records here, %d there", w.m.Height(), code, got, want)
				}
			}
			history = append(history, snapshot{w.view(), dump(t, w.view())})
			switch rapid.IntRange(0, 5).Draw(rt, "restart") {
			case 0:
				second = must(registry.Open(store))
			case 1:
				store = registry.NewMemoryStore()
				height, hash, err := registry.Import(bytes.NewReader(history[len(history)-1].dump), store)
				if err != nil || height != w.m.Height() || hash != w.m.AppHash() {
					rt.Fatalf("import: height %d, %v", height, err)
				}
				second = must(registry.Open(store))
			}
		}
		for _, s := range history {
			if !bytes.Equal(dump(t, s.view), s.dump) {
				rt.Fatalf("the view at height %d changed", s.view.Height())
			}
		}
		if !bytes.Equal(dump(t, second.View()), history[len(history)-1].dump) {
			rt.Fatalf("the replicas' dumps differ")
		}
	})
	if accepted == 0 {
		t.Error("no transaction was ever accepted: the test does not test")
	}
}

func dump(t testing.TB, v *registry.View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// crashStore fails at chosen writes, before or after it has done them.
type crashStore struct {
	registry.Store
	mode string
}

var errCrash = errors.New("the disk is gone")

func (s *crashStore) Write(puts []registry.KV, deletes [][]byte) error {
	switch s.mode {
	case "before":
		return errCrash
	case "after":
		if err := s.Store.Write(puts, deletes); err != nil {
			return err
		}
		return errCrash
	}
	return s.Store.Write(puts, deletes)
}

// TestCrash has each of many commits fail and reopens the store: it holds the
// block before or the block itself, and goes on to the same state as a registry
// that never failed.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	inner := registry.NewMemoryStore()
	cs := &crashStore{Store: inner}
	m := must(registry.Open(cs))
	if _, err := m.Init(testGenesis()); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		block := [][]byte{
			w.tx(edKey("B/admin"), &registrypb.SetSubsystem{Id: fmt.Sprintf("%s/S%d", idB, i%7), Name: fmt.Sprint("Name ", i)}),
			w.tx(edKey("B/log"), &registrypb.Notarise{Digest: bytes.Repeat([]byte{byte(i)}, 32)}),
		}
		w.block(block...)
		cs.mode = []string{"", "before", "after"}[i%3]
		before := m.AppHash()
		if _, err := m.Execute(w.m.Height(), w.now, block, nil); err != nil {
			t.Fatal(err)
		}
		err := m.Commit()
		if failed := cs.mode != ""; failed != errors.Is(err, errCrash) {
			t.Fatalf("commit with mode %q: %v", cs.mode, err)
		}
		if err != nil && m.AppHash() != before {
			t.Fatal("a failed commit is visible")
		}
		if cs.mode == "" {
			continue
		}
		mode := cs.mode
		cs.mode = ""
		m = must(registry.Open(cs))
		switch {
		case mode == "before" && m.AppHash() == before && m.Height() == w.m.Height()-1:
			if _, err := m.Execute(w.m.Height(), w.now, block, nil); err != nil {
				t.Fatal(err)
			}
			if err := m.Commit(); err != nil {
				t.Fatal(err)
			}
		case mode == "after" && m.Height() == w.m.Height():
		default:
			t.Fatalf("crash %s the write: reopened at height %d of %d", mode, m.Height(), w.m.Height())
		}
		if m.AppHash() != w.m.AppHash() {
			t.Fatalf("height %d: the reopened registry differs", m.Height())
		}
	}
	if !bytes.Equal(dump(t, m.View()), dump(t, w.view())) {
		t.Error("the dumps differ")
	}
}

// TestCommitCanBeRetried: a failed commit does not lose the block.
func TestCommitCanBeRetried(t *testing.T) {
	w := newWorld(t)
	cs := &crashStore{Store: w.store}
	w.m = must(registry.Open(cs))
	b, err := w.m.Execute(1, w.now, [][]byte{w.tx(edKey("B/admin"), &registrypb.SetSubsystem{Id: idB + "/S", Name: "S"})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cs.mode = "before"
	if err := w.m.Commit(); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	cs.mode = ""
	if err := w.m.Commit(); err != nil || w.m.AppHash() != b.AppHash {
		t.Fatal(err)
	}
}

// TestProofsOfTheWindow: views of the last 64 versions prove, older ones say that
// they cannot.
func TestProofsOfTheWindow(t *testing.T) {
	w := newWorld(t)
	var views []*registry.View
	for i := range 80 {
		w.ok(edKey("B/admin"), &registrypb.SetSubsystem{Id: fmt.Sprintf("%s/S%d", idB, i%3), Name: fmt.Sprint("Name ", i)})
		views = append(views, w.view())
		w.block() // empty blocks do not count
	}
	keys := []string{"subsystem/" + idB + "/S0", "subsystem/" + idB + "/S1", "subsystem/" + idB + "/S9", "member/" + idA}
	for _, v := range views[len(views)-64:] {
		proveAll(t, v, keys...)
		if at, ok := w.m.ViewAt(v.Height()); !ok || at.AppHash() != v.AppHash() {
			t.Errorf("ViewAt(%d): %v", v.Height(), ok)
		}
	}
	if _, ok := w.m.ViewAt(views[0].Height()); ok {
		t.Error("ViewAt gives a view that can no longer prove")
	}
	// Older ones either say that they cannot, or are still right.
	failed := 0
	for _, v := range views[:10] {
		for _, key := range keys {
			if _, _, err := v.ProveState(key); err != nil {
				failed++
				continue
			}
			proveAll(t, v, key)
		}
	}
	if failed == 0 {
		t.Error("nothing was pruned: the test does not test")
	}
	for _, v := range views[:10] {
		if s, ok := v.Subsystem(must(civibus.ParseClientID(idB + "/S0"))); !ok || s.Name == "" {
			t.Error("an old view no longer answers")
		}
	}
}

// TestConcurrentReaders reads old and new views while blocks are executed; the
// race detector judges.
func TestConcurrentReaders(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	stop, done := make(chan struct{}), make(chan struct{})
	envelope := w.tx(edKey("A/log"), &registrypb.Notarise{Digest: make([]byte, 32)})
	for range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			old := w.view()
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, v := range []*registry.View{old, w.view()} {
					v.Member(member("B"))
					v.Subsystems("", 0)
					for range v.RightsFor(must(civibus.ParseServiceID(idB+"/POP/persons")), must(civibus.ParseClientID(idC+"/APP"))) {
						break
					}
					if _, _, err := v.ProveState("member/" + idB); err != nil {
						t.Error(err)
						return
					}
					if _, err := v.ProveEvent(3); err != nil {
						t.Error(err)
						return
					}
				}
				w.m.Check(envelope)
			}
		}()
	}
	for i := range 25 { // within the window of the old view
		w.ok(edKey("B/admin"), grant(idB+"/POP/persons", idC+"/APP"))
		w.ok(edKey("B/admin"), &registrypb.SetSubsystem{Id: idB + "/POP", Name: fmt.Sprint("Population ", i)})
	}
	close(stop)
	for range 3 {
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("a reader hangs")
		}
	}
}
