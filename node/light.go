package node

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
)

// modeLight is the ledger.mode of a body that follows the registry without a
// ledger node.
const modeLight = "light"

// validateLight reports what is wrong with the settings for following the ledger
// by verified headers.
func (c LedgerConfig) validateLight(v *validator) {
	if c.Mode == modeLight && len(c.FullNodes) == 0 {
		v.add("ledger.full_nodes", "there is none, and ledger.mode is \"light\"; list the provider faces (host:port) of two or more bodies that run a ledger node")
	}
	seen := map[string]bool{}
	for i, a := range c.FullNodes {
		key := fmt.Sprintf("ledger.full_nodes[%d]", i)
		v.address(key, a)
		if seen[a] {
			v.add(key, "%q is listed twice; one full node cannot be held against itself", a)
		}
		seen[a] = true
	}
	v.positive("ledger.trust_period", c.TrustPeriod)
	switch hash, err := hex.DecodeString(c.TrustHash); {
	case c.TrustHeight < 0:
		v.add("ledger.trust_height", "%d: the rule is 0 (the genesis) or the height of a block", c.TrustHeight)
	case c.TrustHeight == 0 && c.TrustHash != "":
		v.add("ledger.trust_height", "it is missing, and ledger.trust_hash is set; set both, as a body that you trust prints them")
	case c.TrustHeight != 0 && (err != nil || len(hash) != 32):
		v.add("ledger.trust_hash", "%q: the rule is the 64 hex digits of the hash of block %d", c.TrustHash, c.TrustHeight)
	}
	if c.SnapshotInterval < -1 {
		v.add("ledger.snapshot_interval", "%d: the rule is -1 (none) or a number of blocks", c.SnapshotInterval)
	}
}

// openLight starts to follow the ledger by verified headers.
func (n *Node) openLight(ctx context.Context) (replica, error) {
	c, err := light.Open(ctx, n.lightConfig("light"))
	if err != nil {
		return nil, fmt.Errorf("follow the ledger: %w", err)
	}
	return c, nil
}

// snapshotSource vouches for the snapshot with which a new ledger node begins. Nil: it
// begins with the first block, because it has blocks, knows no full node, or none of
// them has a snapshot. It waits until a full node lets this body in.
func (n *Node) snapshotSource(ctx context.Context, dir string) (*light.Source, error) {
	if len(n.cfg.Ledger.FullNodes) == 0 {
		return nil, nil
	}
	if has, err := ledger.HasBlocks(dir); has || err != nil {
		return nil, err
	}
	source, err := light.NewSource(ctx, n.lightConfig("ledger"))
	if err != nil {
		return nil, err
	}
	switch height, err := source.Snapshot(ctx); {
	case errors.Is(err, light.ErrExpired):
		n.log.WarnContext(ctx, "the ledger node begins with the first block, which needs no trust in a later one", "reason", err)
	case err != nil:
		source.Close()
		return nil, err
	case height == 0:
		n.log.InfoContext(ctx, "the ledger node begins with the first block: no full node offers a snapshot")
	default:
		n.log.InfoContext(ctx, "the ledger node begins with a snapshot", "height", height)
		return source, nil
	}
	source.Close()
	return nil, nil
}

// lightConfig is how the ledger is followed by verified headers, with its files in a
// folder of the data directory.
func (n *Node) lightConfig(folder string) light.Config {
	l := n.cfg.Ledger
	hash, _ := hex.DecodeString(l.TrustHash) // validated
	return light.Config{
		Dir: filepath.Join(n.cfg.DataDir, folder), Genesis: n.genesis, FullNodes: l.FullNodes,
		TrustPeriod: time.Duration(l.TrustPeriod), TrustHeight: uint64(l.TrustHeight), TrustHash: hash,
		Certificate: n.shownToFullNodes, Member: n.member, ServerCode: n.cfg.ServerCode, Heartbeat: time.Duration(l.Heartbeat),
		Dial: n.opts.Dial, Clock: n.clock, Logger: n.log.With("room", "ledger"), Metrics: n.metrics,
	}
}

// shownToFullNodes is the certificate that full nodes are shown: that of the transport
// key in force, or of the newest one while the registry does not say which is.
func (n *Node) shownToFullNodes() (*tls.Certificate, error) {
	if cert, err := n.ring.TLS(n.inForce(civibus.TransportKey)); err == nil {
		return cert, nil
	}
	return n.ring.TLS(func(civibus.KeyID) bool { return true })
}
