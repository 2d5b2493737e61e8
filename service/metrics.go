package service

import (
	"fmt"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/prometheus/client_golang/prometheus"
)

// answered is the result of a call that the service answered, in whatever way.
const answered = "answered"

type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(to prometheus.Registerer) (metrics, error) {
	m := metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "civibus_service_calls_total",
			Help: "Calls to this body's own services, by service and result (answered or a fault code).",
		}, []string{"service", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "civibus_service_answer_seconds",
			Help:    "Time until the head of a service's answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"service"}),
	}
	if to == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds} {
		if err := to.Register(c); err != nil {
			return m, fmt.Errorf("register service metrics: %w", err)
		}
	}
	return m, nil
}

// counts are the series of one service's good calls. Looking them up for each
// call costs more than counting.
type counts struct {
	once     sync.Once
	answered prometheus.Counter
	seconds  prometheus.Observer
}

// observe counts a call.
func (m metrics) observe(id civibus.ServiceID, c *counts, result string, took time.Duration) {
	c.once.Do(func() {
		name := id.String()
		c.answered, c.seconds = m.calls.WithLabelValues(name, answered), m.seconds.WithLabelValues(name)
	})
	c.seconds.Observe(took.Seconds())
	if result == answered {
		c.answered.Inc()
		return
	}
	m.calls.WithLabelValues(id.String(), result).Inc()
}
