package httpsig

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"
)

// AppendBase appends the signature base of m under in (RFC 9421 section 2.5).
// A component that m does not have, or has ambiguously, is an error.
func AppendBase(dst []byte, m *Message, in *Input) ([]byte, error) {
	return AppendBaseOver(dst, m, in.Components, in.raw)
}

// AppendBaseOver is AppendBase for the components and the value of
// @signature-params that an Input would have.
func AppendBaseOver(dst []byte, m *Message, components []Component, params string) ([]byte, error) {
	for i := range components {
		c := &components[i]
		dst = append(dst, c.id...)
		dst = append(dst, ": "...)
		start := len(dst)
		var err error
		if dst, err = appendValue(dst, m, c); err != nil {
			return nil, fmt.Errorf("component %s: %w", c.id, err)
		}
		if v := dst[start:]; bytes.IndexByte(v, '\n') >= 0 || bytes.IndexByte(v, '\r') >= 0 {
			return nil, fmt.Errorf("component %s: its value holds a line break", c.id)
		}
		dst = append(dst, '\n')
	}
	dst = append(dst, `"@signature-params": `...)
	return append(dst, params...), nil
}

var (
	errAbsent  = errors.New("the message does not have it")
	errRequest = errors.New("only a request has it")
	errRelated = errors.New("there is no related request")
)

func appendValue(dst []byte, m *Message, c *Component) ([]byte, error) {
	if c.flags&flagReq != 0 {
		if m.Status == 0 || m.Request == nil {
			return nil, errRelated
		}
		m = m.Request
	}
	if !c.Derived() {
		return appendField(dst, m, c)
	}
	if c.name == "@status" {
		if m.Status == 0 {
			return nil, errors.New("only a response has it")
		}
		return strconv.AppendInt(dst, int64(m.Status), 10), nil
	}
	if m.Status != 0 {
		return nil, errRequest
	}
	switch c.name {
	case "@method":
		return append(dst, m.Method...), nil
	case "@target-uri":
		return append(dst, m.targetURI()...), nil
	case "@authority":
		return append(dst, m.authority()...), nil
	case "@scheme":
		return append(dst, m.Scheme...), nil
	case "@request-target":
		return append(dst, m.Target...), nil
	case "@path":
		return append(dst, m.path()...), nil
	case "@query":
		return append(append(dst, '?'), m.Query...), nil
	case "@query-param":
		v, ok := m.queryParam(c.value)
		if !ok {
			return nil, errors.New("the query does not have it exactly once")
		}
		return append(dst, v...), nil
	}
	return nil, errors.New("this derived component does not exist")
}

// appendField appends the value of a field component (RFC 9421 section 2.1).
func appendField(dst []byte, m *Message, c *Component) ([]byte, error) {
	h := m.Header
	if c.flags&flagTR != 0 {
		h = m.Trailer
	}
	lines := fieldLines(h, c.name)
	if len(lines) == 0 && c.flags&flagTR == 0 {
		switch {
		case c.name == "host" && m.Authority != "":
			lines = []string{m.Authority}
		case c.name == "content-length" && m.Length >= 0:
			lines = []string{strconv.FormatInt(m.Length, 10)}
		}
	}
	if len(lines) == 0 {
		return nil, errAbsent
	}
	switch {
	case c.flags&flagBS != 0:
		return appendWrapped(dst, lines), nil
	case c.flags&flagKey != 0:
		return appendMember(dst, lines, c.value)
	case c.flags&flagSF != 0:
		return appendStrict(dst, lines)
	}
	for i, l := range lines {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = appendTrimmed(dst, l)
	}
	return dst, nil
}

// fieldLines returns the lines of a field named in lower case, without
// allocating for the canonical form.
func fieldLines(h http.Header, name string) []string {
	if len(h) == 0 {
		return nil
	}
	if len(name) > 64 {
		return h[textproto.CanonicalMIMEHeaderKey(name)]
	}
	var buf [64]byte
	upper := true
	for i := 0; i < len(name); i++ {
		c := name[i]
		if upper && 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		buf[i] = c
		upper = c == '-'
	}
	return h[string(buf[:len(name)])]
}

// appendTrimmed appends a field line without surrounding white space, obsolete
// line folding replaced by one space.
func appendTrimmed(dst []byte, line string) []byte {
	line = strings.Trim(line, " \t\r\n")
	if strings.IndexByte(line, '\n') < 0 {
		return append(dst, line...)
	}
	for i, part := range strings.Split(line, "\n") {
		if i > 0 && part != "" && (part[0] == ' ' || part[0] == '\t') {
			dst = append(dst, ' ')
			part = strings.TrimLeft(part, " \t")
		} else if i > 0 {
			dst = append(dst, '\n') // not folding: AppendBase refuses it
		}
		dst = append(dst, strings.TrimRight(part, " \t\r")...)
	}
	return dst
}

