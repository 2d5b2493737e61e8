package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

func newGovernance(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "governance", Short: "Put changes of the network to the vote of its members",
		Long: `Propose changes that no member may make alone, vote on them and look at what was
decided. A proposal is decided by weighted votes, by the rule of its kind, and
what it changes is changed in the block that decides it.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newAdmit(a), newRecover(a), newValidatorsChange(a), newParamsChange(a), newRevokeKeyChange(a))
	c.AddCommand(newMemberChanges(a)...)
	c.AddCommand(newGroupChanges(a)...)
	c.AddCommand(newUpgradeChanges(a)...)
	c.AddCommand(newRuleChanges(a)...)
	c.AddCommand(newPropose(a), newVote(a), newWithdraw(a), newProposalList(a), newProposalShow(a), newHistory(a), newRules(a))
	return c
}

func newPropose(a *app) *cobra.Command {
	var f ballotFlags
	c := &cobra.Command{
		Use: "propose KIND CHANGE", Short: "Propose a change of any kind, as JSON",
		Long: `Propose a change, for scripts, as the registry's JSON: an object, or @FILE with one. KIND is one
of ` + strings.Join(kindNames(), ", ") + `.
Its fields are those of the message in spec/registry.md. Bytes are base64. The
proposer says yes, unless --no-vote is given.`,
		Example: `  civibus governance propose suspend_member '{"id": "EE/GOV/70000001"}' --reference 'minutes 7/2026'
  civibus governance propose set_params '{"max_open_proposals": 8}'`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			change, err := readChange(args[0], args[1])
			if err != nil {
				return err
			}
			return a.propose(c.Context(), f, change)
		},
	}
	f.register(c)
	return c
}

// readChange reads a change in JSON, from the argument or a file.
func readChange(kind, text string) (*registrypb.Change, error) {
	if _, err := registry.ParseProposalKind(kind); err != nil {
		return nil, usageError{err, ""}
	}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text = string(raw)
	}
	change, err := parseChange([]byte(`{"` + kind + `": ` + text + `}`))
	if err != nil {
		return nil, usageError{fmt.Errorf("change %s: %w", kind, err), "the rule is one JSON object with the fields of spec/registry.md"}
	}
	if registry.KindOf(change).String() != kind {
		return nil, usageError{fmt.Errorf("change %s: it holds none", kind), "the rule is one JSON object with the fields of spec/registry.md"}
	}
	return change, nil
}

// parseChange reads the JSON form of a change.
func parseChange(text []byte) (*registrypb.Change, error) {
	change := &registrypb.Change{}
	return change, protojson.Unmarshal(text, change)
}

func kindNames() []string {
	var out []string
	for _, k := range registry.ProposalKinds() {
		out = append(out, k.String())
	}
	return out
}

func proposalNumber(text string) (uint64, error) {
	id, err := registry.ParseProposalKey(text)
	if err != nil {
		return 0, usageError{err, "\"civibus governance list\" shows them"}
	}
	return id, nil
}

func newVote(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "vote PROPOSAL yes|no", Short: "Vote on a proposal, or vote anew while it is open", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := proposalNumber(args[0])
			if err != nil {
				return err
			}
			if args[1] != "yes" && args[1] != "no" {
				return usageError{fmt.Errorf("vote %q: the rule is yes or no", args[1]), ""}
			}
			return a.ballot(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_CastVote{
				CastVote: &registrypb.CastVote{Proposal: id, Yes: args[1] == "yes"},
			}})
		},
	}
}

func newWithdraw(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "withdraw PROPOSAL", Short: "Withdraw an open proposal of one's own", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := proposalNumber(args[0])
			if err != nil {
				return err
			}
			return a.ballot(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_WithdrawProposal{
				WithdrawProposal: &registrypb.WithdrawProposal{Proposal: id},
			}})
		},
	}
}

func newProposalList(a *app) *cobra.Command {
	var lf listFlags
	var open bool
	c := &cobra.Command{
		Use: "list", Short: "List proposals, the decided ones too", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fetch := (*admin.Client).Proposals
			if open {
				fetch = (*admin.Client).OpenProposals
			}
			return listAll(c.Context(), a, lf, admin.ListOptions{}, fetch,
				[]string{"PROPOSAL", "KIND", "PROPOSER", "STATUS", "YES", "NO", "OF", "DEADLINE"}, func(p admin.Proposal) []string {
					return []string{
						strconv.FormatUint(p.ID, 10), p.Kind, p.Proposer, p.Status, strconv.FormatUint(p.Tally.Yes, 10),
						strconv.FormatUint(p.Tally.No, 10), strconv.FormatUint(p.Tally.All, 10), p.Deadline.Format(time.RFC3339),
					}
				})
		},
	}
	lf.register(c)
	c.Flags().BoolVar(&open, "open", false, "only those that are not yet decided")
	return c
}

func newProposalShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show PROPOSAL", Short: "Show a proposal and every vote on it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := proposalNumber(args[0])
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			p, err := client.Proposal(c.Context(), id)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(p)
			}
			a.pairs("proposal", args[0], "kind", p.Kind, "change", string(p.Change), "reference", p.Reference, "proposer", p.Proposer,
				"status", p.Status, "failure", p.Failure, "opened", fmt.Sprintf("%s at height %d", p.Opened.Format(time.RFC3339), p.OpenHeight),
				"deadline", p.Deadline.Format(time.RFC3339), "closed at height", heightText(p.ClosedHeight), "rule", ruleText(p.Rule),
				"votes", fmt.Sprintf("%d yes, %d no, of %d", p.Tally.Yes, p.Tally.No, p.Tally.All))
			fmt.Fprintln(a.out)
			t := table{head: []string{"MEMBER", "VOTE", "AT HEIGHT"}}
			for _, v := range p.Votes {
				for _, b := range v.Ballots {
					t.add(v.Member, yesNo(b.Yes), strconv.FormatUint(b.Height, 10))
				}
			}
			t.write(a.out)
			return nil
		},
	}
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func ruleText(r admin.Rule) string {
	return fmt.Sprintf("%d of 1000 votes cast, %d of 1000 of them yes, within %s", r.Quorum, r.Threshold, time.Duration(r.PeriodSeconds)*time.Second)
}

func newRules(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rules", Short: "Show who votes and when proposals pass", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			g, err := client.Governance(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(g)
			}
			t := table{head: []string{"KIND", "QUORUM", "THRESHOLD", "PERIOD"}}
			for _, r := range g.Rules {
				t.add(r.Kind, fmt.Sprint(r.Quorum), fmt.Sprint(r.Threshold), (time.Duration(r.PeriodSeconds) * time.Second).String())
			}
			t.write(a.out)
			fmt.Fprintln(a.out)
			voters := table{head: []string{"MEMBER", "VOTES"}}
			for _, v := range g.Voters {
				voters.add(v.Member, fmt.Sprint(v.Votes))
			}
			voters.write(a.out)
			return nil
		},
	}
}
