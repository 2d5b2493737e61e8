package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterNode(a *app) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "The bodies' ledger nodes, to which others connect", Args: cobra.NoArgs}
	var lf listFlags
	var o admin.ListOptions
	list := &cobra.Command{
		Use: "list", Short: "List the nodes of all active members", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Nodes, []string{"MEMBER", "NODE", "ADDRESS", "ROLE"}, func(n admin.Node) []string {
				return []string{n.Member, n.ID, n.Address, n.Role}
			})
		},
	}
	lf.register(list)
	list.Flags().StringVar(&o.Member, "member", "", "only those of this `member`")
	c.AddCommand(list, a.setNodes())
	return c
}

func (a *app) setNodes() *cobra.Command {
	var validators, followers []string
	var none bool
	c := &cobra.Command{
		Use: "set [MEMBER]", Short: "Say which nodes a member has; they replace those that it had",
		Long: `Say which ledger nodes the body, or a member that it administers, has. Other nodes
let these in and dial the validators among them. "civibus status" prints a node's
id and address.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			set := &registrypb.SetNodes{}
			var err error
			if set.Member, err = a.memberOr(args); err != nil {
				return err
			}
			for _, group := range []struct {
				role registrypb.NodeRole
				list []string
			}{{registrypb.NodeRole_NODE_ROLE_VALIDATOR, validators}, {registrypb.NodeRole_NODE_ROLE_FOLLOWER, followers}} {
				for _, n := range group.list {
					id, address, ok := strings.Cut(n, "@")
					if !ok {
						return usageError{fmt.Errorf("node %q: the rule is NODE-ID@host:port", n), "\"civibus status\" prints it"}
					}
					set.Nodes = append(set.Nodes, &registrypb.NodeAddress{Id: id, Address: address, Role: group.role})
				}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetNodes{SetNodes: set}})
		},
	}
	c.Flags().StringArrayVar(&validators, "validator", nil, "`NODE-ID@host:port` of a node that votes; again for each")
	c.Flags().StringArrayVar(&followers, "follower", nil, "`NODE-ID@host:port` of a node that follows; again for each")
	c.Flags().BoolVar(&none, "none", false, "it has no node")
	c.MarkFlagsOneRequired("validator", "follower", "none")
	c.MarkFlagsMutuallyExclusive("validator", "none")
	c.MarkFlagsMutuallyExclusive("follower", "none")
	return c
}

// memberOr is the member that is named, or the node's own.
func (a *app) memberOr(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	cfg, err := a.load()
	return cfg.Member, err
}

func newRegisterPower(a *app) *cobra.Command {
	c := &cobra.Command{Use: "voting-power", Short: "Whose keys vote on blocks", Args: cobra.NoArgs}
	var lf listFlags
	var o admin.ListOptions
	list := &cobra.Command{
		Use: "list", Short: "List the keys that vote on blocks, and those that did", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Validators, []string{"KEY", "MEMBER", "POWER", "SINCE HEIGHT"}, func(v admin.Validator) []string {
				return []string{v.Key, v.Member, strconv.FormatInt(v.Power, 10), strconv.FormatUint(v.Height, 10)}
			})
		},
	}
	lf.register(list)
	list.Flags().StringVar(&o.Member, "member", "", "only those of this `member`")
	move := &cobra.Command{
		Use: "move FROM TO", Short: "Give all voting power of a key to another one of the body",
		Long: `Give all voting power of one of the body's validator keys to another one that is
registered and has none: the rotation of a validator's key. No vote is needed. A
running node votes with the new key from two blocks later on, without a restart.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			var ids [2]civibus.KeyID
			for i, arg := range args {
				var err error
				if ids[i], err = civibus.ParseKeyID(arg); err != nil {
					return usageError{err, "\"civibus register key list --purpose validator\" shows the ids"}
				}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_MoveVotingPower{
				MoveVotingPower: &registrypb.MoveVotingPower{From: ids[0][:], To: ids[1][:]},
			}})
		},
	}
	c.AddCommand(list, move)
	return c
}

