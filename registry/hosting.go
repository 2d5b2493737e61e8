package registry

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// Hosting says whose gateways carry a member's exchanges, with its history.
type Hosting struct {
	Member  civibus.MemberID
	Asked   civibus.MemberID // who is asked and has not yet accepted; zero: nobody
	Periods []HostPeriod
}

// HostPeriod is a stretch of heights in which a host carried a member.
type HostPeriod struct {
	Host civibus.MemberID
	From uint64 // first height
	To   uint64 // first height no longer; 0: open
}

// Host returns who carries the member now, the zero value if nobody does.
func (h *Hosting) Host() civibus.MemberID {
	if n := len(h.Periods); n > 0 && h.Periods[n-1].To == 0 {
		return h.Periods[n-1].Host
	}
	return civibus.MemberID{}
}

type hostingRecord struct{ *Hosting }

func (r hostingRecord) stateKey() string           { return hostingPrefix + r.Member.String() }
func (r hostingRecord) put(s *state)               { set(s, s.hostings, r.Member.String(), r.Hosting, r.Member, 1) }
func (hostingRecord) eventField() protowire.Number { return 26 }

func (r hostingRecord) encode() []byte {
	w := writer{}.str(1, r.Member.String())
	if !r.Asked.IsZero() {
		w = w.str(2, r.Asked.String())
	}
	for _, p := range r.Periods {
		w = w.message(3, writer{}.str(1, p.Host.String()).num(2, p.From).num(3, p.To))
	}
	return w
}

func decodeHosting(value []byte) (record, error) {
	var m registrypb.Hosting
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	out := &Hosting{}
	var err error
	if out.Member, err = civibus.ParseMemberID(m.Member); err != nil {
		return nil, err
	}
	if m.Asked != "" {
		if out.Asked, err = civibus.ParseMemberID(m.Asked); err != nil {
			return nil, err
		}
	}
	for _, p := range m.Periods {
		host, err := civibus.ParseMemberID(p.Host)
		if err != nil {
			return nil, err
		}
		out.Periods = append(out.Periods, HostPeriod{host, p.FromHeight, p.ToHeight})
	}
	return hostingRecord{out}, nil
}

// setHost asks a member to carry another's exchanges, or ends that. Who may speak
// for both gives both consents at once.
func (x *txn) setHost(m *registrypb.SetHost) ([]record, *refusal) {
	// 1. The fields.
	member, r := x.memberID("member", m.Member)
	if r != nil {
		return nil, r
	}
	if m.Host == "" {
		return x.endHosting(member)
	}
	host, r := x.memberID("host", m.Host)
	if r != nil {
		return nil, r
	}
	if host == member {
		return nil, refuse(InvalidField, "host: %s is the member itself; an empty host ends hosting", host)
	}
	// 2. Who may do it.
	if r := x.mustAdminister(member, directoryScope); r != nil {
		return nil, r
	}
	for _, id := range []civibus.MemberID{member, host} {
		if r := x.mustLive(id); r != nil {
			return nil, r
		}
	}
	// 3. The request, or what it comes to.
	next := x.hosting(member)
	if next.Asked == host || next.Host() == host && next.Asked.IsZero() {
		return nil, refuse(NoChange, "member %s is hosted by %s already, or has asked for it", member, host)
	}
	if x.administers(host, directoryScope) {
		return x.acceptedBy(next, host)
	}
	next.Asked = host
	if next.Host() == host { // it stays where it is after all
		next.Asked = civibus.MemberID{}
	}
	return []record{hostingRecord{next}}, nil
}

// acceptHost is the host's consent.
func (x *txn) acceptHost(m *registrypb.AcceptHost) ([]record, *refusal) {
	member, r := x.memberID("member", m.Member)
	if r != nil {
		return nil, r
	}
	host, r := x.memberID("host", m.Host)
	if r != nil {
		return nil, r
	}
	if r := x.mustAdminister(host, directoryScope); r != nil {
		return nil, r
	}
	next := x.hosting(member)
	if next.Asked != host {
		return nil, refuse(NotFound, "member %s has not asked %s to host it", member, host)
	}
	for _, id := range []civibus.MemberID{member, host} {
		if r := x.mustLive(id); r != nil {
			return nil, r
		}
	}
	return x.acceptedBy(next, host)
}

