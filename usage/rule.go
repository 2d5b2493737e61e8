package usage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/civibus/civibus"
)

// Rule says where in a service's requests the person is. Exactly one field is set. A
// service without a rule takes the consumer's word: the header Civibus-Subject.
type Rule struct {
	// Path is a pattern of the service path, segment by segment: {} is the person, *
	// any one segment, ** at the end the rest. Example: /persons/{}/**.
	Path string
	// Query is the parameter with the person.
	Query string
	// JSON is the field of the request's body with the person: names with points between.
	JSON string
}

// ErrNoSubject says that a request names nobody. Its text is told to the consumer and
// holds nothing of the request.
var ErrNoSubject = errors.New("whom the request concerns was not found")

func noSubject(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNoSubject, fmt.Sprintf(format, args...))
}

// Validate checks a rule.
func (r Rule) Validate() error {
	set := 0
	for _, s := range [...]string{r.Path, r.Query, r.JSON} {
		if s != "" {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("%d of path, query and json are set, the rule is one", set)
	}
	if r.Path != "" && (!strings.HasPrefix(r.Path, "/") || strings.Count(r.Path, "{}") != 1 || !segments(r.Path)) {
		return fmt.Errorf("path %q, the rule is segments after slashes, of which one is {}, others * or plain, the last may be **", r.Path)
	}
	if r.JSON != "" && strings.Contains("."+r.JSON+".", "..") {
		return fmt.Errorf("json %q, the rule is names with points between", r.JSON)
	}
	return nil
}

func segments(pattern string) bool {
	parts := strings.Split(pattern[1:], "/")
	for i, p := range parts {
		if p != "{}" && strings.Contains(p, "{}") || strings.Contains(p, "*") && p != "*" && (p != "**" || i != len(parts)-1) {
			return false
		}
	}
	return true
}

// Request is what a subject is looked for in.
type Request struct {
	Service civibus.ServiceID
	Path    string // raw path after the service code
	Query   string // raw
	Header  http.Header
	Body    []byte
	Whole   bool // Body is the whole body
}

// Subject finds whom a request concerns. The errors wrap ErrNoSubject and name the rule,
// never a value.
func (k *Keeper) Subject(r *Request) (string, error) {
	// 1. The provider knows its own service best; of a version as of the service.
	id := r.Service
	rule, ok := k.rules[id.String()]
	if !ok {
		id.Version = ""
		rule, ok = k.rules[id.String()]
	}
	var s string
	var err error
	switch {
	case !ok:
		s, err = fromHeader(r.Header)
	case rule.Path != "":
		s, err = fromPath(rule.Path, r.Path)
	case rule.Query != "":
		s, err = fromQuery(rule.Query, r.Query)
	default:
		s, err = fromJSON(rule.JSON, r)
	}
	if err != nil {
		return "", err
	}
	// 2. One identifier, as it will be asked for.
	s = strings.TrimSpace(s)
	if s == "" || len(s) > maxSubject {
		return "", noSubject("the identifier has %d bytes, the rule is 1 to %d", len(s), maxSubject)
	}
	return s, nil
}

func fromHeader(h http.Header) (string, error) {
	v := h[civibus.HeaderSubject]
	if len(v) != 1 {
		return "", noSubject("%d headers %s, the rule for this service is one, with the identifier of the person", len(v), civibus.HeaderSubject)
	}
	return v[0], nil
}

func fromPath(pattern, path string) (string, error) {
	missing := noSubject("the path does not have the form %s", pattern)
	want, have := strings.Split(pattern[1:], "/"), strings.Split(strings.TrimPrefix(path, "/"), "/")
	subject := ""
	for i, w := range want {
		if w == "**" {
			return subject, nil
		}
		if i >= len(have) {
			return "", missing
		}
		got, err := url.PathUnescape(have[i])
		switch {
		case err != nil:
			return "", missing
		case w == "{}":
			subject = got
		case w != "*" && w != got:
			return "", missing
		}
	}
	if len(have) != len(want) {
		return "", missing
	}
	return subject, nil
}

func fromQuery(name, raw string) (string, error) {
	q, err := url.ParseQuery(raw)
	if err != nil || len(q[name]) != 1 {
		return "", noSubject("the query has %d parameters %s, the rule is one", len(q[name]), name)
	}
	return q[name][0], nil
}

func fromJSON(field string, r *Request) (string, error) {
	if !r.Whole {
		return "", noSubject("the body is too long to look for %s in it, the rule is one that the gateway buffers", field)
	}
	at := json.RawMessage(r.Body)
	for name := range strings.SplitSeq(field, ".") {
		fields, err := object(at)
		if err != nil {
			return "", noSubject("the body %v, the rule is JSON with %s", err, field)
		}
		at = fields[name]
	}
	var s string
	if err := json.Unmarshal(at, &s); err != nil {
		return "", noSubject("the body has no text in %s", field)
	}
	return s, nil
}

// object reads a JSON object that has no name twice: of two, the service might take the
// other one.
func object(raw []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("has no object where one belongs")
	}
	out := make(map[string]json.RawMessage)
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("is not JSON")
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, errors.New("is not JSON")
		}
		if _, twice := out[name]; twice {
			return nil, errors.New("has a name twice")
		}
		out[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("is not JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("has something after its end")
	}
	return out, nil
}
