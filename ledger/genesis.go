package ledger

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/cometbft/cometbft/crypto"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry"
)

// MaxBlockBytes bounds a block, so that a full pool of transactions does not
// become one block that takes seconds.
const MaxBlockBytes = 4 << 20

// EngineGenesis is CometBFT's genesis, made from the registry's: its validators with
// their powers, Ed25519 keys (and ML-DSA-65 where it says so), blocks of
// MaxBlockBytes at most.
func EngineGenesis(g *registry.Genesis) (*types.GenesisDoc, error) {
	state, err := g.JSON()
	if err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	params := types.DefaultConsensusParams()
	params.Block.MaxBytes = MaxBlockBytes
	params.Block.MaxGas = -1
	params.Evidence.MaxAgeNumBlocks = MinRetainBlocks
	params.Evidence.MaxAgeDuration = 48 * time.Hour
	params.Evidence.MaxBytes = 256 << 10
	params.Validator.PubKeyTypes = []string{types.ABCIPubKeyTypeEd25519}
	if g.MLDSAValidators {
		params.Validator.PubKeyTypes = append(params.Validator.PubKeyTypes, types.ABCIPubKeyTypeMlDsa65)
	}
	params.Version.App = appVersion

	doc := &types.GenesisDoc{
		GenesisTime:     g.Time.UTC(),
		ChainID:         g.ChainID,
		InitialHeight:   1,
		ConsensusParams: params,
		AppState:        state,
	}
	seen := make(map[string]bool)
	for _, v := range g.Validators {
		key, err := validatorKey(g, v)
		if err != nil {
			return nil, err
		}
		if seen[string(key.Address())] {
			return nil, fmt.Errorf("genesis validator %s: its key is listed twice", v.Member)
		}
		seen[string(key.Address())] = true
		doc.Validators = append(doc.Validators, types.GenesisValidator{
			Address: key.Address(), PubKey: key, Power: v.Power, Name: v.Member,
		})
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	return doc, nil
}

func validatorKey(g *registry.Genesis, v registry.GenesisValidator) (crypto.PubKey, error) {
	spki, err := base64.StdEncoding.DecodeString(v.Key)
	if err != nil {
		return nil, fmt.Errorf("genesis validator %s: its key is not base64", v.Member)
	}
	key, err := mldsa.ParsePublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("genesis validator %s: %w", v.Member, err)
	}
	out, err := engineKey(g, key)
	if err != nil {
		return nil, fmt.Errorf("genesis validator %s: %w", v.Member, err)
	}
	return out, nil
}
