package problem_test

import (
	"encoding/json"
	"encoding/xml"
	"net/http/httptest"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/problem"
)

// FuzzDocument asks for errors in arbitrary formats, with arbitrary messages:
// the answer is always well formed in the format that it says it has.
func FuzzDocument(f *testing.F) {
	f.Add("text/xml;q=0.1, */*", "a <b> & \"c\"")
	f.Add("application/problem+json", "\x00\xff\u2028]]>")
	f.Add(",;,text/*;;", "")
	f.Fuzz(func(t *testing.T, accept, message string) {
		for _, w := range []*problem.Writer{problem.New(problem.Camel, false), problem.New(problem.Snake, true)} {
			fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultAccessDenied, "%s", message)
			rec := httptest.NewRecorder()
			w.Document(fault, []string{accept}, "").WriteTo(rec, httptest.NewRequest("GET", "/", nil))
			body := rec.Body.Bytes()
			switch rec.Header().Get("Content-Type") {
			case problem.JSON, problem.ProblemJSON:
				if !json.Valid(body) {
					t.Fatalf("not JSON: %q", body)
				}
			default:
				var any struct {
					XMLName xml.Name
					Type    string `xml:"type"`
				}
				if err := xml.Unmarshal(body, &any); err != nil || any.XMLName.Local != "error" || any.Type == "" {
					t.Fatalf("not an XML error: %v, %q", err, body)
				}
			}
		}
	})
}
