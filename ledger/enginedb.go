package ledger

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"

	dbm "github.com/cometbft/cometbft-db"
	cmtcfg "github.com/cometbft/cometbft/config"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/internal/ldb"
)

// engineDBs opens the engine's databases and closes them itself, after the
// engine has stopped. The engine closes its databases while some of its
// goroutines still read them, which panics the whole process, and it never
// closes the transaction index. Here Close is put off to the end, and a straggler
// that touches a closed database is ended instead of panicking.
type engineDBs struct {
	// check looks at the engine's blocks and state before the engine does, which
	// cannot be cleaned up after it refused to start.
	check func(blocks, states dbm.DB) error
	// onDamage is told of a file that cannot be read any more, before the engine,
	// which panics.
	onDamage func(error)

	mu   sync.Mutex
	open map[string]*guardedDB
}

// provide is the engine's DBProvider.
func (e *engineDBs) provide(ctx *cmtcfg.DBContext) (dbm.DB, error) {
	path := filepath.Join(ctx.Config.DBDir(), ctx.ID+".db")
	db, err := openEngineDB(ctx.ID, ctx.Config.DBDir())
	if err != nil {
		if ldb.Damaged(err) != nil {
			return nil, engineDamage(path, err)
		}
		return nil, err
	}
	g := &guardedDB{db: db, path: path, onDamage: e.onDamage}
	e.mu.Lock()
	if e.open == nil {
		e.open = make(map[string]*guardedDB)
	}
	e.open[ctx.ID] = g
	blocks := e.open["blockstore"]
	e.mu.Unlock()
	if ctx.ID == "state" && blocks != nil {
		if err := e.check(blocks, g); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// openEngineDB opens one of the engine's databases: dir/id.db.
func openEngineDB(id, dir string) (*dbm.GoLevelDB, error) {
	return dbm.NewGoLevelDBWithOpts(id, dir, &opt.Options{
		WriteBuffer:            4 << 20,
		BlockCacheCapacity:     4 << 20,
		OpenFilesCacheCapacity: 64,
		DisableSeeksCompaction: true,
	})
}

// db returns a database that the engine opened.
func (e *engineDBs) db(id string) dbm.DB {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open[id]
}

// close closes every database that was opened.
func (e *engineDBs) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, g := range e.open {
		errs = append(errs, g.shut())
	}
	e.open = nil
	return errors.Join(errs...)
}

// guardedDB is a database whose Close does nothing and whose shut closes it once
// no operation is under way.
type guardedDB struct {
	mu     sync.RWMutex
	closed bool
	db     dbm.DB

	path     string
	onDamage func(error) // may be nil
}

// engineDamage names a damaged file of the engine and the fix.
func engineDamage(path string, err error) error {
	if d := ldb.Damaged(err); d != nil && d.Fd.Num > 0 {
		path = filepath.Join(path, d.Fd.String())
	}
	return fmt.Errorf("the ledger's file %s is damaged: %w; stop the node and run \"civibus ledger resync\": it moves the files away, and the node fetches them from the other bodies", path, err)
}

// look reports an error that means damage.
func (g *guardedDB) look(err error) error {
	if err != nil && ldb.Damaged(err) != nil {
		err = engineDamage(g.path, err)
		if g.onDamage != nil {
			g.onDamage(err)
		}
	}
	return err
}

var _ dbm.DB = (*guardedDB)(nil)

func (g *guardedDB) shut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	return g.db.Close()
}

// enter holds the database open until leave. After shut it ends the calling
// goroutine, which can only be one of the stopped engine's: its deferred calls
// run, and nothing is left that could use the answer.
func (g *guardedDB) enter() {
	g.mu.RLock()
	if g.closed {
		g.mu.RUnlock()
		runtime.Goexit()
	}
}

func (g *guardedDB) leave() { g.mu.RUnlock() }

// Get implements dbm.DB.
func (g *guardedDB) Get(key []byte) ([]byte, error) {
	g.enter()
	defer g.leave()
	b, err := g.db.Get(key)
	return b, g.look(err)
}

// Has implements dbm.DB.
func (g *guardedDB) Has(key []byte) (bool, error) {
	g.enter()
	defer g.leave()
	has, err := g.db.Has(key)
	return has, g.look(err)
}

// Set implements dbm.DB.
func (g *guardedDB) Set(key, value []byte) error {
	g.enter()
	defer g.leave()
	return g.db.Set(key, value)
}

// SetSync implements dbm.DB.
func (g *guardedDB) SetSync(key, value []byte) error {
	g.enter()
	defer g.leave()
	return g.db.SetSync(key, value)
}

// Delete implements dbm.DB.
func (g *guardedDB) Delete(key []byte) error {
	g.enter()
	defer g.leave()
	return g.db.Delete(key)
}

// DeleteSync implements dbm.DB.
func (g *guardedDB) DeleteSync(key []byte) error {
	g.enter()
	defer g.leave()
	return g.db.DeleteSync(key)
}

// Iterator implements dbm.DB. goleveldb's iterators answer with an error, and do
// not panic, when the database is closed under them.
func (g *guardedDB) Iterator(start, end []byte) (dbm.Iterator, error) {
	g.enter()
	defer g.leave()
	return g.db.Iterator(start, end)
}

// ReverseIterator implements dbm.DB.
func (g *guardedDB) ReverseIterator(start, end []byte) (dbm.Iterator, error) {
	g.enter()
	defer g.leave()
	return g.db.ReverseIterator(start, end)
}

// Close implements dbm.DB and does nothing; see engineDBs.
func (g *guardedDB) Close() error { return nil }

// NewBatch implements dbm.DB.
func (g *guardedDB) NewBatch() dbm.Batch { return &guardedBatch{Batch: g.db.NewBatch(), db: g} }

// Print implements dbm.DB.
func (g *guardedDB) Print() error { return nil }

// Stats implements dbm.DB.
func (g *guardedDB) Stats() map[string]string {
	g.enter()
	defer g.leave()
	return g.db.Stats()
}

// Compact implements dbm.DB.
func (g *guardedDB) Compact(start, end []byte) error {
	g.enter()
	defer g.leave()
	return g.db.Compact(start, end)
}

type guardedBatch struct {
	dbm.Batch
	db *guardedDB
}

// Write implements dbm.Batch.
func (b *guardedBatch) Write() error {
	b.db.enter()
	defer b.db.leave()
	return b.Batch.Write()
}

// WriteSync implements dbm.Batch.
func (b *guardedBatch) WriteSync() error {
	b.db.enter()
	defer b.db.leave()
	return b.Batch.WriteSync()
}
