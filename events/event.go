package events

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The limits of one event.
const (
	MaxEvent     = 256 << 10 // bytes of its JSON form
	maxAttribute = 4 << 10   // bytes of an attribute's value
	maxNames     = 64        // attributes
)

// The media types of CloudEvents.
const (
	StructuredType = "application/cloudevents+json"
	BatchType      = "application/cloudevents-batch+json"
)

// OwnAttributes begin the names of the attributes that gateways set.
const OwnAttributes = "civibus"

// Event is one CloudEvent, checked and in compact JSON.
type Event struct {
	JSON []byte
	ID   Key    // of source and id
	Hash uint64 // of the whole, to tell a repetition from a contradiction
	Part string // the partition key, by which events are ordered; may be empty
}

// Key is the idempotency key of an event: the first half of SHA-256 over source and id.
type Key [16]byte

// ParseEvent checks an event in CloudEvents' JSON format.
func ParseEvent(raw []byte) (*Event, error) {
	if len(raw) > MaxEvent {
		return nil, fmt.Errorf("it has %d bytes, the rule is at most %d", len(raw), MaxEvent)
	}
	if !utf8.Valid(raw) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	var compact bytes.Buffer
	compact.Grow(len(raw))
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	raw = compact.Bytes()
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal(raw, &attributes); err != nil || attributes == nil {
		return nil, fmt.Errorf("it is not a JSON object")
	}
	text, err := checkAttributes(attributes)
	if err != nil {
		return nil, err
	}
	e := &Event{JSON: raw, Part: text["partitionkey"]}
	id := sha256.Sum256([]byte(text["source"] + "\x00" + text["id"]))
	e.ID = Key(id[:16])
	sum := sha256.Sum256(raw)
	for _, b := range sum[:8] {
		e.Hash = e.Hash<<8 | uint64(b)
	}
	return e, nil
}

// checkAttributes holds an event to CloudEvents 1.0 and returns its attributes of text.
func checkAttributes(attributes map[string]json.RawMessage) (map[string]string, error) {
	if len(attributes) > maxNames {
		return nil, fmt.Errorf("it has %d attributes, the rule is at most %d", len(attributes), maxNames)
	}
	text := make(map[string]string, len(attributes))
	for name, value := range attributes {
		switch {
		case name == "data":
			continue
		case name != "data_base64" && !attributeName(name):
			return nil, fmt.Errorf("attribute %.40q: the rule is a name of 1 to 20 of a-z and 0-9", name)
		case strings.HasPrefix(name, OwnAttributes):
			return nil, fmt.Errorf("attribute %s: names that begin with %q are the gateways' own", name, OwnAttributes)
		case name != "data_base64" && len(value) > maxAttribute:
			return nil, fmt.Errorf("attribute %s has %d bytes, the rule is at most %d", name, len(value), maxAttribute)
		}
		switch value[0] {
		case '"':
			var s string
			if err := json.Unmarshal(value, &s); err != nil {
				return nil, fmt.Errorf("attribute %s: %w", name, err)
			}
			text[name] = s
		case '{', '[':
			return nil, fmt.Errorf("attribute %s: the rule is a string, a number or a boolean", name)
		case 'n':
			continue // null is as absent
		default:
			if bytes.ContainsAny(value, ".eE") && value[0] != 't' && value[0] != 'f' {
				return nil, fmt.Errorf("attribute %s: the rule is an integer", name)
			}
		}
	}
	return text, checkKnown(attributes, text)
}

// checkKnown checks the attributes that CloudEvents defines.
func checkKnown(attributes map[string]json.RawMessage, text map[string]string) error {
	if v := text["specversion"]; v != "1.0" {
		return fmt.Errorf("specversion is %.20q, the rule is \"1.0\"", v)
	}
	for _, name := range [...]string{"id", "source", "type"} {
		if text[name] == "" {
			return fmt.Errorf("attribute %s is missing or empty", name)
		}
	}
	if _, err := url.Parse(text["source"]); err != nil {
		return fmt.Errorf("source is not a URI reference")
	}
	for _, name := range [...]string{"subject", "datacontenttype", "dataschema", "partitionkey", "time"} {
		if v, ok := attributes[name]; ok && v[0] != 'n' && text[name] == "" {
			return fmt.Errorf("attribute %s: the rule is a string that is not empty", name)
		}
	}
	if t, ok := text["time"]; ok {
		if _, err := time.Parse(time.RFC3339Nano, t); err != nil {
			return fmt.Errorf("time is %.40q, the rule is RFC 3339", t)
		}
	}
	if b, ok := attributes["data_base64"]; ok {
		if _, both := attributes["data"]; both {
			return fmt.Errorf("it has data and data_base64, the rule is one of them")
		}
		if _, err := base64.StdEncoding.DecodeString(text["data_base64"]); err != nil || b[0] != '"' {
			return fmt.Errorf("data_base64 is not base64")
		}
	}
	return nil
}

