package registry

import (
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
func (r hostingRecord) put(s *state)               { s.hostings.Set(r.Member.String(), r.Hosting) }
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
