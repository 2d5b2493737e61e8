package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
)

func newErasure(a *app) *cobra.Command {
	c := &cobra.Command{Use: "erasure", Short: "Erase what is kept of a person or an exchange, and show what was erased", Args: cobra.NoArgs}
	c.AddCommand(newErasureAdd(a), newErasureList(a), newErasureShow(a), newErasureVerify(a), newErasureKeys(a))
	return c
}

func newErasureAdd(a *app) *cobra.Command {
	var q admin.EraseRequest
	var leaves []string
	c := &cobra.Command{
		Use: "add", Short: "Erase records for good, and leave a signed note", Args: cobra.NoArgs,
		Long: `Erase records of this gateway's evidence log: record, salt, archived bodies, usage
record, the cases about it and the other body's half, by destroying the keys that
they are sealed with. Leaves, counts and all other receipts verify as before. A
signed note says what was erased when and on which ground.

What is in backups is erased when the copies of the erasure keys are replaced:
"civibus erasure keys" makes a new one. The body's other gateways are asked to do the
same, but for leaves, which are of this gateway's log; where one is not reached, the
command fails and can be repeated. The other body of an exchange keeps its own record.`,
		Example: "  civibus erasure add --person FIC-0001 --ground 'GDPR Article 17(1)(d)'\n  civibus erasure add --exchange 7f0b... --ground 'Archives Act 12'",
		RunE: func(c *cobra.Command, _ []string) error {
			for _, text := range leaves {
				leaf, err := strconv.ParseUint(text, 10, 63)
				if err != nil {
					return usageError{fmt.Errorf("leaf %q: the rule is the number of a leaf", text), "\"civibus usage find\" shows them as RECORD"}
				}
				q.Leaves = append(q.Leaves, leaf)
			}
			if q.Subject == "" && len(q.Exchanges)+len(q.Leaves) == 0 {
				return usageError{errors.New("nothing to erase was named"), "--person, --exchange or --leaf"}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			e, err := client.Erase(c.Context(), q)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(e)
			} else {
				a.erased(e)
			}
			for _, g := range e.Gateways {
				if g.Problem != "" {
					err = errors.Join(err, fmt.Errorf("gateway %s: %s; repeat the command when it is back", g.Gateway, g.Problem))
				}
			}
			return err
		},
	}
	c.Flags().StringVar(&q.Subject, "person", "", "everything that has a usage record of this `person`")
	c.Flags().StringArrayVar(&q.Exchanges, "exchange", nil, "`id` of an exchange; several may be given")
	c.Flags().StringArrayVar(&leaves, "leaf", nil, "`number` of a record's leaf; several may be given")
	c.Flags().StringVar(&q.Ground, "ground", "", "act and provision by which it is erased, and nothing of the person")
	_ = c.MarkFlagRequired("ground") // fails only for unknown flags
	return c
}

// erased tells what an erasure did.
func (a *app) erased(e admin.Erasure) {
	if e.Number > 0 {
		a.pairs("erased", fmt.Sprintf("%d records", len(e.Leaves)), "erasure", strconv.FormatUint(e.Number, 10), "time", e.Time.Format(time.RFC3339), "ground", e.Ground)
	}
	for _, g := range e.Gateways {
		if g.Erasure > 0 {
			a.pairs("gateway "+g.Gateway, fmt.Sprintf("%d records, erasure %d", g.Records, g.Erasure))
		}
	}
	fmt.Fprintln(a.out, "next: replace the copies of the erasure keys, so that backups do not open it either: civibus erasure keys --out FILE")
}

func newErasureList(a *app) *cobra.Command {
	var o admin.ListOptions
	c := &cobra.Command{
		Use: "list", Short: "List what was erased, when and on which ground", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, err := client.Erasures(c.Context(), o)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(page)
			}
			t := table{head: []string{"ERASURE", "TIME", "ERASED", "GROUND"}}
			for _, e := range page.Items {
				t.add(strconv.FormatUint(e.Number, 10), e.Time.Format(time.RFC3339), whatErased(e), e.Ground)
			}
			t.write(a.out)
			if page.Next != "" {
				fmt.Fprintf(a.err, "more: continue with --after %s\n", page.Next)
			}
			return nil
		},
	}
	c.Flags().IntVar(&o.Limit, "limit", 100, "how many `erasures` to show, at most 1000")
	c.Flags().StringVar(&o.After, "after", "", "continue after this `erasure`")
	return c
}

