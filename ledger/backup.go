package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	sm "github.com/cometbft/cometbft/state"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/internal/schema"
	"github.com/civibus/civibus/registry"
)

// BackupInfo says how far the ledger is in a backup.
type BackupInfo struct {
	Height   uint64
	AppHash  [32]byte
	LastSign json.RawMessage // the validator's last-sign state, nil if there is none
}

// The stores of a ledger directory that a backup holds. What is left out: the
// consensus write-ahead log and the last-sign state, which are of the moment; the
// snapshots, which are made anew; and keys.
var backupStores = []struct{ name, dir string }{
	// In this order: a registry that is behind its blocks executes them again, the
	// other way round is no state that a crash leaves.
	{"registry", "registry"},
	{"engine/state", "engine/state.db"},
	{"engine/blockstore", "engine/blockstore.db"},
	{"engine/evidence", "engine/evidence.db"},
	{"witness", "witness"},
}

// Backup adds the running node's stores to a backup under name, all as of one
// moment. The node goes on meanwhile; the backup ends when it closes.
func (n *Node) Backup(ctx context.Context, put dump.Put, name string) (info BackupInfo, err error) {
	if !n.enter() {
		return info, ErrClosed
	}
	defer n.leave()
	ctx, cancel := n.untilClosed(ctx)
	defer cancel()
	open := map[string]*leveldb.DB{"registry": n.store.db.DB}
	for _, id := range []string{"state", "blockstore", "evidence"} {
		if g, ok := n.dbs.db(id).(*guardedDB); ok {
			if db, ok := g.db.(*dbm.GoLevelDB); ok {
				open["engine/"+id] = db.DB()
			}
		}
	}
	if n.witness != nil {
		open["witness"] = n.witness.db.DB
	}
	// 1. One moment: the heights are the same before and after the cuts.
	states, blocks := sm.NewStore(n.dbs.db("state"), sm.StoreOptions{}), n.engine.BlockStore()
	heights := func() (h [3]uint64, fits bool, err error) {
		state, err := states.Load()
		if err != nil {
			return h, false, err
		}
		if v := n.View(); v != nil {
			h = [3]uint64{v.Height(), uint64(state.LastBlockHeight), uint64(blocks.Height())}
		}
		return h, (h[0] == h[1] || h[0] == h[1]+1) && h[2] <= h[1]+1, nil
	}
	cuts := make(map[string]*leveldb.Snapshot)
	release := func() {
		for _, c := range cuts {
			c.Release()
		}
		clear(cuts)
	}
	defer release()
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for {
		before, fits, err := heights()
		if err != nil {
			return info, fmt.Errorf("back up the ledger: %w", err)
		}
		v := n.View()
		for _, s := range backupStores {
			if db := open[s.name]; db != nil && fits {
				if cuts[s.name], err = db.GetSnapshot(); err != nil {
					return info, fmt.Errorf("back up the ledger: %w", err)
				}
			}
		}
		after, _, err := heights()
		if err != nil {
			return info, fmt.Errorf("back up the ledger: %w", err)
		}
		if fits && before == after && v == n.View() {
			if v != nil {
				info.Height, info.AppHash = v.Height(), v.AppHash()
			}
			break
		}
		release()
		select {
		case <-pause.C:
		case <-ctx.Done():
			return info, fmt.Errorf("back up the ledger: %w", context.Cause(ctx))
		}
	}
	// 2. Copy them.
	info.LastSign, err = readLastSign(n.cfg.Dir)
	if err != nil {
		return info, err
	}
	return info, dumpStores(ctx, put, name, cuts)
}

