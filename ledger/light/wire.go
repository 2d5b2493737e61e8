package light

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/ledger"
)

// Bounds of what a full node may answer, in bytes.
const (
	maxLightBlock = 4 << 20  // 300 validators with ML-DSA-65 keys are under 3 MiB
	maxBlocks     = 16 << 20 // ledger.MaxAnswerBytes and one more block
	maxChunk      = 4 << 20
	maxManifest   = 3 << 20
	maxSmall      = 64 << 10
	maxSnapshots  = 64
)

// block is what is executed: a header with what it covers.
type block struct {
	header   types.Header
	txs      types.Txs
	evidence types.EvidenceList
}

// guarded turns a panic of the engine's types, which hostile messages can cause,
// into an error.
func guarded(what string, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v", what, r)
		}
	}()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// parseLight reads a light block that is consistent in itself. Its signatures are
// not looked at.
func parseLight(b []byte, chainID string) (lb *types.LightBlock, err error) {
	return lb, guarded("light block", func() error {
		var pb cmtproto.LightBlock
		if err := pb.Unmarshal(b); err != nil {
			return err
		}
		if pb.SignedHeader == nil || pb.SignedHeader.Header == nil || pb.SignedHeader.Commit == nil || pb.ValidatorSet == nil {
			return errors.New("it is incomplete")
		}
		got, err := types.LightBlockFromProto(&pb)
		if err != nil {
			return err
		}
		if err := got.ValidateBasic(chainID); err != nil {
			return err
		}
		lb = got
		return nil
	})
}

// encodeLight writes one, to be kept.
func encodeLight(lb *types.LightBlock) ([]byte, error) {
	pb, err := lb.ToProto()
	if err != nil {
		return nil, err
	}
	return pb.Marshal()
}

// parts cuts an answer of messages that each follow their length.
func parts(b []byte, most int) (out [][]byte, err error) {
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, errors.New("an answer ends in the middle of a message")
		}
		if len(out) == most {
			return nil, fmt.Errorf("an answer of more than %d messages", most)
		}
		out = append(out, b[n:n+int(size)])
		b = b[n+int(size):]
	}
	if len(out) == 0 {
		return nil, errors.New("an answer without a message")
	}
	return out, nil
}

// parseHeaders reads headers of ascending heights.
func parseHeaders(b []byte) (out []types.Header, err error) {
	return out, guarded("headers", func() error {
		list, err := parts(b, ledger.MaxAnswerHeaders)
		if err != nil {
			return err
		}
		for _, raw := range list {
			var pb cmtproto.Header
			if err := pb.Unmarshal(raw); err != nil {
				return err
			}
			h, err := types.HeaderFromProto(&pb)
			if err != nil {
				return err
			}
			if len(out) > 0 && h.Height != out[len(out)-1].Height+1 {
				return fmt.Errorf("height %d follows %d", h.Height, out[len(out)-1].Height)
			}
			out = append(out, h)
		}
		return nil
	})
}

// parseBlocks reads blocks of ascending heights whose contents hash to what their
// headers say.
func parseBlocks(b []byte) (out []block, err error) {
	return out, guarded("blocks", func() error {
		list, err := parts(b, ledger.MaxAnswerBlocks)
		if err != nil {
			return err
		}
		for _, raw := range list {
			one, err := parseBlock(raw)
			if err != nil {
				return err
			}
			if len(out) > 0 && one.header.Height != out[len(out)-1].header.Height+1 {
				return fmt.Errorf("height %d follows %d", one.header.Height, out[len(out)-1].header.Height)
			}
			out = append(out, one)
		}
		return nil
	})
}

func parseBlock(raw []byte) (out block, err error) {
	var pb cmtproto.Block
	if err := pb.Unmarshal(raw); err != nil {
		return out, err
	}
	if out.header, err = types.HeaderFromProto(&pb.Header); err != nil {
		return out, err
	}
	out.txs = types.ToTxs(pb.Data.Txs)
	var evidence types.EvidenceData
	if err := evidence.FromProto(&pb.Evidence); err != nil {
		return out, err
	}
	out.evidence = evidence.Evidence
	switch h := out.header; {
	case !bytes.Equal(out.txs.Hash(), h.DataHash):
		return out, fmt.Errorf("block %d: its %d transactions hash to %X, its header says %X: one is missing, added or altered", h.Height, len(out.txs), out.txs.Hash(), h.DataHash)
	case !bytes.Equal(out.evidence.Hash(), h.EvidenceHash):
		return out, fmt.Errorf("block %d: its evidence is not what its header says", h.Height)
	}
	return out, nil
}

// parseSnapshots reads a list of heights.
func parseSnapshots(b []byte) (out []uint64, err error) {
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("snapshots: %w", err)
	}
	if len(out) > maxSnapshots {
		return nil, fmt.Errorf("snapshots: %d of them, the rule is at most %d", len(out), maxSnapshots)
	}
	return out, nil
}

// parseSubmitted reads what a full node says of an envelope.
func parseSubmitted(b []byte) (s ledger.Submitted, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("answer to an envelope: %w", err)
	}
	return s, nil
}
