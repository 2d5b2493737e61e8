package examples_test

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/civibus/civibus/rule"
	"github.com/civibus/civibus/rule/examples"
)

// TestExamples: every example is a good rule that says what its cases say it says.
func TestExamples(t *testing.T) {
	files, err := fs.Glob(examples.Files, "*.cases.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := examples.Files.ReadFile(strings.TrimSuffix(file, ".cases.yaml") + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		d, err := rule.Read(text)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		r, err := d.Compile()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if text, err = examples.Files.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		cases, err := rule.ReadCases(text)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		results, err := r.Run(cases)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range results {
			if !c.OK() {
				t.Errorf("%s: %s: %s, want %s %s", file, c.Name, c.Got, c.Want, c.Detail)
			}
		}
		document, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := rule.Parse(document); err != nil || again.Number != d.Number {
			t.Errorf("%s: %v", file, err)
		}
	}
}
