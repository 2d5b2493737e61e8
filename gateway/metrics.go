package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
)

// metrics are the gateway's.
type metrics struct {
	exchanges *prometheus.CounterVec
	consumer  faceMetrics
	provider  faceMetrics
}

// faceMetrics are what every exchange at one face counts, looked up once.
type faceMetrics struct {
	answered                    prometheus.Counter
	duration                    prometheus.Observer
	inflight                    prometheus.Gauge
	requestBytes, responseBytes prometheus.Counter
}

func (m *metrics) face(place civibus.Place) *faceMetrics {
	if place == civibus.ConsumerGateway {
		return &m.consumer
	}
	return &m.provider
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
	}
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "civibus_gateway_body_bytes_total",
		Help: "Bytes of sealed bodies that passed, by face and direction.",
	}, []string{"face", "direction"})
	inflight := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "civibus_gateway_exchanges_in_flight",
		Help: "Exchanges under way, by face.",
	}, []string{"face"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "civibus_gateway_exchange_duration_seconds",
		Help:    "Time from the request's head to the end of the answer.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
	}, []string{"face"})
	for _, place := range []civibus.Place{civibus.ConsumerGateway, civibus.ProviderGateway} {
		face := faceOf(place)
		*m.face(place) = faceMetrics{
			answered: m.exchanges.WithLabelValues(face, outcomeName(civibus.Answered), ""),
			duration: duration.WithLabelValues(face), inflight: inflight.WithLabelValues(face),
			requestBytes: bytes.WithLabelValues(face, "request"), responseBytes: bytes.WithLabelValues(face, "response"),
		}
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.exchanges, duration, bytes, inflight} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(place civibus.Place, o civibus.Outcome, fault string, took time.Duration) {
	face := m.face(place)
	face.inflight.Dec()
	face.duration.Observe(took.Seconds())
	if o == civibus.Answered {
		face.answered.Inc()
		return
	}
	m.exchanges.WithLabelValues(faceOf(place), outcomeName(o), fault).Inc()
}
