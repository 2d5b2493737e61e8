// Package problem turns faults into the error documents that callers get:
// X-Road's, in JSON or XML and in either of its two vocabularies, or RFC 9457
// problem details.
//
// The catalogue in this package is the one list of faults;
// docs/reference/errors.md is made from it.
//
// Trust: an attacker who controls an Accept header can at most choose among the
// formats. Internal causes never reach a document.
package problem

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"

	"github.com/civibus/civibus"
	"github.com/google/uuid"
)

// Vocabulary is a way of writing error types.
type Vocabulary int

// The vocabularies.
const (
	Camel Vocabulary = iota // X-Road 7.0 to 7.7: Server.ServerProxy.AccessDenied
	Snake                   // X-Road 7.8 and later: server.serverproxy.access_denied
)

// Writer writes error documents in one body's style. Make it with New.
type Writer struct {
	vocabulary Vocabulary
	statuses   bool
	entries    map[civibus.FaultCode]Entry
}

// New returns a Writer. Without correct statuses every fault has status 500, as
// with X-Road.
func New(v Vocabulary, correctStatuses bool) *Writer {
	w := &Writer{vocabulary: v, statuses: correctStatuses, entries: make(map[civibus.FaultCode]Entry)}
	for _, e := range Catalogue() {
		w.entries[e.Code] = e
	}
	return w
}

// Document is an error answer, ready to be written.
type Document struct {
	Status      int
	Type        string // X-Road error type, the value of X-Road-Error
	ContentType string
	Body        []byte
	Detail      string // UUID of this occurrence; the log has it too
}

// NewDetail makes the UUID of an occurrence.
func NewDetail() string { return uuid.NewString() }

// Known reports whether code is in the catalogue.
func (w *Writer) Known(code civibus.FaultCode) bool {
	_, ok := w.entries[code]
	return ok
}

// Title returns the title of a fault code.
func (w *Writer) Title(code civibus.FaultCode) string { return w.entry(code).Title }

// Type returns the X-Road error type of a fault.
func (w *Writer) Type(f *civibus.Fault) string {
	e := w.entry(f.Code)
	if w.vocabulary == Snake {
		if f.Place == civibus.ConsumerGateway {
			return "server.clientproxy." + e.Snake
		}
		return "server.serverproxy." + e.Snake
	}
	if f.Place == civibus.ConsumerGateway {
		return "Server.ClientProxy." + e.Camel
	}
	return "Server.ServerProxy." + e.Camel
}

// Status returns the HTTP status of a fault.
func (w *Writer) Status(code civibus.FaultCode) int {
	if !w.statuses {
		return http.StatusInternalServerError
	}
	return w.entry(code).Status
}

func (w *Writer) entry(code civibus.FaultCode) Entry {
	if e, ok := w.entries[code]; ok {
		return e
	}
	return w.entries[civibus.FaultInternal]
}

// Document makes the answer to a request with these Accept values. An empty
// detail is filled in.
func (w *Writer) Document(f *civibus.Fault, accept []string, detail string) Document {
	if detail == "" {
		detail = NewDetail()
	}
	d := Document{Status: w.Status(f.Code), Type: w.Type(f), Detail: detail}
	switch format := Negotiate(accept); format {
	case ProblemJSON:
		d.ContentType, d.Body = ProblemJSON, w.problemJSON(f, d)
	case TextXML, ApplicationXML:
		d.ContentType, d.Body = format+";charset=utf-8", xmlError(d.Type, f.Message, detail, f.Rule)
	default:
		d.ContentType, d.Body = JSON, encode(struct {
			Type    string               `json:"type"`
			Message string               `json:"message"`
			Detail  string               `json:"detail"`
			Rule    *civibus.RuleRefusal `json:"rule,omitempty"`
		}{d.Type, f.Message, detail, f.Rule})
	}
	return d
}

// WriteTo sends the document as the answer; a HEAD request gets no body.
func (d Document) WriteTo(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set(civibus.HeaderError, d.Type)
	h.Set("Content-Type", d.ContentType)
	h.Set("Content-Length", strconv.Itoa(len(d.Body)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(d.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(d.Body) // the caller went away: nobody to tell
	}
}

func (w *Writer) problemJSON(f *civibus.Fault, d Document) []byte {
	return encode(struct {
		Type      string               `json:"type"`
		Title     string               `json:"title"`
		Status    int                  `json:"status"`
		Detail    string               `json:"detail"`
		Instance  string               `json:"instance"`
		Code      civibus.FaultCode    `json:"code"`
		XRoadType string               `json:"xroad_error"`
		Rule      *civibus.RuleRefusal `json:"rule,omitempty"`
	}{"urn:civibus:fault:" + string(f.Code), w.entry(f.Code).Title, d.Status, f.Message, "urn:uuid:" + d.Detail, f.Code, d.Type, f.Rule})
}

func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // strings and numbers always encode
	return bytes.TrimRight(b.Bytes(), "\n")
}

func xmlError(typ, message, detail string, rule *civibus.RuleRefusal) []byte {
	var b bytes.Buffer
	elements := func(pairs ...[2]string) {
		for _, e := range pairs {
			b.WriteString("<" + e[0] + ">")
			_ = xml.EscapeText(&b, []byte(e[1])) // a bytes.Buffer does not fail
			b.WriteString("</" + e[0] + ">")
		}
	}
	b.WriteString(`<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n<error>")
	elements([2]string{"type", typ}, [2]string{"message", message}, [2]string{"detail", detail})
	if r := rule; r != nil {
		b.WriteString("<rule>")
		elements([2]string{"id", r.ID}, [2]string{"number", r.Number}, [2]string{"version", strconv.FormatUint(uint64(r.Version), 10)},
			[2]string{"title", r.Title}, [2]string{"text", r.Text}, [2]string{"act", r.Act}, [2]string{"provision", r.Provision})
		if r.URI != "" {
			elements([2]string{"uri", r.URI})
		}
		elements([2]string{"remedy", r.Remedy})
		if r.Undecided {
			elements([2]string{"undecided", "true"})
		}
		b.WriteString("</rule>")
	}
	b.WriteString("</error>")
	return b.Bytes()
}

// The formats of error documents.
const (
	JSON           = "application/json"
	TextXML        = "text/xml"
	ApplicationXML = "application/xml"
	ProblemJSON    = "application/problem+json"
)

// Negotiate chooses the format as X-Road does: the first item of Accept, in any
// position and whatever its parameters, that names a format other than the
// default; else JSON. problem+json is Civibus's addition to X-Road's list.
func Negotiate(accept []string) string {
	for _, value := range accept {
		for item := range strings.SplitSeq(value, ",") {
			item, _, _ = strings.Cut(item, ";")
			switch strings.ToLower(strings.TrimSpace(item)) {
			case TextXML, "text/*":
				return TextXML
			case ApplicationXML:
				return ApplicationXML
			case ProblemJSON:
				return ProblemJSON
			}
		}
	}
	return JSON
}
