package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry/registrypb"
)

// gatewayFlags are the flags of civibus gateway new.
type gatewayFlags struct {
	member, genesis, dir, code string
	provider, consumer, metric string
	passphrase                 string
	log                        int
	fullNodes                  []string
}

func newGateway(a *app) *cobra.Command {
	c := &cobra.Command{Use: "gateway", Short: "Further gateways of a body", Args: cobra.NoArgs}
	c.AddCommand(newGatewayNew(a), newGatewayAdd(a))
	return c
}

func newGatewayNew(a *app) *cobra.Command {
	var f gatewayFlags
	c := &cobra.Command{
		Use: "new", Short: "Make the keys and the configuration of a further gateway of a body",
		Long: `Make, on the machine of a further gateway of a body, its seal, log and transport
keys, a commented civibus.toml, and gateway.toml, which holds no secret and is
given to "civibus gateway add" at a gateway of the body that runs. The new
gateway follows the ledger by verified headers of the full nodes that are named
(ledger.mode "light"); the body's services and client rules are to be written
into its civibus.toml as they are in the others'. Nothing is ever overwritten.`,
		Example: "  civibus gateway new --member DEMO/GOV/0001 --code gateway-2 --genesis genesis.toml --provider bus2.example.org:5500 --full-node bus1.example.org:5500 --full-node bus.other.example:5500",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.makeGateway(c, f) },
	}
	c.Flags().StringVar(&f.member, "member", "", "`INSTANCE/CLASS/MEMBER` of the body")
	c.Flags().StringVar(&f.genesis, "genesis", "", "genesis `file` of the instance; it is copied")
	c.Flags().StringVar(&f.dir, "dir", ".", "`folder` to write to")
	c.Flags().StringVar(&f.code, "code", "gateway-2", "`code` of this gateway among the body's")
	c.Flags().IntVar(&f.log, "log", 2, "`number` of its evidence log, which no other gateway of the body has or had")
	c.Flags().StringVar(&f.provider, "provider", "127.0.0.1:5500", "`host:port` at which other bodies reach this one, or the balancer before it")
	c.Flags().StringVar(&f.consumer, "consumer", "127.0.0.1:8080", "`host:port` at which the body's systems call")
	c.Flags().StringVar(&f.metric, "metrics", "127.0.0.1:9464", "`host:port` for monitoring, or off")
	c.Flags().StringArrayVar(&f.fullNodes, "full-node", nil, "provider face (`host:port`) of a gateway that runs a ledger node; again for each")
	c.Flags().StringVar(&f.passphrase, "passphrase", "", "`source` of the passphrase that encrypts the key files: file:PATH, credential:NAME or fd:NUMBER (default: not encrypted)")
	for _, name := range []string{"member", "genesis", "full-node"} {
		_ = c.MarkFlagRequired(name) // fails only for unknown flags
	}
	return c
}

func (a *app) makeGateway(c *cobra.Command, f gatewayFlags) error {
	// 1. Everything is checked before anything is written.
	member, err := civibus.ParseMemberID(f.member)
	if err != nil {
		return usageError{err, "e.g. --member DEMO/GOV/0001"}
	}
	for _, addr := range append([]string{f.provider, f.consumer}, f.fullNodes...) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return usageError{fmt.Errorf("address %q: the rule is host:port", addr), ""}
		}
	}
	if f.log < 1 {
		return usageError{fmt.Errorf("--log %d: the rule is 1 or more", f.log), ""}
	}
	if f.passphrase, err = sourceHere("--passphrase", f.passphrase); err != nil {
		return err
	}
	genesis, err := node.ReadGenesis(f.genesis)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(f.genesis)
	if err != nil {
		return err
	}
	for _, name := range []string{"civibus.toml", "gateway.toml", "keys"} {
		if _, err := os.Stat(filepath.Join(f.dir, name)); err == nil {
			return refusal{filepath.Join(f.dir, name) + " exists already, nothing was written", "choose another --dir"}
		}
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	// 2. Keys, and what the other gateway needs to know.
	card, err := node.NewGateway(c.Context(), node.GatewayOptions{
		Member: member, Genesis: genesis, KeysDir: filepath.Join(f.dir, "keys"), Passphrase: f.passphrase,
		Code: f.code, Address: f.provider, Log: f.log, Now: time.Now(),
	})
	if err != nil {
		return err
	}
	public, err := card.TOML()
	if err != nil {
		return err
	}
	// 3. The files.
	cfg := node.Config{Member: f.member, ServerCode: f.code}
	cfg.Keys.Passphrase = f.passphrase
	cfg.Ledger.Mode, cfg.Ledger.FullNodes, cfg.Evidence.Log = "light", f.fullNodes, f.log
	cfg.Provider.Listen, cfg.Consumer.Listen, cfg.Metrics.Listen = listenOn(f.provider), f.consumer, f.metric
	cfg.Consumer.PlainHTTP = "loopback"
	copied := filepath.Join(f.dir, "genesis.toml")
	if _, err := os.Stat(copied); errors.Is(err, os.ErrNotExist) {
		if err := writeNew(copied, text, 0o644); err != nil {
			return err
		}
	}
	if err := errors.Join(writeNew(filepath.Join(f.dir, "gateway.toml"), public, 0o644),
		writeNew(filepath.Join(f.dir, "civibus.toml"), []byte(node.Commented(cfg)), 0o644)); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(card)
	}
	a.pairs("gateway", card.Code+" of "+card.Member, "keys", filepath.Join(f.dir, "keys"), "configuration", filepath.Join(f.dir, "civibus.toml"),
		"for the other gateway", filepath.Join(f.dir, "gateway.toml"))
	fmt.Fprintln(a.out, "next: at a gateway of the body that runs: civibus gateway add gateway.toml; then here: civibus run")
	return nil
}

func newGatewayAdd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "add GATEWAY.toml", Short: "Register a further gateway of the node's own body",
		Long: `Register the keys and the address of a further gateway of the body that the
running node speaks for, from the file that "civibus gateway new" made there. What
is registered already is left as it is, so that it can be repeated.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			card, err := node.ParseGatewayCard(text)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			status, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if status.Member != card.Member || status.ChainID != card.ChainID {
				return refusal{fmt.Sprintf("%s is of %s on the ledger %s, and this node is of %s on %s", args[0], card.Member, card.ChainID, status.Member, status.ChainID), "use --config to reach a gateway of that body"}
			}
			m, err := client.Member(c.Context(), card.Member)
			if err != nil {
				return err
			}
			var listed []civibus.Gateway
			for _, g := range m.Gateways {
				listed = append(listed, civibus.Gateway{Code: g.Code, Address: g.Address})
			}
			add, set, err := card.Changes(m.Name, m.Parent, listed)
			if err != nil {
				return refusal{err.Error(), ""}
			}
			done := []admin.Change{} // printed in one when it is JSON
			submit := func(tx *registrypb.Tx) error {
				out, err := client.Change(c.Context(), tx)
				if err != nil {
					return err
				}
				done = append(done, out)
				if a.json {
					return nil
				}
				return a.printChange(out)
			}
			for id, tx := range add {
				if _, err := client.Key(c.Context(), id.String()); err == nil {
					continue
				} else if !admin.IsCode(err, "not_found") {
					return err
				}
				if err := submit(tx); err != nil {
					return err
				}
			}
			if set != nil {
				if err := submit(set); err != nil {
					return err
				}
			}
			if a.json {
				return a.printJSON(done)
			}
			return nil
		},
	}
}
