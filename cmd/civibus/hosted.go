package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/node"
)

func newHosted(a *app) *cobra.Command {
	c := &cobra.Command{Use: "hosted", Short: "Hand a hosted member's evidence over to another host or to its own node", Args: cobra.NoArgs}
	c.AddCommand(newHostedExport(a), newHostedImport(a))
	return c
}

func newHostedExport(a *app) *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use:   "export MEMBER",
		Short: "Write all that is kept for a hosted member into one encrypted file",
		Long: `Write one encrypted file (age, age-encryption.org) with the evidence logs that
this node has kept for a hosted member, their archived bodies, the nonces of
requests, and the public part of its configuration: the table [[hosted]] without
folder and keys, and the certificates of its client systems. It is refused while
the member is served here or the registry names this body as its host, and when
the registry has witnessed more of a log than is here. Private keys and the key
of the archive are in it only with --with-private-keys.`,
		Example: "  civibus hosted export DEMO/MUN/3001 --out village.move --recipient age1...",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return a.hostedExport(c.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.out, "out", "", "`file` to write, which must not exist")
	f.encryptFlags(c)
	c.Flags().BoolVar(&f.keys, "with-private-keys", false, "put the member's private keys and archive key into it, too: whoever opens it can act in the member's name")
	_ = c.MarkFlagRequired("out") // fails only for unknown flags
	return c
}

func (a *app) hostedExport(ctx context.Context, member string, f backupFlags) error {
	recipients, err := f.encryptTo()
	if err != nil {
		return err
	}
	cfg, err := a.loadHost()
	if err != nil {
		return err
	}
	var out node.HandedOver
	err = sealedFile(f.out, recipients, func(to io.Writer) error {
		out, err = cfg.ExportHosted(ctx, a.config, member, f.keys, to)
		return err
	})
	var refused refusal
	switch {
	case errors.Is(err, node.ErrStillServed):
		return refusal{fmt.Sprintf("export %v; nothing was written", err), "\"civibus register host ask\" and \"accept\" move it, \"civibus register host end\" ends the hosting; then wait for \"civibus status\" to say that its log is closed"}
	case errors.As(err, &refused):
		return err
	case err != nil:
		return hinted{fmt.Errorf("export %s: %w; nothing was written", member, err), "docs/operate/hosting.md says how a member moves"}
	}
	if a.json {
		return a.printJSON(out)
	}
	info, err := os.Stat(f.out)
	if err != nil {
		return err
	}
	m := out.Manifest
	a.pairs("export", f.out, "bytes", fmt.Sprint(info.Size()), "member", m.Member, "began", m.Started.Format(time.RFC3339))
	for _, l := range m.Logs {
		a.pairs("evidence", fmt.Sprintf("%s, %d leaves, every record below %d", l.Origin, l.Size, l.Next))
	}
	keys := "not in it"
	if m.Keys {
		keys = "in it: whoever opens it can act in the member's name"
	}
	a.pairs("private keys", keys)
	for _, n := range out.Notes {
		fmt.Fprintf(a.out, "note: %s\n", n)
	}
	fmt.Fprintf(a.out, "next: at the new place, civibus hosted import %s %s\n", m.Member, filepath.Base(f.out))
	return nil
}

// loadHost reads the configuration of the node that hosts, or is to host.
func (a *app) loadHost() (node.Config, error) {
	if a.hosted != "" {
		return node.Config{}, usageError{errors.New("the member is the command's argument"), "leave --hosted out"}
	}
	return a.load()
}

func newHostedImport(a *app) *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use:   "import MEMBER FILE",
		Short: "Take a member's evidence over from another host, after checking all of it",
		Long: `Decrypt what "civibus hosted export" wrote, compare every file with its manifest,
check the logs as "civibus log fsck" does and, if the node runs, their signatures
and their size against the registry, and only then put them into the member's
folder: that of its table [[hosted]], or this node's own if MEMBER is its body.
Without a table the usual folder is taken, and the table to add is printed. The
node may run; it serves the member as soon as the log is there and the registry
names this body as its host. What is damaged, cut off, of another member or
network, or older than what the registry has witnessed is refused, and nothing is
left. A log is never written over.`,
		Example: "  civibus hosted import DEMO/MUN/3001 village.move --identity identity.txt",
		Args:    cobra.ExactArgs(2),
		RunE:    func(c *cobra.Command, args []string) error { return a.hostedImport(c.Context(), args[0], args[1], f) },
	}
	f.decryptFlags(c)
	return c
}

func (a *app) hostedImport(ctx context.Context, member, name string, f backupFlags) error {
	cfg, err := a.loadHost()
	if err != nil {
		return err
	}
	refuse := func(err error) error {
		return refusal{fmt.Sprintf("import %s: %v; nothing was put in place", name, err), "docs/operate/hosting.md says how a member moves"}
	}
	r, file, err := f.openSealed(name, refuse)
	if err != nil {
		return err
	}
	defer file.Close()
	base, err := filepath.Abs(filepath.Dir(a.config))
	if err != nil {
		return err
	}
	out, err := cfg.ImportHosted(ctx, member, r, base)
	if err != nil {
		return refuse(err)
	}
	if a.json {
		return a.printJSON(out)
	}
	a.pairs("member", out.Manifest.Member, "folder", out.Dir)
	for _, l := range out.Logs {
		a.pairs("evidence", fmt.Sprintf("%s: %d leaves, %d records, %d not yet in the Merkle log; no damage", l.Origin, l.Size, l.Records, l.Pending))
	}
	for _, n := range out.Notes {
		fmt.Fprintf(a.out, "note: %s\n", n)
	}
	if out.Table != "" {
		fmt.Fprintf(a.out, "next: add this to %s and restart the node:\n\n%s", a.config, out.Table)
	}
	return nil
}
