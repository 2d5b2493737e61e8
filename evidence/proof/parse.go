package proof

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"
)

// Parse reads a receipt file strictly (spec/receipt.md section 3): it refuses
// unknown, missing and repeated members, other spellings of base64 and anything
// after the object. The error is an *Error.
func Parse(b []byte) (*Receipt, error) {
	r, err := parse(b)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func parse(b []byte) (*Receipt, *Error) {
	if len(b) > MaxReceiptBytes {
		return nil, fail(ReceiptTooLarge, "%d bytes, the rule is at most %d", len(b), MaxReceiptBytes)
	}
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, fail(ReceiptMalformed, "not UTF-8 JSON")
	}
	d := &jsonReader{dec: json.NewDecoder(bytes.NewReader(b))}
	r := d.receipt()
	if d.err == nil {
		if _, err := d.dec.Token(); err != io.EOF {
			d.fail(ReceiptMalformed, "something follows the receipt's object")
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

// jsonReader reads one known shape; after its first failure it reads nothing.
type jsonReader struct {
	dec *json.Decoder
	err *Error
}

func (d *jsonReader) fail(f Failure, format string, args ...any) {
	if d.err == nil {
		d.err = fail(f, format, args...)
	}
}

func (d *jsonReader) receipt() *Receipt {
	r := new(Receipt)
	chains := false
	d.object("receipt", map[string]func(){
		"format": func() {
			f := d.str("format")
			if d.err == nil && f != Format && f != Format2 {
				d.fail(FormatUnknown, "format %q, the rule is %q or %q", clip(f), Format, Format2)
			}
			r.Second = f == Format2
		},
		"exchange": func() {
			r.Exchange = d.str("exchange")
			if len(r.Exchange) < 1 || len(r.Exchange) > 128 {
				d.fail(ReceiptMalformed, "exchange has %d characters, the rule is 1 to 128", len(r.Exchange))
			}
		},
		"registry": func() { d.registry(&r.Registry) },
		"entries": func() {
			d.array("entries", 2, func() { r.Entries = append(r.Entries, d.entry()) })
			if len(r.Entries) == 0 {
				d.fail(ReceiptMalformed, "entries is empty, the rule is one or two")
			}
		},
		"chains": func() {
			chains = true
			d.array("chains", MaxChains, func() { r.Chains = append(r.Chains, d.chain()) })
		},
	}, "chains")
	if chains != r.Second {
		d.fail(ReceiptMalformed, "receipts of version 2 have chains, and they alone")
	}
	return r
}

func (d *jsonReader) chain() (c Chain) {
	d.array("chain", MaxChain, func() { c = append(c, d.base64("certificate")) })
	if len(c) == 0 {
		d.fail(ReceiptMalformed, "a chain is empty")
	}
	return c
}

func (d *jsonReader) registry(r *RegistryPart) {
	d.object("registry", map[string]func(){
		"block_event": func() { r.BlockEvent = d.base64("block_event") },
		"block_proof": func() { r.BlockProof = d.str("block_proof") },
		"facts": func() {
			d.array("facts", MaxFacts, func() {
				var f Fact
				d.object("fact", map[string]func(){
					"key":   func() { f.Key = d.str("key") },
					"value": func() { f.Value = d.base64OrNull("value") },
					"proof": func() { f.Proof = d.base64("proof") },
				})
				r.Facts = append(r.Facts, f)
			})
		},
	})
}

func (d *jsonReader) entry() Entry {
	var e Entry
	d.object("entry", map[string]func(){
		"record": func() { e.Record = d.base64("record") },
		"salt": func() {
			if e.Salt = d.base64("salt"); d.err == nil && len(e.Salt) != saltSize {
				d.fail(ReceiptMalformed, "salt has %d bytes, the rule is %d", len(e.Salt), saltSize)
			}
		},
		"proof":        func() { e.Proof = d.str("proof") },
		"anchor_event": func() { e.AnchorEvent = d.base64("anchor_event") },
		"anchor_proof": func() { e.AnchorProof = d.str("anchor_proof") },
	})
	return e
}

// object reads an object that has exactly the given members. Each function is
// removed when used, so that a repeated member is an unknown one. The optional ones
// may be missing.
func (d *jsonReader) object(what string, members map[string]func(), optional ...string) {
	if !d.delim(what, '{') {
		return
	}
	for d.err == nil && d.dec.More() {
		name := d.str(what)
		read, ok := members[name]
		if d.err == nil && !ok {
			d.fail(ReceiptMalformed, "%s: member %q is unknown or repeated", what, clip(name))
		}
		if d.err != nil {
			return
		}
		delete(members, name)
		read()
	}
	d.delim(what, '}')
	for _, name := range optional {
		delete(members, name)
	}
	if len(members) != 0 {
		d.fail(ReceiptMalformed, "%s: %d members are missing", what, len(members))
	}
}

func (d *jsonReader) array(what string, limit int, read func()) {
	if !d.delim(what, '[') {
		return
	}
	for n := 0; d.err == nil && d.dec.More(); n++ {
		if n == limit {
			d.fail(ReceiptMalformed, "%s has more than %d elements", what, limit)
			return
		}
		read()
	}
	d.delim(what, ']')
}

func (d *jsonReader) delim(what string, want json.Delim) bool {
	if d.err != nil {
		return false
	}
	if t, err := d.dec.Token(); err != nil || t != want {
		d.fail(ReceiptMalformed, "%s: %q is missing", what, want)
		return false
	}
	return true
}

func (d *jsonReader) str(what string) string {
	if d.err != nil {
		return ""
	}
	t, err := d.dec.Token()
	s, ok := t.(string)
	if err != nil || !ok {
		d.fail(ReceiptMalformed, "%s is not a string", what)
		return ""
	}
	return d.plain(what, s)
}

// plain refuses characters that no receipt needs, among them what the decoder
// puts in the place of a lone surrogate.
func (d *jsonReader) plain(what, s string) string {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c < 0x7f || c == '\n' {
			continue
		}
		if len(s)-i >= len(emDash) && s[i:i+len(emDash)] == emDash {
			i += len(emDash) - 1
			continue
		}
		d.fail(ReceiptMalformed, "%s: a character at byte %d is not allowed", what, i)
		return ""
	}
	return s
}

func (d *jsonReader) base64(what string) []byte {
	s := d.str(what)
	if d.err != nil {
		return nil
	}
	b, ok := decodeBase64(s)
	if !ok {
		d.fail(Base64Malformed, "%s is not canonical base64", what)
	}
	return b
}

func (d *jsonReader) base64OrNull(what string) []byte {
	if d.err != nil {
		return nil
	}
	t, err := d.dec.Token()
	if err == nil && t == nil {
		return nil
	}
	s, ok := t.(string)
	if err != nil || !ok {
		d.fail(ReceiptMalformed, "%s is neither a string nor null", what)
		return nil
	}
	b, ok := decodeBase64(s)
	if !ok {
		d.fail(Base64Malformed, "%s is not canonical base64", what)
	}
	return b
}

// decodeBase64 accepts the one canonical spelling only. It returns a non-nil
// slice for an empty text.
func decodeBase64(s string) ([]byte, bool) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Strict().Decode(out, []byte(s))
	// The decoder skips line breaks; the length of the text tells.
	return out[:n], err == nil && base64.StdEncoding.EncodedLen(n) == len(s)
}

func encodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

type (
	receiptJSON struct {
		Format   string       `json:"format"`
		Exchange string       `json:"exchange"`
		Registry registryJSON `json:"registry"`
		Entries  []entryJSON  `json:"entries"`
		Chains   *[]Chain     `json:"chains,omitempty"`
	}
	registryJSON struct {
		BlockEvent []byte     `json:"block_event"`
		BlockProof string     `json:"block_proof"`
		Facts      []factJSON `json:"facts"`
	}
	factJSON struct {
		Key   string  `json:"key"`
		Value *string `json:"value"`
		Proof string  `json:"proof"`
	}
	entryJSON struct {
		Record      []byte `json:"record"`
		Salt        []byte `json:"salt"`
		Proof       string `json:"proof"`
		AnchorEvent []byte `json:"anchor_event"`
		AnchorProof string `json:"anchor_proof"`
	}
)

// Marshal returns the receipt file.
func (r *Receipt) Marshal() ([]byte, error) {
	out := receiptJSON{Format: Format, Exchange: r.Exchange, Registry: registryJSON{
		BlockEvent: r.Registry.BlockEvent, BlockProof: r.Registry.BlockProof, Facts: []factJSON{},
	}}
	for _, f := range r.Registry.Facts {
		j := factJSON{Key: f.Key, Proof: encodeBase64(f.Proof)}
		if f.Value != nil {
			v := encodeBase64(f.Value)
			j.Value = &v
		}
		out.Registry.Facts = append(out.Registry.Facts, j)
	}
	for _, e := range r.Entries {
		out.Entries = append(out.Entries, entryJSON(e))
	}
	if r.Second {
		chains := append([]Chain{}, r.Chains...)
		out.Format, out.Chains = Format2, &chains
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("receipt: encode: %w", err)
	}
	return b.Bytes(), nil
}

// clip shortens what came from outside before it goes into a message.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
