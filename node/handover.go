package node

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/internal/backup"
	"github.com/civibus/civibus/internal/backup/dump"
)

// The parts of a hosted member's archive, beside those of a backup.
const (
	handOverTable   = "hosted.toml"
	handOverClients = backupData + "/clients"
	handOverReplay  = backupData + "/replay"
)

// ErrStillServed says that a member's log is not handed over, since it may still
// grow here.
var ErrStillServed = errors.New("it is still served here")

// HandedOver is what ExportHosted put into an archive.
type HandedOver struct {
	Manifest backup.Manifest `json:"export"`
	Notes    []string        `json:"notes"`
}

// ExportHosted writes all that is kept for a hosted member as an archive, which the
// caller encrypts: its evidence logs with their archived bodies, its nonces, the
// table of the configuration file and the certificates of its client systems; its
// private keys only if they are wanted. It refuses while the member is served or the
// registry names this body as its host, and when the registry has witnessed more of
// a log than is here.
func (c Config) ExportHosted(ctx context.Context, configFile, member string, keys bool, to io.Writer) (out HandedOver, err error) {
	own, err := c.OfHosted(member)
	if err != nil {
		return out, err
	}
	// 1. Nobody writes to the log any more.
	running, witnessed, err := c.released(ctx, member)
	if err != nil {
		return out, err
	}
	genesis, err := ReadGenesis(c.Ledger.Genesis)
	if err != nil {
		return out, err
	}
	// 2. What others must be able to go on with.
	now := time.Now()
	w := backup.NewWriter(to, now)
	out.Manifest = own.Manifest(now, keys)
	m := &out.Manifest
	m.Kind, m.ChainID, m.Running = backup.HandOver, genesis.ChainID, running
	if err := own.closedLogs(ctx, w.Put, m, backupData, nil); err != nil {
		return out, err
	}
	if err := own.ownErasureKeys(backupData, func(name, file string) error { return dump.File(w.Put, name, file, -1) }); err != nil {
		return out, err
	}
	if err := own.backupUsage(ctx, w.Put, backupData, nil); err != nil {
		return out, err
	}
	if err := own.putReplay(w.Put); err != nil {
		return out, err
	}
	if out.Notes, err = own.putTable(w.Put, configFile); err != nil {
		return out, err
	}
	if keys {
		if err := own.backupKeys(w.Put, backupData, backupKeys); err != nil {
			return out, fmt.Errorf("hand over the keys of %s: %w", member, err)
		}
	}
	// 3. All that was witnessed is in it, and nothing has changed meanwhile.
	id, err := civibus.ParseMemberID(member)
	if err != nil {
		return out, err
	}
	lost, err := holdsWitnessed(id, own.Evidence.Log, m.Logs, witnessed)
	if err != nil {
		return out, err
	}
	out.Notes = append(out.Notes, lost...)
	if len(m.Logs) == 0 {
		return out, fmt.Errorf("%s holds no evidence log of %s: there is nothing to hand over", own.DataDir, member)
	}
	again, _, err := c.released(ctx, member)
	if err != nil {
		return out, err
	}
	if again != running {
		return out, errors.New("the node was started or stopped meanwhile: run the command again")
	}
	if !running {
		out.Notes = append(out.Notes, "the node does not run, so the registry was not asked who hosts the member: the new place says so if this is not all of the log")
	}
	m.Finished = time.Now().UTC()
	return out, w.Close(m)
}

