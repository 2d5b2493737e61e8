//go:build linux

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/registry/registrypb"
)

// Load is exchanges from every body to every other and changes of the registry by
// every body, for as long as it runs. It keeps what was acknowledged.
type Load struct {
	network *Network
	stop    context.CancelFunc
	group   sync.WaitGroup

	mu        sync.Mutex
	stopped   bool
	exchanges []exchange
	changes   []string // ids of subsystems whose registration was acknowledged
	by        map[*Body]int
	failed    map[string]int
	lines     []*line
}

// exchange is one whose answer reached the client.
type exchange struct {
	id                 string
	consumer, provider *Body
}

// line is the exchanges from one body to another. Its gap is measured while both
// are healthy: from when they became so, or from the last answer, to the next.
type line struct {
	consumer, provider *Body
	sick               int // how many of the two are not healthy
	last               time.Time
	gap                time.Duration
}

func (l *line) measure(now time.Time) {
	if l.sick == 0 {
		l.gap = max(l.gap, now.Sub(l.last))
	}
	l.last = now
}

// Run begins the load: pause is the time between two exchanges of one pair, and
// between two changes of one body.
func (n *Network) Run(exchangePause, changePause time.Duration) *Load {
	ctx, stop := context.WithCancel(context.Background())
	l := &Load{network: n, stop: stop, failed: map[string]int{}, by: map[*Body]int{}}
	n.load = l
	for _, consumer := range n.Bodies {
		transport := &http.Transport{DialContext: consumer.Machine.DialContext, MaxIdleConnsPerHost: len(n.Bodies)}
		h := &http.Client{Transport: transport, Timeout: AnswerTimeout + 5*time.Second}
		for _, provider := range n.Bodies {
			if provider == consumer {
				continue
			}
			line := &line{consumer: consumer, provider: provider, last: time.Now()}
			l.lines = append(l.lines, line)
			l.group.Go(func() { l.call(ctx, line, h, exchangePause) })
		}
		l.group.Go(func() { l.register(ctx, consumer, changePause) })
	}
	return l
}

// Acknowledged is how many changes of a body were acknowledged so far.
func (n *Network) Acknowledged(b *Body) int {
	n.load.mu.Lock()
	defer n.load.mu.Unlock()
	return n.load.by[b]
}

// Stop ends the load and waits for what is under way.
func (l *Load) Stop() {
	l.mu.Lock()
	if !l.stopped {
		l.stopped = true
		for _, line := range l.lines {
			line.measure(time.Now())
		}
	}
	l.mu.Unlock()
	l.stop()
	l.group.Wait()
}

// call makes one exchange after the other.
func (l *Load) call(ctx context.Context, line *line, h *http.Client, pause time.Duration) {
	c := client.Client{Gateway: consumerURL, Client: line.consumer.client("portal"), HTTP: h}
	for k := 0; ctx.Err() == nil; k++ {
		id, err := one(context.Background(), &c, line.provider, fmt.Sprintf("/%d", k))
		l.mu.Lock()
		if err == nil {
			if !l.stopped {
				line.measure(time.Now())
			}
			l.exchanges = append(l.exchanges, exchange{id, line.consumer, line.provider})
		} else {
			l.failed["exchange: "+cut(err)]++
		}
		l.mu.Unlock()
		sleep(ctx, pause)
	}
}

// Call makes one exchange from a body to another, beside the load.
func (b *Body) Call(ctx context.Context, provider *Body, path string) (id string, err error) {
	h := &http.Client{Transport: &http.Transport{DialContext: b.Machine.DialContext, DisableKeepAlives: true}, Timeout: AnswerTimeout + 5*time.Second}
	return one(ctx, &client.Client{Gateway: consumerURL, Client: b.client("portal"), HTTP: h}, provider, path)
}

// one makes one exchange. It is acknowledged when the whole of the service's own
// answer is there.
func one(ctx context.Context, c *client.Client, provider *Body, path string) (id string, err error) {
	answer, err := c.Do(ctx, client.Call{Service: provider.service(), Path: path, Purpose: "test"})
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var got struct{ Machine, Path string }
	if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK || got.Machine != provider.Machine.Name || got.Path != path || answer.Exchange == "" {
		return "", fmt.Errorf("answer %d of %s for %s, exchange %q", answer.StatusCode, got.Machine, got.Path, answer.Exchange)
	}
	return answer.Exchange, nil
}

// register makes one change of the registry after the other.
func (l *Load) register(ctx context.Context, b *Body, pause time.Duration) {
	for k := 0; ctx.Err() == nil; k++ {
		id := b.client(fmt.Sprintf("load-%d", k)).String()
		submit, cancel := context.WithTimeout(context.Background(), 40*time.Second) // the node gives up before
		_, err := b.Admin().Change(submit, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: "Load"}}})
		cancel()
		l.mu.Lock()
		if err == nil {
			l.changes = append(l.changes, id)
			l.by[b]++
		} else {
			l.failed["change: "+cut(err)]++
		}
		l.mu.Unlock()
		sleep(ctx, pause)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// cut shortens an error to its kind, so that equal ones can be counted.
func cut(err error) string {
	var refused *client.Error
	var problem *admin.Problem
	switch {
	case errors.As(err, &refused):
		return refused.Type
	case errors.As(err, &problem):
		return problem.Code
	}
	s := err.Error()
	return s[strings.LastIndex(s, ": ")+1:]
}

// Sick says that bodies are not healthy from now on, by the test's doing; Healthy
// that they are again. Lines between healthy bodies must not stop.
func (n *Network) Sick(bodies ...*Body) { n.health(1, bodies) }

// Healthy says that bodies are healthy again.
func (n *Network) Healthy(bodies ...*Body) { n.health(-1, bodies) }

func (n *Network) health(change int, bodies []*Body) {
	l := n.load
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, line := range l.lines {
		for _, end := range []*Body{line.consumer, line.provider} {
			if slices.Contains(bodies, end) {
				line.measure(now)
				line.sick += change
			}
		}
	}
}
