package definition

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Format is the format of the document, its first field.
const Format = "civibus-process-1"

// The limits of a definition.
const (
	MaxDocument = 64 << 10 // bytes of the canonical document
	MaxSteps    = 256
	MaxRoles    = 32
	MaxFacts    = 256
	MaxEnds     = 16
	MaxVariants = 64
	MaxCodes    = 256     // codes of one fact
	MaxGuard    = 1 << 10 // bytes of a guard
	MaxRetries  = 10
	MaxText     = 1 << 10 // bytes of a title or a citation

	MinDeadline = time.Second
	MaxDeadline = 10 * 366 * 24 * time.Hour
)

// Definition is one version of a process. It never changes: what changes is another
// version.
type Definition struct {
	Format  string `json:"format" yaml:"format"`
	ID      string `json:"id" yaml:"id"`           // a-z, 0-9, "-", at most 64
	Version uint32 `json:"version" yaml:"version"` // from 1
	Title   string `json:"title" yaml:"title"`
	// Law is the act that the process carries out.
	Law Law `json:"law" yaml:"law"`

	Roles []Role `json:"roles" yaml:"roles"`
	Facts []Fact `json:"facts,omitempty" yaml:"facts,omitempty"`
	Steps []Step `json:"steps" yaml:"steps"`
	Ends  []End  `json:"ends" yaml:"ends"`
	// Variants are how places differ. An instance names one, or none.
	Variants []Variant `json:"variants,omitempty" yaml:"variants,omitempty"`
}

// Law cites a provision.
type Law struct {
	Act       string `json:"act" yaml:"act"`
	Provision string `json:"provision,omitempty" yaml:"provision,omitempty"`
	URI       string `json:"uri,omitempty" yaml:"uri,omitempty"` // such as an ELI
}

// Role is a part that a body plays.
type Role struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
}

// Fact is something that steps find out and guards ask for.
type Fact struct {
	ID    string   `json:"id" yaml:"id"` // a-z, 0-9, "_": a name in guards
	Title string   `json:"title" yaml:"title"`
	Type  FactType `json:"type" yaml:"type"`
	// Codes are the values of a code.
	Codes []string `json:"codes,omitempty" yaml:"codes,omitempty"`
	// Public facts are about the case and not about a person: their values stand on
	// the ledger and its guards over them are decided there. bool or code only.
	Public bool `json:"public,omitempty" yaml:"public,omitempty"`
}

// FactType is what values a fact has.
type FactType string

// The types of facts.
const (
	Bool FactType = "bool"
	Int  FactType = "int"
	Code FactType = "code" // one of Codes
	Date FactType = "date" // YYYY-MM-DD
	Hash FactType = "hash" // SHA-256 of something else
)

// Kind is who does a step.
type Kind string

// The kinds of steps.
const (
	ServiceStep Kind = "service" // a system of the body, by its gateway
	TaskStep    Kind = "task"    // a civil servant
)

// Step is something that one role does for another.
type Step struct {
	ID    string `json:"id" yaml:"id"` // a-z, 0-9, "-", at most 64
	Title string `json:"title" yaml:"title"`
	From  string `json:"from" yaml:"from"`                 // the role that does it, and nobody else
	To    string `json:"to,omitempty" yaml:"to,omitempty"` // the role that gets the result
	Kind  Kind   `json:"kind" yaml:"kind"`
	// Service is the code of the local service that a service step calls.
	Service string `json:"service,omitempty" yaml:"service,omitempty"`
	// Needs are the steps before it. None: it may be done from the start.
	Needs *Needs `json:"needs,omitempty" yaml:"needs,omitempty"`
	// When is a condition over facts (CEL). False: the step is skipped.
	When string `json:"when,omitempty" yaml:"when,omitempty"`
	// Uses are the facts that are opened to the role, beside those of When.
	Uses []string `json:"uses,omitempty" yaml:"uses,omitempty"`
	// Yields are the facts that it finds out: all of them, each time.
	Yields []string `json:"yields,omitempty" yaml:"yields,omitempty"`
	// Deadline is how long it may take, from when it may be done.
	Deadline Duration `json:"deadline" yaml:"deadline"`
	// OnTimeout is what follows when it is not done in time. Default: escalate.
	OnTimeout Outcome `json:"onTimeout,omitempty" yaml:"onTimeout,omitempty"`
	// OnFailure is what follows when it fails for the last time. Default: cancel.
	OnFailure Outcome `json:"onFailure,omitempty" yaml:"onFailure,omitempty"`
	// Retries is how often it is tried again after a failure.
	Retries uint32 `json:"retries,omitempty" yaml:"retries,omitempty"`
	// Undo is the local service that takes it back when the instance is cancelled.
	// A step has either Undo or Final.
	Undo string `json:"undo,omitempty" yaml:"undo,omitempty"`
	// Final says that nothing is to be taken back, or that nothing can be.
	Final bool `json:"final,omitempty" yaml:"final,omitempty"`
}

