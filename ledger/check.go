package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	dbm "github.com/cometbft/cometbft-db"
	sm "github.com/cometbft/cometbft/state"
	cmtstore "github.com/cometbft/cometbft/store"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/ldb"
	"github.com/civibus/civibus/registry"
)

// Damage is a finding of Check.
type Damage struct {
	File string `json:"file"`
	What string `json:"what"`
	Fix  string `json:"fix"`
}

// Report is the outcome of Check.
type Report struct {
	Height   uint64   `json:"height"`
	AppHash  [32]byte `json:"-"`
	Records  uint64   `json:"records"` // of all databases, read
	Blocks   uint64   `json:"blocks"`  // kept
	Problems []Damage `json:"problems"`
}

const fixResync = "run \"civibus ledger resync\": it moves the damaged part away and the node fetches it from the other bodies; nothing was changed"

// Check reads every record of a ledger directory that no process has open, rebuilds
// the registry's trees from their leaves and compares their hash with the one that
// the validators signed. It changes nothing. The error is about the check itself.
func Check(ctx context.Context, dir string) (*Report, error) {
	report := &Report{Problems: []Damage{}}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("check the ledger: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	// 1. Every database, record by record: each block of a file has a checksum.
	open, engine := make(map[string]*ldb.DB), make(map[string]dbm.DB)
	defer func() {
		for _, db := range open {
			db.Close() // it was only read
		}
	}()
	for _, s := range backupStores {
		path := filepath.Join(dir, filepath.FromSlash(s.dir))
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		db, engineDB, err := openReadOnly(path)
		if err == nil {
			open[s.name], engine[s.name] = db, engineDB
			it := db.NewIterator(nil, nil)
			for it.Next() {
				if report.Records++; report.Records%4096 == 0 && ctx.Err() != nil {
					it.Release()
					return nil, context.Cause(ctx)
				}
			}
			err = it.Error()
			it.Release()
		}
		if err != nil {
			if damage := ldb.Damaged(err); damage != nil && damage.Fd.Num > 0 {
				path = filepath.Join(path, damage.Fd.String())
			}
			fix := fixResync
			if s.name == "witness" {
				fix = "restore the folder from a backup, or move it away and run \"civibus ledger resync\", which guards the key; nothing was changed"
			}
			report.Problems = append(report.Problems, Damage{path, fmt.Sprintf("it is damaged: %v", err), fix})
		}
	}
	if len(report.Problems) > 0 || open["registry"] == nil {
		return report, nil
	}
	// 2. The registry, rebuilt from what it holds.
	machine, err := checkRegistry(ctx, dir, &store{db: open["registry"]}, report)
	if err != nil || machine == nil {
		return report, err
	}
	// 3. What the validators signed.
	if open["engine/blockstore"] != nil && open["engine/state"] != nil {
		checkBlocks(dir, machine.View(), engine["engine/blockstore"], engine["engine/state"], report)
	}
	return report, nil
}

// checkRegistry dumps the registry and imports the dump into a scratch folder, which
// computes every hash anew.
func checkRegistry(ctx context.Context, dir string, st *store, report *Report) (*registry.Machine, error) {
	path := filepath.Join(dir, "registry")
	machine, err := registry.Open(st)
	if err != nil {
		report.Problems = append(report.Problems, Damage{path, fmt.Sprintf("the registry does not open: %v", err), fixResync})
		return nil, nil
	}
	v := machine.View()
	if v == nil {
		return nil, nil
	}
	report.Height, report.AppHash = v.Height(), v.AppHash()
	scratch, err := os.MkdirTemp(dir, "checking-")
	if err != nil {
		return nil, fmt.Errorf("check the ledger: %w", err)
	}
	defer os.RemoveAll(scratch)
	rebuilt, err := openStore(filepath.Join(scratch, "registry"))
	if err != nil {
		return nil, fmt.Errorf("check the ledger: %w", err)
	}
	defer rebuilt.close()
	rebuilt.sync = false
	out, in := io.Pipe()
	go func() { in.CloseWithError(v.Dump(in)) }()
	height, hash, err := registry.Import(out, rebuilt)
	out.CloseWithError(errors.New("the check is over"))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil && (height != v.Height() || hash != v.AppHash()) {
		err = fmt.Errorf("what it holds gives the hash %x at height %d, it says %x at %d", hash, height, v.AppHash(), v.Height())
	}
	if err != nil {
		report.Problems = append(report.Problems, Damage{path, fmt.Sprintf("the registry is not what its hash says: %v", err), fixResync})
		return nil, nil
	}
	return machine, nil
}

// checkBlocks compares the registry with the blocks, and reads every block that is
// kept.
func checkBlocks(dir string, v *registry.View, blocks, states dbm.DB, report *Report) {
	blockStore, stateStore := cmtstore.NewBlockStore(blocks), sm.NewStore(states, sm.StoreOptions{})
	bad := func(file, what string) {
		report.Problems = append(report.Problems, Damage{filepath.Join(dir, filepath.FromSlash(file)), what, fixResync})
	}
	height := blockStore.Base()
	defer func() {
		if r := recover(); r != nil { // CometBFT's way to say that it cannot read
			bad("engine/blockstore.db", fmt.Sprintf("block %d cannot be read: %v", height, r))
		}
	}()
	// A start that failed may have let the damaged end of a database go: what is left
	// is sound, and too little.
	if top := blockStore.Height(); top > 0 && v.Height() > uint64(top) {
		bad("engine/blockstore.db", fmt.Sprintf("its last block is %d, and the registry has executed block %d: the blocks between are lost", top, v.Height()))
		return
	}
	if state, err := stateStore.Load(); err == nil && blockStore.Height() > state.LastBlockHeight+1 {
		bad("engine/state.db", fmt.Sprintf("it is of block %d, and the blocks go on to %d: what was written since is lost", state.LastBlockHeight, blockStore.Height()))
		return
	}
	if err := compareEngine(dir, v, blockStore, stateStore); err != nil {
		bad("registry", err.Error())
		return
	}
	for last := []byte(nil); height > 0 && height <= blockStore.Height(); height++ {
		block := blockStore.LoadBlock(height)
		if block == nil {
			bad("engine/blockstore.db", fmt.Sprintf("block %d is missing", height))
			return
		}
		if last != nil && !bytes.Equal(block.LastBlockID.Hash, last) {
			bad("engine/blockstore.db", fmt.Sprintf("block %d does not follow the block before it", height))
			return
		}
		last = block.Hash()
		report.Blocks++
	}
}

// readOnly opens a database for reading. The end of a journal that a crash cut off
// is let go, as at a start.
func readOnly() *opt.Options {
	return &opt.Options{ReadOnly: true, ErrorIfMissing: true, Strict: opt.DefaultStrict | opt.StrictManifest}
}

// openReadOnly opens the database in a folder for reading, one of the engine's also
// as the engine sees it.
func openReadOnly(path string) (*ldb.DB, dbm.DB, error) {
	id, isEngine := strings.CutSuffix(filepath.Base(path), ".db")
	if !isEngine {
		db, err := ldb.Open(path, *readOnly())
		return db, nil, err
	}
	db, err := dbm.NewGoLevelDBWithOpts(id, filepath.Dir(path), readOnly())
	if err != nil {
		return nil, nil, err
	}
	return &ldb.DB{DB: db.DB()}, db, nil
}
