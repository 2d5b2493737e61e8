package light

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	cmtmath "github.com/cometbft/cometbft/libs/math"
	"github.com/cometbft/cometbft/light"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// trustLevel is the part of the trusted voting power of which more must have signed.
var trustLevel = cmtmath.Fraction{Numerator: 2, Denominator: 3}

// ErrExpired: the last trusted header is older than the trust period.
var ErrExpired = errors.New("what this node trusted has expired")

// ErrFork: more than a third of the validators signed two blocks of one height.
var ErrFork = errors.New("the validators signed two different blocks of one height")

// genesisRoot stands for a header before the first: the genesis's validators sign
// the next one. It has no commit and is never shown to anybody.
func genesisRoot(g *registry.Genesis) (*types.LightBlock, error) {
	doc, err := ledger.EngineGenesis(g)
	if err != nil {
		return nil, err
	}
	state, err := sm.MakeGenesisState(doc)
	if err != nil {
		return nil, err
	}
	return &types.LightBlock{
		SignedHeader: &types.SignedHeader{
			// The first block has the genesis's time, and a header's must be later than
			// that of the one before.
			Header: &types.Header{ChainID: doc.ChainID, Height: 0, Time: doc.GenesisTime.Add(-time.Nanosecond), NextValidatorsHash: state.Validators.Hash()},
			Commit: &types.Commit{},
		},
		ValidatorSet: state.Validators,
	}, nil
}

// expired says whether a header is no ground for trust any more.
func (c *Client) expired(lb *types.LightBlock) error {
	until := lb.Time.Add(c.cfg.TrustPeriod)
	if now := c.cfg.Clock(); !until.After(now) {
		what := fmt.Sprintf("the header of height %d", lb.Height)
		if lb.Height == 0 {
			what = "the genesis"
		}
		return fmt.Errorf("%w: %s was to be trusted until %s, %s after its time (ledger.trust_period); ask bodies that you trust for the hash of one recent block (\"civibus status --block HEIGHT\"), compare what they say, set ledger.trust_height and ledger.trust_hash to them, and start again",
			ErrExpired, what, until.UTC().Format(time.RFC3339), c.cfg.TrustPeriod)
	}
	return nil
}

