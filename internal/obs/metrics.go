package obs

import (
	"encoding/json"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry makes the metrics registry of one node, with the process and
// runtime collectors and civibus_build_info.
func NewRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "civibus_build_info",
		Help:        "The version that runs; the value is always 1.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return r
}

// Health is what the health page says.
type Health struct {
	Ready      bool              `json:"ready"`
	Components map[string]string `json:"components"` // name -> "ok" or what is wrong
}

// OK reports whether every component is ok.
func (h Health) OK() bool {
	for _, state := range h.Components {
		if state != "ok" {
			return false
		}
	}
	return true
}

// Handler serves /metrics, /healthz and /readyz. healthz answers 200 while every
// component works; readyz while, besides, the node takes exchanges.
func Handler(g prometheus.Gatherer, health func() Health) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := health()
		writeHealth(w, h, h.OK())
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		h := health()
		writeHealth(w, h, h.Ready)
	})
	return mux
}

func writeHealth(w http.ResponseWriter, h Health, good bool) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !good {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(h) // the client went away: nobody to tell
}
