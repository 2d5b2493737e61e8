package soap_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/demostack"
	"github.com/civibus/civibus/link/soap"
	"github.com/civibus/civibus/service"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/pelletier/go-toml/v2"
)

// registerTOML is the configuration that docs/connect/soap.md shows.
const registerTOML = `
title = "Business register"
namespace = "urn:fictitious:business-register:v1"

[[operations]]
method = "GET"
path = "/companies/{code}"
summary = "One company"
action = "urn:fictitious:business-register:v1#GetCompany"
request = "GetCompany"
response = "GetCompanyResponse"
input = [{ name = "code", element = "registrationCode" }]
output = [{ name = "company", required = true, fields = [
  { name = "registrationCode", required = true },
  { name = "name", required = true },
  { name = "active", type = "boolean" },
  { name = "shareCapital", type = "number" },
  { name = "officers", element = "officer", repeated = true, fields = [{ name = "name" }, { name = "role" }] },
] }]

[[operations]]
method = "GET"
path = "/companies"
action = "urn:fictitious:business-register:v1#SearchCompanies"
request = "SearchCompanies"
response = "SearchCompaniesResponse"
input = [{ name = "name", element = "namePart", required = true }, { name = "limit", type = "integer" }]
output = [
  { name = "total", type = "integer" },
  { name = "companies", element = "company", repeated = true, fields = [{ name = "registrationCode" }, { name = "name" }] },
]

[[faults]]
detail = "CompanyNotFound"
status = 404
`

func register(t *testing.T, url string) soap.Config {
	t.Helper()
	var config soap.Config
	decoder := toml.NewDecoder(strings.NewReader(registerTOML)).DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		t.Fatal(err)
	}
	config.URL = url
	return config
}

func newAdapter(t *testing.T, config soap.Config) *soap.Adapter {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	config.Transport = transport
	a, err := soap.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func do(a http.Handler, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// TestRealRegister calls the demo's business register, a SOAP server that knows
// nothing of the adapter.
func TestRealRegister(t *testing.T) {
	server, err := demostack.StartBusiness(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	a := newAdapter(t, register(t, server.URL+"/soap"))
	for _, c := range []struct {
		target string
		status int
		want   string
	}{
		{"/companies/FIC10003", 200, `{"company":{"registrationCode":"FIC10003","name":"Example Forestry 3 (fictitious)","active":true,"shareCapital":7500.50,"officers":[{"name":"Example Person 0003","role":"manager"},{"name":"Example Person 0004","role":"auditor"}]}}`},
		{"/companies?name=bakery&limit=1", 200, `{"total":6,"companies":[{"registrationCode":"FIC10004","name":"Placeholder Bakery 4 (fictitious)"}]}`},
		{"/companies?name=nothing+like+it", 200, `{"total":0,"companies":[]}`},
		{"/companies/FIC99999", 404, `{"type":"about:blank","title":"Not Found","status":404,"detail":"no company has this registration code","soapFault":"Client"}`},
		{"/companies/x", 400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"registrationCode must be FIC and five digits","soapFault":"Client"}`},
		{"/companies", 400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"field \"name\" is missing"}`},
		{"/companies?name=abc&limit=x", 400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"field \"limit\" must be of type integer"}`},
		{"/companies?name=abc&name=def", 400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"field \"name\" is given 2 times"}`},
		{"/companies?name=abc&x=1", 400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"query parameter \"x\" is not known"}`},
		{"/companies?name=%zz", 400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"the query is not well-formed"}`},
		{"/nothing", 404, `{"type":"about:blank","title":"Not Found","status":404,"detail":"no operation has this path"}`},
	} {
		w := do(a, "GET", c.target, "")
		if w.Code != c.status || w.Body.String() != c.want {
			t.Errorf("%s: %d\n%s\nwant %d\n%s", c.target, w.Code, w.Body, c.status, c.want)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: not JSON", c.target)
		}
	}
	if w := do(a, "POST", "/companies", "{}"); w.Code != 405 || w.Header().Get("Allow") != "GET" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// TestInjection: what a caller sends is text to the service, never markup.
func TestInjection(t *testing.T) {
	var got struct {
		Body struct {
			Get struct {
				Code  string `xml:"registrationCode"`
				Other string `xml:"other"`
			} `xml:"GetCompany"`
		} `xml:"Body"`
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Body.Get.Code, got.Body.Get.Other = "", ""
		if err := xml.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		if r.Header.Get("SOAPAction") != `"urn:fictitious:business-register:v1#GetCompany"` || r.Header.Get("Content-Type") != "text/xml; charset=utf-8" {
			t.Errorf("header %v", r.Header)
		}
		w.WriteHeader(502)
	}))
	defer server.Close()
	a := newAdapter(t, register(t, server.URL))
	for _, code := range []string{`</registrationCode><other>x</other>`, `]]>`, `<!--`, `&amp;`, `&#x41;`, `"'<>&`, "a\tb", "öäå€😀"} {
		var path strings.Builder
		for _, b := range []byte(code) {
			fmt.Fprintf(&path, "%%%02X", b)
		}
		if w := do(a, "GET", "/companies/"+path.String(), ""); w.Code != 502 {
			t.Errorf("%q: %d", code, w.Code)
		}
		if got.Body.Get.Code != code || got.Body.Get.Other != "" {
			t.Errorf("the service saw %q and %q, want %q", got.Body.Get.Code, got.Body.Get.Other, code)
		}
	}
	for _, path := range []string{"/companies/%00", "/companies/a%0Bb", "/companies/%FF"} {
		if w := do(a, "GET", path, ""); w.Code != 400 {
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		}
	}
}

