package registry

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// maxVotes bounds one member's weight, so that sums times a thousand fit.
const maxVotes = 1_000_000

// memberVotes is the state's record of a member's weight.
type memberVotes struct {
	member civibus.MemberID
	votes  uint32
}

type votesRecord struct{ *memberVotes }

func (r votesRecord) stateKey() string           { return votesPrefix + r.member.String() }
func (r votesRecord) put(s *state)               { s.votes.Set(r.member.String(), r.memberVotes) }
func (votesRecord) eventField() protowire.Number { return 22 }

func (r votesRecord) encode() []byte {
	return writer{}.str(1, r.member.String()).num(2, uint64(r.votes))
}

func decodeVotes(value []byte) (record, error) {
	var m registrypb.Votes
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := civibus.ParseMemberID(m.Member)
	return votesRecord{&memberVotes{id, m.Votes}}, err
}

// weight is how much a member's vote counts now: nothing unless it is active and
// at the top level.
func (s *state) weight(id civibus.MemberID) uint64 {
	r, ok := s.votes.Get(id.String())
	if !ok {
		return 0
	}
	return weightOf(s.member(id), r.votes)
}

func weightOf(m *civibus.Member, votes uint32) uint64 {
	if m == nil || m.Status != civibus.Active || !m.Parent.IsZero() {
		return 0
	}
	return uint64(votes)
}

// allVotes is the sum of all weights.
func (s *state) allVotes() uint64 {
	var sum uint64
	scan(s.votes, func(_ string, r *memberVotes) { sum += weightOf(s.member(r.member), r.votes) })
	return sum
}

// Votes returns a member's weight in votes on proposals: 0 also while it is not
// active or is under another member.
func (v *View) Votes(id civibus.MemberID) uint32 { return uint32(v.state.weight(id)) }

// AllVotes returns the sum of all members' weights.
func (v *View) AllVotes() uint64 { return v.state.allVotes() }

// Voter is a member with its weight.
type Voter struct {
	Member civibus.MemberID
	Votes  uint32 // 0 while it is not active or is under another member
}

// Voters lists the members that have ever had votes, like Members.
func (v *View) Voters(after string, limit int) (items []Voter, next string) {
	each(v.state.votes, "", after, limit, func(_ string, r *memberVotes) {
		items = append(items, Voter{r.member, uint32(v.state.weight(r.member))})
	}, &next)
	return items, next
}