func attributeName(s string) bool {
	ok := s != "" && len(s) <= 20
	for i := 0; ok && i < len(s); i++ {
		ok = 'a' <= s[i] && s[i] <= 'z' || '0' <= s[i] && s[i] <= '9'
	}
	return ok
}

// ParseRequest reads the events of an HTTP request in any of the modes of CloudEvents'
// HTTP binding: structured, batched or binary.
func ParseRequest(h http.Header, body []byte) ([]*Event, error) {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(media)) {
	case StructuredType:
		e, err := ParseEvent(body)
		if err != nil {
			return nil, fmt.Errorf("the event: %w", err)
		}
		return []*Event{e}, nil
	case BatchType:
		return parseBatch(body)
	}
	if h.Get("Ce-Specversion") == "" {
		return nil, fmt.Errorf("the Content-Type is %.60q and there is no ce-specversion: the rule is %s, %s, or the binary mode of CloudEvents", media, StructuredType, BatchType)
	}
	return parseBinary(h, body)
}

// MaxPublish bounds how many events one request may publish.
const MaxPublish = 1024

func parseBatch(body []byte) ([]*Event, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, fmt.Errorf("the batch is not a JSON array: %w", err)
	}
	if len(raw) == 0 || len(raw) > MaxPublish {
		return nil, fmt.Errorf("the batch has %d events, the rule is 1 to %d", len(raw), MaxPublish)
	}
	out := make([]*Event, len(raw))
	for i, r := range raw {
		var err error
		if out[i], err = ParseEvent(r); err != nil {
			return nil, fmt.Errorf("event %d of the batch: %w", i, err)
		}
	}
	return out, nil
}

// parseBinary makes the JSON form of an event in the binary mode.
func parseBinary(h http.Header, body []byte) ([]*Event, error) {
	o := map[string]any{}
	for name, values := range h {
		attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ok {
			continue
		}
		if len(values) != 1 {
			return nil, fmt.Errorf("the event: %s occurs %d times, the rule is once", name, len(values))
		}
		v, err := url.PathUnescape(values[0])
		if err != nil {
			return nil, fmt.Errorf("the event: %s is not percent-encoded rightly", name)
		}
		if attribute == "data" || attribute == "data_base64" || attribute == "datacontenttype" {
			return nil, fmt.Errorf("the event: %s is no attribute of the binary mode", name)
		}
		o[attribute] = v
	}
	contentType := h.Get("Content-Type")
	if contentType != "" {
		o["datacontenttype"] = contentType
	}
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	switch media = strings.TrimSpace(media); {
	case len(body) == 0:
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		if !json.Valid(body) {
			return nil, fmt.Errorf("the event: its data are said to be %s and are not JSON", media)
		}
		o["data"] = json.RawMessage(body)
	case strings.HasPrefix(media, "text/") && utf8.Valid(body):
		o["data"] = string(body)
	default:
		o["data_base64"] = body
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("the event: %w", err)
	}
	e, err := ParseEvent(raw)
	if err != nil {
		return nil, fmt.Errorf("the event: %w", err)
	}
	return []*Event{e}, nil
}

// annotated is an event as the body's own system gets it: with the number that is its
// cursor and the exchange that is its evidence.
func annotated(e []byte, seq uint64, exchange string) []byte {
	out := make([]byte, 0, len(e)+96)
	out = fmt.Appendf(out, `{"civibusseq":"%d","civibusexchange":%q,`, seq, exchange)
	return append(out, e[1:]...)
}

// partition reads the key by which events are ordered from an event that was checked.
func partition(e []byte) string {
	var a struct {
		Key string `json:"partitionkey"`
	}
	if json.Unmarshal(e, &a) != nil {
		return ""
	}
	return a.Key
}

// joinBatch makes a JSON array of events.
func joinBatch(events [][]byte) []byte {
	return slices.Concat([]byte{'['}, bytes.Join(events, []byte{','}), []byte{']'})
}