func orders(url string) soap.Config {
	return soap.Config{URL: url, Namespace: "urn:orders", Unqualified: true, MaxBytes: 64 << 10, Operations: []soap.Operation{{
		Method: "POST", Path: "/customers/{customer}/orders", Request: "Order", Response: "OrderResponse", Status: 201,
		Input: []soap.Field{
			{Name: "customer", Type: "integer"},
			{Name: "urgent", Type: "boolean", From: "query"},
			{Name: "items", Element: "item", Repeated: true, Required: true, Fields: []soap.Field{{Name: "sku", Required: true}, {Name: "count", Type: "integer"}, {Name: "price", Type: "number"}, {Name: "gift", Type: "boolean"}}},
			{Name: "note"},
		},
		Output: []soap.Field{{Name: "id", Required: true}, {Name: "when", Type: "string"}, {Name: "ok", Type: "boolean"}, {Name: "n", Type: "integer"}, {Name: "x", Type: "number"}, {Name: "sub", Fields: []soap.Field{{Name: "deep"}}}},
	}}}
}

func reply(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	_, _ = io.WriteString(w, body)
}

func wrap(inner string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:o="urn:orders"><e:Header/><e:Body>` + inner + `</e:Body></e:Envelope>`
}

func TestBodyBecomesXML(t *testing.T) {
	var seen string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen = string(b)
		reply(w, wrap(`<o:OrderResponse><id>7</id></o:OrderResponse>`))
	}))
	defer server.Close()
	a := newAdapter(t, orders(server.URL))
	w := do(a, "POST", "/customers/42/orders?urgent=true", `{"note":"a<b","items":[{"sku":"x","count":3,"price":-1.5e2,"gift":false},{"sku":"y"}]}`)
	if w.Code != 201 || w.Body.String() != `{"id":"7"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	const want = `<m:Order xmlns:m="urn:orders"><customer>42</customer><urgent>true</urgent><item><sku>x</sku><count>3</count><price>-1.5e2</price><gift>false</gift></item><item><sku>y</sku></item><note>a&lt;b</note></m:Order>`
	if !strings.Contains(seen, want) {
		t.Errorf("the service saw\n%s\nwant\n%s", seen, want)
	}
	seen = ""
	for body, want := range map[string]string{
		`{"items":[{"sku":1}]}`:                "items.sku",
		`{"items":[{"sku":"x","count":1.5}]}`:  "items.count",
		`{"items":[{"sku":"x","count":"1"}]}`:  "items.count",
		`{"items":[{"sku":"x","gift":"yes"}]}`: "items.gift",
		`{"items":[{"count":1}]}`:              "items.sku",
		`{"items":[{"sku":"x","zzz":1}]}`:      "items.zzz",
		`{"items":{"sku":"x"}}`:                "must be an array",
		`{"items":["x"]}`:                      "must be an object",
		`{"items":[]}`:                         "is missing",
		`{}`:                                   "is missing",
		`{"items":[{"sku":"x"}],"other":1}`:    "other",
		`[]`:                                   "JSON object",
		`null`:                                 "JSON object",
		`{} {}`:                                "nothing after it",
		`{`:                                    "JSON object",
		`{"items":[{"sku":"\u0001"}]}`:         "XML cannot carry",
	} {
		if w := do(a, "POST", "/customers/42/orders", body); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %q", body, w.Code, w.Body, want)
		}
	}
	if w := do(a, "POST", "/customers/x/orders", `{"items":[{"sku":"x"}]}`); w.Code != 400 {
		t.Error(w.Code)
	}
	if w := do(a, "POST", "/customers/1/orders", strings.Repeat(" ", 65<<10)); w.Code != 413 {
		t.Error(w.Code)
	}
	r := httptest.NewRequest("POST", "/customers/1/orders", strings.NewReader("{}"))
	rec := httptest.NewRecorder()
	if a.ServeHTTP(rec, r); rec.Code != 415 {
		t.Error(rec.Code)
	}
	if seen != "" {
		t.Errorf("a refused request reached the service: %s", seen)
	}
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		want         string
	}{
		{"types", wrap(`<o:OrderResponse><id> a &amp; "b" </id><ok>1</ok><n>-0042</n><x>007.50</x><o:sub><deep>d</deep></o:sub><unknown>left out</unknown></o:OrderResponse>`), 201, `{"id":" a & \"b\" ","ok":true,"n":-42,"x":7.50,"sub":{"deep":"d"}}`},
		{"nil", wrap(`<o:OrderResponse xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><id>1</id><when xsi:nil="true"/></o:OrderResponse>`), 201, `{"id":"1","when":null}`},
		{"CDATA and comment", wrap(`<o:OrderResponse><id><![CDATA[<x>]]><!-- c -->y</id></o:OrderResponse>`), 201, `{"id":"<x>y"}`},
		{"required missing", wrap(`<o:OrderResponse/>`), 502, "missing"},
		{"twice", wrap(`<o:OrderResponse><id>1</id><id>2</id></o:OrderResponse>`), 502, "2 times"},
		{"bad integer", wrap(`<o:OrderResponse><id>1</id><n>1.5</n></o:OrderResponse>`), 502, "integer"},
		{"bad number", wrap(`<o:OrderResponse><id>1</id><x>NaN</x></o:OrderResponse>`), 502, "number"},
		{"bad boolean", wrap(`<o:OrderResponse><id>1</id><ok>yes</ok></o:OrderResponse>`), 502, "boolean"},
		{"other element", wrap(`<o:Other/>`), 502, "OrderResponse"},
		{"other namespace", wrap(`<OrderResponse><id>1</id></OrderResponse>`), 502, "OrderResponse"},
		{"no body", `<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"/>`, 502, "no body"},
		{"SOAP 1.2", `<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope"/>`, 502, "SOAP 1.1"},
		{"not XML", `{"a":1}`, 502, "well-formed"},
		{"cut", wrap("")[:80], 502, "well-formed"},
		{"empty", "", 502, "well-formed"},
		{"DOCTYPE", `<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + wrap(`<o:OrderResponse><id>1</id></o:OrderResponse>`)[38:], 502, "permitted kind"},
		{"entity", wrap(`<o:OrderResponse><id>&x;</id></o:OrderResponse>`), 502, "well-formed"},
		{"too deep", wrap(strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100)), 502, "permitted kind"},
		{"too large", wrap(`<o:OrderResponse><id>` + strings.Repeat("a", 64<<10) + `</id></o:OrderResponse>`), 502, "larger than"},
		{"processing instruction", wrap(`<?php x?><o:OrderResponse><id>1</id></o:OrderResponse>`), 502, "permitted kind"},
		{"two roots", wrap("") + "<x/>", 502, "permitted kind"},
		{"other encoding", `<?xml version="1.0" encoding="ISO-8859-1"?><x/>`, 502, "well-formed"},
		{"server fault", wrap(`<e:Fault><faultcode>e:Server.Busy</faultcode><faultstring> try later </faultstring></e:Fault>`), 500, `"detail":"try later","soapFault":"Server.Busy"`},
		{"client fault", wrap(`<e:Fault><faultcode>e:Client.X</faultcode></e:Fault>`), 400, `"soapFault":"Client.X"`},
		{"mapped fault", wrap(`<e:Fault><faultcode>e:Server</faultcode><detail><o:a><o:Gone/></o:a></detail></e:Fault>`), 410, `"status":410`},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, c.answer) }))
			defer server.Close()
			config := orders(server.URL)
			config.Faults = []soap.FaultRule{{Detail: "Gone", Status: 410}}
			w := do(newAdapter(t, config), "POST", "/customers/1/orders", `{"items":[{"sku":"x"}]}`)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, c.status, c.want)
			}
			if strings.Contains(w.Body.String(), "root:") {
				t.Error("a file's content is in the answer")
			}
		})
	}
}

func TestServiceThatDoesNotAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + l.Addr().String()
	_ = l.Close()
	if w := do(newAdapter(t, register(t, refused)), "GET", "/companies/x", ""); w.Code != 502 || strings.Contains(w.Body.String(), "127.0.0.1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/html" {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>maintenance</html>")
			return
		}
		<-release
	}))
	defer server.Close()
	defer close(release)
	config := register(t, server.URL)
	config.Timeout = 50 * time.Millisecond
	if w := do(newAdapter(t, config), "GET", "/companies/x", ""); w.Code != 504 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(newAdapter(t, register(t, server.URL+"/html")), "GET", "/companies/x", ""); w.Code != 502 || strings.Contains(w.Body.String(), "maintenance") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestDescription(t *testing.T) {
	a := newAdapter(t, register(t, "http://x/"))
	body := do(a, "GET", "/openapi.json", "").Body.Bytes()
	doc, err := openapi3.NewLoader().LoadFromData(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if endpoints, err := service.Endpoints(body); err != nil || fmt.Sprint(endpoints) != "[{GET /companies} {GET /companies/*}]" {
		t.Errorf("%v %v", endpoints, err)
	}
	if again := do(newAdapter(t, register(t, "http://x/")), "GET", "/openapi.json", "").Body.Bytes(); string(again) != string(body) {
		t.Error("the description differs from one start to the next")
	}
	if _, err := service.Endpoints(do(newAdapter(t, orders("http://x/")), "GET", "/openapi.json", "").Body.Bytes()); err != nil {
		t.Error(err)
	}
}

func TestBadConfigurationIsReportedAtOnce(t *testing.T) {
	_, err := soap.New(soap.Config{URL: "ftp://u:verysecret@x", Faults: []soap.FaultRule{{Status: 200}}, Operations: []soap.Operation{
		{Method: "FETCH", Path: "x", Request: "a b", Response: "<x>", Action: "a\"b", Status: 404},
		{Method: "GET", Path: "/a/{b}/{c}", Request: "A", Response: "B", Input: []soap.Field{{Name: "b"}, {Name: "d", From: "path"}, {Name: "e", From: "body"}, {Name: "f", From: "sky"}, {Name: "g", Type: "object", Fields: []soap.Field{{Name: "h", Type: "date"}}}, {Name: "i", Fields: []soap.Field{{}}, Type: "string"}}},
		{Method: "GET", Path: "/a/{x}/{y}", Request: "A", Response: "B", Input: []soap.Field{{Name: "x"}, {Name: "y"}, {Name: "y"}}},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"url:", "namespace:", "fault rule", `"FETCH"`, "starts with", "XML element names", "a quote", "status 404", "has no {d}", "GET does not have", `from "sky"`, `type "date"`, "{c} is no input", "same method and path", "given twice", "cannot be had from the query"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "verysecret") {
		t.Error("the error holds a password")
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(wrap(`<o:OrderResponse><id>1</id><n>2</n></o:OrderResponse>`))
	f.Add(wrap(`<e:Fault><faultcode>e:Client</faultcode><detail><x/></detail></e:Fault>`))
	f.Fuzz(func(t *testing.T, answer string) {
		config := orders("http://service.invalid/")
		config.Transport = fixed(answer)
		a, err := soap.New(config)
		if err != nil {
			t.Fatal(err)
		}
		w := do(a, "POST", "/customers/1/orders", `{"items":[{"sku":"x"}]}`)
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("answer %q became %q", answer, w.Body)
		}
	})
}

type fixed string

func (f fixed) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(strings.NewReader(string(f)))}, nil
}

func FuzzRequest(f *testing.F) {
	f.Add("1", "urgent=true", `{"items":[{"sku":"x"}],"note":"<"}`)
	f.Fuzz(func(t *testing.T, customer, query, body string) {
		config := orders("http://service.invalid/")
		config.Transport = wellFormed{t}
		a, err := soap.New(config)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.URL.Path, r.URL.RawQuery = "/customers/"+customer+"/orders", query
		r.Header.Set("Content-Type", "application/json")
		a.ServeHTTP(httptest.NewRecorder(), r)
	})
}

// wellFormed fails the test on a request that is not XML of the right shape.
type wellFormed struct{ t *testing.T }

func (w wellFormed) RoundTrip(r *http.Request) (*http.Response, error) {
	var envelope struct {
		Body struct {
			Inner struct {
				XMLName xml.Name
			} `xml:",any"`
		} `xml:"Body"`
	}
	if err := xml.NewDecoder(r.Body).Decode(&envelope); err != nil || envelope.Body.Inner.XMLName.Local != "Order" {
		w.t.Errorf("the request is not what it should be: %v %v", err, envelope)
	}
	return fixed(wrap(`<o:OrderResponse><id>1</id></o:OrderResponse>`)).RoundTrip(r)
}
