// Command events measures asynchronous messages between two bodies: published over the
// consumer face in batches, durable in the outbox, fetched by sealed and evidenced
// exchanges, durable in the inbox, and fetched and acknowledged by the other body's
// system. Beside it, in the same run, NATS JetStream with file storage does the part of
// it that a broker does (bench/events/nats).
//
// A second figure is the same on a topic to which a third body subscribed that is dead,
// with a million events waiting for it. It takes turns with the same on a topic of the
// same service that nobody dead has subscribed to, which is its baseline; what was
// measured before there was a dead subscriber is printed beside them.
//
// A run is bounded: by -limit in time, and on the disk by the events themselves, which
// are twice there of what is measured and once of what waits; -dir says where.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	perBatch   = 512
	aloneTopic = "alone" // of those who live
	deadTopic  = "dead"  // to which the dead one subscribed too
)

func main() {
	var b bench
	flag.StringVar(&b.nats, "nats", "", "program that measures NATS JetStream (bench/events/nats)")
	flag.IntVar(&b.events, "events", 100_000, "events of one measurement")
	flag.IntVar(&b.size, "bytes", 400, "bytes of an event")
	flag.IntVar(&b.waiting, "waiting", 1_000_000, "events that wait for the dead subscriber; 0: there is none")
	flag.StringVar(&b.dir, "dir", "", "folder for a temporary one with everything (default: the system's)")
	rounds := flag.Int("rounds", 3, "measurements of each")
	limit := flag.Duration("limit", 15*time.Minute, "the run ends after it, finished or not")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := b.run(ctx, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench/events:", err)
		os.Exit(1)
	}
}

type bench struct {
	nats                  string
	events, size, waiting int
	dir                   string

	network   *testnet.Network
	service   civibus.ServiceID
	published atomic.Int64
	http      *http.Client
}

// reader is the system that takes a topic's events at the body that is measured.
type reader struct {
	topic, sub string
	after      uint64
}

