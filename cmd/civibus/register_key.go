package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterKey(a *app) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Public keys and their history", Args: cobra.NoArgs}
	var lf listFlags
	var o admin.ListOptions
	list := &cobra.Command{
		Use: "list", Short: "List keys", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Keys,
				[]string{"KEY", "MEMBER", "PURPOSE", "ALGORITHM", "FROM", "TO"}, func(k admin.Key) []string {
					return []string{k.ID, k.Member, k.Purpose, k.Algorithm, strconv.FormatUint(k.ActivateHeight, 10), heightText(k.RevokeHeight)}
				})
		},
	}
	lf.register(list)
	list.Flags().StringVar(&o.Member, "member", "", "only those of this `member`")
	list.Flags().StringVar(&o.Purpose, "purpose", "", "only those of this `purpose`")
	show := &cobra.Command{
		Use: "show KEY", Short: "Show a key", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			k, err := client.Key(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(k)
			}
			a.pairs("key", k.ID, "member", k.Member, "purpose", k.Purpose, "algorithm", k.Algorithm, "in force", strconv.FormatBool(k.InForce),
				"from height", strconv.FormatUint(k.ActivateHeight, 10), "to height", heightText(k.RevokeHeight), "reason", k.Reason)
			return nil
		},
	}
	c.AddCommand(list, show, a.addKey(), a.revokeKey(), a.chainKey())
	return c
}

func heightText(h uint64) string {
	if h == 0 {
		return ""
	}
	return strconv.FormatUint(h, 10)
}

func (a *app) addKey() *cobra.Command {
	var req admin.NewKey
	var from string
	c := &cobra.Command{
		Use: "add [PURPOSE]", Short: "Have the node make a key of the body and register it",
		Long: `Have the node make a key, keep it in its key folder and register it with a
proof that it holds it. With --at the key is in force from that height on, so
that the old key serves until then: rotation without a pause.

PURPOSE is seal, log, transport, admin, witness or validator. A validator key votes
when it gets voting power: "civibus register voting-power move OLD NEW".

With --from the key is another body's, which made it and the file with "civibus key
offer": a body registers the keys of those that it administers without ever
holding them.`,
		Args: cobra.RangeArgs(0, 1), ValidArgs: []string{"seal", "log", "transport", "admin", "witness", "validator"},
		RunE: func(c *cobra.Command, args []string) error {
			if from != "" {
				return a.addOffered(c, from, req.ActivateHeight)
			}
			if len(args) != 1 {
				return usageError{errors.New("PURPOSE is missing"), "seal, log, transport, admin, witness or validator; or --from FILE"}
			}
			req.Purpose = args[0]
			if _, err := civibus.ParsePurpose(args[0]); err != nil {
				return usageError{err, ""}
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			out, err := client.NewKey(c.Context(), req)
			if err != nil {
				return err
			}
			return a.printChange(out)
		},
	}
	c.Flags().StringVar(&req.Algorithm, "algorithm", "", "ed25519, ecdsa-p256-sha256 or ml-dsa-44, -65 or -87 (default: the purpose's usual one)")
	c.Flags().StringVar(&req.Key, "key", "", "register this `key` of the node's key folder instead of a new one (see civibus key list)")
	c.Flags().Uint64Var(&req.ActivateHeight, "at", 0, "first `height` of force (default: at once)")
	c.Flags().StringVar(&from, "from", "", "register the key that another body offers in this `file`")
	c.MarkFlagsMutuallyExclusive("from", "key")
	c.MarkFlagsMutuallyExclusive("from", "algorithm")
	return c
}

// addOffered registers the key that a body below this one offers.
func (a *app) addOffered(c *cobra.Command, file string, at uint64) error {
	o, key, err := a.readOffer(file)
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	out, err := client.Change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_AddKey{AddKey: &registrypb.AddKey{
		Member: o.Member, Purpose: key.Purpose, Spki: key.Spki, Certificate: key.Certificate, ActivateHeight: at, Possession: key.Possession,
	}}})
	if err != nil {
		return err
	}
	return a.printChange(out)
}

var revocationReasons = map[string]registrypb.RevocationReason{
	"rotated": registrypb.RevocationReason_REVOCATION_REASON_ROTATED, "compromised": registrypb.RevocationReason_REVOCATION_REASON_COMPROMISED,
	"ceased": registrypb.RevocationReason_REVOCATION_REASON_CEASED,
}

func (a *app) revokeKey() *cobra.Command {
	var reason string
	var at uint64
	c := &cobra.Command{
		Use: "revoke KEY", Short: "End a key", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := civibus.ParseKeyID(args[0])
			if err != nil {
				return usageError{err, "\"civibus register key list\" shows the ids"}
			}
			why, ok := revocationReasons[reason]
			if !ok {
				return usageError{fmt.Errorf("--reason %q: the rule is rotated, compromised or ceased", reason), ""}
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_RevokeKey{
				RevokeKey: &registrypb.RevokeKey{KeyId: id[:], RevokeHeight: at, Reason: why},
			}})
		},
	}
	c.Flags().StringVar(&reason, "reason", "rotated", "rotated, compromised or ceased")
	c.Flags().Uint64Var(&at, "at", 0, "first `height` no longer in force (default: at once)")
	return c
}
