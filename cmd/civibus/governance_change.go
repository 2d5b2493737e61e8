package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// ballotFlags are the flags of everything that is proposed.
type ballotFlags struct {
	reference string
	noVote    bool
}

func (f *ballotFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.reference, "reference", "", "a `citation` for people, e.g. of minutes")
	c.Flags().BoolVar(&f.noVote, "no-vote", false, "propose without voting")
}

// propose submits a proposal and prints its number and how it stands.
func (a *app) propose(ctx context.Context, f ballotFlags, change *registrypb.Change) error {
	return a.ballot(ctx, &registrypb.Tx{Body: &registrypb.Tx_Propose{
		Propose: &registrypb.Propose{Change: change, Reference: f.reference, NoVote: f.noVote},
	}})
}

// ballot submits a proposal, a vote or a withdrawal and prints what came of it: the
// change, and how the proposal stands in the view that has it.
func (a *app) ballot(ctx context.Context, tx *registrypb.Tx) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	out, err := client.Change(ctx, tx)
	if err != nil {
		return err
	}
	var p *admin.Proposal
	if id, err := strconv.ParseUint(out.ID, 10, 64); err == nil {
		if found, err := client.Proposal(ctx, id); err == nil {
			p = &found
		}
	}
	if a.json {
		return a.printJSON(struct {
			admin.Change
			Proposal *admin.Proposal `json:"proposal,omitempty"`
		}{out, p})
	}
	if err := a.printChange(out); err != nil || p == nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "proposal %d (%s %s): %s\n", p.ID, p.Kind, aboutText(p.Change), standing(*p))
	return err
}

// standing says how a proposal stands.
func standing(p admin.Proposal) string {
	votes := fmt.Sprintf("%d yes, %d no, of %d", p.Tally.Yes, p.Tally.No, p.Tally.All)
	switch p.Status {
	case "open":
		return fmt.Sprintf("open until %s, %s", p.Deadline.Format(time.RFC3339), votes)
	case "failed":
		return fmt.Sprintf("passed and failed (%s) at height %d, %s", p.Failure, p.ClosedHeight, votes)
	}
	return fmt.Sprintf("%s at height %d, %s", p.Status, p.ClosedHeight, votes)
}

// changeCommand makes a command that proposes what build makes of its arguments.
func (a *app) changeCommand(use, short string, args cobra.PositionalArgs, build func(ctx context.Context, args []string) (*registrypb.Change, error)) *cobra.Command {
	var f ballotFlags
	c := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(c *cobra.Command, args []string) error {
			change, err := build(c.Context(), args)
			if err != nil {
				return err
			}
			return a.propose(c.Context(), f, change)
		},
	}
	f.register(c)
	return c
}

// memberChange proposes something about one member.
func (a *app) memberChange(use, short string, change func(id string) *registrypb.Change) *cobra.Command {
	return a.changeCommand(use+" MEMBER", short, cobra.ExactArgs(1), func(_ context.Context, args []string) (*registrypb.Change, error) {
		if _, err := civibus.ParseMemberID(args[0]); err != nil {
			return nil, usageError{err, "\"civibus register member list\" shows them"}
		}
		return change(args[0]), nil
	})
}

func newMemberChanges(a *app) []*cobra.Command {
	votes := a.changeCommand("votes MEMBER WEIGHT", "Propose a member's weight in votes", cobra.ExactArgs(2), func(_ context.Context, args []string) (*registrypb.Change, error) {
		weight, err := strconv.ParseUint(args[1], 10, 32)
		if err != nil {
			return nil, usageError{fmt.Errorf("weight %q: the rule is a number from 0", args[1]), "0: the member does not vote"}
		}
		return &registrypb.Change{Change: &registrypb.Change_SetVotes{SetVotes: &registrypb.SetVotes{Member: args[0], Votes: uint32(weight)}}}, nil
	})
	return []*cobra.Command{
		a.memberChange("suspend", "Propose to suspend a member: none of its exchanges are allowed", func(id string) *registrypb.Change {
			return &registrypb.Change{Change: &registrypb.Change_SuspendMember{SuspendMember: &registrypb.SuspendMember{Id: id}}}
		}),
		a.memberChange("reinstate", "Propose to end a member's suspension", func(id string) *registrypb.Change {
			return &registrypb.Change{Change: &registrypb.Change_ReinstateMember{ReinstateMember: &registrypb.ReinstateMember{Id: id}}}
		}),
		a.memberChange("remove", "Propose to end a membership for good", func(id string) *registrypb.Change {
			return &registrypb.Change{Change: &registrypb.Change_RemoveMember{RemoveMember: &registrypb.RemoveMember{Id: id}}}
		}),
		votes,
	}
}

