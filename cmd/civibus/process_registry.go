package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/process/draw"
	"github.com/civibus/civibus/registry/registrypb"
)

// newProcessSet registers versions of processes and says whether they may begin.
func newProcessSet(a *app) *cobra.Command {
	owner := ""
	c := &cobra.Command{
		Use:   "set FILE",
		Short: "Register a version of a process (YAML or JSON, - for standard input); it never changes",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.readProcess(args[0])
			if err != nil {
				return err
			}
			document, err := p.Encode()
			if err != nil {
				return err
			}
			if owner == "" {
				if owner, err = a.ownMember(c); err != nil {
					return err
				}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: owner, Definition: document}}})
		},
	}
	c.Flags().StringVar(&owner, "owner", "", "`member` that answers for it (default: the body itself)")
	return c
}

// ownMember is the running node's body.
func (a *app) ownMember(c *cobra.Command) (string, error) {
	client, err := a.client()
	if err != nil {
		return "", err
	}
	s, err := client.Status(c.Context())
	return s.Member, err
}

func newProcessStatus(a *app) []*cobra.Command {
	set := func(use, short string, status registrypb.Status, args int) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.ExactArgs(args),
			RunE: func(c *cobra.Command, args []string) error {
				m := &registrypb.SetProcessStatus{Process: args[0], Status: status}
				if len(args) > 1 {
					m.Notice = args[1]
				}
				return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetProcessStatus{SetProcessStatus: m}})
			},
		}
	}
	return []*cobra.Command{
		set("suspend PROCESS NOTICE", "Let no new instances begin for now, and say why", registrypb.Status_STATUS_SUSPENDED, 2),
		set("resume PROCESS", "Let new instances begin again", registrypb.Status_STATUS_ACTIVE, 1),
		set("end PROCESS", "Let no new instances begin any more; those that run go on", registrypb.Status_STATUS_ENDED, 1),
	}
}

// newProcessRole is about who plays which role.
func newProcessRole(a *app) *cobra.Command {
	c := &cobra.Command{Use: "role", Short: "Who plays the roles of a process", Args: cobra.NoArgs}
	role := func(use, short string, tx func(process, role, subsystem string, end bool) *registrypb.Tx) *cobra.Command {
		end := false
		r := &cobra.Command{
			Use: use + " PROCESS ROLE SUBSYSTEM", Short: short, Args: cobra.ExactArgs(3),
			RunE: func(c *cobra.Command, args []string) error {
				return a.change(c.Context(), tx(args[0], args[1], args[2], end))
			},
		}
		r.Flags().BoolVar(&end, "end", false, "take it back; what runs goes on")
		return r
	}
	c.AddCommand(
		role("take", "Say that a subsystem of the body plays a role", func(process, role, subsystem string, end bool) *registrypb.Tx {
			return &registrypb.Tx{Body: &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: process, Role: role, Subsystem: subsystem, End: end}}}
		}),
		role("approve", "Approve, for the process's owner, that a subsystem plays a role", func(process, role, subsystem string, end bool) *registrypb.Tx {
			return &registrypb.Tx{Body: &registrypb.Tx_ApproveRole{ApproveRole: &registrypb.ApproveRole{Process: process, Role: role, Subsystem: subsystem, End: end}}}
		}))
	return c
}

func newProcessList(a *app) *cobra.Command {
	var lf listFlags
	var o admin.ListOptions
	c := &cobra.Command{
		Use: "list", Short: "List the registered versions of processes and who plays their roles", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Processes, []string{"PROCESS", "TITLE", "STATUS", "ROLES"}, func(p admin.Process) []string {
				var roles []string
				for _, r := range p.Roles {
					players := []string{}
					for _, s := range r.Subsystems {
						state := ""
						switch {
						case !s.Approved:
							state = " (not approved)"
						case !s.Taken:
							state = " (not taken)"
						}
						players = append(players, s.Subsystem+state)
					}
					roles = append(roles, r.Role+": "+strings.Join(players, ", "))
				}
				return []string{p.ID, p.Title, p.Status, strings.Join(roles, "; ")}
			})
		},
	}
	lf.register(c)
	c.Flags().StringVar(&o.Member, "member", "", "only those of this `member`")
	return c
}

func newProcessInstances(a *app) *cobra.Command {
	var lf listFlags
	var o admin.ListOptions
	c := &cobra.Command{
		Use: "instances", Short: "List the instances that go on, and who has to do what by when", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).ProcessInstances, []string{"INSTANCE", "PROCESS", "STARTED", "PHASE", "WAITS FOR"}, func(i admin.ProcessInstance) []string {
				var waits []string
				for _, s := range i.Steps {
					if s.Due != nil {
						waits = append(waits, fmt.Sprintf("%s: %s by %s", s.Body, s.Step, s.Due.Local().Format(time.DateTime)))
					}
				}
				return []string{i.ID, i.Process, i.Started.Local().Format(time.DateTime), i.Phase, strings.Join(waits, "; ")}
			})
		},
	}
	lf.register(c)
	c.Flags().StringVar(&o.Member, "member", "", "only those in which this `member` has a part")
	return c
}

func newProcessMigrate(a *app) *cobra.Command {
	back := false
	c := &cobra.Command{
		Use:   "migrate INSTANCE VERSION",
		Short: "Consent that an instance goes on under another version of its process",
		Long: `Consent, for the body's subsystems that have a part in an instance, that it goes on
under another version of its process. When all its bodies have consented it does;
until then, and with --back, nothing changes.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			version, err := strconv.ParseUint(args[1], 10, 32)
			if err != nil || version == 0 {
				return usageError{fmt.Errorf("version %q: the rule is a number from 1", args[1]), "\"civibus process list\" shows the versions"}
			}
			if back {
				version = 0
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_MigrateInstance{MigrateInstance: &registrypb.MigrateInstance{Instance: args[0], Version: uint32(version)}}})
		},
	}
	c.Flags().BoolVar(&back, "back", false, "take the consent back")
	return c
}

func newProcessShow(a *app) *cobra.Command {
	svg := false
	c := &cobra.Command{
		Use: "show PROCESS|INSTANCE", Short: "Show a registered definition, or an instance as the registry has it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if strings.Contains(args[0], "/") {
				d, err := client.ProcessDefinition(c.Context(), args[0])
				if err != nil {
					return err
				}
				p, err := d.Compile()
				if err != nil {
					return err
				}
				if svg {
					text, err := draw.Definition(p, "")
					if err == nil {
						_, err = a.out.Write(text)
					}
					return err
				}
				return a.processSummary(p)
			}
			i, err := client.ProcessInstance(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(i)
			}
			a.pairs("instance", i.ID, "process", i.Process, "variant", i.Variant, "started", i.Started.Local().Format(time.DateTime)+" by "+i.Starter,
				"phase", i.Phase, "end", i.End, "events", fmt.Sprint(i.Events))
			fmt.Fprintln(a.out)
			t := table{head: []string{"STEP", "BODY", "STATUS", "ATTEMPT", "DUE", "LATE"}}
			for _, s := range i.Steps {
				due, late, attempt := "", "", ""
				if s.Due != nil {
					due = s.Due.Local().Format(time.DateTime)
				}
				if s.Late > 0 {
					late = fmt.Sprintf("%d times", s.Late)
				}
				if s.Attempt > 0 {
					attempt = fmt.Sprint(s.Attempt)
				}
				t.add(s.Step, s.Body, s.Status, attempt, due, late)
			}
			t.write(a.out)
			return nil
		},
	}
	c.Flags().BoolVar(&svg, "svg", false, "draw a definition as an SVG picture")
	return c
}
