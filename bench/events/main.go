// Command events measures asynchronous messages between two bodies: published over the
// consumer face in batches, durable in the outbox, fetched by sealed and evidenced
// exchanges, durable in the inbox, and fetched and acknowledged by the other body's
// system. Beside it, in the same run, NATS JetStream with file storage does the part of
// it that a broker does (bench/events/nats). A second figure is the same with a third
// body that subscribed and is dead, while very many events wait for it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry/registrypb"
)

const perBatch = 512

func main() {
	var b bench
	flag.StringVar(&b.nats, "nats", "", "program that measures NATS JetStream (bench/events/nats)")
	flag.IntVar(&b.events, "events", 40_000, "events of one measurement")
	flag.IntVar(&b.size, "bytes", 400, "bytes of an event")
	flag.IntVar(&b.waiting, "waiting", 1_000_000, "events that wait for the dead subscriber")
	rounds := flag.Int("rounds", 3, "measurements of each")
	flag.Parse()
	if err := b.run(context.Background(), *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench/events:", err)
		os.Exit(1)
	}
}

type bench struct {
	nats                  string
	events, size, waiting int

	network   *testnet.Network
	topic     string
	published atomic.Int64
	sub       string // of the body that is measured
	after     uint64
	http      *http.Client
}

func (b *bench) run(ctx context.Context, rounds int) error {
	dir, err := os.MkdirTemp("", "bench-events-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.start(ctx, filepath.Join(dir, "net")); err != nil {
		return err
	}
	defer b.network.Close()

	// 1. Both, in turns.
	var ours, theirs []float64
	for i := range rounds {
		rate, err := b.measure(ctx)
		if err != nil {
			return err
		}
		ours = append(ours, rate)
		line := fmt.Sprintf("round %d: civibus %.0f events/s", i+1, rate)
		if b.nats != "" {
			out, err := exec.CommandContext(ctx, b.nats, filepath.Join(dir, "nats"+strconv.Itoa(i)), strconv.Itoa(b.events), strconv.Itoa(b.size)).Output()
			if err != nil {
				return fmt.Errorf("%s: %w", b.nats, err)
			}
			rate, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
			if err != nil {
				return err
			}
			theirs = append(theirs, rate)
			line += fmt.Sprintf(", NATS JetStream %.0f", rate)
		}
		fmt.Println(line)
	}
	fmt.Printf("civibus: %.0f events/s (median)\n", median(ours))
	if len(theirs) > 0 {
		fmt.Printf("NATS JetStream, file storage: %.0f events/s (median); ratio %.2f (bound 0.15)\n", median(theirs), median(ours)/median(theirs))
	}
	if b.waiting == 0 {
		return nil
	}

	// 2. A third body subscribes and dies, and very much waits for it.
	dead := b.network.Bodies[2]
	if _, err := b.subscribe(ctx, dead); err != nil {
		return err
	}
	if err := dead.Stop(); err != nil {
		return err
	}
	full := b.events
	b.events = b.waiting
	if _, err := b.measure(ctx); err != nil {
		return err
	}
	b.events = full
	var beside []float64
	for range rounds {
		rate, err := b.measure(ctx)
		if err != nil {
			return err
		}
		beside = append(beside, rate)
	}
	fmt.Printf("with %d events waiting for a dead subscriber: %.0f events/s (median); ratio %.2f (bound 1, within noise)\n", b.waiting, median(beside), median(beside)/median(ours))
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// start founds the bodies and subscribes.
func (b *bench) start(ctx context.Context, dir string) (err error) {
	b.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	b.network, err = testnet.New(ctx, testnet.Options{Dir: dir, Instance: "BENCH", Bodies: []testnet.BodySpec{
		{Class: "GOV", Code: "1", Name: "Publisher (benchmark)"}, {Class: "GOV", Code: "2", Name: "Subscriber (benchmark)"}, {Class: "GOV", Code: "3", Name: "Dead (benchmark)"},
		{Class: "GOV", Code: "4", Name: "Fourth (benchmark)"}, // so that the ledger goes on
	}})
	if err != nil {
		return err
	}
	publisher := b.network.Bodies[0]
	service := publisher.Service("bench", "stream")
	b.topic = service.String() + "/events"
	var changes []testnet.Change
	changes = append(changes, publisher.Subsystem("bench", "Bench"))
	for _, s := range b.network.Bodies[1:3] {
		changes = append(changes, s.Subsystem("load", "Load"))
	}
	if _, err := b.network.Register(ctx, changes...); err != nil {
		return err
	}
	if _, err := b.network.Register(ctx, publisher.Publish(civibus.Service{ID: service, Type: civibus.REST, Title: "Stream"})); err != nil {
		return err
	}
	changes = []testnet.Change{{By: publisher, Tx: &registrypb.Tx{Body: &registrypb.Tx_SetTopic{SetTopic: &registrypb.SetTopic{Topic: b.topic, Title: "Events", Status: registrypb.Status_STATUS_ACTIVE}}}}}
	for _, s := range b.network.Bodies[1:3] {
		changes = append(changes, publisher.Grant(civibus.AccessRight{Service: service, Client: s.Client("load"), Purpose: "bench", LegalBasis: "none: benchmark"}))
	}
	if _, err := b.network.Register(ctx, changes...); err != nil {
		return err
	}
	b.sub, err = b.subscribe(ctx, b.network.Bodies[1])
	return err
}

// call speaks to a body's consumer face.
func (b *bench) call(ctx context.Context, body *testnet.Body, client civibus.ClientID, method, path, contentType string, in []byte) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, body.ConsumerURL()+events.Prefix+path, bytes.NewReader(in))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("X-Road-Client", client.String())
	req.Header.Set("Content-Type", contentType)
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, out)
	}
	return resp.Header, out, err
}

