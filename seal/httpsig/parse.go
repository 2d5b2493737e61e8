package httpsig

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// ErrNotCanonical says that a field is not in the canonical serialisation of
// structured fields, though it may be valid otherwise.
var ErrNotCanonical = errors.New("not in canonical form")

// ParseInputs reads the Signature-Input field lines of a message. Labels must
// be unique within the message (RFC 9421 section 4).
func ParseInputs(lines []string) ([]Input, error) {
	in, err := ParseCanonicalInputs(lines)
	if err == nil || !errors.Is(err, ErrNotCanonical) {
		return in, err
	}
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil, fmt.Errorf("field Signature-Input: %w", err)
	}
	var out []Input
	for _, label := range d.Names() {
		m, _ := d.Get(label)
		one, err := inputOf(label, m)
		if err != nil {
			return nil, fmt.Errorf("field Signature-Input, label %q: %w", label, err)
		}
		out = append(out, one)
	}
	return out, nil
}

// ParseCanonicalInputs is ParseInputs for fields in canonical form, which is
// what nearly every signer writes. It neither copies nor builds maps. The
// error wraps ErrNotCanonical when ParseInputs might still read the field.
func ParseCanonicalInputs(lines []string) ([]Input, error) {
	out := make([]Input, 0, 1)
	for _, line := range lines {
		s := scanner{in: line}
		for {
			in, err := s.input()
			if err != nil {
				return nil, fmt.Errorf("field Signature-Input: byte %d: %w", s.pos, err)
			}
			for i := range out {
				if out[i].Label == in.Label {
					return nil, fmt.Errorf("field Signature-Input: label %q is given twice", in.Label)
				}
			}
			out = append(out, in)
			if s.pos == len(s.in) {
				break
			}
			if !s.skip(", ") {
				return nil, fmt.Errorf("field Signature-Input: byte %d: %w", s.pos, ErrNotCanonical)
			}
		}
	}
	return out, nil
}

// ParseInput reads the value of @signature-params, an inner list with
// parameters in canonical form.
func ParseInput(label, value string) (*Input, error) {
	s := scanner{in: value}
	in := Input{Label: label}
	if err := s.list(&in); err != nil {
		return nil, fmt.Errorf("signature parameters: byte %d: %w", s.pos, err)
	}
	if s.pos != len(s.in) {
		return nil, fmt.Errorf("signature parameters: byte %d: %w", s.pos, ErrNotCanonical)
	}
	return &in, nil
}

// scanner reads canonical structured fields.
type scanner struct {
	in  string
	pos int
}

func (s *scanner) skip(lit string) bool {
	if strings.HasPrefix(s.in[s.pos:], lit) {
		s.pos += len(lit)
		return true
	}
	return false
}

func (s *scanner) key() (string, error) {
	start := s.pos
	for s.pos < len(s.in) {
		c := s.in[s.pos]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '*' || c == '_' || c == '-' || c == '.' {
			s.pos++
			continue
		}
		break
	}
	k := s.in[start:s.pos]
	if !validKey(k) {
		return "", ErrNotCanonical
	}
	return k, nil
}

// text reads a string without escapes; one with escapes is left to httpsfv.
func (s *scanner) text() (string, error) {
	if !s.skip(`"`) {
		return "", ErrNotCanonical
	}
	start := s.pos
	for s.pos < len(s.in) {
		switch c := s.in[s.pos]; {
		case c == '"':
			s.pos++
			return s.in[start : s.pos-1], nil
		case c == '\\' || c < 0x20 || c > 0x7e:
			return "", ErrNotCanonical
		}
		s.pos++
	}
	return "", ErrNotCanonical
}

func (s *scanner) integer() (int64, error) {
	start := s.pos
	if s.pos < len(s.in) && s.in[s.pos] == '-' {
		s.pos++
	}
	first := s.pos
	for s.pos < len(s.in) && '0' <= s.in[s.pos] && s.in[s.pos] <= '9' {
		s.pos++
	}
	n := s.pos - first
	if n == 0 || n > 15 || (n > 1 && s.in[first] == '0') || s.in[start:s.pos] == "-0" {
		return 0, ErrNotCanonical
	}
	return strconv.ParseInt(s.in[start:s.pos], 10, 64)
}

