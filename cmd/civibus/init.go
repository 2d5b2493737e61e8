package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/node"
)

// initFlags are the flags of civibus init.
type initFlags struct {
	member, name, dir, serverCode      string
	provider, ledger, consumer, metric string
	passphrase                         string
	found, mldsa                       bool
}

func newInit(a *app) *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the keys and the configuration of one body",
		Long: `Make the keys of one public body, a commented civibus.toml, and body.toml,
which tells others what they need to know of the body and holds no secret.

With --found the body founds an instance of its own: genesis.toml is made too,
and "civibus run" works at once. Several bodies found an instance together by
each running "civibus init", exchanging their body.toml files, and one of them
running "civibus init genesis" on all of them; the others get its genesis.toml.
Nothing is ever overwritten.`,
		Example: "  civibus init --member DEMO/GOV/0001 --name 'Population Office' --found\n  civibus run",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.initBody(f) },
	}
	c.Flags().StringVar(&f.member, "member", "", "`INSTANCE/CLASS/MEMBER` of the body")
	c.Flags().StringVar(&f.name, "name", "", "official `name` of the body")
	c.Flags().StringVar(&f.dir, "dir", ".", "`folder` to write to")
	c.Flags().StringVar(&f.serverCode, "server-code", "gateway-1", "`code` of this gateway among the body's")
	c.Flags().StringVar(&f.provider, "provider", "127.0.0.1:5500", "`host:port` at which other bodies reach this one")
	c.Flags().StringVar(&f.ledger, "ledger", "127.0.0.1:26656", "`host:port` at which other ledger nodes reach this one")
	c.Flags().StringVar(&f.consumer, "consumer", "127.0.0.1:8080", "`host:port` at which the body's systems call")
	c.Flags().StringVar(&f.metric, "metrics", "127.0.0.1:9464", "`host:port` for monitoring, or off")
	c.Flags().StringVar(&f.passphrase, "passphrase", "", "`source` of the passphrase that encrypts the key files: file:PATH, credential:NAME or fd:NUMBER (default: not encrypted)")
	c.Flags().BoolVar(&f.found, "found", false, "found an instance with this body alone")
	c.Flags().BoolVar(&f.mldsa, "ml-dsa-validator", false, "make the validator's key ML-DSA-65, for a network that allows it (civibus network new --ml-dsa-validators)")
	_ = c.MarkFlagRequired("member") // fails only for unknown flags
	_ = c.MarkFlagRequired("name")
	c.AddCommand(newInitGenesis(a))
	return c
}

