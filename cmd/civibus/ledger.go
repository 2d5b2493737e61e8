package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/node"
)

func newLedger(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "ledger", Short: "Check and repair the ledger of a stopped node", Args: cobra.NoArgs,
		Long: `Look after the ledger's files of a node that does not run. What the ledger holds
is agreed on by all bodies, so that whatever is damaged at one of them comes again
from the others.`,
	}
	c.AddCommand(newLedgerCheck(a), newLedgerResync(a), newLedgerRestore(a), newLedgerSign(a))
	return c
}

// ledgerDir is where the ledger of a configuration is.
func ledgerDir(cfg node.Config) string { return filepath.Join(cfg.DataDir, "ledger") }

func newLedgerCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Read all of a stopped node's ledger and name all damage", Args: cobra.NoArgs,
		Long: `Read every record of the ledger's databases, rebuild the registry's trees from
their leaves, compare their hash with the one that the validators signed, and
check that the blocks follow each other. Nothing is changed. Exit code 0: nothing
is wrong; 3: something is.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			report, err := ledger.Check(c.Context(), ledgerDir(cfg))
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(report)
			} else {
				for _, p := range report.Problems {
					fmt.Fprintf(a.out, "FAIL  %s: %s\n      fix: %s\n", p.File, p.What, p.Fix)
				}
				a.pairs("records read", fmt.Sprint(report.Records), "blocks", fmt.Sprint(report.Blocks), "height", fmt.Sprint(report.Height))
			}
			if err == nil && len(report.Problems) > 0 {
				err = refusal{"the ledger's files are damaged", "\"civibus ledger resync\" moves the damaged part away, and the node fetches it from the other bodies"}
			}
			return err
		},
	}
}

func newLedgerResync(a *app) *cobra.Command {
	var registryOnly bool
	c := &cobra.Command{
		Use: "resync", Short: "Move a stopped node's ledger aside, so that it is fetched from the other bodies", Args: cobra.NoArgs,
		Long: `Move the registry, the blocks and the consensus state into a folder aside-TIME
within the ledger's, of which nothing is deleted. At its next start the node
fetches them from the other bodies, and its validator signs nothing until the
chain has gone on without it. With --registry the registry alone is moved and
executed again from the node's own blocks.

Needed are peers with all blocks, or with a snapshot (ledger.snapshot_interval).`,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			to, err := ledger.SetAside(ledgerDir(cfg), !registryOnly, time.Now())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Aside string `json:"aside"`
				}{to})
			}
			fmt.Fprintf(a.out, "moved to %s; delete it once the node has caught up\nnext: civibus run\n", to)
			return nil
		},
	}
	c.Flags().BoolVar(&registryOnly, "registry", false, "move the registry alone")
	return c
}

func newLedgerRestore(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "restore SNAPSHOT", Short: "Begin a stopped node's ledger with a snapshot that was handed over", Args: cobra.ExactArgs(1),
		Long: `Fill the ledger of a node that has none yet from SNAPSHOT, the folder that a node
with ledger.snapshot_interval writes at ledger/snapshots/HEIGHT. It may come from
anybody: nothing of it is believed. Its chunks must give the hash that more than
two thirds of the genesis's validators signed. The blocks since then come from the
peers at the next start.`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			genesis, err := node.ReadGenesis(cfg.Ledger.Genesis)
			if err != nil {
				return err
			}
			m, err := ledger.ReadManifest(args[0])
			if err != nil {
				return err
			}
			if err := ledger.RestoreSnapshot(c.Context(), ledger.Config{Dir: ledgerDir(cfg), Genesis: genesis}, args[0]); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Height uint64 `json:"height"`
				}{m.Height})
			}
			fmt.Fprintf(a.out, "the ledger begins with height %d\nnext: civibus run\n", m.Height)
			return nil
		},
	}
}

func newLedgerSign(a *app) *cobra.Command {
	var accept bool
	c := &cobra.Command{
		Use: "sign", Short: "Let a restored validator sign at once, at its body's risk", Args: cobra.NoArgs,
		Long: `Lift the guard that a restore put before the validator of this stopped node. It
is for an instance that stands still because so many of its validators were
restored that no block can be made without them.

The risk: if the validator's key signed anything above this node's newest block,
here before the restore or anywhere else, it now signs twice. Every other node can
prove that; the key then loses its vote and is revoked as compromised. Make sure
that no node of the instance has a greater height than this one ("civibus status"
at each), and that the old node is ended for good.`,
		RunE: func(*cobra.Command, []string) error {
			if !accept {
				return usageError{errors.New("the risk was not accepted, nothing was changed"), "read \"civibus ledger sign --help\", then add --accept-double-signing-risk"}
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			height, err := ledger.LiftGuard(ledgerDir(cfg))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					From uint64 `json:"from"`
				}{height + 1})
			}
			fmt.Fprintf(a.out, "the validator signs from height %d at its next start\n", height+1)
			return nil
		},
	}
	c.Flags().BoolVar(&accept, "accept-double-signing-risk", false, "the operator vouches that the key signed nothing above this node's newest block")
	return c
}
