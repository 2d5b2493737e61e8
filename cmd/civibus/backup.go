package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/keys/secret"
	"github.com/civibus/civibus/node"
)

// backupFlags are the flags of civibus backup and restore, and of civibus hosted.
type backupFlags struct {
	out, dir, passphrase        string
	erasure                     string
	recipients, recipientsFiles []string
	identities                  []string
	keys                        bool
}

func (f *backupFlags) encryptFlags(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.recipients, "recipient", nil, "age `recipient` (age1...) who can open it; several may be given")
	c.Flags().StringArrayVar(&f.recipientsFiles, "recipients-file", nil, "`file` with age recipients, one a line")
	c.Flags().StringVar(&f.passphrase, "passphrase", "", "`source` of a passphrase instead of recipients: file:PATH, credential:NAME or fd:NUMBER")
}

func (f *backupFlags) decryptFlags(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.identities, "identity", nil, "`file` with the age identity that opens it, mode 0600")
	c.Flags().StringVar(&f.passphrase, "passphrase", "", "`source` of the passphrase that opens it: file:PATH, credential:NAME or fd:NUMBER")
}

func newBackup(a *app) *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use:   "backup",
		Short: "Back up a body's node, running or stopped, encrypted",
		Long: `Write one encrypted file (age, age-encryption.org) with the node's ledger, its
evidence with all that was acknowledged before the command began, configuration
and genesis. The node may run. Private keys are in it only with --with-keys.
"civibus restore" makes a folder of it.

What the body's records are sealed with, one by one, goes into a second file: a
record that was erased is erased in every backup as soon as only erasure keys of
after are left. So keep that file where it can be replaced, and of all its copies
only the newest: it opens the older backups too.`,
		Example: "  civibus backup --out monday.backup --recipient age1... --recipient age1...",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.backup(c.Context(), f) },
	}
	c.Flags().StringVar(&f.out, "out", "", "`file` to write, which must not exist")
	f.encryptFlags(c)
	c.Flags().BoolVar(&f.keys, "with-keys", false, "put the private keys into it, too: whoever opens it can act as the body")
	c.Flags().StringVar(&f.erasure, "erasure-keys", "", "`file` for the erasure keys, replaced if it exists (default: that of --out with .keys added, which must not exist)")
	_ = c.MarkFlagRequired("out") // fails only for unknown flags
	return c
}

