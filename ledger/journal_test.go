package ledger_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// journalled makes a registry database of some writes, the last of them large,
// and returns its folder, its journal and the journal's size before each write.
func journalled(t *testing.T) (dir, journal string, sizes []int64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "registry")
	st, done, err := ledger.OpenStore(dir)
	check(t, err)
	for i := range 6 {
		names, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil || len(names) != 1 {
			t.Fatalf("journals %v, %v", names, err)
		}
		journal = names[0]
		info, err := os.Stat(journal)
		check(t, err)
		sizes = append(sizes, info.Size())
		value := bytes.Repeat([]byte{byte('a' + i)}, 700)
		if i == 5 {
			value = bytes.Repeat([]byte("last"), 20_000) // three blocks of the journal
		}
		check(t, st.Write([]registry.KV{{Key: fmt.Appendf(nil, "k%d", i), Value: value}}, nil))
	}
	check(t, done())
	return dir, filepath.Base(journal), sizes
}

// held returns how many of the writes a copy of the database holds after the
// journal was changed, or the error with which it does not open.
func held(t *testing.T, dir, journal string, change func([]byte) []byte) (int, error) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "registry")
	check(t, os.CopyFS(copied, os.DirFS(dir)))
	file := filepath.Join(copied, journal)
	data, err := os.ReadFile(file)
	check(t, err)
	check(t, os.WriteFile(file, change(data), 0o600))
	st, done, err := ledger.OpenStore(copied)
	if err != nil {
		return 0, err
	}
	defer func() { check(t, done()) }()
	n := 0
	for ; n < 6; n++ {
		if v, err := st.Get(fmt.Appendf(nil, "k%d", n)); err != nil || v == nil {
			break
		}
	}
	check(t, st.Iterate(nil, func(k, _ []byte) error {
		if string(k) >= fmt.Sprintf("k%d", n) {
			return fmt.Errorf("%s is there, k%d is not", k, n)
		}
		return nil
	}))
	return n, nil
}

// TestTornJournal loses power in the middle of the last write, at many points
// and in the forms that file systems leave behind. The node opens with all that
// was written before.
func TestTornJournal(t *testing.T) {
	dir, journal, sizes := journalled(t)
	last := int(sizes[5])
	cut := func(at int) func([]byte) []byte { return func(b []byte) []byte { return b[:at] } }
	zeros := func(from, to int) func([]byte) []byte {
		return func(b []byte) []byte { clear(b[from:min(to, len(b))]); return b }
	}
	for name, change := range map[string]func([]byte) []byte{
		"nothing of it":             cut(last),
		"a byte":                    cut(last + 1),
		"a header":                  cut(last + 7),
		"a part of the first block": cut(last + 5000),
		"to a block's end":          cut(32 << 10),
		"into the second block":     cut(32<<10 + 3),
		"a header and a byte more":  cut(32<<10 + 8),
		"all but a byte":            func(b []byte) []byte { return b[:len(b)-1] },
		"zeros instead":             zeros(last, 1<<20),
		"zeros from a page on":      zeros(32<<10+4096, 1<<20),
		"a page is missing":         zeros(36<<10, 40<<10),
		"the first page is missing": zeros(last, 8<<10),
		"a whole block is missing":  zeros(32<<10, 64<<10),
		"zeros after it":            func(b []byte) []byte { return append(b[:last], make([]byte, 10_000)...) },
	} {
		if n, err := held(t, dir, journal, change); err != nil || n != 5 {
			t.Errorf("%s: %d of 5 earlier writes, %v", name, n, err)
		}
	}
	if n, err := held(t, dir, journal, cut(int(sizes[3])+10)); err != nil || n != 3 {
		t.Errorf("cut in the fourth write: %d writes, %v", n, err)
	}
}

// TestDamagedJournal finds damage before the last write and refuses to go on
// without what was there.
func TestDamagedJournal(t *testing.T) {
	dir, journal, sizes := journalled(t)
	for _, at := range []int64{sizes[1] + 1, sizes[1] + 5, sizes[1] + 6, sizes[1] + 300, sizes[2] + 400, sizes[4] + 100} {
		n, err := held(t, dir, journal, func(b []byte) []byte { b[at] ^= 0x10; return b })
		if err == nil || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "move it away, and the blocks are executed again") {
			t.Errorf("byte %d: opened with %d writes, %v", at, n, err)
		}
	}
	if n, err := held(t, dir, "MANIFEST-000000", func(b []byte) []byte { b[8] ^= 1; return b }); err == nil {
		t.Errorf("the manifest's beginning: opened with %d writes", n)
	}
}

// TestDamagedTable finds damage of the tables, where goleveldb by itself would
// pass over it.
func TestDamagedTable(t *testing.T) {
	dir, _, _ := journalled(t)
	_, done, err := ledger.OpenStore(dir) // the journal becomes a table
	check(t, err)
	check(t, done())
	tables, err := filepath.Glob(filepath.Join(dir, "*.ldb"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	data, err := os.ReadFile(tables[0])
	check(t, err)
	data[20] ^= 1
	check(t, os.WriteFile(tables[0], data, 0o600))
	st, done, err := ledger.OpenStore(dir)
	if err != nil {
		return // found at once: as good
	}
	defer func() { _ = done() }()
	n := 0
	if err := st.Iterate(nil, func(_, _ []byte) error { n++; return nil }); err == nil {
		t.Errorf("read %d of 6 records of a damaged table without an error", n)
	}
}

// TestPowerLoss: the only validator loses the end of its registry's journal. It
// executes the block again and is where it was.
func TestPowerLoss(t *testing.T) {
	w := newNetwork(t, 1, func(_ int, cfg *ledger.Config) { cfg.TimeoutCommit = -1 })
	for i := range 3 {
		mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, fmt.Sprint(i)))
	}
	height, hash := w.nodes[0].View().Height(), w.nodes[0].View().AppHash()
	w.stop(0)
	names, err := filepath.Glob(filepath.Join(w.dir, "body0", "registry", "*.log"))
	if err != nil || len(names) != 1 {
		t.Fatalf("journals %v, %v", names, err)
	}
	info, err := os.Stat(names[0])
	check(t, err)
	check(t, os.Truncate(names[0], info.Size()-5))
	n, err := ledger.Open(context.Background(), w.config(0))
	check(t, err)
	w.nodes[0] = n
	if v := n.View(); v.Height() < height || v.Height() == height && v.AppHash() != hash {
		t.Fatalf("back at height %d with %x, it was %d with %x", v.Height(), v.AppHash(), height, hash)
	}
}
