package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Policy names the witnesses that a verifier believes and how many of them it
// needs (spec/receipt.md section 6; C2SP tlog-policy).
type Policy struct {
	names     map[string]*policyNode
	witnesses []*policyNode // in the order of the file
	quorum    *policyNode
	require   map[string]bool     // what is required besides
	anchors   []*x509.Certificate // trusted to issue certificates for seals
}

// What a policy may require.
const (
	requireSecondLogSignatures = "second-log-signatures"
	requireSecondSeals         = "second-seals"
	requireChains              = "chains"
)

// policyNode is a witness or a group.
type policyNode struct {
	key     noteKey // of a witness
	need    int     // of a group
	members []*policyNode
	used    bool // is a member of a group
}

// ParsePolicy reads a policy. The error is an *Error.
func ParsePolicy(b []byte) (*Policy, error) {
	p, err := parsePolicy(b)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func parsePolicy(b []byte) (*Policy, *Error) {
	if len(b) > MaxPolicyBytes {
		return nil, fail(PolicyMalformed, "%d bytes, the rule is at most %d", len(b), MaxPolicyBytes)
	}
	p := &Policy{names: make(map[string]*policyNode), require: make(map[string]bool)}
	var certificate *strings.Builder
	for i, line := range bytes.Split(b, []byte("\n")) {
		for _, c := range line {
			if c < 0x20 && c != '\t' || c == 0x7f {
				return nil, fail(PolicyMalformed, "line %d has a control character", i+1)
			}
		}
		if text := string(line); certificate != nil || text == pemBegin {
			var err *Error
			if certificate, err = p.certificate(certificate, text); err != nil {
				err.Detail = fmt.Sprintf("line %d: %s", i+1, err.Detail)
				return nil, err
			}
			continue
		}
		words := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if err := p.line(words); err != nil {
			err.Detail = fmt.Sprintf("line %d: %s", i+1, err.Detail)
			return nil, err
		}
	}
	if p.quorum == nil || certificate != nil {
		return nil, fail(PolicyMalformed, "there is no quorum line, or a certificate does not end")
	}
	return p, nil
}

const (
	pemBegin = "-----BEGIN CERTIFICATE-----"
	pemEnd   = "-----END CERTIFICATE-----"
)

// certificate takes one line of a trust anchor. It returns what was read of one
// that has not ended.
func (p *Policy) certificate(before *strings.Builder, line string) (*strings.Builder, *Error) {
	switch {
	case before == nil:
		return new(strings.Builder), nil
	case line != pemEnd:
		before.WriteString(line)
		return before, nil
	}
	der, ok := decodeBase64(before.String())
	if !ok {
		return nil, fail(PolicyMalformed, "a certificate is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fail(PolicyMalformed, "a certificate cannot be read: %v", err)
	}
	p.anchors = append(p.anchors, c)
	return nil, nil
}

func (p *Policy) line(words []string) *Error {
	switch words[0] {
	case "witness":
		return p.witness(words[1:])
	case "group":
		return p.group(words[1:])
	case "quorum":
		if len(words) != 2 || p.quorum != nil {
			return fail(PolicyMalformed, "the rule is one quorum line with one name")
		}
		if words[1] == "none" {
			return fail(PolicyWithoutQuorum, "a receipt proves nothing without witnesses")
		}
		if p.quorum = p.names[words[1]]; p.quorum == nil {
			return fail(PolicyMalformed, "%q is not defined above", clip(words[1]))
		}
		return nil
	case "require":
		if len(words) != 2 || p.require[words[1]] || words[1] != requireSecondLogSignatures && words[1] != requireSecondSeals && words[1] != requireChains {
			return fail(PolicyMalformed, "the rule is require and, each once, %s, %s or %s", requireSecondLogSignatures, requireSecondSeals, requireChains)
		}
		p.require[words[1]] = true
		return nil
	}
	return fail(PolicyMalformed, "the rule is witness, group, quorum or require, not %q", clip(words[0]))
}

func (p *Policy) define(name string, n *policyNode) *Error {
	if name == "none" || p.names[name] != nil {
		return fail(PolicyMalformed, "the name %q is reserved or taken", clip(name))
	}
	p.names[name] = n
	return nil
}

func (p *Policy) witness(words []string) *Error {
	if len(words) != 2 && len(words) != 3 {
		return fail(PolicyMalformed, "the rule is witness NAME VKEY [URL]")
	}
	key, err := parseVKey(words[1])
	if err != nil {
		return fail(PolicyMalformed, "witness %q: %v", clip(words[0]), err)
	}
	for _, w := range p.witnesses {
		if w.key.name == key.name && w.key.kind == key.kind || bytes.Equal(w.key.public, key.public) {
			return fail(PolicyMalformed, "witness %q has the key or the key name of another one", clip(words[0]))
		}
	}
	n := &policyNode{key: key}
	p.witnesses = append(p.witnesses, n)
	return p.define(words[0], n)
}

func (p *Policy) group(words []string) *Error {
	if len(words) < 3 {
		return fail(PolicyMalformed, "the rule is group NAME K|any|all NAME...")
	}
	n := new(policyNode)
	for _, name := range words[2:] {
		m := p.names[name]
		if m == nil || m.used {
			return fail(PolicyMalformed, "group member %q is not defined above, or is already a member", clip(name))
		}
		m.used = true
		n.members = append(n.members, m)
	}
	switch words[1] {
	case "any":
		n.need = 1
	case "all":
		n.need = len(n.members)
	default:
		k, err := parseNumber(words[1])
		if err != nil || k < 1 || k > uint64(len(n.members)) {
			return fail(PolicyMalformed, "threshold %q, the rule is 1 to %d", clip(words[1]), len(n.members))
		}
		n.need = int(k)
	}
	return p.define(words[0], n)
}

// mldsa44Size is the length of an ML-DSA-44 public key, FIPS 204 table 2.
const mldsa44Size = 1312

func parseVKey(s string) (noteKey, error) {
	name, rest, ok1 := strings.Cut(s, "+")
	hash, text, ok2 := strings.Cut(rest, "+")
	raw, canonical := decodeBase64(text)
	first := len(raw) == 1+ed25519.PublicKeySize && raw[0] == typeCosigned
	second := len(raw) == 1+mldsa44Size && raw[0] == typeMLDSA44
	if !ok1 || !ok2 || !canonical || !validKeyName(name) || !first && !second {
		return noteKey{}, fmt.Errorf("the rule is NAME+HASH+BASE64 of 0x04 and 32 bytes or of 0x06 and %d bytes", mldsa44Size)
	}
	k := newNoteKey(name, raw[0], raw[1:])
	if hex.EncodeToString(k.hash[:]) != hash {
		return noteKey{}, fmt.Errorf("its key hash is not that of its name and key")
	}
	return k, nil
}

// reached reports whether the witnesses who signed are enough. Groups nest only
// upwards in the file and have each name once, so this ends.
func (n *policyNode) reached(signed map[*policyNode]time.Time) bool {
	if n.members == nil {
		_, ok := signed[n]
		return ok
	}
	have := 0
	for _, m := range n.members {
		if m.reached(signed) {
			have++
		}
	}
	return have >= n.need
}

// signed checks every signature line that belongs to a witness. A witness
// counts once, however many lines it has.
func (p *Policy) signed(c *checkpoint) (map[*policyNode]time.Time, *Error) {
	out := make(map[*policyNode]time.Time)
	for _, l := range c.lines {
		for _, w := range p.witnesses {
			if !w.key.owns(l) {
				continue
			}
			t, ok := w.key.verify(c, l)
			if !ok {
				return nil, fail(CosignatureInvalid, "the cosignature of %s does not verify", clip(l.name))
			}
			out[w] = time.Unix(int64(t), 0).UTC()
		}
	}
	return out, nil
}

// Reached reports whether a cosigned checkpoint satisfies the policy, so that
// whoever collects cosignatures knows when to stop. The error is an *Error.
func (p *Policy) Reached(cosigned []byte) (bool, error) {
	c, err := parseCheckpoint(string(cosigned))
	if err != nil {
		return false, err
	}
	signed, err := p.signed(c)
	if err != nil {
		return false, err
	}
	return p.quorum.reached(signed), nil
}

// PolicyWitness is one witness of a policy to be written.
type PolicyWitness struct {
	Name    string // in the policy file; no white space
	KeyName string // e.g. civibus/<chain-id>/witness/GOV/1001
	Public  ed25519.PublicKey
	Second  []byte // instead: an ML-DSA-44 public key, 1312 bytes
}

// VKey returns the key as C2SP notes write it.
func (w PolicyWitness) VKey() string {
	k := newNoteKey(w.KeyName, typeCosigned, w.Public)
	if w.Second != nil {
		k = newNoteKey(w.KeyName, typeMLDSA44, w.Second)
	}
	return k.name + "+" + hex.EncodeToString(k.hash[:]) + "+" + encodeBase64(append([]byte{k.kind}, k.public...))
}

// FormatPolicy writes a policy file that demands need of the witnesses.
func FormatPolicy(need int, witnesses ...PolicyWitness) ([]byte, error) {
	var b bytes.Buffer
	group := "group ledger " + strconv.Itoa(need)
	for _, w := range witnesses {
		fmt.Fprintf(&b, "witness %s %s\n", w.Name, w.VKey())
		group += " " + w.Name
	}
	fmt.Fprintf(&b, "%s\nquorum ledger\n", group)
	if _, err := ParsePolicy(b.Bytes()); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return b.Bytes(), nil
}