func appendWrapped(dst []byte, lines []string) []byte {
	for i, l := range lines {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, ':')
		dst = base64.StdEncoding.AppendEncode(dst, appendTrimmed(nil, l))
		dst = append(dst, ':')
	}
	return dst
}

// appendMember appends the strict serialisation of one dictionary member.
func appendMember(dst []byte, lines []string, key string) ([]byte, error) {
	found := ""
	err := scanBinaryDictionary(lines, func(k, b64 string) error {
		if k != key {
			return canonicalBase64(b64)
		}
		found = b64
		return canonicalBase64(b64)
	})
	if err == nil {
		if found == "" && !hasMember(lines, key) {
			return nil, errAbsent
		}
		dst = append(dst, ':')
		dst = append(dst, found...)
		return append(dst, ':'), nil
	}
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil, fmt.Errorf("the field is not a dictionary: %w", err)
	}
	m, ok := d.Get(key)
	if !ok {
		return nil, errAbsent
	}
	v, err := httpsfv.Marshal(memberList(m))
	if err != nil {
		return nil, err
	}
	return append(dst, v...), nil
}

func hasMember(lines []string, key string) bool {
	has := false
	_ = scanBinaryDictionary(lines, func(k, _ string) error { has = has || k == key; return nil })
	return has
}

// canonicalBase64 reports whether decoding and encoding again gives b64.
func canonicalBase64(b64 string) error {
	var buf [192]byte
	if len(b64) > 256 || lineBreak(b64) {
		return ErrNotCanonical
	}
	if _, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(b64)); err != nil {
		return ErrNotCanonical
	}
	return nil
}

// lineBreak reports whether s holds what base64 decoders pass over.
func lineBreak(s string) bool {
	return strings.IndexByte(s, '\r') >= 0 || strings.IndexByte(s, '\n') >= 0
}

// memberList wraps a dictionary member so that it serialises on its own.
func memberList(m httpsfv.Member) httpsfv.StructuredFieldValue { return httpsfv.List{m} }

// appendStrict appends the strict serialisation of a structured field. Its
// type is tried in the order dictionary, list, item for fields that are not
// known; a field's definition decides for those that are.
func appendStrict(dst []byte, lines []string) ([]byte, error) {
	if l, err := httpsfv.UnmarshalList(lines); err == nil {
		if d, err := httpsfv.UnmarshalDictionary(lines); err == nil && dictionaryLike(lines) {
			return appendMarshalled(dst, d)
		}
		return appendMarshalled(dst, l)
	}
	if d, err := httpsfv.UnmarshalDictionary(lines); err == nil {
		return appendMarshalled(dst, d)
	}
	i, err := httpsfv.UnmarshalItem(lines)
	if err != nil {
		return nil, errors.New("the field is not a structured field")
	}
	return appendMarshalled(dst, i)
}

// dictionaryLike tells a dictionary from a list that parses as both, e.g. "a, b".
func dictionaryLike(lines []string) bool {
	return strings.Contains(strings.Join(lines, ", "), "=")
}

func appendMarshalled(dst []byte, v httpsfv.StructuredFieldValue) ([]byte, error) {
	s, err := httpsfv.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(dst, s...), nil
}

// Line is one line of a signature base.
type Line struct {
	Component Component
	Value     string
}

// ParseBase reads a signature base back into its lines and the Input at its
// end, and checks that the two agree. It accepts only what AppendBase makes.
func ParseBase(base []byte) ([]Line, *Input, error) {
	rows := strings.Split(string(base), "\n")
	const last = `"@signature-params": `
	end := rows[len(rows)-1]
	if !strings.HasPrefix(end, last) {
		return nil, nil, errors.New("signature base: its last line is not @signature-params")
	}
	in, err := ParseInput("", end[len(last):])
	if err != nil {
		return nil, nil, fmt.Errorf("signature base: %w", err)
	}
	if len(rows)-1 != len(in.Components) {
		return nil, nil, fmt.Errorf("signature base: %d lines for %d components", len(rows)-1, len(in.Components))
	}
	lines := make([]Line, len(in.Components))
	for i, c := range in.Components {
		value, ok := strings.CutPrefix(rows[i], c.id+": ")
		if !ok {
			return nil, nil, fmt.Errorf("signature base: line %d is not component %s", i+1, c.id)
		}
		lines[i] = Line{c, value}
	}
	return lines, in, nil
}
