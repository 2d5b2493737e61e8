package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/civibus/civibus/registry"
)

// Rule says when a kind of proposal passes.
type Rule struct {
	Kind          string `json:"kind"`
	Quorum        uint32 `json:"quorum"`    // votes that must be cast, per mille of all votes
	Threshold     uint32 `json:"threshold"` // votes cast that must be yes, per mille
	PeriodSeconds uint32 `json:"period_seconds"`
}

// Voter is a member that has or had votes.
type Voter struct {
	Member string `json:"member"`
	Votes  uint32 `json:"votes"` // 0 while it may not vote
}

// Governance is who votes and by which rules.
type Governance struct {
	Protocol         uint32  `json:"protocol"` // 0: there is no governance
	Rules            []Rule  `json:"rules"`
	MaxOpenProposals uint32  `json:"max_open_proposals"`
	Votes            uint64  `json:"votes"` // of all voters
	Voters           []Voter `json:"voters"`
	Height           uint64  `json:"height"`
}

// Tally is the outcome of a vote, in votes.
type Tally struct {
	Yes uint64 `json:"yes"`
	No  uint64 `json:"no"`
	All uint64 `json:"all"` // of all members that could vote
}

// Ballot is one casting of a vote.
type Ballot struct {
	Height uint64 `json:"height"`
	Yes    bool   `json:"yes"`
}

// Vote is how a member voted, with every change of mind; the last ballot counts.
type Vote struct {
	Member  string   `json:"member"`
	Ballots []Ballot `json:"ballots"`
}

// Proposal is a change that was put to the vote.
type Proposal struct {
	ID           uint64          `json:"id"`
	Kind         string          `json:"kind"`
	Proposer     string          `json:"proposer"`
	Change       json.RawMessage `json:"change"` // the JSON form of the registry's Change
	Reference    string          `json:"reference,omitempty"`
	Rule         Rule            `json:"rule"` // in force when it was opened
	Status       string          `json:"status"`
	Failure      string          `json:"failure,omitempty"` // result code, if it passed and could not be executed
	OpenHeight   uint64          `json:"open_height"`
	Opened       time.Time       `json:"opened"`
	Deadline     time.Time       `json:"deadline"`
	ClosedHeight uint64          `json:"closed_height,omitempty"`
	Tally        Tally           `json:"tally"`           // as it stands while it is open
	Votes        []Vote          `json:"votes,omitempty"` // of one proposal only, not in lists
}

// Proposals lists proposals, the decided ones too.
func (c *Client) Proposals(ctx context.Context, o ListOptions) (Page[Proposal], error) {
	return get[Page[Proposal]](ctx, c, "/v1/proposals"+o.query())
}

// OpenProposals lists the proposals that are not yet decided.
func (c *Client) OpenProposals(ctx context.Context, o ListOptions) (Page[Proposal], error) {
	return get[Page[Proposal]](ctx, c, "/v1/proposals/open"+o.query())
}

// Proposal returns one with its votes.
func (c *Client) Proposal(ctx context.Context, id uint64) (Proposal, error) {
	return get[Proposal](ctx, c, "/v1/proposals/"+strconv.FormatUint(id, 10))
}

// Governance returns who votes and by which rules.
func (c *Client) Governance(ctx context.Context) (Governance, error) {
	return get[Governance](ctx, c, "/v1/governance")
}

func ruleOf(r registry.Rule) Rule {
	return Rule{r.Kind.String(), r.Quorum, r.Threshold, r.PeriodSeconds}
}

func proposalOf(v *registry.View, p registry.Proposal) Proposal {
	out := Proposal{
		ID: p.ID, Kind: p.Kind.String(), Proposer: p.Proposer.String(), Reference: p.Reference, Rule: ruleOf(p.Rule), Status: p.Status.String(),
		OpenHeight: p.OpenHeight, Opened: p.Opened.UTC(), Deadline: p.Deadline.UTC(), ClosedHeight: p.ClosedHeight,
	}
	out.Change, _ = protojson.MarshalOptions{UseProtoNames: true}.Marshal(p.Change) // it was decoded, so it encodes
	if p.Status == registry.ProposalFailed {
		out.Failure = p.Failure.String()
	}
	if t, ok := v.TallyOf(p.ID); ok {
		out.Tally = Tally(t)
	}
	return out
}

func (s *Server) proposals(r *http.Request) (any, error) {
	v := s.backend.View()
	return list(r, v.Height(), v.Proposals, func(p registry.Proposal) Proposal { return proposalOf(v, p) }, nil)
}

func (s *Server) openProposals(r *http.Request) (any, error) {
	v := s.backend.View()
	return list(r, v.Height(), v.OpenProposals, func(p registry.Proposal) Proposal { return proposalOf(v, p) }, nil)
}

func (s *Server) proposal(r *http.Request) (any, error) {
	v := s.backend.View()
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, badID(fmt.Errorf("proposal %q: the rule is a number from 1", r.PathValue("id")))
	}
	p, ok := v.Proposal(id)
	if !ok {
		return nil, Problemf(http.StatusNotFound, "not_found", "there is no proposal %d", id).WithHint("\"civibus governance list\" shows what there is")
	}
	out := proposalOf(v, p)
	for after := ""; ; {
		votes, next := v.VotesOn(id, after, maxLimit)
		for _, vote := range votes {
			cast := Vote{Member: vote.Member.String()}
			for _, b := range vote.Ballots {
				cast.Ballots = append(cast.Ballots, Ballot(b))
			}
			out.Votes = append(out.Votes, cast)
		}
		if after = next; next == "" {
			return out, nil
		}
	}
}

func (s *Server) governance(*http.Request) (any, error) {
	v := s.backend.View()
	p := v.Params()
	out := Governance{Protocol: p.Protocol, Rules: []Rule{}, MaxOpenProposals: p.MaxOpenProposals, Votes: v.AllVotes(), Voters: []Voter{}, Height: v.Height()}
	for _, r := range p.Rules {
		out.Rules = append(out.Rules, ruleOf(r))
	}
	for after := ""; ; {
		voters, next := v.Voters(after, maxLimit)
		for _, m := range voters {
			out.Voters = append(out.Voters, Voter{m.Member.String(), m.Votes})
		}
		if after = next; next == "" {
			return out, nil
		}
	}
}

// Delegation lets another member act for a member and all below it.
type Delegation struct {
	Root      string     `json:"root"`
	To        string     `json:"to"`
	Directory bool       `json:"directory"`
	Keys      bool       `json:"keys"`
	Catalogue bool       `json:"catalogue"`
	Rights    bool       `json:"rights"`
	Until     *time.Time `json:"until,omitempty"` // absent: until revoked
	Periods   []Period   `json:"periods"`
}

// Delegations lists delegations; Member filters by root.
func (c *Client) Delegations(ctx context.Context, o ListOptions) (Page[Delegation], error) {
	return get[Page[Delegation]](ctx, c, "/v1/delegations"+o.query())
}

func delegationOf(d registry.Delegation) Delegation {
	out := Delegation{
		Root: d.Root.String(), To: d.To.String(), Directory: d.Directory, Keys: d.Keys, Catalogue: d.Catalogue, Rights: d.Rights, Periods: periods(d.Periods),
	}
	if !d.Until.IsZero() {
		until := d.Until.UTC()
		out.Until = &until
	}
	return out
}

func (s *Server) delegations(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	return list(r, v.Height(), v.Delegations, delegationOf, func(d registry.Delegation) bool { return member.IsZero() || d.Root == member })
}
