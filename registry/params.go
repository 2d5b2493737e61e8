package registry

import (
	"cmp"
	"slices"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// Protocol is the newest version of the state machine's rules that this software
// knows. 0 is the first; 1 added governance, validators and nodes in the state,
// delegation and hosting; 2 added processes, and verifies the signatures of
// transactions by ZIP 215. A state says which one it is in, and all nodes change
// at the same height (Upgrade).
const Protocol = 2

// Params are what the genesis fixes for an instance and proposals change.
type Params struct {
	Instance   string
	ChainID    string
	Registrars []civibus.MemberID // may be none in protocol 1
	MaxTxBytes uint32
	Protocol   uint32
	// The following are zero in protocol 0.

	// Rules says when a kind of proposal passes, one of each kind, by kind.
	Rules []Rule
	// MaxOpenProposals is how many proposals of one member may be open.
	MaxOpenProposals uint32
	// BlockShare is the least part of a block, per mille, that one member may
	// fill while transactions of others wait. The ledger keeps to it, not the
	// state machine.
	BlockShare uint32
	// MemberQuota is how many records a member and its descendants may have.
	MemberQuota uint64
	// MLDSAValidators says that validator keys may be ML-DSA-65; the genesis
	// fixes it, with the ledger's own parameters.
	MLDSAValidators bool
	// SecondSeals says that every seal needs a second, ML-DSA signature.
	SecondSeals bool
}

// Rule says when a kind of proposal passes: enough votes are cast and enough of
// those are yes, before the period is over.
type Rule struct {
	Kind          ProposalKind
	Quorum        uint32 // votes that must be cast, per mille of all votes
	Threshold     uint32 // votes cast that must be yes, per mille
	PeriodSeconds uint32 // from the proposal to its deadline
}

// The defaults and limits of the parameters. spec/registry.md repeats them.
const (
	defaultQuorum          = 500
	defaultEmergencyQuorum = 334
	defaultThreshold       = 667
	minThreshold           = 501
	defaultPeriod          = 7 * 86400
	defaultEmergencyPeriod = 3600
	maxPeriod              = 366 * 86400

	defaultOpenProposals = 16
	maxOpenProposals     = 256

	// DefaultBlockShare is the BlockShare of protocol 0, which has none of its
	// own, and of a genesis that does not name one.
	DefaultBlockShare = 100

	defaultMemberQuota = 1_000_000
	minMemberQuota     = 100
	maxMemberQuota     = 100_000_000
)

// defaultRule is the rule of a kind of proposal unless the instance has another.
func defaultRule(k ProposalKind) Rule {
	if k == KindRevokeKey {
		return Rule{k, defaultEmergencyQuorum, defaultThreshold, defaultEmergencyPeriod}
	}
	return Rule{k, defaultQuorum, defaultThreshold, defaultPeriod}
}

// setDefaults fills in what protocol 1 added.
func (p *Params) setDefaults() {
	rules := make([]Rule, 0, len(proposalKinds()))
	for _, k := range ProposalKinds() {
		if k > KindRecoverMember {
			continue // of later protocols: the default is not in the state
		}
		i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Kind == k })
		if i < 0 {
			rules = append(rules, defaultRule(k))
		} else {
			rules = append(rules, p.Rules[i])
		}
	}
	for _, r := range p.Rules {
		if r.Kind > KindRecoverMember {
			rules = append(rules, r)
		}
	}
	p.Rules = rules
	if p.MaxOpenProposals == 0 {
		p.MaxOpenProposals = defaultOpenProposals
	}
	if p.BlockShare == 0 {
		p.BlockShare = DefaultBlockShare
	}
	if p.MemberQuota == 0 {
		p.MemberQuota = defaultMemberQuota
	}
}

// rule returns the rule of a kind of proposal.
func (p *Params) rule(k ProposalKind) Rule {
	i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Kind == k })
	if i < 0 {
		return defaultRule(k)
	}
	return p.Rules[i]
}

// checkRules checks rules and that none is of the same kind as another.
func checkRules(rules []Rule, protocol uint32) *refusal {
	for i, r := range rules {
		switch {
		case r.Kind < 1 || r.Kind > lastKindOf(protocol):
			return refuse(InvalidField, "rules[%d].kind: %d, the rule is 1 to %d", i, uint32(r.Kind), uint32(lastKindOf(protocol)))
		case slices.ContainsFunc(rules[:i], func(o Rule) bool { return o.Kind == r.Kind }):
			return refuse(InvalidField, "rules[%d].kind: %s occurs twice", i, r.Kind)
		case r.Quorum < 1 || r.Quorum > 1000:
			return refuse(InvalidField, "rules[%d].quorum: %d, the rule is 1 to 1000 per mille", i, r.Quorum)
		case r.Threshold < minThreshold || r.Threshold > 1000:
			return refuse(InvalidField, "rules[%d].threshold: %d, the rule is %d to 1000 per mille", i, r.Threshold, minThreshold)
		case r.PeriodSeconds < 1 || r.PeriodSeconds > maxPeriod:
			return refuse(InvalidField, "rules[%d].period_seconds: %d, the rule is 1 to %d", i, r.PeriodSeconds, maxPeriod)
		}
	}
	return nil
}

// checkLimits checks what is not 0 among the limits of an instance.
func (p *Params) checkLimits() *refusal {
	switch {
	case p.MaxTxBytes != 0 && (p.MaxTxBytes < minMaxTxBytes || p.MaxTxBytes > maxMaxTxBytes):
		return refuse(InvalidField, "max_tx_bytes: %d, the rule is %d to %d", p.MaxTxBytes, minMaxTxBytes, maxMaxTxBytes)
	case p.MaxOpenProposals > maxOpenProposals:
		return refuse(InvalidField, "max_open_proposals: %d, the rule is 1 to %d", p.MaxOpenProposals, maxOpenProposals)
	case p.BlockShare > 1000:
		return refuse(InvalidField, "block_share: %d, the rule is 1 to 1000 per mille", p.BlockShare)
	case p.MemberQuota != 0 && (p.MemberQuota < minMemberQuota || p.MemberQuota > maxMemberQuota):
		return refuse(InvalidField, "member_quota: %d, the rule is %d to %d", p.MemberQuota, minMemberQuota, maxMemberQuota)
	}
	return checkRules(p.Rules, p.Protocol)
}

// BlockShare returns the least part of a block, per mille, that one member may
// fill while transactions of others wait.
func (v *View) BlockShare() uint32 { return cmp.Or(v.state.params.BlockShare, DefaultBlockShare) }

// SecondSeals reports whether every seal needs a second, ML-DSA signature.
func (v *View) SecondSeals() bool { return v.state.params.SecondSeals }

func rulesOf(in []*registrypb.Rule) []Rule {
	var out []Rule
	for _, r := range in {
		out = append(out, ruleOf(r))
	}
	return out
}

func ruleOf(r *registrypb.Rule) Rule {
	return Rule{ProposalKind(r.GetKind()), r.GetQuorum(), r.GetThreshold(), r.GetPeriodSeconds()}
}

func (r Rule) encode() []byte {
	return writer{}.num(1, uint64(r.Kind)).num(2, uint64(r.Quorum)).num(3, uint64(r.Threshold)).num(4, uint64(r.PeriodSeconds))
}
