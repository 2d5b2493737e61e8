package light

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus/ledger"
)

// metrics are this package's. Gauges that a ledger node has too have its names.
type metrics struct {
	registerer prometheus.Registerer
	registered []prometheus.Collector

	lies *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, c *Client) (*metrics, error) {
	m := &metrics{registerer: r, lies: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "civibus_light_lies_total", Help: "Answers of full nodes that did not verify, by kind."}, []string{"kind"})}
	gauge := func(name, help string, value func(ledger.Status) float64) error {
		return m.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(c.Status()) }))
	}
	err := errors.Join(
		m.add(m.lies),
		gauge("civibus_ledger_height", "Height of the last verified block.", func(s ledger.Status) float64 { return float64(s.Height) }),
		gauge("civibus_ledger_block_age_seconds", "Time since the last verified block was made.", func(s ledger.Status) float64 { return s.BlockAge.Seconds() }),
		gauge("civibus_ledger_healthy", "1 while the ledger is followed.", func(s ledger.Status) float64 { return flag(s.Healthy) }),
		gauge("civibus_ledger_catching_up", "1 until the newest block was reached.", func(s ledger.Status) float64 { return flag(s.CatchingUp) }),
		gauge("civibus_light_full_nodes", "Full nodes that answered when they were asked last.", func(s ledger.Status) float64 { return float64(s.Peers) }),
		m.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "civibus_light_full_nodes_dropped", Help: "Full nodes that lied and are left alone."}, func() float64 {
			_, _, liars, _ := c.pool.count()
			return float64(liars)
		})),
	)
	if err != nil {
		m.detach()
		return nil, fmt.Errorf("light client metrics: %w", err)
	}
	return m, nil
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
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

// detach takes everything out again.
func (m *metrics) detach() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}
