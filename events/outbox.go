package events

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/wal"
)

// The limits of an outbox.
const (
	// Remembered is how many events of a topic are remembered by source and id, so that
	// one that is published twice is one event.
	Remembered     = 1 << 17
	maxSubscribers = 4096 // of a topic, whose cursors are remembered
	groupEvents    = 2048 // of one write
	groupSize      = 4 << 20
)

// Published says what became of a publication.
type Published struct {
	Accepted   int    `json:"accepted"`
	Duplicates int    `json:"duplicates"` // published before; they are not delivered again
	Last       uint64 `json:"last"`       // number of the last of them in the topic
}

// conflict is an event with the source and id of another.
type conflict struct{ place int }

func (c conflict) Error() string {
	return fmt.Sprintf("event %d has the source and id of another event with other content", c.place)
}

// outbox keeps the events of one topic until they are old, whoever took them.
type outbox struct {
	stream *stream
	epoch  uint64
	clock  civibus.Clock

	published func()
	offers    chan *offer
	done      chan struct{}

	// Owned by the writer.
	recent map[Key]seen
	order  []Key // of recent, as a ring
	next   int

	file        string // of the subscribers
	mu          sync.Mutex
	subscribers map[string]*Subscriber
}

type seen struct{ seq, hash uint64 }

// offer is a publication on its way.
type offer struct {
	events []*Event
	out    Published
	err    error
	done   chan struct{}
}

// Subscriber is what a topic's owner knows of who takes its events.
type Subscriber struct {
	Client  string    `json:"client"`
	Name    string    `json:"name"`
	Acked   uint64    `json:"acked"` // all up to it arrived
	Waiting uint64    `json:"waiting"`
	Seen    time.Time `json:"seen"`
	Refused uint64    `json:"refused"` // events that it said it cannot read
}

func openOutbox(dir string, clock civibus.Clock, open wal.OpenFunc, published func()) (*outbox, error) {
	epoch, err := readEpoch(dir)
	if err != nil {
		return nil, err
	}
	s, err := openStream(dir, open)
	if err != nil {
		return nil, err
	}
	o := &outbox{
		stream: s, epoch: epoch, clock: clock, published: published, offers: make(chan *offer), done: make(chan struct{}),
		recent: map[Key]seen{}, subscribers: map[string]*Subscriber{}, file: filepath.Join(dir, subscribersFile),
	}
	o.loadSubscribers()
	// What was published last is remembered across restarts.
	oldest, newest := s.bounds()
	after := max(oldest, newest-min(newest, Remembered)+1) - 1
	for {
		entries, err := s.read(after, 4096, 16<<20)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			ev, err := ParseEvent(e.Event)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("event %d in %s: %w", e.Seq, dir, err), s.close())
			}
			o.remember(ev, e.Seq)
			after = e.Seq
		}
	}
	go o.run()
	return o, nil
}

