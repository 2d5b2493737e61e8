// Package soap lets a SOAP 1.1 service (document/literal wrapped, the style of
// nearly every WSDL still in use) be called as a REST service with JSON. A small
// configuration says which method and path is which operation, and which JSON
// field is which XML element; nothing is guessed from a WSDL at run time. What is
// not in the configuration does not pass, in either direction.
//
// The adapter is an http.Handler that a body's own gateway runs as an upstream.
//
// Trust: an attacker who controls the SOAP service can at most answer wrongly
// for it; one who controls a request can at most fill the configured elements
// with text. XML is read with bounds on size, depth and number of elements, and
// without document type declarations, so without entities.
package soap

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config describes one SOAP service. Its field names in TOML are in snake case.
type Config struct {
	// URL is the address of the SOAP service, http or https.
	URL string `toml:"url"`
	// Title is the title of the generated OpenAPI description.
	Title string `toml:"title"`
	// Namespace is the target namespace of the operations' elements.
	Namespace string `toml:"namespace"`
	// Unqualified says that only the outer elements have the namespace
	// (elementFormDefault="unqualified" in the schema).
	Unqualified bool `toml:"unqualified"`
	// Operations are what can be called.
	Operations []Operation `toml:"operations"`
	// Faults maps SOAP faults to HTTP statuses; the first rule that fits counts.
	// Otherwise a Client fault is 400 and any other 500.
	Faults []FaultRule `toml:"faults"`
	// MaxBytes bounds requests and answers. Default 4 MiB.
	MaxBytes int64 `toml:"max_bytes"`
	// Timeout bounds one call of the SOAP service. Default 60 s.
	Timeout time.Duration `toml:"-"`
	// Transport carries the calls, e.g. one with a client certificate. Default:
	// one of the adapter's own.
	Transport http.RoundTripper `toml:"-"`
	// Logger gets failures. Default: none.
	Logger *slog.Logger `toml:"-"`
}

// Operation maps one method and path to one SOAP operation.
type Operation struct {
	// Method is the HTTP method.
	Method string `toml:"method"`
	// Path is the service path; a segment {name} is a parameter.
	Path string `toml:"path"`
	// Summary is for the generated description.
	Summary string `toml:"summary"`
	// Action is the value of SOAPAction, without quotes; it may be empty.
	Action string `toml:"action"`
	// Request and Response are the names of the wrapper elements.
	Request  string `toml:"request"`
	Response string `toml:"response"`
	// Input are the request's elements in the order of the schema.
	Input []Field `toml:"input"`
	// Output are the answer's elements; others are left out.
	Output []Field `toml:"output"`
	// Status is the HTTP status of an answer that is no fault. Default 200.
	Status int `toml:"status"`
}

// Field is one JSON field and its XML element.
type Field struct {
	// Name is the name in JSON, and of the path or query parameter.
	Name string `toml:"name"`
	// Element is the local name of the XML element. Default: Name.
	Element string `toml:"element"`
	// From says where a request's value comes from: path, query or body.
	// Default: path if the path has the parameter, else body for POST, PUT and
	// PATCH, else query.
	From string `toml:"from"`
	// Type is string, integer, number, boolean or object. Default: object if
	// there are Fields, else string.
	Type string `toml:"type"`
	// Repeated says that the element may occur many times: an array in JSON.
	Repeated bool `toml:"repeated"`
	// Required says that the value must be there.
	Required bool `toml:"required"`
	// Fields are the parts of an object.
	Fields []Field `toml:"fields"`
}

// FaultRule gives SOAP faults an HTTP status. Empty conditions fit any fault.
type FaultRule struct {
	// Code is the local part of the fault code, e.g. Client or Client.NotFound.
	Code string `toml:"code"`
	// Detail is the local name of an element inside the fault's detail.
	Detail string `toml:"detail"`
	// Status is the HTTP status, 400 to 599.
	Status int `toml:"status"`
}

// Adapter serves REST and calls SOAP.
type Adapter struct {
	config      Config
	routes      []route
	description []byte
}

var _ http.Handler = (*Adapter)(nil)

// route is an operation with its path split up.
type route struct {
	Operation
	segments []string
}

// New checks the configuration and makes the adapter. All problems are reported
// at once.
func New(config Config) (*Adapter, error) {
	if config.MaxBytes == 0 {
		config.MaxBytes = 4 << 20
	}
	if config.Timeout == 0 {
		config.Timeout = 60 * time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Transport == nil {
		t := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 32, Protocols: new(http.Protocols)}
		t.Protocols.SetHTTP1(true)
		config.Transport = t
	}
	a := &Adapter{config: config}
	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("soap adapter: "+format, args...))
	}
	if u, err := url.Parse(config.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		report("url: the rule is http(s)://HOST[:PORT]/PATH without user name")
	}
	if config.Namespace == "" {
		report("namespace: it must be given; it is targetNamespace in the WSDL's schema")
	}
	if len(config.Operations) == 0 {
		report("operations: there must be at least one")
	}
	for _, f := range config.Faults {
		if f.Status < 400 || f.Status > 599 {
			report("fault rule %q %q: status %d, the rule is 400 to 599", f.Code, f.Detail, f.Status)
		}
	}
	for _, op := range config.Operations {
		r := route{Operation: op, segments: strings.Split(strings.TrimPrefix(op.Path, "/"), "/")}
		r.prepare(report)
		for _, other := range a.routes {
			if other.Method == r.Method && slices.EqualFunc(other.segments, r.segments, sameSegment) {
				report("operation %s %s: another one has the same method and path", r.Method, r.Path)
			}
		}
		a.routes = append(a.routes, r)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	a.description = describe(config, a.routes)
	return a, nil
}

