package light

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/registry"
)

// stride is the most blocks between two headers that are trusted, so that a client
// that is far behind keeps what it has verified. Tests take shorter ones.
var stride int64 = 400

// errBroken: this node cannot go on by itself.
var errBroken = errors.New("this node's registry is not the one that was agreed on")

// errOld: this version does not know how the registry goes on.
var errOld = errors.New("this version of civibus is too old")

// final says whether an error ends it all until the operator acts.
func final(err error) bool {
	return errors.Is(err, ErrExpired) || errors.Is(err, ErrFork) || errors.Is(err, errBroken) || errors.Is(err, errOld)
}

// round makes one step: a newer header, or blocks up to the one that is trusted.
func (c *Client) round(ctx context.Context) error {
	nodes := c.pool.usable()
	if len(nodes) == 0 {
		return errors.Join(errors.New("no full node can be asked now"), c.lastProblem())
	}
	from := nodes[0]
	trusted := c.trust()
	if err := c.expired(trusted); err != nil {
		return err
	}
	began, caught := time.Now(), c.caughtUp()
	err := c.step(ctx, from, trusted)
	switch {
	case err == nil:
		c.pool.worked(from)
	case final(err):
	case errors.Is(err, errNothingNew):
		c.pool.worked(from)
		if err := c.askAnother(ctx, from, trusted); err != nil || !caught || time.Since(began) > c.cfg.Poll/2 {
			return err
		}
		return c.rest(ctx, c.cfg.Poll/20) // it does not wait as it was asked to
	default:
		c.pool.failed(ctx, from, err)
	}
	return err
}

func (c *Client) lastProblem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem
}

// height is that of the committed registry, -1 when there is none.
func (c *Client) height() int64 {
	if v := c.View(); v != nil {
		return int64(v.Height())
	}
	return -1
}

func (c *Client) step(ctx context.Context, from *fullNode, trusted *types.LightBlock) error {
	have := c.height()
	// 1. Behind what is trusted: blocks, unless a snapshot saves most of them.
	if have < trusted.Height-1 {
		if uint64(trusted.Height-max(have, 0)) > c.cfg.SnapshotGap || c.cfg.TrustHeight > 0 && have < 0 {
			newest := trusted.Height
			if lb, err := from.lightBlock(ctx, 0, trusted.Height, 0); err == nil {
				newest = lb.Height // verified when a snapshot needs it
			} else if !errors.Is(err, errNothingNew) {
				return err
			}
			if done, err := c.bootstrap(ctx, from, newest); done || err != nil {
				return err
			}
		}
		return c.execute(ctx, from, trusted)
	}
	// 2. A newer header.
	wait := c.cfg.Poll
	if !c.caughtUp() {
		wait = 0 // whether there is more is to be known at once
	}
	newest, err := from.lightBlock(ctx, 0, trusted.Height, wait)
	if err != nil {
		return err
	}
	return c.advance(ctx, from, trusted, newest)
}

// advance trusts a newer header, or one on the way to it, and executes its blocks.
func (c *Client) advance(ctx context.Context, from *fullNode, trusted, newest *types.LightBlock) (err error) {
	have := max(c.height(), 0)
	if uint64(newest.Height-have) > c.cfg.SnapshotGap {
		if done, err := c.bootstrap(ctx, from, newest.Height); done || err != nil {
			return err
		}
	}
	target := newest
	if newest.Height > trusted.Height+stride {
		if target, err = from.lightBlock(ctx, trusted.Height+stride, 0, 0); err != nil {
			return err
		}
	}
	if err := c.forward(ctx, from, target); err != nil {
		return err
	}
	if err := c.execute(ctx, from, target); err != nil {
		return err
	}
	if target == newest && c.cfg.Clock().Sub(newest.Time) < c.cfg.StaleAfter {
		c.setCaught() // the validators say when it was made
	}
	return nil
}

// askAnother looks whether another full node has what the preferred one says there
// is not.
func (c *Client) askAnother(ctx context.Context, first *fullNode, trusted *types.LightBlock) error {
	for _, other := range c.pool.usable() {
		if other == first {
			continue
		}
		newest, err := other.lightBlock(ctx, 0, trusted.Height, 0)
		if errors.Is(err, errNothingNew) {
			c.pool.worked(other)
			c.pool.last(other) // each time another one
			c.setCaught()
			return nil
		}
		next := newest
		if err == nil && newest.Height > trusted.Height+1 {
			next, err = other.lightBlock(ctx, trusted.Height+1, 0, 0)
		}
		if err == nil {
			if err = c.advance(ctx, other, trusted, newest); final(err) {
				return err
			}
		}
		if err != nil {
			c.pool.failed(ctx, other, err)
			continue
		}
		c.pool.prefer(other)
		// Its block is verified. Of an honest node it can be missing for a moment only.
		if late := c.cfg.Clock().Sub(next.Time); late > c.cfg.StaleAfter+c.cfg.Poll {
			c.pool.failed(ctx, first, &lie{lieStale, fmt.Errorf("it said that there is nothing after height %d, and block %d was made %s before", trusted.Height, next.Height, late), fmt.Sprintf("light/0?after=%d", trusted.Height), nil})
		}
		return nil
	}
	c.setCaught() // there is nobody else
	return nil
}

