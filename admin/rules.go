package admin

import (
	"net/http"
	"strconv"
	"time"

	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/rule"
)

// EnactedRule is one version of a rule with its law.
type EnactedRule struct {
	ID       string        `json:"id"` // INSTANCE/CLASS/MEMBER/NUMBER/VERSION
	Status   string        `json:"status"`
	Notice   string        `json:"notice,omitempty"`
	Periods  []Period      `json:"periods"`
	Document rule.Document `json:"document"`
}

// Simulation is what a rule would have said of past exchanges.
type Simulation struct {
	Rule string `json:"rule"`
	// Looked is how many entries of the evidence log were read, the newest; Exchanges
	// how many of them the rule would have been asked about.
	Looked    int        `json:"looked"`
	Exchanges int        `json:"exchanges"`
	From      *time.Time `json:"from,omitempty"` // of the oldest exchange
	To        *time.Time `json:"to,omitempty"`   // of the newest
	// Outcomes counts the exchanges: permitted, refused, not_applicable, undecided.
	Outcomes map[rule.Outcome]int `json:"outcomes"`
	// Refused are those who would have been refused, the most frequent first.
	Refused []SimulatedClient `json:"refused"`
	// Unknown counts the undecided exchanges by what is not known of them.
	Unknown map[string]int `json:"unknown"`
	// Notes say what the simulation does not know.
	Notes []string `json:"notes"`
}

// SimulatedClient is a client that would have been refused.
type SimulatedClient struct {
	Client   string `json:"client"`
	Service  string `json:"service"`
	Count    int    `json:"count"`
	Exchange string `json:"exchange"` // the newest of them
}

// The limits of a simulation, in entries of the evidence log.
const (
	defaultSimulated = 10_000
	maxSimulated     = 200_000
)

func enactedRuleOf(r registry.EnactedRule) EnactedRule {
	return EnactedRule{ID: r.ID.String(), Status: r.Status.String(), Notice: r.Notice, Periods: periods(r.Periods), Document: r.Rule().Document}
}

func (s *Server) rules(r *http.Request) (any, error) {
	v := s.backend.View()
	member, err := memberFilter(r)
	if err != nil {
		return nil, err
	}
	return list(r, v.Height(), v.EnactedRules, enactedRuleOf, func(x registry.EnactedRule) bool {
		return member.IsZero() || x.ID.Owner == member
	})
}

func (s *Server) rule(r *http.Request) (any, error) {
	raw := rawID(r, "/v1/rules/")
	id, err := registry.ParseRuleID(raw)
	if err != nil {
		return nil, badID(err)
	}
	x, ok := s.backend.View().EnactedRule(id)
	if !ok {
		return nil, Problemf(http.StatusNotFound, "not_found", "rule %q is not in the registry", raw).WithHint("\"civibus rule list\" shows what there is")
	}
	return enactedRuleOf(x), nil
}

// simulate holds a rule, enacted or not, against the body's past exchanges.
func (s *Server) simulate(r *http.Request) (any, error) {
	limit := defaultSimulated
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxSimulated {
			return nil, Problemf(http.StatusBadRequest, "invalid_parameter", "limit=%q: the rule is 1 to %d", v, maxSimulated)
		}
		limit = n
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	bad := func(err error) error {
		return Problemf(http.StatusBadRequest, "bad_rule", "%v", err).WithHint("send the canonical form; \"civibus rule check\" names the problems")
	}
	d, err := rule.Parse(body)
	if err != nil {
		return nil, bad(err)
	}
	compiled, err := d.Compile()
	if err != nil {
		return nil, bad(err)
	}
	if compiled.Kind() != rule.Exchange {
		return nil, Problemf(http.StatusBadRequest, "bad_rule", "the rule is for a step of a process, and the evidence log has exchanges").
			WithHint("give it examples: \"civibus rule test\"")
	}
	return s.backend.Simulate(r.Context(), compiled, limit)
}