// released reports whether the node runs and, where it does, that it has done with a
// hosted member, and what the registry has witnessed of the member's logs.
func (c Config) released(ctx context.Context, member string) (running bool, witnessed []admin.Log, err error) {
	client := admin.NewClient(c.Admin.Socket)
	status, err := client.Status(ctx)
	var p *admin.Problem
	if errors.As(err, &p) && p.Status == 0 && p.Code == "not_running" {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	for _, h := range status.Hosted {
		if h.Member == member && h.Serving {
			return true, nil, fmt.Errorf("%s: %w, and its log grows: the registry must name another host, or none, first", member, ErrStillServed)
		}
	}
	hostings, err := allOf(ctx, admin.ListOptions{Member: member}, client.Hostings)
	if err != nil {
		return true, nil, err
	}
	for _, h := range hostings {
		if h.Member == member && h.Host == c.Member {
			return true, nil, fmt.Errorf("%s: %w as soon as it can be, since the registry names %s as its host: it must name another, or none, first", member, ErrStillServed, c.Member)
		}
	}
	witnessed, err = witnessedLogs(ctx, client, member)
	return true, witnessed, err
}

// witnessedLogs are a member's logs as the registry knows them.
func witnessedLogs(ctx context.Context, client *admin.Client, member string) ([]admin.Log, error) {
	logs, err := allOf(ctx, admin.ListOptions{}, client.Logs)
	return slices.DeleteFunc(logs, func(l admin.Log) bool { return l.Member != member }), err
}

// allOf reads every page of a list.
func allOf[T any](ctx context.Context, o admin.ListOptions, read func(context.Context, admin.ListOptions) (admin.Page[T], error)) (all []T, err error) {
	for o.Limit = 1000; ; {
		page, err := read(ctx, o)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if o.After = page.Next; o.After == "" {
			return all, nil
		}
	}
}

// holdsWitnessed reports that the registry has witnessed more of the log that a member
// goes on with than an archive holds, or a later log. An older log may be lost: the
// notes name it.
func holdsWitnessed(member civibus.MemberID, number int, logs []backup.Log, witnessed []admin.Log) (notes []string, err error) {
	for _, seen := range witnessed {
		held := uint64(0)
		for _, l := range logs {
			if l.Origin == seen.Origin {
				held = l.Size
			}
		}
		if held >= seen.Size {
			continue
		}
		of, err := strconv.Atoi(strings.TrimPrefix(seen.Origin, originPrefix(member)))
		what := fmt.Sprintf("the registry has witnessed %d entries of %s, and %d are there", seen.Size, seen.Origin, held)
		if err == nil && of < number {
			notes = append(notes, what+": receipts of the others can be made where they are kept, if they are")
			continue
		}
		return nil, fmt.Errorf("%s: the whole log is elsewhere, hand it over from there", what)
	}
	return notes, nil
}

// putReplay adds the nonces of a journal that is closed. They bind requests that
// were sealed for this gateway; they are in the archive for the member's return.
func (c Config) putReplay(put dump.Put) error {
	dir := filepath.Join(c.DataDir, "replay")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hand over the nonces: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == "lock" {
			continue
		}
		if err := dump.File(put, handOverReplay+"/"+e.Name(), filepath.Join(dir, e.Name()), -1); err != nil {
			return err
		}
	}
	return nil
}

// putTable adds the member's table of the configuration file without what belongs to
// this host (folder, keys, archive key), and the certificates that its client rules
// name. It tells which files the table names that are not in the archive.
func (c Config) putTable(put dump.Put, configFile string) (notes []string, err error) {
	text, err := os.ReadFile(configFile)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	file, err := ParseConfig(text)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(file.Hosted, func(h HostedConfig) bool { return h.Member == c.Member })
	if i < 0 {
		return nil, fmt.Errorf("%s has no table [[hosted]] of %s", configFile, c.Member)
	}
	table := file.Hosted[i]
	table.DataDir, table.Keys, table.Evidence.ArchiveKey = "", KeysConfig{}, ""
	for i, rule := range c.Consumer.Clients {
		for j, cert := range rule.Certificates {
			public, err := certificatesOf(cert)
			if err != nil {
				return nil, fmt.Errorf("the certificate of a client system: %w", err)
			}
			name := fmt.Sprintf("%s/%d-%d.pem", handOverClients, i, j)
			if err := put(name, int64(len(public)), bytes.NewReader(public)); err != nil {
				return nil, err
			}
			table.Clients[i].Certificates[j] = name
		}
	}
	for _, s := range table.Services {
		for _, f := range []struct{ key, file string }{
			{"client_certificate", s.ClientCertificate}, {"client_key", s.ClientKey}, {"ca", s.CA}, {"mapping", s.Mapping}, {"dir", s.Dir}, {"openapi", s.OpenAPI},
		} {
			if f.file != "" && !isURL(f.file) && !strings.HasPrefix(f.file, "self:") {
				notes = append(notes, fmt.Sprintf("service %s: %s is %s, which is not in the file: it must be at the new place too", s.ID, f.key, f.file))
			}
		}
	}
	out := []byte(hostedTable(table))
	return notes, put(handOverTable, int64(len(out)), bytes.NewReader(out))
}

// certificatesOf returns the certificates of a PEM file and nothing else that may be
// in it.
func certificatesOf(file string) ([]byte, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []byte
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return out, nil
}

// TakenOver is what ImportHosted found and did.
type TakenOver struct {
	Dir      string            `json:"dir"`
	Manifest backup.Manifest   `json:"export"`
	Logs     []evidence.Report `json:"logs"`
	Table    string            `json:"table,omitempty"` // to be added to the configuration; empty: it has one
	Notes    []string          `json:"notes"`
}

