package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry"
)

// View is one registry view as this room needs it; *registry.View is one.
type View interface {
	policy.View
	Topic(registry.TopicID) (registry.Topic, bool)
	Topics(after string, limit int) (items []registry.Topic, next string)
	TopicsOf(civibus.ServiceID) []registry.Topic
}

// Question is an exchange that this body's gateway makes for itself.
type Question struct {
	Client  civibus.ClientID
	Service civibus.ServiceID
	Path    string // from the slash
	Query   string
	Body    []byte
	Gateway string // the code of one of the provider's; empty: any
}

// Answer is how it was answered, when it was.
type Answer struct {
	Exchange string
	Header   http.Header
	Body     []byte
}

// Want asks whether there is something after a cursor.
type Want struct {
	Client string `json:"client"`
	Topic  string `json:"topic"`
	After  uint64 `json:"after"`
}

// Config is what a Room is made of. Fields without a stated default are required.
type Config struct {
	// Dir is the folder that holds everything.
	Dir string
	// Member is the body.
	Member civibus.MemberID
	// View returns the newest registry view.
	View func() View
	// Ask makes an exchange by the method SUBSCRIBE. What is refused is a
	// *civibus.Fault; after is how long to wait, if the provider said.
	Ask func(context.Context, Question) (a *Answer, after time.Duration, err error)
	// Wait asks a provider to answer when there is more for one of wants, and returns
	// which. It answers after a while also when there is nothing.
	Wait func(ctx context.Context, provider civibus.MemberID, gateway string, wants []Want) ([]int, error)
	// Admit reports why nothing new can be kept. Default: it always can.
	Admit func() error
	// Retention is how long published events are kept, and received ones after they
	// were taken. Default: 30 days.
	Retention time.Duration
	// MaxBytes bounds what is kept of one topic, and what waits of one subscription. Of a
	// topic the oldest go; a subscription fetches no more until its system has taken some.
	// Default: 4 GiB.
	MaxBytes int64
	// Webhooks are the beginnings of the URLs that events may be pushed to. Default: none.
	Webhooks []string
	// Attempts is how often an event is pushed that the system refuses. Default: 8.
	Attempts int
	// PushTimeout is the longest wait for a webhook's answer. Default: 10 s.
	PushTimeout time.Duration
	// FirstBackOff and MaxBackOff bound the pauses between attempts. Defaults: 1 s, 5 min.
	FirstBackOff, MaxBackOff time.Duration
	// Sign seals what is pushed with the body's key. Default: only the subscription's
	// secret signs it.
	Sign func(ctx context.Context, r *http.Request, body []byte) error
	// HTTP pushes. Default: a client that follows no redirects.
	HTTP *http.Client
	// Clock tells the time. Default: time.Now.
	Clock civibus.Clock
	// Logger gets failures. Default: none.
	Logger *slog.Logger

	openFile wal.OpenFunc // tests break the disk
}

func (c *Config) prepare() error {
	if c.Dir == "" || c.Member.IsZero() || c.View == nil || c.Ask == nil || c.Wait == nil {
		return errors.New("events: Dir, Member, View, Ask and Wait are required")
	}
	if c.Admit == nil {
		c.Admit = func() error { return nil }
	}
	setDefault(&c.Retention, 30*24*time.Hour)
	setDefault(&c.MaxBytes, 4<<30)
	setDefault(&c.Attempts, 8)
	setDefault(&c.PushTimeout, 10*time.Second)
	setDefault(&c.FirstBackOff, time.Second)
	setDefault(&c.MaxBackOff, 5*time.Minute)
	if c.HTTP == nil {
		c.HTTP = &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: pushParallel, IdleConnTimeout: time.Minute, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.openFile == nil {
		c.openFile = wal.OpenOS
	}
	return nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Room is a body's asynchronous messages: its outboxes and its subscriptions.
type Room struct {
	cfg   Config
	db    *ldb.DB
	boxes *outboxes
	news  news

	ctx  context.Context // of all that runs
	stop context.CancelFunc
	work sync.WaitGroup

	keep sync.Mutex // held by whoever removes events, or needs that none is removed

	mu        sync.Mutex
	subs      map[string]*subscription
	receivers map[civibus.MemberID]*receiver
	closed    bool
}

// Open opens the room and begins to receive and to push.
func Open(c Config) (*Room, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, inboxDir), 0o700); err != nil {
		return nil, fmt.Errorf("open the messages: %w", err)
	}
	db, err := ldb.Open(filepath.Join(c.Dir, indexDir), opt.Options{})
	if err != nil {
		return nil, fmt.Errorf("open the messages: %w", err)
	}
	r := &Room{
		cfg: c, db: db, boxes: &outboxes{dir: filepath.Join(c.Dir, outboxDir), clock: c.Clock, open: c.openFile, all: map[string]*outbox{}},
		subs: map[string]*subscription{}, receivers: map[civibus.MemberID]*receiver{},
	}
	r.news.changed = make(chan struct{})
	r.boxes.published = r.news.tell
	r.ctx, r.stop = context.WithCancel(context.Background())
	if err := r.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the messages: %w", err), r.Close())
	}
	r.work.Go(r.keepTidy)
	return r, nil
}