func (b *bench) subscribe(ctx context.Context, body *testnet.Body) (string, error) {
	wish, err := json.Marshal(events.Wish{Topic: b.topic, From: events.FromFirst})
	if err != nil {
		return "", err
	}
	_, out, err := b.call(ctx, body, body.Client("load"), "POST", "subscriptions", "application/json", wish)
	if err != nil {
		return "", err
	}
	var s events.Subscription
	err = json.Unmarshal(out, &s)
	return s.ID, err
}

// measure returns events a second, from the first publication to the acknowledgement of
// the last event by the subscriber's system.
func (b *bench) measure(ctx context.Context) (float64, error) {
	publisher, subscriber := b.network.Bodies[0], b.network.Bodies[1]
	group, ctx := errgroup.WithContext(ctx)
	began, left := time.Now(), atomic.Int64{}
	left.Store(int64(b.events))
	data := strings.Repeat("x", max(b.size-130, 1))
	for range 2 {
		group.Go(func() error {
			for {
				n := int(min(perBatch, left.Add(-perBatch)+perBatch))
				if n <= 0 {
					return nil
				}
				var body bytes.Buffer
				for i := range n {
					id := b.published.Add(1)
					sep := byte(',')
					if i == 0 {
						sep = '['
					}
					body.WriteByte(sep)
					fmt.Fprintf(&body, `{"specversion":"1.0","id":"%d","source":"/bench","type":"bench.event","datacontenttype":"text/plain","data":"%s"}`, id, data)
				}
				body.WriteByte(']')
				if _, _, err := b.call(ctx, publisher, publisher.Client("bench"), "POST", "topics/"+b.topic+"/events", events.BatchType, body.Bytes()); err != nil {
					return err
				}
			}
		})
	}
	group.Go(func() error {
		target := b.after + uint64(b.events)
		for b.after < target {
			h, _, err := b.call(ctx, subscriber, subscriber.Client("load"), "GET", fmt.Sprintf("subscriptions/%s/events?wait=10&limit=1024&after=%d", b.sub, b.after), "", nil)
			if err != nil {
				return err
			}
			if b.after, err = strconv.ParseUint(h.Get("Events-Cursor"), 10, 64); err != nil {
				return err
			}
			if _, _, err := b.call(ctx, subscriber, subscriber.Client("load"), "POST", "subscriptions/"+b.sub+"/ack", "application/json", fmt.Appendf(nil, `{"upto":%d}`, b.after)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(b.events) / time.Since(began).Seconds(), nil
}