// ImportHosted puts what ExportHosted wrote into a member's folder at this node: that
// of its table [[hosted]], the usual one below base where there is no table yet, or
// the node's own where the member is the node's body. The archive is compared with
// its manifest to the end, every log is checked as Fsck does and compared with what
// the registry has witnessed, and only then anything is put in place, the logs last.
// After an error nothing is left.
func (c Config) ImportHosted(ctx context.Context, member string, r io.Reader, base string) (out TakenOver, err error) {
	// 1. Where it belongs, and that no log of it is there.
	own, hasTable, err := c.placeOf(member, base)
	if err != nil {
		return out, err
	}
	out.Dir = own.DataDir
	here := filepath.Join(own.DataDir, "evidence")
	if names, err := os.ReadDir(here); err == nil && len(names) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("%s exists and is not empty: a log is never written over; move it away if it is an older copy", here)
	}
	isNew := !exists(own.DataDir)
	if err := os.MkdirAll(own.DataDir, 0o700); err != nil {
		return out, err
	}
	temp, err := os.MkdirTemp(own.DataDir, ".importing-")
	if err != nil {
		return out, err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(temp))
		if err != nil && isNew {
			_ = os.Remove(own.DataDir) // it stays if something else is in it
		}
	}()
	// 2. What the file holds: all of it, and of this member and network.
	genesis, err := ReadGenesis(c.Ledger.Genesis)
	if err != nil {
		return out, err
	}
	if out.Manifest, err = backup.Extract(r, temp); err != nil {
		return out, err
	}
	switch m := out.Manifest; {
	case m.Kind != backup.HandOver:
		return out, errors.New("it is a body's backup and not a hosted member handed over: \"civibus restore\" takes it")
	case m.Member != member:
		return out, fmt.Errorf("it is of %s, not of %s", m.Member, member)
	case m.ChainID != genesis.ChainID:
		return out, fmt.Errorf("it is of the network %s, this node is of %s", m.ChainID, genesis.ChainID)
	}
	table, err := readTable(temp)
	if err != nil {
		return out, err
	}
	// 3. The logs, against themselves and against the registry; periods and cases.
	if err := restoreUsage(temp, backupData); err != nil {
		return out, err
	}
	if err := c.checkHandedOver(ctx, temp, table, &out); err != nil {
		return out, err
	}
	// 4. Everything in its place, the logs as a whole and last: the node serves the
	// member as soon as they are there.
	if err := own.settle(temp, &out); err != nil {
		return out, err
	}
	if !hasTable {
		out.Table = hostedTable(table.settled(own.DataDir))
	}
	return out, nil
}

// settled is a table that was handed over, with its folder and its files where they
// are now.
func (h HostedConfig) settled(dir string) HostedConfig {
	h.DataDir = dir
	for _, rule := range h.Clients {
		for j, name := range rule.Certificates {
			rule.Certificates[j] = filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(name, backupData+"/")))
		}
	}
	return h
}

// placeOf finds where a member's data belongs at this node.
func (c Config) placeOf(member, base string) (own Config, hasTable bool, err error) {
	id, err := civibus.ParseMemberID(member)
	switch {
	case err != nil:
		return own, false, err
	case id.String() != member:
		return own, false, fmt.Errorf("%q: the rule is the canonical form %q", member, id)
	case member == c.Member:
		return c, true, nil
	}
	if own, err := c.OfHosted(member); err == nil {
		return own, true, nil
	}
	h := HostedConfig{Member: member}.withDefaults().resolve(base, func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	})
	return c.ForHosted(h), false, nil
}

func readTable(temp string) (HostedConfig, error) {
	text, err := os.ReadFile(filepath.Join(temp, handOverTable))
	if err != nil {
		return HostedConfig{}, fmt.Errorf("the member's table: %w", err)
	}
	file, err := ParseConfig(text)
	if err == nil && len(file.Hosted) != 1 {
		err = fmt.Errorf("there are %d, the rule is one", len(file.Hosted))
	}
	if err != nil {
		return HostedConfig{}, fmt.Errorf("the member's table: %w", err)
	}
	return file.Hosted[0], nil
}

// checkHandedOver rebuilds and checks the logs below temp, their signatures with the
// log keys that the registry holds, if the node runs.
func (c Config) checkHandedOver(ctx context.Context, temp string, table HostedConfig, out *TakenOver) error {
	m := out.Manifest
	opts := evidence.FsckOptions{BodyRetention: time.Duration(table.Evidence.BodyRetention)}
	id, _ := civibus.ParseMemberID(m.Member) // placeOf has looked
	logs, err := c.registered(ctx, m.Member, &opts)
	var p *admin.Problem
	switch {
	case errors.As(err, &p) && (p.Status == 0 && p.Code == "not_running" || p.Status == http.StatusServiceUnavailable):
		out.Notes = append(out.Notes, "the node does not run or has just started, so the logs were not compared with the registry; the node does that when it starts")
	case err != nil:
		return err
	default:
		lost, err := holdsWitnessed(id, table.withDefaults().Evidence.Log, m.Logs, logs)
		if err != nil {
			return err
		}
		out.Notes = append(out.Notes, lost...)
	}
	for _, l := range m.Logs {
		if !strings.HasPrefix(l.Origin, originPrefix(id)) || !strings.HasPrefix(l.Dir, backupData+"/evidence/") {
			return fmt.Errorf("the log %s in %s is not of %s", l.Origin, l.Dir, m.Member)
		}
		report, err := restoreLog(ctx, temp, l, opts)
		if err != nil {
			return err
		}
		out.Logs = append(out.Logs, *report)
	}
	if len(out.Logs) == 0 {
		return errors.New("there is no evidence log in it")
	}
	return nil
}

