package rule

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Format is the format of the document, its first field.
const Format = "civibus-rule-1"

// The limits of a rule.
const (
	MaxDocument  = 8 << 10 // bytes of the canonical document
	MaxNumber    = 64
	MaxTitle     = 256
	MaxText      = 2 << 10
	MaxCitation  = 256 // of an act and of a provision each
	MaxURI       = 512
	MaxRemedy    = 1 << 10
	MaxCondition = 1 << 10
	MaxFacts     = 64
)

// Document is one version of a rule. It never changes: what changes is another
// version.
type Document struct {
	Format  string `json:"format" yaml:"format"`
	Number  string `json:"number" yaml:"number"`   // what people cite: A-Z a-z 0-9 . -
	Version uint32 `json:"version" yaml:"version"` // from 1
	Title   string `json:"title" yaml:"title"`
	Text    string `json:"text" yaml:"text"` // the rule in words
	// Law is the provision that the rule carries out.
	Law Law `json:"law" yaml:"law"`
	// Valid is when it is law. Without it, from when it is enacted and without an end.
	Valid Validity `json:"valid,omitzero" yaml:"valid,omitempty"`
	// Scope is what it is enacted for. Exactly one field, or Process and Step.
	Scope Scope `json:"scope" yaml:"scope"`
	// UTCOffset is that of the place where the law is, "+05:00" or "-03:30": hour, weekday
	// and date are read there. Default: "+00:00".
	UTCOffset string `json:"utcOffset,omitempty" yaml:"utcOffset,omitempty"`
	// Facts are those of a process that the conditions of a step's rule ask for.
	Facts []Fact `json:"facts,omitempty" yaml:"facts,omitempty"`
	// Applies says to which exchanges or steps of its scope the rule applies (CEL).
	// Default: to all.
	Applies string `json:"applies,omitempty" yaml:"applies,omitempty"`
	// Requires is what must hold where it applies (CEL).
	Requires string `json:"requires" yaml:"requires"`
	// Remedy says in plain words what someone can do who is refused.
	Remedy string `json:"remedy" yaml:"remedy"`
}

// Law cites a provision.
type Law struct {
	Act       string `json:"act" yaml:"act"`
	Provision string `json:"provision" yaml:"provision"`
	URI       string `json:"uri,omitempty" yaml:"uri,omitempty"` // such as an ELI
}

// Validity is a stretch of time: dates (midnight at the document's offset) or times of
// RFC 3339.
type Validity struct {
	From  string `json:"from,omitempty" yaml:"from,omitempty"`
	Until string `json:"until,omitempty" yaml:"until,omitempty"` // exclusive
}

// Scope is what a rule is enacted for.
type Scope struct {
	// All: all services of all members of the instance. The member that is named answers
	// for the rule; it is enacted by vote.
	All string `json:"all,omitempty" yaml:"all,omitempty"`
	// Member: all services of all its subsystems.
	Member string `json:"member,omitempty" yaml:"member,omitempty"`
	// Subsystem: all its services.
	Subsystem string `json:"subsystem,omitempty" yaml:"subsystem,omitempty"`
	// Service: this one; without a version, all its versions.
	Service string `json:"service,omitempty" yaml:"service,omitempty"`
	// Process is INSTANCE/CLASS/MEMBER/ID, and Step one of its steps.
	Process string `json:"process,omitempty" yaml:"process,omitempty"`
	Step    string `json:"step,omitempty" yaml:"step,omitempty"`
}

// Fact is a fact of a process.
type Fact struct {
	ID   string   `json:"id" yaml:"id"` // a name in the conditions
	Type FactType `json:"type" yaml:"type"`
}

// FactType is what values a fact has; see process/definition.
type FactType string

// The types of facts.
const (
	Bool FactType = "bool"
	Int  FactType = "int"
	Code FactType = "code"
	Date FactType = "date"
	Hash FactType = "hash"
)

// Parse reads the canonical form, which is on the ledger.
func Parse(document []byte) (*Document, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the document has %d bytes, the rule is at most %d", len(document), MaxDocument)
	}
	d := &Document{}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(d); err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	canonical, err := d.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, document) {
		return nil, errors.New("document: it is not in canonical form; `civibus rule check --canonical` writes it")
	}
	return d, nil
}

// Read reads what a person wrote: YAML or JSON, without unknown fields.
func Read(document []byte) (*Document, error) {
	d := &Document{}
	return d, readYAML(document, 4*MaxDocument, "rule", d)
}

// readYAML reads one document without unknown fields.
func readYAML(text []byte, limit int, what string, to any) error {
	if len(text) > limit {
		return fmt.Errorf("%s: it has %d bytes, the rule is at most %d", what, len(text), limit)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(to); err != nil {
		var fields *yaml.TypeError
		if !errors.As(err, &fields) {
			return fmt.Errorf("%s: %w", what, err)
		}
		lines := make([]string, len(fields.Errors))
		for i, e := range fields.Errors { // without the names of Go types
			lines[i], _, _ = strings.Cut(e, " in type ")
		}
		return fmt.Errorf("%s: %s", what, strings.Join(lines, "; "))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: a second document follows, the rule is one", what)
	}
	return nil
}

// Encode writes the canonical form: JSON in the order of the fields here, without
// white space and without what is empty.
func (d *Document) Encode() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(d); err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Digest names a document: SHA-256 of its canonical form.
func (d *Document) Digest() ([32]byte, error) {
	b, err := d.Encode()
	return sha256.Sum256(b), err
}
