package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
)

// The exit codes, as the root command's help documents them.
const (
	exitOK          = 0
	exitFailure     = 1 // something went wrong
	exitUsage       = 2 // wrong command line or configuration
	exitRefused     = 3 // refused, not valid, or found to be wrong
	exitUnreachable = 4 // no node answers
	exitVersion     = 5 // another version or an operator is needed; starting again does not help
)

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is what all commands share.
type app struct {
	streams
	config string // configuration file
	hosted string // the hosted member that the command is about; empty: the node's own body
	json   bool
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{streams: s}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return a.fail(c, err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "civibus",
		Short: "A government service bus without a centre",
		Long: `Civibus lets public bodies call each other's services through their own
gateways, with sealed messages, rights that all agree on, and receipts that
anyone can verify offline.

Try it: civibus demo

Exit codes: 0 done, 1 something went wrong, 2 wrong command line or
configuration, 3 refused, not valid, or found to be wrong, 4 no node answers,
5 another version of civibus is needed, or ledger.halt_height is reached:
starting again does not help.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
	}
	config := os.Getenv("CIVIBUS_CONFIG")
	if config == "" {
		config = "civibus.toml"
	}
	root.PersistentFlags().StringVar(&a.config, "config", config, "configuration `file` of the node (environment: CIVIBUS_CONFIG)")
	root.PersistentFlags().Lookup("config").DefValue = "civibus.toml"
	root.PersistentFlags().StringVar(&a.hosted, "hosted", "", "act for the `member` that the node hosts, instead of its own body")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{err, fmt.Sprintf("run \"%s --help\"", c.CommandPath())}
	})
	root.AddCommand(
		newDemo(a), newInit(a), newRun(a), newConfig(a), newNetwork(a), newJoin(a), newGovernance(a), newRegister(a), newGateway(a),
		newKey(a), newCall(a), newEvents(a), newReceipt(a), newLog(a), newLedger(a), newBackup(a), newRestore(a), newHosted(a), newProcess(a), newRule(a), newOnce(a), newUsage(a), newErasure(a), newStatus(a), newVersion(a),
	)
	root.InitDefaultCompletionCmd()
	wrapArgs(root)
	return root
}

// groupOnly marks commands that only hold others.
const groupOnly = "civibus-group"

// wrapArgs makes wrong arguments of every command usage errors, an unknown
// command too.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	if !c.Runnable() {
		c.Annotations = map[string]string{groupOnly: "true"}
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		check = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := fmt.Sprintf("run \"%s --help\"", c.CommandPath())
			c.SuggestionsMinimumDistance = 2
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf("did you mean \"%s %s\"?", c.CommandPath(), near[0])
			}
			return usageError{fmt.Errorf("unknown command %q of \"%s\"", args[0], c.CommandPath()), hint}
		}
	}
	if check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			var usage usageError
			if err == nil || errors.As(err, &usage) {
				return err
			}
			return usageError{err, fmt.Sprintf("usage: %s", c.UseLine())}
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// usageError is a wrong command line or configuration.
type usageError struct {
	err  error
	hint string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// refusal ends a command that worked and whose answer is no: a receipt that is
// not valid, a check that found something, an exchange that was refused.
type refusal struct {
	message string
	hint    string
}

func (e refusal) Error() string { return e.message }

// hinted adds a hint to an error.
type hinted struct {
	err  error
	hint string
}

func (e hinted) Error() string { return e.err.Error() }
func (e hinted) Unwrap() error { return e.err }

// fail prints a command's error and its hint and returns the exit code.
func (a *app) fail(c *cobra.Command, err error) int {
	code, hint := exitFailure, ""
	var (
		usage   usageError
		refused refusal
		h       hinted
		config  *node.ConfigError
		problem *admin.Problem
	)
	switch {
	case errors.As(err, &usage):
		code, hint = exitUsage, usage.hint
	case errors.As(err, &config):
		code, hint = exitUsage, "\"civibus config reference\" describes every key"
	case needsVersion(err):
		code, hint = exitVersion, "docs/operate/upgrade.md says how versions follow each other; a service manager should not restart on exit code 5"
	case errors.As(err, &refused):
		code, hint = exitRefused, refused.hint
	case errors.As(err, &problem):
		hint = problem.Hint
		switch {
		case problem.Status == 0:
			code = exitUnreachable
		case problem.Status < 500:
			code = exitRefused
		}
	case strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "required flag"),
		strings.HasPrefix(err.Error(), "if any flags in the group"), strings.HasPrefix(err.Error(), "at least one of the flags"):
		code, hint = exitUsage, fmt.Sprintf("run \"%s --help\"", c.CommandPath())
	}
	if errors.As(err, &h) {
		hint = h.hint
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(a.err, "civibus: error: %s\n", strings.TrimSuffix(line, "\n"))
	}
	if problem != nil && problem.Height > 0 {
		fmt.Fprintf(a.err, "civibus: code: %s, at height %d\n", problem.Code, problem.Height)
	}
	if hint != "" {
		fmt.Fprintf(a.err, "civibus: hint: %s\n", hint)
	}
	if a.json && problem != nil {
		_ = a.printJSON(problem) // the exit code says it too
	}
	return code
}

// needsVersion reports whether a node ended because another version has to go on.
func needsVersion(err error) bool {
	var unknown *registry.UnknownUpgradeError
	var halt *ledger.HaltError
	var layout *schema.Error
	return errors.As(err, &unknown) || errors.As(err, &halt) || errors.As(err, &layout)
}

// load reads the node's configuration, or what of it concerns the hosted member
// that the command is about.
func (a *app) load() (node.Config, error) {
	cfg, err := node.LoadConfig(a.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = usageError{err, "make one with \"civibus init\", or name it with --config"}
	case err == nil && a.hosted != "":
		if cfg, err = cfg.OfHosted(a.hosted); err != nil {
			err = usageError{err, "\"civibus status\" lists the members that the node hosts"}
		}
	}
	return cfg, err
}

// client returns a client of the node that the configuration describes.
func (a *app) client() (*admin.Client, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	return admin.NewClient(cfg.Admin.Socket).For(a.hosted), nil
}
