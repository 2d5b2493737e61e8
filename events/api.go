package events

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// Prefix is where the consumer face serves this room.
const Prefix = "/civibus/v1/"

const (
	topicsPath        = Prefix + "topics"
	subscriptionsPath = Prefix + "subscriptions"

	maxPublishBody = 8 << 20
	maxFetch       = 1024
	fetchBytes     = 4 << 20
	maxFetchWait   = 30 * time.Second
)

// Serves reports whether a path of the consumer face is this room's.
func Serves(path string) bool {
	return path == topicsPath || path == subscriptionsPath || strings.HasPrefix(path, topicsPath+"/") || strings.HasPrefix(path, subscriptionsPath+"/")
}

// Face is what the consumer face does for this room: it says in whose name a system calls,
// and tells refusals in the client systems' style. *gateway.Gateway is one.
type Face interface {
	Caller(*http.Request) (civibus.ClientID, error)
	Tell(http.ResponseWriter, *http.Request, error)
}

// Handler serves the systems of the body.
func (r *Room) Handler(face Face) http.Handler {
	h := &handler{r, face}
	mux := http.NewServeMux()
	route := func(pattern string, fn func(http.ResponseWriter, *http.Request, civibus.ClientID) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			client, err := face.Caller(req)
			if err == nil {
				err = fn(w, req, client)
			}
			if err != nil {
				face.Tell(w, req, err)
			}
		})
	}
	const topic = "/{instance}/{class}/{member}/{subsystem}/{service}/{topic}"
	route("GET "+topicsPath, h.topics)
	route("GET "+topicsPath+topic, h.topic)
	route("POST "+topicsPath+topic+"/events", h.publish)
	route("GET "+subscriptionsPath, h.subscriptions)
	route("POST "+subscriptionsPath, h.subscribe)
	route("GET "+subscriptionsPath+"/{id}", h.subscription)
	route("DELETE "+subscriptionsPath+"/{id}", h.unsubscribe)
	route("GET "+subscriptionsPath+"/{id}/events", h.fetch)
	route("POST "+subscriptionsPath+"/{id}/ack", h.acknowledge)
	route("POST "+subscriptionsPath+"/{id}/replay", h.replay)
	route("GET "+subscriptionsPath+"/{id}/proofs/{seq}", h.proof)
	route("GET "+subscriptionsPath+"/{id}/dead", h.dead)
	route("POST "+subscriptionsPath+"/{id}/dead/{seq}/retry", h.retry)
	route("DELETE "+subscriptionsPath+"/{id}/dead/{seq}", h.drop)
	return mux
}

type handler struct {
	r    *Room
	face Face
}

// topicInfo is a topic as it is told.
type topicInfo struct {
	Topic       string       `json:"topic"`
	Title       string       `json:"title"`
	Ordered     bool         `json:"ordered"`
	Status      string       `json:"status"`
	Notice      string       `json:"notice,omitempty"`
	Oldest      uint64       `json:"oldest,omitempty"`
	Newest      uint64       `json:"newest,omitempty"`
	Subscribers []Subscriber `json:"subscribers,omitempty"`
}

func infoOf(t registry.Topic) topicInfo {
	return topicInfo{Topic: t.ID.String(), Title: t.Title, Ordered: t.Ordered, Status: t.Status.String(), Notice: t.Notice}
}

// topics lists what the registry has, in pages.
func (h *handler) topics(w http.ResponseWriter, req *http.Request, _ civibus.ClientID) error {
	q := req.URL.Query()
	items, next := h.r.cfg.View().Topics(q.Get("after"), 1000)
	out := struct {
		Topics []topicInfo `json:"topics"`
		Next   string      `json:"next,omitempty"`
	}{[]topicInfo{}, next}
	for _, t := range items {
		if p := q.Get("prefix"); strings.HasPrefix(t.ID.String(), p) {
			out.Topics = append(out.Topics, infoOf(t))
		}
	}
	return reply(w, http.StatusOK, out)
}

