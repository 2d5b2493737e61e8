package ledger

import (
	"errors"
	"fmt"

	"github.com/cometbft/cometbft/blocksync"
	cmtcfg "github.com/cometbft/cometbft/config"
	cs "github.com/cometbft/cometbft/consensus"
	mempl "github.com/cometbft/cometbft/mempool"
	cmtnode "github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/proxy"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/statesync"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are this package's. The gauges are read from Status at each scrape.
type metrics struct {
	registerer prometheus.Registerer
	registered []prometheus.Collector

	transactions     *prometheus.CounterVec
	refused          *prometheus.CounterVec
	submit           prometheus.Histogram
	busy             prometheus.Counter
	overShare        prometheus.Counter
	refusedPeers     prometheus.Counter
	refusedProposals prometheus.Counter
	misbehaviour     prometheus.Counter
	cosignatures     prometheus.Counter
	problems         *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registerer: r,
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_ledger_transactions_total", Help: "Transactions in committed blocks, by result code."}, []string{"code"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_ledger_refused_total", Help: "Transactions refused here before they reached a block, by result code."}, []string{"code"}),
		submit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "civibus_ledger_submit_seconds", Help: "Time from submission to commit.",
			Buckets: []float64{.005, .01, .025, .05, .1, .15, .2, .25, .3, .5, 1, 2.5, 5, 10}}),
		overShare: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "civibus_ledger_over_share_total", Help: "Transactions kept out of the pool because their author had its share of it."}),
		busy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "civibus_ledger_busy_total", Help: "Submissions sent away because too many transactions waited."}),
		refusedPeers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "civibus_ledger_refused_peers_total", Help: "Connections of nodes that are not configured."}),
		refusedProposals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "civibus_ledger_refused_proposals_total", Help: "Proposed blocks refused for a malformed transaction."}),
		misbehaviour: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "civibus_ledger_misbehaviour_total", Help: "Proofs in blocks that a validator signed twice or attacked light clients."}),
		cosignatures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "civibus_ledger_cosignatures_total", Help: "Checkpoints cosigned by this node."}),
		problems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "civibus_ledger_problem", Help: "1 while the watchdog sees the problem."}, []string{"problem"}),
	}
	for _, c := range []prometheus.Collector{m.transactions, m.refused, m.submit, m.busy, m.overShare, m.refusedPeers, m.refusedProposals, m.misbehaviour, m.cosignatures, m.problems} {
		if err := m.add(c); err != nil {
			return m, fmt.Errorf("ledger metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) add(c prometheus.Collector) error {
	if m.registerer == nil {
		return nil
	}
	if err := m.registerer.Register(c); err != nil {
		return err
	}
	m.registered = append(m.registered, c)
	return nil
}

// attach adds the gauges that are read from a running node.
func (m *metrics) attach(n *Node) error {
	gauge := func(name, help string, value func(Status) float64) error {
		return m.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(n.Status()) }))
	}
	return errors.Join(
		gauge("civibus_ledger_height", "Height of the last committed block.", func(s Status) float64 { return float64(s.Height) }),
		gauge("civibus_ledger_peers", "Connected peers.", func(s Status) float64 { return float64(s.Peers) }),
		gauge("civibus_ledger_waiting_transactions", "Transactions that wait for a block.", func(s Status) float64 { return float64(s.Waiting) }),
		gauge("civibus_ledger_block_age_seconds", "Time since the last block was committed here.", func(s Status) float64 { return s.BlockAge.Seconds() }),
		gauge("civibus_ledger_catching_up", "1 while the node catches up with its peers.", func(s Status) float64 { return flag(s.CatchingUp) }),
		gauge("civibus_ledger_healthy", "1 while the ledger works at this node.", func(s Status) float64 { return flag(s.Healthy) }),
	)
}

// detach takes everything out of the registry, so that a node can be opened
// again in the same process.
func (m *metrics) detach() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// engineMetrics gives CometBFT its metrics: none, or under a namespace of its own.
func engineMetrics(namespace string) cmtnode.MetricsProvider {
	conf := cmtcfg.DefaultInstrumentationConfig()
	conf.Prometheus, conf.Namespace = namespace != "", namespace
	provider := cmtnode.DefaultMetricsProvider(conf)
	return func(chainID string) (*cs.Metrics, *p2p.Metrics, *mempl.Metrics, *sm.Metrics, *proxy.Metrics, *blocksync.Metrics, *statesync.Metrics) {
		return provider(chainID)
	}
}
