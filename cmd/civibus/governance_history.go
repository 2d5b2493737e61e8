package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
)

// moment is one line of the history.
type moment struct {
	Height   uint64 `json:"height"`
	Proposal uint64 `json:"proposal,omitempty"`
	Event    string `json:"event"` // proposed, voted, or the proposal's end; power; upgrade
	Member   string `json:"member,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

func newHistory(a *app) *cobra.Command {
	var proposal uint64
	c := &cobra.Command{
		Use: "history", Short: "Show everything that was proposed, voted and decided, in order",
		Long: `Show the whole history of the network's governance from the registry: who proposed
what, every vote with every change of mind, how each proposal ended, what voting
powers are since when, and upgrades.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			all, err := history(c.Context(), client, proposal)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Items []moment `json:"items"`
				}{all})
			}
			t := table{head: []string{"HEIGHT", "PROPOSAL", "EVENT", "MEMBER", "DETAIL"}}
			for _, m := range all {
				number := ""
				if m.Proposal > 0 {
					number = strconv.FormatUint(m.Proposal, 10)
				}
				t.add(strconv.FormatUint(m.Height, 10), number, m.Event, m.Member, m.Detail)
			}
			t.write(a.out)
			return nil
		},
	}
	c.Flags().Uint64Var(&proposal, "proposal", 0, "only that of the proposal with this `number`")
	return c
}

// history collects what the registry keeps, by height.
func history(ctx context.Context, client *admin.Client, only uint64) ([]moment, error) {
	out := []moment{}
	proposals, err := every(ctx, client, (*admin.Client).Proposals)
	if err != nil {
		return nil, err
	}
	for _, p := range proposals {
		if only > 0 && p.ID != only {
			continue
		}
		if p, err = client.Proposal(ctx, p.ID); err != nil {
			return nil, err
		}
		detail := p.Kind + " " + aboutText(p.Change)
		if p.Reference != "" {
			detail += " (" + p.Reference + ")"
		}
		out = append(out, moment{p.OpenHeight, p.ID, "proposed", p.Proposer, detail})
		for _, v := range p.Votes {
			for _, b := range v.Ballots {
				out = append(out, moment{b.Height, p.ID, "voted", v.Member, yesNo(b.Yes)})
			}
		}
		if p.ClosedHeight > 0 {
			detail := fmt.Sprintf("%d yes, %d no, of %d", p.Tally.Yes, p.Tally.No, p.Tally.All)
			if p.Failure != "" {
				detail += ": " + p.Failure
			}
			out = append(out, moment{p.ClosedHeight, p.ID, p.Status, "", detail})
		}
	}
	if only == 0 {
		powers, err := every(ctx, client, (*admin.Client).Validators)
		if err != nil {
			return nil, err
		}
		for _, v := range powers {
			out = append(out, moment{v.Height, 0, "power", v.Member, fmt.Sprintf("%d to key %s", v.Power, v.Key)})
		}
		upgrades, err := every(ctx, client, (*admin.Client).Upgrades)
		if err != nil {
			return nil, err
		}
		for _, u := range upgrades {
			out = append(out, moment{u.PlannedHeight, 0, "upgrade", "", fmt.Sprintf("%s at height %d: %s", u.Name, u.Height, u.Status)})
		}
	}
	slices.SortStableFunc(out, func(a, b moment) int { return cmp.Compare(a.Height, b.Height) })
	return out, nil
}

// every fetches all pages of a list.
func every[T any](ctx context.Context, client *admin.Client, fetch func(*admin.Client, context.Context, admin.ListOptions) (admin.Page[T], error)) ([]T, error) {
	var out []T
	var o admin.ListOptions
	for {
		page, err := fetch(client, ctx, o)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if o.After = page.Next; o.After == "" {
			return out, nil
		}
	}
}
