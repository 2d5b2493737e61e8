package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterTopic(a *app) *cobra.Command {
	var title, status, notice string
	var ordered bool
	c := &cobra.Command{
		Use:   "topic TOPIC",
		Short: "Register a topic of a service for events, or change it",
		Long: `Register a topic, INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE/TOPIC, or change its title and
status. Whoever has a right on the service that covers the method SUBSCRIBE and the path
/TOPIC, or the whole service, may subscribe. "civibus events topics" lists the topics.`,
		Example: "  civibus register topic DEMO/GOV/1001/population/persons/moved --title 'Persons who moved' --ordered",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, ok := map[string]registrypb.Status{
				"active": registrypb.Status_STATUS_ACTIVE, "suspended": registrypb.Status_STATUS_SUSPENDED, "ended": registrypb.Status_STATUS_ENDED,
			}[status]
			if !ok {
				return usageError{fmt.Errorf("status %q: the rule is active, suspended or ended", status), ""}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetTopic{SetTopic: &registrypb.SetTopic{
				Topic: args[0], Title: title, Ordered: ordered, Status: s, Notice: notice}}})
		},
	}
	c.Flags().StringVar(&title, "title", "", "`title` for people")
	c.Flags().BoolVar(&ordered, "ordered", false, "events of one partition key are delivered in their order (never changes)")
	c.Flags().StringVar(&status, "status", "active", "active, suspended or ended")
	c.Flags().StringVar(&notice, "notice", "", "`text` that says why it is suspended")
	_ = c.MarkFlagRequired("title")
	return c
}
