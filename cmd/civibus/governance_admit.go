package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// admitFlags are the flags of civibus governance admit.
type admitFlags struct {
	ballotFlags
	votes  uint32
	power  uint64
	parent string
}

func newAdmit(a *app) *cobra.Command {
	var f admitFlags
	c := &cobra.Command{
		Use: "admit JOIN.toml", Short: "Propose to take a body in, from its join file",
		Long: `Check the join file of a body and propose to take it in as a top-level member. The
file is refused unless it is for this instance, made with the same genesis, and
every key in it proves that the body holds it and wants it to be its own here.

With --parent the body is registered below a member that this one administers, at
once and without a vote: it has no vote of its own, and who administers the parent
answers for it. Run it again if it was interrupted.`,
		Example: "  civibus governance admit join.toml --votes 1\n  civibus governance admit join.toml --parent EE/GOV/70000001",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if f.parent != "" && (c.Flags().Changed("votes") || f.power > 0) {
				return usageError{errors.New("a body below a parent has no votes and gets voting power by a vote; the rule is --votes and --power without --parent"), ""}
			}
			j, err := a.readJoin(args[0])
			if err != nil {
				return err
			}
			if f.parent != "" {
				return a.registerBelow(c.Context(), j, f.parent)
			}
			if f.power > 0 && j.Role != node.JoinValidator {
				return refusal{fmt.Sprintf("%s: it asks to be a %s, and --power gives it a vote on blocks; the rule is a join file made with --as validator", args[0], j.Role),
					"admit it without --power; it can be given voting power by a vote later"}
			}
			m, err := j.Admission(f.votes, f.power)
			if err != nil {
				return err
			}
			return a.propose(c.Context(), f.ballotFlags, &registrypb.Change{Change: &registrypb.Change_AdmitMember{AdmitMember: m}})
		},
	}
	f.register(c)
	c.Flags().Uint32Var(&f.votes, "votes", 1, "its `weight` in votes on proposals")
	c.Flags().Uint64Var(&f.power, "power", 0, "its voting `power` on blocks")
	c.Flags().StringVar(&f.parent, "parent", "", "register it below this `member` instead")
	return c
}

// readJoin reads a join file and checks it against this node's instance.
func (a *app) readJoin(file string) (node.Join, error) {
	cfg, err := a.load()
	if err != nil {
		return node.Join{}, err
	}
	genesis, err := os.ReadFile(cfg.Ledger.Genesis)
	if err != nil {
		return node.Join{}, err
	}
	g, err := node.ReadGenesis(cfg.Ledger.Genesis)
	if err != nil {
		return node.Join{}, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return node.Join{}, err
	}
	j, err := node.ParseJoin(text)
	if err != nil {
		return j, refusal{fmt.Sprintf("%s: %v", file, err), "the file is the one that \"civibus join\" wrote"}
	}
	if err := j.Check(g.ChainID, node.GenesisDigest(genesis)); err != nil {
		return j, refusal{perLine(file, err), "nothing was proposed; have the file made again on the body's machine"}
	}
	return j, nil
}

// perLine puts a file's name before each line of an error.
func perLine(file string, err error) string {
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) {
		return file + ": " + err.Error()
	}
	out := ""
	for i, e := range all.Unwrap() {
		if i > 0 {
			out += "\n"
		}
		out += file + ": " + e.Error()
	}
	return out
}

// registerBelow registers a body below a member. What is registered already is
// left as it is, so that it can be run again.
func (a *app) registerBelow(ctx context.Context, j node.Join, parent string) error {
	txs, err := j.Registration(parent)
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	if m, err := client.Member(ctx, j.Member); err == nil && m.Parent != parent {
		return refusal{fmt.Sprintf("member %s exists already and is not below %s", j.Member, parent), "\"civibus register member change --parent\" moves a member"}
	} else if err != nil && !admin.IsCode(err, "not_found") {
		return err
	}
	var last admin.Change
	done := []admin.Change{}
	for _, tx := range txs {
		if tx.GetAddKey() != nil {
			registered, err := a.isKeyOf(ctx, client, tx.GetAddKey())
			if err != nil {
				return err
			}
			if registered {
				continue
			}
		}
		out, err := client.Change(ctx, tx)
		if admin.IsCode(err, "no_change") {
			continue
		}
		if err != nil {
			return err
		}
		done, last = append(done, out), out
	}
	if a.json {
		return a.printJSON(struct {
			Member  string         `json:"member"`
			Parent  string         `json:"parent"`
			Changes []admin.Change `json:"changes"`
		}{j.Member, parent, done})
	}
	if len(done) == 0 {
		_, err = fmt.Fprintf(a.out, "%s is registered below %s already\n", j.Member, parent)
		return err
	}
	_, err = fmt.Fprintf(a.out, "done at height %d: %s, below %s, in %d changes\n", last.Height, j.Member, parent, len(done))
	return err
}

// isKeyOf reports whether a key is the member's own already.
func (a *app) isKeyOf(ctx context.Context, client *admin.Client, add *registrypb.AddKey) (bool, error) {
	sum := sha256.Sum256(add.Spki)
	k, err := client.Key(ctx, hex.EncodeToString(sum[:]))
	if admin.IsCode(err, "not_found") {
		return false, nil
	}
	return err == nil && k.Member == add.Member, err
}

func newRecover(a *app) *cobra.Command {
	var f ballotFlags
	c := &cobra.Command{
		Use: "recover KEY.toml", Short: "Propose a new admin key for a member that cannot help itself",
		Long: `Propose to give a new admin key to a member that is suspended or has no admin key
in force. The member made the key and the file with "civibus key new admin" and
"civibus key offer".`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, key, err := a.readOffer(args[0])
			if err != nil {
				return err
			}
			if o.Purpose != civibus.AdminKey.String() {
				return refusal{fmt.Sprintf("%s: it offers a %s key, the rule is an admin key", args[0], o.Purpose), "civibus key new admin"}
			}
			return a.propose(c.Context(), f, &registrypb.Change{Change: &registrypb.Change_RecoverMember{
				RecoverMember: &registrypb.RecoverMember{Id: o.Member, Key: key},
			}})
		},
	}
	f.register(c)
	return c
}

// readOffer reads the file of a key that is offered to this instance.
func (a *app) readOffer(file string) (node.Offer, *registrypb.NewKey, error) {
	cfg, err := a.load()
	if err != nil {
		return node.Offer{}, nil, err
	}
	g, err := node.ReadGenesis(cfg.Ledger.Genesis)
	if err != nil {
		return node.Offer{}, nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return node.Offer{}, nil, err
	}
	o, key, err := node.ParseOffer(text, g.ChainID)
	if err != nil {
		return o, nil, refusal{fmt.Sprintf("%s: %v", file, err), "the file is the one that \"civibus key offer\" wrote"}
	}
	return o, key, nil
}