func whatErased(e admin.Erasure) string {
	var out []string
	if n := len(e.Leaves); n == 1 {
		out = append(out, fmt.Sprintf("leaf %d", e.Leaves[0]))
	} else if n > 1 {
		out = append(out, fmt.Sprintf("%d leaves from %d to %d", n, e.Leaves[0], e.Leaves[n-1]))
	}
	return strings.Join(append(out, e.Others...), ", ")
}

func newErasureShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NUMBER", Short: "Print the signed note of an erasure", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[0], 10, 63)
			if err != nil || number == 0 {
				return usageError{fmt.Errorf("erasure %q: the rule is its number", args[0]), "\"civibus erasure list\" shows them"}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			page, err := client.Erasures(c.Context(), admin.ListOptions{Limit: 1, After: strconv.FormatUint(number-1, 10)})
			if err != nil {
				return err
			}
			if len(page.Items) == 0 || page.Items[0].Number != number {
				return refusal{fmt.Sprintf("there is no erasure %d", number), "\"civibus erasure list\" shows which there are"}
			}
			if a.json {
				return a.printJSON(page.Items[0])
			}
			fmt.Fprint(a.out, page.Items[0].Note)
			return nil
		},
	}
}

func newErasureVerify(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check the note of any body's erasure with the log keys that the registry holds", Args: cobra.ExactArgs(1),
		Long: `Check that a note (as "civibus erasure show" prints it) is signed by a log key of the
body whose evidence log it names, as the registry of this node holds it.`,
		RunE: func(c *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			// 1. Whose it says it is.
			lines := strings.SplitN(string(text), "\n", 3)
			part := []string{}
			if len(lines) == 3 {
				part = strings.Split(lines[1], "/")
			}
			if len(part) != 6 || part[0] != "civibus" || part[4] != "evidence" {
				return refusal{args[0] + " is no note of an erasure", "\"civibus erasure show NUMBER\" prints one"}
			}
			member, err := civibus.ParseMemberID(strings.Join(part[1:4], "/"))
			if err != nil {
				return refusal{fmt.Sprintf("%s: the log %q is of no member: %v", args[0], lines[1], err), "ask for the note again"}
			}
			// 2. Signed by one of its keys.
			client, err := a.client()
			if err != nil {
				return err
			}
			keys, err := client.Keys(c.Context(), admin.ListOptions{Member: member.String(), Purpose: civibus.LogKey.String(), Limit: 1000})
			if err != nil {
				return err
			}
			failed := errors.New("the registry holds no log key of it")
			for _, k := range keys.Items {
				key, err := civibus.ParsePublicKey(k.SPKI)
				if err != nil {
					return fmt.Errorf("log key %s: %w", k.ID, err)
				}
				e, err := evidence.ParseErasure(text, lines[1], &key)
				if err != nil {
					failed = err
					continue
				}
				if a.json {
					return a.printJSON(struct {
						Log string `json:"log"`
						Key string `json:"key"`
						evidence.Erasure
					}{lines[1], k.ID, e})
				}
				a.pairs("log", lines[1], "erasure", strconv.FormatUint(e.Number, 10), "time", e.Time.Format(time.RFC3339), "ground", e.Ground,
					"erased", whatErased(admin.Erasure{Leaves: e.Leaves, Others: e.Others}), "signed by", k.ID)
				return nil
			}
			return refusal{fmt.Sprintf("%s is not what %s signed: %v", args[0], member, failed), "ask the body for the note again"}
		},
	}
}

func newErasureKeys(a *app) *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use: "keys", Short: "Make a new copy of the erasure keys, in the place of an older one", Args: cobra.NoArgs,
		Long: `Write one small encrypted file (age) with what the body's records are sealed with,
one by one. Without it no backup opens. A file that is there is replaced and
overwritten, since a copy of before opens what was erased. Keep few copies, and all
of them new.`,
		Example: "  civibus erasure keys --out /media/safe/civibus.keys --recipient age1...",
		RunE: func(*cobra.Command, []string) error {
			recipients, err := f.encryptTo()
			if err != nil {
				return err
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			if err := copyErasureKeys(cfg, f.out, recipients); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"file": f.out})
			}
			a.pairs("erasure keys", f.out)
			return nil
		},
	}
	c.Flags().StringVar(&f.out, "out", "", "`file` to write or to replace")
	f.encryptFlags(c)
	_ = c.MarkFlagRequired("out") // fails only for unknown flags
	return c
}
