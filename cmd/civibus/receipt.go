package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence/proof"
)

func newReceipt(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "receipt", Short: "Get, show and verify receipts", Args: cobra.NoArgs,
		Long: `A receipt is one file that proves an exchange: who asked whom what, when and
under which right. "verify" needs no node and no network, only the policy file
that names the validators ("receipt policy" prints that of the running node).`,
	}
	c.AddCommand(newReceiptGet(a), newReceiptShow(a), newReceiptVerify(a), newReceiptPolicy(a))
	return c
}

func newReceiptGet(a *app) *cobra.Command {
	var out string
	var wait time.Duration
	var both bool
	var entry uint64
	c := &cobra.Command{
		Use: "get EXCHANGE", Short: "Get the receipt of an exchange from the running node", Args: cobra.ExactArgs(1),
		Long: `Get the receipt of an exchange, by its X-Road-Request-Id. A receipt is there as
soon as the evidence log's checkpoint is anchored in the registry, some seconds
after the exchange. It holds the own record, and that of the other body when it
has arrived; --both waits for it. Several entries of the log have one id when a
consumer used it again; --entry chooses one, and without it the first is taken.`,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var receipt []byte
			if c.Flags().Changed("entry") {
				receipt, err = client.ReceiptOfEntry(c.Context(), args[0], entry, wait, both)
			} else if receipt, err = client.Receipt(c.Context(), args[0], wait, both); err == nil {
				err = a.noteSeveral(c.Context(), client, args[0])
			}
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0] + proof.FileExtension
			}
			if out == "-" {
				_, err := a.out.Write(append(receipt, '\n'))
				return err
			}
			if err := os.WriteFile(out, append(receipt, '\n'), 0o600); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"exchange": args[0], "file": out})
			}
			fmt.Fprintf(a.out, "receipt: %s\n", out)
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "`file` to write, - for standard output (default: EXCHANGE.receipt.json)")
	c.Flags().DurationVar(&wait, "wait", 20*time.Second, "how long to wait for what is missing, at most 60s")
	c.Flags().Uint64Var(&entry, "entry", 0, "`index` of the entry's leaf, when several have the id (\"log show EXCHANGE\" lists them)")
	c.Flags().BoolVar(&both, "both", false, "wait for the other body's half too")
	return c
}

// noteSeveral says that a receipt is of the first of several entries.
func (a *app) noteSeveral(ctx context.Context, client *admin.Client, exchange string) error {
	x, err := client.Exchange(ctx, exchange)
	if err == nil && x.Several() {
		fmt.Fprintf(a.err, "note: %d entries have this id and the receipt is of the first; \"civibus log show %s\" lists them, --entry chooses one\n", len(x.Entries), exchange)
	}
	return err
}

func newReceiptPolicy(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "policy", Short: "Print the policy file that receipts verify with", Args: cobra.NoArgs,
		Long: `Print the validators' witness keys and how many of them must have cosigned, in
C2SP's tlog-policy form. Whoever verifies receipts should get it from someone he
trusts: a receipt proves as much as its policy.`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			p, err := client.Policy(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"policy": string(p)})
			}
			_, err = a.out.Write(p)
			return err
		},
	}
}

func newReceiptVerify(a *app) *cobra.Command {
	var policyFile string
	c := &cobra.Command{
		Use: "verify FILE", Short: "Verify a receipt offline", Args: cobra.ExactArgs(1),
		Long: `Verify a receipt with a policy file, without a node and without a network. Prints
each step, and what was proved or which step failed and what that means. FILE may
be - for standard input. Exit code 0: valid; 3: not valid.`,
		RunE: func(_ *cobra.Command, args []string) error {
			receipt, err := a.readFile(args[0], proof.MaxReceiptBytes)
			if err != nil {
				return err
			}
			policy, err := a.readFile(policyFile, proof.MaxPolicyBytes)
			if err != nil {
				return err
			}
			return a.verify(receipt, policy)
		},
	}
	c.Flags().StringVar(&policyFile, "policy", "", "policy `file` (\"civibus receipt policy\" prints one)")
	_ = c.MarkFlagRequired("policy") // fails only for unknown flags
	return c
}

func (a *app) verify(receipt, policy []byte) error {
	report, err := proof.Verify(receipt, policy)
	if a.json {
		if perr := a.printJSON(report); perr != nil {
			return perr
		}
	} else if werr := report.WriteText(a.out); werr != nil {
		return werr
	}
	var failed *proof.Error
	if errors.As(err, &failed) {
		return refusal{"the receipt is not valid: " + failed.Error(), ""}
	}
	return err
}

func newReceiptShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "Show what a receipt claims, without verifying it", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := a.readFile(args[0], proof.MaxReceiptBytes)
			if err != nil {
				return err
			}
			r, err := proof.Parse(raw)
			if err != nil {
				return refusal{fmt.Sprintf("%s: %v", args[0], err), ""}
			}
			return a.showReceipt(r)
		},
	}
}

// readFile reads a file of bounded size; "-" is standard input.
func (a *app) readFile(name string, limit int64) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}
