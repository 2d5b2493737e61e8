package events

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/registry"
)

// Where a subscription begins.
const (
	FromFirst  = "first"  // the oldest event that the provider keeps
	FromLatest = "latest" // what is published from now on
)

// Subscription is one client's wish for the events of a topic, and how far it is.
type Subscription struct {
	ID      string    `json:"id"`
	Client  string    `json:"client"`
	Topic   string    `json:"topic"`
	Name    string    `json:"name"` // tells several of one client on one topic apart
	From    string    `json:"from"` // first, latest or a number
	Webhook string    `json:"webhook,omitempty"`
	Secret  string    `json:"secret,omitempty"` // signs what is pushed; told once
	Created time.Time `json:"created"`

	Cursor   uint64 `json:"cursor"`   // all up to it is done with by the client's system
	Received uint64 `json:"received"` // all up to it is here
	Newest   uint64 `json:"newest"`   // the provider's newest event, when it last said
	Dead     int    `json:"dead"`     // dead letters
	Dropped  uint64 `json:"dropped,omitempty"`
	State    string `json:"state"`            // active, waiting or failing
	Reason   string `json:"reason,omitempty"` // the code of the last refusal
	Message  string `json:"message,omitempty"`
}

// DeadLetter is an event that could not be delivered, or a gap where events are missing.
type DeadLetter struct {
	Seq      uint64          `json:"seq"`
	Until    uint64          `json:"until,omitempty"` // of a gap: its last event
	Reason   string          `json:"reason"`          // a code
	Message  string          `json:"message"`
	Attempts int             `json:"attempts"`
	Time     time.Time       `json:"time"`
	Exchange string          `json:"exchange,omitempty"`
	Event    json.RawMessage `json:"event,omitempty"`
	Raw      []byte          `json:"raw,omitempty"` // where it is no JSON
}

// The reasons of dead letters.
const (
	DeadRefused     = "refused"        // the system answered that it does not take it
	DeadUnavailable = "unavailable"    // the system failed with it again and again, and took others
	DeadRejected    = "rejected"       // the system that fetches events said so
	DeadInvalid     = "invalid"        // it is no CloudEvent, although its provider sealed it
	DeadGone        = "events_gone"    // the provider no longer has them
	maxDead         = 10_000           // of a subscription; beyond it the oldest go
	maxOwn          = 1024             // subscriptions of a body
	maxName         = 64               // bytes of a subscription's name
	metaSize        = seedSize + 8 + 4 // and the exchange's id
)

// subscription is an open subscription: its inbox and what goes on with it.
type subscription struct {
	stream *stream
	db     *ldb.DB
	clock  civibus.Clock
	topic  registry.TopicID
	client civibus.ClientID

	mu    sync.Mutex
	info  Subscription
	base  uint64 // what is before the first event here was never wanted, or is missing
	begun bool   // the provider said where it begins
	epoch uint64 // and of which numbering
	dead  map[uint64]bool
	moved bool // somebody moved the cursor, and who pushes has not seen it

	removed bool

	kick chan struct{} // of whoever delivers; it never blocks
	stop chan struct{}
	gone chan struct{} // closed when nobody delivers any more

	// Of whoever receives.
	due      bool
	retryAt  time.Time
	backoff  time.Duration
	unread   []refusedEvent
	gateway  string // which of the provider's gateways has the topic; empty: any
	pulledAt time.Time
}

type refusedEvent struct {
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason"`
}

// saved is what is on the disk of a subscription beside its cursor.
type saved struct {
	Subscription
	Base  uint64 `json:"base"`
	Begun bool   `json:"begun"`
	Epoch uint64 `json:"epoch"`
}

func subscriptionKey(id string) []byte { return []byte("s/" + id) }
func cursorKey(id string) []byte       { return []byte("c/" + id) }
func deadKey(id string, seq uint64) []byte {
	return fmt.Appendf(nil, "d/%s/%020d", id, seq)
}

func sync1() *opt.WriteOptions { return &opt.WriteOptions{Sync: true} }

// newID returns 16 hex digits.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newSecret returns a secret of Standard Webhooks.
func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(b[:])
}

// openSubscription opens what saved says.
func (r *Room) openSubscription(v saved) (*subscription, error) {
	topic, err := parseTopic(v.Topic)
	if err != nil {
		return nil, err
	}
	client, err := civibus.ParseClientID(v.Client)
	if err != nil {
		return nil, err
	}
	st, err := openStream(filepath.Join(r.cfg.Dir, inboxDir, v.ID), r.cfg.openFile)
	if err != nil {
		return nil, err
	}
	s := &subscription{
		stream: st, db: r.db, clock: r.cfg.Clock, topic: topic, client: client,
		info: v.Subscription, base: v.Base, begun: v.Begun, epoch: v.Epoch, dead: map[uint64]bool{},
		kick: make(chan struct{}, 1), stop: make(chan struct{}), gone: make(chan struct{}), due: true,
	}
	if b, err := r.db.Get(cursorKey(v.ID), nil); err == nil && len(b) == 8 {
		s.info.Cursor = binary.BigEndian.Uint64(b)
	}
	it := r.db.NewIterator(util.BytesPrefix([]byte("d/"+v.ID+"/")), nil)
	defer it.Release()
	for it.Next() {
		var seq uint64
		if _, err := fmt.Sscanf(string(it.Key()[len("d/"+v.ID+"/"):]), "%d", &seq); err == nil {
			s.dead[seq] = true
		}
	}
	if err := it.Error(); err != nil {
		return nil, errors.Join(err, st.close())
	}
	s.info.State = "active"
	return s, nil
}

var errRemoved = errors.New("the subscription has ended")