func (b *bench) run(ctx context.Context, rounds int) error {
	began := time.Now()
	dir, err := os.MkdirTemp(b.dir, "bench-events-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.start(ctx, filepath.Join(dir, "net")); err != nil {
		return err
	}
	defer b.network.Close()
	alone, err := b.subscribe(ctx, b.network.Bodies[1], aloneTopic, events.FromFirst)
	if err != nil {
		return err
	}

	// 1. Both, in turns.
	var ours, theirs []float64
	for i := range rounds {
		rate, err := b.measure(ctx, alone)
		if err != nil {
			return err
		}
		ours = append(ours, rate)
		line := fmt.Sprintf("round %d: civibus %.0f events/s", i+1, rate)
		if b.nats != "" {
			rate, err := b.broker(ctx, filepath.Join(dir, "nats"+strconv.Itoa(i)))
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
	if b.waiting > 0 {
		if err := b.besideTheDead(ctx, alone, rounds, median(ours)); err != nil {
			return err
		}
	}
	fmt.Printf("the run took %.0f s and %.1f GB of disk\n", time.Since(began).Seconds(), float64(sizeOf(dir))/1e9)
	return nil
}

// broker measures NATS JetStream once.
func (b *bench) broker(ctx context.Context, dir string) (float64, error) {
	out, err := exec.CommandContext(ctx, b.nats, dir, strconv.Itoa(b.events), strconv.Itoa(b.size)).Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", b.nats, err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// besideTheDead has a third body subscribe and die, very much wait for it, and measures
// another subscriber of its topic in turns with one of the other topic.
func (b *bench) besideTheDead(ctx context.Context, alone *reader, rounds int, before float64) error {
	// 1. It subscribes, takes something, and is gone.
	dead := b.network.Bodies[2]
	last, err := b.subscribe(ctx, dead, deadTopic, events.FromFirst)
	if err != nil {
		return err
	}
	if err := b.publish(ctx, deadTopic, 1); err != nil {
		return err
	}
	if err := b.take(ctx, dead, last, 1); err != nil {
		return err
	}
	if err := dead.Stop(); err != nil {
		return err
	}
	// 2. What waits for it. The other begins behind it.
	began := time.Now()
	if err := b.publish(ctx, deadTopic, b.waiting); err != nil {
		return err
	}
	fmt.Printf("%d events published in %.0f s, of which the dead subscriber takes none\n", b.waiting, time.Since(began).Seconds())
	beside, err := b.subscribe(ctx, b.network.Bodies[1], deadTopic, strconv.Itoa(1+b.waiting))
	if err != nil {
		return err
	}
	for beside.after == 0 { // until the provider has been asked
		if beside.after, err = b.received(ctx, b.network.Bodies[1], beside); err != nil {
			return err
		}
	}
	// 3. In turns.
	var with, without []float64
	for i := range rounds {
		var one, other float64
		turns := []func() error{
			func() (err error) { one, err = b.measure(ctx, beside); return err },
			func() (err error) { other, err = b.measure(ctx, alone); return err },
		}
		if i%2 == 1 { // neither is always the first
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return err
			}
		}
		with, without = append(with, one), append(without, other)
		fmt.Printf("round %d: beside the dead subscriber %.0f events/s, on the other topic %.0f\n", i+1, one, other)
	}
	// 4. It is still dead, and still has a subscription.
	waits, err := b.waitsFor(ctx, deadTopic, dead.Client("load"))
	if err != nil {
		return err
	}
	fmt.Printf("with %d events waiting for a dead subscriber: %.0f events/s (median), without %.0f; ratio %.2f (bound 1, within noise); before there was one %.0f\n", waits, median(with), median(without), median(with)/median(without), before)
	return nil
}

// received is how far a subscription is at its body.
func (b *bench) received(ctx context.Context, body *testnet.Body, r *reader) (uint64, error) {
	_, out, err := b.call(ctx, body, body.Client("load"), "GET", "subscriptions/"+r.sub, "", nil)
	if err != nil {
		return 0, err
	}
	var s events.Subscription
	err = json.Unmarshal(out, &s)
	return s.Received, err
}

// waitsFor is how many events the provider says wait for a subscriber.
func (b *bench) waitsFor(ctx context.Context, topic string, client civibus.ClientID) (uint64, error) {
	publisher := b.network.Bodies[0]
	_, out, err := b.call(ctx, publisher, publisher.Client("bench"), "GET", "topics/"+b.service.String()+"/"+topic, "", nil)
	if err != nil {
		return 0, err
	}
	var t struct{ Subscribers []events.Subscriber }
	if err := json.Unmarshal(out, &t); err != nil {
		return 0, err
	}
	for _, s := range t.Subscribers {
		if s.Client == client.String() || s.Client == client.XRoad() {
			return s.Waiting, nil
		}
	}
	return 0, fmt.Errorf("%s has no subscription of %s: %s", client, topic, out)
}

// sizeOf is how many bytes the files of a folder have.
func sizeOf(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // a figure for the reader
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
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
	b.service = publisher.Service("bench", "stream")
	var changes []testnet.Change
	changes = append(changes, publisher.Subsystem("bench", "Bench"))
	for _, s := range b.network.Bodies[1:3] {
		changes = append(changes, s.Subsystem("load", "Load"))
	}
	if _, err := b.network.Register(ctx, changes...); err != nil {
		return err
	}
	if _, err := b.network.Register(ctx, publisher.Publish(civibus.Service{ID: b.service, Type: civibus.REST, Title: "Stream"})); err != nil {
		return err
	}
	changes = nil
	for _, topic := range []string{aloneTopic, deadTopic} {
		changes = append(changes, testnet.Change{By: publisher, Tx: &registrypb.Tx{Body: &registrypb.Tx_SetTopic{SetTopic: &registrypb.SetTopic{
			Topic: b.service.String() + "/" + topic, Title: "Events", Status: registrypb.Status_STATUS_ACTIVE,
		}}}})
	}
	for _, s := range b.network.Bodies[1:3] {
		changes = append(changes, publisher.Grant(civibus.AccessRight{Service: b.service, Client: s.Client("load"), Purpose: "bench", LegalBasis: "none: benchmark"}))
	}
	_, err = b.network.Register(ctx, changes...)
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

func (b *bench) subscribe(ctx context.Context, body *testnet.Body, topic, from string) (*reader, error) {
	wish, err := json.Marshal(events.Wish{Topic: b.service.String() + "/" + topic, From: from})
	if err != nil {
		return nil, err
	}
	_, out, err := b.call(ctx, body, body.Client("load"), "POST", "subscriptions", "application/json", wish)
	if err != nil {
		return nil, err
	}
	var s events.Subscription
	err = json.Unmarshal(out, &s)
	return &reader{topic: topic, sub: s.ID}, err
}

// measure returns events a second, from the first publication to the acknowledgement of
// the last event by the subscriber's system.
func (b *bench) measure(ctx context.Context, r *reader) (float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	group.Go(func() error { return b.publish(ctx, r.topic, b.events) })
	group.Go(func() error { return b.take(ctx, b.network.Bodies[1], r, b.events) })
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(b.events) / time.Since(began).Seconds(), nil
}

// publish publishes n events on a topic, in batches, two at a time.
func (b *bench) publish(ctx context.Context, topic string, n int) error {
	publisher := b.network.Bodies[0]
	group, ctx := errgroup.WithContext(ctx)
	left := atomic.Int64{}
	left.Store(int64(n))
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
				if _, _, err := b.call(ctx, publisher, publisher.Client("bench"), "POST", "topics/"+b.service.String()+"/"+topic+"/events", events.BatchType, body.Bytes()); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// take fetches and acknowledges n events.
func (b *bench) take(ctx context.Context, body *testnet.Body, r *reader, n int) error {
	for target := r.after + uint64(n); r.after < target; {
		h, _, err := b.call(ctx, body, body.Client("load"), "GET", fmt.Sprintf("subscriptions/%s/events?wait=10&limit=1024&after=%d", r.sub, r.after), "", nil)
		if err != nil {
			return err
		}
		if r.after, err = strconv.ParseUint(h.Get("Events-Cursor"), 10, 64); err != nil {
			return err
		}
		if _, _, err := b.call(ctx, body, body.Client("load"), "POST", "subscriptions/"+r.sub+"/ack", "application/json", fmt.Appendf(nil, `{"upto":%d}`, r.after)); err != nil {
			return err
		}
	}
	return nil
}
