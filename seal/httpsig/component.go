package httpsig

import (
	"errors"
	"fmt"
	"strings"
)

// Param is a parameter of a component identifier (RFC 9421 section 2.1).
type Param struct {
	name  string
	value string
	text  bool // value is a string; otherwise the parameter is a boolean true
}

// SF asks for the strict serialisation of a structured field.
func SF() Param { return Param{name: "sf"} }

// BS asks for the binary wrapping of a field.
func BS() Param { return Param{name: "bs"} }

// TR takes the field from the trailers.
func TR() Param { return Param{name: "tr"} }

// Req takes the component from the request that a response answers.
func Req() Param { return Param{name: "req"} }

// Key takes one member of a dictionary field.
func Key(member string) Param { return Param{name: "key", value: member, text: true} }

// Name selects the query parameter of @query-param, in the encoded form of RFC
// 9421 section 2.2.8.
func Name(query string) Param { return Param{name: "name", value: query, text: true} }

// The flags of a component.
const (
	flagSF = 1 << iota
	flagBS
	flagTR
	flagReq
	flagKey
	flagName
)

// Component identifies one part of a message that a signature covers.
type Component struct {
	id    string // serialised identifier, quotes and parameters included
	name  string // what stands between the quotes
	value string // of key or name
	flags uint8
}

// NewComponent makes a component identifier from a lower-case field name or
// the name of a derived component, and parameters in the order given.
func NewComponent(name string, params ...Param) (Component, error) {
	c := Component{name: name}
	var b strings.Builder
	if err := writeString(&b, name); err != nil {
		return Component{}, fmt.Errorf("component %q: %w", name, err)
	}
	for _, p := range params {
		if err := c.set(p); err != nil {
			return Component{}, fmt.Errorf("component %q: %w", name, err)
		}
		b.WriteByte(';')
		b.WriteString(p.name)
		if p.text {
			b.WriteByte('=')
			if err := writeString(&b, p.value); err != nil {
				return Component{}, fmt.Errorf("component %q: %w", name, err)
			}
		}
	}
	c.id = b.String()
	if err := c.check(); err != nil {
		return Component{}, err
	}
	return c, nil
}

// FieldComponent makes the component of a whole field from the name under
// which a http.Header holds it, which must be in canonical form.
func FieldComponent(name string) (Component, error) {
	var room [66]byte
	id := append(room[:0], '"')
	upper := true
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case !tokenByte(c), 'a' <= c && c <= 'z' && upper, 'A' <= c && c <= 'Z' && !upper:
			return Component{}, fmt.Errorf("field %q: the rule is a valid name in canonical form", name)
		case 'A' <= c && c <= 'Z':
			id = append(id, c+'a'-'A')
		default:
			id = append(id, c)
		}
		upper = c == '-'
	}
	s := string(append(id, '"'))
	if len(s) == 2 {
		return Component{}, errors.New("a field has no name")
	}
	return Component{id: s, name: s[1 : len(s)-1]}, nil
}

// String returns the serialised identifier, e.g. "signature";req;key="civibus".
func (c Component) String() string { return c.id }

// Name returns the field name or derived name.
func (c Component) Name() string { return c.name }

// Derived reports whether the component is a derived one ("@...").
func (c Component) Derived() bool { return strings.HasPrefix(c.name, "@") }

// Req reports whether the component is taken from the related request.
func (c Component) Req() bool { return c.flags&flagReq != 0 }

// Trailer reports whether the field is taken from the trailers.
func (c Component) Trailer() bool { return c.flags&flagTR != 0 }

// same reports whether two identifiers name the same component: parameters
// count, their order does not (RFC 9421 section 2).
func (c *Component) same(o *Component) bool {
	return c.name == o.name && c.flags == o.flags && c.value == o.value
}

func (c *Component) set(p Param) error {
	var f uint8
	switch {
	case p.name == "sf" && !p.text:
		f = flagSF
	case p.name == "bs" && !p.text:
		f = flagBS
	case p.name == "tr" && !p.text:
		f = flagTR
	case p.name == "req" && !p.text:
		f = flagReq
	case p.name == "key" && p.text:
		f, c.value = flagKey, p.value
	case p.name == "name" && p.text:
		f, c.value = flagName, p.value
	default:
		return fmt.Errorf("parameter %q is not known or has a value of the wrong type", p.name)
	}
	if c.flags&f != 0 {
		return fmt.Errorf("parameter %q is given twice", p.name)
	}
	c.flags |= f
	return nil
}

var errFlags = errors.New("its parameters do not go together")

// check applies the rules of RFC 9421 sections 2.1 and 2.2 to the identifier.
func (c *Component) check() error {
	fail := func(err error) error { return fmt.Errorf("component %s: %w", c.id, err) }
	if !c.Derived() {
		if !lowerToken(c.name) {
			return fail(errors.New("the rule is a lower-case field name"))
		}
		if c.flags&flagName != 0 || (c.flags&flagBS != 0 && c.flags&(flagSF|flagKey) != 0) {
			return fail(errFlags)
		}
		return nil
	}
	if c.flags&(flagSF|flagBS|flagTR|flagKey) != 0 {
		return fail(errFlags)
	}
	switch c.name {
	case "@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query":
		if c.flags&flagName != 0 {
			return fail(errFlags)
		}
	case "@query-param":
		if c.flags&flagName == 0 {
			return fail(errors.New("it needs the name parameter"))
		}
	case "@status":
		if c.flags != 0 {
			return fail(errFlags)
		}
	default:
		return fail(errors.New("this derived component does not exist"))
	}
	return nil
}

func lowerToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenByte(s[i]) || ('A' <= s[i] && s[i] <= 'Z') {
			return false
		}
	}
	return s != ""
}

func tokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

// writeString writes a structured-field string (RFC 9651 section 4.1.6).
func writeString(b *strings.Builder, s string) error {
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < 0x20 || c > 0x7e {
			return fmt.Errorf("byte %d is not printable ASCII", i)
		}
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
	return nil
}