func newValidatorsChange(a *app) *cobra.Command {
	c := a.changeCommand("validators KEY=POWER...", "Propose voting powers on blocks", cobra.MinimumNArgs(1), func(ctx context.Context, args []string) (*registrypb.Change, error) {
		powers, err := a.powers(ctx, args)
		if err != nil {
			return nil, err
		}
		return &registrypb.Change{Change: &registrypb.Change_SetValidators{SetValidators: &registrypb.SetValidators{Validators: powers}}}, nil
	})
	c.Long = `Propose voting powers on blocks. KEY is the id of a registered validator key, or a
member that has one such key in force. 0 takes the vote away; who is not named
keeps his. The ledger counts with it two blocks after the one that decides.`
	c.Example = "  civibus governance validators EE/MUN/75000005=1"
	return c
}

// powers reads KEY=POWER or MEMBER=POWER.
func (a *app) powers(ctx context.Context, args []string) ([]*registrypb.ValidatorPower, error) {
	var out []*registrypb.ValidatorPower
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		power, err := strconv.ParseUint(text, 10, 64)
		if !ok || err != nil {
			return nil, usageError{fmt.Errorf("voting power %q: the rule is KEY=POWER, or MEMBER=POWER", arg), "\"civibus register voting-power list\" shows them"}
		}
		id, err := a.validatorKey(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, &registrypb.ValidatorPower{KeyId: id[:], Power: power})
	}
	return out, nil
}

// validatorKey finds the key that is named by its id, or is the one of a member.
func (a *app) validatorKey(ctx context.Context, name string) (civibus.KeyID, error) {
	if !strings.Contains(name, "/") {
		id, err := civibus.ParseKeyID(name)
		if err != nil {
			return id, usageError{err, "\"civibus register key list --purpose validator\" shows the ids"}
		}
		return id, nil
	}
	client, err := a.client()
	if err != nil {
		return civibus.KeyID{}, err
	}
	o := admin.ListOptions{Member: name, Purpose: civibus.ValidatorKey.String()}
	var found []string
	for {
		page, err := client.Keys(ctx, o)
		if err != nil {
			return civibus.KeyID{}, err
		}
		for _, k := range page.Items {
			if k.InForce {
				found = append(found, k.ID)
			}
		}
		if o.After = page.Next; o.After == "" {
			break
		}
	}
	if len(found) != 1 {
		return civibus.KeyID{}, refusal{fmt.Sprintf("member %s has %d validator keys in force, the rule is one, or the key's id", name, len(found)), "\"civibus register key list --purpose validator\" shows the ids"}
	}
	return civibus.ParseKeyID(found[0])
}

func newParamsChange(a *app) *cobra.Command {
	set := &registrypb.SetParams{}
	var rules, registrars []string
	var none bool
	c := a.changeCommand("params", "Propose parameters of the instance and the rules of voting", cobra.NoArgs, func(context.Context, []string) (*registrypb.Change, error) {
		set.Rules, set.Registrars = nil, nil
		for _, text := range rules {
			r, err := parseRule(text)
			if err != nil {
				return nil, err
			}
			set.Rules = append(set.Rules, r)
		}
		if none || len(registrars) > 0 {
			set.Registrars = &registrypb.Registrars{Members: registrars}
		}
		return &registrypb.Change{Change: &registrypb.Change_SetParams{SetParams: set}}, nil
	})
	c.Example = "  civibus governance params --rule suspend_member=500/750/48h --max-open-proposals 8"
	c.Flags().StringArrayVar(&rules, "rule", nil, "`KIND=QUORUM/THRESHOLD/PERIOD`, per mille of all votes, per mille of votes cast, a duration; again for each kind")
	c.Flags().StringArrayVar(&registrars, "registrar", nil, "`member` that admits others without a vote; again for each: the new list")
	c.Flags().BoolVar(&none, "no-registrars", false, "from now on members come by vote only")
	c.Flags().Uint32Var(&set.MaxTxBytes, "max-tx-bytes", 0, "largest transaction in `bytes`")
	c.Flags().Uint32Var(&set.MaxOpenProposals, "max-open-proposals", 0, "`number` of open proposals of one member")
	c.Flags().Uint32Var(&set.BlockShare, "block-share", 0, "least part of a block, `per mille`, that one member may fill while others wait")
	c.Flags().Uint64Var(&set.MemberQuota, "member-quota", 0, "`number` of records of a member and those below it")
	c.MarkFlagsMutuallyExclusive("registrar", "no-registrars")
	c.MarkFlagsOneRequired("rule", "registrar", "no-registrars", "max-tx-bytes", "max-open-proposals", "block-share", "member-quota")
	return c
}

