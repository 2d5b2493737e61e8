package gateway_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/test/fixture"
)

// lines is a log in memory.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns what was logged.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestLogHoldsNoPersons holds that the log, at its most talkative, has nothing
// of what callers put into paths, queries, headers, bodies, and into identifiers
// that are none.
func TestLogHoldsNoPersons(t *testing.T) {
	const person = "38001010001"
	var log lines
	quiet := fixture.Options{Gateway: func(g *gateway.Config) {
		g.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 8}))
	}}
	p := newPair(t, quiet, quiet)
	for _, c := range []struct{ path, client string }{
		{persons + "/" + person + "?id=" + person, client},
		{"/r1/TEST/GOV/OFFICE/register/" + person + "?id=" + person, client},
		{"/r1/TEST/GOV/OFFICE/" + person + "/persons", client},
		{"/r1/TEST/GOV/" + person + "/register/persons", client},
		{"/r1/" + person, client},
		{"/" + person, client},
		{persons, "TEST/MUN/TOWN/" + person},
		{persons, person},
		{persons + "/../" + person, client},
	} {
		p.town.Call("POST", c.path, strings.NewReader(person), "X-Road-Client", c.client, "X-Road-UserId", "EE"+person, "X-Road-Id", person)
	}
	text := log.String()
	if strings.Contains(text, person) {
		t.Errorf("the log holds a person:\n%s", text)
	}
	if !strings.Contains(text, "service=TEST/GOV/OFFICE/register/persons") || !strings.Contains(text, `service="(not registered)"`) {
		t.Errorf("the log does not say which service was meant:\n%s", text)
	}
}
