package main

import (
	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterSubsystem(a *app) *cobra.Command {
	c := &cobra.Command{Use: "subsystem", Short: "The systems of bodies", Args: cobra.NoArgs}
	var lf listFlags
	var member string
	list := &cobra.Command{
		Use: "list", Short: "List subsystems", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, admin.ListOptions{Member: member}, (*admin.Client).Subsystems,
				[]string{"SUBSYSTEM", "NAME", "STATUS"}, func(s admin.Subsystem) []string { return []string{s.ID, s.Name, s.Status} })
		},
	}
	lf.register(list)
	list.Flags().StringVar(&member, "member", "", "only those of this `member`")
	show := &cobra.Command{
		Use: "show SUBSYSTEM", Short: "Show a subsystem", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.Subsystem(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			a.pairs("subsystem", s.ID, "name", s.Name, "status", s.Status, "in force", periodText(s.Periods))
			return nil
		},
	}
	c.AddCommand(list, show, a.setSubsystem("add", "Register a subsystem of the body", false), a.setSubsystem("change", "Change a subsystem's name", true),
		a.subsystemStatus("suspend", "Suspend a subsystem", registrypb.Status_STATUS_SUSPENDED),
		a.subsystemStatus("resume", "End a subsystem's suspension", registrypb.Status_STATUS_ACTIVE),
		a.subsystemStatus("end", "End a subsystem for good", registrypb.Status_STATUS_ENDED))
	return c
}

func (a *app) subsystemStatus(use, short string, s registrypb.Status) *cobra.Command {
	return a.verb(use, short, "SUBSYSTEM", func(id string) *registrypb.Tx {
		return &registrypb.Tx{Body: &registrypb.Tx_SetSubsystemStatus{SetSubsystemStatus: &registrypb.SetSubsystemStatus{Id: id, Status: s}}}
	})
}

func (a *app) setSubsystem(use, short string, exists bool) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: use + " SUBSYSTEM", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			_, err = client.Subsystem(c.Context(), args[0])
			switch {
			case exists && err != nil:
				return err
			case !exists && err == nil:
				return refusal{"subsystem " + args[0] + " exists already", "\"civibus register subsystem change\" changes it"}
			case err != nil && !admin.IsCode(err, "not_found"):
				return err
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: args[0], Name: name}}})
		},
	}
	c.Flags().StringVar(&name, "name", "", "`name` of the system")
	_ = c.MarkFlagRequired("name") // fails only for unknown flags
	return c
}