// Outcome is what follows when a step is late or fails.
type Outcome string

// The outcomes.
const (
	Escalate Outcome = "escalate" // a civil servant of the same role takes it over, with the same time again
	Skip     Outcome = "skip"     // the others go on without it
	Cancel   Outcome = "cancel"   // what was done is undone
)

// Needs are the steps that must be done before. Exactly one field is given.
type Needs struct {
	All []string `json:"all,omitempty" yaml:"all,omitempty"`
	Any []string `json:"any,omitempty" yaml:"any,omitempty"`
	// Of and Steps: so many of these.
	Of    int      `json:"of,omitempty" yaml:"of,omitempty"`
	Steps []string `json:"steps,omitempty" yaml:"steps,omitempty"`
}

// End is how an instance may end: the first one whose needs and guard hold when
// nothing is left to do.
type End struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
	Needs *Needs `json:"needs,omitempty" yaml:"needs,omitempty"`
	When  string `json:"when,omitempty" yaml:"when,omitempty"` // over public facts
	// Cancelled marks the one end of instances that were undone.
	Cancelled bool `json:"cancelled,omitempty" yaml:"cancelled,omitempty"`
}

// Variant is the process as it is at some place.
type Variant struct {
	ID    string `json:"id" yaml:"id"`
	Title string `json:"title" yaml:"title"`
	Law   Law    `json:"law" yaml:"law"`
	// Without are steps that are left out: as if they were skipped.
	Without []string `json:"without,omitempty" yaml:"without,omitempty"`
	// Steps take the place of those with the same id, with the same needs and yields,
	// or are further ones.
	Steps []Step `json:"steps,omitempty" yaml:"steps,omitempty"`
}

// Parse reads the canonical form, which is on the ledger: JSON without unknown
// fields, of at most MaxDocument bytes, and as Encode writes it.
func Parse(document []byte) (*Definition, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the definition has %d bytes, the rule is at most %d", len(document), MaxDocument)
	}
	d := &Definition{}
	if err := strictJSON(document, d); err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	canonical, err := d.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, document) {
		return nil, errors.New("definition: it is not in canonical form; `civibus process check --canonical` writes it")
	}
	return d, nil
}

func strictJSON(document []byte, to any) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

// Read reads what a person wrote: YAML or JSON, without unknown fields.
func Read(document []byte) (*Definition, error) {
	if len(document) > 4*MaxDocument {
		return nil, fmt.Errorf("the definition has %d bytes, the rule is at most %d", len(document), 4*MaxDocument)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	decoder.KnownFields(true)
	d := &Definition{}
	if err := decoder.Decode(d); err != nil {
		var fields *yaml.TypeError
		if !errors.As(err, &fields) {
			return nil, fmt.Errorf("definition: %w", err)
		}
		what := make([]string, len(fields.Errors))
		for i, e := range fields.Errors { // without the names of Go types
			what[i], _, _ = strings.Cut(e, " in type ")
		}
		return nil, fmt.Errorf("definition: %s", strings.Join(what, "; "))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("definition: a second document follows, the rule is one")
	}
	return d, nil
}

// Encode writes the canonical form: JSON in the order of the fields here, without
// white space and without what is empty.
func (d *Definition) Encode() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(d); err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Digest names a definition: SHA-256 of its canonical form.
func (d *Definition) Digest() ([32]byte, error) {
	b, err := d.Encode()
	return sha256.Sum256(b), err
}
