package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	abci "github.com/cometbft/cometbft/abci/types"
	cmtcfg "github.com/cometbft/cometbft/config"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cmtlog "github.com/cometbft/cometbft/libs/log"
	mempl "github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/types"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
)

// kvApp stores every transaction under its hash, in one synced write per block,
// after one check of its signature: public key (32) || signature (64) || content.
type kvApp struct {
	abci.BaseApplication
	db      *leveldb.DB
	checked sync.Map // hash of a transaction whose signature is good
	count   atomic.Uint64
	height  int64
	batch   *leveldb.Batch
}

func (a *kvApp) good(tx []byte) bool {
	if _, ok := a.checked.Load(sha256.Sum256(tx)); ok {
		return true
	}
	return len(tx) > 96 && ed25519.Verify(ed25519.PublicKey(tx[:32]), tx[96:], tx[32:96])
}

// CheckTx checks the signature.
func (a *kvApp) CheckTx(_ context.Context, req *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	if !a.good(req.Tx) {
		return &abci.ResponseCheckTx{Code: 1}, nil
	}
	a.checked.Store(sha256.Sum256(req.Tx), true)
	return &abci.ResponseCheckTx{}, nil
}

// FinalizeBlock collects the block's writes.
func (a *kvApp) FinalizeBlock(_ context.Context, req *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	a.batch = new(leveldb.Batch)
	res := &abci.ResponseFinalizeBlock{TxResults: make([]*abci.ExecTxResult, len(req.Txs))}
	n := a.count.Load()
	for i, tx := range req.Txs {
		res.TxResults[i] = &abci.ExecTxResult{}
		if !a.good(tx) {
			res.TxResults[i].Code = 1
			continue
		}
		hash := sha256.Sum256(tx)
		a.checked.Delete(hash)
		a.batch.Put(hash[:], tx[96:])
		n++
	}
	a.height = req.Height
	hash := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
	res.AppHash = hash[:]
	a.count.Store(n)
	return res, nil
}

// Commit writes the block.
func (a *kvApp) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	return &abci.ResponseCommit{}, a.db.Write(a.batch, &opt.WriteOptions{Sync: true})
}

// kv is a network of nodes with that application.
type kv struct {
	dir   string
	apps  []*kvApp
	run   []*node.Node
	keys  []ed25519.PrivateKey
	count []uint64
	bytes int // of a transaction
}

// stillOpen keeps a database open when the engine closes it: some of the engine's
// goroutines read it afterwards and would end the process.
type stillOpen struct{ dbm.DB }

// Close does nothing.
func (stillOpen) Close() error { return nil }

func newKV(ctx context.Context, o options, kind string, validators int) (_ system, err error) {
	s := &kv{count: make([]uint64, o.keys), bytes: o.bytes}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.bytes == 0 {
		sample, err := newWork(kind, 1)
		if err != nil {
			return nil, err
		}
		for range sample.before() + 1 {
			s.bytes = len(sample.sign(0))
		}
	}
	if s.dir, err = os.MkdirTemp("", "civibus-bench-"); err != nil {
		return nil, err
	}
	for range o.keys {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, key)
	}
	g, voters, err := genesis(nil, nil, validators)
	if err != nil {
		return nil, err
	}
	_, config, err := configs(s.dir, g, voters)
	if err != nil {
		return nil, err
	}
	doc, err := ledger.EngineGenesis(g)
	if err != nil {
		return nil, err
	}
	var listen []string
	for i := range validators {
		c := config(i, listen)
		address, err := s.start(ctx, c, doc, voters[i])
		if err != nil {
			return nil, err
		}
		listen = append(listen, address)
	}
	for _, n := range s.run {
		for deadline := time.Now().Add(30 * time.Second); n.BlockStore().Height() < 1; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				return nil, fmt.Errorf("no first block")
			}
		}
	}
	return s, nil
}

// start runs one node on the ledger's settings.
func (s *kv) start(ctx context.Context, c ledger.Config, doc *types.GenesisDoc, voter *keys.Key) (address string, err error) {
	c, err = c.WithDefaults()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "engine"), 0o700); err != nil {
		return "", err
	}
	conf, err := ledger.EngineConfig(c)
	if err != nil {
		return "", err
	}
	conf.FilterPeers = false // the filter is a question to the ledger's application
	key := &p2p.NodeKey{PrivKey: cmted25519.PrivKey(c.NodeKey)}
	voting, err := voter.Ed25519()
	if err != nil {
		return "", err
	}
	a := &kvApp{}
	if a.db, err = leveldb.OpenFile(filepath.Join(c.Dir, "kv"), &opt.Options{WriteBuffer: 8 << 20}); err != nil {
		return "", err
	}
	s.apps = append(s.apps, a)
	n, err := node.NewNodeWithContext(ctx, conf, privval.NewFilePV(cmted25519.PrivKey(voting), os.DevNull, conf.PrivValidatorStateFile()), key,
		proxy.NewConnSyncLocalClientCreator(a), func() (*types.GenesisDoc, error) { return doc, nil },
		func(d *cmtcfg.DBContext) (dbm.DB, error) {
			db, err := cmtcfg.DefaultDBProvider(d)
			return stillOpen{db}, err
		}, node.DefaultMetricsProvider(conf.Instrumentation), cmtlog.NewNopLogger())
	if err != nil {
		return "", err
	}
	if err := n.Start(); err != nil {
		return "", err
	}
	s.run = append(s.run, n)
	return c.ListenAddress, nil
}

func (s *kv) nodes() int           { return len(s.run) }
func (s *kv) waiting(node int) int { return s.run[node].Mempool().Size() }

// sign makes a transaction as long as the registry's of the same kind.
func (s *kv) sign(key int) []byte {
	s.count[key]++
	content := make([]byte, max(s.bytes-96, 16))
	_, _ = rand.Read(content)
	binary.BigEndian.PutUint64(content, s.count[key])
	tx := append([]byte{}, s.keys[key].Public().(ed25519.PublicKey)...)
	tx = append(tx, ed25519.Sign(s.keys[key], content)...)
	return append(tx, content...)
}

func (s *kv) send(node int, tx []byte) (bool, error) {
	refused := false
	err := s.run[node].Mempool().CheckTx(tx, func(r *abci.ResponseCheckTx) { refused = r.Code != 0 }, mempl.TxInfo{})
	if _, full := err.(mempl.ErrMempoolIsFull); full {
		return false, nil
	}
	if refused {
		return false, fmt.Errorf("refused")
	}
	return err == nil, err
}

func (s *kv) executed() (all, accepted uint64) {
	n := s.apps[0].count.Load()
	return n, n
}

func (s *kv) close() {
	for _, n := range s.run {
		_ = n.Stop()
	}
	for _, a := range s.apps {
		a.db.Close()
	}
	os.RemoveAll(s.dir)
}
