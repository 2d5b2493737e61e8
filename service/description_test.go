package service_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
)

const openapiYAML = `openapi: 3.0.3
info: {title: Persons, version: "1"}
paths:
  /persons:
    get: {responses: {"200": {description: ok}}}
  /persons/{id}:
    parameters: [{name: id, in: path, required: true, schema: {type: string}}]
    get: {responses: {"200": {description: ok}}}
    patch: {responses: {"200": {description: ok}}}
  /persons/{id}/files/{name}.{ext}:
    delete: {responses: {"204": {description: gone}}}
  /star/*:
    trace: {responses: {"200": {description: ok}}}
  /pair/{a}{b}:
    options: {responses: {"200": {description: ok}}}
`

const openapiJSON = `{"openapi":"3.1.0","info":{"title":"P","version":"1"},"paths":{"/a/{x}":{"head":{"responses":{"200":{"description":"ok"}}}}}}`

func TestEndpoints(t *testing.T) {
	got, err := service.Endpoints([]byte(openapiYAML))
	if err != nil {
		t.Fatal(err)
	}
	want := `[{OPTIONS /pair/*} {GET /persons} {GET /persons/*} {PATCH /persons/*} {DELETE /persons/*/files/*.*} {TRACE /star/\*}]`
	if fmt.Sprint(got) != want {
		t.Errorf("endpoints %v\nwant %s", got, want)
	}
	if got, err = service.Endpoints([]byte(openapiJSON)); err != nil || fmt.Sprint(got) != "[{HEAD /a/*}]" {
		t.Errorf("%v %v", got, err)
	}
}

func TestEndpointsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"not OpenAPI":   `{"hello":1}`,
		"Swagger 2":     `{"swagger":"2.0","info":{"title":"x","version":"1"},"paths":{}}`,
		"garbage":       "\x00\x01\x02",
		"external file": `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/a":{"$ref":"file:///etc/passwd"}}}`,
		"external URL":  `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/a":{"get":{"responses":{"200":{"$ref":"http://127.0.0.1:1/x"}}}}}}`,
		"no slash":      `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"a":{"get":{"responses":{"200":{"description":"ok"}}}}}}`,
		"open brace":    `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/a/{x":{"get":{"responses":{"200":{"description":"ok"}}}}}}`,
		"empty name":    `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/a/{}":{"get":{"responses":{"200":{"description":"ok"}}}}}}`,
		"alias bomb":    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n",
	} {
		if got, err := service.Endpoints([]byte(text)); err == nil {
			t.Errorf("%s: taken as %v", name, got)
		}
	}
	if _, err := service.Endpoints(make([]byte, 17<<20)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too large: %v", err)
	}
}

func TestDescription(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = io.WriteString(w, openapiJSON)
	})
	mux.HandleFunc("/bare", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "x")
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/openapi.json", http.StatusFound) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "api.yaml")
	if err := os.WriteFile(file, []byte(openapiYAML), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ where, contentType, body string }{
		{server.URL + "/openapi.json", "application/vnd.oai.openapi+json;version=3.1", openapiJSON},
		{"self:/openapi.json", "application/vnd.oai.openapi+json;version=3.1", openapiJSON},
		{"self:/bare", "text/plain", "x"},
		{file, "application/yaml", openapiYAML},
	} {
		s := newSet(t, service.Upstream{URL: server.URL, OpenAPI: c.where})
		body, contentType, err := s.Description(t.Context(), persons)
		if err != nil || string(body) != c.body || contentType != c.contentType {
			t.Errorf("%s: %q %q %v", c.where, body, contentType, err)
		}
		if len(service.Digest(body)) != 32 {
			t.Error("digest")
		}
	}
	for _, where := range []string{"", server.URL + "/none", server.URL + "/moved", server.URL + "/endless", "/no/such/file.json", "self:/../x", "http://127.0.0.1:1/x"} {
		_, _, err := newSet(t, service.Upstream{URL: server.URL, OpenAPI: where}).Description(t.Context(), persons)
		if err == nil {
			t.Errorf("%q: no error", where)
			continue
		}
		wantCode(t, err, civibus.FaultInternal)
	}
	s := newSet(t, service.Upstream{Handler: mux, OpenAPI: "self:/openapi.json"})
	if body, _, err := s.Description(t.Context(), persons); err != nil || string(body) != openapiJSON {
		t.Errorf("adapter: %q %v", body, err)
	}
}

func FuzzEndpoints(f *testing.F) {
	f.Add([]byte(openapiYAML))
	f.Add([]byte(openapiJSON))
	f.Fuzz(func(t *testing.T, text []byte) {
		endpoints, err := service.Endpoints(text)
		if err != nil {
			return
		}
		for _, e := range endpoints {
			if !strings.HasPrefix(e.Path, "/") || e.Method == "" || strings.ContainsAny(e.Path, "{}") || strings.Contains(strings.ReplaceAll(e.Path, `\*`, ""), "**") {
				t.Errorf("endpoint %+v", e)
			}
		}
	})
}