// hosting returns a copy of a member's record, or an empty one.
func (x *txn) hosting(member civibus.MemberID) *Hosting {
	old, ok := x.hostings.Get(member.String())
	if !ok {
		return &Hosting{Member: member}
	}
	next := *old
	next.Periods = slices.Clone(old.Periods)
	return &next
}

// acceptedBy is the record with the host's consent, in force in this block.
func (x *txn) acceptedBy(h *Hosting, host civibus.MemberID) ([]record, *refusal) {
	h.Asked = civibus.MemberID{}
	if h.Host() == host {
		return []record{hostingRecord{h}}, nil
	}
	h.endPeriod(x.height)
	if len(h.Periods) >= maxPeriods {
		return nil, refuse(LimitReached, "member %s was hosted %d times, the rule is at most %d", h.Member, len(h.Periods), maxPeriods)
	}
	h.Periods = append(h.Periods, HostPeriod{Host: host, From: x.height})
	return []record{hostingRecord{h}}, nil
}

// endHosting ends a member's hosting, and what it asked for: the member's side
// both, a host's side what concerns that host.
func (x *txn) endHosting(member civibus.MemberID) ([]record, *refusal) {
	next := x.hosting(member)
	host, asked := next.Host(), next.Asked
	if host.IsZero() && asked.IsZero() {
		return nil, refuse(NoChange, "member %s is not hosted and has not asked for it", member)
	}
	own := x.administers(member, directoryScope)
	ends := !host.IsZero() && (own || x.administers(host, directoryScope))
	declines := !asked.IsZero() && (own || x.administers(asked, directoryScope))
	if !ends && !declines {
		return nil, refuse(NotAuthorised, "member %s speaks neither for %s nor for its host", x.author.ID, member)
	}
	if ends {
		next.endPeriod(x.height)
	}
	if declines {
		next.Asked = civibus.MemberID{}
	}
	return []record{hostingRecord{next}}, nil
}

// endPeriod ends the open period. One that began at that very height never was.
func (h *Hosting) endPeriod(height uint64) {
	n := len(h.Periods)
	switch {
	case h.Host().IsZero():
	case h.Periods[n-1].From == height:
		h.Periods = h.Periods[:n-1]
	default:
		h.Periods[n-1].To = height
	}
}

// Hosting looks up who hosts a member, hosted it, or is asked to.
func (v *View) Hosting(member civibus.MemberID) (Hosting, bool) {
	return get(v.state.hostings, member.String())
}

// Hostings lists the members that are or were hosted, by member, like Members.
func (v *View) Hostings(after string, limit int) (items []Hosting, next string) {
	return page(v.state.hostings, "", after, limit)
}

// Carries reports whether exchanges of member may come and go over a transport
// key of another member: its own, or that of the active member that hosts it.
// What is exchanged is sealed by the member's own keys in either case.
func (v *View) Carries(transport, member civibus.MemberID) bool {
	if transport == member {
		return true
	}
	var room [keyRoom]byte
	h, ok := v.state.hostings.Get(string(member.Append(room[:0])))
	if !ok || h.Host() != transport {
		return false
	}
	m := v.state.member(transport)
	return m != nil && m.Status == civibus.Active
}

// Carrier returns the member whose gateways others call to reach a member: the
// one that hosts it, active or not, otherwise itself.
func (v *View) Carrier(member civibus.MemberID) civibus.MemberID {
	var room [keyRoom]byte
	if h, ok := v.state.hostings.Get(string(member.Append(room[:0]))); ok {
		if host := h.Host(); !host.IsZero() {
			return host
		}
	}
	return member
}
