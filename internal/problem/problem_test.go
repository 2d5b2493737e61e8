package problem_test

import (
	"encoding/json"
	"encoding/xml"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/problem"
)

var update = flag.Bool("update", false, "write docs/reference/errors.md")

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// faultCodes reads the codes from the root package's source, so that a new one
// without a catalogue entry is found.
func faultCodes(t *testing.T) []civibus.FaultCode {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []civibus.FaultCode
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(v.Names[0].Name, "Fault") && len(v.Values) == 1 {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, civibus.FaultCode(s))
		}
		return true
	})
	if len(codes) < 20 {
		t.Fatalf("found %d codes only", len(codes))
	}
	return codes
}

func TestCatalogueIsComplete(t *testing.T) {
	codes := faultCodes(t)
	entries := problem.Catalogue()
	seen := map[civibus.FaultCode]bool{}
	for _, e := range entries {
		if seen[e.Code] {
			t.Errorf("%s is listed twice", e.Code)
		}
		seen[e.Code] = true
		if e.Title == "" || e.Camel == "" || e.Snake == "" || e.Help == "" || e.Status < 400 || e.Status > 599 {
			t.Errorf("%s is incomplete: %+v", e.Code, e)
		}
	}
	for _, c := range codes {
		if !seen[c] {
			t.Errorf("%s has no entry", c)
		}
	}
	if len(entries) != len(codes) {
		t.Errorf("%d entries for %d codes", len(entries), len(codes))
	}
}

func TestReferencePage(t *testing.T) {
	const path = "../../docs/reference/errors.md"
	want := problem.Reference()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the catalogue says (%v): run go test ./internal/problem -update", path, err)
	}
}

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		place        civibus.Place
		code         civibus.FaultCode
		camel, snake string
		status       int
	}{
		{civibus.ConsumerGateway, civibus.FaultMissingClient, "Server.ClientProxy.InvalidClientIdentifier", "server.clientproxy.invalid_client_identifier", 400},
		{civibus.ConsumerGateway, civibus.FaultUnknownMember, "Server.ClientProxy.UnknownMember", "server.clientproxy.unknown_member", 404},
		{civibus.ConsumerGateway, civibus.FaultBadRequest, "Server.ClientProxy.InternalError", "server.clientproxy.internal_error", 400},
		{civibus.ConsumerGateway, civibus.FaultClientAuth, "Server.ClientProxy.SslAuthenticationFailed", "server.clientproxy.ssl_authentication_failed", 401},
		{civibus.ConsumerGateway, civibus.FaultRegistryStale, "Server.ClientProxy.OutdatedGlobalConf", "server.clientproxy.global_conf_outdated", 503},
		{civibus.ProviderGateway, civibus.FaultUnknownService, "Server.ServerProxy.UnknownService", "server.serverproxy.unknown_service", 404},
		{civibus.ProviderGateway, civibus.FaultAccessDenied, "Server.ServerProxy.AccessDenied", "server.serverproxy.access_denied", 403},
		{civibus.ProviderGateway, civibus.FaultTimeout, "Server.ServerProxy.IOError", "server.serverproxy.io_error", 504},
		{civibus.ProviderGateway, "never heard of", "Server.ServerProxy.InternalError", "server.serverproxy.internal_error", 500},
	} {
		f := &civibus.Fault{Place: c.place, Code: c.code}
		if got := problem.New(problem.Camel, false).Type(f); got != c.camel {
			t.Errorf("camel %q, want %q", got, c.camel)
		}
		if got := problem.New(problem.Snake, false).Type(f); got != c.snake {
			t.Errorf("snake %q, want %q", got, c.snake)
		}
		if got := problem.New(problem.Camel, false).Status(c.code); got != 500 {
			t.Errorf("%s: status %d, want 500 by default", c.code, got)
		}
		if got := problem.New(problem.Camel, true).Status(c.code); got != c.status {
			t.Errorf("%s: status %d, want %d", c.code, got, c.status)
		}
	}
}

// TestNegotiate holds the Accept matrix of X-Road's own tests, and beyond.
func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		want   string
		accept []string
	}{
		{problem.JSON, nil},
		{problem.JSON, []string{""}},
		{problem.JSON, []string{"application/json"}},
		{problem.JSON, []string{"*/*"}},
		{problem.JSON, []string{"text/html"}},
		{problem.JSON, []string{"text/xml-patch+xml"}},
		{problem.JSON, []string{";;,,/garbage;q=x"}},
		{problem.TextXML, []string{"text/xml"}},
		{problem.TextXML, []string{"TEXT/XML; charset=utf-8"}},
		{problem.TextXML, []string{"text/*"}},
		{problem.TextXML, []string{"text/*;q=0.1, application/xml"}},
		{problem.ApplicationXML, []string{"application/xml"}},
		{problem.ApplicationXML, []string{"application/json, application/xml;q=0.5, text/xml"}},
		{problem.ApplicationXML, []string{"application/json", "text/html, application/xml"}},
		{problem.ProblemJSON, []string{"application/problem+json, text/xml"}},
		{problem.TextXML, []string{"text/xml, application/problem+json"}},
	} {
		if got := problem.Negotiate(c.accept); got != c.want {
			t.Errorf("%q: %s, want %s", c.accept, got, c.want)
		}
	}
}

