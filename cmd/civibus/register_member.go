package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterMember(a *app) *cobra.Command {
	c := &cobra.Command{Use: "member", Short: "Public bodies", Args: cobra.NoArgs}
	var lf listFlags
	list := &cobra.Command{
		Use: "list", Short: "List members", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, admin.ListOptions{}, (*admin.Client).Members,
				[]string{"MEMBER", "NAME", "STATUS", "GATEWAYS"}, func(m admin.Member) []string {
					return []string{m.ID, m.Name, m.Status, gatewayText(m.Gateways)}
				})
		},
	}
	lf.register(list)
	show := &cobra.Command{
		Use: "show MEMBER", Short: "Show a member", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			m, err := client.Member(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(m)
			}
			a.pairs("member", m.ID, "name", m.Name, "parent", m.Parent, "status", m.Status, "gateways", gatewayText(m.Gateways), "in force", periodText(m.Periods))
			return nil
		},
	}
	leave := &cobra.Command{
		Use: "leave", Short: "End the body's own membership for good, at once", Args: cobra.NoArgs,
		Long: `End the membership of the body that this node speaks for. Its rights, keys and
validators end in the same block, and nobody can undo it: who leaves comes back
by being admitted under another identifier. --yes says that it is meant.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if sure, _ := c.Flags().GetBool("yes"); !sure {
				return usageError{errors.New("leaving cannot be undone"), "say --yes if it is meant"}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_Leave{Leave: &registrypb.Leave{}}})
		},
	}
	leave.Flags().Bool("yes", false, "it is meant")
	c.AddCommand(list, show, leave, a.setMember("add", "Register a member", false), a.setMember("change", "Change a member's name, parent or gateways", true),
		a.memberStatus("suspend", "Suspend a member: none of its exchanges are allowed", registrypb.Status_STATUS_SUSPENDED),
		a.memberStatus("resume", "End a member's suspension", registrypb.Status_STATUS_ACTIVE),
		a.memberStatus("end", "End a membership for good", registrypb.Status_STATUS_ENDED))
	return c
}

func (a *app) memberStatus(use, short string, s registrypb.Status) *cobra.Command {
	return a.verb(use, short, "MEMBER", func(id string) *registrypb.Tx {
		return &registrypb.Tx{Body: &registrypb.Tx_SetMemberStatus{SetMemberStatus: &registrypb.SetMemberStatus{Id: id, Status: s}}}
	})
}

// setMember makes add and change, which differ in what they begin from.
func (a *app) setMember(use, short string, exists bool) *cobra.Command {
	var name, parent string
	var gws []string
	c := &cobra.Command{
		Use: use + " MEMBER", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			set := &registrypb.SetMember{Id: args[0]}
			client, err := a.client()
			if err != nil {
				return err
			}
			old, err := client.Member(c.Context(), args[0])
			switch {
			case exists && err != nil:
				return err
			case !exists && err == nil:
				return refusal{"member " + args[0] + " exists already", "\"civibus register member change\" changes it"}
			case err != nil && !admin.IsCode(err, "not_found"):
				return err
			}
			set.Name, set.Parent = old.Name, old.Parent
			for _, g := range old.Gateways {
				set.Gateways = append(set.Gateways, &registrypb.Gateway{Code: g.Code, Address: g.Address})
			}
			if c.Flags().Changed("name") {
				set.Name = name
			}
			if c.Flags().Changed("parent") {
				set.Parent = parent
			}
			if c.Flags().Changed("gateway") {
				if set.Gateways, err = gateways(gws); err != nil {
					return err
				}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetMember{SetMember: set}})
		},
	}
	c.Flags().StringVar(&name, "name", "", "official `name`")
	c.Flags().StringVar(&parent, "parent", "", "`member` that administers it")
	c.Flags().StringArrayVar(&gws, "gateway", nil, "`CODE=host:port` of a gateway; again for each")
	if !exists {
		_ = c.MarkFlagRequired("name") // fails only for unknown flags
	}
	return c
}

func gatewayText(gs []admin.Gateway) string {
	parts := make([]string, len(gs))
	for i, g := range gs {
		parts[i] = g.Code + "=" + g.Address
	}
	return strings.Join(parts, ", ")
}
