package obs_test

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/civibus/civibus/internal/obs"
)

func TestLoggerRefusesUnknownNames(t *testing.T) {
	for _, c := range [][2]string{{"loud", "text"}, {"info", "xml"}} {
		if _, err := obs.NewLogger(&bytes.Buffer{}, c[0], c[1]); err == nil {
			t.Errorf("level %q, format %q: no error", c[0], c[1])
		}
	}
}

func TestLoggerHonoursLevelAndFormat(t *testing.T) {
	var b bytes.Buffer
	l, err := obs.NewLogger(&b, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	l.Warn("heard", "part", "x")
	if s := b.String(); strings.Contains(s, "quiet") || !strings.Contains(s, `"msg":"heard"`) {
		t.Errorf("log = %q", s)
	}
}

func TestHandlerTellsHealthAndMetrics(t *testing.T) {
	reg := obs.NewRegistry("test")
	health := obs.Health{Ready: true, Components: map[string]string{"ledger": "ok"}}
	h := obs.Handler(reg, func() obs.Health { return health })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	if w := get("/healthz"); w.Code != 200 {
		t.Errorf("healthz = %d", w.Code)
	}
	if w := get("/metrics"); !strings.Contains(w.Body.String(), "civibus_build_info") {
		t.Error("metrics do not tell the version")
	}
	health = obs.Health{Ready: true, Components: map[string]string{"ledger": "2 peers of 3 are gone"}}
	if w := get("/healthz"); w.Code != 503 || !strings.Contains(w.Body.String(), "2 peers of 3") {
		t.Errorf("healthz with a sick ledger = %d %s", w.Code, w.Body)
	}
	if w := get("/readyz"); w.Code != 200 {
		t.Errorf("readyz of a node that takes exchanges = %d", w.Code)
	}
	health.Ready = false
	if w := get("/readyz"); w.Code != 503 {
		t.Errorf("readyz of a node that does not = %d", w.Code)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) != 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}
