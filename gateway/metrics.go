package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus"
)

// metrics are the gateway's. What every exchange counts is looked up once.
type metrics struct {
	exchanges *prometheus.CounterVec
	answered  map[civibus.Place]prometheus.Counter
	duration  map[civibus.Place]prometheus.Observer
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
		answered: make(map[civibus.Place]prometheus.Counter),
		duration: make(map[civibus.Place]prometheus.Observer),
		inflight: make(map[civibus.Place]prometheus.Gauge),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_gateway_body_bytes_total",
			Help: "Bytes of sealed bodies that passed, by face and direction.",
		}, []string{"face", "direction"}),
	}
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
		m.answered[place] = m.exchanges.WithLabelValues(face, outcomeName(civibus.Answered), "")
		m.duration[place], m.inflight[place] = duration.WithLabelValues(face), inflight.WithLabelValues(face)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.exchanges, duration, m.bytes, inflight} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(place civibus.Place, o civibus.Outcome, fault string, took time.Duration) {
	m.inflight[place].Dec()
	m.duration[place].Observe(took.Seconds())
	if o == civibus.Answered {
		m.answered[place].Inc()
		return
	}
	m.exchanges.WithLabelValues(faceOf(place), outcomeName(o), fault).Inc()
}
