package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
)

func newLog(a *app) *cobra.Command {
	c := &cobra.Command{Use: "log", Short: "Show and check the body's evidence log", Args: cobra.NoArgs}
	c.AddCommand(newLogShow(a), newLogCheck(a), newLogFsck(a))
	return c
}

func newLogShow(a *app) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "show [EXCHANGE]", Short: "Show the log's state and newest entries, or one exchange", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				x, err := client.Exchange(c.Context(), args[0])
				if err != nil {
					return err
				}
				return a.showExchange(x)
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			page, err := client.Exchanges(c.Context(), limit)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Log     admin.EvidenceStatus `json:"log"`
					Entries []admin.Entry        `json:"entries"`
				}{s.Evidence, page.Items})
			}
			a.pairs("log", s.Evidence.Origin, "entries", fmt.Sprint(s.Evidence.Size),
				"anchored", fmt.Sprintf("%d at height %d", s.Evidence.AnchoredSize, s.Evidence.AnchoredHeight), "problem", s.Evidence.Problem)
			if len(page.Items) == 0 {
				return nil
			}
			fmt.Fprintln(a.out)
			t := table{head: []string{"INDEX", "TIME", "SIDE", "CLIENT", "SERVICE", "OUTCOME", "EXCHANGE"}}
			for _, e := range page.Items {
				t.add(strconv.FormatUint(e.Index, 10), e.Started.Format(time.RFC3339), e.Side, e.Client, e.Service, outcomeText(e), e.ExchangeID)
			}
			t.write(a.out)
			return nil
		},
	}
	c.Flags().IntVar(&limit, "limit", 20, "how many `entries` to show, at most 1000")
	return c
}

func outcomeText(e admin.Entry) string {
	switch {
	case e.Fault != "":
		return e.Outcome + " (" + e.Fault + ")"
	case e.Status != 0:
		return fmt.Sprintf("%s %d", e.Outcome, e.Status)
	}
	return e.Outcome
}

func (a *app) showExchange(x admin.Exchange) error {
	if a.json {
		return a.printJSON(x)
	}
	for _, e := range x.Entries {
		state := "durable, not yet in the Merkle log"
		if e.Integrated {
			state = fmt.Sprintf("leaf %d of the Merkle log", e.Index)
		}
		a.pairs("exchange", e.ExchangeID, "side", e.Side, "message", e.MessageID, "client", e.Client, "service", e.Service, "right", e.RightID,
			"outcome", outcomeText(e), "started", e.Started.Format(time.RFC3339Nano), "finished", e.Finished.Format(time.RFC3339Nano),
			"registry height", fmt.Sprint(e.Height), "entry", state)
	}
	half := "has not arrived"
	if x.Counterpart {
		half = "is here"
	}
	fmt.Fprintf(a.out, "the other body's half of the receipt %s\n", half)
	if x.Several() {
		fmt.Fprintf(a.out, "%d entries have this id; \"civibus receipt get %s --entry LEAF\" makes the receipt of one\n", len(x.Entries), x.Entries[0].ExchangeID)
	}
	return nil
}

func newLogCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check the running node's log against what the registry witnessed", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			check, err := client.CheckLog(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(check)
			} else {
				for _, s := range check.Steps {
					mark := "ok  "
					if !s.OK {
						mark = "FAIL"
					}
					fmt.Fprintf(a.out, "%s  %s: %s\n", mark, s.Name, s.Detail)
				}
			}
			if err == nil && !check.OK {
				err = refusal{"the evidence log does not hold what it should", "keep the folder as it is; \"civibus log fsck\" on the stopped node names the damage"}
			}
			return err
		},
	}
}

func newLogFsck(a *app) *cobra.Command {
	var opts evidence.FsckOptions
	var keyFiles []string
	c := &cobra.Command{
		Use: "fsck [DIR]", Short: "Check every file of a stopped node's log and name all damage", Args: cobra.MaximumNArgs(1),
		Long: `Check the write-ahead log, the Merkle log, the records against their leaves and
the archived bodies, changing nothing. DIR is the log's folder; without it, that
of the configuration, whose log keys are used to check signatures. Exit code 0:
nothing is wrong; 3: something is.`,
		RunE: func(c *cobra.Command, args []string) error {
			dir := ""
			if len(args) == 1 {
				dir = args[0]
			} else {
				cfg, err := a.load()
				if err != nil {
					return err
				}
				ring, err := cfg.Keys.Open()
				if err != nil {
					return err
				}
				defer ring.Close()
				for _, k := range ring.All(civibus.LogKey) {
					opts.PublicKeys = append(opts.PublicKeys, k.Key())
				}
				dir, opts.ArchiveKey, opts.BodyRetention = cfg.EvidenceDir(), cfg.Evidence.ArchiveKey, time.Duration(cfg.Evidence.BodyRetention)
			}
			for _, file := range keyFiles {
				spki, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				k, err := civibus.ParsePublicKey(spki)
				if err != nil {
					return fmt.Errorf("--log-key %s: %w", file, err)
				}
				opts.PublicKeys = append(opts.PublicKeys, k)
			}
			report, err := evidence.Fsck(c.Context(), dir, opts)
			if err != nil {
				return err
			}
			return a.fsckReport(dir, report)
		},
	}
	c.Flags().StringArrayVar(&keyFiles, "log-key", nil, "`file` with a log key's SubjectPublicKeyInfo (DER), to check signatures with; again for each")
	c.Flags().BoolVar(&opts.SkipArchive, "skip-archive", false, "leave archived bodies unread")
	return c
}

func (a *app) fsckReport(dir string, r *evidence.Report) error {
	if a.json {
		if err := a.printJSON(struct {
			OK bool `json:"ok"`
			*evidence.Report
			Notes    []string           `json:"notes"`
			Problems []evidence.Problem `json:"problems"`
		}{r.OK(), r, append([]string{}, r.Notes...), append([]evidence.Problem{}, r.Problems...)}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.out, "%s: %d leaves, %d records, %d pending, %d bodies, %d anchors\n", r.Origin, r.Size, r.Records, r.Pending, r.Bodies, r.Anchors)
		for _, n := range r.Notes {
			fmt.Fprintf(a.out, "note: %s\n", n)
		}
		for _, p := range r.Problems {
			fmt.Fprintf(a.out, "PROBLEM: %s: %s; %s\n", p.File, p.What, p.Fix)
		}
	}
	if !r.OK() {
		return refusal{fmt.Sprintf("the evidence log %s is damaged, problems: %d", dir, len(r.Problems)), "nothing was changed; the counterparties' receipts and a backup say what was there"}
	}
	return nil
}