// load opens the subscriptions that there are.
func (r *Room) load() error {
	it := r.db.NewIterator(util.BytesPrefix([]byte("s/")), nil)
	defer it.Release()
	for it.Next() {
		var v saved
		if err := json.Unmarshal(it.Value(), &v); err != nil {
			return fmt.Errorf("subscription %s: %w", it.Key(), err)
		}
		s, err := r.openSubscription(v)
		if err != nil {
			return fmt.Errorf("subscription %s: %w", v.ID, err)
		}
		r.begin(s)
	}
	if err := it.Error(); err != nil {
		return err
	}
	// What a crash left of subscriptions that have ended.
	return eachFolder(filepath.Join(r.cfg.Dir, inboxDir), func(id string) error {
		r.mu.Lock()
		_, ok := r.subs[id]
		r.mu.Unlock()
		if !ok {
			r.removeInbox(id)
		}
		return nil
	})
}

// begin has a subscription received and pushed.
func (r *Room) begin(s *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[s.info.ID] = s
	provider := s.topic.Service.MemberID
	rec := r.receivers[provider]
	if rec == nil {
		rec = &receiver{room: r, provider: provider, kick: make(chan struct{}, 1)}
		r.receivers[provider] = rec
		r.work.Go(rec.run)
	}
	rec.wake()
	if s.info.Webhook == "" {
		close(s.gone)
		return
	}
	p := &pusher{room: r, s: s}
	r.work.Go(func() { defer close(s.gone); p.run() })
}

// Close stops everything and closes the files.
func (r *Room) Close() error {
	r.stop()
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	r.cfg.HTTP.CloseIdleConnections()
	errs := []error{r.boxes.close()}
	for _, s := range r.subs {
		errs = append(errs, s.stream.close())
	}
	return errors.Join(append(errs, r.db.Close())...)
}

// tidyEvery is how often what is too old is looked for.
const tidyEvery = time.Minute

// keepTidy removes what is no longer to be kept.
func (r *Room) keepTidy() {
	timer := time.NewTicker(tidyEvery)
	defer timer.Stop()
	for {
		r.tidy()
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *Room) tidy() {
	r.keep.Lock()
	defer r.keep.Unlock()
	before := r.cfg.Clock().Add(-r.cfg.Retention)
	report := func(what string, err error) {
		if err != nil {
			r.cfg.Logger.Error("old events not removed", "of", what, "error", err)
		}
	}
	r.boxes.each(func(topic string, o *outbox) {
		report(topic, errors.Join(o.stream.trim(before, r.cfg.MaxBytes, ^uint64(0)), o.saveSubscribers()))
	})
	for _, s := range r.all() {
		s.mu.Lock()
		cursor := s.info.Cursor
		s.mu.Unlock()
		report(s.info.ID, s.stream.trim(before, r.cfg.MaxBytes, cursor))
	}
}

func (r *Room) all() []*subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*subscription, 0, len(r.subs))
	for _, s := range r.subs {
		out = append(out, s)
	}
	return out
}

// Publish takes events of a client for a topic. When it returns without an error they
// are durable and will be delivered to whoever subscribes.
func (r *Room) Publish(ctx context.Context, client civibus.ClientID, topic registry.TopicID, events []*Event) (Published, error) {
	switch t, ok := r.cfg.View().Topic(topic); {
	case topic.Service.MemberID != r.cfg.Member || topic.Service.ClientID != client:
		return Published{}, fault(civibus.FaultNotPublisher, "topic %s belongs to %s, and %s may not publish on it", topic, topic.Service.ClientID.XRoad(), client.XRoad())
	case !ok || t.Status == civibus.Ended:
		return Published{}, fault(civibus.FaultUnknownTopic, "there is no topic %s in the registry", topic)
	case t.Status != civibus.Active:
		return Published{}, fault(civibus.FaultTopicSuspended, "topic %s is suspended: %s", topic, t.Notice)
	}
	if err := r.cfg.Admit(); err != nil {
		return Published{}, err
	}
	o, err := r.boxes.get(topic.String(), true)
	if err != nil {
		return Published{}, err
	}
	p, err := o.publish(ctx, events)
	var c conflict
	switch {
	case errors.As(err, &c):
		return p, fault(civibus.FaultEventConflict, "%v", err)
	case err != nil:
		return p, &civibus.Fault{Code: civibus.FaultEvidence, Message: "the gateway cannot keep the events", Err: err}
	}
	return p, nil
}

