package once

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// Wanted is what a system of the body wants to have, upon a person's explicit request.
type Wanted struct {
	Type        string          `json:"type"`
	Requirement string          `json:"requirement"`
	Subject     json.RawMessage `json:"subject"`
	AskedBy     string          `json:"asked_by"`
	AskedAt     time.Time       `json:"asked_at"`
	Case        string          `json:"case,omitempty"`
}

// Status is where a request stands.
type Status struct {
	ID        string     `json:"id"`
	Type      string     `json:"type"`
	State     State      `json:"state"`
	Evidence  *Digest    `json:"evidence,omitempty"`
	MediaType string     `json:"media_type,omitempty"`
	RetryAt   *time.Time `json:"retry_at,omitempty"`
	Token     string     `json:"token,omitempty"`
	Changed   time.Time  `json:"changed"`
	Expires   time.Time  `json:"expires"`
}

func (a *asked) status() *Status {
	s := &Status{ID: a.ID, Type: a.Type, State: a.State, MediaType: a.MediaType, RetryAt: a.RetryAt, Token: a.Token, Changed: a.Changed, Expires: a.Expires}
	if a.Evidence != (Digest{}) {
		s.Evidence = &a.Evidence
	}
	return s
}

// Ask begins a request. It is kept before the provider is asked; where that fails, the
// request stays as it is, and Preview asks again.
func (r *Runtime) Ask(ctx context.Context, client civibus.ClientID, w *Wanted) (*Status, error) {
	// 1. The request.
	v := r.View()
	if v == nil {
		return nil, errors.New("there is no registry view yet")
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	q := &Request{RequestFormat, hex.EncodeToString(id[:]), client.String(), w.Type, w.Requirement, w.Subject, w.AskedBy, w.AskedAt.UTC(), w.Case}
	text, err := json.Marshal(q)
	if err != nil {
		return nil, refuse("bad_request", "%v", err)
	}
	if len(text) > maxRequest {
		return nil, refuse("too_large", "the request has %d bytes, the rule is at most %d", len(text), maxRequest)
	}
	now := r.Clock()
	if _, _, err := checkRequest(v, now, text); err != nil {
		return nil, err
	}
	// 2. On disk.
	r.mu.Lock()
	err = r.room(askedKind)
	if err == nil {
		err = r.store.put(askedKind+q.ID, &asked{Request: text, ID: q.ID, Client: q.Client, Type: q.Type, State: Requested, Changed: now, Expires: now.Add(r.Keep)})
	}
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	// 3. To the provider.
	return r.Preview(ctx, client, q.ID)
}

// find looks up a request of a client.
func (r *Runtime) find(client civibus.ClientID, id string) (*asked, error) {
	a := new(asked)
	if !isID(id) {
		return nil, refuse("unknown_request", "there is no request %.64q", id)
	}
	known, err := r.store.get(askedKind+id, a)
	if err == nil && !known {
		err = r.gone(id)
	}
	if err == nil && (!known || a.Client != client.String()) {
		err = refuse("unknown_request", "%s has made no request %s", client, id)
	}
	return a, err
}

// Find says where a request stands.
func (r *Runtime) Find(client civibus.ClientID, id string) (*Status, error) {
	a, err := r.find(client, id)
	if err != nil {
		return nil, err
	}
	return a.status(), nil
}

// alone takes a request for one exchange at a time.
func (r *Runtime) alone(client civibus.ClientID, id string) (*asked, func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[id] {
		return nil, nil, refuse("busy", "an exchange about request %s is under way", id)
	}
	a, err := r.find(client, id)
	if err != nil {
		return nil, nil, err
	}
	if !r.Clock().Before(a.Expires) {
		return nil, nil, refuse("expired", "the request's time is over; make another one")
	}
	r.busy[id] = true
	return a, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, id)
	}, nil
}

// move brings a request to its next state, on disk.
func (r *Runtime) move(a *asked, e event) error {
	next, err := after(a.State, e)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a.State, a.Changed = next, r.Clock()
	if e == decline {
		return r.store.replace(askedKind+a.ID, a) // the document goes in copies too
	}
	return r.store.put(askedKind+a.ID, a)
}

// call makes an exchange with the service "once" of the type's subsystem.
func (r *Runtime) call(ctx context.Context, client civibus.ClientID, a *asked, path string, body []byte, to any) error {
	id, err := registry.ParseEvidenceTypeID(a.Type)
	if err != nil {
		return err
	}
	text, err := r.Call(ctx, client, civibus.ServiceID{ClientID: id.Service.ClientID, Service: ServiceCode}, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("the provider's answer: %w", err)
	}
	return nil
}

