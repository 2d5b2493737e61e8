package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// startCivibus is what is measured: two bodies, each "civibus run" in its own
// process with its validator, both seals, both records durable before the
// answer leaves, Merkle logs and anchors running, all settings at their
// defaults but the addresses.
func startCivibus(ctx context.Context, b *bench) (*variant, error) {
	// 1. Keys, genesis and configurations, as a test network has them.
	upstream := "http://" + b.upstream
	network, err := testnet.Found(testnet.Options{
		Dir:      filepath.Join(b.dir, "civibus"),
		Instance: "BENCH",
		Bodies: []testnet.BodySpec{
			{Class: "GOV", Code: "1", Name: "Consumer (benchmark)"},
			{Class: "GOV", Code: "2", Name: "Provider (benchmark)", Services: []node.ServiceConfig{{ID: "bench/echo", URL: upstream}, {ID: "bench/persons", URL: upstream}}},
		},
		Configure: func(_ int, c *node.Config) {
			c.Ledger.BlockPause = 0
			c.Evidence.BatchAge, c.Evidence.CheckpointInterval, c.Evidence.AnchorInterval, c.Evidence.Reserve = 0, 0, 0, 0
			c.Metrics.Listen = "off"
			c.Log.Level = "warn"
		},
	})
	if err != nil {
		return nil, err
	}
	if err := network.Close(); err != nil { // the ports pass to the processes
		return nil, err
	}

	// 2. One process for each body.
	v := &variant{name: "civibus"}
	for _, body := range network.Bodies {
		p, err := start(ctx, b.log, b.civibus, "run", "--config", body.ConfigFile)
		if err != nil {
			v.stop()
			return nil, err
		}
		v.hops = append(v.hops, p)
	}
	consumer, provider := network.Bodies[0], network.Bodies[1]
	if err := waitReady(ctx, network); err != nil {
		v.stop()
		return nil, err
	}

	// 3. A subsystem on each side, the service and the right.
	service, persons := provider.Service("bench", "echo"), provider.Service("bench", "persons")
	client := consumer.Client("load")
	for _, change := range []testnet.Change{
		consumer.Subsystem("load", "Load"),
		provider.Subsystem("bench", "Bench"),
		provider.Publish(civibus.Service{ID: service, Type: civibus.REST, Title: "Echo"}),
		provider.Publish(civibus.Service{ID: persons, Type: civibus.REST, Title: "The same, about persons"}),
		provider.Grant(civibus.AccessRight{Service: service, Client: client, Purpose: "bench", LegalBasis: "none: benchmark"}),
		provider.Grant(civibus.AccessRight{Service: persons, Client: client, Purpose: "bench", LegalBasis: "none: benchmark", Disclosure: civibus.Shown, Sentence: "A benchmark looked you up to measure itself."}),
	} {
		if _, err := change.By.Admin().Change(ctx, change.Tx); err != nil {
			v.stop()
			return nil, err
		}
	}
	v.call = call{
		address: strings.TrimPrefix(consumer.ConsumerURL(), "http://"),
		target:  "/r1/" + service.String(),
		headers: []string{civibus.HeaderClient + ": " + client.String()},
		body:    payload("question"),
	}
	// 4. The consumer's view of the right may be a block behind.
	if err := waitAnswered(ctx, v.call); err != nil {
		v.stop()
		return nil, err
	}
	v.drain = func(ctx context.Context) error { return waitDelivered(ctx, network) }
	b.bus, b.persons = v, v.call
	b.persons.target, b.persons.persons = "/r1/"+persons.String(), manyPersons
	return v, nil
}

// manyPersons are whom the calls of the variant usage concern.
const manyPersons = 10_000

// startUsage is the same two processes under a right that concerns persons: each
// exchange finds one of many, makes a usage record that is durable with the evidence, and
// later goes into the index by person and into a period.
func startUsage(ctx context.Context, b *bench) (*variant, error) {
	if b.bus == nil {
		return nil, fmt.Errorf("it is measured in the processes of civibus, which must come before it in -only")
	}
	if err := waitAnswered(ctx, b.persons); err != nil {
		return nil, err
	}
	return &variant{name: "usage", call: b.persons, hops: b.bus.hops, shared: true, drain: b.bus.drain}, nil
}

// waitDelivered returns when both bodies have the other's half of the newest
// exchange: halves go in the order of the log, so all others are there too.
func waitDelivered(ctx context.Context, network *testnet.Network) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, body := range network.Bodies {
		for last := ""; ; {
			// The newest in the Merkle log; it is the newest of all when it is still
			// the same, and delivered, after more than the age of a batch.
			page, err := body.Admin().Exchanges(ctx, 1)
			if err == nil && len(page.Items) == 1 {
				id := page.Items[0].ExchangeID
				x, err := body.Admin().Exchange(ctx, id)
				if err == nil && x.Counterpart && id == last {
					break
				}
				last = id
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s has no half of the other body for its newest exchange: %v", body.ID, err)
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// waitAnswered returns when the call is answered with 200.
func waitAnswered(ctx context.Context, c call) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := drive(ctx, c, 1, time.Millisecond)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no exchange succeeds: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitReady returns when every body's administration socket says that it takes
// exchanges.
func waitReady(ctx context.Context, network *testnet.Network) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, body := range network.Bodies {
		for {
			status, err := body.Admin().Status(ctx)
			if err == nil && status.Ready {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not get ready: %v, %w", body.ID, status, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}
