package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterDelegation(a *app) *cobra.Command {
	c := &cobra.Command{Use: "delegation", Short: "Who acts for a body and those below it", Args: cobra.NoArgs}
	var lf listFlags
	var o admin.ListOptions
	list := &cobra.Command{
		Use: "list", Short: "List delegations, the ended ones too", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Delegations,
				[]string{"FOR", "TO", "SCOPES", "UNTIL", "IN FORCE"}, func(d admin.Delegation) []string {
					until := ""
					if d.Until != nil {
						until = d.Until.Format(time.RFC3339)
					}
					return []string{d.Root, d.To, scopeText(d), until, periodText(d.Periods)}
				})
		},
	}
	lf.register(list)
	list.Flags().StringVar(&o.Member, "member", "", "only those for this `member`")
	revoke := &cobra.Command{
		Use: "revoke MEMBER TO", Short: "End a delegation at once", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_RevokeDelegation{
				RevokeDelegation: &registrypb.RevokeDelegation{Root: args[0], To: args[1]},
			}})
		},
	}
	c.AddCommand(list, a.delegate(), revoke)
	return c
}

func (a *app) delegate() *cobra.Command {
	d := &registrypb.Delegate{}
	var until string
	c := &cobra.Command{
		Use: "add MEMBER TO", Short: "Let another member act for a member and all below it",
		Long: `Let the member TO act for MEMBER and all below it, in the scopes that are given,
with its own keys. A delegation that exists is replaced.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			d.Root, d.To = args[0], args[1]
			if until != "" {
				t, err := time.Parse(time.RFC3339, until)
				if err != nil {
					return usageError{fmt.Errorf("--until %q: the rule is RFC 3339", until), "e.g. --until 2027-01-01T00:00:00Z"}
				}
				d.Until = t.Unix()
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_Delegate{Delegate: d}})
		},
	}
	c.Flags().BoolVar(&d.Directory, "directory", false, "members, nodes and hosts")
	c.Flags().BoolVar(&d.Keys, "keys", false, "keys, but not admin keys")
	c.Flags().BoolVar(&d.Catalogue, "catalogue", false, "subsystems and services")
	c.Flags().BoolVar(&d.Rights, "rights", false, "access rights and local groups")
	c.Flags().StringVar(&until, "until", "", "end, exclusive, `RFC 3339` (default: until revoked)")
	c.MarkFlagsOneRequired("directory", "keys", "catalogue", "rights")
	return c
}

func scopeText(d admin.Delegation) string {
	var out []string
	for _, s := range []struct {
		name string
		set  bool
	}{{"directory", d.Directory}, {"keys", d.Keys}, {"catalogue", d.Catalogue}, {"rights", d.Rights}} {
		if s.set {
			out = append(out, s.name)
		}
	}
	return strings.Join(out, ", ")
}
