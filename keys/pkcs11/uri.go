package pkcs11

import (
	"errors"
	"fmt"
	"strings"
)

// URI names a private key in a token, as RFC 7512 writes it, for instance
//
//	pkcs11:token=civibus;id=%3F%2A%9C%0D;type=private
//
// Which library and which PIN reach the token is configuration, and not part of
// the name here.
type URI struct {
	Token  string // the token's label
	ID     []byte // CKA_ID of the key
	Object string // CKA_LABEL of the key; empty: any
}

// maxID is the longest CKA_ID that is accepted, in bytes.
const maxID = 64

// ParseURI reads a URI. It needs token and id, may have object, and type only if
// it is private; other attributes are refused, and never quoted: one may hold a PIN.
func ParseURI(text string) (URI, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return URI{}, errors.New("PKCS#11 URI: it does not begin with \"pkcs11:\"")
	}
	if strings.Contains(rest, "?") {
		return URI{}, errors.New("PKCS#11 URI: it has attributes after \"?\"; the module and the PIN are configured elsewhere, leave these out")
	}
	var u URI
	seen := map[string]bool{}
	for _, attribute := range strings.Split(rest, ";") {
		name, value, ok := strings.Cut(attribute, "=")
		if !ok || seen[name] {
			return URI{}, errors.New("PKCS#11 URI: the rule is pkcs11:token=LABEL;id=BYTES, each attribute once")
		}
		seen[name] = true
		decoded, err := unescape(value)
		if err != nil {
			return URI{}, fmt.Errorf("PKCS#11 URI: %w", err)
		}
		switch name {
		case "token":
			u.Token = string(decoded)
		case "id":
			u.ID = decoded
		case "object":
			u.Object = string(decoded)
		case "type":
			if string(decoded) != "private" {
				return URI{}, errors.New("PKCS#11 URI: the rule for its type is \"private\"")
			}
		default:
			return URI{}, errors.New("PKCS#11 URI: the rule for its attributes is token, id, object and type")
		}
	}
	if u.Token == "" || len(u.ID) == 0 || len(u.ID) > maxID || seen["object"] && u.Object == "" {
		return URI{}, fmt.Errorf("PKCS#11 URI: the rule is a token's label and a key's id of 1 to %d bytes", maxID)
	}
	return u, nil
}

// String writes the URI. Equal keys have equal strings.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString("pkcs11:token=")
	escape(&b, []byte(u.Token), false)
	if u.Object != "" {
		b.WriteString(";object=")
		escape(&b, []byte(u.Object), false)
	}
	b.WriteString(";id=")
	escape(&b, u.ID, true)
	b.WriteString(";type=private")
	return b.String()
}

const upperHex = "0123456789ABCDEF"

// escape writes text with all bytes but RFC 3986's unreserved ones escaped, an
// id's without exception, as RFC 7512 recommends.
func escape(b *strings.Builder, text []byte, all bool) {
	for _, c := range text {
		if !all && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
}

func unescape(value string) ([]byte, error) {
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] != '%' {
			if value[i] <= ' ' || value[i] > '~' {
				return nil, errors.New("it has bytes that the rules of URIs want escaped")
			}
			out = append(out, value[i])
			continue
		}
		if i+2 >= len(value) {
			return nil, errors.New("it ends within an escaped byte")
		}
		high, low := digit(value[i+1]), digit(value[i+2])
		if high < 0 || low < 0 {
			return nil, errors.New("the rule for an escaped byte is \"%\" and two hex digits")
		}
		out = append(out, byte(high<<4|low))
		i += 2
	}
	return out, nil
}

func digit(c byte) int {
	if c >= 'a' {
		c -= 'a' - 'A'
	}
	return strings.IndexByte(upperHex, c)
}
