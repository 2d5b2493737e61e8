package schema_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/civibus/civibus/internal/schema"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, schema.File), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A store without a mark is version 1, and is marked so.
	for range 2 {
		if v, err := schema.Check(dir, "civibus-x", 2); v != 1 || err != nil {
			t.Fatalf("version %d, %v", v, err)
		}
	}
	if err := schema.Mark(dir, "civibus-x", 2); err != nil {
		t.Fatal(err)
	}
	if v, err := schema.Check(dir, "civibus-x", 2); v != 2 || err != nil {
		t.Fatalf("version %d, %v", v, err)
	}
	for _, c := range []struct{ text, want string }{
		{"civibus-x 3\n", "has version 3 of the layout civibus-x, this software knows versions up to 2: install"},
		{"civibus-y 1\n", `is marked as "civibus-y 1"`},
		{"civibus-x 0\n", "version 0"},
		{"civibus-x one\n", "version one"},
		{"", "is marked as"},
	} {
		write(c.text)
		_, err := schema.Check(dir, "civibus-x", 2)
		var wrong *schema.Error
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}
