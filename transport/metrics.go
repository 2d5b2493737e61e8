package transport

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type clientMetrics struct {
	attempts *prometheus.CounterVec
	answered prometheus.Counter // of attempts
	open     prometheus.Gauge
	dial     prometheus.Histogram
}

func newClientMetrics(to prometheus.Registerer) (clientMetrics, error) {
	m := clientMetrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_transport_client_attempts_total",
			Help: "Attempts to send a request to another body's gateway, by result (ok or a fault code).",
		}, []string{"result"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "civibus_transport_client_open_connections",
			Help: "Open connections to other bodies' gateways.",
		}),
		dial: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "civibus_transport_client_dial_seconds",
			Help:    "Time to connect to another body's gateway, TLS handshake included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
	}
	m.answered = m.attempts.WithLabelValues("ok")
	return m, register(to, m.attempts, m.open, m.dial)
}

type serverMetrics struct {
	open    prometheus.Gauge
	refused *prometheus.CounterVec
}

func newServerMetrics(to prometheus.Registerer) (serverMetrics, error) {
	m := serverMetrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "civibus_transport_server_open_connections",
			Help: "Open connections from other bodies.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_transport_server_refused_total",
			Help: "Connections and requests refused, by reason (handshake, peer_not_trusted, busy).",
		}, []string{"reason"}),
	}
	return m, register(to, m.open, m.refused)
}

func register(to prometheus.Registerer, collectors ...prometheus.Collector) error {
	if to == nil {
		return nil
	}
	for _, c := range collectors {
		if err := to.Register(c); err != nil {
			return fmt.Errorf("register transport metrics: %w", err)
		}
	}
	return nil
}
