package registry

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// maxTopicName is how long the name of a topic may be.
const maxTopicName = 64

// TopicID names a topic: the service that it belongs to, and its name.
type TopicID struct {
	Service civibus.ServiceID
	Name    string
}

// String returns INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE/TOPIC.
func (id TopicID) String() string { return id.Service.String() + "/" + id.Name }

// Path is the path below the service that a right covers for the method SUBSCRIBE.
func (id TopicID) Path() string { return "/" + id.Name }

// ParseTopicID reads what String writes, and nothing else.
func ParseTopicID(s string) (TopicID, error) {
	service, name, ok := cutLast(s)
	if !ok {
		return TopicID{}, fmt.Errorf("topic %.200q, the rule is INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE/TOPIC", s)
	}
	id, err := civibus.ParseServiceID(service)
	if err != nil {
		return TopicID{}, fmt.Errorf("topic %.200q: %w", s, err)
	}
	t := TopicID{id, name}
	if err := checkTopicName(name); err != nil {
		return TopicID{}, fmt.Errorf("topic %.200q: %w", s, err)
	}
	if id.Version != "" {
		return TopicID{}, fmt.Errorf("topic %.200q: the service has a version, the rule is one without, since no call names a version", s)
	}
	if t.String() != s {
		return TopicID{}, fmt.Errorf("topic %.200q: it is not in canonical form", s)
	}
	return t, nil
}

// checkTopicName holds a name to what is a segment of a path without any encoding.
func checkTopicName(s string) error {
	ok := s != "" && len(s) <= maxTopicName && s[0] != '.'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if !ok {
		return fmt.Errorf("the name %.80q, the rule is 1 to %d of a-z, 0-9, - _ and ., not first", s, maxTopicName)
	}
	return nil
}

// Topic is a stream of events that a service publishes. Who may subscribe is said by
// the rights on the service: one that covers the method SUBSCRIBE and the topic's path.
type Topic struct {
	ID      TopicID
	Title   string
	Ordered bool // events of one key are delivered in their order
	Status  civibus.Status
	Notice  string
	Periods []civibus.Period
}

type topicRecord struct{ *Topic }

func (r topicRecord) stateKey() string { return topicPrefix + r.ID.String() }
func (r topicRecord) put(s *state) {
	set(s, s.topics, r.ID.String(), r.Topic, r.ID.Service.MemberID, 1)
}
func (topicRecord) eventField() protowire.Number { return 44 }

func (r topicRecord) encode() []byte {
	return writer{}.str(1, r.ID.String()).str(2, r.Title).flag(3, r.Ordered).num(4, uint64(r.Status)).str(5, r.Notice).periods(6, r.Periods)
}

func decodeTopic(value []byte) (record, error) {
	var m registrypb.Topic
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := ParseTopicID(m.Id)
	return topicRecord{&Topic{id, m.Title, m.Ordered, civibus.Status(m.Status), m.Notice, periodsOf(m.Periods)}}, err
}

// setTopic registers a topic of a service, or changes its title, notice or status.
func (x *txn) setTopic(m *registrypb.SetTopic) ([]record, *refusal) {
	// 1. The fields.
	id, err := ParseTopicID(m.Topic)
	if err != nil {
		return nil, refuse(InvalidField, "topic: %v", err)
	}
	if r := checkText("title", m.Title, 1, maxName); r != nil {
		return nil, r
	}
	status := civibus.Status(m.Status)
	min, max := 0, maxNotice
	switch status {
	case civibus.Active:
		max = 0 // a notice says why nothing is published
	case civibus.Suspended:
		min = 1
	}
	if r := checkText("notice", m.Notice, min, max); r != nil {
		return nil, r
	}
	// 2. Who may do it, and to what.
	if r := x.mustAdminister(id.Service.MemberID, catalogueScope); r != nil {
		return nil, r
	}
	old, ok := x.topics.Get(id.String())
	if !ok {
		return x.newTopic(id, m)
	}
	// 3. What changes. Subscribers rely on the order, which therefore never does.
	if old.Ordered != m.Ordered {
		return nil, refuse(InvalidField, "ordered: topic %s was registered with %t, which never changes; register another topic", id, old.Ordered)
	}
	next := *old
	next.Title, next.Status, next.Notice = m.Title, status, m.Notice
	if old.Status == status && status != civibus.Ended && (old.Title != next.Title || old.Notice != next.Notice) {
		return []record{topicRecord{&next}}, nil
	}
	var r *refusal
	if next.Periods, r = x.changeStatus("topic "+id.String(), old.Status, status, old.Periods); r != nil {
		return nil, r
	}
	return []record{topicRecord{&next}}, nil
}

// newTopic registers a topic of a service that there is.
func (x *txn) newTopic(id TopicID, m *registrypb.SetTopic) ([]record, *refusal) {
	if r := x.mustLiveSubsystem(id.Service.ClientID); r != nil {
		return nil, r
	}
	switch s, ok := x.services.Get(id.Service.String()); {
	case !ok:
		return nil, refuse(NotFound, "service %s is not registered", id.Service)
	case s.Status == civibus.Ended:
		return nil, refuse(Ended, "service %s has ended, which is final", id.Service)
	case s.Type == civibus.WSDL:
		return nil, refuse(InvalidField, "topic: service %s is a SOAP service, the rule is one that is called by REST", id.Service)
	case civibus.Status(m.Status) != civibus.Active:
		return nil, refuse(InvalidField, "status: %d, the rule is active for a topic that is new", m.Status)
	}
	return []record{topicRecord{&Topic{id, m.Title, m.Ordered, civibus.Active, "", begin(nil, x.height)}}}, nil
}

// Topic looks up a topic.
func (v *View) Topic(id TopicID) (Topic, bool) { return get(v.state.topics, id.String()) }

// Topics lists the topics by identifier, like Members.
func (v *View) Topics(after string, limit int) (items []Topic, next string) {
	return page(v.state.topics, "", after, limit)
}

// TopicsOf lists the topics of a service by identifier.
func (v *View) TopicsOf(service civibus.ServiceID) []Topic {
	items, _ := page(v.state.topics, service.String()+"/", "", maxTopicsOf)
	return slices.DeleteFunc(items, func(t Topic) bool { return t.ID.Service != service })
}

// maxTopicsOf bounds what TopicsOf returns.
const maxTopicsOf = 1000
