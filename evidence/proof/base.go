package proof

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/civibus/civibus/evidence/evidencepb"
)

const signatureParams = `"@signature-params": `

// The tags of seals.
const (
	sealTag = "civibus"
	headTag = "civibus-head"

	secondTag = "civibus-pq"
)

// component names one part of a message: what stands in a line of a signature
// base before the value.
type component struct {
	name string
	req  bool   // of the request that is answered
	tr   bool   // in trailers
	sf   bool   // strictly serialised
	bs   bool   // binary wrapped
	key  string // member of a dictionary; keyed tells an empty one
	kind bool   // key is given
}

// sealBase is a parsed RFC 9421 signature base (spec/receipt.md section 7.1).
type sealBase struct {
	order   []component
	values  map[component]string
	texts   map[string]string // string parameters
	numbers map[string]uint64 // integer parameters
}

func parseBase(b []byte) (*sealBase, error) {
	head, last, found := cutLast(b)
	params, ok := strings.CutPrefix(last, signatureParams)
	if !found || !ok {
		return nil, errors.New("the last line is not @signature-params, or nothing is covered")
	}
	s := &sealBase{values: make(map[component]string, 16), texts: make(map[string]string, 4), numbers: make(map[string]uint64, 2)}
	list := make([]byte, 0, len(last))
	for i, line := range strings.Split(head, "\n") {
		c, rest, err := parseComponent(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		value, ok := strings.CutPrefix(rest, ": ")
		if !ok || hasControl(value) {
			return nil, fmt.Errorf("line %d has no value or a control character in it", i+1)
		}
		if _, twice := s.values[c]; twice {
			return nil, fmt.Errorf("line %d repeats a component", i+1)
		}
		s.order = append(s.order, c)
		s.values[c] = value
		if i > 0 {
			list = append(list, ' ')
		}
		list = append(list, line[:len(line)-len(rest)]...)
	}
	params, ok = strings.CutPrefix(params, "("+string(list)+")")
	if !ok {
		return nil, errors.New("@signature-params does not list the lines above it")
	}
	return s, s.parseParams(params)
}

func cutLast(b []byte) (head, last string, found bool) {
	i := bytes.LastIndexByte(b, '\n')
	if i < 0 {
		return "", string(b), false
	}
	return string(b[:i]), string(b[i+1:]), true
}

// parseComponent reads an identifier and returns what follows it.
func parseComponent(line string) (c component, rest string, err error) {
	bad := errors.New("not a component identifier")
	rest, ok := strings.CutPrefix(line, `"`)
	if !ok {
		return c, "", bad
	}
	c.name, rest, ok = strings.Cut(rest, `"`)
	if !ok || !validComponentName(c.name) {
		return c, "", bad
	}
	for strings.HasPrefix(rest, ";") {
		param := rest[1:]
		var flag *bool
		switch {
		case strings.HasPrefix(param, "req"):
			flag, rest = &c.req, param[3:]
		case strings.HasPrefix(param, "tr"):
			flag, rest = &c.tr, param[2:]
		case strings.HasPrefix(param, "sf"):
			flag, rest = &c.sf, param[2:]
		case strings.HasPrefix(param, "bs"):
			flag, rest = &c.bs, param[2:]
		case strings.HasPrefix(param, "key="):
			if c.key, rest, ok = quoted(param[4:]); !ok {
				return c, "", bad
			}
			flag = &c.kind
		default:
			return c, "", bad
		}
		if *flag {
			return c, "", bad
		}
		*flag = true
	}
	return c, rest, nil
}

func (s *sealBase) parseParams(p string) error {
	for p != "" {
		rest, ok := strings.CutPrefix(p, ";")
		key, rest, found := strings.Cut(rest, "=")
		if !ok || !found || !validParamKey(key) {
			return errors.New("a signature parameter is malformed")
		}
		_, text := s.texts[key]
		if _, number := s.numbers[key]; text || number {
			return fmt.Errorf("parameter %q is given twice", clip(key))
		}
		if value, after, ok := quoted(rest); ok {
			s.texts[key], p = value, after
			continue
		}
		digits, _, _ := strings.Cut(rest, ";")
		n, err := parseNumber(digits)
		if err != nil || len(digits) > 15 {
			return fmt.Errorf("parameter %q is neither a number nor a plain string", clip(key))
		}
		s.numbers[key], p = n, rest[len(digits):]
	}
	return nil
}

// quoted reads a string in quotes that needs no escapes.
func quoted(s string) (value, rest string, ok bool) {
	if s, ok = strings.CutPrefix(s, `"`); !ok {
		return "", "", false
	}
	value, rest, ok = strings.Cut(s, `"`)
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < 0x20 || c > 0x7e || c == '\\' {
			return "", "", false
		}
	}
	return value, rest, ok
}

