package ledger

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	cmtcfg "github.com/cometbft/cometbft/config"
)

// maxInbound bounds the connections that others made, beside configured peers': the
// registry's nodes, and strangers in the handshake, whom the filter refuses after it.
const maxInbound = 256

// EngineConfig is CometBFT's configuration for a node; docs/operate/ledger.md says
// why each setting is as it is. It is exported for the benchmarks, which run
// another application on the same settings.
func EngineConfig(c Config) (*cmtcfg.Config, error) {
	e := cmtcfg.DefaultConfig()
	e.SetRoot(c.Dir)
	e.Moniker = "civibus"
	e.DBBackend = "goleveldb"
	e.DBPath = "engine"
	e.Genesis = "engine/genesis.json"
	e.PrivValidatorKey = "engine/unused"
	e.PrivValidatorState = "engine/priv_validator_state.json"
	e.NodeKey = "engine/node_key.json"
	e.FilterPeers = true

	e.RPC.ListenAddress = ""
	e.RPC.PprofListenAddress = ""
	e.TxIndex.Indexer = "null"
	e.Storage.DiscardABCIResponses = true
	e.Instrumentation.Prometheus = false

	// Peers: only those configured or in the registry, tuned for latency (a packet size other than
	// the peers' breaks the connection).
	var dialled, permitted []string
	for _, p := range c.Peers {
		id, address, err := splitPeer(p)
		if err != nil {
			return nil, err
		}
		permitted = append(permitted, id)
		if address != "" {
			dialled = append(dialled, p)
		}
	}
	e.P2P.ListenAddress = "tcp://" + c.ListenAddress
	e.P2P.PersistentPeers = strings.Join(dialled, ",")
	e.P2P.UnconditionalPeerIDs = strings.Join(permitted, ",")
	e.P2P.MaxNumInboundPeers = maxInbound
	e.P2P.MaxNumOutboundPeers = len(c.Peers) + 1
	e.P2P.AddrBook = "engine/addrbook.json"
	e.P2P.AddrBookStrict = false
	e.P2P.AllowDuplicateIP = true
	e.P2P.PexReactor = false
	e.P2P.SendRate = 200 << 20
	e.P2P.RecvRate = 200 << 20
	e.P2P.FlushThrottleTimeout = time.Millisecond
	e.P2P.MaxPacketMsgPayloadSize = 32 << 10
	e.P2P.HandshakeTimeout = 5 * time.Second

	// Transactions: no recheck (validity of the queue's order is checked in the
	// block), and no cache of seen ones: a transaction that a peer dropped must
	// be sent again, and the application refuses what was executed.
	e.Mempool.Recheck = false
	e.Mempool.Size = c.PoolTransactions
	e.Mempool.MaxTxsBytes = c.PoolBytes
	e.Mempool.CacheSize = 0
	e.Mempool.MaxTxBytes = maxEnvelopeBytes

	e.Consensus.WalPath = filepath.Join("engine", "cs.wal", "wal")
	e.Consensus.TimeoutPropose = time.Second
	e.Consensus.TimeoutProposeDelta = 500 * time.Millisecond
	e.Consensus.TimeoutPrevote = 500 * time.Millisecond
	e.Consensus.TimeoutPrecommit = 500 * time.Millisecond
	e.Consensus.TimeoutCommit = c.TimeoutCommit
	e.Consensus.CreateEmptyBlocks = false
	e.Consensus.CreateEmptyBlocksInterval = c.HeartbeatInterval
	e.Consensus.PeerGossipSleepDuration = 5 * time.Millisecond
	e.Consensus.PeerQueryMaj23SleepDuration = time.Second

	if err := e.ValidateBasic(); err != nil {
		return nil, fmt.Errorf("engine configuration: %w", err)
	}
	return e, nil
}

// freeAddress replaces port 0 by a port that is free now: the engine cannot tell
// which one it was given.
func freeAddress(address string) (string, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
