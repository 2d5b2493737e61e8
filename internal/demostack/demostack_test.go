package demostack_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/demostack"
	"github.com/civibus/civibus/service"
	"github.com/getkin/kin-openapi/openapi3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code)
	}))
}

type starter func(context.Context, string) (*demostack.Server, error)

func startServer(t *testing.T, start starter) string {
	t.Helper()
	s, err := start(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.URL
}

func do(t *testing.T, method, url string, header map[string]string, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestPopulationReads(t *testing.T) {
	url := startServer(t, demostack.StartPopulation)
	resp, body := do(t, "GET", url+"/persons/FIC-0007", nil, "")
	var person demostack.Person
	if err := json.Unmarshal([]byte(body), &person); err != nil || resp.StatusCode != 200 || person.ID != "FIC-0007" || person.Name != "Example Person 0007" {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	tag := resp.Header.Get("ETag")
	if resp, body := do(t, "GET", url+"/persons/FIC-0007", map[string]string{"If-None-Match": `"x", ` + tag}, ""); resp.StatusCode != 304 || body != "" || tag == "" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	for _, path := range []string{"/persons/FIC-9999", "/persons/FIC-9999/address", "/nothing", "/persons/FIC-0007/address-changes/none"} {
		if resp, body := do(t, "GET", url+path, nil, ""); resp.StatusCode != 404 || !strings.Contains(body, `"error":"Not Found"`) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	var page struct {
		Persons []demostack.Person
		Next    string
	}
	seen := map[string]bool{}
	for after := ""; ; after = page.Next {
		page.Next, page.Persons = "", nil
		_, body := do(t, "GET", url+"/persons?limit=25&after="+after, nil, "")
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Persons {
			seen[p.ID] = true
		}
		if page.Next == "" {
			break
		}
	}
	if len(seen) != 60 {
		t.Errorf("%d persons in all pages, want 60", len(seen))
	}
	if _, body := do(t, "GET", url+"/persons?birthDate="+person.BirthDate, nil, ""); !strings.Contains(body, "FIC-0007") || strings.Contains(body, "FIC-0008") {
		t.Error(body)
	}
	for _, query := range []string{"birthDate=yesterday", "limit=0", "limit=x", "name=x"} {
		if resp, _ := do(t, "GET", url+"/persons?"+query, nil, ""); resp.StatusCode != 400 {
			t.Errorf("%s: %d", query, resp.StatusCode)
		}
	}
	if resp, _ := do(t, "GET", url+"/health", nil, ""); resp.StatusCode != 204 {
		t.Error(resp.StatusCode)
	}
}

func TestPopulationTakesAddressChanges(t *testing.T) {
	url := startServer(t, demostack.StartPopulation)
	const notice = `{"address":{"street":"New Street 1","postalCode":"00009","municipality":"Newtown"},"movedOn":"2026-11-01"}`
	target, asJSON := url+"/persons/FIC-0003/address-changes", map[string]string{"Content-Type": "application/json; charset=utf-8"}
	resp, body := do(t, "POST", target, asJSON, notice)
	if resp.StatusCode != 201 || !strings.Contains(body, `"received":"accepted"`) {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if got, again := do(t, "GET", url+resp.Header.Get("Location"), nil, ""); got.StatusCode != 200 || again != body {
		t.Errorf("%d %s", got.StatusCode, again)
	}
	if _, address := do(t, "GET", url+"/persons/FIC-0003/address", nil, ""); !strings.Contains(address, "Newtown") {
		t.Error(address)
	}
	if resp, _ := do(t, "POST", target, asJSON, notice); resp.StatusCode != 200 {
		t.Errorf("the same notice again: %d", resp.StatusCode)
	}
	for _, c := range []struct {
		target, contentType, body string
		want                      int
	}{
		{target, "text/plain", notice, 415},
		{target, "application/json", "{", 400},
		{target, "application/json", notice + notice, 400},
		{target, "application/json", `{"x":1}`, 400},
		{target, "application/json", `{"address":{"street":"x"},"movedOn":"2026-11-01"}`, 422},
		{target, "application/json", strings.Replace(notice, "2026-11-01", "soon", 1), 422},
		{url + "/persons/FIC-9999/address-changes", "application/json", notice, 404},
	} {
		if resp, body := do(t, "POST", c.target, map[string]string{"Content-Type": c.contentType}, c.body); resp.StatusCode != c.want {
			t.Errorf("%s %q: %d %s, want %d", c.contentType, c.body, resp.StatusCode, body, c.want)
		}
	}
}

// The description is a valid one, and names every endpoint that answers.
func TestPopulationDescription(t *testing.T) {
	url := startServer(t, demostack.StartPopulation)
	_, body := do(t, "GET", url+"/openapi.json", nil, "")
	doc, err := openapi3.NewLoader().LoadFromData([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	endpoints, err := service.Endpoints([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	want := "[{GET /persons} {GET /persons/*} {GET /persons/*/address} {POST /persons/*/address-changes} {GET /persons/*/address-changes/*}]"
	if fmt.Sprint(endpoints) != want {
		t.Errorf("%v", endpoints)
	}
}

func envelope(header, body string) string {
	return `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:b="` + demostack.BusinessNamespace + `">` + header + `<s:Body>` + body + `</s:Body></s:Envelope>`
}

func TestBusinessRegister(t *testing.T) {
	url := startServer(t, demostack.StartBusiness) + "/soap"
	header := map[string]string{"Content-Type": "text/xml; charset=utf-8", "SOAPAction": `"x"`}
	for _, c := range []struct {
		name, message string
		status        int
		want          []string
	}{
		{"get", envelope("", `<b:GetCompany><b:registrationCode>FIC10003</b:registrationCode></b:GetCompany>`), 200, []string{"GetCompanyResponse", "Example Forestry 3 (fictitious)", "7500.50", "auditor"}},
		{"search", envelope("", `<b:SearchCompanies><b:namePart>baker</b:namePart><b:limit>2</b:limit></b:SearchCompanies>`), 200, []string{"<total>6</total>", "Placeholder Bakery 4"}},
		{"not found", envelope("", `<b:GetCompany><b:registrationCode>FIC99999</b:registrationCode></b:GetCompany>`), 500, []string{"soap:Client", "CompanyNotFound", "FIC99999"}},
		{"bad code", envelope("", `<b:GetCompany/>`), 500, []string{"soap:Client", "five digits"}},
		{"short name", envelope("", `<b:SearchCompanies><b:namePart>x</b:namePart></b:SearchCompanies>`), 500, []string{"soap:Client"}},
		{"bad limit", envelope("", `<b:SearchCompanies><b:namePart>bakery</b:namePart><b:limit>x</b:limit></b:SearchCompanies>`), 500, []string{"does not fit the schema"}},
		{"unknown operation", envelope("", `<b:Delete/>`), 500, []string{"soap:Client", "Delete"}},
		{"other namespace", envelope("", `<GetCompany/>`), 500, []string{"soap:Client"}},
		{"empty body", envelope("", ``), 500, []string{"soap:Client"}},
		{"not XML", "hello", 500, []string{"not well-formed"}},
		{"SOAP 1.2", `<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"><Body/></Envelope>`, 500, []string{"soap:VersionMismatch"}},
		{"must understand", envelope(`<s:Header><x s:mustUnderstand="1"/></s:Header>`, `<b:GetCompany/>`), 500, []string{"soap:MustUnderstand"}},
	} {
		resp, body := do(t, "POST", url, header, c.message)
		if resp.StatusCode != c.status || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/xml") {
			t.Errorf("%s: %d %s", c.name, resp.StatusCode, body)
		}
		for _, want := range c.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %q in %s", c.name, want, body)
			}
		}
		var any struct{ XMLName xml.Name }
		if err := xml.Unmarshal([]byte(body), &any); err != nil || any.XMLName.Local != "Envelope" {
			t.Errorf("%s: the answer is no envelope: %v", c.name, err)
		}
	}
	if resp, body := do(t, "POST", url, map[string]string{"Content-Type": "application/json", "SOAPAction": ""}, "{}"); resp.StatusCode != 500 || !strings.Contains(body, "text/xml") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body := do(t, "GET", url+"?wsdl", nil, "")
	var wsdl struct {
		XMLName xml.Name
		Service struct {
			Port struct {
				Address struct {
					Location string `xml:"location,attr"`
				} `xml:"address"`
			} `xml:"port"`
		} `xml:"service"`
	}
	if err := xml.Unmarshal([]byte(body), &wsdl); err != nil || resp.StatusCode != 200 || wsdl.Service.Port.Address.Location != url {
		t.Errorf("WSDL: %v, location %q, want %q", err, wsdl.Service.Port.Address.Location, url)
	}
	if resp, _ := do(t, "GET", url, nil, ""); resp.StatusCode != 405 {
		t.Error(resp.StatusCode)
	}
}

func TestServersStopWithTheirContextAndStayOnLoopback(t *testing.T) {
	for _, start := range []starter{demostack.StartPopulation, demostack.StartBusiness} {
		ctx, cancel := context.WithCancel(context.Background())
		s, err := start(ctx, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := http.Get(s.URL); err == nil {
			t.Error("the stack still answers")
		}
		if s, err := start(context.Background(), "0.0.0.0:0"); err == nil {
			_ = s.Close()
			t.Error("the stack listens on all addresses")
		}
	}
}

func TestPermits(t *testing.T) {
	dir := t.TempDir()
	p, err := demostack.StartPermits(context.Background(), dir, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, request, answer, content string }{
		{"a", "STATUS;FIC-P-001\n", "a.ans", "PERMIT;HOLDER;KIND;STATUS;VALID_UNTIL\nFIC-P-001;FIC10001;BUILDING;GRANTED;2027-12-31\n"},
		{"b", "LIST;FIC10002\nSTATUS;none\n", "b.ans", "PERMIT;HOLDER;KIND;STATUS;VALID_UNTIL\nFIC-P-002;FIC10002;WATER;PENDING;2028-12-31\nFIC-P-026;FIC10002;WATER;PENDING;2027-12-31\nnone;;;NOT FOUND;\n"},
		{"c", "DELETE;x\n", "c.err", "LINE 1: UNKNOWN COMMAND\n"},
		{"d", "one;two;three\n", "d.err", "CANNOT READ REQUEST\n"},
		{"e", "", "e.err", "CANNOT READ REQUEST\n"},
		{"f", strings.Repeat("x", 2<<20), "f.err", "REQUEST TOO LARGE\n"},
	} {
		temp := filepath.Join(dir, c.name)
		if err := os.WriteFile(temp, []byte(c.request), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, filepath.Join(dir, "in", c.name+".req")); err != nil {
			t.Fatal(err)
		}
		content := waitForFile(t, filepath.Join(dir, "out", c.answer))
		if content != c.content {
			t.Errorf("%s: %q, want %q", c.name, content, c.content)
		}
	}
	for _, left := range []string{"other.txt", ".hidden.req"} { // not requests
		if err := os.WriteFile(filepath.Join(dir, "in", left), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "in"))
	if len(entries) > 3 {
		t.Errorf("in/ holds %v", entries)
	}
}

func TestPermitsSayWhatStoppedThem(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := demostack.StartPermits(ctx, dir, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p, err = demostack.StartPermits(context.Background(), dir, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if err := p.Close(); err == nil {
		t.Error("the directory is gone and nothing is said")
	}
}

func waitForFile(t *testing.T, path string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if content, err := os.ReadFile(path); err == nil {
			return string(content)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not appear in 20 s", path)
		}
		time.Sleep(time.Millisecond)
	}
}