// verify verifies a header with what is trusted, fetching headers in between from
// the same full node where the validators changed too much. Errors are lies,
// ErrExpired, or that the node does not answer.
func (c *Client) verify(ctx context.Context, from *fullNode, trusted, target *types.LightBlock) error {
	pending := []*types.LightBlock{target}
	for len(pending) > 0 {
		next := pending[len(pending)-1]
		if err := c.expired(trusted); err != nil {
			return err
		}
		if now := c.cfg.Clock(); !next.Time.Before(now.Add(c.cfg.MaxClockDrift)) {
			return fmt.Errorf("%w: %s, and it is %s here; is this machine's clock right?", errClock, next.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
		var distrusted light.ErrNewValSetCantBeTrusted
		err := guarded("verify", func() error {
			return light.Verify(trusted.SignedHeader, trusted.ValidatorSet, next.SignedHeader, next.ValidatorSet,
				c.cfg.TrustPeriod, c.cfg.Clock(), c.cfg.MaxClockDrift, trustLevel)
		})
		switch {
		case err == nil:
			trusted, pending = next, pending[:len(pending)-1]
		case errors.As(err, &distrusted) && next.Height > trusted.Height+1:
			// Too few of those that were trusted signed it: half way first.
			pivot, perr := from.lightBlock(ctx, trusted.Height+(next.Height-trusted.Height)/2, 0, 0)
			if perr != nil {
				return perr
			}
			pending = append(pending, pivot)
		default:
			said, eerr := encodeLight(next)
			return &lie{lieHeader, errors.Join(fmt.Errorf("header %d, after the trusted %d: %w", next.Height, trusted.Height, err), eerr), fmt.Sprint("light/", next.Height), said}
		}
	}
	return nil
}

// crossCheckWait is how long a second full node may take to have the same block.
const crossCheckWait = 2 * time.Second

// crossCheck compares a verified header with those of other full nodes, until one
// agrees. It is ErrFork when one has another header that verifies too.
func (c *Client) crossCheck(ctx context.Context, first *fullNode, trusted, target *types.LightBlock) error {
	for _, other := range c.pool.usable() {
		if other == first {
			continue
		}
		lb, err := other.lightBlock(ctx, target.Height, 0, crossCheckWait)
		if err != nil {
			if !errors.Is(err, errNotYet) && !errors.Is(err, errPruned) {
				c.pool.failed(ctx, other, err)
			}
			continue
		}
		if bytes.Equal(lb.Hash(), target.Hash()) {
			c.pool.worked(other)
			c.setWitness(true)
			return nil
		}
		// One of the two lies, or the validators did.
		err = c.verify(ctx, other, trusted, lb)
		if err == nil {
			return c.fork(ctx, first, other, target, lb)
		}
		c.pool.failed(ctx, other, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.setWitness(false)
	return nil
}

// fork keeps both sides of a fork.
func (c *Client) fork(ctx context.Context, a, b *fullNode, one, two *types.LightBlock) error {
	for f, lb := range map[*fullNode]*types.LightBlock{a: one, b: two} {
		said, err := encodeLight(lb)
		c.pool.failed(ctx, f, &lie{lieFork, errors.Join(fmt.Errorf("header %d with hash %X is signed, and so is another", lb.Height, lb.Hash()), err), fmt.Sprint("light/", lb.Height), said})
	}
	return fmt.Errorf("%w: height %d, %s says %X and %s says %X; both are in %s/lies. Nothing new is believed: find out with the other bodies which one is theirs, set ledger.trust_height and ledger.trust_hash to it, and start again",
		ErrFork, one.Height, a.address, one.Hash(), b.address, two.Hash(), c.cfg.Dir)
}

// adopt makes a verified header the last trusted one.
func (c *Client) adopt(lb *types.LightBlock) error {
	b, err := encodeLight(lb)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.trusted, c.trustedRaw, c.trustKept = lb, b, false
	c.mu.Unlock()
	return nil
}

// forward verifies a header that a full node showed, compares it with a second
// one's, and trusts it.
func (c *Client) forward(ctx context.Context, from *fullNode, target *types.LightBlock) error {
	trusted := c.trust()
	if err := c.verify(ctx, from, trusted, target); err != nil {
		return err
	}
	if err := c.crossCheck(ctx, from, trusted, target); err != nil {
		return err
	}
	return c.adopt(target)
}

// root finds the first ground for trust: what is kept, what the operator named if
// that is later, or the genesis.
func (c *Client) root(ctx context.Context) error {
	// 1. What was trusted last, as long as the operator names nothing later.
	var raw []byte
	var err error
	if c.replica != nil {
		if raw, err = c.replica.Trusted(); err != nil {
			return err
		}
	}
	if raw != nil {
		lb, err := parseLight(raw, c.chainID)
		if err != nil {
			return fmt.Errorf("what is trusted, in %s: %w", c.cfg.Dir, err)
		}
		if lb.Height == int64(c.cfg.TrustHeight) && !bytes.Equal(lb.Hash(), c.cfg.TrustHash) {
			return fmt.Errorf("ledger.trust_hash is %X, and this node verified %X at height %d before: one of them is of another chain; ask other bodies, and if yours is wrong move %s away",
				c.cfg.TrustHash, lb.Hash(), lb.Height, c.cfg.Dir)
		}
		if lb.Height >= int64(c.cfg.TrustHeight) {
			c.mu.Lock()
			c.trusted, c.trustedRaw, c.trustKept = lb, raw, true
			c.mu.Unlock()
			return nil
		}
	}
	// 2. The genesis.
	if c.cfg.TrustHeight == 0 {
		lb, err := genesisRoot(c.cfg.Genesis)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.trusted = lb
		c.mu.Unlock()
		return nil
	}
	// 3. The header that the operator named, from whoever has it.
	for {
		for _, f := range c.pool.usable() {
			lb, err := f.lightBlock(ctx, int64(c.cfg.TrustHeight), 0, 0)
			if err == nil {
				err = c.checkNamed(lb)
			}
			if err == nil {
				return c.adopt(lb)
			} else if errors.Is(err, ErrExpired) {
				return err
			}
			c.pool.failed(ctx, f, err)
			c.setProblem(fmt.Errorf("block %d with hash %s (ledger.trust_height and trust_hash) is not had from %s: %w", c.cfg.TrustHeight, hex.EncodeToString(c.cfg.TrustHash), f.address, err))
		}
		if err := c.rest(ctx, c.pool.next()); err != nil {
			return err
		}
	}
}

// checkNamed holds a header to the hash that the operator named.
func (c *Client) checkNamed(lb *types.LightBlock) error {
	err := guarded("verify", func() error {
		if !bytes.Equal(lb.Hash(), c.cfg.TrustHash) {
			return fmt.Errorf("block %d has the hash %X, the operator named %X", lb.Height, lb.Hash(), c.cfg.TrustHash)
		}
		return lb.ValidatorSet.VerifyCommitLight(c.chainID, lb.Commit.BlockID, lb.Height, lb.Commit)
	})
	if err != nil {
		said, eerr := encodeLight(lb)
		return &lie{lieHeader, errors.Join(err, eerr), fmt.Sprint("light/", lb.Height), said}
	}
	return c.expired(lb)
}

// link walks back from a known header hash to the hash of an earlier header.
func (c *Client) link(ctx context.Context, from *fullNode, height int64, hash []byte, to int64) ([]byte, error) {
	for height > to {
		first := max(to+1, height-ledger.MaxAnswerHeaders+1)
		list, err := from.headers(ctx, first, height)
		if err != nil {
			return nil, err
		}
		for i := len(list) - 1; i >= 0; i-- {
			if h := list[i]; !bytes.Equal(h.Hash(), hash) {
				return nil, &lie{lieHeader, fmt.Errorf("header %d hashes to %X, the later ones say %X", h.Height, h.Hash(), hash), fmt.Sprintf("headers?from=%d&to=%d", first, height), nil}
			}
			hash = list[i].LastBlockID.Hash
		}
		height = first - 1
	}
	return hash, nil
}

// trust is the last trusted header.
func (c *Client) trust() *types.LightBlock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trusted
}

// setWitness notes whether a second full node could be asked.
func (c *Client) setWitness(ok bool) {
	c.mu.Lock()
	was := c.alone
	c.alone = !ok
	c.mu.Unlock()
	if !ok && !was {
		c.cfg.Logger.Warn("no second full node confirms what the first one shows; the validators' signatures alone are relied on", slog.Int("full_nodes", len(c.pool.usable())))
	}
}