func validComponentName(s string) bool {
	s = strings.TrimPrefix(s, "@")
	return s != "" && onlyOf(s, "-_.~!#$%&'*+^|`")
}

func validParamKey(s string) bool {
	return s != "" && (s[0] == '*' || 'a' <= s[0] && s[0] <= 'z') && onlyOf(s, "-_.*")
}

// onlyOf reports whether s has only a-z, 0-9 and the other characters.
func onlyOf(s, other string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9') && strings.IndexByte(other, c) < 0 {
			return false
		}
	}
	return true
}

func hasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 && s[i] != '\t' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// plain returns the value of a component without parameters.
func (s *sealBase) plain(name string) (string, bool) {
	v, ok := s.values[component{name: name}]
	return v, ok
}

// either returns the values of a component with and without tr.
func (s *sealBase) either(c component) []string {
	var out []string
	for _, tr := range []bool{false, true} {
		c.tr = tr
		if v, ok := s.values[c]; ok {
			out = append(out, v)
		}
	}
	return out
}

// rightParams checks the parameters that every seal has.
func (s *sealBase) rightParams(seal *evidencepb.Seal, key *keyFact, tags ...string) error {
	if got := s.texts["keyid"]; got != key.ID.String() {
		return fmt.Errorf("keyid %q, the key is %s", clip(got), key.ID)
	}
	if got := s.texts["alg"]; got != string(key.Algorithm) {
		return fmt.Errorf("alg %q, the key's is %s", clip(got), key.Algorithm)
	}
	if _, ok := s.numbers["created"]; !ok {
		return errors.New("created is missing")
	}
	for _, tag := range tags {
		if s.texts["tag"] == tag {
			return nil
		}
	}
	return fmt.Errorf("tag %q, the rule is %s", clip(s.texts["tag"]), strings.Join(tags, " or "))
}

// second derives the base of a seal's second signature from the seal
// (spec/receipt.md section 7.4): the same components, then the first signature,
// and parameters of the same time and nonce.
func (s *sealBase) second(seal *evidencepb.Seal, key *keyFact) []byte {
	lines, _, _ := cutLast(seal.Base)
	signature := `"signature"`
	if _, streamed := s.values[component{name: "content-digest", tr: true}]; streamed {
		signature += ";tr"
	}
	signature += `;key="` + s.texts["tag"] + `"`
	b := []byte(lines + "\n" + signature + ": :" + encodeBase64(seal.Signature) + ":\n" + signatureParams + "(")
	for line := range strings.SplitSeq(lines, "\n") {
		_, rest, _ := parseComponent(line)
		b = append(append(b, line[:len(line)-len(rest)]...), ' ')
	}
	b = fmt.Appendf(b, "%s);created=%d", signature, s.numbers["created"])
	if nonce, ok := s.texts["nonce"]; ok {
		b = fmt.Appendf(b, `;nonce="%s"`, nonce)
	}
	return fmt.Appendf(b, `;keyid="%s";alg="%s";tag="%s"`, key.ID, key.Algorithm, secondTag)
}

// sealedDigest returns the digest that a seal covers and checks it against the
// recorded body, if the record claims a digest.
func sealedDigest(values []string, body *evidencepb.Body) ([]byte, error) {
	var digest []byte
	for _, v := range values {
		found := 0
		for member := range strings.SplitSeq(v, ",") {
			text, ok := strings.CutPrefix(strings.Trim(member, " "), "sha-256=:")
			if !ok {
				continue
			}
			found++
			text, ok = strings.CutSuffix(text, ":")
			if digest, _ = decodeBase64(text); !ok || encodeBase64(digest) != text || len(digest) != 32 {
				return nil, errors.New("content-digest is malformed")
			}
		}
		if found != 1 {
			return nil, fmt.Errorf("content-digest has %d sha-256 digests, the rule is one", found)
		}
		if want := body.GetSha256(); len(want) != 0 && !bytes.Equal(digest, want) {
			return nil, fmt.Errorf("the seal covers %x, the record holds %x", digest, want)
		}
	}
	return digest, nil
}