// BackupDir adds the stores of the ledger directory dir, which no process has open,
// to a backup. It changes nothing.
func BackupDir(ctx context.Context, dir string, put dump.Put, name string) (info BackupInfo, err error) {
	lock, err := lockDir(dir)
	if err != nil {
		return info, err
	}
	defer lock.Close()
	cuts := make(map[string]*leveldb.Snapshot)
	for _, s := range backupStores {
		path := filepath.Join(dir, filepath.FromSlash(s.dir))
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		db, err := leveldb.OpenFile(path, readOnly())
		if err != nil {
			return info, fmt.Errorf("back up the ledger: %s: %w", path, err)
		}
		defer db.Close()
		cut, err := db.GetSnapshot()
		if err != nil {
			return info, fmt.Errorf("back up the ledger: %s: %w", path, err)
		}
		defer cut.Release()
		cuts[s.name] = cut
		if s.name == "registry" {
			machine, err := registry.Open(&store{db: &ldb.DB{DB: db}})
			if err != nil {
				return info, fmt.Errorf("back up the ledger: %s: %w", path, err)
			}
			if v := machine.View(); v != nil {
				info.Height, info.AppHash = v.Height(), v.AppHash()
			}
		}
	}
	if info.LastSign, err = readLastSign(dir); err != nil {
		return info, err
	}
	return info, dumpStores(ctx, put, name, cuts)
}

// readLastSign reads the validator's last-sign state, without what it signed.
func readLastSign(dir string) (json.RawMessage, error) {
	b, err := os.ReadFile(filepath.Join(dir, "engine", signStateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("back up the ledger: %w", err)
	}
	var state struct {
		Height string `json:"height"`
		Round  int    `json:"round"`
		Step   int    `json:"step"`
	}
	if err := json.Unmarshal(b, &state); err != nil {
		return nil, fmt.Errorf("back up the ledger: %s: %w", signStateFile, err)
	}
	return json.Marshal(state)
}

func dumpStores(ctx context.Context, put dump.Put, name string, cuts map[string]*leveldb.Snapshot) error {
	for _, s := range backupStores {
		cut := cuts[s.name]
		if cut == nil {
			continue
		}
		it := cut.NewIterator(nil, nil)
		err := dump.Database(put, name+"/"+s.name, it, func() error { return context.Cause(ctx) })
		it.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// RestoreDir makes a ledger directory of what a backup put into dir, checks it, and
// puts the guard before its validator: nothing is signed before the chain has gone
// on without this key.
func RestoreDir(ctx context.Context, dir string, guard Guard) (info BackupInfo, err error) {
	fail := func(err error) (BackupInfo, error) { return BackupInfo{}, fmt.Errorf("restore the ledger: %w", err) }
	for _, s := range backupStores {
		from := filepath.Join(dir, filepath.FromSlash(s.name)+dump.Suffix)
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := loadStore(ctx, from, filepath.Join(dir, filepath.FromSlash(s.dir))); err != nil {
			return fail(err)
		}
		if err := os.RemoveAll(from); err != nil {
			return fail(err)
		}
	}
	if err := SetGuard(dir, guard); err != nil {
		return fail(err)
	}
	if err := schema.Mark(dir, schemaName, schemaKnown); err != nil {
		return fail(err)
	}
	report, err := Check(ctx, dir)
	if err != nil {
		return fail(err)
	}
	if len(report.Problems) > 0 {
		return fail(fmt.Errorf("%s: %s", report.Problems[0].File, report.Problems[0].What))
	}
	return BackupInfo{Height: report.Height, AppHash: report.AppHash}, nil
}

// loadStore makes a database of a dump.
func loadStore(ctx context.Context, from, to string) error {
	db, err := ldb.Open(to, opt.Options{ErrorIfExist: true, WriteBuffer: 32 << 20})
	if err != nil {
		return err
	}
	b := new(leveldb.Batch)
	size := 0
	err = dump.Load(from, func(k, v []byte) error {
		b.Put(k, v)
		if size += len(k) + len(v); size < 4<<20 {
			return nil
		}
		err := errors.Join(db.Write(b, nil), context.Cause(ctx))
		b.Reset()
		size = 0
		return err
	})
	if err == nil {
		err = db.Write(b, &opt.WriteOptions{Sync: true})
	}
	return errors.Join(err, db.Close())
}