// save makes the subscription durable.
func (s *subscription) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return errRemoved
	}
	b, err := json.Marshal(saved{s.info, s.base, s.begun, s.epoch})
	if err != nil {
		return err
	}
	return s.db.Put(subscriptionKey(s.info.ID), b, sync1())
}

// received is the event up to which all is here.
func (s *subscription) received() uint64 {
	_, newest := s.stream.bounds()
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(newest, s.base)
}

// snapshot is what is told of the subscription.
func (s *subscription) snapshot() Subscription {
	received := s.received()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.info
	v.Received, v.Dead, v.Secret = received, len(s.dead), ""
	v.Newest = max(v.Newest, received)
	return v
}

// say notes how it is with the subscription.
func (s *subscription) say(state, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info.State, s.info.Reason, s.info.Message = state, reason, message
}

// advance moves the cursor on.
func (s *subscription) advance(to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to <= s.info.Cursor {
		return nil
	}
	return s.setCursor(to)
}

// setCursor moves the cursor anywhere. s.mu is held.
func (s *subscription) setCursor(to uint64) error {
	if s.removed {
		return errRemoved
	}
	if err := s.db.Put(cursorKey(s.info.ID), binary.BigEndian.AppendUint64(nil, to), sync1()); err != nil {
		return err
	}
	s.info.Cursor = to
	return nil
}

// bury puts an event among the dead letters.
func (s *subscription) bury(d DeadLetter) error {
	d.Time = s.clock().UTC()
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := s.db.Put(deadKey(s.info.ID, d.Seq), b, sync1()); err != nil {
		return err
	}
	s.mu.Lock()
	s.dead[d.Seq] = true
	var oldest uint64
	if len(s.dead) > maxDead {
		for seq := range s.dead {
			if oldest == 0 || seq < oldest {
				oldest = seq
			}
		}
		delete(s.dead, oldest)
		s.info.Dropped++
	}
	s.mu.Unlock()
	if oldest != 0 {
		return s.db.Delete(deadKey(s.info.ID, oldest), nil)
	}
	return nil
}

// isDead reports whether an event is a dead letter, which is not delivered.
func (s *subscription) isDead(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead[seq]
}

// deadLetters lists them after one, at most limit.
func (s *subscription) deadLetters(after uint64, limit int) ([]DeadLetter, error) {
	out := []DeadLetter{}
	it := s.db.NewIterator(&util.Range{Start: deadKey(s.info.ID, after+1), Limit: []byte("d/" + s.info.ID + "0")}, nil)
	defer it.Release()
	for len(out) < limit && it.Next() {
		var d DeadLetter
		if err := json.Unmarshal(it.Value(), &d); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, it.Error()
}

// revive takes a dead letter back: it is delivered again, or dropped.
func (s *subscription) revive(seq uint64) (*DeadLetter, error) {
	b, err := s.db.Get(deadKey(s.info.ID, seq), nil)
	if err != nil {
		return nil, fault(civibus.FaultUnknownSubscription, "subscription %s has no dead letter %d", s.info.ID, seq)
	}
	d := &DeadLetter{}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, err
	}
	if err := s.db.Delete(deadKey(s.info.ID, seq), sync1()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.dead, seq)
	s.mu.Unlock()
	return d, nil
}

// wake tells whoever delivers that there is something to do.
func (s *subscription) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// backlog is how many bytes wait here for the client's system.
func (s *subscription) backlog() int64 {
	s.mu.Lock()
	cursor := s.info.Cursor
	s.mu.Unlock()
	s.stream.mu.Lock()
	defer s.stream.mu.Unlock()
	n := int64(0)
	for i := len(s.stream.blocks) - 1; i >= 0 && s.stream.blocks[i].last() > cursor; i-- {
		n += int64(s.stream.blocks[i].length)
	}
	return n
}

// blockMeta is what the inbox keeps of a batch beside its events: what proves them.
func blockMeta(b *Batch, exchange string) []byte {
	m := append([]byte(nil), b.Seed[:]...)
	m = binary.BigEndian.AppendUint64(m, b.First)
	m = binary.BigEndian.AppendUint32(m, uint32(len(b.Events)))
	return append(m, exchange...)
}

// exchangeOf is the exchange that brought an event.
func exchangeOf(e Entry) string {
	if len(e.Meta) < metaSize {
		return ""
	}
	return string(e.Meta[metaSize:])
}

// prove makes the proof of an event that is here.
func (s *subscription) prove(seq uint64) (Proof, error) {
	entries, err := s.stream.block(seq)
	var gone *GoneError
	switch {
	case errors.As(err, &gone) || seq == 0:
		return Proof{}, fault(civibus.FaultEventsGone, "event %d is not here", seq)
	case err != nil:
		return Proof{}, err
	case len(entries[0].Meta) < metaSize:
		return Proof{}, errors.New("the block has no batch")
	}
	b := &Batch{First: entries[0].Seq, Seed: [seedSize]byte(entries[0].Meta[:seedSize])}
	for _, e := range entries {
		b.Events = append(b.Events, e.Event)
	}
	p := b.Prove(int(seq - b.First))
	p.Exchange, p.Topic = exchangeOf(entries[0]), s.topic.String()
	return p, nil
}

func parseTopic(s string) (registry.TopicID, error) {
	id, err := registry.ParseTopicID(s)
	if err != nil {
		return id, fault(civibus.FaultUnknownTopic, "%v", err)
	}
	return id, nil
}

// checkName holds the name of a subscription to what a query takes without encoding.
func checkName(s string) error {
	if s == "" || len(s) > maxName || strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || slices.Contains([]rune("-_."), c))
	}) {
		return fault(civibus.FaultInvalidEvent, "name %.80q: the rule is 1 to %d of A-Z a-z 0-9 - _ .", s, maxName)
	}
	return nil
}