func topicOf(req *http.Request) (registry.TopicID, error) {
	var parts []string
	for _, name := range [...]string{"instance", "class", "member", "subsystem", "service", "topic"} {
		parts = append(parts, civibus.EncodePart(req.PathValue(name)))
	}
	return parseTopic(strings.Join(parts, "/"))
}

// topic tells about one; its owner also who takes its events and how far they are.
func (h *handler) topic(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	id, err := topicOf(req)
	if err != nil {
		return err
	}
	t, ok := h.r.cfg.View().Topic(id)
	if !ok {
		return fault(civibus.FaultUnknownTopic, "there is no topic %s in the registry", id)
	}
	out := infoOf(t)
	if id.Service.ClientID == client {
		o, err := h.r.boxes.get(id.String(), false)
		if err != nil {
			return err
		}
		if o != nil {
			out.Oldest, out.Newest = o.stream.bounds()
			out.Subscribers = o.list()
			slices.SortFunc(out.Subscribers, func(a, b Subscriber) int {
				return strings.Compare(a.Client+"|"+a.Name, b.Client+"|"+b.Name)
			})
		}
	}
	return reply(w, http.StatusOK, out)
}

// publish answers 202 when the events are durable.
func (h *handler) publish(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	id, err := topicOf(req)
	if err != nil {
		return err
	}
	body, err := readAll(w, req, maxPublishBody)
	if err != nil {
		return err
	}
	list, err := ParseRequest(req.Header, body)
	if err != nil {
		return fault(civibus.FaultInvalidEvent, "%v", err)
	}
	out, err := h.r.Publish(req.Context(), client, id, list)
	if err != nil {
		return err
	}
	return reply(w, http.StatusAccepted, out)
}

func readAll(w http.ResponseWriter, req *http.Request, most int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, most))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fault(civibus.FaultInvalidEvent, "the request has more than %d bytes", most)
	case err != nil:
		return nil, fault(civibus.FaultIO, "the request's body could not be read to its end")
	}
	return body, nil
}

func readJSON(w http.ResponseWriter, req *http.Request, to any) error {
	body, err := readAll(w, req, 1<<20)
	if err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fault(civibus.FaultInvalidEvent, "the request's body: %v", err)
	}
	return nil
}

func reply(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the system went away: nobody to tell
	return nil
}

// Wish is what a system asks for when it subscribes.
type Wish struct {
	Topic   string `json:"topic"`
	Name    string `json:"name"`    // default: default
	From    string `json:"from"`    // first, latest or a number; default: latest
	Webhook string `json:"webhook"` // empty: the system fetches
}

// subscribe makes a subscription. The right is looked at now, and again by the provider
// at each delivery.
func (h *handler) subscribe(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	var wish Wish
	if err := readJSON(w, req, &wish); err != nil {
		return err
	}
	s, made, err := h.r.Subscribe(client, wish)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
		w.Header().Set("Location", subscriptionsPath+"/"+s.ID)
	}
	return reply(w, status, s)
}

// find returns a client's subscription.
func (r *Room) find(req *http.Request, client civibus.ClientID) (*subscription, error) {
	id := req.PathValue("id")
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.subs[id]
	if !ok || s.client != client {
		return nil, fault(civibus.FaultUnknownSubscription, "%s has no subscription %.40q", client.XRoad(), id)
	}
	return s, nil
}

func (h *handler) subscriptions(w http.ResponseWriter, _ *http.Request, client civibus.ClientID) error {
	out := struct {
		Subscriptions []Subscription `json:"subscriptions"`
	}{[]Subscription{}}
	for _, s := range h.r.all() {
		if s.client == client {
			out.Subscriptions = append(out.Subscriptions, s.snapshot())
		}
	}
	slices.SortFunc(out.Subscriptions, func(a, b Subscription) int {
		return strings.Compare(a.Topic+"|"+a.Name, b.Topic+"|"+b.Name)
	})
	return reply(w, http.StatusOK, out)
}