// caughtUp says whether it was at the newest block once.
func (c *Client) caughtUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caught
}

// setCaught notes that it is at the newest block: that was made a moment ago, or two
// full nodes, or the only one, have nothing newer.
func (c *Client) setCaught() {
	c.mu.Lock()
	first := !c.caught
	c.caught = true
	c.mu.Unlock()
	if first {
		c.cfg.Logger.Info("the registry is followed by verified headers", slog.Int64("height", c.height()), c.trustedHash())
	}
}

// execute fetches, checks and executes the blocks up to a trusted header.
func (c *Client) execute(ctx context.Context, from *fullNode, trusted *types.LightBlock) error {
	if c.View() == nil {
		if err := c.replica.Begin(); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	for next := c.height() + 1; next <= trusted.Height; next = c.height() + 1 {
		// 1. As many blocks as an answer holds.
		list, raw, err := from.blocks(ctx, next, min(trusted.Height, next+stride-1))
		if err != nil {
			return err
		}
		last := list[len(list)-1].header.Height
		hash, err := c.anchor(ctx, from, trusted, last)
		if err != nil {
			return err
		}
		// 2. They are the chain's.
		for i := len(list) - 1; i >= 0; i-- {
			h := list[i].header
			if !bytes.Equal(h.Hash(), hash) {
				return &lie{lieBlock, fmt.Errorf("block %d hashes to %X, the trusted header %d says %X", h.Height, h.Hash(), trusted.Height, hash), fmt.Sprintf("blocks?from=%d&to=%d", next, last), raw}
			}
			hash = h.LastBlockID.Hash
		}
		// 3. Execution gives what the validators agreed on.
		if err := c.executeAll(ctx, list); err != nil {
			return err
		}
		if c.height() < last {
			return nil // the last one waits for the header that bears its hash
		}
	}
	return nil
}

// anchor is the hash of a header at or below a trusted one.
func (c *Client) anchor(ctx context.Context, from *fullNode, trusted *types.LightBlock, height int64) ([]byte, error) {
	if height == trusted.Height {
		clear(c.anchors)
		return trusted.Hash(), nil
	}
	if hash, ok := c.anchors[height]; ok {
		return hash, nil
	}
	// From the nearest one that is known, keeping some on the way.
	at, hash := trusted.Height, []byte(trusted.Hash())
	for h, known := range c.anchors {
		if h > height && h < at {
			at, hash = h, known
		}
	}
	for at > height {
		down := max(height, at-stride)
		var err error
		if hash, err = c.link(ctx, from, at, hash, down); err != nil {
			return nil, err
		}
		at = down
		c.anchors[at] = hash
	}
	return hash, nil
}

// executeAll executes checked blocks that follow the committed one. The last one is
// left if it changed the registry: the next header says whether rightly so.
func (c *Client) executeAll(ctx context.Context, list []block) error {
	for i, b := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		h := b.header
		if hash := c.View().AppHash(); !bytes.Equal(hash[:], h.AppHash) {
			return fmt.Errorf("%w: after height %d its hash is %X, the validators signed %s; move %s/registry away and start again, so that it is made anew", errBroken, h.Height-1, hash, h.AppHash, c.cfg.Dir)
		}
		hash, err := c.replica.Execute(uint64(h.Height), h.Time, b.txs.ToSliceOfBytes(), b.evidence.ToABCI())
		if unknown := (*registry.UnknownUpgradeError)(nil); errors.As(err, &unknown) {
			return fmt.Errorf("%w: the instance upgrades to %q at height %d; install the version whose release notes name the upgrade and start it in the same directory", errOld, unknown.Name, unknown.Height)
		} else if err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		agreed := h.AppHash
		if i+1 < len(list) {
			agreed = list[i+1].header.AppHash
		} else if !bytes.Equal(hash[:], h.AppHash) {
			return nil
		}
		if !bytes.Equal(hash[:], agreed) {
			return fmt.Errorf("%w: block %d gives the hash %X, the validators signed %s; this version of civibus differs from theirs, or its disk is damaged: install their version, move %s/registry away and start again", errBroken, h.Height, hash, agreed, c.cfg.Dir)
		}
		if err := c.commit(); err != nil {
			return err
		}
	}
	c.pool.updateSometimes(c.View())
	return nil
}

// commit keeps an executed block, and what is trusted if that is newer.
func (c *Client) commit() error {
	c.mu.Lock()
	trusted := c.trustedRaw
	if c.trustKept {
		trusted = nil
	}
	c.mu.Unlock()
	if err := c.replica.Commit(trusted); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if trusted != nil {
		c.mu.Lock()
		c.trustKept = true
		c.mu.Unlock()
	}
	return nil
}
