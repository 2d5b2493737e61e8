package main

import (
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
	c.AddCommand(list, show, a.addKey(), a.revokeKey())
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
	c := &cobra.Command{
		Use: "add PURPOSE", Short: "Have the node make a key of the body and register it",
		Long: `Have the node make a key, keep it in its key folder and register it with a
proof that it holds it. With --at the key is in force from that height on, so
that the old key serves until then: rotation without a pause.

PURPOSE is seal, log, transport, admin or witness. A validator's key is changed
with the set of validators, not here.`,
		Args: cobra.ExactArgs(1), ValidArgs: []string{"seal", "log", "transport", "admin", "witness"},
		RunE: func(c *cobra.Command, args []string) error {
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
	c.Flags().StringVar(&req.Algorithm, "algorithm", "", "ed25519 or ecdsa-p256-sha256 (default: the purpose's usual one)")
	c.Flags().StringVar(&req.Key, "key", "", "register this `key` of the node's key folder instead of a new one (see civibus key list)")
	c.Flags().Uint64Var(&req.ActivateHeight, "at", 0, "first `height` of force (default: at once)")
	return c
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
