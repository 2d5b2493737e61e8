package examples_test

import (
	"io/fs"
	"testing"

	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/process/examples"
)

// TestExamplesCompile: every example passes every check.
func TestExamplesCompile(t *testing.T) {
	names, err := fs.Glob(examples.Files, "*.yaml")
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := examples.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := definition.Read(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := d.Compile(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
