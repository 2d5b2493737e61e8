package main

import (
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the reference page anew")

// TestReferencePage compares docs/reference/cli.md with the commands.
func TestReferencePage(t *testing.T) {
	const file = "../../docs/reference/cli.md"
	got := cliReference(newRoot(&app{}))
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is out of date: go test ./cmd/civibus -run ReferencePage -update", file)
	}
}