func (s *scanner) input() (Input, error) {
	label, err := s.key()
	if err != nil {
		return Input{}, err
	}
	if !s.skip("=") {
		return Input{}, ErrNotCanonical
	}
	in := Input{Label: label}
	return in, s.list(&in)
}

func (s *scanner) list(in *Input) error {
	start := s.pos
	if !s.skip("(") {
		return ErrNotCanonical
	}
	if end := strings.IndexByte(s.in[s.pos:], ')'); end > 0 {
		in.Components = make([]Component, 0, 1+strings.Count(s.in[s.pos:s.pos+end], " "))
	}
	for !s.skip(")") {
		if len(in.Components) > 0 && !s.skip(" ") {
			return ErrNotCanonical
		}
		c, err := s.component()
		if err != nil {
			return err
		}
		in.Components = append(in.Components, c)
	}
	if err := unique(in.Components); err != nil {
		return err
	}
	for s.skip(";") {
		if err := s.signatureParam(&in.Params); err != nil {
			return err
		}
	}
	in.raw = s.in[start:s.pos]
	return nil
}

func (s *scanner) component() (Component, error) {
	start := s.pos
	name, err := s.text()
	if err != nil {
		return Component{}, err
	}
	c := Component{name: name}
	for s.skip(";") {
		p := Param{}
		if p.name, err = s.key(); err != nil {
			return Component{}, err
		}
		if s.skip("=") {
			p.text = true
			if p.value, err = s.text(); err != nil {
				return Component{}, err
			}
		}
		if err := c.set(p); err != nil {
			return Component{}, err
		}
	}
	c.id = s.in[start:s.pos]
	return c, c.check()
}

func (s *scanner) signatureParam(p *Params) error {
	name, err := s.key()
	if err != nil {
		return err
	}
	if !s.skip("=") {
		return ErrNotCanonical
	}
	bit := paramBit(name)
	if bit == HasOther {
		return ErrNotCanonical // its value may be of any type: httpsfv reads it
	}
	if p.Present&bit != 0 {
		return fmt.Errorf("parameter %q is given twice", name)
	}
	p.Present |= bit
	if bit == HasCreated || bit == HasExpires {
		v, err := s.integer()
		if err != nil {
			return err
		}
		if bit == HasCreated {
			p.Created = v
		} else {
			p.Expires = v
		}
		return nil
	}
	v, err := s.text()
	if err != nil {
		return err
	}
	p.setText(bit, v)
	return nil
}

func (p *Params) setText(bit uint8, v string) {
	switch bit {
	case HasNonce:
		p.Nonce = v
	case HasAlg:
		p.Alg = v
	case HasKeyID:
		p.KeyID = v
	case HasTag:
		p.Tag = v
	}
}

func paramBit(name string) uint8 {
	switch name {
	case "created":
		return HasCreated
	case "expires":
		return HasExpires
	case "nonce":
		return HasNonce
	case "alg":
		return HasAlg
	case "keyid":
		return HasKeyID
	case "tag":
		return HasTag
	}
	return HasOther
}