// Preview asks the provider for what can be shown to the person.
func (r *Runtime) Preview(ctx context.Context, client civibus.ClientID, id string) (*Status, error) {
	a, leave, err := r.alone(client, id)
	if err != nil {
		return nil, err
	}
	defer leave()
	if a.State == Previewed {
		return a.status(), nil
	}
	if _, err := after(a.State, shown); err != nil {
		return nil, err
	}
	var s Shown
	if err := r.call(ctx, client, a, previewPath, a.Request, &s); err != nil {
		var refused *Refused
		if errors.As(err, &refused) {
			return nil, err
		}
		r.Logger.WarnContext(ctx, "once: the provider could not be asked", "request", a.ID, "type", a.Type, "err", err)
		return a.status(), nil // it stays, and can be asked again
	}
	switch {
	case s.Request != RequestDigest(a.Request):
		return nil, refuse("bad_answer", "the provider's answer is about another request")
	case s.State == NotAvailable:
		err = r.move(a, none)
	case s.State == Later:
		at := r.Clock().Add(time.Duration(min(max(s.RetryAfter, 1), 366*86400)) * time.Second)
		a.RetryAt = &at
		err = r.move(a, delayed)
	case s.State == Previewed && len(s.Content) <= MaxEvidence && s.Evidence == EvidenceDigest(s.MediaType, s.Content):
		a.Evidence, a.MediaType, a.Content, a.RetryAt = s.Evidence, s.MediaType, s.Content, nil
		err = r.move(a, shown)
	default:
		return nil, refuse("bad_answer", "the provider's answer has no evidence with its digest")
	}
	if err != nil {
		return nil, err
	}
	return a.status(), nil
}

// Decide takes the person's decision about what she was shown: it is signed and kept, and
// then told to the provider. The same again tells it again.
func (r *Runtime) Decide(ctx context.Context, client civibus.ClientID, id string, decision State, by string) (*Status, error) {
	// 1. Whether there is something to decide.
	if decision != Approved && decision != Declined || by != Person && by != Representative {
		return nil, refuse("bad_request", "decision is %.32q by %.32q, the rule is approved or declined by person or representative", decision, by)
	}
	a, leave, err := r.alone(client, id)
	if err != nil {
		return nil, err
	}
	defer leave()
	switch {
	case a.State == Delivered && decision == Approved:
		return a.status(), nil
	case a.Token != "" && a.State != decision:
		return nil, refuse("decided", "the request was %s before", a.State)
	}
	// 2. The token, kept with the decision.
	if a.Token == "" {
		if err := r.sign(ctx, a, decision, by); err != nil {
			return nil, err
		}
	}
	// 3. To the provider.
	var g Given
	if err := r.call(ctx, client, a, decisionPath, []byte(a.Token), &g); err != nil {
		var refused *Refused
		if errors.As(err, &refused) {
			return nil, err
		}
		r.Logger.WarnContext(ctx, "once: a decision could not be told", "request", a.ID, "type", a.Type, "err", err)
		return a.status(), nil // it stays, and can be told again
	}
	if decision == Declined {
		return a.status(), nil
	}
	if g.State != Delivered || g.Evidence != a.Evidence || EvidenceDigest(g.MediaType, g.Content) != a.Evidence {
		return nil, refuse("bad_answer", "the provider gave other evidence than was shown")
	}
	a.Content, a.Expires = g.Content, r.Clock().Add(r.Keep)
	if err := r.move(a, received); err != nil {
		return nil, err
	}
	return a.status(), nil
}

// sign makes the token and keeps it. What was declined is deleted with it.
func (r *Runtime) sign(ctx context.Context, a *asked, decision State, by string) error {
	e := approve
	if decision == Declined {
		e = decline
	}
	if _, err := after(a.State, e); err != nil {
		return err
	}
	signer, err := r.Signer()
	if err != nil {
		return err
	}
	token, err := Sign(ctx, signer, Decision{
		ID: a.ID, Request: RequestDigest(a.Request), Evidence: a.Evidence, Client: a.Client, Type: a.Type, Decision: decision, DecidedBy: by, Time: r.Clock(),
	})
	if err != nil {
		return err
	}
	a.Token = token
	if decision == Declined {
		a.Content = nil
	}
	return r.move(a, e)
}

// Content is what may be shown (preview) or used: the evidence of a request that is
// previewed, or delivered.
func (r *Runtime) Content(client civibus.ClientID, id string, preview bool) (mediaType string, content []byte, token string, err error) {
	a, err := r.find(client, id)
	if err != nil {
		return "", nil, "", err
	}
	want := Delivered
	if preview {
		want = Previewed
	}
	switch {
	case a.State != want:
		return "", nil, "", refuse("wrong_state", "the request is %s, the rule is %s", a.State, want)
	case a.Content == nil || !r.Clock().Before(a.Expires):
		return "", nil, "", refuse("expired", "the evidence is not kept any more")
	}
	return a.MediaType, a.Content, a.Token, nil
}
