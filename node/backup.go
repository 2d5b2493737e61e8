package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/ledger"
)

// The folders and files of a backup, and of a body that was restored from one.
const (
	backupConfig  = "civibus.toml"
	backupGenesis = "genesis.toml"
	backupKeys    = "keys"
	backupData    = "data"
	backupLedger  = backupData + "/ledger"
	backupHosted  = "hosted"
)

// Backup writes the running node's stores as an archive that is not encrypted: the
// caller does that. What was acknowledged before the call is in it. Configuration,
// genesis and keys are not: whoever may read them adds them.
func (n *Node) Backup(ctx context.Context, to io.Writer) error {
	if n.current.Load() == nil {
		return errStarting // the evidence is not open, and a backup without it is none
	}
	w := backup.NewWriter(to, n.clock())
	m := n.cfg.manifest(n.clock())
	m.Running = true
	if full := n.ledger.fullNode(); full != nil {
		info, err := full.Backup(ctx, w.Put, backupLedger)
		if err != nil {
			return err
		}
		m.Ledger = ledgerInfo(info)
	}
	add := func(c Config, root string, log *evidence.Log) error {
		name, err := logName(c, root, c.evidenceDir())
		if err != nil {
			return err
		}
		info, err := log.Backup(ctx, w.Put, name)
		m.Logs = append(m.Logs, backup.Log{Dir: name, Origin: info.Origin, Size: info.Size, Next: info.Next})
		return err
	}
	open := map[string]bool{n.cfg.evidenceDir(): true}
	if err := add(n.cfg, backupData, n.current.Load().evidence); err != nil {
		return err
	}
	for _, h := range n.hosted {
		guest, leave, err := h.enter()
		if err != nil {
			continue // its log is closed
		}
		open[h.cfg.evidenceDir()] = true
		err = add(h.cfg, hostedRoot(h.cfg), guest.current.Load().evidence)
		leave()
		if err != nil {
			return err
		}
	}
	if err := n.cfg.backupLogs(ctx, w.Put, &m, open); err != nil {
		return err
	}
	if err := n.backupDatabases(ctx, w.Put); err != nil {
		return err
	}
	m.ChainID = n.genesis.ChainID
	m.Finished = n.clock().UTC()
	return w.Close(&m)
}

// bodies are the configurations of the body and of those that it hosts, by the place
// of their data within a backup.
func (c Config) bodies() map[string]Config {
	out := map[string]Config{backupData: c}
	for _, h := range c.Hosted {
		guest := c.ForHosted(h)
		out[hostedRoot(guest)] = guest
	}
	return out
}

// hostedRoot is the place of a hosted body's data within a backup.
func hostedRoot(c Config) string {
	id, err := civibus.ParseMemberID(c.Member)
	if err != nil {
		return backupHosted + "/unknown" // the configuration was checked
	}
	return backupHosted + "/" + civibus.EncodePart(id.Class) + "-" + civibus.EncodePart(id.Code)
}

// logName is the place of an evidence log's folder within a backup.
func logName(c Config, root, dir string) (string, error) {
	rel, err := filepath.Rel(filepath.Join(c.DataDir, "evidence"), dir)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("back up the evidence log %s: it is not below %s", dir, filepath.Join(c.DataDir, "evidence"))
	}
	return root + "/evidence/" + filepath.ToSlash(rel), nil
}

// backupLogs adds the evidence logs that no process has open: older ones, and those
// of hosted bodies that are not served.
func (c Config) backupLogs(ctx context.Context, put dump.Put, m *backup.Manifest, open map[string]bool) error {
	for root, body := range c.bodies() {
		if err := body.closedLogs(ctx, put, m, root, open); err != nil {
			return err
		}
	}
	return nil
}

