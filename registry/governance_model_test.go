package registry_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// The model is an electorate as a sceptic would write it down: who is in, with how
// many votes, who said what on which proposal, and a decision found by trying out
// everything that could still happen.
type model struct {
	votes     map[string]uint64
	suspended map[string]bool
	gone      map[string]bool
	proposals []*modelProposal
}

type modelProposal struct {
	by       string
	change   modelChange
	rule     registry.Rule
	deadline time.Time
	ballots  map[string][]bool
	status   registry.ProposalStatus
	tally    registry.Tally
}

// modelChange sets a member's votes, or suspends or reinstates it.
type modelChange struct {
	kind   registry.ProposalKind
	target string
	votes  uint64
}

func (m *model) weight(code string) uint64 {
	if m.suspended[code] || m.gone[code] {
		return 0
	}
	return m.votes[code]
}

func (m *model) all() (sum uint64) {
	for code := range m.votes {
		sum += m.weight(code)
	}
	return sum
}

// possible reports whether a change could be made now.
func (m *model) possible(c modelChange) bool {
	others := m.all() - m.weight(c.target)
	switch {
	case m.gone[c.target]:
		return false
	case c.kind == registry.KindSuspendMember:
		return !m.suspended[c.target] && others > 0
	case c.kind == registry.KindReinstateMember:
		return m.suspended[c.target]
	}
	left := others
	if !m.suspended[c.target] {
		left += c.votes
	}
	return m.votes[c.target] != c.votes && (left > 0 || m.all() == 0)
}

func (m *model) make(c modelChange) {
	switch c.kind {
	case registry.KindSuspendMember, registry.KindReinstateMember:
		m.suspended[c.target] = c.kind == registry.KindSuspendMember
	default:
		m.votes[c.target] = c.votes
	}
}

func (m *model) count(p *modelProposal) (t registry.Tally) {
	for code, ballots := range p.ballots {
		if ballots[len(ballots)-1] {
			t.Yes += m.weight(code)
		} else {
			t.No += m.weight(code)
		}
	}
	t.All = m.all()
	return t
}

// passes is the rule itself, when voting is over.
func passes(r registry.Rule, yes, no, all uint64) bool {
	return yes+no > 0 && (yes+no)*1000 >= all*uint64(r.Quorum) && yes*1000 >= (yes+no)*uint64(r.Threshold)
}

// decided tries what those who have not voted could still do.
func (m *model) decided(p *modelProposal, t registry.Tally, now time.Time) registry.ProposalStatus {
	if !now.Before(p.deadline) {
		switch {
		case passes(p.rule, t.Yes, t.No, t.All):
			return registry.ProposalExecuted
		case t.Yes+t.No == 0 || (t.Yes+t.No)*1000 < t.All*uint64(p.rule.Quorum):
			if t.All > 0 && !passes(p.rule, t.All-t.No, t.No, t.All) {
				return registry.ProposalRejected // it could not have passed with everybody's help
			}
			return registry.ProposalExpired
		}
		return registry.ProposalRejected
	}
	some, every, missing := false, true, t.All-t.Yes-t.No
	for yes := range missing + 1 {
		for no := range missing - yes + 1 {
			if passes(p.rule, t.Yes+yes, t.No+no, t.All) {
				some = true
			} else {
				every = false
			}
		}
	}
	switch {
	case t.All == 0 || some && !every:
		return registry.ProposalOpen
	case every:
		return registry.ProposalExecuted
	}
	return registry.ProposalRejected
}

// end closes what is decided, the oldest first, until nothing more is.
func (m *model) end(now time.Time) {
	for again := true; again; {
		again = false
		for _, p := range m.proposals {
			if p.status != registry.ProposalOpen {
				continue
			}
			t := m.count(p)
			status := m.decided(p, t, now)
			if status == registry.ProposalOpen {
				continue
			}
			p.status, p.tally, again = status, t, true
			if status == registry.ProposalExecuted && !m.possible(p.change) {
				p.status = registry.ProposalFailed
			} else if status == registry.ProposalExecuted {
				m.make(p.change)
			}
		}
	}
}

