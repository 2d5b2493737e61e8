package registry

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// ProposalKind says what a proposal does when it passes: the number of its field
// in the message Change.
type ProposalKind uint32

// The kinds of proposals.
const (
	KindAdmitMember ProposalKind = iota + 1
	KindSuspendMember
	KindReinstateMember
	KindRemoveMember
	KindSetVotes
	KindSetValidators
	KindSetParams
	KindSetGroup
	KindSetGroupMember
	KindPlanUpgrade
	KindCancelUpgrade
	KindRevokeKey // the emergency revocation, with the shorter rule
	KindRecoverMember
	// From protocol 2 on.
	KindEnactRule
	KindSetRuleStatus
)

// lastKindOf is the last kind of proposals that a protocol knows.
func lastKindOf(protocol uint32) ProposalKind {
	if protocol < 2 {
		return KindRecoverMember
	}
	return KindSetRuleStatus
}

func proposalKinds() []string {
	return []string{
		"", "admit_member", "suspend_member", "reinstate_member", "remove_member", "set_votes", "set_validators", "set_params",
		"set_group", "set_group_member", "plan_upgrade", "cancel_upgrade", "revoke_key", "recover_member",
		"enact_rule", "set_rule_status",
	}
}

// ProposalKinds returns all kinds, by number.
func ProposalKinds() []ProposalKind {
	var out []ProposalKind
	for k := range len(proposalKinds()) - 1 {
		out = append(out, ProposalKind(k+1))
	}
	return out
}

// String returns the kind's name, which is that of its field in Change.
func (k ProposalKind) String() string {
	if k < 1 || int(k) >= len(proposalKinds()) {
		return fmt.Sprintf("kind_%d", uint32(k))
	}
	return proposalKinds()[k]
}

// ParseProposalKind reads a kind's name.
func ParseProposalKind(s string) (ProposalKind, error) {
	if i := slices.Index(proposalKinds(), s); i > 0 {
		return ProposalKind(i), nil
	}
	return 0, fmt.Errorf("proposal kind %q: the rule is one of %v", s, proposalKinds()[1:])
}

// KindOf returns the kind of a change, 0 if it is none.
func KindOf(c *registrypb.Change) ProposalKind {
	if c == nil || c.Change == nil {
		return 0
	}
	m := c.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	return ProposalKind(fd.Number())
}

// ProposalStatus is where a proposal stands.
type ProposalStatus int

// The statuses of proposals. All but Open are final.
const (
	ProposalOpen      ProposalStatus = iota + 1
	ProposalExecuted                 // it passed, and the change was made
	ProposalRejected                 // enough votes were cast, not enough of them yes
	ProposalExpired                  // not enough votes were cast in time
	ProposalWithdrawn                // by its proposer
	ProposalFailed                   // it passed, and the change could no longer be made
)

// String returns the lower-case name.
func (s ProposalStatus) String() string {
	names := [...]string{"unspecified", "open", "executed", "rejected", "expired", "withdrawn", "failed"}
	if s < 1 || int(s) >= len(names) {
		return names[0]
	}
	return names[s]
}

// Proposal is a change that was put to the vote.
type Proposal struct {
	ID         uint64 // 1, 2, ... in the order of their opening
	Proposer   civibus.MemberID
	Change     *registrypb.Change // shared: callers do not change it
	Kind       ProposalKind
	Reference  string
	Rule       Rule // in force when it was opened
	OpenHeight uint64
	Opened     time.Time
	Deadline   time.Time
	Status     ProposalStatus
	// What follows is zero while it is open.
	ClosedHeight uint64
	Tally        Tally // when it was decided; zero if it was withdrawn
	Failure      Code  // why it could not be executed, if it failed
}

// Tally is the outcome of a vote, in votes.
type Tally struct {
	Yes, No uint64
	All     uint64 // of all members that could vote
}

// Vote is how a member voted on a proposal.
type Vote struct {
	Proposal uint64
	Member   civibus.MemberID
	Ballots  []Ballot // in order; the last one counts
}

// Ballot is one casting of a vote.
type Ballot struct {
	Height uint64
	Yes    bool
}

// Yes reports how the vote counts.
func (v *Vote) Yes() bool { return len(v.Ballots) > 0 && v.Ballots[len(v.Ballots)-1].Yes }