func sameSegment(a, b string) bool { return a == b || isParameter(a) && isParameter(b) }

func isParameter(segment string) bool {
	return len(segment) > 2 && segment[0] == '{' && segment[len(segment)-1] == '}'
}

// ncName is the part of XML's NCName that is portable.
var ncName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// prepare fills in defaults and checks one operation.
func (r *route) prepare(report func(string, ...any)) {
	where := r.Method + " " + r.Path
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		report("operation %s: method %q, the rule is GET, POST, PUT, PATCH or DELETE", where, r.Method)
	}
	if !strings.HasPrefix(r.Path, "/") {
		report("operation %s: the rule is that the path starts with \"/\"", where)
	}
	if !ncName.MatchString(r.Request) || !ncName.MatchString(r.Response) {
		report("operation %s: request %q and response %q must be XML element names", where, r.Request, r.Response)
	}
	if strings.ContainsAny(r.Action, "\"\r\n") {
		report("operation %s: action %q holds a quote or a line break", where, r.Action)
	}
	if r.Status == 0 {
		r.Status = http.StatusOK
	}
	if r.Status < 200 || r.Status > 299 {
		report("operation %s: status %d, the rule is 200 to 299", where, r.Status)
	}
	r.Input = prepareFields(where+" input", r.Input, report)
	r.Output = prepareFields(where+" output", r.Output, report)
	parameters := make(map[string]bool)
	for _, s := range r.segments {
		if isParameter(s) {
			parameters[s[1:len(s)-1]] = false
		}
	}
	for i := range r.Input {
		f := &r.Input[i]
		_, inPath := parameters[f.Name]
		if f.From == "" {
			f.From = r.defaultFrom(inPath)
		}
		switch {
		case f.From == "path" && !inPath:
			report("operation %s: input %q is from the path, which has no {%s}", where, f.Name, f.Name)
		case f.From != "path" && f.From != "query" && f.From != "body":
			report("operation %s: input %q is from %q, the rule is path, query or body", where, f.Name, f.From)
		case f.From == "body" && r.defaultFrom(false) != "body":
			report("operation %s: input %q is from the body, which %s does not have", where, f.Name, r.Method)
		case f.From != "body" && (f.Type == "object" || f.From == "path" && f.Repeated):
			report("operation %s: input %q cannot be had from the %s", where, f.Name, f.From)
		}
		if f.From == "path" {
			parameters[f.Name], f.Required = true, true
		}
	}
	for name, used := range parameters {
		if !used {
			report("operation %s: path parameter {%s} is no input", where, name)
		}
	}
}

func (r *route) defaultFrom(inPath bool) string {
	switch {
	case inPath:
		return "path"
	case r.Method == http.MethodPost, r.Method == http.MethodPut, r.Method == http.MethodPatch:
		return "body"
	}
	return "query"
}

func prepareFields(where string, fields []Field, report func(string, ...any)) []Field {
	out := slices.Clone(fields)
	names := make(map[string]bool)
	for i := range out {
		f := &out[i]
		if f.Element == "" {
			f.Element = f.Name
		}
		if f.Type == "" {
			f.Type = "string"
			if len(f.Fields) > 0 {
				f.Type = "object"
			}
		}
		switch {
		case f.Name == "" || names[f.Name]:
			report("%s: field name %q is empty or given twice", where, f.Name)
		case !ncName.MatchString(f.Element):
			report("%s: field %q: element %q is not an XML element name", where, f.Name, f.Element)
		case !slices.Contains([]string{"string", "integer", "number", "boolean", "object"}, f.Type):
			report("%s: field %q: type %q, the rule is string, integer, number, boolean or object", where, f.Name, f.Type)
		case (f.Type == "object") != (len(f.Fields) > 0):
			report("%s: field %q: the rule is fields for an object and for nothing else", where, f.Name)
		}
		names[f.Name] = true
		f.Fields = prepareFields(where+"."+f.Name, f.Fields, report)
	}
	return out
}

// match finds the operation for a method and raw path, with its path parameters.
// allowed lists the methods that the path has.
func (a *Adapter) match(method, rawPath string) (r *route, parameters map[string]string, allowed []string) {
	segments := strings.Split(strings.TrimPrefix(rawPath, "/"), "/")
	for i := range a.routes {
		candidate := &a.routes[i]
		values, ok := candidate.fits(segments)
		if !ok {
			continue
		}
		if candidate.Method == method {
			return candidate, values, nil
		}
		allowed = append(allowed, candidate.Method)
	}
	return nil, nil, allowed
}

func (r *route) fits(segments []string) (map[string]string, bool) {
	if len(segments) != len(r.segments) {
		return nil, false
	}
	values := make(map[string]string)
	for i, s := range r.segments {
		if !isParameter(s) {
			if s != segments[i] {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(segments[i])
		if err != nil || value == "" {
			return nil, false
		}
		values[s[1:len(s)-1]] = value
	}
	return values, true
}
