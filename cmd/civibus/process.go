package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/process/draw"
	"github.com/civibus/civibus/process/examples"
)

// newProcess is about processes that several bodies carry out together.
func newProcess(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "process",
		Short: "Processes that several bodies carry out together",
		Long: `A definition says which roles do which steps for each other, in which order and
until when (spec/process.md). It is registered once; bodies take its roles; an
instance runs by the events that they post, and nobody drives the whole
(docs/processes.md).`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newProcessCheck(a), newProcessDraw(a), newProcessExample(a), newProcessSet(a), newProcessRole(a), newProcessList(a), newProcessShow(a),
		newProcessInstances(a), newProcessStart(a), newProcessTurns(a), newProcessReport(a), newProcessMigrate(a), newProcessErase(a))
	c.AddCommand(newProcessStatus(a)...)
	return c
}

func newProcessCheck(a *app) *cobra.Command {
	canonical := false
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a definition (YAML or JSON, - for standard input) and report its problems",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := a.readProcess(args[0])
			if err != nil {
				return err
			}
			if canonical {
				document, err := p.Encode()
				if err == nil {
					_, err = a.out.Write(document)
				}
				return err
			}
			return a.processSummary(p)
		},
	}
	c.Flags().BoolVar(&canonical, "canonical", false, "print the canonical form, which its digest is of, if there is no problem")
	return c
}

func newProcessDraw(a *app) *cobra.Command {
	bpmn, variant := false, ""
	c := &cobra.Command{
		Use:   "draw FILE",
		Short: "Draw a definition as an SVG picture, or write it as a BPMN 2.0 choreography",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := a.readProcess(args[0])
			if err != nil {
				return err
			}
			form := draw.Definition
			if bpmn {
				form = draw.BPMN
			}
			drawn, err := form(p, variant)
			if err != nil {
				return usageError{err, "\"civibus process check\" lists the variants"}
			}
			_, err = a.out.Write(drawn)
			return err
		},
	}
	c.Flags().BoolVar(&bpmn, "bpmn", false, "write BPMN 2.0 XML, which modelling tools open")
	c.Flags().StringVar(&variant, "variant", "", "as it is in this `variant`")
	return c
}

// readProcess reads a definition that somebody wrote and checks whether it can run.
func (a *app) readProcess(file string) (*definition.Process, error) {
	text, err := a.readFile(file, 4*definition.MaxDocument)
	if err != nil {
		return nil, err
	}
	d, err := definition.Read(text)
	if err != nil {
		return nil, refusal{file + ": " + err.Error(), "spec/process.md describes the document; \"civibus process example birth\" prints one"}
	}
	p, err := d.Compile()
	if err != nil {
		return nil, a.processProblems(file, d, err)
	}
	return p, nil
}

func newProcessExample(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "example [NAME]",
		Short: "Print a definition to start from, or the names of those that there are",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				text, err := examples.Files.ReadFile(args[0] + ".yaml")
				if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
					return usageError{fmt.Errorf("there is no example %q", args[0]), "\"civibus process example\" lists them"}
				}
				if err == nil {
					_, err = a.out.Write(text)
				}
				return err
			}
			files, err := examples.Files.ReadDir(".")
			if err != nil {
				return err
			}
			for _, f := range files {
				fmt.Fprintln(a.out, strings.TrimSuffix(f.Name(), ".yaml"))
			}
			return nil
		},
	}
}

// processProblems tells what is wrong with a definition.
func (a *app) processProblems(file string, d *definition.Definition, err error) error {
	var problems definition.Problems
	if !errors.As(err, &problems) {
		problems = definition.Problems{err.Error()}
	}
	if a.json {
		if err := a.printJSON(map[string]any{"ok": false, "id": d.ID, "version": d.Version, "problems": problems}); err != nil {
			return err
		}
	}
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = file + ": " + p
	}
	return refusal{strings.Join(lines, "\n"), "spec/process.md has the rules"}
}

// processSummary tells who does what until when.
func (a *app) processSummary(p *definition.Process) error {
	document, err := p.Encode()
	if err != nil {
		return err
	}
	digest := hex.EncodeToString(p.Digest[:])
	if a.json {
		return a.printJSON(map[string]any{
			"ok": true, "id": p.ID, "version": p.Version, "digest": digest, "bytes": len(document),
			"roles": len(p.Roles), "facts": len(p.Facts), "steps": len(p.Steps), "ends": len(p.Ends), "variants": len(p.Variants),
		})
	}
	variants := make([]string, len(p.Variants))
	for i, v := range p.Variants {
		variants[i] = v.ID
	}
	a.pairs("process", fmt.Sprintf("%s, version %d: %s", p.ID, p.Version, p.Title), "digest", digest,
		"bytes", fmt.Sprintf("%d of at most %d", len(document), definition.MaxDocument), "variants", strings.Join(variants, ", "))
	fmt.Fprintln(a.out)
	t := table{head: []string{"STEP", "FROM", "TO", "AFTER", "WITHIN", "IF LATE", "TAKEN BACK BY"}}
	for _, s := range p.Steps {
		t.add(s.ID, s.From, s.To, after(s.Needs), s.Deadline.String(), string(cmp.Or(s.OnTimeout, definition.Escalate)), cmp.Or(s.Undo, "nothing"))
	}
	t.write(a.out)
	return nil
}

// after says which steps come before.
func after(n *definition.Needs) string {
	switch {
	case n == nil:
		return ""
	case len(n.Any) > 0:
		return "any of " + strings.Join(n.Any, ", ")
	case n.Of > 0:
		return strconv.Itoa(n.Of) + " of " + strings.Join(n.Steps, ", ")
	}
	return strings.Join(n.All, ", ")
}
