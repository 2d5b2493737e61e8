package evidence_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFsckNamesIndexTables damages every table of the index in turn. Entries
// that cannot be read must not look like entries that never were.
func TestFsckNamesIndexTables(t *testing.T) {
	dir := sample(t)
	closeLog(t, open(t, config(dir))) // opening turns the journal into a table
	names, err := filepath.Glob(filepath.Join(dir, "index", "*.ldb"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no tables in the index: %v", err)
	}
	for _, name := range names {
		for _, part := range []float64{0.01, 0.3, 0.6} {
			damaged := filepath.Join(t.TempDir(), "log")
			copyLog(t, damaged, dir)
			flip(t, filepath.Join(damaged, "index", filepath.Base(name)), part)
			found := false
			for _, p := range fsck(t, damaged).Problems {
				found = found || p.File == filepath.Join(damaged, "index")
			}
			if !found {
				t.Errorf("damage at %.0f %% of %s is not named", part*100, filepath.Base(name))
			}
		}
	}
}

// TestFsckReadsOnlyMedium checks a log on a medium that takes no writes, as
// whoever investigates one does.
func TestFsckReadsOnlyMedium(t *testing.T) {
	dir := sample(t)
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("nothing can be mounted read-only here: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "probe"), nil, 0o600); err == nil {
		t.Fatal("the medium takes writes")
	}
	clean(t, dir)
}
