package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
	"github.com/civibus/civibus/rule/examples"
)

// newRule is about rules with their law.
func newRule(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "rule",
		Short: "Write, try, enact and show rules with their law",
		Long: `A rule has a number, a text, the provision that it rests on, and a condition over
what a gateway knows of an exchange before it takes effect. Both gateways ask the
rules of the service's owner; a refusal names the rule, cites the provision and says
what to do. docs/rules.md shows how one is written.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newRuleExample(a), newRuleVariables(a), newRuleCheck(a), newRuleTest(a), newRuleSimulate(a), newRuleEnact(a), newRuleList(a), newRuleShow(a),
		a.ruleStatus("suspend", "Suspend a version of a rule with a notice", registrypb.Status_STATUS_SUSPENDED),
		a.ruleStatus("resume", "End the suspension of a version of a rule", registrypb.Status_STATUS_ACTIVE),
		a.ruleStatus("end", "End a version of a rule for good", registrypb.Status_STATUS_ENDED))
	return c
}

// readRule reads a rule that somebody wrote and checks it.
func (a *app) readRule(file string) (*rule.Rule, error) {
	text, err := a.readFile(file, 4*rule.MaxDocument)
	if err != nil {
		return nil, err
	}
	d, err := rule.Read(text)
	if err != nil {
		return nil, refusal{file + ": " + err.Error(), "docs/rules.md describes the document; \"civibus rule example residence\" prints one"}
	}
	r, err := d.Compile()
	if err == nil {
		return r, nil
	}
	var problems rule.Problems
	if !errors.As(err, &problems) {
		problems = rule.Problems{err.Error()}
	}
	if a.json {
		if err := a.printJSON(map[string]any{"ok": false, "number": d.Number, "version": d.Version, "problems": problems}); err != nil {
			return nil, err
		}
	}
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = file + ": " + p
	}
	return nil, refusal{strings.Join(lines, "\n"), "docs/rules.md has the rules for rules; \"civibus rule variables\" lists what conditions can ask for"}
}

func newRuleCheck(a *app) *cobra.Command {
	canonical := false
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a rule (YAML or JSON, - for standard input) and report its problems",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.readRule(args[0])
			if err != nil {
				return err
			}
			document, err := r.Encode()
			if err != nil {
				return err
			}
			if canonical {
				_, err = a.out.Write(document)
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"ok": true, "id": r.ID, "digest": hex.EncodeToString(r.Digest[:]), "bytes": len(document)})
			}
			a.printRule(r.ID, &r.Document)
			a.pairs("digest", hex.EncodeToString(r.Digest[:]), "bytes", fmt.Sprintf("%d of at most %d", len(document), rule.MaxDocument))
			return nil
		},
	}
	c.Flags().BoolVar(&canonical, "canonical", false, "print the canonical form, which its digest is of, if there is no problem")
	return c
}

// printRule tells a rule as a person reads it.
func (a *app) printRule(id string, d *rule.Document) {
	law := d.Law.Act + ", " + d.Law.Provision
	if d.Law.URI != "" {
		law += " (" + d.Law.URI + ")"
	}
	s := d.Scope
	everywhere := ""
	if s.All != "" {
		everywhere = "all services of the instance; " + s.All + " answers for it"
	}
	a.pairs("rule", id, "title", d.Title, "text", strings.ReplaceAll(d.Text, "\n", " "), "law", law,
		"valid", strings.TrimSpace(cmp.Or(d.Valid.From, "from its enactment")+" until "+cmp.Or(d.Valid.Until, "further notice")),
		"for", cmp.Or(everywhere, s.Service, s.Subsystem, s.Member, s.Process+" step "+s.Step), "utc offset", cmp.Or(d.UTCOffset, "+00:00"),
		"applies", cmp.Or(d.Applies, "to all"), "requires", d.Requires, "remedy", strings.ReplaceAll(d.Remedy, "\n", " "))
}

func newRuleVariables(a *app) *cobra.Command {
	step := false
	c := &cobra.Command{
		Use: "variables", Short: "List what the conditions of rules can ask for", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			kind := rule.Exchange
			if step {
				kind = rule.Step
			}
			t := table{head: []string{"NAME", "TYPE", "WHAT IT SAYS"}}
			out := []map[string]string{}
			for _, v := range rule.Variables(kind) {
				t.add(v.Name, v.Type, v.Says)
				out = append(out, map[string]string{"name": v.Name, "type": v.Type, "says": v.Says})
			}
			if a.json {
				return a.printJSON(out)
			}
			t.write(a.out)
			return nil
		},
	}
	c.Flags().BoolVar(&step, "step", false, "of a rule for a step of a process, beside the facts that it declares")
	return c
}

func newRuleExample(a *app) *cobra.Command {
	cases := false
	c := &cobra.Command{
		Use: "example [NAME]", Short: "Print a rule to start from, or the names of those that there are", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				name := args[0] + ".yaml"
				if cases {
					name = args[0] + ".cases.yaml"
				}
				text, err := examples.Files.ReadFile(name)
				if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
					return usageError{fmt.Errorf("there is no example %q", args[0]), "\"civibus rule example\" lists them"}
				}
				if err == nil {
					_, err = a.out.Write(text)
				}
				return err
			}
			files, err := fs.Glob(examples.Files, "*.cases.yaml")
			for _, f := range files {
				fmt.Fprintln(a.out, strings.TrimSuffix(f, ".cases.yaml"))
			}
			return err
		},
	}
	c.Flags().BoolVar(&cases, "cases", false, "print its examples of what it says instead")
	return c
}

func newRuleTest(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "test FILE CASES", Short: "Hold a rule against examples of what it must say", Args: cobra.ExactArgs(2),
		Long: `Hold a rule against a file of examples: contexts with the outcome that is expected
(permitted, refused, not_applicable, not_in_force or undecided). Exit code 0: the rule
says what is expected of all of them; 3: it does not.`,
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.readRule(args[0])
			if err != nil {
				return err
			}
			text, err := a.readFile(args[1], 1<<20)
			if err != nil {
				return err
			}
			cases, err := rule.ReadCases(text)
			var results []rule.CaseResult
			if err == nil {
				results, err = r.Run(cases)
			}
			if err != nil {
				return refusal{args[1] + ": " + err.Error(), "docs/rules.md describes the file; \"civibus rule example --cases residence\" prints one"}
			}
			return a.printCases(r.ID, results)
		},
	}
}

func (a *app) printCases(id string, results []rule.CaseResult) error {
	type outcome struct {
		Name   string       `json:"name"`
		OK     bool         `json:"ok"`
		Want   rule.Outcome `json:"want"`
		Got    rule.Outcome `json:"got"`
		Detail string       `json:"detail,omitempty"`
	}
	failed, out := 0, []outcome{}
	for _, r := range results {
		mark := "ok  "
		if !r.OK() {
			mark = "FAIL"
			failed++
		}
		out = append(out, outcome{r.Name, r.OK(), r.Want, r.Got, r.Detail})
		if a.json {
			continue
		}
		fmt.Fprintf(a.out, "%s  %s: %s", mark, r.Name, r.Got)
		if !r.OK() {
			fmt.Fprintf(a.out, ", expected %s", r.Want)
			if r.Detail != "" {
				fmt.Fprintf(a.out, " (%s)", r.Detail)
			}
		}
		fmt.Fprintln(a.out)
	}
	if a.json {
		if err := a.printJSON(map[string]any{"ok": failed == 0, "rule": id, "failed": failed, "cases": out}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return refusal{fmt.Sprintf("rule %s does not say what is expected in %d of %d cases", id, failed, len(results)), "change the rule or the expectation; people must agree on one of the two"}
	}
	if !a.json {
		fmt.Fprintf(a.out, "rule %s says what is expected in all %d cases\n", id, len(results))
	}
	return nil
}

func newRuleSimulate(a *app) *cobra.Command {
	limit := 0
	c := &cobra.Command{
		Use: "simulate FILE", Short: "Ask what a rule would have said of the body's past exchanges", Args: cobra.ExactArgs(1),
		Long: `Ask what a rule would have said of the exchanges in the body's evidence log, before it is
enacted. The record of an exchange does not hold all that a gateway knew then; what is
not known is said.`,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.readRule(args[0])
			if err != nil {
				return err
			}
			document, err := r.Encode()
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			s, err := client.Simulate(c.Context(), document, limit)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			a.printSimulation(&s)
			return nil
		},
	}
	c.Flags().IntVar(&limit, "limit", 10_000, "how many of the newest `entries` of the evidence log to read, at most 200000")
	return c
}

func (a *app) printSimulation(s *admin.Simulation) {
	a.pairs("rule", s.Rule, "entries read", strconv.Itoa(s.Looked), "exchanges in its scope", strconv.Itoa(s.Exchanges), "from", timeText(s.From), "to", timeText(s.To))
	for _, o := range []rule.Outcome{rule.Permitted, rule.NotApplicable, rule.Refused, rule.Undecided} {
		fmt.Fprintf(a.out, "%s  %d\n", strings.ReplaceAll(string(o), "_", " "), s.Outcomes[o])
	}
	if len(s.Refused) > 0 {
		fmt.Fprintln(a.out)
		t := table{head: []string{"WOULD HAVE BEEN REFUSED", "SERVICE", "TIMES", "NEWEST EXCHANGE"}}
		for _, r := range s.Refused {
			t.add(r.Client, r.Service, strconv.Itoa(r.Count), r.Exchange)
		}
		t.write(a.out)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Unknown)) {
		fmt.Fprintf(a.out, "not known: %s, in %d exchanges that cannot be decided\n", name, s.Unknown[name])
	}
	fmt.Fprintln(a.out)
	for _, n := range s.Notes {
		fmt.Fprintln(a.out, "note: "+n)
	}
}

func newRuleEnact(a *app) *cobra.Command {
	cases := ""
	c := &cobra.Command{
		Use: "enact FILE", Short: "Enact a version of a rule for what is the body's own", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.readRule(args[0])
			if err != nil {
				return err
			}
			if cases != "" { // a rule that does not say what it should is not enacted
				text, err := a.readFile(cases, 1<<20)
				if err != nil {
					return err
				}
				list, err := rule.ReadCases(text)
				var results []rule.CaseResult
				if err == nil {
					results, err = r.Run(list)
				}
				if err != nil {
					return refusal{cases + ": " + err.Error(), "docs/rules.md describes the file"}
				}
				if i := slices.IndexFunc(results, func(r rule.CaseResult) bool { return !r.OK() }); i >= 0 {
					return refusal{fmt.Sprintf("%s: %s: the rule says %s, expected is %s", cases, results[i].Name, results[i].Got, results[i].Want), "nothing was enacted; \"civibus rule test\" shows all of them"}
				}
			}
			document, err := r.Encode()
			if err != nil {
				return err
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetRule{SetRule: &registrypb.SetRule{Document: document}}})
		},
	}
	c.Flags().StringVar(&cases, "cases", "", "`file` of examples that the rule must satisfy first")
	return c
}

func newRuleList(a *app) *cobra.Command {
	var lf listFlags
	var o admin.ListOptions
	c := &cobra.Command{
		Use: "list", Short: "List the rules that are enacted", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Rules, []string{"RULE", "TITLE", "LAW", "VALID FROM", "STATUS"}, func(r admin.EnactedRule) []string {
				return []string{r.ID, r.Document.Title, r.Document.Law.Act + ", " + r.Document.Law.Provision, r.Document.Valid.From, r.Status}
			})
		},
	}
	lf.register(c)
	c.Flags().StringVar(&o.Member, "member", "", "only those of this `member`")
	return c
}

func newRuleShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show RULE", Short: "Show a version of a rule", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.Rule(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			a.printRule(r.ID, &r.Document)
			a.pairs("status", r.Status, "notice", r.Notice, "in force", periodText(r.Periods))
			return nil
		},
	}
}

func (a *app) ruleStatus(use, short string, s registrypb.Status) *cobra.Command {
	var notice string
	c := a.verb(use, short, "RULE", func(id string) *registrypb.Tx {
		return &registrypb.Tx{Body: &registrypb.Tx_SetRuleStatus{SetRuleStatus: &registrypb.SetRuleStatus{Rule: id, Status: s, Notice: notice}}}
	})
	if s == registrypb.Status_STATUS_SUSPENDED {
		c.Flags().StringVar(&notice, "notice", "", "`text` that says why")
	}
	return c
}