func newRegisterHost(a *app) *cobra.Command {
	c := &cobra.Command{Use: "host", Short: "Whose gateways carry the exchanges of bodies without one", Args: cobra.NoArgs}
	var lf listFlags
	var o admin.ListOptions
	list := &cobra.Command{
		Use: "list", Short: "List who is carried by whom, and who was", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Hostings, []string{"MEMBER", "HOST", "ASKED", "IN FORCE"}, func(h admin.Hosting) []string {
				var periods []string
				for _, p := range h.Periods {
					periods = append(periods, p.Host+" "+periodText([]admin.Period{p.Period}))
				}
				return []string{h.Member, h.Host, h.Asked, strings.Join(periods, ", ")}
			})
		},
	}
	lf.register(list)
	list.Flags().StringVar(&o.Member, "member", "", "only this `member`")
	ask := &cobra.Command{
		Use: "ask HOST [MEMBER]", Short: "Ask a member to carry the exchanges of the body, or of one that it administers",
		Long: `Ask HOST to carry the exchanges of the body, or of a member that it administers.
It takes effect when the host accepts, at once where both are administered here.
Asking another host is how a body moves; asking the present one takes a request
back.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error { return a.setHost(c, args[1:], args[0]) },
	}
	end := &cobra.Command{
		Use: "end [MEMBER]", Short: "End that another member carries the exchanges, from either side", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.setHost(c, args, "") },
	}
	var host string
	accept := &cobra.Command{
		Use: "accept MEMBER", Short: "Accept to carry a member's exchanges", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if host == "" {
				var err error
				if host, err = a.memberOr(nil); err != nil {
					return err
				}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_AcceptHost{AcceptHost: &registrypb.AcceptHost{Member: args[0], Host: host}}})
		},
	}
	accept.Flags().StringVar(&host, "host", "", "`member` that accepts, administered by the body (default: the body)")
	c.AddCommand(list, ask, accept, end)
	return c
}

func (a *app) setHost(c *cobra.Command, member []string, host string) error {
	id, err := a.memberOr(member)
	if err != nil {
		return err
	}
	return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetHost{SetHost: &registrypb.SetHost{Member: id, Host: host}}})
}

// chainKey binds certificates to a key.
func (a *app) chainKey() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "chain KEY [CHAIN.pem]", Short: "Register the certificates that an authority issued for a key",
		Long: `Register the chain of certificates of a key, the key's own first, so that receipts
carry it. Without a file it is the chain that "civibus key bind" keeps beside the
key. What was registered before is replaced.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := civibus.ParseKeyID(args[0])
			if err != nil {
				return usageError{err, "\"civibus register key list\" shows the ids"}
			}
			set := &registrypb.SetChain{KeyId: id[:]}
			if !remove {
				if set.Certificates, err = a.chainOf(args); err != nil {
					return err
				}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetChain{SetChain: set}})
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "the key has no certificates from now on")
	return c
}

// chainOf reads the chain from the file that is named, or from the key folder.
func (a *app) chainOf(args []string) ([][]byte, error) {
	if len(args) == 2 {
		text, err := os.ReadFile(args[1])
		if err != nil {
			return nil, err
		}
		chain, err := keys.ParseChain(text)
		if err != nil {
			return nil, refusal{fmt.Sprintf("%s: %v", args[1], err), ""}
		}
		return chain.DER(), nil
	}
	ring, _, err := a.ring()
	if err != nil {
		return nil, err
	}
	defer ring.Close()
	h, err := find(ring, args[0])
	if err != nil {
		return nil, err
	}
	if h.Chain == nil {
		return nil, refusal{fmt.Sprintf("key %s has no certificates in the key folder", args[0]), "\"civibus key bind\" keeps them there; or name the file"}
	}
	return h.Chain.DER(), nil
}
