package once

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// The paths of the service "once".
const (
	previewPath  = "/preview"
	decisionPath = "/decision"
)

// Shown is the answer to a request: what there is, to be shown to the person.
type Shown struct {
	State      State  `json:"state"` // previewed, not_available or later
	Request    Digest `json:"request"`
	Evidence   Digest `json:"evidence"`
	MediaType  string `json:"media_type,omitempty"`
	Content    []byte `json:"content,omitempty"`
	RetryAfter int64  `json:"retry_after,omitempty"` // seconds
}

// Given is the answer to a token.
type Given struct {
	State     State  `json:"state"` // delivered or declined
	Evidence  Digest `json:"evidence"`
	MediaType string `json:"media_type,omitempty"`
	Content   []byte `json:"content,omitempty"`
}

// Inbox is the service "once" of the body's subsystems: what other bodies' gateways
// reach as an exchange, and so with a right to it.
func (r *Runtime) Inbox(at civibus.ClientID) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, limit int64, fn func(req *http.Request, client civibus.ClientID, body []byte) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, req *http.Request) {
			client, err := civibus.ParseClientID(req.Header.Get(civibus.HeaderClient))
			if err != nil {
				failWith(w, refuse("bad_client", "the client is missing or malformed"))
				return
			}
			body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, limit))
			if err != nil {
				failWith(w, refuse("too_large", "the rule is at most %d bytes", limit))
				return
			}
			out, err := fn(req, client, body)
			if err != nil {
				var refused *Refused
				if !errors.As(err, &refused) {
					r.Logger.ErrorContext(req.Context(), "once: a request could not be answered", "err", err)
				}
				failWith(w, err)
				return
			}
			answer(w, http.StatusOK, out)
		})
	}
	handle(previewPath, maxRequest, func(req *http.Request, client civibus.ClientID, body []byte) (any, error) {
		return r.show(req, at, client, body)
	})
	handle(decisionPath, maxToken, func(_ *http.Request, client civibus.ClientID, body []byte) (any, error) {
		return r.give(client, string(body))
	})
	return mux
}

// show fetches evidence upon a person's explicit request.
func (r *Runtime) show(req *http.Request, at, client civibus.ClientID, text []byte) (*Shown, error) {
	// 1. The request.
	v := r.View()
	if v == nil {
		return nil, errors.New("there is no registry view yet")
	}
	q, kind, err := checkRequest(v, r.Clock(), text)
	if err != nil {
		return nil, err
	}
	if q.Client != client.String() {
		return nil, refuse("bad_client", "the request is of %.200q and was sent by %s", q.Client, client)
	}
	if kind.ID.Service.ClientID != at {
		return nil, refuse("unknown_type", "evidence of type %s is not given here", kind.ID)
	}
	// 2. The same again is answered as before: the evidence that was shown stays the same.
	key, name := givenKind+client.String()+"/"+q.ID, RequestDigest(text)
	if done, err := r.known(key, name); done != nil || err != nil {
		return done, err
	}
	if err := r.room(givenKind); err != nil {
		return nil, err
	}
	// 3. What the body's service has.
	f, err := r.Fetch(req.Context(), kind.ID.Service, "/"+kind.ID.Name, client.String(), text)
	if err != nil {
		return nil, fmt.Errorf("the service of evidence type %s: %w", kind.ID, err)
	}
	out := &Shown{Request: name}
	switch {
	case f.Status == http.StatusNotFound || f.Status == http.StatusGone:
		out.State = NotAvailable
		return out, nil
	case f.Status == http.StatusAccepted || f.Status == http.StatusServiceUnavailable || f.Status == http.StatusTooManyRequests:
		out.State, out.RetryAfter = Later, int64(max(f.RetryAfter, time.Minute)/time.Second)
		return out, nil
	case f.Status != http.StatusOK || f.MediaType == "" || len(f.MediaType) > 255 || len(f.Content) == 0 || len(f.Content) > MaxEvidence:
		return nil, fmt.Errorf("the service of evidence type %s answered with status %d, type %.80q and %d bytes; the rule is 200 with a type and 1 to %d bytes", kind.ID, f.Status, f.MediaType, len(f.Content), MaxEvidence)
	}
	// 4. On disk, until the person decides.
	r.mu.Lock()
	defer r.mu.Unlock()
	if done, err := r.known(key, name); done != nil || err != nil { // somebody was quicker
		return done, err
	}
	now := r.Clock()
	g := &given{q.ID, q.Client, q.Type, name, EvidenceDigest(f.MediaType, f.Content), f.MediaType, f.Content, "", "", now, now.Add(r.Keep)}
	if err := r.store.put(key, g); err != nil {
		return nil, err
	}
	return shownAgain(g, name)
}

// known is the answer to a request that was answered before; nil: it was not.
func (r *Runtime) known(key string, name Digest) (*Shown, error) {
	g := new(given)
	known, err := r.store.get(key, g)
	if err == nil && !known {
		err = r.gone(key[strings.LastIndexByte(key, '/')+1:])
	}
	if err != nil || !known {
		return nil, err
	}
	return shownAgain(g, name)
}

func shownAgain(g *given, name Digest) (*Shown, error) {
	switch {
	case g.Request != name:
		return nil, refuse("conflict", "there is another request with this id")
	case g.Decision != "":
		return nil, refuse("decided", "the request was %s before", g.Decision)
	case g.Content == nil:
		return nil, refuse("expired", "nobody decided in time; make another request")
	}
	return &Shown{State: Previewed, Request: name, Evidence: g.Evidence, MediaType: g.MediaType, Content: g.Content}, nil
}

