package registry_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

func TestDumpAndImport(t *testing.T) {
	w := fullWorld(t)
	for i := range 300 { // more events than a tile
		w.ok(edKey("A/log"), &registrypb.Notarise{Digest: fmt.Appendf(nil, "%032d", i)})
	}
	d := dump(t, w.view())
	store := registry.NewMemoryStore()
	height, hash, err := registry.Import(bytes.NewReader(d), store)
	if err != nil || height != w.m.Height() || hash != w.m.AppHash() {
		t.Fatalf("height %d, %v", height, err)
	}
	m := must(registry.Open(store))
	if !bytes.Equal(dump(t, m.View()), d) {
		t.Error("the dump of the import differs")
	}
	// It proves, finds and goes on.
	proveAll(t, m.View(), "member/"+idB, "service/"+idB+"/POP/persons/v1", "params", "nothing")
	if _, _, ok, err := m.View().AnchorEvent("civibus/"+idA+"/evidence/1", 7); !ok || err != nil {
		t.Errorf("anchor: %v, %v", ok, err)
	}
	if _, ok, err := m.View().Notarisation([32]byte(bytes.Repeat([]byte{5}, 32))); !ok || err != nil {
		t.Errorf("notarisation: %v, %v", ok, err)
	}
	if size, ok, err := m.View().EventSizeAt(height); err != nil || !ok || size != m.View().EventSize() {
		t.Errorf("event log size: %d, %v, %v", size, ok, err)
	}
	old, now := w.m, w.now
	env := w.tx(edKey("B/admin"), &registrypb.SetSubsystem{Id: idB + "/NEW", Name: "New"})
	w.m = m
	first := w.block(env)
	w.m, w.now = old, now
	if second := w.block(env); first.AppHash != second.AppHash || first.Results[0].Code != registry.OK {
		t.Errorf("after the import: %s", first.Results[0].Reason)
	}
}

// TestBadDumps: a dump that was cut, extended or changed anywhere is refused,
// and the store it went into does not open.
func TestBadDumps(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	d := dump(t, w.view())
	try := func(what string, b []byte) {
		t.Helper()
		store := registry.NewMemoryStore()
		if _, _, err := registry.Import(bytes.NewReader(b), store); err == nil {
			t.Errorf("%s: imported", what)
			return
		}
		if _, err := registry.Open(store); err == nil || !strings.Contains(err.Error(), "did not finish") {
			t.Errorf("%s: the store opens: %v", what, err)
		}
	}
	for i := 0; i < len(d); i += 1 + i/40 {
		try(fmt.Sprint("cut at ", i), d[:i])
		b := bytes.Clone(d)
		b[i] ^= 1
		try(fmt.Sprint("changed at ", i), b)
	}
	try("extended", append(bytes.Clone(d), 0))
	store := registry.NewMemoryStore()
	if _, _, err := registry.Import(bytes.NewReader(d), store); err != nil {
		t.Fatal(err)
	}
	if _, _, err := registry.Import(bytes.NewReader(d), store); err == nil {
		t.Error("imported into a store that is not empty")
	}
}

// FuzzImport: no panic, and what is imported has the hash it says.
func FuzzImport(f *testing.F) {
	w := newWorld(f)
	f.Add(dump(f, w.view()))
	furnish(w)
	f.Add(dump(f, w.view()))
	f.Add(dump(f, fullWorld(f).view()))
	f.Fuzz(func(t *testing.T, b []byte) {
		store := registry.NewMemoryStore()
		_, hash, err := registry.Import(bytes.NewReader(b), store)
		if err != nil {
			return
		}
		m, err := registry.Open(store)
		if err != nil || m.AppHash() != hash {
			t.Fatalf("an import does not open: %v", err)
		}
	})
}

