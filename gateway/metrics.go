package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
)

// metrics are the gateway's.
type metrics struct {
	exchanges *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	inflight  map[civibus.Place]prometheus.Gauge
	bytes     *prometheus.CounterVec
}

func faceOf(p civibus.Place) string {
	if p == civibus.ConsumerGateway {
		return "consumer"
	}
	return "provider"
}

func outcomeName(o civibus.Outcome) string {
	switch o {
	case civibus.Answered:
		return "answered"
	case civibus.Refused:
		return "refused"
	}
	return "failed"
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_gateway_exchanges_total",
			Help: "Exchanges by face, outcome and fault code (empty when answered).",
		}, []string{"face", "outcome", "fault"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "civibus_gateway_exchange_duration_seconds",
			Help:    "Time from the request's head to the end of the answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"face"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_gateway_body_bytes_total",
			Help: "Bytes of sealed bodies that passed, by face and direction.",
		}, []string{"face", "direction"}),
	}
	inflight := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "civibus_gateway_exchanges_in_flight",
		Help: "Exchanges under way, by face.",
	}, []string{"face"})
	m.inflight = map[civibus.Place]prometheus.Gauge{
		civibus.ConsumerGateway: inflight.WithLabelValues("consumer"),
		civibus.ProviderGateway: inflight.WithLabelValues("provider"),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.exchanges, m.duration, m.bytes, inflight} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(place civibus.Place, o civibus.Outcome, fault string, took time.Duration) {
	face := faceOf(place)
	m.inflight[place].Dec()
	m.exchanges.WithLabelValues(face, outcomeName(o), fault).Inc()
	m.duration.WithLabelValues(face).Observe(took.Seconds())
}
