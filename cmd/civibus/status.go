package main

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
)

func newStatus(a *app) *cobra.Command {
	var block uint64
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the running node is",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if block > 0 {
				b, err := client.Block(c.Context(), block)
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(b)
				}
				a.pairs("height", strconv.FormatUint(b.Height, 10), "block hash", b.Hash)
				return nil
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			ready := "yes"
			if !s.Ready {
				ready = "no"
			}
			a.pairs("member", s.Member, "version", s.Version, "takes exchanges", ready,
				"systems call", s.ConsumerURL, "other bodies", s.ProviderAddr, "monitoring", s.MetricsURL,
				"ledger", fmt.Sprintf("%s at height %d, %d peers", s.Ledger.Mode, s.Ledger.Height, s.Ledger.Peers),
				"ledger node", ledgerNode(s),
				"evidence", fmt.Sprintf("%d entries, %d anchored at height %d, every %s while it grows", s.Evidence.Size, s.Evidence.AnchoredSize, s.Evidence.AnchoredHeight, s.Evidence.AnchorInterval),
				"application hash", s.Ledger.AppHash, "block hash", s.Ledger.BlockHash, "event log", strconv.FormatUint(s.Ledger.EventSize, 10)+" events")
			names := make([]string, 0, len(s.Components))
			for name := range s.Components {
				names = append(names, name)
			}
			sort.Strings(names)
			for _, name := range names {
				if s.Components[name] != "ok" {
					fmt.Fprintf(a.out, "problem in %s: %s\n", name, s.Components[name])
				}
			}
			for _, h := range s.Hosted {
				if h.Serving {
					fmt.Fprintf(a.out, "hosted %s: served, %d entries, %d anchored\n", h.Member, h.Size, h.AnchoredSize)
				} else {
					fmt.Fprintf(a.out, "hosted %s: NOT served: %s\n", h.Member, h.Problem)
				}
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&block, "block", 0, "print the hash of the ledger's block at this `height` only, which another body can name as trusted (ledger.trust_height, trust_hash)")
	return cmd
}

// ledgerNode is how peers know the ledger node.
func ledgerNode(s admin.Status) string {
	if s.LedgerID == "" {
		return "none"
	}
	return s.LedgerID + "@" + s.LedgerAddr
}
