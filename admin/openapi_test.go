package admin_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestDescriptionNamesEveryEndpoint compares openapi.yaml with the patterns that
// the server registers, both ways.
func TestDescriptionNamesEveryEndpoint(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %s", doc.OpenAPI)
	}
	described := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			described[method+" "+path] = true
		}
	}
	source, err := os.ReadFile("server.go")
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, m := range regexp.MustCompile(`s\.handle\("([A-Z]+ [^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		served[strings.Replace(m[1], "{id...}", "{id}", 1)] = true
	}
	for e := range served {
		if !described[e] {
			t.Errorf("%s is served and not described", e)
		}
	}
	for e := range described {
		if !served[e] {
			t.Errorf("%s is described and not served", e)
		}
	}
	if len(served) < 20 {
		t.Errorf("only %d endpoints were found", len(served))
	}
}
