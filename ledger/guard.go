package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/privval"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmtstore "github.com/cometbft/cometbft/store"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus"
)

// A validator that signs two votes of one height and round loses its vote and its
// key. What keeps it from that is its last-sign state, and a state from a backup
// is older than what the key signed since. So there is a guard before the key.
//
// It is up while the file engine/guard.json is there, which a restore leaves, and it
// goes up by itself when a block carries a signature of the key that the last-sign
// state does not know of: then the state is not the newest, or the key is in use in
// two places. While it is up the node follows and signs nothing, neither votes nor
// proposals nor cosignatures. It comes down after guardBlocks blocks in a row that
// were made after it went up and carry no signature of the key. With fewer than a
// third of the voting power lying, the second block whose time is later than the
// last signature is already above every height that the key can have signed at;
// the third is for clocks that differ.
const (
	guardFile   = "guard.json"
	guardBlocks = 3
	// guardSearch is how many of the newest blocks are searched at the start for
	// signatures that the last-sign state does not know of.
	guardSearch = 1000
)

// ErrGuarded says that this node's validator signs nothing yet; its status says why.
var ErrGuarded = errors.New("the validator's key may have signed more than this directory knows of, so nothing is signed until the chain has gone on without it")

// Guard says why a validator does not sign, and since when.
type Guard struct {
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// SetGuard puts the guard before the validator of the ledger directory dir, which
// no process may have open: the next node in it signs nothing until it has seen
// the chain go on without it. A guard that is up stays as it is.
func SetGuard(dir string, g Guard) error {
	path := filepath.Join(dir, "engine", guardFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("guard the validator: %w", err)
	}
	if err := writeGuard(path, g); err != nil {
		return fmt.Errorf("guard the validator: %w", err)
	}
	return nil
}

func writeGuard(path string, g Guard) error {
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	if err := writeSynced(path+".new", append(b, '\n')); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// LiftGuard lets the validator of the ledger directory dir, which no process may
// have open, sign again at once from the height after its newest block. Whoever
// calls it vouches that the key signed nothing above that height: otherwise it
// signs twice. It is for an instance that cannot go on because so many of its
// validators are guarded. It returns the height.
func LiftGuard(dir string) (height uint64, err error) {
	fail := func(err error) (uint64, error) { return 0, fmt.Errorf("lift the guard: %w", err) }
	lock, err := lockDir(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	path := filepath.Join(dir, "engine", guardFile)
	if _, err := os.Stat(path); err != nil {
		return fail(fmt.Errorf("%s is not there, so there is nothing to lift: %w", path, err))
	}
	blocks, err := openEngineDB("blockstore", filepath.Join(dir, "engine"))
	if err != nil {
		return fail(err)
	}
	top := cmtstore.NewBlockStore(blocks).Height()
	if err := blocks.Close(); err != nil {
		return fail(err)
	}
	// The last-sign state is that of whatever key signs next.
	pv, err := newPV(cmted25519.GenPrivKey(), filepath.Join(dir, "engine", signStateFile))
	if err != nil {
		return fail(err)
	}
	if err := raise(pv, uint64(top)); err != nil {
		return fail(err)
	}
	if err := os.Remove(path); err != nil {
		return fail(err)
	}
	return uint64(top), syncDir(filepath.Dir(path))
}

// raise makes height the greatest that the key has signed at, whatever it signed
// there.
func raise(pv *privval.FilePV, height uint64) (err error) {
	if pv.LastSignState.Height > int64(height) {
		return nil
	}
	pv.LastSignState.Height, pv.LastSignState.Round, pv.LastSignState.Step = int64(height), math.MaxInt32, stepPrecommit
	pv.LastSignState.Signature, pv.LastSignState.SignBytes = nil, nil
	defer func() {
		if r := recover(); r != nil { // CometBFT's way to say that it could not write
			err = fmt.Errorf("write the validator's last-sign state: %v", r)
		}
	}()
	pv.LastSignState.Save()
	return nil
}

const (
	signStateFile = "priv_validator_state.json"
	stepPrecommit = 3 // CometBFT's privval
)

// signer is the validator's key as the engine uses it, behind the guard.
type signer struct {
	path  string // of the guard's file
	clock civibus.Clock
	log   *slog.Logger
	// lifted is called when the guard comes down, before the key is used; an error
	// leaves it up.
	lifted func() error
	keys   *rotation

	mu       sync.Mutex
	guard    *Guard // nil: it is down
	without  int    // blocks in a row without the key's signature
	foreign  uint64 // last height at which somebody else used the key while the guard was up
	follower bool   // there is no key of a validator
}

var _ types.PrivValidator = (*signer)(nil)

// openSigner opens the validator's key, or, for a follower, one that is in no
// validator set.
func openSigner(cfg Config, next func() *types.ValidatorSet) (*signer, error) {
	engine := filepath.Join(cfg.Dir, "engine")
	keys, err := openRotation(cfg.ValidatorKeys, filepath.Join(engine, signStateFile), next)
	if err != nil {
		return nil, err
	}
	s := &signer{
		path: filepath.Join(engine, guardFile), clock: cfg.Clock, log: cfg.Logger, lifted: func() error { return nil },
		keys: keys, follower: cfg.ValidatorKeys == nil,
	}
	b, err := os.ReadFile(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("the validator's guard: %w", err)
	}
	s.guard = &Guard{}
	if err := json.Unmarshal(b, s.guard); err != nil { // whoever wrote it wanted a guard
		s.guard.Cause = "the guard's file is damaged"
	}
	s.guard.Since = s.clock().UTC() // whoever used the key before may have gone on until now
	return s, nil
}

// GetPubKey implements types.PrivValidator.
func (s *signer) GetPubKey() (crypto.PubKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.GetPubKey()
}

// SignVote implements types.PrivValidator.
func (s *signer) SignVote(chainID string, vote *cmtproto.Vote) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard != nil {
		return ErrGuarded
	}
	return s.keys.SignVote(chainID, vote)
}

// SignProposal implements types.PrivValidator.
func (s *signer) SignProposal(chainID string, proposal *cmtproto.Proposal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard != nil {
		return ErrGuarded
	}
	return s.keys.SignProposal(chainID, proposal)
}

// up returns why the guard is up and how many blocks it has counted; nil when it
// is down.
func (s *signer) up() (guard *Guard, without int, foreign uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guard, s.without, s.foreign
}

// search looks for the key's signatures in the newest blocks of a directory that
// is being opened.
func (s *signer) search(blocks *cmtstore.BlockStore) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follower || s.guard != nil {
		return nil
	}
	top := blocks.Height()
	for h := top; h > max(s.keys.pv().LastSignState.Height, blocks.Base()-1, top-guardSearch); h-- {
		commit := blocks.LoadBlockCommit(h)
		if commit == nil {
			commit = blocks.LoadSeenCommit(h)
		}
		if commit == nil {
			continue
		}
		for _, sig := range commit.Signatures {
			if sig.BlockIDFlag != types.BlockIDFlagAbsent && s.keys.holds(sig.ValidatorAddress) {
				return s.raiseGuard(uint64(h))
			}
		}
	}
	return nil
}

// raiseGuard puts the guard up because of a signature at a height. s.mu is held.
func (s *signer) raiseGuard(height uint64) error {
	g := Guard{Since: s.clock().UTC(), Cause: fmt.Sprintf(
		"block %d carries a signature of this validator's key that is not in %s (last height there: %d): that file is missing or old, or another node uses the key",
		height, signStateFile, s.keys.pv().LastSignState.Height)}
	s.guard, s.without = &g, 0
	s.log.Error("the validator's key may have signed more than this directory knows of; it signs nothing until the chain has gone on without it", slog.String("cause", g.Cause))
	if err := writeGuard(s.path, g); err != nil {
		return fmt.Errorf("the validator's guard: %w", err)
	}
	return nil
}

// observe is told of every block that is executed here: its height, its time and
// the signatures of the block before it, which it carries.
func (s *signer) observe(height uint64, at time.Time, commit abci.CommitInfo) error {
	if s.follower || height < 2 {
		return nil
	}
	signed := false
	for _, v := range commit.Votes {
		if s.keys.holds(v.Validator.Address) {
			signed = signed || v.BlockIdFlag == cmtproto.BlockIDFlagCommit || v.BlockIdFlag == cmtproto.BlockIDFlagNil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.guard == nil && signed && s.keys.pv().LastSignState.Height < int64(height)-1:
		return s.raiseGuard(height - 1)
	case s.guard == nil:
		return nil
	case signed:
		s.without = 0
		if at.After(s.guard.Since) {
			s.foreign = height - 1
		}
		return nil
	case !at.After(s.guard.Since):
		return nil
	}
	if s.without++; s.without < guardBlocks {
		return nil
	}
	// The chain went on without the key: what it may have signed is below.
	if err := s.lower(height); err != nil {
		s.log.Error("the validator's guard stays up; the next block tries again", slog.Any("error", err))
		return nil
	}
	s.log.Info("the validator signs again", slog.Uint64("from", height+1), slog.String("cause", s.guard.Cause))
	s.guard, s.foreign = nil, 0
	return nil
}

// lower makes the end of the guard durable. s.mu is held.
func (s *signer) lower(height uint64) error {
	if err := s.lifted(); err != nil {
		return err
	}
	if err := raise(s.keys.pv(), height); err != nil {
		return err
	}
	if err := os.Remove(s.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}
