package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/internal/vault"
	"github.com/civibus/civibus/usage"
)

// databases are the folders of the data directory that are one database each, beside
// ledger and evidence: facts of processes, and requests for evidence.
var databases = []string{"process", "once"}

// The other folders and files of a body's data that are in its backup, beside ledger,
// evidence and keys.
const (
	eventsDir    = "events"
	usageDir     = "usage" // a folder for each evidence log
	usageKeyName = "usage.key"
)

// backupDatabases adds the databases, messages and usage records of a running node to a
// backup.
func (n *Node) backupDatabases(ctx context.Context, put dump.Put) error {
	// 1. Of the body's processes and requests for evidence.
	if p := n.process.Load(); p != nil {
		if err := p.Backup(ctx, put, backupData+"/process"); err != nil {
			return err
		}
	}
	if o := n.once.Load(); o != nil {
		if err := o.Backup(ctx, put, backupData+"/once"); err != nil {
			return err
		}
	}
	// 2. Its messages, also where this gateway carries none any more.
	r := n.current.Load()
	err := error(nil)
	if r.events != nil {
		err = r.events.Backup(ctx, put, backupData+"/"+eventsDir)
	} else {
		err = n.cfg.backupEvents(ctx, put)
	}
	if err != nil {
		return err
	}
	// 3. Its usage records, and those of the bodies that it hosts.
	open := map[string]bool{}
	add := func(c Config, root string, r *rooms) error {
		dir := c.usageFolder()
		open[dir] = true
		return r.usage.Backup(ctx, put, root+"/"+usageDir+"/"+filepath.Base(dir))
	}
	if err := add(n.cfg, backupData, r); err != nil {
		return err
	}
	for _, h := range n.hosted {
		guest, leave, err := h.enter()
		if err != nil {
			continue // it is not served, and its stores are closed
		}
		err = add(h.cfg, hostedRoot(h.cfg), guest.current.Load())
		leave()
		if err != nil {
			return err
		}
	}
	for root, body := range n.cfg.bodies() {
		if err := body.backupUsage(ctx, put, root, open); err != nil {
			return err
		}
	}
	return nil
}

// backupClosed adds those of a node that does not run.
func (c Config) backupClosed(ctx context.Context, put dump.Put) error {
	for _, name := range databases {
		dir := filepath.Join(c.DataDir, name)
		if !exists(filepath.Join(dir, "CURRENT")) {
			continue
		}
		if err := vault.BackupMark(put, dir, backupData+"/"+name); err != nil {
			return err
		}
		if err := ldb.BackupDir(dir, put, backupData+"/"+name, ctx.Err); err != nil {
			return err
		}
	}
	if err := c.backupEvents(ctx, put); err != nil {
		return err
	}
	for root, body := range c.bodies() {
		if err := body.backupUsage(ctx, put, root, nil); err != nil {
			return err
		}
	}
	return nil
}

// backupEvents adds messages that no process has open.
func (c Config) backupEvents(ctx context.Context, put dump.Put) error {
	dir := filepath.Join(c.DataDir, eventsDir)
	if !exists(dir) {
		return nil
	}
	return events.BackupDir(ctx, dir, put, backupData+"/"+eventsDir)
}

// usageFolder is the folder of the usage records of the evidence log that the body writes.
func (c Config) usageFolder() string {
	return filepath.Join(c.DataDir, usageDir, strconv.Itoa(c.Evidence.Log))
}

// backupUsage adds the usage records of a body, of all its logs, that no process has open.
func (c Config) backupUsage(ctx context.Context, put dump.Put, root string, open map[string]bool) error {
	return eachUsage(filepath.Join(c.DataDir, usageDir), "", func(dir string) error {
		if open[dir] {
			return nil
		}
		return usage.BackupDir(ctx, dir, put, root+"/"+usageDir+"/"+filepath.Base(dir))
	})
}

// eachUsage calls fn with the folder of usage records of each log. What is kept in it is
// a database, or with the suffix of a dump what a backup holds of one.
func eachUsage(dir, suffix string, fn func(dir string) error) error {
	logs, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("find the usage records: %w", err)
	}
	for _, log := range logs {
		if at := filepath.Join(dir, log.Name()); exists(filepath.Join(at, usage.KeptDir+suffix)) {
			if err := fn(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// backupUsageKey adds the key by which persons are found.
func (c Config) backupUsageKey(put dump.Put, root string) error {
	if !exists(c.usageKeyFile()) {
		return nil
	}
	return dump.File(put, root+"/"+usageKeyName, c.usageKeyFile(), -1)
}

// restoreDatabases makes them of their parts of an archive.
func (c Config) restoreDatabases(temp string) error {
	for _, name := range databases {
		dir := filepath.Join(temp, filepath.FromSlash(backupData), name)
		if !exists(dir + dump.Suffix) {
			continue
		}
		if err := ldb.Restore(dir); err != nil {
			return err
		}
	}
	if err := events.RestoreDir(filepath.Join(temp, filepath.FromSlash(backupData), eventsDir)); err != nil {
		return err
	}
	for root := range c.bodies() {
		if err := restoreUsage(temp, root); err != nil {
			return err
		}
	}
	return nil
}

// restoreUsage makes a body's periods and cases of their parts of an archive.
func restoreUsage(temp, root string) error {
	return eachUsage(filepath.Join(temp, filepath.FromSlash(root), usageDir), dump.Suffix, func(dir string) error {
		return ldb.Restore(filepath.Join(dir, usage.KeptDir))
	})
}

// usageKeyNote says that a body's usage records lack their key.
func usageKeyNote(key string) string {
	return "the key by which persons are found in usage records is not in the file: put it at " + key + " before the node starts; it takes no other once there are records"
}

// settleUsage moves the usage records of a member that was handed over, and their key,
// to where there are none yet.
func (c Config) settleUsage(at func(string) string, place func(from, to string) error, out *TakenOver) error {
	if from, to := at(backupData+"/"+usageDir), filepath.Join(c.DataDir, usageDir); exists(from) {
		if occupied(to) {
			out.Notes = append(out.Notes, to+" holds usage records already, so periods and cases of the file were not put there")
		} else if err := place(from, to); err != nil {
			return err
		}
	}
	from, to := at(backupData+"/"+usageKeyName), c.usageKeyFile()
	switch {
	case !exists(from):
		if !exists(to) {
			out.Notes = append(out.Notes, usageKeyNote(to))
		}
		return nil
	case !exists(to):
		return place(from, to)
	}
	theirs, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	ours, err := os.ReadFile(to)
	if err != nil {
		return err
	}
	if !bytes.Equal(ours, theirs) {
		out.Notes = append(out.Notes, to+" is another key than that of the file: if there are usage records in the file, put theirs in its place")
	}
	return nil
}