func TestDocuments(t *testing.T) {
	f := civibus.Faultf(civibus.ProviderGateway, civibus.FaultAccessDenied, "Request is not allowed: <%s> & more", "SERVICE:a")
	w := problem.New(problem.Camel, true)

	d := w.Document(f, nil, "")
	var j map[string]string
	if err := json.Unmarshal(d.Body, &j); err != nil {
		t.Fatal(err)
	}
	if len(j) != 3 || j["type"] != d.Type || j["message"] != f.Message || j["detail"] != d.Detail || !uuidForm.MatchString(d.Detail) {
		t.Errorf("JSON document %s", d.Body)
	}

	d = w.Document(f, []string{"text/xml"}, "the-detail")
	var x struct {
		XMLName xml.Name `xml:"error"`
		Type    string   `xml:"type"`
		Message string   `xml:"message"`
		Detail  string   `xml:"detail"`
	}
	if err := xml.Unmarshal(d.Body, &x); err != nil {
		t.Fatal(err)
	}
	if x.Type != d.Type || x.Message != f.Message || x.Detail != "the-detail" || d.ContentType != "text/xml;charset=utf-8" {
		t.Errorf("XML document %s as %s", d.Body, d.ContentType)
	}

	d = w.Document(f, []string{"application/problem+json"}, "")
	var p struct {
		Type, Title, Detail, Instance, Code string
		Status                              int
	}
	if err := json.Unmarshal(d.Body, &p); err != nil {
		t.Fatal(err)
	}
	if p.Type != "urn:civibus:fault:access_denied" || p.Title == "" || p.Status != 403 || p.Detail != f.Message || p.Instance != "urn:uuid:"+d.Detail || p.Code != "access_denied" {
		t.Errorf("problem document %s", d.Body)
	}
}

func TestWriteTo(t *testing.T) {
	d := problem.New(problem.Snake, false).Document(civibus.Faultf(civibus.ConsumerGateway, civibus.FaultMissingClient, "m"), nil, "")
	for _, method := range []string{"GET", "HEAD"} {
		w := httptest.NewRecorder()
		d.WriteTo(w, httptest.NewRequest(method, "/", nil))
		if w.Code != http.StatusInternalServerError || w.Header().Get("X-Road-Error") != d.Type {
			t.Errorf("%s: %d %v", method, w.Code, w.Header())
		}
		if (w.Body.Len() == 0) != (method == "HEAD") {
			t.Errorf("%s: %d bytes of body", method, w.Body.Len())
		}
	}
}

// TestCausesStayInside holds that an internal cause is in no document.
func TestCausesStayInside(t *testing.T) {
	f := civibus.AsFault(civibus.ConsumerGateway, os.ErrPermission)
	for _, accept := range []string{"", "text/xml", "application/problem+json"} {
		d := problem.New(problem.Camel, true).Document(f, []string{accept}, "")
		if strings.Contains(string(d.Body), os.ErrPermission.Error()) {
			t.Errorf("the document tells the cause: %s", d.Body)
		}
	}
}

// TestRuleFields: a refusal by a rule has the rule, its provision and the remedy as
// fields, in every format.
func TestRuleFields(t *testing.T) {
	fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultRule, "Rule 7 does not allow this request")
	fault.Rule = &civibus.RuleRefusal{ID: "T/GOV/1/7/2", Number: "7", Version: 2, Title: "Title", Text: "Text", Act: "Act & Order", Provision: "§ 4", URI: "https://law.example/4", Remedy: "Ask <first>."}
	w := problem.New(problem.Camel, true)
	for _, accept := range []string{problem.JSON, problem.ProblemJSON} {
		var got struct{ Rule civibus.RuleRefusal }
		d := w.Document(fault, []string{accept}, "")
		if err := json.Unmarshal(d.Body, &got); err != nil || got.Rule != *fault.Rule || d.Status != http.StatusForbidden || d.Type != "Server.ServerProxy.AccessDenied" {
			t.Errorf("%s: %v, %+v, %s", accept, err, got, d.Body)
		}
	}
	var got struct {
		Rule struct {
			ID        string `xml:"id"`
			Number    string `xml:"number"`
			Version   int    `xml:"version"`
			Act       string `xml:"act"`
			Provision string `xml:"provision"`
			URI       string `xml:"uri"`
			Remedy    string `xml:"remedy"`
		} `xml:"rule"`
	}
	d := w.Document(fault, []string{"text/xml"}, "")
	if err := xml.Unmarshal(d.Body, &got); err != nil || got.Rule.ID != "T/GOV/1/7/2" || got.Rule.Version != 2 || got.Rule.Act != "Act & Order" || got.Rule.Remedy != "Ask <first>." {
		t.Errorf("%v, %+v", err, got)
	}
}