// inputOf turns what httpsfv parsed into an Input.
func inputOf(label string, m httpsfv.Member) (Input, error) {
	list, ok := m.(httpsfv.InnerList)
	if !ok {
		return Input{}, errors.New("the rule is an inner list of component identifiers")
	}
	in := Input{Label: label}
	for _, item := range list.Items {
		c, err := componentOf(item)
		if err != nil {
			return Input{}, err
		}
		in.Components = append(in.Components, c)
	}
	if err := unique(in.Components); err != nil {
		return Input{}, err
	}
	for _, name := range list.Params.Names() {
		v, _ := list.Params.Get(name)
		bit := paramBit(name)
		in.Params.Present |= bit
		switch v := v.(type) {
		case int64:
			if bit == HasCreated {
				in.Params.Created = v
				continue
			} else if bit == HasExpires {
				in.Params.Expires = v
				continue
			}
		case string:
			if bit != HasCreated && bit != HasExpires {
				in.Params.setText(bit, v)
				continue
			}
		case time.Time: // RFC 9421 fixes integers, so a Date is wrong for all of them
		}
		if bit != HasOther {
			return Input{}, fmt.Errorf("parameter %q has a value of the wrong type", name)
		}
	}
	raw, err := httpsfv.Marshal(httpsfv.List{list})
	if err != nil {
		return Input{}, err
	}
	in.raw = raw
	return in, nil
}

func componentOf(item httpsfv.Item) (Component, error) {
	name, ok := item.Value.(string)
	if !ok {
		return Component{}, errors.New("a component identifier must be a string")
	}
	var params []Param
	for _, k := range item.Params.Names() {
		p := Param{name: k}
		switch v, _ := item.Params.Get(k); v := v.(type) {
		case string:
			p.value, p.text = v, true
		case bool:
			if !v {
				return Component{}, fmt.Errorf("component %q: parameter %q is false", name, k)
			}
		default:
			return Component{}, fmt.Errorf("component %q: parameter %q has a value of the wrong type", name, k)
		}
		params = append(params, p)
	}
	return NewComponent(name, params...)
}

// LabelledSignature is one member of the Signature field.
type LabelledSignature struct {
	Label     string
	Signature []byte
}

// ParseSignatures reads the Signature field lines of a message.
func ParseSignatures(lines []string) ([]LabelledSignature, error) {
	out, err := ParseCanonicalSignatures(lines)
	if err == nil || !errors.Is(err, ErrNotCanonical) {
		return out, err
	}
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil, fmt.Errorf("field Signature: %w", err)
	}
	out = nil
	for _, label := range d.Names() {
		m, _ := d.Get(label)
		item, ok := m.(httpsfv.Item)
		raw, isBytes := item.Value.([]byte)
		if !ok || !isBytes {
			return nil, fmt.Errorf("field Signature: label %q: the rule is a byte sequence", label)
		}
		out = append(out, LabelledSignature{label, raw})
	}
	return out, nil
}

// ParseCanonicalSignatures is ParseSignatures for fields in canonical form.
func ParseCanonicalSignatures(lines []string) ([]LabelledSignature, error) {
	out := make([]LabelledSignature, 0, 1)
	err := scanBinaryDictionary(lines, func(key, b64 string) error {
		for i := range out {
			if out[i].Label == key {
				return fmt.Errorf("label %q is given twice", key)
			}
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(b64)
		if err != nil || lineBreak(b64) {
			return ErrNotCanonical
		}
		out = append(out, LabelledSignature{key, raw})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("field Signature: %w", err)
	}
	return out, nil
}

// FormatSignature returns a member of the Signature field.
func FormatSignature(label string, signature []byte) string {
	var room [128]byte
	b := append(room[:0], label...)
	b = append(b, "=:"...)
	b = base64.StdEncoding.AppendEncode(b, signature)
	return string(append(b, ':'))
}

// scanBinaryDictionary walks over a dictionary of byte sequences in canonical
// form: key=:base64:, key=:base64:.
func scanBinaryDictionary(lines []string, member func(key, b64 string) error) error {
	for _, line := range lines {
		s := scanner{in: line}
		for {
			k, err := s.key()
			if err != nil {
				return err
			}
			if !s.skip("=:") {
				return ErrNotCanonical
			}
			end := strings.IndexByte(s.in[s.pos:], ':')
			if end < 0 {
				return ErrNotCanonical
			}
			if err := member(k, s.in[s.pos:s.pos+end]); err != nil {
				return err
			}
			s.pos += end + 1
			if s.pos == len(s.in) {
				break
			}
			if !s.skip(", ") {
				return ErrNotCanonical
			}
		}
	}
	return nil
}