// TestDamagedStore changes or removes each record of a store: it does not open,
// or what it proves still verifies against the roots.
func TestDamagedStore(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	var records []registry.KV
	if err := w.store.Iterate(nil, func(k, v []byte) error {
		records = append(records, registry.KV{Key: bytes.Clone(k), Value: bytes.Clone(v)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for i, r := range records {
		for _, damage := range []string{"removed", "cut", "changed"} {
			store := registry.NewMemoryStore()
			damaged := slices.Clone(records)
			switch {
			case damage == "removed":
				damaged = slices.Delete(damaged, i, i+1)
			case len(r.Value) == 0:
				continue
			case damage == "cut":
				damaged[i].Value = r.Value[:len(r.Value)-1]
			default:
				damaged[i].Value = bytes.Clone(r.Value)
				damaged[i].Value[len(r.Value)/2] ^= 4
			}
			if err := store.Write(damaged, nil); err != nil {
				t.Fatal(err)
			}
			m, err := registry.Open(store)
			if err != nil {
				noticed++
				continue
			}
			if m.View() == nil {
				continue // without meta record and tree it is an empty store
			}
			for _, key := range []string{"member/" + idA, "member/" + idB, "params", "subsystem/" + idB + "/POP"} {
				if _, _, err := m.View().ProveState(key); err != nil {
					noticed++
				}
			}
		}
	}
	if noticed < len(records)/2 {
		t.Errorf("%d cases of damage were noticed, of %d records", noticed, len(records))
	}
}

func TestPaging(t *testing.T) {
	w := newWorld(t)
	admin := edKey("B/admin")
	var block [][]byte
	for i := range 250 {
		block = append(block, w.tx(admin, &registrypb.SetSubsystem{Id: fmt.Sprintf("%s/S%d", idB, i), Name: "S"}))
	}
	w.block(block...)
	v := w.view()
	for _, limit := range []int{1, 7, 100, 250, 1000} {
		var got []string
		for after := ""; ; {
			items, next := v.Subsystems(after, limit)
			if len(items) > limit {
				t.Fatalf("a page of %d has %d items", limit, len(items))
			}
			for _, s := range items {
				got = append(got, s.ID.String())
			}
			if next == "" {
				break
			}
			if next != got[len(got)-1] {
				t.Fatalf("next is %q after %q", next, got[len(got)-1])
			}
			after = next
		}
		if len(got) != 250 || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != 250 {
			t.Errorf("limit %d: %d subsystems", limit, len(got))
		}
	}
	if items, next := v.Subsystems("", 0); len(items) != 100 || next == "" {
		t.Errorf("the default page has %d items", len(items))
	}
	// Stable: what is added before the place does not shift it.
	_, next := v.Subsystems("", 100)
	w.ok(admin, &registrypb.SetSubsystem{Id: idB + "/A0", Name: "A0"})
	a, _ := v.Subsystems(next, 100)
	b, _ := w.view().Subsystems(next, 100)
	if a[0].ID != b[0].ID || a[99].ID != b[99].ID {
		t.Error("an addition shifted a page")
	}
	if items, next := v.Subsystems("zzz", 10); len(items) != 0 || next != "" {
		t.Error("a page after the end is not empty")
	}
	for name, n := range map[string]int{
		"members": count(v.Members), "keys": count(v.Keys), "services": count(v.Services), "rights": count(v.Rights), "groups": count(v.Groups), "logs": count(v.Logs),
	} {
		if want := map[string]int{"members": 3, "keys": 12}[name]; n != want {
			t.Errorf("%s: %d, want %d", name, n, want)
		}
	}
	if got := len(v.SubsystemsOf(member("B"))); got != 250 {
		t.Errorf("subsystems of B: %d", got)
	}
	if got := v.SubsystemsOf(civibus.MemberID{Instance: "TEST", Class: "GOV", Code: ""}); got != nil {
		t.Errorf("subsystems of nobody: %v", got)
	}
}

func count[V any](list func(string, int) ([]V, string)) int {
	n, after := 0, ""
	for {
		items, next := list(after, 2)
		n += len(items)
		if next == "" {
			return n
		}
		after = next
	}
}