// parseRule reads KIND=QUORUM/THRESHOLD/PERIOD.
func parseRule(text string) (*registrypb.Rule, error) {
	bad := usageError{fmt.Errorf("--rule %q: the rule is KIND=QUORUM/THRESHOLD/PERIOD", text), "e.g. --rule revoke_key=334/667/1h; kinds: " + strings.Join(kindNames(), ", ")}
	name, rest, _ := strings.Cut(text, "=")
	parts := strings.Split(rest, "/")
	kind, err := registry.ParseProposalKind(name)
	if err != nil || len(parts) != 3 {
		return nil, bad
	}
	quorum, err1 := strconv.ParseUint(parts[0], 10, 32)
	threshold, err2 := strconv.ParseUint(parts[1], 10, 32)
	period, err3 := time.ParseDuration(parts[2])
	if err1 != nil || err2 != nil || err3 != nil || period < time.Second || period > 366*24*time.Hour {
		return nil, bad
	}
	return &registrypb.Rule{Kind: uint32(kind), Quorum: uint32(quorum), Threshold: uint32(threshold), PeriodSeconds: uint32(period / time.Second)}, nil
}

func newGroupChanges(a *app) []*cobra.Command {
	var title string
	group := a.changeCommand("group GROUP", "Propose a global group, or another title of one", cobra.ExactArgs(1), func(_ context.Context, args []string) (*registrypb.Change, error) {
		return &registrypb.Change{Change: &registrypb.Change_SetGroup{SetGroup: &registrypb.SetGroup{Id: args[0], Title: title}}}, nil
	})
	group.Flags().StringVar(&title, "title", "", "`title` for people")
	member := func(use, short string, in bool) *cobra.Command {
		return a.changeCommand(use+" GROUP CLIENT", short, cobra.ExactArgs(2), func(_ context.Context, args []string) (*registrypb.Change, error) {
			return &registrypb.Change{Change: &registrypb.Change_SetGroupMember{SetGroupMember: &registrypb.SetGroupMember{Group: args[0], Client: args[1], Member: in}}}, nil
		})
	}
	return []*cobra.Command{group, member("include", "Propose to put a client into a global group", true), member("exclude", "Propose to take a client out of a global group", false)}
}

func newUpgradeChanges(a *app) []*cobra.Command {
	plan := &registrypb.PlanUpgrade{}
	var validators []string
	upgrade := a.changeCommand("upgrade NAME", "Propose that all nodes run another version of the software from a height on", cobra.ExactArgs(1), func(ctx context.Context, args []string) (*registrypb.Change, error) {
		plan.Name = args[0]
		var err error
		if plan.Validators, err = a.powers(ctx, validators); err != nil {
			return nil, err
		}
		return &registrypb.Change{Change: &registrypb.Change_PlanUpgrade{PlanUpgrade: plan}}, nil
	})
	upgrade.Long = `Propose an upgrade. NAME is protocol-N, or a name that the new version of the
software knows. The block of the height is the first that the new version makes; a
node that runs the old one stops before it, says so, and goes on with it when it
is replaced.`
	upgrade.Flags().Uint64Var(&plan.Height, "height", 0, "first `height` of the new version")
	upgrade.Flags().StringArrayVar(&validators, "validator", nil, "`KEY=POWER` of every validator; only to protocol-1, again for each")
	_ = upgrade.MarkFlagRequired("height") // fails only for unknown flags
	cancel := a.changeCommand("cancel-upgrade NAME", "Propose to cancel a planned upgrade", cobra.ExactArgs(1), func(_ context.Context, args []string) (*registrypb.Change, error) {
		return &registrypb.Change{Change: &registrypb.Change_CancelUpgrade{CancelUpgrade: &registrypb.CancelUpgrade{Name: args[0]}}}, nil
	})
	return []*cobra.Command{upgrade, cancel}
}

