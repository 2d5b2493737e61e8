package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
)

func newProcessErase(a *app) *cobra.Command {
	return a.eraseKept(&cobra.Command{
		Use: "erase INSTANCE --ground LAW", Short: "Erase what this body keeps of an instance, and leave a signed note",
		Long: `Erase what this body keeps of an instance that has ended, or in which it has nothing
to do any more: facts, their salts, reports, and what others were still to be shown, by
destroying the key that they are sealed with. Steps and commitments stay on the ledger;
without the salts they say nothing. Each body of the instance erases its own.`,
		Example: "  civibus process erase 3f0c... --ground 'GDPR Article 17(1)(a)'",
	}, func(ctx context.Context, c *admin.Client, id string, q admin.EraseKept) (admin.Erasure, error) {
		return c.EraseInstance(ctx, id, q)
	})
}

func newOnceErase(a *app) *cobra.Command {
	return a.eraseKept(&cobra.Command{
		Use: "erase REQUEST --ground LAW", Short: "Erase what this body keeps of a request for evidence, and leave a signed note",
		Long: `Erase what this body keeps of a request that was decided or has lapsed, as the one
that asked and as the one that gave: subject, document, decision and token, by destroying
the key that they are sealed with. The other body erases its own.`,
		Example: "  civibus once erase 9d41... --ground 'GDPR Article 17(1)(a)'",
	}, func(ctx context.Context, c *admin.Client, id string, q admin.EraseKept) (admin.Erasure, error) {
		return c.EraseRequest(ctx, id, q)
	})
}

// eraseKept is a command that erases one thing of a store.
func (a *app) eraseKept(c *cobra.Command, erase func(ctx context.Context, c *admin.Client, id string, q admin.EraseKept) (admin.Erasure, error)) *cobra.Command {
	var q admin.EraseKept
	c.Args = cobra.ExactArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		e, err := erase(c.Context(), client, args[0], q)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(e)
		}
		a.pairs("erased", strings.Join(e.Others, ", "), "erasure", strconv.FormatUint(e.Number, 10), "time", e.Time.Format(time.RFC3339), "ground", e.Ground)
		fmt.Fprintln(a.out, "next: replace the copies of the erasure keys, so that backups do not open it either: civibus erasure keys --out FILE")
		return nil
	}
	c.Flags().StringVar(&q.Ground, "ground", "", "act and provision by which it is erased, and nothing of the person")
	_ = c.MarkFlagRequired("ground") // fails only for unknown flags
	return c
}
