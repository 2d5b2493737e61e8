package node

import (
	"context"
	"io"
	"path/filepath"

	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/internal/ldb"
)

// databases are the folders of the data directory that are one database each, beside
// ledger and evidence: facts of processes, and requests for evidence.
var databases = []string{"process", "once"}

// backupDatabases adds those of a running node to a backup.
func (n *Node) backupDatabases(ctx context.Context, put dump.Put) error {
	if p := n.process.Load(); p != nil {
		if err := p.Backup(ctx, put, backupData+"/process"); err != nil {
			return err
		}
	}
	if o := n.once.Load(); o != nil {
		return o.Backup(ctx, put, backupData+"/once")
	}
	return nil
}

// backupClosed adds those of a node that does not run.
func (c Config) backupClosed(ctx context.Context, put func(name string, size int64, content io.Reader) error) error {
	for _, name := range databases {
		dir := filepath.Join(c.DataDir, name)
		if !exists(filepath.Join(dir, "CURRENT")) {
			continue
		}
		if err := ldb.BackupDir(dir, put, backupData+"/"+name, ctx.Err); err != nil {
			return err
		}
	}
	return nil
}

// restoreDatabases makes them of their parts of an archive.
func restoreDatabases(temp string) error {
	for _, name := range databases {
		dir := filepath.Join(temp, filepath.FromSlash(backupData), name)
		if !exists(dir + dump.Suffix) {
			continue
		}
		if err := ldb.Restore(dir); err != nil {
			return err
		}
	}
	return nil
}
