package proof_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/civibus/civibus/evidence/proof"
)

const specFile = "../../spec/receipt.md"

// TestSpecTable compares the table of failures in the specification with the
// code's. With -update it is written anew.
func TestSpecTable(t *testing.T) {
	spec, err := os.ReadFile(specFile)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- failures -->\n", "<!-- end of failures -->\n"
	head, rest, ok1 := strings.Cut(string(spec), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("the specification has no table of failures")
	}
	var b strings.Builder
	b.WriteString("| failure | found in step | what it means |\n| --- | --- | --- |\n")
	for _, e := range proof.Explanations() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", e.Failure, e.Step, e.Meaning)
		if n := strings.Count(head, "`"+string(e.Failure)+"`"); n == 0 {
			t.Errorf("no rule of the specification names %s", e.Failure)
		}
	}
	if *update {
		if err := os.WriteFile(specFile, []byte(head+begin+b.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if table != b.String() {
		t.Error("the table of failures is not the code's (go test ./evidence/proof -update writes it anew)")
	}
}
