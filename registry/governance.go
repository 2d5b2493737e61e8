package registry

import (
	"maps"
	"slices"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	maxReference = 1024 // bytes of a proposal's reference
	maxBallots   = 16   // castings of one member's vote on one proposal
)

// mustVote checks that the author's vote counts.
func (x *txn) mustVote() *refusal {
	if x.weight(x.author.ID) == 0 {
		return refuse(NotAuthorised, "member %s has no votes; only top-level members with votes propose and vote", x.author.ID)
	}
	return nil
}

// propose puts a change to the vote. It is refused if it could not be made now:
// what passes later can still fail, but nobody votes on what makes no sense.
func (x *txn) propose(m *registrypb.Propose) ([]record, *refusal) {
	// 1. The fields.
	kind := KindOf(m.Change)
	if kind == 0 {
		return nil, refuse(InvalidField, "change is missing")
	}
	if r := checkText("reference", m.Reference, 0, maxReference); r != nil {
		return nil, r
	}
	if x.params.Protocol == 0 {
		return x.proposeFirstUpgrade(m.Change)
	}
	// 2. Who may do it.
	if r := x.mustVote(); r != nil {
		return nil, r
	}
	if open := x.openBy(x.author.ID); open >= x.params.MaxOpenProposals {
		return nil, refuse(LimitReached, "member %s has %d open proposals, the rule is at most %d", x.author.ID, open, x.params.MaxOpenProposals)
	}
	// 3. Whether the change could be made.
	if _, r := x.attempt(m.Change); r != nil {
		return nil, r
	}
	// 4. The proposal and its proposer's vote.
	rule := x.params.rule(kind)
	p := &Proposal{
		ID: x.nextProposal(), Proposer: x.author.ID, Change: m.Change, Kind: kind, Reference: m.Reference, Rule: rule,
		OpenHeight: x.height, Opened: x.now, Deadline: x.now.Add(time.Duration(rule.PeriodSeconds) * time.Second), Status: ProposalOpen,
	}
	out := []record{proposalRecord{p}}
	if !m.NoVote {
		out = append(out, voteRecord{&Vote{p.ID, x.author.ID, []Ballot{{x.height, true}}}})
	}
	return out, nil
}

// castVote casts a member's vote on an open proposal, or changes it.
func (x *txn) castVote(m *registrypb.CastVote) ([]record, *refusal) {
	p, r := x.openProposal(m.Proposal)
	if r != nil {
		return nil, r
	}
	if r := x.mustVote(); r != nil {
		return nil, r
	}
	next := &Vote{Proposal: p.ID, Member: x.author.ID}
	if old, ok := x.ballots.Get(voteKey(p.ID, x.author.ID)); ok {
		switch {
		case old.Yes() == m.Yes:
			return nil, refuse(NoChange, "member %s has voted so on proposal %d already", x.author.ID, p.ID)
		case len(old.Ballots) >= maxBallots:
			return nil, refuse(LimitReached, "member %s has voted %d times on proposal %d, the rule is at most %d", x.author.ID, len(old.Ballots), p.ID, maxBallots)
		}
		next.Ballots = slices.Clone(old.Ballots)
	}
	next.Ballots = append(next.Ballots, Ballot{x.height, m.Yes})
	return []record{voteRecord{next}}, nil
}

// withdrawProposal takes an open proposal back.
func (x *txn) withdrawProposal(m *registrypb.WithdrawProposal) ([]record, *refusal) {
	p, r := x.openProposal(m.Proposal)
	if r != nil {
		return nil, r
	}
	if p.Proposer != x.author.ID {
		return nil, refuse(NotAuthorised, "proposal %d is of %s; only its proposer withdraws it", p.ID, p.Proposer)
	}
	next := *p
	next.Status, next.ClosedHeight = ProposalWithdrawn, x.height
	return []record{proposalRecord{&next}}, nil
}

// openProposal looks up a proposal on which votes can still be cast.
func (x *txn) openProposal(id uint64) (*Proposal, *refusal) {
	p := x.proposal(id)
	switch {
	case p == nil:
		return nil, refuse(NotFound, "proposal %d is not registered", id)
	case p.Status != ProposalOpen:
		return nil, refuse(Ended, "proposal %d is %s", id, p.Status)
	case !x.now.Before(p.Deadline):
		return nil, refuse(Ended, "the deadline of proposal %d has passed", id)
	}
	return p, nil
}

// attempt returns the records that a change sets, if it can be made and the
// instance goes on to work after it.
func (x *txn) attempt(c *registrypb.Change) ([]record, *refusal) {
	voted := *x
	voted.voted, voted.author = true, nil
	records, r := voted.make(c)
	if r != nil {
		return nil, r
	}
	return records, voted.keeps(records)
}

