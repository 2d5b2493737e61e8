package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
)

func newUsage(a *app) *cobra.Command {
	c := &cobra.Command{Use: "usage", Short: "Who was told what about whom: the body's usage records", Args: cobra.NoArgs}
	c.AddCommand(newUsageFind(a), newUsagePeriods(a), newUsageObjections(a), newUsageAnswer(a), newUsageCorrect(a))
	return c
}

func newUsageFind(a *app) *cobra.Command {
	var q admin.UsageQuery
	c := &cobra.Command{
		Use: "find PERSON", Short: "Find the usage records of a person, whatever their disclosure, newest first", Args: cobra.ExactArgs(1),
		Example: "  civibus usage find FIC-0001",
		RunE: func(c *cobra.Command, args []string) error {
			q.Subject = args[0]
			u, err := a.usage(c, q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Records []admin.UsageRecord `json:"records"`
					Next    string              `json:"next,omitempty"`
				}{u.Records, u.Next})
			}
			t := table{head: []string{"RECORD", "TIME", "RECEIVER", "SYSTEM", "ACTION", "LEGAL BASIS", "CASE", "DISCLOSURE", "CORRECTION"}}
			for _, r := range u.Records {
				var links []string
				if r.Supersedes != "" {
					links = append(links, "of "+r.Supersedes+": "+r.Reason)
				}
				if r.SupersededBy != "" {
					links = append(links, "by "+r.SupersededBy)
				}
				t.add(r.ID, r.Time.Format(time.RFC3339), r.Receiver, r.System, r.Action, r.LegalBasis, r.Case, r.Disclosure, strings.Join(links, ", "))
			}
			t.write(a.out)
			if u.Next != "" {
				fmt.Fprintf(a.err, "more: continue with --after %s\n", u.Next)
			}
			return nil
		},
	}
	c.Flags().IntVar(&q.Limit, "limit", 100, "how many `records` to show, at most 1000")
	c.Flags().StringVar(&q.After, "after", "", "continue after this `place`, which the page before gave")
	return c
}

func newUsagePeriods(a *app) *cobra.Command {
	q := admin.UsageQuery{}
	c := &cobra.Command{
		Use: "periods", Short: "Show what the registry has anchored of the body's usage records", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			u, err := a.usage(c, q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(u.Periods)
			}
			t := table{head: []string{"PERIOD", "UNTIL", "LEAVES", "SHOWN", "LATER", "NEVER", "HEIGHT", "ROOT"}}
			number := func(n uint64) string { return strconv.FormatUint(n, 10) }
			for _, p := range u.Periods {
				t.add(number(p.Number), p.Until.Format(time.RFC3339), fmt.Sprintf("%d-%d", p.FirstLeaf, p.EndLeaf), number(p.Shown), number(p.Later), number(p.Never), number(p.Height), p.Root)
			}
			t.write(a.out)
			return nil
		},
	}
	c.Flags().IntVar(&q.Limit, "limit", 20, "how many `periods` to show, at most 1000")
	return c
}

func newUsageObjections(a *app) *cobra.Command {
	q := admin.UsageQuery{}
	c := &cobra.Command{
		Use: "objections", Short: "Show the cases that persons opened about records", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			u, err := a.usage(c, q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(u.Objections)
			}
			t := table{head: []string{"CASE", "RECORD", "OPENED", "STATE", "TEXT"}}
			for _, o := range u.Objections {
				state := "open"
				if !o.Closed.IsZero() {
					state = "answered"
				}
				t.add(strconv.FormatUint(o.Case, 10), strconv.FormatUint(o.Leaf, 10), o.Opened.Format(time.RFC3339), state, o.Text)
			}
			t.write(a.out)
			return nil
		},
	}
	c.Flags().IntVar(&q.Limit, "limit", 100, "how many `cases` to show, at most 1000")
	return c
}

func newUsageAnswer(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "answer CASE TEXT", Short: "Close a case with an answer", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[0], 10, 63)
			if err != nil || number == 0 {
				return usageError{fmt.Errorf("case %q: the rule is a case's number", args[0]), "\"civibus usage objections\" lists them"}
			}
			if args[1] == "" {
				return usageError{fmt.Errorf("the answer to case %d is empty", number), "say what was found and done"}
			}
			_, err = a.usage(c, admin.UsageQuery{Case: number, Answer: args[1]})
			return err
		},
	}
}

func newUsageCorrect(a *app) *cobra.Command {
	var q admin.UsageCorrection
	c := &cobra.Command{
		Use: "correct PERSON RECORD", Short: "Correct a usage record by one that supersedes it", Args: cobra.ExactArgs(2),
		Long: `Make a usage record that supersedes another one. The old one stays; the person is
shown both, which corrects which, and the reason. With --person the exchange
concerned somebody else: she is shown the new one, and PERSON that it was a mistake.`,
		Example: "  civibus usage correct FIC-0001 17 --case 12/2026 --reason 'The case number was mistyped.'",
		RunE: func(c *cobra.Command, args []string) error {
			leaf, err := strconv.ParseUint(args[1], 10, 63)
			if err != nil {
				return usageError{fmt.Errorf("record %q: the rule is a record's number", args[1]), "\"civibus usage find\" shows them"}
			}
			q.Subject, q.Record = args[0], leaf
			client, err := a.client()
			if err != nil {
				return err
			}
			return client.CorrectUsage(c.Context(), q)
		},
	}
	c.Flags().StringVar(&q.Reason, "reason", "", "why, in `words` that the person understands")
	c.Flags().StringVar(&q.Person, "person", "", "the `person` whom it concerned instead")
	c.Flags().StringVar(&q.Purpose, "purpose", "", "the right `purpose`")
	c.Flags().StringVar(&q.LegalBasis, "legal-basis", "", "the right legal `basis`")
	c.Flags().StringVar(&q.Sentence, "sentence", "", "the right `sentence`")
	c.Flags().StringVar(&q.Case, "case", "", "the right case `reference`")
	_ = c.MarkFlagRequired("reason") // fails only for unknown flags
	return c
}

func (a *app) usage(c *cobra.Command, q admin.UsageQuery) (admin.UsageAnswer, error) {
	client, err := a.client()
	if err != nil {
		return admin.UsageAnswer{}, err
	}
	return client.Usage(c.Context(), q)
}