// do applies a transaction, and tells whether it should be accepted.
func (m *model) do(code string, body any, change modelChange, rule registry.Rule, now time.Time) bool {
	if m.suspended[code] || m.gone[code] {
		return false
	}
	switch b := body.(type) {
	case *registrypb.Propose:
		if m.weight(code) == 0 || !m.possible(change) {
			return false
		}
		p := &modelProposal{
			by: code, change: change, rule: rule, deadline: now.Add(time.Duration(rule.PeriodSeconds) * time.Second), ballots: map[string][]bool{}, status: registry.ProposalOpen,
		}
		if !b.NoVote {
			p.ballots[code] = []bool{true}
		}
		m.proposals = append(m.proposals, p)
		return true
	case *registrypb.Leave:
		m.gone[code] = true
		return true
	case *registrypb.CastVote:
		p := m.open(b.Proposal, now)
		if p == nil || m.weight(code) == 0 {
			return false
		}
		mine := p.ballots[code]
		if len(mine) > 0 && mine[len(mine)-1] == b.Yes || len(mine) == 16 {
			return false
		}
		p.ballots[code] = append(mine, b.Yes)
		return true
	case *registrypb.WithdrawProposal:
		p := m.open(b.Proposal, now)
		if p == nil || p.by != code {
			return false
		}
		p.status = registry.ProposalWithdrawn
		return true
	}
	panic("unknown")
}

func (m *model) open(id uint64, now time.Time) *modelProposal {
	if id > uint64(len(m.proposals)) {
		return nil
	}
	p := m.proposals[id-1]
	if p.status != registry.ProposalOpen || !now.Before(p.deadline) {
		return nil
	}
	return p
}

// modelGenesis has five voters and a sixth member that validates.
func modelGenesis(t *rapid.T) (*registry.Genesis, *model) {
	g := testGenesis()
	g.Registrars, g.MaxOpenProposals = nil, 256
	m := &model{map[string]uint64{}, map[string]bool{}, map[string]bool{}, nil}
	g.Members, g.Validators = nil, nil
	for _, code := range []string{"A", "B", "C", "D", "E"} {
		n := rapid.Uint32Range(1, 4).Draw(t, "votes")
		m.votes[code] = uint64(n)
		g.Members = append(g.Members, registry.GenesisMember{
			ID: member(code).String(), Name: code, Votes: votes(n), Keys: []registry.GenesisKey{genesisKey(edKey(code+"/admin"), civibus.AdminKey)},
		})
	}
	k := genesisKey(edKey("Z/validator"), civibus.ValidatorKey)
	g.Members = append(g.Members, registry.GenesisMember{ID: "TEST/GOV/Z", Name: "Z", Votes: votes(0), Keys: []registry.GenesisKey{k}})
	g.Validators = []registry.GenesisValidator{{Member: "TEST/GOV/Z", Key: k.SPKI, Power: 1}}
	for _, kind := range []registry.ProposalKind{registry.KindSetVotes, registry.KindSuspendMember, registry.KindReinstateMember} {
		g.Rules = append(g.Rules, registry.GenesisRule{
			Kind: kind.String(), Quorum: rapid.Uint32Range(1, 1000).Draw(t, "quorum"), Threshold: rapid.Uint32Range(501, 1000).Draw(t, "threshold"),
			PeriodSeconds: rapid.Uint32Range(1, 6).Draw(t, "period"),
		})
	}
	return g, m
}

// TestElectorateModel gives random blocks to a registry and to the model, and
// compares what is accepted, every proposal with its tally, and every weight.
func TestElectorateModel(t *testing.T) {
	reached := map[registry.ProposalStatus]int{}
	early := 0
	rapid.Check(t, func(rt *rapid.T) {
		g, m := modelGenesis(rt)
		w := newWorldOf(t, g)
		code := rapid.SampledFrom([]string{"A", "B", "C", "D", "E"})
		for range rapid.IntRange(1, 25).Draw(rt, "blocks") {
			now := w.now.Add(time.Second)
			var block [][]byte
			var want []bool
			for range rapid.IntRange(0, 5).Draw(rt, "transactions") {
				by := code.Draw(rt, "by")
				body, change := drawModelBody(rt, m, code)
				want = append(want, m.do(by, body, change, w.view().Params().Rules[max(change.kind, 1)-1], now))
				block = append(block, w.tx(edKey(by+"/admin"), body))
			}
			got := w.block(block...)
			for i, r := range got.Results {
				if (r.Code == registry.OK) != want[i] {
					rt.Fatalf("height %d, transaction %d: %s (%s), the model says %v", w.m.Height(), i, r.Code, r.Reason, want[i])
				}
			}
			m.end(now)
			m.compare(rt, w)
		}
		for _, p := range m.proposals {
			reached[p.status]++
			if p.status == registry.ProposalExecuted && p.tally.Yes+p.tally.No < p.tally.All {
				early++
			}
		}
	})
	for _, s := range []registry.ProposalStatus{registry.ProposalOpen, registry.ProposalExecuted, registry.ProposalRejected, registry.ProposalExpired, registry.ProposalWithdrawn, registry.ProposalFailed} {
		if reached[s] == 0 {
			t.Errorf("no proposal was ever %s: the test does not test (%v)", s, reached)
		}
	}
	if early == 0 {
		t.Error("none was decided before all had voted")
	}
}