func (a *app) initBody(f initFlags) error {
	// 1. Everything is checked before anything is written.
	member, err := civibus.ParseMemberID(f.member)
	if err != nil {
		return usageError{err, "e.g. --member DEMO/GOV/0001"}
	}
	for _, addr := range []struct{ flag, value string }{{"provider", f.provider}, {"ledger", f.ledger}, {"consumer", f.consumer}} {
		if _, _, err := net.SplitHostPort(addr.value); err != nil {
			return usageError{fmt.Errorf("--%s %q: the rule is host:port", addr.flag, addr.value), ""}
		}
	}
	if f.passphrase, err = sourceHere("--passphrase", f.passphrase); err != nil {
		return err
	}
	for _, name := range []string{"civibus.toml", "body.toml", "genesis.toml", "keys"} {
		if name == "genesis.toml" && !f.found {
			continue
		}
		if _, err := os.Stat(filepath.Join(f.dir, name)); err == nil {
			return refusal{filepath.Join(f.dir, name) + " exists already, nothing was written", "choose another --dir; keys are rotated with \"civibus register key add\""}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}

	// 2. Keys and what others need to know.
	now := time.Now()
	body, err := node.NewBody(node.BodyOptions{
		Member: member, Name: f.name, KeysDir: filepath.Join(f.dir, "keys"), Passphrase: f.passphrase, MLDSAValidator: f.mldsa,
		ServerCode: f.serverCode, Provider: f.provider, Ledger: f.ledger, Now: now,
	})
	if err != nil {
		return err
	}
	text, err := body.TOML()
	if err != nil {
		return err
	}
	if err := writeNew(filepath.Join(f.dir, "body.toml"), text, 0o644); err != nil {
		return err
	}

	// 3. The genesis of a founder.
	if f.found {
		if err := writeGenesis(filepath.Join(f.dir, "genesis.toml"), "", now, []node.Body{body}); err != nil {
			return err
		}
	}

	// 4. The configuration.
	cfg := node.Config{Member: f.member, ServerCode: f.serverCode}
	cfg.Keys.Passphrase = f.passphrase
	cfg.Provider.Listen, cfg.Ledger.Listen, cfg.Consumer.Listen, cfg.Metrics.Listen = listenOn(f.provider), listenOn(f.ledger), f.consumer, f.metric
	cfg.Consumer.PlainHTTP = "loopback"
	if err := writeNew(filepath.Join(f.dir, "civibus.toml"), []byte(node.Commented(cfg)), 0o644); err != nil {
		return err
	}
	return a.initReport(f, body)
}

// listenOn is the local address for one under which others reach the body: a
// name of another host is reached on all of this host's addresses.
func listenOn(address string) string {
	host, port, _ := net.SplitHostPort(address) // checked before
	if ip := net.ParseIP(host); ip != nil || host == "localhost" {
		return address
	}
	return net.JoinHostPort("0.0.0.0", port)
}

func (a *app) initReport(f initFlags, body node.Body) error {
	if a.json {
		return a.printJSON(struct {
			node.Body
			Dir   string `json:"dir"`
			Found bool   `json:"found"`
		}{body, f.dir, f.found})
	}
	a.pairs("body", body.Member, "keys", filepath.Join(f.dir, "keys"), "configuration", filepath.Join(f.dir, "civibus.toml"),
		"for others", filepath.Join(f.dir, "body.toml"), "ledger node", body.Ledger)
	next := "found a network with all founders' body.toml (civibus network new), or join one that exists (civibus join)"
	if f.found {
		next = "civibus run --config " + filepath.Join(f.dir, "civibus.toml")
	}
	fmt.Fprintf(a.out, "next: %s\n", next)
	return nil
}

func newInitGenesis(a *app) *cobra.Command {
	var out, chainID string
	c := &cobra.Command{
		Use:   "genesis BODY.toml...",
		Short: "Make the genesis of an instance from its founders' body files",
		Long: `Make the genesis that all nodes of an instance start from. The founders are the
bodies whose body.toml files are given; each has one vote and may admit others.
Prints what each founder puts into ledger.peers of its civibus.toml.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var bodies []node.Body
			for _, file := range args {
				text, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				b, err := node.ParseBody(text)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				bodies = append(bodies, b)
			}
			if err := writeGenesis(out, chainID, time.Now(), bodies); err != nil {
				return err
			}
			return a.genesisReport(out, bodies)
		},
	}
	c.Flags().StringVar(&out, "out", "genesis.toml", "`file` to write")
	c.Flags().StringVar(&chainID, "chain-id", "", "`name` of the ledger (default: instance-1 in lower case)")
	return c
}

func (a *app) genesisReport(out string, bodies []node.Body) error {
	type founder struct {
		Member string   `json:"member"`
		Peers  []string `json:"peers"`
	}
	var founders []founder
	for i, b := range bodies {
		f := founder{b.Member, []string{}}
		for j, other := range bodies {
			if i != j {
				f.Peers = append(f.Peers, other.Ledger)
			}
		}
		founders = append(founders, f)
	}
	if a.json {
		return a.printJSON(struct {
			Genesis  string    `json:"genesis"`
			Founders []founder `json:"founders"`
		}{out, founders})
	}
	fmt.Fprintf(a.out, "genesis of %d founders: %s\n", len(bodies), out)
	for _, f := range founders {
		fmt.Fprintf(a.out, "%s: in its civibus.toml, section [ledger]: peers = [\"%s\"]\n", f.Member, strings.Join(f.Peers, "\", \""))
	}
	return nil
}

func writeGenesis(file, chainID string, now time.Time, bodies []node.Body) error {
	g, err := node.Found(chainID, now, bodies)
	if err != nil {
		return err
	}
	text, err := g.TOML()
	if err != nil {
		return err
	}
	return writeNew(file, text, 0o644)
}

// writeNew writes a file that must not exist.
func writeNew(file string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
