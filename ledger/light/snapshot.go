package light

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/ledger"
)

// bootstrap takes the registry from a snapshot at or below newest, if a full node
// has one that saves enough blocks. False: there is none.
func (c *Client) bootstrap(ctx context.Context, from *fullNode, newest int64) (done bool, err error) {
	s, err := c.snapshotAt(ctx, from, max(c.height(), 0), newest-1)
	if s == nil || err != nil {
		return false, err
	}
	dir := filepath.Join(c.cfg.Dir, "incoming")
	if err := c.fetchChunks(ctx, s, dir); err != nil {
		return false, err
	}
	c.mu.Lock()
	trusted := c.trustedRaw
	c.mu.Unlock()
	err = c.replica.Restore(s.manifest, func(i int) ([]byte, error) {
		return os.ReadFile(filepath.Join(dir, ledger.ChunkFile(i)))
	}, trusted)
	if rerr := os.RemoveAll(dir); rerr != nil {
		return false, fmt.Errorf("%w: %w", errBroken, rerr)
	}
	if err != nil {
		return false, &lie{lieSnapshot, err, fmt.Sprint("snapshots/", s.manifest.Height), s.raw}
	}
	c.mu.Lock()
	c.trustKept = true
	c.mu.Unlock()
	c.pool.update(c.View())
	c.cfg.Logger.Info("the registry was taken from a snapshot and verified", slog.Uint64("height", s.manifest.Height), slog.String("full_node", from.address))
	return true, nil
}

// snapshot is one whose application hash the validators signed.
type snapshot struct {
	manifest *ledger.Manifest
	raw      []byte
	from     *fullNode
}

// snapshotAt finds the newest snapshot between two heights that saves enough, and
// verifies the header after it. Nil: there is none.
func (c *Client) snapshotAt(ctx context.Context, from *fullNode, above, most int64) (*snapshot, error) {
	// 1. Which there are.
	b, err := from.get(ctx, "snapshots", maxSmall, 0)
	if err != nil {
		return nil, err
	}
	heights, err := parseSnapshots(b)
	if err != nil {
		return nil, &lie{lieMalformed, err, "snapshots", b}
	}
	best := int64(0)
	for _, h := range heights {
		if h < 1<<62 && int64(h) <= most {
			best = max(best, int64(h))
		}
	}
	if least := min(int64(c.cfg.SnapshotGap), 1<<40); best == 0 || best-above < least && !(c.cfg.TrustHeight > 0 && c.View() == nil) {
		return nil, nil
	}
	// 2. The header that bears its hash.
	appHash, err := c.appHash(ctx, from, best)
	if err != nil {
		return nil, err
	}
	// 3. Its manifest.
	path := fmt.Sprint("snapshots/", best)
	raw, err := from.get(ctx, path, maxManifest, 0)
	if err != nil {
		return nil, err
	}
	m, err := ledger.ParseManifest(raw)
	if err == nil && (m.Height != uint64(best) || m.ChainID != c.chainID || !bytes.Equal(m.AppHash, appHash)) {
		err = fmt.Errorf("it is of height %d of %q with the application hash %X, the validators signed %X for height %d of %q", m.Height, m.ChainID, []byte(m.AppHash), appHash, best, c.chainID)
	}
	if err != nil {
		return nil, &lie{lieSnapshot, err, path, raw}
	}
	return &snapshot{m, raw, from}, nil
}

// appHash is what the validators signed as the application hash after a height.
func (c *Client) appHash(ctx context.Context, from *fullNode, height int64) ([]byte, error) {
	trusted := c.trust()
	if height+1 > trusted.Height {
		lb, err := from.lightBlock(ctx, height+1, 0, 0)
		if err != nil {
			return nil, err
		}
		if err := c.forward(ctx, from, lb); err != nil {
			return nil, err
		}
		return lb.AppHash, nil
	}
	h, err := c.headerAt(ctx, from, trusted, height+1)
	if err != nil {
		return nil, err
	}
	return h.AppHash, nil
}

// headerAt is the header at or below a trusted one.
func (c *Client) headerAt(ctx context.Context, from *fullNode, trusted *types.LightBlock, height int64) (*types.Header, error) {
	if height == trusted.Height {
		return trusted.Header, nil
	}
	hash, err := c.link(ctx, from, trusted.Height, trusted.Hash(), height)
	if err != nil {
		return nil, err
	}
	list, err := from.headers(ctx, height, height)
	if err != nil {
		return nil, err
	}
	if h := list[0]; !bytes.Equal(h.Hash(), hash) {
		return nil, &lie{lieHeader, fmt.Errorf("header %d hashes to %X, the later ones say %X", height, h.Hash(), hash), fmt.Sprint("headers?from=", height), nil}
	}
	return &list[0], nil
}

// fetchChunks brings a snapshot's chunks into a folder, each checked. What is there
// already and right is kept, so that an interrupted one goes on.
func (c *Client) fetchChunks(ctx context.Context, s *snapshot, dir string) error {
	// 1. A folder of this very snapshot.
	mark := filepath.Join(dir, "manifest.json")
	if have, err := os.ReadFile(mark); err != nil || sha256.Sum256(have) != sha256.Sum256(s.raw) {
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700), os.WriteFile(mark, s.raw, 0o600)); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	c.cfg.Logger.Info("fetching a snapshot of the registry", slog.Uint64("height", s.manifest.Height), slog.Int("chunks", len(s.manifest.Chunks)))
	// 2. Chunk by chunk. A chunk is what its hash says, whoever sends it.
	for i := range s.manifest.Chunks {
		file := filepath.Join(dir, ledger.ChunkFile(i))
		if have, err := os.ReadFile(file); err == nil && s.manifest.Check(i, have) == nil {
			continue
		}
		b, err := c.fetchChunk(ctx, s, i)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	return nil
}

// fetchChunk asks the full node that gave the manifest, then the others.
func (c *Client) fetchChunk(ctx context.Context, s *snapshot, i int) ([]byte, error) {
	path := fmt.Sprintf("snapshots/%d/%d", s.manifest.Height, i)
	var first error
	for _, f := range append([]*fullNode{s.from}, c.pool.usable()...) {
		if first != nil && f == s.from {
			continue
		}
		b, err := f.get(ctx, path, maxChunk, 0)
		if err == nil {
			if bad := s.manifest.Check(i, b); bad != nil {
				err = &lie{lieSnapshot, bad, path, b[:min(len(b), maxSmall)]}
			}
		}
		if err == nil {
			if first != nil {
				c.pool.failed(ctx, s.from, first)
			}
			return b, nil
		}
		if first == nil {
			first = err // told by the caller
			continue
		}
		if !errors.Is(err, errPruned) {
			c.pool.failed(ctx, f, err)
		}
	}
	return nil, first
}
