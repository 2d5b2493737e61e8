package main

import (
	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterGroup(a *app) *cobra.Command {
	c := &cobra.Command{Use: "group", Short: "Named sets of clients that rights may name", Args: cobra.NoArgs}
	var lf listFlags
	list := &cobra.Command{
		Use: "list", Short: "List groups", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, admin.ListOptions{}, (*admin.Client).Groups,
				[]string{"GROUP", "TITLE"}, func(g admin.Group) []string { return []string{g.ID, g.Title} })
		},
	}
	lf.register(list)
	var title string
	add := a.verb("add", "Make a group, or change its title", "GROUP", func(id string) *registrypb.Tx {
		return &registrypb.Tx{Body: &registrypb.Tx_SetGroup{SetGroup: &registrypb.SetGroup{Id: id, Title: title}}}
	})
	add.Flags().StringVar(&title, "title", "", "`title` for people")
	c.AddCommand(list, add, a.groupMember("include", "Put a client into a group", true), a.groupMember("exclude", "Take a client out of a group", false))
	return c
}

func (a *app) groupMember(use, short string, member bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " GROUP CLIENT", Short: short, Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetGroupMember{
				SetGroupMember: &registrypb.SetGroupMember{Group: args[0], Client: args[1], Member: member},
			}})
		},
	}
}