// readEpoch returns the number that distinguishes this outbox from another of the same
// topic, and makes it first if the outbox is new. Whoever has a cursor into an outbox that
// was lost must not mistake another event for the next.
func readEpoch(dir string) (uint64, error) {
	name := filepath.Join(dir, epochFile)
	text, err := os.ReadFile(name)
	if err == nil {
		return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 63)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if old, err := wal.List(dir); err == nil && len(old) > 0 {
		return 0, fmt.Errorf("%s is missing, and there are events beside it; restore it from a copy of the folder", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	return newEpoch(name) // the log's folder is synced when its first segment begins
}

// newEpoch writes a file with an epoch that no topic had before.
func newEpoch(name string) (uint64, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	epoch := binary.BigEndian.Uint64(b[:]) >> 1
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Fprintln(f, epoch)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return epoch, os.Rename(name+".tmp", name)
}

func (o *outbox) remember(e *Event, seq uint64) {
	if len(o.order) < Remembered {
		o.order = append(o.order, e.ID)
	} else {
		delete(o.recent, o.order[o.next])
		o.order[o.next] = e.ID
		o.next = (o.next + 1) % Remembered
	}
	o.recent[e.ID] = seen{seq, e.Hash}
}

// publish returns when the events are durable.
func (o *outbox) publish(ctx context.Context, events []*Event) (Published, error) {
	x := &offer{events: events, done: make(chan struct{})}
	select {
	case o.offers <- x:
	case <-o.done:
		return Published{}, wal.ErrClosed
	case <-ctx.Done():
		return Published{}, ctx.Err()
	}
	<-x.done // it does not take longer than the disk, and the outcome is never in doubt
	return x.out, x.err
}

// run writes what is offered, all that waits at a time.
func (o *outbox) run() {
	for {
		var group []*offer
		select {
		case x := <-o.offers:
			group = append(group, x)
		case <-o.done:
			return
		}
		for events, size := group[0].count(); events < groupEvents && size < groupSize; {
			select {
			case x := <-o.offers:
				group = append(group, x)
				n, b := x.count()
				events, size = events+n, size+b
				continue
			default:
			}
			break
		}
		o.write(group)
	}
}

func (x *offer) count() (events, bytes int) {
	for _, e := range x.events {
		bytes += len(e.JSON)
	}
	return len(x.events), bytes
}

// write makes a group durable. A publication is taken whole or not at all.
func (o *outbox) write(group []*offer) {
	_, last := o.stream.bounds()
	first, fresh := last+1, []*Event(nil)
	var payload [][]byte
	// 1. What is new of each.
	for _, x := range group {
		begin := len(fresh)
		placed := map[Key]seen{}
		for i, e := range x.events {
			was, ok := o.recent[e.ID]
			if !ok {
				was, ok = placed[e.ID]
			}
			if ok && was.hash != e.Hash {
				x.err = conflict{i}
				break
			}
			if ok {
				x.out.Duplicates++
				x.out.Last = max(x.out.Last, was.seq)
				continue
			}
			seq := first + uint64(len(fresh))
			placed[e.ID] = seen{seq, e.Hash}
			fresh = append(fresh, e)
			x.out.Accepted, x.out.Last = x.out.Accepted+1, seq
		}
		if x.err != nil {
			fresh, x.out = fresh[:begin], Published{}
			continue
		}
		for i, e := range fresh[begin:] {
			o.remember(e, first+uint64(begin+i))
			payload = append(payload, e.JSON)
		}
	}
	// 2. On the disk. What is not is forgotten, and may be published again.
	if len(fresh) > 0 {
		if _, err := o.stream.append(first, nil, o.clock(), payload); err != nil {
			for _, e := range fresh {
				delete(o.recent, e.ID)
			}
			for _, x := range group {
				x.err, x.out = err, Published{}
			}
		}
	}
	if len(fresh) > 0 {
		o.published()
	}
	for _, x := range group {
		close(x.done)
	}
}

// take returns the batch after a cursor for a subscriber, who has all up to it.
func (o *outbox) take(client, name string, after uint64, most int) (*Batch, error) {
	oldest, newest := o.stream.bounds()
	switch {
	case after > newest:
		return nil, fault(civibus.FaultBadCursor, "the cursor is %d, and the newest event of the topic is %d: the provider's gateway may have been restored from a backup; continue after %d with another subscription", after, newest, newest)
	case after+1 < oldest:
		return nil, fault(civibus.FaultEventsGone, "the events from %d to %d are no longer kept; continue after %d", after+1, oldest-1, oldest-1)
	}
	if err := o.acknowledge(client, name, after, newest); err != nil {
		return nil, err
	}
	b := &Batch{First: after + 1, Oldest: oldest, Newest: newest, Epoch: o.epoch}
	_, _ = rand.Read(b.Seed[:]) // never fails
	entries, err := o.stream.read(after, min(most, MaxBatch), BatchBytes)
	if err != nil {
		var gone *GoneError
		if errors.As(err, &gone) {
			return nil, fault(civibus.FaultEventsGone, "%v; continue after %d", err, gone.Oldest-1)
		}
		return nil, err
	}
	for i, e := range entries {
		if e.Seq != b.First+uint64(i) {
			return nil, fmt.Errorf("event %d follows event %d", e.Seq, b.First+uint64(i)-1)
		}
		b.Events = append(b.Events, e.Event)
	}
	return b, nil
}

// acknowledge remembers how far a subscriber is. It is what the operator is shown, and
// nothing waits for it.
func (o *outbox) acknowledge(client, name string, after, newest uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := client + "|" + name
	s, ok := o.subscribers[key]
	if !ok {
		if len(o.subscribers) >= maxSubscribers {
			return fault(civibus.FaultTooManySubscriptions, "the topic has %d subscriptions, the rule is at most %d", len(o.subscribers), maxSubscribers)
		}
		s = &Subscriber{Client: client, Name: name}
		o.subscribers[key] = s
	}
	s.Acked, s.Seen = max(s.Acked, after), o.clock()
	return nil
}

// refused counts what a subscriber could not read.
func (o *outbox) refused(client, name string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.subscribers[client+"|"+name]; s != nil {
		s.Refused += uint64(n)
	}
}

func (o *outbox) end(client, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.subscribers, client+"|"+name)
}

// list returns copies of the subscribers.
func (o *outbox) list() []Subscriber {
	_, newest := o.stream.bounds()
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Subscriber, 0, len(o.subscribers))
	for _, s := range o.subscribers {
		c := *s
		c.Waiting = newest - min(newest, c.Acked)
		out = append(out, c)
	}
	return out
}