func (h *handler) subscription(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, err := h.r.find(req, client)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, s.snapshot())
}

func (h *handler) unsubscribe(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, err := h.r.find(req, client)
	if err != nil {
		return err
	}
	if err := h.r.Unsubscribe(s); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func number(v url.Values, name string, otherwise, most uint64) (uint64, error) {
	if !v.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v.Get(name), 10, 63)
	if err != nil || n > most {
		return 0, fault(civibus.FaultBadCursor, "%s is %.40q, the rule is a number up to %d", name, v.Get(name), most)
	}
	return n, nil
}

// fetch answers with events after a cursor, by default that of the last acknowledgement.
func (h *handler) fetch(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, err := h.r.find(req, client)
	if err != nil {
		return err
	}
	q := req.URL.Query()
	s.mu.Lock()
	cursor := s.info.Cursor
	s.mu.Unlock()
	after, err := number(q, "after", cursor, 1<<62)
	if err != nil {
		return err
	}
	limit, err := number(q, "limit", maxFetch, maxFetch)
	if err != nil {
		return err
	}
	patience, err := number(q, "wait", 0, uint64(maxFetchWait/time.Second))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(req.Context(), time.Duration(patience)*time.Second)
	defer cancel()
	list, last, err := s.events(ctx, h.r.ctx, after, int(limit))
	if err != nil {
		return err
	}
	b := joinBatch(list)
	w.Header().Set("Content-Type", BatchType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Header().Set("Events-Cursor", strconv.FormatUint(last, 10)) // to acknowledge, and to go on after
	_, _ = w.Write(b)
	return nil
}

// events returns what comes after a cursor, and waits for it until ctx ends.
func (s *subscription) events(ctx, room context.Context, after uint64, limit int) ([][]byte, uint64, error) {
	s.mu.Lock()
	base := s.base
	s.mu.Unlock()
	if received := s.received(); after > received {
		return nil, 0, fault(civibus.FaultBadCursor, "the cursor is %d, and the newest event here is %d", after, received)
	}
	if oldest, newest := s.stream.bounds(); oldest <= newest && after+1 < oldest && after+1 > base {
		return nil, 0, fault(civibus.FaultEventsGone, "the events from %d to %d are no longer kept here; continue after %d, or subscribe again from %d under another name", after+1, oldest-1, oldest-1, after)
	}
	for {
		_, changed := s.stream.wait()
		entries, err := s.stream.read(after, limit, fetchBytes)
		if err != nil {
			return nil, 0, err
		}
		out := [][]byte{}
		for _, e := range entries {
			if after = e.Seq; !s.isDead(e.Seq) {
				out = append(out, annotated(e.Event, e.Seq, exchangeOf(e)))
			}
		}
		if len(out) > 0 || ctx.Err() != nil {
			return out, after, nil
		}
		if len(entries) > 0 {
			continue // all of them were dead letters
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return out, after, nil
		case <-room.Done():
			return out, after, nil
		}
	}
}

// acknowledgement says up to where a system is done, and which events it does not take.
type acknowledgement struct {
	Upto    uint64 `json:"upto"`
	Refused []struct {
		Seq    uint64 `json:"seq"`
		Reason string `json:"reason"`
	} `json:"refused"`
}

func (h *handler) acknowledge(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, err := h.r.find(req, client)
	if err != nil {
		return err
	}
	var a acknowledgement
	if err := readJSON(w, req, &a); err != nil {
		return err
	}
	if received := s.received(); a.Upto > received {
		return fault(civibus.FaultBadCursor, "upto is %d, and the newest event here is %d", a.Upto, received)
	}
	if len(a.Refused) > maxFetch {
		return fault(civibus.FaultInvalidEvent, "refused: %d events, the rule is at most %d", len(a.Refused), maxFetch)
	}
	for _, x := range a.Refused {
		entries, err := s.stream.read(x.Seq-min(x.Seq, 1), 1, 1)
		if err != nil || len(entries) == 0 || entries[0].Seq != x.Seq || x.Seq > a.Upto {
			return fault(civibus.FaultBadCursor, "refused: there is no event %d up to %d here", x.Seq, a.Upto)
		}
		if len(x.Reason) > 1024 {
			return fault(civibus.FaultInvalidEvent, "refused: the reason has %d bytes, the rule is at most 1024", len(x.Reason))
		}
		if err := s.bury(DeadLetter{Seq: x.Seq, Reason: DeadRejected, Message: x.Reason, Attempts: 1, Exchange: exchangeOf(entries[0]), Event: entries[0].Event}); err != nil {
			return err
		}
	}
	if err := s.advance(a.Upto); err != nil {
		return err
	}
	return reply(w, http.StatusOK, s.snapshot())
}

// replay moves the cursor, as a rule back.
func (h *handler) replay(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, err := h.r.find(req, client)
	if err != nil {
		return err
	}
	var in struct {
		After uint64 `json:"after"`
	}
	if err := readJSON(w, req, &in); err != nil {
		return err
	}
	oldest, _ := s.stream.bounds()
	switch received := s.received(); {
	case in.After > received:
		return fault(civibus.FaultBadCursor, "after is %d, and the newest event here is %d", in.After, received)
	case in.After+1 < oldest:
		return fault(civibus.FaultEventsGone, "the events from %d to %d are not kept here; replay after %d, or subscribe again from %d under another name", in.After+1, oldest-1, oldest-1, in.After)
	}
	s.mu.Lock()
	err = s.setCursor(in.After)
	s.moved = err == nil
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.wake()
	return reply(w, http.StatusOK, s.snapshot())
}

func (h *handler) proof(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, seq, err := h.ofEvent(req, client)
	if err != nil {
		return err
	}
	p, err := s.prove(seq)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, p)
}