// checkRequest reads a request and checks that it is explicit, of now, and for
// something that is in the catalogue.
func checkRequest(v *registry.View, now time.Time, text []byte) (*Request, *registry.EvidenceType, error) {
	q := &Request{}
	if err := strictJSON(text, q); err != nil {
		return nil, nil, refuse("bad_request", "it is no request: %v", err)
	}
	switch {
	case q.Format != RequestFormat:
		return nil, nil, refuse("bad_request", "format is %.80q, the rule is %q", q.Format, RequestFormat)
	case !isID(q.ID):
		return nil, nil, refuse("bad_request", "id is %.80q, the rule is 32 lower-case hex digits", q.ID)
	case q.AskedBy != Person && q.AskedBy != Representative:
		return nil, nil, refuse("not_explicit", "asked_by is %.80q, the rule is person or representative: evidence is exchanged upon an explicit request only", q.AskedBy)
	case q.AskedAt.IsZero() || q.AskedAt.After(now.Add(maxSkew)) || q.AskedAt.Before(now.Add(-maxAskedAge)):
		return nil, nil, refuse("not_explicit", "asked_at is %s, the rule is within the last %s", q.AskedAt.UTC().Format(time.RFC3339), maxAskedAge)
	case len(q.Subject) == 0 || string(q.Subject) == "null":
		return nil, nil, refuse("bad_request", "there is no subject")
	case len(q.Case) > 255:
		return nil, nil, refuse("bad_request", "case has %d bytes, the rule is at most 255", len(q.Case))
	}
	id, err := registry.ParseEvidenceTypeID(q.Type)
	if err != nil {
		return nil, nil, refuse("bad_request", "type: %v", err)
	}
	kind, ok := v.EvidenceType(id)
	switch {
	case !ok || kind.Status == civibus.Ended:
		return nil, nil, refuse("unknown_type", "evidence type %s is not in the catalogue", id)
	case kind.Status != civibus.Active:
		return nil, nil, refuse("suspended", "evidence of type %s is not given at present: %s", id, kind.Notice)
	case !slices.Contains(kind.Requirements, q.Requirement):
		return nil, nil, refuse("unknown_requirement", "evidence of type %s does not prove %.200q; it proves %q", id, q.Requirement, kind.Requirements)
	}
	return q, &kind, nil
}

// isID reports whether s is 16 bytes in lower-case hex.
func isID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// give takes a token and gives the evidence up for use, or deletes it.
func (r *Runtime) give(client civibus.ClientID, token string) (*Given, error) {
	// 1. Whose word it is.
	v := r.View()
	if v == nil {
		return nil, errors.New("there is no registry view yet")
	}
	d, err := Verify(v, token)
	if err != nil {
		return nil, err
	}
	if d.Client != client.String() {
		return nil, refuse("bad_client", "the token is of %.200q and was sent by %s", d.Client, client)
	}
	// 2. What it is about.
	r.mu.Lock()
	defer r.mu.Unlock()
	key, g := givenKind+client.String()+"/"+d.ID, new(given)
	known, err := r.store.get(key, g)
	now := r.Clock()
	switch {
	case err != nil:
		return nil, err
	case !known && r.gone(d.ID) != nil:
		return nil, r.gone(d.ID)
	case !known:
		return nil, refuse("unknown_request", "nothing was shown for request %.64q", d.ID)
	case d.Request != g.Request || d.Type != g.Type:
		return nil, refuse("other_request", "the token is about another request than the one with its id")
	case d.Evidence != g.Evidence:
		return nil, refuse("other_evidence", "the token is about other evidence than was shown")
	case g.Token != "" && g.Token != token:
		return nil, refuse("decided", "the request was %s before, by another token", g.Decision)
	case g.Decision == Declined:
		return &Given{State: Declined, Evidence: g.Evidence}, nil
	case g.Content == nil || !now.Before(g.Expires):
		return nil, refuse("expired", "the evidence is not kept any more; make another request")
	case g.Token == "" && (d.Time.Before(g.Shown.Add(-maxSkew)) || d.Time.After(now.Add(maxSkew))):
		return nil, refuse("bad_time", "it was decided at %s, which is not between the preview and now", d.Time.Format(time.RFC3339))
	}
	// 3. On disk, once. The same token again finds it so: its answer may have been lost.
	out := &Given{State: Delivered, Evidence: g.Evidence, MediaType: g.MediaType, Content: g.Content}
	if d.Decision == Declined {
		out, g.Content = &Given{State: Declined, Evidence: g.Evidence}, nil
	}
	if g.Token == "" {
		g.Token, g.Decision = token, d.Decision
		write := r.store.put
		if d.Decision == Declined {
			write = r.store.replace // the document goes in copies too
		}
		if err := write(key, g); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// failure is how a refusal is told.
type failure struct {
	Error   string `json:"error"`
	Message string `json:"message"`
}

func failWith(w http.ResponseWriter, err error) {
	var refused *Refused
	if !errors.As(err, &refused) {
		answer(w, http.StatusServiceUnavailable, &failure{"unavailable", "the request could not be answered now; try again later"})
		return
	}
	status := http.StatusConflict
	switch refused.Code {
	case "bad_request", "bad_client", "bad_token", "not_explicit", "unknown_requirement":
		status = http.StatusBadRequest
	case "bad_signer", "bad_signature":
		status = http.StatusForbidden
	case "unknown_request", "unknown_type":
		status = http.StatusNotFound
	case "too_large":
		status = http.StatusRequestEntityTooLarge
	case "limit_reached":
		status = http.StatusTooManyRequests
	case "expired", "erased":
		status = http.StatusGone
	}
	answer(w, status, &failure{refused.Code, refused.Reason})
}

func answer(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":"internal","message":"the answer could not be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // who does not read it does not get it
}
