package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/cometbft/cometbft/crypto"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/crypto/mldsa65"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/privval"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"
)

// ValidatorKey is a private key that may vote on blocks. It shows nothing of
// itself when it is printed.
type ValidatorKey struct {
	address string // as the engine names it
	private func() crypto.PrivKey
}

// NewValidatorKey takes an Ed25519 key.
func NewValidatorKey(key ed25519.PrivateKey) (ValidatorKey, error) {
	if len(key) != ed25519.PrivateKeySize {
		return ValidatorKey{}, fmt.Errorf("validator key of %d bytes: the rule is %d", len(key), ed25519.PrivateKeySize)
	}
	return validatorKeyOf(cmted25519.PrivKey(key)), nil
}

// NewMLDSAValidatorKey takes the seed of an ML-DSA-65 key, for instances whose
// genesis lets such keys vote.
func NewMLDSAValidatorKey(seed []byte) (ValidatorKey, error) {
	key, err := mldsa65.GenPrivKeyFromSeed(seed)
	if err != nil {
		return ValidatorKey{}, fmt.Errorf("validator key: %w", err)
	}
	return validatorKeyOf(key), nil
}

func validatorKeyOf(key crypto.PrivKey) ValidatorKey {
	return ValidatorKey{string(key.PubKey().Address()), func() crypto.PrivKey { return key }}
}

// rotation signs with that one of the validator's keys whose turn it is: the one
// that the engine's set of validators of the next block holds. The engine asks
// for its public half after each block, so a key that gets the voting power of
// another one in the registry takes over at the height at which the engine counts
// with it, without a restart.
//
// What was signed last is kept in one file for all keys, so that no key signs at a
// height, round and step that is not after everything that was signed before.
type rotation struct {
	keys func() []ValidatorKey
	set  func() *types.ValidatorSet // of the next block; nil while it is not known

	mu      sync.Mutex
	current *privval.FilePV
	told    string // address that the engine was told last
}

var _ types.PrivValidator = (*rotation)(nil)

// openRotation opens the validator's keys with the last-sign state, or, without
// keys, one that is in no validator set, for a follower.
func openRotation(keys func() []ValidatorKey, statePath string, set func() *types.ValidatorSet) (*rotation, error) {
	if keys == nil {
		follower := validatorKeyOf(cmted25519.GenPrivKey())
		keys, statePath = func() []ValidatorKey { return []ValidatorKey{follower} }, os.DevNull
	}
	held := keys()
	if len(held) == 0 {
		return nil, errors.New("validator key: there is none")
	}
	pv, err := newPV(held[len(held)-1].private(), statePath)
	if err != nil {
		return nil, err
	}
	return &rotation{keys: keys, set: set, current: pv}, nil
}

// newPV is a key with the last-sign state in a file, which may be missing.
func newPV(key crypto.PrivKey, statePath string) (*privval.FilePV, error) {
	pv := privval.NewFilePV(key, os.DevNull, statePath)
	b, err := os.ReadFile(statePath)
	if errors.Is(err, fs.ErrNotExist) || statePath == os.DevNull {
		return pv, nil
	}
	if err != nil {
		return nil, fmt.Errorf("validator's last-sign state: %w", err)
	}
	var last privval.FilePVLastSignState
	if err := cmtjson.Unmarshal(b, &last); err != nil {
		return nil, fmt.Errorf("validator's last-sign state %s is damaged: %w; restore it or use a new validator key, a guess could sign twice", statePath, err)
	}
	to := &pv.LastSignState // which knows its file
	to.Height, to.Round, to.Step, to.Signature, to.SignBytes = last.Height, last.Round, last.Step, last.Signature, last.SignBytes
	return pv, nil
}

// choose returns the newest key that votes on the next block. Without one it is
// the one of before, as long as it is held.
func (r *rotation) choose() ValidatorKey {
	held := r.keys()
	now := string(r.current.GetAddress())
	if len(held) > 1 {
		if set := r.set(); set != nil {
			for _, k := range slices.Backward(held) {
				if set.HasAddress([]byte(k.address)) {
					return k
				}
			}
		}
	}
	for _, k := range held {
		if k.address == now {
			return k
		}
	}
	if len(held) > 0 {
		return held[len(held)-1]
	}
	return validatorKeyOf(r.current.Key.PrivKey)
}

// GetPubKey is called by the engine when it starts and after each block.
func (r *rotation) GetPubKey() (crypto.PubKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.choose()
	if k.address != string(r.current.GetAddress()) {
		next := privval.NewFilePV(k.private(), os.DevNull, os.DevNull)
		next.LastSignState = r.current.LastSignState // with its file
		r.current = next
	}
	r.told = k.address
	return r.current.GetPubKey()
}

// overtaken reports whether another key's turn has come since the engine asked: it
// was registered before it was held here, or its turn came while the node was away.
func (r *rotation) overtaken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.choose().address != r.told
}

// pv is the key that signs now with the last-sign state.
func (r *rotation) pv() *privval.FilePV {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// holds reports whether an address is that of one of the keys.
func (r *rotation) holds(address []byte) bool {
	return slices.ContainsFunc(r.keys(), func(k ValidatorKey) bool { return k.address == string(address) })
}

// address names the key that votes now.
func (r *rotation) address() string { return string(r.pv().GetAddress()) }

// SignVote signs a vote, unless it could contradict one that was signed before.
func (r *rotation) SignVote(chainID string, vote *cmtproto.Vote) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if string(vote.ValidatorAddress) != r.told {
		return fmt.Errorf("sign a vote of validator %X: this node votes as %X", vote.ValidatorAddress, r.told)
	}
	return r.current.SignVote(chainID, vote)
}

// SignProposal signs a proposal likewise.
func (r *rotation) SignProposal(chainID string, proposal *cmtproto.Proposal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current.SignProposal(chainID, proposal)
}

// nextValidators reads the set of the next block from the engine's own state; nil
// before there is one.
func (e *engineDBs) nextValidators() *types.ValidatorSet {
	e.mu.Lock()
	db := e.open["state"]
	e.mu.Unlock()
	if db == nil {
		return nil
	}
	state, err := sm.NewStore(db, sm.StoreOptions{}).Load()
	if err != nil || state.IsEmpty() {
		return nil
	}
	return state.Validators
}
