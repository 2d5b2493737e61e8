package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
)

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration", Args: cobra.NoArgs}
	c.AddCommand(
		&cobra.Command{
			Use:   "check [FILE]",
			Short: "Check a configuration file and report every problem",
			Args:  cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				if len(args) == 1 {
					a.config = args[0]
				}
				cfg, err := a.load()
				var warnings []string
				if err == nil {
					warnings, err = a.checkKeys(cfg)
				}
				if err == nil {
					err = cfg.CheckHosted(a.config)
				}
				if a.json {
					return a.configReport(warnings, err)
				}
				for _, w := range warnings {
					fmt.Fprintf(a.out, "%s: warning: %s\n", a.config, w)
				}
				if err == nil {
					fmt.Fprintf(a.out, "%s: no problem found\n", a.config)
				}
				return err
			},
		},
		&cobra.Command{
			Use:   "show",
			Short: "Print the effective configuration of the running node, or of the file when none runs",
			Args:  cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				cfg, err := a.load()
				if err != nil {
					return err
				}
				text := []byte(node.Commented(cfg))
				if running, err := admin.NewClient(cfg.Admin.Socket).Config(c.Context()); err == nil {
					text = running
				}
				if a.json {
					return a.configJSON(text)
				}
				_, err = a.out.Write(text)
				return err
			},
		},
		&cobra.Command{
			Use:   "reference",
			Short: "Print the manual of the configuration",
			Args:  cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprint(a.out, node.Reference())
				return err
			},
		},
	)
	return c
}

// configJSON prints a configuration as JSON, with the keys of the file.
func (a *app) configJSON(text []byte) error {
	cfg, err := node.ParseConfig(text)
	if err != nil {
		return err
	}
	full, err := toml.Marshal(cfg.WithDefaults())
	if err != nil {
		return fmt.Errorf("show the configuration: %w", err)
	}
	keys := map[string]any{}
	if err := toml.Unmarshal(full, &keys); err != nil {
		return fmt.Errorf("show the configuration: %w", err)
	}
	return a.printJSON(keys)
}

// checkKeys opens the body's keys and returns what the node would warn of.
func (a *app) checkKeys(cfg node.Config) ([]string, error) {
	if cfg.Keys.ReadOnce() {
		return []string{"keys: not looked at, since the node alone can read " + cfg.Keys.Passphrase}, nil
	}
	ring, err := cfg.Keys.Open()
	if err != nil {
		return nil, &node.ConfigError{File: a.config, Problems: []node.Problem{{Key: "keys", Message: err.Error()}}}
	}
	defer ring.Close()
	var out []string
	for _, w := range ring.Warnings(time.Now()) {
		out = append(out, w.File+": "+w.Message)
	}
	return out, nil
}

// configReport prints the outcome of a check as JSON.
func (a *app) configReport(warnings []string, err error) error {
	type problem struct {
		Key     string `json:"key,omitempty"`
		Line    int    `json:"line,omitempty"`
		Message string `json:"message"`
	}
	out := struct {
		File     string    `json:"file"`
		OK       bool      `json:"ok"`
		Problems []problem `json:"problems"`
		Warnings []string  `json:"warnings"`
	}{File: a.config, OK: err == nil, Problems: []problem{}, Warnings: append([]string{}, warnings...)}
	var ce *node.ConfigError
	if errors.As(err, &ce) {
		for _, p := range ce.Problems {
			out.Problems = append(out.Problems, problem{p.Key, p.Line, p.Message})
		}
	} else if err != nil {
		return err
	}
	if perr := a.printJSON(out); perr != nil {
		return perr
	}
	return err
}
