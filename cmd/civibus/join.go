package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/node"
)

// joinFlags are the flags of civibus join.
type joinFlags struct {
	genesis, body, out, role string
	peers, fullNodes         []string
}

func newJoin(a *app) *cobra.Command {
	var f joinFlags
	c := &cobra.Command{
		Use: "join", Short: "Ask to be taken into a network that exists",
		Long: `Write join.toml, with which this body asks to be taken into a network: who it is,
how it is reached, and its public keys, each with a proof that the body holds it,
bound to this network. It holds no secret. The genesis is copied to its place, and
the section [ledger] of civibus.toml is set.

Compare the digest of the genesis that is printed with a member, by telephone or
face to face. Send join.toml to a member, your sponsor: it proposes to admit you
with "civibus governance admit join.toml", and the members vote. Nobody who is not
a member can write to the ledger, so you cannot propose yourself.

"civibus run" may be started at once: it waits until the members have decided,
fetches the ledger, verifies it, and takes part.

--as says how: follower (a ledger node that follows; it may become a validator by
a vote), validator (the same, and the members are asked for voting power), light (a
gateway without a ledger node) or hosted (another body's gateway carries the
exchanges under this body's own seal).`,
		Example: "  civibus join --genesis genesis.toml --peer 5f0c...@bus.example.org:26656 --as follower",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.join(c, f) },
	}
	c.Flags().StringVar(&f.genesis, "genesis", "", "`file` with the network's genesis")
	c.Flags().StringArrayVar(&f.peers, "peer", nil, "`NODE-ID@host:port` of a ledger node of the network; again for each, two or more are wise")
	c.Flags().StringArrayVar(&f.fullNodes, "full-node", nil, "`host:port` of the provider face of a body with a ledger node; again for each")
	c.Flags().StringVar(&f.role, "as", node.JoinFollower, "validator, follower, light or hosted")
	c.Flags().StringVar(&f.body, "body", "", "`file` that \"civibus init\" wrote (default: body.toml beside the configuration)")
	c.Flags().StringVar(&f.out, "out", "join.toml", "`file` to write")
	_ = c.MarkFlagRequired("genesis") // fails only for unknown flags
	return c
}

func (a *app) join(c *cobra.Command, f joinFlags) error {
	// 1. Everything is read and checked before anything is written.
	paths, err := node.ConfigPaths(a.config)
	if errors.Is(err, fs.ErrNotExist) {
		return usageError{err, "make it with \"civibus init\" first, or name it with --config"}
	} else if err != nil {
		return err
	}
	if f.body == "" {
		f.body = filepath.Join(filepath.Dir(a.config), "body.toml")
	}
	founders, err := readFounders([]string{f.body})
	if err != nil {
		return err
	}
	body := founders[0].Body
	if body.Member != paths.Member {
		return refusal{fmt.Sprintf("%s is of member %s, %s of %s; the rule is one body", f.body, body.Member, a.config, paths.Member), ""}
	}
	genesis, err := os.ReadFile(f.genesis)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(paths.Ledger.Genesis); err == nil && !bytes.Equal(old, genesis) {
		return refusal{fmt.Sprintf("%s is there already and is another genesis than %s", paths.Ledger.Genesis, f.genesis), "a body has one network; move the file away if it is not in use"}
	}
	values, err := f.settings()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(a.config)
	if err != nil {
		return err
	}
	if text, err = node.EditLedger(text, values); err != nil {
		return err
	}
	// 2. The file, with proofs by the body's keys.
	ring, err := paths.Keys.Open()
	if err != nil {
		return err
	}
	defer ring.Close()
	j, err := node.NewJoin(c.Context(), ring, body, genesis, f.role)
	if err != nil {
		return refusal{err.Error(), "nothing was written"}
	}
	joinText, err := j.TOML()
	if err != nil {
		return err
	}
	// 3. Written: the genesis, the configuration, the join file.
	if err := node.ReplaceFile(paths.Ledger.Genesis, genesis, 0o644); err != nil {
		return err
	}
	if err := node.ReplaceFile(a.config, text, 0o644); err != nil {
		return err
	}
	if err := node.ReplaceFile(f.out, joinText, 0o644); err != nil {
		return err
	}
	return a.joinReport(f, j)
}

// settings are the keys of [ledger] that go with the role.
func (f joinFlags) settings() (map[string]string, error) {
	switch f.role {
	case node.JoinValidator, node.JoinFollower:
		if len(f.peers) == 0 {
			return nil, usageError{errors.New("--peer is missing; the rule is at least one ledger node by which this one finds the network"), "\"civibus status\" of a member prints its ledger node"}
		}
	case node.JoinLight:
		if len(f.fullNodes) == 0 {
			return nil, usageError{errors.New("--full-node is missing; the rule for a light gateway is at least one, two or more are wise"), "the provider face of any body with a ledger node"}
		}
	}
	out := map[string]string{}
	if f.role != node.JoinHosted {
		out["mode"] = fmt.Sprintf("%q", f.role)
	}
	if len(f.peers) > 0 {
		out["peers"] = node.TOMLStrings(f.peers)
	}
	if len(f.fullNodes) > 0 {
		out["full_nodes"] = node.TOMLStrings(f.fullNodes)
	}
	return out, nil
}

func (a *app) joinReport(f joinFlags, j node.Join) error {
	if a.json {
		return a.printJSON(struct {
			node.Join
			File string `json:"file"`
		}{j, f.out})
	}
	a.pairs("body", j.Member, "joins", j.ChainID, "as", j.Role, "join file", f.out, "configuration", a.config)
	fmt.Fprintf(a.out, "\ncompare with a member before you go on:\n  SHA-256 of the genesis  %s\n", grouped(j.Genesis))
	next := []string{"send " + f.out + " to a member; it runs: civibus governance admit " + filepath.Base(f.out)}
	if j.Role != node.JoinHosted {
		next = append(next, "civibus run, which waits for the members' decision")
	}
	fmt.Fprintf(a.out, "next: %s\n", strings.Join(next, "\nnext: "))
	return nil
}