func newRevokeKeyChange(a *app) *cobra.Command {
	var reason string
	c := a.changeCommand("revoke-key KEY", "Propose to end any member's key at once, in an emergency", cobra.ExactArgs(1), func(_ context.Context, args []string) (*registrypb.Change, error) {
		id, err := civibus.ParseKeyID(args[0])
		if err != nil {
			return nil, usageError{err, "\"civibus register key list\" shows the ids"}
		}
		why, ok := revocationReasons[reason]
		if !ok {
			return nil, usageError{fmt.Errorf("--reason %q: the rule is rotated, compromised or ceased", reason), ""}
		}
		return &registrypb.Change{Change: &registrypb.Change_RevokeKey{RevokeKey: &registrypb.RevokeKeyEmergency{KeyId: id[:], Reason: why}}}, nil
	})
	c.Long = `Propose to end a key that the member itself does not end: it is stolen and the
member cannot be reached. The rule of this kind needs fewer votes and less time
than the others ("civibus governance rules").`
	c.Flags().StringVar(&reason, "reason", "compromised", "rotated, compromised or ceased")
	return c
}

func newRuleChanges(a *app) []*cobra.Command {
	enact := a.changeCommand("rule FILE", "Propose to enact a rule with its law, for the whole instance or any part of it", cobra.ExactArgs(1), func(_ context.Context, args []string) (*registrypb.Change, error) {
		r, err := a.readRule(args[0])
		if err != nil {
			return nil, err
		}
		document, err := r.Encode()
		if err != nil {
			return nil, err
		}
		return &registrypb.Change{Change: &registrypb.Change_EnactRule{EnactRule: &registrypb.SetRule{Document: document}}}, nil
	})
	enact.Long = `Propose to enact a version of a rule. With the scope "all: MEMBER" it is for every
call of every service in the instance, and the member answers for it; members can
also decide on rules for others than themselves. "civibus rule check" and "rule
test" try it before.`
	var notice string
	statuses := map[string]registrypb.Status{"active": registrypb.Status_STATUS_ACTIVE, "suspended": registrypb.Status_STATUS_SUSPENDED, "ended": registrypb.Status_STATUS_ENDED}
	status := a.changeCommand("rule-status RULE STATUS", "Propose to suspend, reinstate or end a version of any rule", cobra.ExactArgs(2), func(_ context.Context, args []string) (*registrypb.Change, error) {
		s, ok := statuses[args[1]]
		if !ok {
			return nil, usageError{fmt.Errorf("status %q: the rule is active, suspended or ended", args[1]), "\"civibus rule list\" shows the rules"}
		}
		return &registrypb.Change{Change: &registrypb.Change_SetRuleStatus{SetRuleStatus: &registrypb.SetRuleStatus{Rule: args[0], Status: s, Notice: notice}}}, nil
	})
	status.Flags().StringVar(&notice, "notice", "", "`text` that says why it is suspended")
	return []*cobra.Command{enact, status}
}

// aboutText names in one word what a change is about.
func aboutText(change []byte) string {
	c, err := parseChange(change)
	if err != nil {
		return ""
	}
	switch x := c.Change.(type) {
	case *registrypb.Change_AdmitMember:
		return x.AdmitMember.Id
	case *registrypb.Change_SuspendMember:
		return x.SuspendMember.Id
	case *registrypb.Change_ReinstateMember:
		return x.ReinstateMember.Id
	case *registrypb.Change_RemoveMember:
		return x.RemoveMember.Id
	case *registrypb.Change_SetVotes:
		return fmt.Sprintf("%s=%d", x.SetVotes.Member, x.SetVotes.Votes)
	case *registrypb.Change_SetValidators:
		var out []string
		for _, v := range x.SetValidators.Validators {
			out = append(out, fmt.Sprintf("%.16s=%d", hex.EncodeToString(v.KeyId), v.Power))
		}
		return strings.Join(out, " ")
	case *registrypb.Change_SetGroup:
		return x.SetGroup.Id
	case *registrypb.Change_SetGroupMember:
		return x.SetGroupMember.Group + " " + x.SetGroupMember.Client
	case *registrypb.Change_PlanUpgrade:
		return fmt.Sprintf("%s at height %d", x.PlanUpgrade.Name, x.PlanUpgrade.Height)
	case *registrypb.Change_CancelUpgrade:
		return x.CancelUpgrade.Name
	case *registrypb.Change_RevokeKey:
		return hex.EncodeToString(x.RevokeKey.KeyId)
	case *registrypb.Change_RecoverMember:
		return x.RecoverMember.Id
	case *registrypb.Change_EnactRule:
		if d, err := rule.Parse(x.EnactRule.Document); err == nil {
			return fmt.Sprintf("%s/%d: %s (%s, %s)", d.Number, d.Version, d.Title, d.Law.Act, d.Law.Provision)
		}
		return "a rule"
	case *registrypb.Change_SetRuleStatus:
		return x.SetRuleStatus.Rule
	}
	return "of the instance"
}
