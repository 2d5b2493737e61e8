package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/internal/obs"
	"github.com/civibus/civibus/node"
)

func newRun(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the node of one body until it is told to stop",
		Long: `Run one body's node: gateway, evidence, and its part of the ledger. It writes
its log to standard error and stops in order on SIGINT or SIGTERM; exchanges
under way get 10 seconds to end. It may be killed at any moment: nothing that was
answered is lost. Under systemd it tells when it is ready (Type=notify).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.hosted != "" {
				return usageError{errors.New("a hosted member has no node of its own to run"), "run its host's without --hosted"}
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			setMemory()
			log, err := obs.NewLogger(a.err, cfg.Log.Level, cfg.Log.Format)
			if err != nil {
				return err
			}
			var n *node.Node
			n, err = node.New(cfg, node.Options{Logger: log, Ready: func() {
				if !a.json {
					fmt.Fprintf(a.out, "ready: systems call %s, other bodies %s\n", n.ConsumerURL(), n.ProviderAddress())
				}
			}})
			if err != nil {
				return err
			}
			return n.Run(c.Context())
		},
	}
}

// setMemory lets the collector run half as often as Go does by default, which
// under load costs some tens of MiB, and takes no samples of allocations, which
// nothing reads. GOGC and GOMEMLIMIT in the environment go before.
func setMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	runtime.MemProfileRate = 0
}