func drawModelBody(t *rapid.T, m *model, code *rapid.Generator[string]) (body any, change modelChange) {
	id := uint64(1)
	if n := len(m.proposals); n > 0 {
		id = uint64(max(1, n-rapid.IntRange(0, 3).Draw(t, "back")))
	}
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0, 1, 2:
		change.target = code.Draw(t, "target")
		change.kind = rapid.SampledFrom([]registry.ProposalKind{registry.KindSetVotes, registry.KindSetVotes, registry.KindSuspendMember, registry.KindReinstateMember}).Draw(t, "change")
		p := &registrypb.Propose{NoVote: rapid.Bool().Draw(t, "no vote")}
		target := member(change.target).String()
		switch change.kind {
		case registry.KindSuspendMember:
			p.Change = changeOf(&registrypb.SuspendMember{Id: target})
		case registry.KindReinstateMember:
			p.Change = changeOf(&registrypb.ReinstateMember{Id: target})
		default:
			change.votes = rapid.Uint64Range(0, 4).Draw(t, "votes")
			p.Change = changeOf(&registrypb.SetVotes{Member: target, Votes: uint32(change.votes)})
		}
		return p, change
	case 3:
		return &registrypb.WithdrawProposal{Proposal: id}, change
	case 4:
		if rapid.IntRange(0, 9).Draw(t, "leave") == 0 {
			return &registrypb.Leave{}, change
		}
	}
	return vote(id, rapid.IntRange(0, 2).Draw(t, "yes") > 0), change
}

// compare compares everything that can be seen of the electorate, and what must
// always hold.
func (m *model) compare(t *rapid.T, w *world) {
	v := w.view()
	for _, code := range slices.Sorted(maps.Keys(m.votes)) {
		if got := v.Votes(member(code)); uint64(got) != m.weight(code) {
			t.Fatalf("height %d: %s has %d votes, the model says %d", v.Height(), code, got, m.weight(code))
		}
	}
	items, _ := v.Proposals("", 1000)
	if len(items) != len(m.proposals) {
		t.Fatalf("%d proposals, the model has %d", len(items), len(m.proposals))
	}
	for i, p := range items {
		o := m.proposals[i]
		if p.Status != o.status || p.Tally != o.tally || !p.Deadline.Equal(o.deadline) {
			t.Fatalf("height %d: proposal %d is %s %+v, the model says %s %+v", v.Height(), p.ID, p.Status, p.Tally, o.status, o.tally)
		}
		if p.Status == registry.ProposalExecuted && !passes(p.Rule, p.Tally.Yes, p.Tally.No, p.Tally.All) {
			t.Fatalf("proposal %d was executed without quorum and threshold: %+v under %+v", p.ID, p.Tally, p.Rule)
		}
		ballots, _ := v.VotesOn(p.ID, "", 1000)
		if len(ballots) != len(o.ballots) {
			t.Fatalf("proposal %d has %d votes, the model says %d", p.ID, len(ballots), len(o.ballots))
		}
		for _, b := range ballots {
			said := o.ballots[b.Member.Code]
			if !slices.EqualFunc(b.Ballots, said, func(a registry.Ballot, yes bool) bool { return a.Yes == yes }) ||
				!slices.IsSortedFunc(b.Ballots, func(a, b registry.Ballot) int { return cmp.Compare(a.Height, b.Height) }) {
				t.Fatalf("proposal %d: %s said %+v, the model says %v", p.ID, b.Member.Code, b.Ballots, said)
			}
		}
	}
	if len(v.Validators()) == 0 {
		t.Fatal("no validator is left")
	}
}