// closedLogs adds the evidence logs of one body that no process has open.
func (c Config) closedLogs(ctx context.Context, put dump.Put, m *backup.Manifest, root string, open map[string]bool) error {
	dirs, err := logDirs(filepath.Join(c.DataDir, "evidence"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if open[dir] {
			continue
		}
		name, err := logName(c, root, dir)
		if err != nil {
			return err
		}
		info, err := evidence.BackupDir(ctx, dir, put, name)
		if err != nil {
			return err
		}
		m.Logs = append(m.Logs, backup.Log{Dir: name, Origin: info.Origin, Size: info.Size, Next: info.Next})
	}
	return nil
}

func (c Config) manifest(now time.Time) backup.Manifest {
	return backup.Manifest{Member: c.Member, Software: Version(), Started: now.UTC()}
}

func ledgerInfo(i ledger.BackupInfo) *backup.Ledger {
	return &backup.Ledger{Height: i.Height, AppHash: hex.EncodeToString(i.AppHash[:]), LastSign: i.LastSign}
}

// BackupStopped adds the stores of a node that does not run to an archive.
func (c Config) BackupStopped(ctx context.Context, put dump.Put, m *backup.Manifest) error {
	genesis, err := ReadGenesis(c.Ledger.Genesis)
	if err != nil {
		return err
	}
	m.ChainID = genesis.ChainID
	if dir := filepath.Join(c.DataDir, "ledger"); exists(filepath.Join(dir, "registry")) {
		info, err := ledger.BackupDir(ctx, dir, put, backupLedger)
		if err != nil {
			return err
		}
		m.Ledger = ledgerInfo(info)
	}
	if err := c.backupLogs(ctx, put, m, nil); err != nil {
		return err
	}
	if err := c.backupClosed(ctx, put); err != nil {
		return err
	}
	m.Finished = time.Now().UTC()
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// logDirs finds the evidence logs below a folder, at whatever depth.
func logDirs(root string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path == root:
			return nil
		case err != nil:
			return err
		case d.IsDir() && exists(filepath.Join(path, "wal")):
			out = append(out, path)
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find the evidence logs: %w", err)
	}
	return out, nil
}

// BackupFiles adds configuration and genesis to an archive and, if wanted, the
// private keys: those of the key folder as they are there, encrypted if they are,
// and the keys of the archives of bodies.
func (c Config) BackupFiles(put dump.Put, configFile string, keys bool) error {
	if err := dump.File(put, backupConfig, configFile, -1); err != nil {
		return err
	}
	if err := dump.File(put, backupGenesis, c.Ledger.Genesis, -1); err != nil {
		return err
	}
	if !keys {
		return nil
	}
	for root, body := range c.bodies() {
		place := root + "/keys"
		if root == backupData {
			place = backupKeys
		}
		if err := body.backupKeys(put, root, place); err != nil {
			return fmt.Errorf("back up the keys of %s: %w", body.Member, err)
		}
	}
	return nil
}

// backupKeys adds a body's key folder, and the keys of its archives.
func (c Config) backupKeys(put dump.Put, root, place string) error {
	err := filepath.WalkDir(c.Keys.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(c.Keys.Dir, path)
		if err != nil {
			return err
		}
		return dump.File(put, place+"/"+filepath.ToSlash(rel), path, -1)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.backupUsageKey(put, root); err != nil {
		return err
	}
	if c.Evidence.ArchiveKey != "" && exists(c.Evidence.ArchiveKey) {
		return dump.File(put, root+"/"+archiveKeyFile, c.Evidence.ArchiveKey, -1)
	}
	logs, err := logDirs(filepath.Join(c.DataDir, "evidence"))
	if err != nil {
		return err
	}
	for _, dir := range logs {
		name, err := logName(c, root, dir)
		if err == nil && exists(filepath.Join(dir, archiveKeyFile)) {
			err = dump.File(put, name+"/"+archiveKeyFile, filepath.Join(dir, archiveKeyFile), -1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const archiveKeyFile = "archive.key"

// Manifest begins the description of a backup of this body.
func (c Config) Manifest(now time.Time, keys bool) backup.Manifest {
	m := c.manifest(now)
	m.Keys = keys
	return m
}

// Restored is what RestoreBackup found and did.
type Restored struct {
	Dir      string            `json:"dir"`
	Manifest backup.Manifest   `json:"backup"`
	Height   uint64            `json:"height"`
	AppHash  string            `json:"app_hash"`
	Logs     []evidence.Report `json:"logs"`
	Notes    []string          `json:"notes"`
}

// RestoreBackup makes the new folder dir of the archive r, which is decrypted: the
// archive is read and compared with its manifest to the end, the databases are
// rebuilt, every evidence log and the registry are checked, and only then the folder
// gets its name. After an error there is nothing. keys is the newest copy of the body's
// erasure keys (Config.WriteErasureKeys); nil if nothing in the backup was sealed.
func RestoreBackup(ctx context.Context, r, keys io.Reader, dir string) (out Restored, err error) {
	// 1. A new folder beside the place.
	if dir, err = filepath.Abs(dir); err != nil {
		return out, err
	}
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("restore to %s: it exists and is not empty, the rule is a new folder; nothing was written", dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return out, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".restoring-")
	if err != nil {
		return out, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	// 2. Everything that is in it, and nothing else.
	if out.Manifest, err = backup.Extract(r, temp); err != nil {
		return out, err
	}
	if out.Manifest.Kind != "" {
		return out, fmt.Errorf("it is a %s handed over and no body's backup: \"civibus hosted import\" takes it", out.Manifest.Kind)
	}
	var left []string
	if keys != nil {
		if left, err = placeErasureKeys(keys, out.Manifest.Member, temp); err != nil {
			return out, err
		}
	}
	text, err := os.ReadFile(filepath.Join(temp, backupConfig))
	if err != nil {
		return out, fmt.Errorf("the backup's configuration: %w", err)
	}
	cfg, err := ParseConfig(text)
	if err != nil {
		return out, fmt.Errorf("the backup's configuration: %w", err)
	}
	// 3. The ledger, with the guard before its validator.
	if m := out.Manifest.Ledger; m != nil {
		cause := fmt.Sprintf("restored from the backup of %s", out.Manifest.Started.Format(time.RFC3339))
		if len(m.LastSign) > 0 {
			cause += fmt.Sprintf(", where the last signature was at %s", m.LastSign)
		}
		info, err := ledger.RestoreDir(ctx, filepath.Join(temp, filepath.FromSlash(backupLedger)), ledger.Guard{Since: time.Now().UTC(), Cause: cause})
		if err != nil {
			return out, err
		}
		out.Height, out.AppHash = info.Height, hex.EncodeToString(info.AppHash[:])
		// A block may have been committed while the registry was cut.
		if info.Height != m.Height && info.Height != m.Height+1 || info.Height == m.Height && m.AppHash != out.AppHash {
			return out, fmt.Errorf("the registry is at height %d with hash %s, the backup says %d with %s", info.Height, out.AppHash, m.Height, m.AppHash)
		}
	}
	// 4. The evidence.
	for _, l := range out.Manifest.Logs {
		report, err := restoreLog(ctx, temp, l, evidence.FsckOptions{BodyRetention: time.Duration(cfg.Evidence.BodyRetention)})
		if err != nil {
			return out, err
		}
		out.Logs = append(out.Logs, *report)
	}
	if err := cfg.restoreDatabases(temp); err != nil {
		return out, err
	}
	// 5. Journals of nonces, of the hosted bodies too, that know that they know nothing,
	// so that requests of before are not taken a second time.
	for root := range cfg.bodies() {
		replay := filepath.Join(temp, filepath.FromSlash(root), "replay")
		if err := os.MkdirAll(replay, 0o700); err != nil {
			return out, err
		}
		if err := os.WriteFile(filepath.Join(replay, "state"), []byte("civibus-nonces/v1 open restored\n"), 0o600); err != nil {
			return out, err
		}
	}
	// 6. A configuration for the new place, and its name.
	if out.Notes, err = replaceConfig(cfg, temp, dir, out.Manifest); err != nil {
		return out, err
	}
	out.Notes = append(out.Notes, left...)
	if err := syncTree(temp); err != nil {
		return out, err
	}
	if err := os.Rename(temp, dir); err != nil {
		return out, err
	}
	out.Dir = dir
	return out, syncFolder(filepath.Dir(dir))
}

// restoreLog makes a log of its part of an archive and checks it.
func restoreLog(ctx context.Context, root string, l backup.Log, opts evidence.FsckOptions) (*evidence.Report, error) {
	dir := filepath.Join(root, filepath.FromSlash(l.Dir))
	if err := evidence.RestoreDir(dir); err != nil {
		return nil, err
	}
	opts.ArchiveKey = filepath.Join(dir, archiveKeyFile)
	if !exists(opts.ArchiveKey) {
		opts.ArchiveKey = filepath.Join(filepath.Dir(filepath.Dir(dir)), archiveKeyFile) // beside the folder evidence
	}
	opts.SkipArchive = !exists(opts.ArchiveKey)
	report, err := evidence.Fsck(ctx, dir, opts)
	switch {
	case err != nil:
		return nil, err
	case !report.OK():
		p := report.Problems[0]
		rel, _ := filepath.Rel(root, p.File)
		return nil, fmt.Errorf("the evidence log %s in the backup: %s: %s", l.Origin, rel, p.What)
	case report.Origin != l.Origin || report.Size != l.Size || report.Records+report.Erased+report.Expired+report.Pending < l.Next:
		return nil, fmt.Errorf("the evidence log %s in the backup has %d leaves and %d records, its manifest says %d leaves and at least %d records",
			l.Origin, report.Size, report.Records+report.Erased+report.Expired+report.Pending, l.Size, l.Next)
	}
	return report, nil
}

// replaceConfig points the configuration to where things are now and says what else
// there is to do.
func replaceConfig(c Config, temp, dir string, m backup.Manifest) (notes []string, err error) {
	before := Commented(c)
	usual := func(p *string, name string) {
		if *p != "" && filepath.Clean(*p) != name {
			*p = name
		}
	}
	usual(&c.DataDir, backupData)
	usual(&c.Ledger.Genesis, backupGenesis)
	if m.Keys {
		usual(&c.Keys.Dir, backupKeys)
		if place := backupData + "/" + archiveKeyFile; exists(filepath.Join(temp, filepath.FromSlash(place))) {
			usual(&c.Evidence.ArchiveKey, place)
		}
		usual(&c.Usage.Key, backupData+"/"+usageKeyName)
	} else {
		notes = append(notes, "private keys are not in the backup: put the body's key folder at "+filepath.Join(dir, backupKeys)+" or set keys.dir")
		if c.Keys.Dir != "" && !filepath.IsAbs(c.Keys.Dir) {
			usual(&c.Keys.Dir, backupKeys)
		}
		if exists(filepath.Join(temp, backupData, usageDir)) {
			key := filepath.Join(dir, backupData, usageKeyName)
			if filepath.IsAbs(c.Usage.Key) {
				key = c.Usage.Key
			}
			notes = append(notes, usageKeyNote(key))
		}
	}
	if c.Usage.Key != "" && !filepath.IsAbs(c.Usage.Key) {
		usual(&c.Usage.Key, backupData+"/"+usageKeyName)
	}
	for i := range c.Hosted {
		root := hostedRoot(Config{Member: c.Hosted[i].Member})
		usual(&c.Hosted[i].DataDir, root)
		if !m.Keys && exists(filepath.Join(temp, filepath.FromSlash(root), usageDir)) {
			notes = append(notes, usageKeyNote(filepath.Join(dir, filepath.FromSlash(root), usageKeyName)))
		}
		if m.Keys {
			usual(&c.Hosted[i].Keys.Dir, root+"/keys")
			if place := root + "/" + archiveKeyFile; exists(filepath.Join(temp, filepath.FromSlash(place))) {
				usual(&c.Hosted[i].Evidence.ArchiveKey, place)
			}
		}
	}
	if after := Commented(c); after != before {
		if err := os.WriteFile(filepath.Join(temp, backupConfig), []byte(after), 0o600); err != nil {
			return nil, err
		}
	}
	if m.Ledger != nil && strings.Contains(string(m.Ledger.LastSign), "height") {
		notes = append(notes, "the validator signs nothing until it has caught up and the chain has gone on without it; end the old node for good before this one starts")
	}
	notes = append(notes, "requests that were sealed before the start or within a minute after it are refused, since which of them were answered is not in the backup")
	for _, l := range m.Logs {
		notes = append(notes, fmt.Sprintf("evidence log %s ends at leaf %d: if the body went on after the backup, the registry has seen more of it, and the node says so at its start and what to do", l.Origin, l.Size))
	}
	return notes, nil
}

// syncTree makes a folder's names durable; the files are already.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncFolder(path)
	})
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