func (a *app) backup(ctx context.Context, f backupFlags) error {
	recipients, err := f.encryptTo()
	if err != nil {
		return err
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	keys := f.erasure
	if keys == "" {
		if keys = f.out + erasureSuffix; exists(keys) {
			return refusal{keys + " exists already, nothing was written", "choose another --out, or name a file that may be replaced with --erasure-keys"}
		}
	}
	var m backup.Manifest
	err = sealedFile(f.out, recipients, func(to io.Writer) error {
		m, err = a.writeBackup(ctx, to, cfg, f.keys)
		return err
	})
	if err != nil {
		return err
	}
	if err := copyErasureKeys(cfg, keys, recipients); err != nil {
		return errors.Join(err, os.Remove(f.out))
	}
	return a.backupReport(f.out, keys, m)
}

// erasureSuffix is added to a backup's name for the erasure keys.
const erasureSuffix = ".keys"

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// copyErasureKeys makes an encrypted copy of the erasure keys, in the place of an older
// one, which is overwritten.
func copyErasureKeys(cfg node.Config, out string, recipients []age.Recipient) error {
	fresh := out + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := sealedFile(fresh, recipients, func(to io.Writer) error {
		_, err := cfg.WriteErasureKeys(to)
		return err
	})
	if err != nil {
		return err
	}
	old, err := os.OpenFile(out, os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := os.Rename(fresh, out); err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	defer old.Close()
	info, err := old.Stat()
	if err == nil {
		_, err = old.WriteAt(make([]byte, info.Size()), 0)
	}
	if err = errors.Join(err, old.Sync()); err != nil {
		return fmt.Errorf("overwrite the older copy of the erasure keys: %w", err)
	}
	return nil
}

// encryptTo reads for whom a file is encrypted.
func (f backupFlags) encryptTo() ([]age.Recipient, error) {
	source, err := optionalSource(f.passphrase)
	if err != nil {
		return nil, err
	}
	recipients, err := backup.Recipients(f.recipients, f.recipientsFiles, source)
	if err != nil {
		return nil, usageError{err, "\"age-keygen -o identity.txt\" makes an identity and prints its recipient"}
	}
	return recipients, nil
}

// sealedFile makes a new file, encrypted as write writes it. After an error there is
// none.
func sealedFile(out string, recipients []age.Recipient, write func(io.Writer) error) error {
	// 1. Where to.
	if _, err := os.Lstat(out); err == nil {
		return refusal{out + " exists already, nothing was written", "a backup is never overwritten; choose another --out"}
	}
	file, err := os.CreateTemp(filepath.Dir(out), ".backup-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()

	// 2. Encrypted as it is made; a part that fails leaves nothing.
	buffered := bufio.NewWriterSize(file, 1<<20)
	sealed, err := backup.Encrypt(buffered, recipients)
	if err != nil {
		return err
	}
	if err := write(sealed); err != nil {
		return err
	}
	if err := errors.Join(sealed.Close(), buffered.Flush(), file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}

	// 3. Its name, which nobody else took meanwhile.
	if err := os.Link(file.Name(), out); err != nil {
		return fmt.Errorf("name the backup: %w", err)
	}
	return nil
}

// writeBackup writes the archive: what the running node sends, or what its folder
// holds, and the files that the node does not send.
func (a *app) writeBackup(ctx context.Context, to io.Writer, cfg node.Config, keys bool) (backup.Manifest, error) {
	now := time.Now()
	w := backup.NewWriter(to, now)
	m := cfg.Manifest(now, keys)
	stores, err := admin.NewClient(cfg.Admin.Socket).Backup(ctx)
	var problem *admin.Problem
	switch {
	case err == nil:
		sent, err := backup.Each(stores, w.Put)
		if err = errors.Join(err, stores.Close()); err != nil {
			return m, fmt.Errorf("the node's stores: %w; its log says why", err)
		}
		m.Running, m.Ledger, m.Logs, m.ChainID, m.Finished = true, sent.Ledger, sent.Logs, sent.ChainID, sent.Finished
	case errors.As(err, &problem) && problem.Status == 0 && problem.Code == "not_running":
		if err := cfg.BackupStopped(ctx, w.Put, &m); err != nil {
			return m, err
		}
	default:
		return m, err
	}
	if err := cfg.BackupFiles(w.Put, a.config, keys); err != nil {
		return m, err
	}
	err = w.Close(&m)
	return m, err
}

func (a *app) backupReport(out, erasure string, m backup.Manifest) error {
	info, err := os.Stat(out)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(struct {
			File    string `json:"file"`
			Erasure string `json:"erasure_keys"`
			backup.Manifest
		}{out, erasure, m})
	}
	state := "stopped"
	if m.Running {
		state = "running"
	}
	a.pairs("backup", out, "bytes", fmt.Sprint(info.Size()), "body", m.Member+", "+state, "began", m.Started.Format(time.RFC3339))
	if m.Ledger != nil {
		a.pairs("ledger", fmt.Sprintf("height %d", m.Ledger.Height))
	}
	for _, l := range m.Logs {
		a.pairs("evidence", fmt.Sprintf("%s, %d leaves, every record below %d", l.Origin, l.Size, l.Next))
	}
	keys := "not in it; keep them elsewhere"
	if m.Keys {
		keys = "in it: whoever opens it can act as the body"
	}
	a.pairs("private keys", keys, "erasure keys", erasure+", without which the records do not open; keep it apart, and of its copies the newest only")
	return nil
}

func optionalSource(text string) (secret.Source, error) {
	if text == "" {
		return secret.Source{}, nil
	}
	source, err := secret.ParseSource(text)
	if err != nil {
		return source, usageError{err, "e.g. --passphrase file:/etc/civibus/backup.pass"}
	}
	return source, nil
}

func newRestore(a *app) *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a folder of a backup, after checking all of it",
		Long: `Decrypt a backup, compare every file with its manifest, rebuild the databases,
check the evidence logs as "civibus log fsck" does and the registry against what
the validators signed, and only then give the new folder its name. A backup that
is damaged, cut off, of something else or for another key is refused, and nothing
is left.

What was erased after the backup was made stays erased: the newest copy of the
erasure keys does not open it.

A validator that was restored signs nothing until it has caught up and the chain
has gone on without it for some blocks, since it may have signed more than the
backup knows of. End the old node for good before the restored one starts.`,
		Example: "  civibus restore monday.backup --identity identity.txt --dir /srv/civibus\n  civibus run --config /srv/civibus/civibus.toml",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return a.restore(c.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.dir, "dir", "", "new `folder` to make")
	c.Flags().StringVar(&f.erasure, "erasure-keys", "", "`file` with the newest copy of the erasure keys (default: the backup's name with .keys added)")
	f.decryptFlags(c)
	_ = c.MarkFlagRequired("dir") // fails only for unknown flags
	return c
}

// openSealed opens an encrypted file.
func (f backupFlags) openSealed(name string, refuse func(error) error) (io.Reader, io.Closer, error) {
	source, err := optionalSource(f.passphrase)
	if err != nil {
		return nil, nil, err
	}
	identities, err := backup.Identities(f.identities, source)
	if err != nil {
		return nil, nil, usageError{err, "--identity FILE or --passphrase SOURCE"}
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	r, err := backup.Decrypt(bufio.NewReaderSize(file, 1<<20), identities)
	if err != nil {
		return nil, nil, errors.Join(refuse(err), file.Close())
	}
	return r, file, nil
}

func (a *app) restore(ctx context.Context, name string, f backupFlags) error {
	refuse := func(err error) error {
		return refusal{fmt.Sprintf("restore %s: %v; nothing was restored", name, err), "take another copy of the backup; docs/operate/backup.md says how backups are tested"}
	}
	r, file, err := f.openSealed(name, refuse)
	if err != nil {
		return err
	}
	defer file.Close()
	keys := f.erasure
	if keys == "" && exists(name+erasureSuffix) {
		keys = name + erasureSuffix
	}
	var erasure io.Reader
	if keys != "" {
		opened, file, err := f.openSealed(keys, refuse)
		if err != nil {
			return err
		}
		defer file.Close()
		erasure = opened
	}
	restored, err := node.RestoreBackup(ctx, r, erasure, f.dir)
	if err != nil {
		return refuse(err)
	}
	if a.json {
		return a.printJSON(restored)
	}
	m := restored.Manifest
	a.pairs("restored", restored.Dir, "body", m.Member, "backup began", m.Started.Format(time.RFC3339))
	if m.Ledger != nil {
		a.pairs("ledger", fmt.Sprintf("height %d, hash checked", restored.Height))
	}
	for _, l := range restored.Logs {
		a.pairs("evidence", fmt.Sprintf("%s: %d leaves, %d records, %d not yet in the Merkle log; no damage", l.Origin, l.Size, l.Records, l.Pending))
	}
	for _, n := range restored.Notes {
		fmt.Fprintf(a.out, "note: %s\n", n)
	}
	fmt.Fprintf(a.out, "next: civibus run --config %s\n", filepath.Join(restored.Dir, "civibus.toml"))
	return nil
}
