package testnet_test

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestExchangesOutliveTheLedger: with two of four validators away there is no
// block. Exchanges go on with the last view and are told to grow old, a right that
// was revoked stays revoked, also after a restart; beyond max_staleness every one
// is refused; and what was kept meanwhile is anchored when the validators return.
//
// The clock is moved at the consumer only, and only where it sends nothing; it is
// right again after a restart. A machine's clock that is set back does less: what
// runs measures time by a clock that is not set.
func TestExchangesOutliveTheLedger(t *testing.T) {
	var ahead atomic.Int64 // of the consumer's clock
	n := networkWith(t, func(o *testnet.Options) {
		o.Clock = func(i int) civibus.Clock {
			if i != 3 {
				return time.Now
			}
			return func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		}
	})
	provider, consumer := n.Bodies[0], n.Bodies[3]
	register(t, n, consumer.Subsystem("desk", "Front desk"))
	right := register(t, n, provider.Grant(civibus.AccessRight{Service: provider.Service("population", "persons"), Client: consumer.Client("desk"), Purpose: "residence-check", LegalBasis: "https://law.example/act/1 (fictitious)"}))[0]
	if _, err := callAs(t, consumer, "desk", provider); err != nil {
		t.Fatal(err)
	}
	register(t, n, testnet.Change{By: provider, Tx: &registrypb.Tx{Body: &registrypb.Tx_SetRightStatus{
		SetRightStatus: &registrypb.SetRightStatus{Id: right, Status: registrypb.Status_STATUS_ENDED}}}})
	restart := func() {
		t.Helper()
		if err := consumer.Start(t.Context(), 60*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(when, subsystem, as string) *client.Error {
		t.Helper()
		_, err := callAs(t, consumer, subsystem, provider)
		var e *client.Error
		if !errors.As(err, &e) || !strings.HasSuffix(e.Type, as) {
			t.Fatalf("%s, in the name of %s: %v, want %s", when, subsystem, err, as)
		}
		return e
	}

	// 1. Two validators leave. Exchanges go on, also after a restart.
	for _, b := range n.Bodies[1:3] {
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	var kept []string
	for _, when := range []string{"without a quorum", "after a restart"} {
		for range 3 {
			id, err := callAs(t, consumer, "portal", provider)
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			kept = append(kept, id)
		}
		refused(when, "desk", "AccessDenied")
		if when == "without a quorum" {
			if err := consumer.Stop(); err != nil {
				t.Fatal(err)
			}
			restart()
		}
	}

	// 2. The view's age is told, also after another restart, and ends at the limit.
	for _, c := range []struct {
		ahead time.Duration
		says  string
		gauge string // how the age in seconds begins
	}{{2 * time.Minute, "no block for 2m", "1"}, {71 * time.Hour, "no block for 71h", "25"}} {
		ahead.Store(int64(c.ahead))
		waitFor(t, "the missing blocks to be told", func() bool {
			s, err := consumer.Admin().Status(t.Context())
			told := s.Components["registry"]
			return err == nil && s.Ready && strings.Contains(told, c.says) && strings.Contains(told, "exchanges go on with this registry view until")
		})
		if status, text := readiness(t, consumer); status != 200 || !strings.Contains(text, c.says) {
			t.Errorf("readiness after %s: %d %s", c.ahead, status, text)
		}
		if _, text := monitoring(t, consumer, "/metrics"); !strings.Contains(text, "\ncivibus_registry_view_age_seconds "+c.gauge) || !strings.Contains(text, "\ncivibus_registry_view_max_age_seconds 259200\n") {
			t.Errorf("the metrics after %s do not say how old the view is and may be", c.ahead)
		}
		refused("after "+c.ahead.String(), "desk", "AccessDenied")
	}
	ahead.Store(int64(73 * time.Hour))
	told := refused("after 73 hours", "portal", "OutdatedGlobalConf").Message
	for _, want := range []string{"73h", "at most 72h", "ledger.max_staleness", "civibus status"} {
		if !strings.Contains(told, want) {
			t.Errorf("the refusal does not say %q: %s", want, told)
		}
	}
	if status, text := readiness(t, consumer); status != 503 || !strings.Contains(text, "every exchange is refused") {
		t.Errorf("readiness after 73 hours: %d %s", status, text)
	}

	// 3. The validators return, and the clock is right.
	if err := consumer.Stop(); err != nil {
		t.Fatal(err)
	}
	ahead.Store(0)
	if err := n.Start(t.Context(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	id, err := callAs(t, consumer, "portal", provider)
	if err != nil {
		t.Fatalf("with a quorum again: %v", err)
	}
	for _, id := range append(kept, id) {
		for _, b := range []*testnet.Body{consumer, provider} {
			if r := receiptOf(t, b, id); len(r.Summary.Sides) != 2 {
				t.Errorf("receipt at %s: %+v", b.ID, r.Summary)
			}
		}
	}
	refused("with a quorum again", "desk", "AccessDenied")
	waitFor(t, "nothing to be told any more", func() bool {
		s, err := consumer.Admin().Status(t.Context())
		return err == nil && s.Ready && s.Components["registry"] == ""
	})
}

// callAs calls the provider's service once in the name of a subsystem.
func callAs(t *testing.T, consumer *testnet.Body, subsystem string, provider *testnet.Body) (exchange string, err error) {
	t.Helper()
	c := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client(subsystem), HTTP: oneShot(t)}
	answer, err := c.Do(t.Context(), client.Call{Service: provider.Service("population", "persons"), Path: "/1", Purpose: "residence-check"})
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.Exchange, err
}

// readiness asks whether a body takes exchanges.
func readiness(t *testing.T, b *testnet.Body) (int, string) {
	t.Helper()
	return monitoring(t, b, "/readyz")
}

// monitoring fetches a page of a body's monitoring.
func monitoring(t *testing.T, b *testnet.Body, page string) (int, string) {
	t.Helper()
	resp, err := oneShot(t).Get(b.Node().MetricsURL() + page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