type (
	proposalRecord struct{ *Proposal }
	voteRecord     struct{ *Vote }
)

// proposalKey is the canonical form of a proposal's id, whose order is that of
// the numbers.
func proposalKey(id uint64) string { return fmt.Sprintf("%020d", id) }

func voteKey(proposal uint64, member civibus.MemberID) string {
	return pair(proposalKey(proposal), member.String())
}

func (r proposalRecord) stateKey() string           { return proposalPrefix + proposalKey(r.ID) }
func (r proposalRecord) put(s *state)               { s.putProposal(r.Proposal) }
func (proposalRecord) eventField() protowire.Number { return 23 }

func (r voteRecord) stateKey() string {
	return votePrefix + voteKey(r.Proposal, r.Member)
}
func (r voteRecord) put(s *state) {
	set(s, s.ballots, voteKey(r.Proposal, r.Member), r.Vote, r.Member, 1)
}
func (voteRecord) eventField() protowire.Number { return 24 }

func (r proposalRecord) encode() []byte {
	change, err := encodeCanonical(r.Change)
	if err != nil {
		change = nil // it was decoded from a canonical encoding
	}
	w := writer{}.num(1, r.ID).str(2, r.Proposer.String()).message(3, change).str(4, r.Reference).message(5, r.Rule.encode()).
		num(6, r.OpenHeight).num(7, uint64(r.Opened.UnixNano())).num(8, uint64(r.Deadline.UnixNano())).num(9, uint64(r.Status)).num(10, r.ClosedHeight)
	if r.Tally != (Tally{}) {
		w = w.message(11, writer{}.num(1, r.Tally.Yes).num(2, r.Tally.No).num(3, r.Tally.All))
	}
	return w.num(12, uint64(r.Failure))
}

func (r voteRecord) encode() []byte {
	w := writer{}.num(1, r.Proposal).str(2, r.Member.String())
	for _, b := range r.Ballots {
		w = w.message(3, writer{}.num(1, b.Height).flag(2, b.Yes))
	}
	return w
}

func decodeProposal(value []byte) (record, error) {
	var m registrypb.Proposal
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	if m.Change == nil || m.Rule == nil {
		return nil, errors.New("it has no change or no rule")
	}
	out := &Proposal{
		ID: m.Id, Change: m.Change, Kind: KindOf(m.Change), Reference: m.Reference, Rule: ruleOf(m.Rule), OpenHeight: m.OpenHeight,
		Opened: time.Unix(0, m.OpenUnixNano).UTC(), Deadline: time.Unix(0, m.DeadlineUnixNano).UTC(),
		Status: ProposalStatus(m.Status), ClosedHeight: m.ClosedHeight,
		Tally:   Tally{m.GetTally().GetYes(), m.GetTally().GetNo(), m.GetTally().GetAll()},
		Failure: Code(m.Failure),
	}
	var err error
	out.Proposer, err = civibus.ParseMemberID(m.Proposer)
	return proposalRecord{out}, err
}

func decodeVote(value []byte) (record, error) {
	var m registrypb.Vote
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	out := &Vote{Proposal: m.Proposal}
	for _, b := range m.Ballots {
		out.Ballots = append(out.Ballots, Ballot{b.Height, b.Yes})
	}
	var err error
	out.Member, err = civibus.ParseMemberID(m.Member)
	return voteRecord{out}, err
}

// putProposal keeps the indices of the open ones.
func (s *state) putProposal(p *Proposal) {
	key := proposalKey(p.ID)
	set(s, s.proposals, key, p, p.Proposer, p.units())
	by, deadline := pair(p.Proposer.String(), key), pair(deadlineKey(p.Deadline), key)
	if p.Status == ProposalOpen {
		s.open.Set(key, struct{}{})
		s.openOf.Set(by, struct{}{})
		s.deadlines.Set(deadline, p.ID)
		return
	}
	s.open.Delete(key)
	s.openOf.Delete(by)
	s.deadlines.Delete(deadline)
}

// deadlineKey orders deadlines, which are after 1970.
func deadlineKey(t time.Time) string { return fmt.Sprintf("%020d", t.UnixNano()) }

