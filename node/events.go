package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/internal/tlsprofile"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/transport"
)

const (
	eventsWaitPath  = "/civibus/v1/events/wait"
	eventsPatience  = 20 * time.Second // of one wait, which then is repeated
	eventsMargin    = 10 * time.Second // for the way there and back
	maxEventsWaits  = 4                // of one member, each of a gateway of its own
	maxEventsBodies = 1 << 20
)

// upstreams are a body's services, and its topics.
type upstreams struct {
	*service.Set
	events *events.Room // nil: this gateway carries no messages
}

// Call calls a service, or answers for a topic.
func (u *upstreams) Call(ctx context.Context, id civibus.ServiceID, method, rawPath, rawQuery string, header http.Header, body io.Reader, length int64) (*http.Response, error) {
	if method != civibus.MethodSubscribe {
		return u.Set.Call(ctx, id, method, rawPath, rawQuery, header, body, length)
	}
	if u.events == nil {
		return nil, civibus.Faultf(civibus.ProviderGateway, civibus.FaultEventsOff, "this gateway of %s carries no messages", id.MemberID)
	}
	return u.events.Answer(ctx, id, rawPath, rawQuery, header, body)
}

// openEvents opens the body's messages.
func (n *Node) openEvents(r *rooms) (*events.Room, error) {
	return events.Open(events.Config{
		Dir: filepath.Join(n.cfg.DataDir, eventsDir), Member: n.member,
		View: func() events.View { return n.view() },
		Ask: func(ctx context.Context, q events.Question) (*events.Answer, time.Duration, error) {
			a, after, err := r.gateway.Do(ctx, gateway.Own{
				Client: q.Client, Service: q.Service, Method: civibus.MethodSubscribe, Path: q.Path, Query: q.Query, Body: q.Body, Server: q.Gateway,
			})
			if err != nil {
				return nil, after, err
			}
			return &events.Answer{Exchange: a.Exchange, Header: a.Header, Body: a.Body}, after, nil
		},
		Wait: func(ctx context.Context, provider civibus.MemberID, server string, wants []events.Want) ([]int, error) {
			return n.waitEvents(ctx, r, provider, server, wants)
		},
		Admit:     r.evidence.Admit,
		Retention: time.Duration(n.cfg.Events.Retention), MaxBytes: int64(n.cfg.Events.MaxBytes),
		Webhooks: n.cfg.Events.Webhooks, Attempts: n.cfg.Events.Attempts, PushTimeout: time.Duration(n.cfg.Events.PushTimeout),
		Sign: n.signForSystem,
		HTTP: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig: tlsprofile.Upstream(), MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
				TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Clock: n.clock, Logger: n.log.With("room", "events"),
	})
}

// waitEvents asks a provider to answer when there is more.
func (n *Node) waitEvents(ctx context.Context, r *rooms, provider civibus.MemberID, server string, wants []events.Want) ([]int, error) {
	body, err := json.Marshal(eventsWants{wants})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, eventsPatience+eventsMargin)
	defer cancel()
	resp, _, err := r.transport.Do(ctx, provider, server, func(ctx context.Context, _ transport.Peer) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, eventsWaitPath, bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return req, err
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxEventsBodies))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %.200s", resp.StatusCode, bytes.TrimSpace(raw))
	}
	var out eventsMore
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, err
	}
	return out.More, nil
}

type eventsWants struct {
	Want []events.Want `json:"want"`
}

type eventsMore struct {
	More []int `json:"more"`
}

// eventsFace answers other bodies that wait for events. What it tells is a hint: the
// events come by an exchange, which is decided and sealed.
type eventsFace struct {
	n    *Node
	stop context.Context
	room *events.Room

	mu    sync.Mutex
	waits map[civibus.MemberID]int
}

// ServeHTTP answers when there is more, or after a while.
func (f *eventsFace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	peer, ok := transport.PeerFrom(r.Context())
	switch {
	case !ok:
		http.Error(w, "who asks is not known", http.StatusForbidden)
		return
	case f.room == nil:
		http.Error(w, "this gateway carries no messages", http.StatusServiceUnavailable)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "the rule is POST", http.StatusMethodNotAllowed)
		return
	case !f.begin(peer.Member):
		w.Header().Set("Retry-After", "1")
		http.Error(w, fmt.Sprintf("too many calls wait: the rule is %d for each member", maxEventsWaits), http.StatusTooManyRequests)
		return
	}
	defer f.end(peer.Member)
	var in eventsWants
	if err := json.NewDecoder(io.LimitReader(r.Body, maxEventsBodies)).Decode(&in); err != nil || len(in.Want) > events.MaxWants {
		http.Error(w, fmt.Sprintf("the rule is at most %d wants in JSON", events.MaxWants), http.StatusBadRequest)
		return
	}
	for _, want := range in.Want {
		client, err := civibus.ParseClientID(want.Client)
		if err != nil || !f.n.view().Carries(peer.Member, client.MemberID) {
			http.Error(w, "a want is of a client for which this body does not speak", http.StatusForbidden)
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), eventsPatience)
	defer cancel()
	defer context.AfterFunc(f.stop, cancel)()
	out := eventsMore{More: f.room.Await(ctx, in.Want)}
	if out.More == nil {
		out.More = []int{}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the peer went away: it asks again
}

func (f *eventsFace) begin(m civibus.MemberID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waits[m] >= maxEventsWaits {
		return false
	}
	f.waits[m]++
	return true
}

func (f *eventsFace) end(m civibus.MemberID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waits[m]--; f.waits[m] == 0 {
		delete(f.waits, m)
	}
}

// withEvents serves the messages beside the exchanges on the consumer face.
func withEvents(r *rooms, exchanges http.Handler) http.Handler {
	off := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.gateway.Tell(w, req, civibus.Faultf(civibus.ConsumerGateway, civibus.FaultEventsOff, "this gateway carries no messages (events.off)"))
	}))
	if r.events != nil {
		off = r.events.Handler(r.gateway)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if events.Serves(req.URL.EscapedPath()) {
			off.ServeHTTP(w, req)
			return
		}
		exchanges.ServeHTTP(w, req)
	})
}
