package admin

import (
	"context"
	"net/http"

	"github.com/civibus/civibus/registry"
)

// Validator is a key that votes on blocks, or did.
type Validator struct {
	Key    string `json:"key"`
	Member string `json:"member"`
	Power  int64  `json:"power"`  // 0: it no longer votes
	Height uint64 `json:"height"` // of the block that set the power
}

// Node is a member's node of the ledger, to which others connect.
type Node struct {
	Member  string `json:"member"`
	ID      string `json:"id"`
	Address string `json:"address"`
	Role    string `json:"role"` // validator or follower
}

// Upgrade is a change to another version of the software at a height.
type Upgrade struct {
	Name          string `json:"name"`
	Height        uint64 `json:"height"`
	Status        string `json:"status"`
	PlannedHeight uint64 `json:"planned_height"`
}

// HostPeriod is a stretch of heights in which a host carried a member's exchanges.
type HostPeriod struct {
	Host string `json:"host"`
	Period
}

// Hosting says whose gateways carry a member's exchanges.
type Hosting struct {
	Member  string       `json:"member"`
	Host    string       `json:"host,omitempty"`  // who carries them now
	Asked   string       `json:"asked,omitempty"` // who is asked and has not accepted
	Periods []HostPeriod `json:"periods"`
}

// Validators lists the keys that vote or voted on blocks; Member filters.
func (c *Client) Validators(ctx context.Context, o ListOptions) (Page[Validator], error) {
	return get[Page[Validator]](ctx, c, "/v1/validators"+o.query())
}

// Nodes returns the nodes of all active members, or those of Member.
func (c *Client) Nodes(ctx context.Context, o ListOptions) (Page[Node], error) {
	return get[Page[Node]](ctx, c, "/v1/nodes"+o.query())
}

// Upgrades lists upgrades, those that were made or cancelled too.
func (c *Client) Upgrades(ctx context.Context, o ListOptions) (Page[Upgrade], error) {
	return get[Page[Upgrade]](ctx, c, "/v1/upgrades"+o.query())
}

// Hostings lists who is or was carried by another member's gateways; Member
// filters by who is carried.
func (c *Client) Hostings(ctx context.Context, o ListOptions) (Page[Hosting], error) {
	return get[Page[Hosting]](ctx, c, "/v1/hostings"+o.query())
}

func (s *Server) validators(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	convert := func(e registry.ValidatorEntry) Validator {
		return Validator{e.Key.String(), e.Member.String(), e.Power, e.Height}
	}
	return list(r, v.Height(), v.ValidatorHistory, convert, func(e registry.ValidatorEntry) bool { return member.IsZero() || e.Member == member })
}

// nodes answers on one page: they are as many as a node can connect to.
func (s *Server) nodes(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	all := v.Nodes()
	if !member.IsZero() {
		all = v.NodesOf(member)
	}
	page := Page[Node]{Items: []Node{}, Height: v.Height()}
	for _, n := range all {
		role := "follower"
		if n.Validator {
			role = "validator"
		}
		page.Items = append(page.Items, Node{n.Member.String(), n.ID, n.Address, role})
	}
	return page, nil
}

func (s *Server) upgrades(r *http.Request) (any, error) {
	v := s.backend.View()
	return list(r, v.Height(), v.Upgrades, func(u registry.Upgrade) Upgrade {
		return Upgrade{u.Name, u.Height, u.Status.String(), u.Planned}
	}, nil)
}

func hostingOf(h registry.Hosting) Hosting {
	out := Hosting{Member: h.Member.String(), Periods: []HostPeriod{}}
	if !h.Asked.IsZero() {
		out.Asked = h.Asked.String()
	}
	for _, p := range h.Periods {
		out.Periods = append(out.Periods, HostPeriod{p.Host.String(), Period{p.From, p.To}})
		if p.To == 0 {
			out.Host = p.Host.String()
		}
	}
	return out
}

func (s *Server) hostings(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	return list(r, v.Height(), v.Hostings, hostingOf, func(h registry.Hosting) bool { return member.IsZero() || h.Member == member })
}