// openBy counts a member's open proposals.
func (s *state) openBy(proposer civibus.MemberID) (n uint32) {
	prefix := pair(proposer.String(), "")
	s.openOf.Ascend(prefix, func(key string, _ struct{}) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		n++
		return true
	})
	return n
}

// proposal looks up a proposal, nil if there is none.
func (s *state) proposal(id uint64) *Proposal {
	p, _ := s.proposals.Get(proposalKey(id))
	return p
}

// nextProposal is the id of the next proposal: they are never removed.
func (s *state) nextProposal() uint64 {
	_, last, ok := s.proposals.Max()
	if !ok {
		return 1
	}
	return last.ID + 1
}

// Proposal looks up a proposal, decided or not.
func (v *View) Proposal(id uint64) (Proposal, bool) { return get(v.state.proposals, proposalKey(id)) }

// Proposals lists proposals by id, the decided ones included, like Members. The
// key of a page is the id in 20 decimal digits.
func (v *View) Proposals(after string, limit int) (items []Proposal, next string) {
	return page(v.state.proposals, "", after, limit)
}

// OpenProposals lists the proposals that are not yet decided, like Proposals.
func (v *View) OpenProposals(after string, limit int) (items []Proposal, next string) {
	each(v.state.open, "", after, limit, func(key string, _ struct{}) {
		if p, ok := v.state.proposals.Get(key); ok {
			items = append(items, *p)
		}
	}, &next)
	return items, next
}

// VotesOn lists the votes cast on a proposal by member, like Members. Votes of
// members that can no longer vote are among them.
func (v *View) VotesOn(proposal uint64, after string, limit int) (items []Vote, next string) {
	return page(v.state.ballots, pair(proposalKey(proposal), ""), after, limit)
}

// VoteOf looks up how a member voted on a proposal.
func (v *View) VoteOf(proposal uint64, member civibus.MemberID) (Vote, bool) {
	return get(v.state.ballots, voteKey(proposal, member))
}

// TallyOf counts the votes on a proposal: as they stand now while it is open, as
// they stood when it was decided afterwards.
func (v *View) TallyOf(proposal uint64) (Tally, bool) {
	p := v.state.proposal(proposal)
	if p == nil {
		return Tally{}, false
	}
	if p.Status != ProposalOpen {
		return p.Tally, true
	}
	return v.state.tally(p.ID, v.state.allVotes()), true
}

// ParseProposalKey reads the key of a page of proposals, or a plain number.
func ParseProposalKey(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 10, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("proposal %q: the rule is a number from 1 on", s)
	}
	return id, nil
}

// tally counts the votes on a proposal with the weights of now, of which all is
// the sum.
func (s *state) tally(id, all uint64) Tally {
	t := Tally{All: all}
	s.eachBallot(id, func(v *Vote) {
		if weight := s.weight(v.Member); v.Yes() {
			t.Yes += weight
		} else {
			t.No += weight
		}
	})
	return t
}

// outcome is what a tally means under a rule: open, executed (it passes),
// rejected or expired. It is decided as soon as the votes that are not yet cast
// cannot change it, and at the latest at the deadline.
func (t Tally) outcome(r Rule, over bool) ProposalStatus {
	cast, missing := t.Yes+t.No, t.All-t.Yes-t.No
	quorate := cast > 0 && cast*1000 >= t.All*uint64(r.Quorum)
	accepted := func(yes, of uint64) bool { return of > 0 && yes*1000 >= of*uint64(r.Threshold) }
	switch {
	case quorate && accepted(t.Yes, t.All): // even if all others say no
		return ProposalExecuted
	case t.All > 0 && !accepted(t.Yes+missing, t.All): // even if all others say yes
		return ProposalRejected
	case !over:
		return ProposalOpen
	case !quorate:
		return ProposalExpired
	case accepted(t.Yes, cast):
		return ProposalExecuted
	}
	return ProposalRejected
}

// eachBallot calls fn with every vote on a proposal, by member.
func (s *state) eachBallot(id uint64, fn func(v *Vote)) {
	prefix := pair(proposalKey(id), "")
	s.ballots.Ascend(prefix, func(key string, v *Vote) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		fn(v)
		return true
	})
}