// loadSubscribers reads who took events before a restart. It is what the operator is
// shown; without it the subscribers are known again when they ask.
func (o *outbox) loadSubscribers() {
	var list []Subscriber
	text, err := os.ReadFile(o.file)
	if err != nil || json.Unmarshal(text, &list) != nil {
		return
	}
	for _, s := range list[:min(len(list), maxSubscribers)] {
		o.subscribers[s.Client+"|"+s.Name] = &s
	}
}

// saveSubscribers writes what loadSubscribers reads.
func (o *outbox) saveSubscribers() error {
	text, err := json.Marshal(o.list())
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.file+".tmp", text, 0o600); err != nil {
		return err
	}
	return os.Rename(o.file+".tmp", o.file)
}

func (o *outbox) close() error {
	close(o.done)
	return errors.Join(o.saveSubscribers(), o.stream.close())
}

// outboxes are the outboxes of a body, opened when they are needed.
type outboxes struct {
	dir   string
	clock civibus.Clock
	open  wal.OpenFunc

	published func() // called after something was

	mu   sync.Mutex
	all  map[string]*outbox
	shut bool
}

// get returns the outbox of a topic, made if make says so; nil if there is none.
func (b *outboxes) get(topic string, make bool) (*outbox, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.all[topic]; o != nil {
		return o, nil
	}
	if b.shut {
		return nil, wal.ErrClosed
	}
	dir := filepath.Join(b.dir, folder(topic))
	if _, err := os.Stat(dir); !make && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	o, err := openOutbox(dir, b.clock, b.open, b.published)
	if err != nil {
		return nil, err
	}
	b.all[topic] = o
	return o, nil
}

// folder is the name of a topic's folder. Identifiers have no other byte that a file
// system minds.
func folder(topic string) string {
	r := strings.NewReplacer("/", "|", "%", "%25", "|", "%7C", "*", "%2A", ":", "%3A")
	return r.Replace(topic)
}

// topicIn is the topic that has a folder.
func topicIn(folder string) string {
	r := strings.NewReplacer("|", "/", "%25", "%", "%7C", "|", "%2A", "*", "%3A", ":")
	return r.Replace(folder)
}

func (b *outboxes) each(fn func(topic string, o *outbox)) {
	b.mu.Lock()
	all := make(map[string]*outbox, len(b.all))
	for k, o := range b.all {
		all[k] = o
	}
	b.mu.Unlock()
	for k, o := range all {
		fn(k, o)
	}
}

func (b *outboxes) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shut = true
	var errs []error
	for _, o := range b.all {
		errs = append(errs, o.close())
	}
	return errors.Join(errs...)
}

func fault(code civibus.FaultCode, format string, args ...any) error {
	return civibus.Faultf(0, code, format, args...)
}
