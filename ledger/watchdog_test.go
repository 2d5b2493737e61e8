package ledger_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/civibus/civibus/ledger"
)

// TestWatchdogSeesWhatTheEngineHides: a node whose registry differs, and one whose
// registry fails, halt by themselves, say so, and take nothing more; the others go
// on. The engine reports both as running.
func TestWatchdogSeesWhatTheEngineHides(t *testing.T) {
	for _, c := range []struct {
		name, want string
		inStep     bool
	}{{"differs", "differs", true}, {"fails", "halted", false}} {
		t.Run(c.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			w := newNetwork(t, 4, func(i int, cfg *ledger.Config) {
				cfg.StallAfter = time.Second
				if i == 3 {
					cfg.Metrics = reg
				}
			})
			mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "before"))
			w.agree(2)
			_, other := makeBodies(t, 4)
			if !c.inStep {
				other = nil
			}
			check(t, w.nodes[3].Diverge(other))
			for k := range 3 {
				mustSubmit(t, w.nodes[k], w.bodies[k].notarise(t, fmt.Sprint("after ", k)))
			}
			eventually(t, 60*time.Second, "the node says so", func() bool {
				s := w.nodes[3].Status()
				return !s.Healthy && len(s.Problems) > 0 && strings.Contains(s.Problems[0], c.want)
			})
			if _, err := w.nodes[3].Submit(within(t, 10*time.Second), w.bodies[0].notarise(t, "refused")); !errors.Is(err, ledger.ErrHalted) {
				t.Fatalf("submit at the halted node: %v, want ErrHalted", err)
			}
			eventually(t, 10*time.Second, "the metric says so", func() bool {
				families, err := reg.Gather()
				check(t, err)
				for _, f := range families {
					if f.GetName() == "civibus_ledger_problem" {
						for _, m := range f.GetMetric() {
							if v := m.GetLabel()[0].GetValue(); m.GetGauge().GetValue() == 1 && (v == "diverged" || v == "halted") {
								return true
							}
						}
					}
				}
				return false
			})
			for i := range 3 {
				eventually(t, 60*time.Second, "the others are healthy", func() bool { return w.nodes[i].Status().Healthy })
			}
		})
	}
}