// Answer answers another body's SUBSCRIBE, which the policy has allowed: it stands where
// a service would.
func (r *Room) Answer(ctx context.Context, service civibus.ServiceID, path, query string, header http.Header, body io.Reader) (*http.Response, error) {
	// 1. Which topic, and of which subscriber?
	topic := registry.TopicID{Service: service, Name: strings.TrimPrefix(path, "/")}
	if _, ok := r.cfg.View().Topic(topic); !ok {
		return nil, fault(civibus.FaultUnknownTopic, "the service has no topic %.80q", topic.Name)
	}
	client := header.Get(civibus.HeaderClient)
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, fault(civibus.FaultBadCursor, "the query is malformed")
	}
	name := q.Get("name")
	if err := checkName(name); err != nil {
		return nil, err
	}
	o, err := r.boxes.get(topic.String(), true)
	if err != nil {
		return nil, err
	}
	if q.Get("end") == "1" {
		o.end(client, name)
		_, newest := o.stream.bounds()
		return batchResponse(&Batch{First: newest + 1, Oldest: newest + 1, Newest: newest, Epoch: o.epoch}), nil
	}
	if v := q.Get("epoch"); v != "" && v != strconv.FormatUint(o.epoch, 10) {
		return nil, fault(civibus.FaultBadCursor, "the provider had to begin the topic anew, or was restored from a backup, and its numbers are others than the cursor's: end the subscription, and subscribe again from the first event")
	}
	// 2. From where on?
	oldest, newest := o.stream.bounds()
	after, most := uint64(0), MaxBatch
	switch v := q.Get("after"); v {
	case FromFirst:
		after = oldest - 1
	case FromLatest:
		after = newest
	default:
		if after, err = strconv.ParseUint(v, 10, 63); err != nil {
			return nil, fault(civibus.FaultBadCursor, "after is %.40q, the rule is first, latest or a number", v)
		}
	}
	if v := q.Get("max"); v != "" {
		if most, err = strconv.Atoi(v); err != nil || most < 0 {
			return nil, fault(civibus.FaultBadCursor, "max is %.40q, the rule is a number", v)
		}
	}
	// 3. What it could not read before, and what comes now.
	b, err := o.take(client, name, after, most)
	if err != nil {
		return nil, err
	}
	if body != nil {
		var said struct {
			Refused []refusedEvent `json:"refused"`
		}
		if json.NewDecoder(io.LimitReader(body, 64<<10)).Decode(&said) == nil && len(said.Refused) > 0 {
			o.refused(client, name, len(said.Refused))
			r.cfg.Logger.WarnContext(ctx, "a subscriber cannot read events", "topic", topic.String(), "subscriber", client, "events", len(said.Refused), "first", said.Refused[0].Seq)
		}
	}
	return batchResponse(b), nil
}

func batchResponse(b *Batch) *http.Response {
	body, field := b.Encode()
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {WireType}, BatchField: {field}},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// news tells those who wait that something was published.
type news struct {
	mu      sync.Mutex
	changed chan struct{}
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// MaxWants bounds what one call asks about.
const MaxWants = 1024

// Await returns which of a peer's wants there is something for, as soon as there is, or
// none when ctx ends. A want for which no right is in force has something: the exchange
// that follows says what is wrong. It tells nothing that the exchange would not.
func (r *Room) Await(ctx context.Context, wants []Want) []int {
	for {
		changed := r.news.wait()
		var more []int
		for i, w := range wants {
			if r.hasMore(w) {
				more = append(more, i)
			}
		}
		if len(more) > 0 {
			return more
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Room) hasMore(w Want) bool {
	topic, err := registry.ParseTopicID(w.Topic)
	if err != nil || topic.Service.MemberID != r.cfg.Member {
		return false
	}
	client, err := civibus.ParseClientID(w.Client)
	if err != nil {
		return false
	}
	o, err := r.boxes.get(topic.String(), false)
	if err != nil || o == nil {
		return false
	}
	if _, newest := o.stream.bounds(); newest == w.After {
		return false
	}
	d := policy.Decide(r.cfg.View(), civibus.Question{Client: client, Service: topic.Service, Method: civibus.MethodSubscribe, Path: topic.Path()}, r.cfg.Clock())
	return d.Allowed()
}
