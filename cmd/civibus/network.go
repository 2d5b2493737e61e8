package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
)

func newNetwork(a *app) *cobra.Command {
	c := &cobra.Command{Use: "network", Short: "Found a network in which nobody is in charge", Args: cobra.NoArgs}
	c.AddCommand(newNetworkNew(a), newNetworkCheck(a))
	return c
}

func newNetworkNew(a *app) *cobra.Command {
	var out, chainID, at string
	var mldsa bool
	c := &cobra.Command{
		Use: "new BODY.toml...", Short: "Make the genesis of a network from its founders' public files",
		Long: `Make the genesis that all nodes of a network start from. Each founder has run
"civibus init" on its own machine and hands over its body.toml, which holds no
private key. The founders have one vote and one validator each; there are no
registrars: whatever comes later comes by vote ("civibus governance").

One founder runs this and sends genesis.toml to the others. Each runs "civibus
network check" on it, and all compare the digest that it prints, by telephone or
face to face, before any node starts.`,
		Example: "  civibus network new population.toml business.toml permits.toml town.toml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			founders, err := readFounders(args)
			if err != nil {
				return err
			}
			start := time.Now()
			if at != "" {
				if start, err = time.Parse(time.RFC3339, at); err != nil {
					return usageError{fmt.Errorf("--time %q: the rule is RFC 3339", at), "e.g. --time 2026-12-01T08:00:00Z"}
				}
			}
			g, err := node.FoundNetwork(chainID, start, founders)
			if err != nil {
				return refusal{err.Error(), "nothing was written"}
			}
			if g.MLDSAValidators && !mldsa {
				return refusal{"a founder's validator key is ML-DSA-65, the rule is Ed25519", "say --ml-dsa-validators if all agree to it; nothing was written"}
			}
			g.MLDSAValidators = mldsa
			text, err := g.TOML()
			if err != nil {
				return err
			}
			if err := writeNew(out, text, 0o644); err != nil {
				return err
			}
			return a.networkReport(out, text, g)
		},
	}
	c.Flags().StringVar(&out, "out", "genesis.toml", "new `file` to write")
	c.Flags().StringVar(&chainID, "chain-id", "", "`name` of the ledger (default: instance-1 in lower case)")
	c.Flags().BoolVar(&mldsa, "ml-dsa-validators", false, "let validator keys be ML-DSA-65 beside Ed25519, which withstands quantum computers and makes a commit of ten validators 34 KB instead of 1")
	c.Flags().StringVar(&at, "time", "", "when the network starts, `RFC 3339` (default: now)")
	return c
}

func newNetworkCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check GENESIS [BODY.toml...]", Short: "Check a genesis as a founder and print the digest to compare",
		Long: `Check that a genesis is well-formed and that the bodies whose files are given, at
least your own, are in it exactly as their files say. Prints who the founders are
and the file's SHA-256, which is the same for all of them or something is wrong;
sha256sum prints the same.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			g, err := registry.ParseGenesis(text)
			if err != nil {
				return refusal{fmt.Sprintf("%s: %v", args[0], err), "ask for the file again and compare its digest"}
			}
			founders, err := readFounders(args[1:])
			if err != nil {
				return err
			}
			for _, f := range founders {
				if err := node.CheckFounder(g, f); err != nil {
					return refusal{err.Error(), "do not start a node with this genesis; have it made again from the file as it is"}
				}
			}
			return a.networkReport(args[0], text, g)
		},
	}
}

func readFounders(files []string) ([]node.Founder, error) {
	var out []node.Founder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		b, err := node.ParseBody(text)
		if err != nil {
			return nil, refusal{fmt.Sprintf("%s: %v", file, err), "the file is the body.toml that \"civibus init\" wrote"}
		}
		out = append(out, node.Founder{File: file, Body: b})
	}
	return out, nil
}

// networkReport prints what founders compare.
func (a *app) networkReport(file string, text []byte, g *registry.Genesis) error {
	type founder struct {
		Member string   `json:"member"`
		Name   string   `json:"name"`
		Votes  uint32   `json:"votes"`
		Power  int64    `json:"power"`
		Nodes  []string `json:"nodes"`
	}
	sum := sha256.Sum256(text)
	digest := hex.EncodeToString(sum[:])
	founders := []founder{}
	t := table{head: []string{"FOUNDER", "NAME", "VOTES", "POWER", "NODE"}}
	for _, m := range g.Members {
		f := founder{Member: m.ID, Name: m.Name, Nodes: []string{}}
		switch {
		case m.Votes != nil:
			f.Votes = *m.Votes
		case m.Parent == "" && g.Protocol > 0:
			f.Votes = 1
		}
		for _, v := range g.Validators {
			if v.Member == m.ID {
				f.Power += v.Power
			}
		}
		for _, n := range m.Nodes {
			f.Nodes = append(f.Nodes, n.ID+"@"+n.Address)
		}
		founders = append(founders, f)
		t.add(f.Member, f.Name, fmt.Sprint(f.Votes), fmt.Sprint(f.Power), strings.Join(f.Nodes, ", "))
	}
	if a.json {
		return a.printJSON(struct {
			Genesis    string    `json:"genesis"`
			SHA256     string    `json:"sha256"`
			Instance   string    `json:"instance"`
			ChainID    string    `json:"chain_id"`
			Time       time.Time `json:"time"`
			Registrars []string  `json:"registrars"`
			Founders   []founder `json:"founders"`
		}{file, digest, g.Instance, g.ChainID, g.Time, append([]string{}, g.Registrars...), founders})
	}
	registrars := "none: members come by vote"
	if len(g.Registrars) > 0 {
		registrars = strings.Join(g.Registrars, ", ")
	}
	a.pairs("genesis", file, "instance", g.Instance, "chain", g.ChainID, "starts", g.Time.Format(time.RFC3339), "registrars", registrars)
	fmt.Fprintln(a.out)
	t.write(a.out)
	fmt.Fprintf(a.out, "\ncompare with all founders before any node starts:\n  SHA-256  %s\n", grouped(digest))
	return nil
}

// grouped sets a space after every eight characters, to be read aloud.
func grouped(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && i%8 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
