package soap

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	maxDepth    = 64
	maxElements = 500_000
	xsiName     = "http://www.w3.org/2001/XMLSchema-instance"
)

// element is one XML element that was read.
type element struct {
	name     xml.Name
	null     bool // xsi:nil="true"
	text     string
	children []*element
}

// parse reads an XML document within bounds.
func parse(document []byte) (*element, error) {
	decoder := xml.NewDecoder(bytes.NewReader(document)) // strict; knows XML's five entities only; UTF-8 only
	var stack []*element
	var root *element
	var texts []*strings.Builder
	for count := 0; ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.Directive:
			return nil, errors.New("it has a document type declaration, which SOAP forbids")
		case xml.ProcInst:
			if t.Target != "xml" {
				return nil, errors.New("it has a processing instruction, which SOAP forbids")
			}
		case xml.StartElement:
			if count++; count > maxElements || len(stack) >= maxDepth {
				return nil, fmt.Errorf("it has more than %d elements or is nested deeper than %d", maxElements, maxDepth)
			}
			e := &element{name: t.Name}
			for _, attribute := range t.Attr {
				if attribute.Name.Space == xsiName && attribute.Name.Local == "nil" {
					e.null = attribute.Value == "true" || attribute.Value == "1"
				}
			}
			if len(stack) > 0 {
				parent := stack[len(stack)-1]
				parent.children = append(parent.children, e)
			} else if root != nil {
				return nil, errors.New("it has two root elements")
			} else {
				root = e
			}
			stack, texts = append(stack, e), append(texts, &strings.Builder{})
		case xml.CharData:
			if len(stack) > 0 {
				texts[len(texts)-1].Write(t)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, errors.New("it has text outside the root element")
			}
		case xml.EndElement:
			stack[len(stack)-1].text = texts[len(texts)-1].String()
			stack, texts = stack[:len(stack)-1], texts[:len(texts)-1]
		}
	}
	if root == nil {
		return nil, errors.New("it is empty")
	}
	return root, nil
}

// child returns the first child with a name; space "" fits any namespace.
func (e *element) child(space, local string) *element {
	for _, c := range e.children {
		if c.name.Local == local && (space == "" || c.name.Space == space) {
			return c
		}
	}
	return nil
}

// read turns a SOAP answer into JSON or a problem.
func (a *Adapter) read(op *route, document []byte) ([]byte, error) {
	bad := func(cause error, format string, args ...any) error {
		p := problemf(http.StatusBadGateway, "the SOAP service's answer cannot be understood: "+format, args...)
		p.cause = cause
		return p
	}
	root, err := parse(document)
	if err != nil {
		return nil, bad(err, "it is not well-formed XML of a permitted kind")
	}
	if root.name.Space != envelopeNamespace || root.name.Local != "Envelope" {
		return nil, bad(nil, "it is not a SOAP 1.1 envelope")
	}
	body := root.child(envelopeNamespace, "Body")
	if body == nil || len(body.children) == 0 {
		return nil, bad(nil, "it has no body")
	}
	if fault := body.child(envelopeNamespace, "Fault"); fault != nil {
		return nil, a.fault(fault)
	}
	response := body.child(a.config.Namespace, op.Response)
	if response == nil {
		return nil, bad(nil, "its body does not hold the element %s of the configured namespace", op.Response)
	}
	var out bytes.Buffer
	if err := a.writeObject(&out, op.Output, response, ""); err != nil {
		return nil, bad(nil, "%v", err)
	}
	return out.Bytes(), nil
}

// fault maps a SOAP fault.
func (a *Adapter) fault(fault *element) *problem {
	code, detail := "", fault.child("", "detail")
	if c := fault.child("", "faultcode"); c != nil {
		code = strings.TrimSpace(c.text)
		if _, local, ok := strings.Cut(code, ":"); ok {
			code = local
		}
	}
	status := http.StatusInternalServerError
	if code == "Client" || strings.HasPrefix(code, "Client.") {
		status = http.StatusBadRequest
	}
	for _, rule := range a.config.Faults {
		if (rule.Code == "" || rule.Code == code) && (rule.Detail == "" || detail != nil && detail.contains(rule.Detail)) {
			status = rule.Status
			break
		}
	}
	p := problemf(status, "the service refused or failed")
	if s := fault.child("", "faultstring"); s != nil && strings.TrimSpace(s.text) != "" {
		p.Detail = strings.TrimSpace(s.text)
	}
	p.Fault = code
	return p
}

func (e *element) contains(local string) bool {
	for _, c := range e.children {
		if c.name.Local == local || c.contains(local) {
			return true
		}
	}
	return false
}

func (a *Adapter) writeObject(out *bytes.Buffer, fields []Field, e *element, where string) error {
	out.WriteByte('{')
	first := true
	for _, f := range fields {
		name := where + f.Name
		found := a.occurrences(f, e)
		if len(found) == 0 && !f.Repeated {
			if f.Required {
				return fmt.Errorf("element %s (field %s) is missing", f.Element, name)
			}
			continue
		}
		if len(found) > 1 && !f.Repeated {
			return fmt.Errorf("element %s (field %s) occurs %d times", f.Element, name, len(found))
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		writeString(out, f.Name)
		out.WriteByte(':')
		if !f.Repeated {
			if err := a.writeValue(out, f, found[0], name); err != nil {
				return err
			}
			continue
		}
		out.WriteByte('[')
		for i, item := range found {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := a.writeValue(out, f, item, name); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	}
	out.WriteByte('}')
	return nil
}

// occurrences returns the field's elements. Services are lax about
// elementFormDefault, so both forms are read.
func (a *Adapter) occurrences(f Field, e *element) []*element {
	var found []*element
	for _, c := range e.children {
		if c.name.Local == f.Element && (c.name.Space == a.config.Namespace || c.name.Space == "") {
			found = append(found, c)
		}
	}
	return found
}

func (a *Adapter) writeValue(out *bytes.Buffer, f Field, e *element, where string) error {
	if e.null {
		out.WriteString("null")
		return nil
	}
	if f.Type == "object" {
		return a.writeObject(out, f.Fields, e, where+".")
	}
	if f.Type == "string" {
		writeString(out, e.text)
		return nil
	}
	s := strings.TrimSpace(e.text)
	switch f.Type {
	case "boolean":
		switch s {
		case "true", "1":
			out.WriteString("true")
		case "false", "0":
			out.WriteString("false")
		default:
			return fmt.Errorf("element %s (field %s) is not a boolean", f.Element, where)
		}
		return nil
	case "integer":
		if !integerForm.MatchString(s) {
			return fmt.Errorf("element %s (field %s) is not an integer", f.Element, where)
		}
	case "number":
		if !numberForm.MatchString(s) {
			return fmt.Errorf("element %s (field %s) is not a number", f.Element, where)
		}
	}
	out.WriteString(jsonNumber(s))
	return nil
}

// jsonNumber drops the leading zeros that XML allows and JSON does not.
func jsonNumber(s string) string {
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for len(s) > 1 && s[0] == '0' && s[1] >= '0' && s[1] <= '9' {
		s = s[1:]
	}
	return sign + s
}

func writeString(out *bytes.Buffer, s string) {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // a string always encodes
	out.Truncate(out.Len() - 1)
}