func (h *handler) ofEvent(req *http.Request, client civibus.ClientID) (*subscription, uint64, error) {
	s, err := h.r.find(req, client)
	if err != nil {
		return nil, 0, err
	}
	seq, err := strconv.ParseUint(req.PathValue("seq"), 10, 63)
	if err != nil {
		return nil, 0, fault(civibus.FaultBadCursor, "event %.40q, the rule is a number", req.PathValue("seq"))
	}
	return s, seq, nil
}

func (h *handler) dead(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, err := h.r.find(req, client)
	if err != nil {
		return err
	}
	after, err := number(req.URL.Query(), "after", 0, 1<<62)
	if err != nil {
		return err
	}
	list, err := s.deadLetters(after, 100)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"dead": list})
}

// retry delivers a dead letter once more: it is pushed right away, or answered to a
// system that fetches.
func (h *handler) retry(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, seq, err := h.ofEvent(req, client)
	if err != nil {
		return err
	}
	list, err := s.deadLetters(seq-min(seq, 1), 1)
	if err != nil {
		return err
	}
	if len(list) == 0 || list[0].Seq != seq {
		return fault(civibus.FaultUnknownSubscription, "subscription %s has no dead letter %d", s.info.ID, seq)
	}
	d := list[0]
	if d.Event == nil {
		return fault(civibus.FaultEventsGone, "dead letter %d holds no event that could be delivered: %s", seq, d.Message)
	}
	if s.info.Webhook != "" {
		out := h.r.post(req.Context(), s, Entry{Seq: seq, Event: d.Event, Meta: append(make([]byte, metaSize), d.Exchange...)})
		if out.status < 200 || out.status > 299 {
			return fault(civibus.FaultNetwork, "dead letter %d was not taken: the webhook answered with the status %d (0: not at all)", seq, out.status)
		}
	}
	if _, err := s.revive(seq); err != nil {
		return err
	}
	return reply(w, http.StatusOK, d)
}

func (h *handler) drop(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
	s, seq, err := h.ofEvent(req, client)
	if err != nil {
		return err
	}
	if _, err := s.revive(seq); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
