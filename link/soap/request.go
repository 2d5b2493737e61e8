package soap

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

const envelopeNamespace = "http://schemas.xmlsoap.org/soap/envelope/"

var (
	integerForm = regexp.MustCompile(`^-?[0-9]{1,40}$`)
	numberForm  = regexp.MustCompile(`^-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?$`)
)

// envelope makes the SOAP request from the REST request.
func (a *Adapter) envelope(r *http.Request, op *route, parameters map[string]string) (string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", problemf(http.StatusBadRequest, "the query is not well-formed")
	}
	object, err := a.body(r, op)
	if err != nil {
		return "", err
	}
	values := make(map[string][]any)
	for _, f := range op.Input {
		switch f.From {
		case "path":
			values[f.Name] = []any{text(parameters[f.Name])}
		case "query":
			for _, v := range query[f.Name] {
				values[f.Name] = append(values[f.Name], text(v))
			}
			delete(query, f.Name)
		case "body":
			if values[f.Name], err = list(f, object[f.Name], f.Name); err != nil {
				return "", err
			}
			delete(object, f.Name)
		}
	}
	for name := range object {
		return "", problemf(http.StatusBadRequest, "field %.60q is not known", name)
	}
	for name := range query {
		return "", problemf(http.StatusBadRequest, "query parameter %.60q is not known", name)
	}
	var b strings.Builder
	b.WriteString(xml.Header + `<soap:Envelope xmlns:soap="` + envelopeNamespace + `"><soap:Body><m:` + op.Request + ` xmlns:m="`)
	_ = xml.EscapeText(&b, []byte(a.config.Namespace))
	b.WriteString(`">`)
	if err := a.writeFields(&b, op.Input, values, ""); err != nil {
		return "", err
	}
	b.WriteString("</m:" + op.Request + "></soap:Body></soap:Envelope>")
	return b.String(), nil
}

// text is a value from a path or query: any type may be spelled in it.
type text string

// body reads the JSON object of a request whose operation has input from it.
func (a *Adapter) body(r *http.Request, op *route) (map[string]any, error) {
	if !slices.ContainsFunc(op.Input, func(f Field) bool { return f.From == "body" }) {
		return nil, nil
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, a.config.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > a.config.MaxBytes {
		return nil, problemf(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", a.config.MaxBytes)
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, problemf(http.StatusUnsupportedMediaType, "the content type must be application/json")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil || object == nil {
		return nil, problemf(http.StatusBadRequest, "the body must be a JSON object")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, problemf(http.StatusBadRequest, "the body must be one JSON object and nothing after it")
	}
	return object, nil
}

// list turns a JSON value into the values of the field's elements.
func list(f Field, v any, where string) ([]any, error) {
	if v == nil {
		return nil, nil
	}
	if !f.Repeated {
		return []any{v}, nil
	}
	values, ok := v.([]any)
	if !ok {
		return nil, problemf(http.StatusBadRequest, "field %q must be an array", where)
	}
	return values, nil
}

func (a *Adapter) writeFields(b *strings.Builder, fields []Field, values map[string][]any, where string) error {
	for _, f := range fields {
		name := where + f.Name
		given := values[f.Name]
		switch {
		case f.Required && len(given) == 0:
			return problemf(http.StatusBadRequest, "field %q is missing", name)
		case !f.Repeated && len(given) > 1:
			return problemf(http.StatusBadRequest, "field %q is given %d times", name, len(given))
		}
		for _, v := range given {
			if err := a.writeField(b, f, v, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Adapter) writeField(b *strings.Builder, f Field, v any, where string) error {
	tag := "m:" + f.Element
	if a.config.Unqualified {
		tag = f.Element
	}
	b.WriteString("<" + tag + ">")
	if f.Type == "object" {
		object, ok := v.(map[string]any)
		if !ok {
			return problemf(http.StatusBadRequest, "field %q must be an object", where)
		}
		values := make(map[string][]any)
		for _, part := range f.Fields {
			var err error
			if values[part.Name], err = list(part, object[part.Name], where+"."+part.Name); err != nil {
				return err
			}
		}
		for name := range object {
			if !slices.ContainsFunc(f.Fields, func(part Field) bool { return part.Name == name }) {
				return problemf(http.StatusBadRequest, "field %q is not known", where+"."+name)
			}
		}
		if err := a.writeFields(b, f.Fields, values, where+"."); err != nil {
			return err
		}
	} else {
		s, ok := scalar(f.Type, v)
		if !ok {
			return problemf(http.StatusBadRequest, "field %q must be of type %s", where, f.Type)
		}
		if !xmlText(s) {
			return problemf(http.StatusBadRequest, "field %q holds a character that XML cannot carry", where)
		}
		_ = xml.EscapeText(b, []byte(s))
	}
	b.WriteString("</" + tag + ">")
	return nil
}

// scalar spells a JSON value in XML, if it is of the type.
func scalar(kind string, v any) (string, bool) {
	t, spelled := v.(text)
	switch kind {
	case "string":
		if spelled {
			return string(t), true
		}
		s, ok := v.(string)
		return s, ok
	case "boolean":
		if spelled {
			return string(t), t == "true" || t == "false"
		}
		if yes, ok := v.(bool); ok {
			if yes {
				return "true", true
			}
			return "false", true
		}
		return "", false
	}
	s := string(t)
	if !spelled {
		n, ok := v.(json.Number)
		if !ok {
			return "", false
		}
		s = n.String()
	}
	if kind == "integer" {
		return s, integerForm.MatchString(s)
	}
	return s, numberForm.MatchString(s)
}

// xmlText reports whether XML 1.0 can carry s.
func xmlText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}