// registered asks the running node for a member's log keys and for what the registry
// has witnessed of its logs.
func (c Config) registered(ctx context.Context, member string, opts *evidence.FsckOptions) ([]admin.Log, error) {
	client := admin.NewClient(c.Admin.Socket)
	keys, err := allOf(ctx, admin.ListOptions{Member: member, Purpose: civibus.LogKey.String()}, client.Keys)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		key, err := civibus.ParsePublicKey(k.SPKI)
		if err != nil {
			return nil, fmt.Errorf("log key %s: %w", k.ID, err)
		}
		opts.PublicKeys = append(opts.PublicKeys, key)
	}
	return witnessedLogs(ctx, client, member)
}

// settle moves what was checked into the member's folder.
func (c Config) settle(temp string, out *TakenOver) (err error) {
	at := func(name string) string { return filepath.Join(temp, filepath.FromSlash(name)) }
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return err
	}
	var placed []string
	defer func() {
		if err != nil {
			for _, p := range placed {
				err = errors.Join(err, os.RemoveAll(p))
			}
		}
	}()
	place := func(from, to string) error {
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.Rename(from, to); err != nil {
			return err
		}
		placed = append(placed, to)
		return syncFolder(filepath.Dir(to))
	}
	// 1. Archive keys: where the configuration wants the key, or beside each log.
	for _, l := range out.Manifest.Logs {
		target := c.Evidence.ArchiveKey
		if target == "" {
			target = filepath.Join(at(l.Dir), archiveKeyFile)
		}
		for _, from := range []string{at(l.Dir + "/" + archiveKeyFile), at(backupData + "/" + archiveKeyFile)} {
			if !exists(from) || from == target || exists(target) {
				continue
			}
			if err := copyFile(from, target); err != nil {
				return err
			}
			if c.Evidence.ArchiveKey != "" {
				placed = append(placed, target)
			}
		}
		if holdsBodies(out.Manifest, l) && !exists(target) {
			later := target
			if rel, err := filepath.Rel(at(backupData), target); err == nil && filepath.IsLocal(rel) {
				later = filepath.Join(c.DataDir, rel)
			}
			out.Notes = append(out.Notes, "archived bodies are in the file and were not checked, since the archive key is not: put it at "+later+", without it they cannot be read, nor the member be served where bodies are archived")
		}
	}
	// 2. Private keys, nonces and certificates, where there are none yet.
	switch {
	case !out.Manifest.Keys:
		out.Notes = append(out.Notes, "private keys are not in the file: the member's seal and log key belong to "+c.Keys.Dir)
	case occupied(c.Keys.Dir):
		out.Notes = append(out.Notes, c.Keys.Dir+" holds keys already, so those of the file were not put there")
	case exists(at(backupKeys)):
		if err := place(at(backupKeys), c.Keys.Dir); err != nil {
			return err
		}
	}
	for _, name := range []string{"replay", "clients"} {
		if from, to := at(backupData+"/"+name), filepath.Join(c.DataDir, name); exists(from) && !occupied(to) {
			if err := place(from, to); err != nil {
				return err
			}
		}
	}
	// 3. Periods and cases, and the key by which persons are found.
	if err := c.settleUsage(at, place, out); err != nil {
		return err
	}
	// 4. The logs.
	if err := syncTree(at(backupData + "/evidence")); err != nil {
		return err
	}
	return place(at(backupData+"/evidence"), filepath.Join(c.DataDir, "evidence"))
}

// occupied reports whether a folder has anything in it.
func occupied(dir string) bool {
	names, err := os.ReadDir(dir)
	return err == nil && len(names) > 0
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	defer clear(b)
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// holdsBodies reports whether archived bodies of a log are in an archive.
func holdsBodies(m backup.Manifest, l backup.Log) bool {
	return slices.ContainsFunc(m.Files, func(f backup.File) bool {
		return strings.HasPrefix(f.Path, l.Dir+"/") && strings.HasSuffix(f.Path, ".body")
	})
}
