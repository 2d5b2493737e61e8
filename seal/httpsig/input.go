package httpsig

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Which signature parameters are present.
const (
	HasCreated = 1 << iota
	HasExpires
	HasNonce
	HasAlg
	HasKeyID
	HasTag
	HasOther // one that RFC 9421 does not define
)

// Params are the signature parameters (RFC 9421 section 2.3).
type Params struct {
	Present uint8 // Has... bits
	Created int64 // seconds since 1970
	Expires int64
	Nonce   string
	Alg     string
	KeyID   string
	Tag     string
}

// Input says what one signature covers: one member of Signature-Input.
type Input struct {
	Label      string
	Components []Component
	Params     Params
	raw        string // serialised inner list with parameters
}

// String returns the value of @signature-params: the serialised inner list.
func (in *Input) String() string { return in.raw }

// Field returns the member as it stands in Signature-Input.
func (in *Input) Field() string { return in.Label + "=" + in.raw }

// Covers reports whether a component with this serialised identifier is covered.
func (in *Input) Covers(id string) bool {
	for i := range in.Components {
		if in.Components[i].id == id {
			return true
		}
	}
	return false
}

// NewInput makes an Input; parameters are serialised in the order created,
// expires, nonce, keyid, alg, tag.
func NewInput(label string, components []Component, p Params) (*Input, error) {
	field, err := FormatInput(label, components, p)
	if err != nil {
		return nil, err
	}
	return &Input{Label: label, Components: components, Params: p, raw: field[len(label)+1:]}, nil
}

// FormatInput returns the member of Signature-Input that NewInput stands for:
// the label, "=" and the value of @signature-params. It keeps nothing of what it
// is given.
func FormatInput(label string, components []Component, p Params) (string, error) {
	if !validKey(label) {
		return "", fmt.Errorf("signature label %q: the rule is a structured-field key", label)
	}
	if p.Present&HasOther != 0 {
		return "", errors.New("signature parameters: only those of RFC 9421 can be made")
	}
	if err := unique(components); err != nil {
		return "", err
	}
	n := len(label) + 192 // the parameters have about 180
	for i := range components {
		n += len(components[i].id) + 1
	}
	var b strings.Builder
	b.Grow(n)
	b.WriteString(label)
	b.WriteString("=(")
	for i := range components {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(components[i].id)
	}
	b.WriteByte(')')
	if err := p.write(&b); err != nil {
		return "", err
	}
	return b.String(), nil
}

func (p *Params) write(b *strings.Builder) error {
	var num [20]byte
	integer := func(name string, v int64) error {
		if v > 999999999999999 || v < -999999999999999 {
			return fmt.Errorf("signature parameter %s: %d has more than 15 digits", name, v)
		}
		b.WriteString(name)
		b.Write(strconv.AppendInt(num[:0], v, 10))
		return nil
	}
	if p.Present&HasCreated != 0 {
		if err := integer(";created=", p.Created); err != nil {
			return err
		}
	}
	if p.Present&HasExpires != 0 {
		if err := integer(";expires=", p.Expires); err != nil {
			return err
		}
	}
	for _, s := range [...]struct {
		bit         uint8
		name, value string
	}{{HasNonce, ";nonce=", p.Nonce}, {HasKeyID, ";keyid=", p.KeyID}, {HasAlg, ";alg=", p.Alg}, {HasTag, ";tag=", p.Tag}} {
		if p.Present&s.bit == 0 {
			continue
		}
		b.WriteString(s.name)
		if err := writeString(b, s.value); err != nil {
			return fmt.Errorf("signature parameter %s: %w", s.name[1:len(s.name)-1], err)
		}
	}
	return nil
}

// unique refuses a list that names a component twice. It is quadratic only
// for short lists.
func unique(components []Component) error {
	if len(components) > 32 {
		type identity struct {
			name, value string
			flags       uint8
		}
		seen := make(map[identity]bool, len(components))
		for _, c := range components {
			k := identity{c.name, c.value, c.flags}
			if seen[k] {
				return fmt.Errorf("component %s is covered twice", c.id)
			}
			seen[k] = true
		}
		return nil
	}
	for i := range components {
		for j := range i {
			if components[i].same(&components[j]) {
				return fmt.Errorf("component %s is covered twice", components[i].id)
			}
		}
	}
	return nil
}

func validKey(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', c == '*':
		case i > 0 && ('0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != ""
}
