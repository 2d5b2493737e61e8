package ledger

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"slices"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto"
	cmted25519 "github.com/cometbft/cometbft/crypto/ed25519"
	cryptoenc "github.com/cometbft/cometbft/crypto/encoding"
	"github.com/cometbft/cometbft/crypto/mldsa65"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// Fields of registrypb.Event that tell of keys and validators.
const (
	eventKeySet       = 11
	eventValidatorSet = 20
)

// voter is a validator as the engine knows it.
type voter struct {
	key   crypto.PubKey
	power int64
}

// validatorSet is a set of validators by the address of their key.
type validatorSet map[string]voter

// set gives a key its power, or leaves out a key that the engine would not take.
// What is left out depends on the key and the genesis alone, so that it is never
// removed either.
func (s validatorSet) set(g *registry.Genesis, key civibus.PublicKey, power int64) error {
	k, err := engineKey(g, key)
	if err != nil {
		return err
	}
	if power < 1 {
		delete(s, string(k.Address()))
		return nil
	}
	s[string(k.Address())] = voter{k, power}
	return nil
}

// changes returns what makes the engine's set next out of s: each key once, in the
// order of addresses, removals only of what is there. It never empties the set:
// the engine could not go on, at any node.
func (s validatorSet) changes(next validatorSet) ([]abci.ValidatorUpdate, error) {
	if len(next) == 0 {
		return nil, nil
	}
	var changed []voter
	for address, v := range next {
		if old, ok := s[address]; !ok || old.power != v.power {
			changed = append(changed, v)
		}
	}
	for address, v := range s {
		if _, ok := next[address]; !ok {
			changed = append(changed, voter{v.key, 0})
		}
	}
	slices.SortFunc(changed, func(a, b voter) int { return bytes.Compare(a.key.Address(), b.key.Address()) })
	var out []abci.ValidatorUpdate
	for _, v := range changed {
		pb, err := cryptoenc.PubKeyToProto(v.key)
		if err != nil {
			return nil, fmt.Errorf("validator %s: %w", v.key.Address(), err)
		}
		out = append(out, abci.ValidatorUpdate{PubKey: pb, Power: v.power})
	}
	return out, nil
}

// voters are the validators that the engine has after the block of a view: the
// registry's, or, in protocol 0, the genesis's.
func (a *app) voters(v *registry.View) (validatorSet, error) {
	set := make(validatorSet)
	if v.Params().Protocol == 0 {
		for _, g := range a.cfg.Genesis.Validators {
			k, err := validatorKey(a.cfg.Genesis, g)
			if err != nil {
				return nil, err
			}
			set[string(k.Address())] = voter{k, g.Power}
		}
		return set, nil
	}
	for _, r := range v.Validators() {
		if err := set.set(a.cfg.Genesis, r.Key, r.Power); err != nil {
			a.log.Error("a validator is left out", slog.String("member", r.Member.String()), slog.Any("error", err))
		}
	}
	return set, nil
}

// validatorUpdates is the difference of the registry's validators before and after
// a block that had these events.
func (a *app) validatorUpdates(before *registry.View, events [][]byte) ([]abci.ValidatorUpdate, error) {
	// 1. Most blocks change none.
	if !slices.ContainsFunc(events, func(e []byte) bool { return eventField(e) == eventValidatorSet }) {
		return nil, nil
	}
	old, err := a.voters(before)
	if err != nil {
		return nil, err
	}
	// 2. The set after the block. The one with which protocol 1 begins is whole.
	next := make(validatorSet)
	if before.Params().Protocol > 0 {
		for address, v := range old {
			next[address] = v
		}
	}
	keys := make(map[civibus.KeyID]civibus.PublicKey)
	for _, b := range events {
		if f := eventField(b); f != eventValidatorSet && f != eventKeySet {
			continue
		}
		var e registrypb.Event
		if err := proto.Unmarshal(b, &e); err != nil {
			return nil, fmt.Errorf("event of a validator: %w", err)
		}
		if k := e.GetKeySet(); k != nil {
			if key, err := mldsa.ParsePublicKey(k.Spki); err == nil {
				keys[key.ID] = key
			}
			continue
		}
		id := civibus.KeyID(e.GetValidatorSet().KeyId)
		key, ok := keys[id]
		if !ok {
			k, known := before.Key(id)
			if !known {
				return nil, fmt.Errorf("validator key %s is not registered", id)
			}
			key = k.PublicKey
		}
		if err := next.set(a.cfg.Genesis, key, int64(e.GetValidatorSet().Power)); err != nil {
			a.log.Error("a validator is left out", slog.String("key", id.String()), slog.Any("error", err))
		}
	}
	// 3. What differs.
	return old.changes(next)
}

// eventField is the number of the field in which an event says what happened.
func eventField(b []byte) protowire.Number {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		if num >= 10 {
			return num
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return 0
		}
		b = b[n+m:]
	}
	return 0
}

// engineKey is a validator's key as the engine's own type, if the instance lets
// such keys vote.
func engineKey(g *registry.Genesis, key civibus.PublicKey) (crypto.PubKey, error) {
	switch k := key.Key.(type) {
	case ed25519.PublicKey:
		return cmted25519.PubKey(k), nil
	case *mldsa.PublicKey:
		if key.Algorithm == civibus.MLDSA65 && g.MLDSAValidators {
			return mldsa65.NewPubKeyFromBytes(k.Bytes())
		}
	}
	rule := "ed25519"
	if g.MLDSAValidators {
		rule += " or ml-dsa-65"
	}
	return nil, fmt.Errorf("key %s: algorithm %s, the rule is %s", key.ID, key.Algorithm, rule)
}