// make runs the handler for a change.
func (x *txn) make(c *registrypb.Change) ([]record, *refusal) {
	switch c := c.Change.(type) {
	case *registrypb.Change_AdmitMember:
		return x.admitMember(c.AdmitMember)
	case *registrypb.Change_SuspendMember:
		return x.voteStatus(c.SuspendMember.Id, civibus.Suspended)
	case *registrypb.Change_ReinstateMember:
		return x.voteStatus(c.ReinstateMember.Id, civibus.Active)
	case *registrypb.Change_RemoveMember:
		return x.voteStatus(c.RemoveMember.Id, civibus.Ended)
	case *registrypb.Change_SetVotes:
		return x.setVotes(c.SetVotes)
	case *registrypb.Change_SetValidators:
		return x.setValidators(c.SetValidators.Validators)
	case *registrypb.Change_SetParams:
		return x.setParams(c.SetParams)
	case *registrypb.Change_SetGroup:
		return x.setGroup(c.SetGroup)
	case *registrypb.Change_SetGroupMember:
		return x.setGroupMember(c.SetGroupMember)
	case *registrypb.Change_PlanUpgrade:
		return x.planUpgrade(c.PlanUpgrade)
	case *registrypb.Change_CancelUpgrade:
		return x.cancelUpgrade(c.CancelUpgrade)
	case *registrypb.Change_RevokeKey:
		return x.revokeKeyNow(c.RevokeKey)
	case *registrypb.Change_RecoverMember:
		return x.recoverMember(c.RecoverMember)
	case *registrypb.Change_EnactRule:
		return x.setRule(c.EnactRule)
	case *registrypb.Change_SetRuleStatus:
		return x.setRuleStatus(c.SetRuleStatus)
	}
	return nil, refuse(InvalidField, "the change is of an unknown kind")
}

// decide closes the proposals that are decided, in the order of their ids, again
// until none is: those that were voted on, those whose deadline has come, and all
// of them once the electorate has changed. Whatever passes is executed at once, so
// that the next one is decided by the electorate that it leaves.
func (b *blockRun) decide() error {
	due, everything := b.dueProposals(), b.electorate
	changed, counted, all := false, false, uint64(0)
	for last := uint64(0); ; {
		p := b.nextProposal(last, due, everything)
		switch {
		case p == nil && !changed:
			return nil
		case p == nil:
			last, changed = 0, false
			continue
		case !counted:
			counted, all = true, b.state.allVotes()
		}
		last, b.electorate = p.ID, false
		if err := b.close(p, all); err != nil {
			return err
		}
		if b.electorate {
			everything, changed, counted = true, true, false
		}
	}
}

// dueProposals returns the ids, in order, of those with new votes and of those
// whose deadline has come.
func (b *blockRun) dueProposals() []uint64 {
	due := slices.Collect(maps.Keys(b.votedOn))
	end := deadlineKey(b.now.Add(1))
	b.state.deadlines.Scan(func(key string, id uint64) bool {
		if key >= end {
			return false
		}
		due = append(due, id)
		return true
	})
	slices.Sort(due)
	return slices.Compact(due)
}

// nextProposal returns the open proposal with the next id after last, of all or of
// those that are due; nil if there is none.
func (b *blockRun) nextProposal(last uint64, due []uint64, everything bool) (next *Proposal) {
	if everything {
		b.state.open.Ascend(proposalKey(last+1), func(key string, _ struct{}) bool {
			next, _ = b.state.proposals.Get(key)
			return false
		})
		return next
	}
	i, _ := slices.BinarySearch(due, last+1)
	for _, id := range due[i:] {
		if p := b.state.proposal(id); p != nil && p.Status == ProposalOpen {
			return p
		}
	}
	return nil
}

// close closes a proposal if it is decided, and executes it if it passed. all is
// the sum of all weights.
func (b *blockRun) close(p *Proposal, all uint64) error {
	t := b.state.tally(p.ID, all)
	next := *p
	next.Status = t.outcome(p.Rule, !b.now.Before(p.Deadline))
	if next.Status == ProposalOpen {
		return nil
	}
	next.Tally, next.ClosedHeight = t, b.height
	var records []record
	if next.Status == ProposalExecuted {
		x := b.machine.txn(b.state, b.height, b.now, b.notarised)
		var r *refusal
		records, r = x.attempt(p.Change)
		if x.err != nil {
			return x.err
		}
		if r != nil {
			next.Status, next.Failure, records = ProposalFailed, r.code, nil
		}
	}
	b.put(proposalRecord{&next}, cause{proposal: p.ID})
	for _, r := range records {
		b.put(r, cause{proposal: p.ID})
	}
	return nil
}
