// Command nats is the yardstick of bench/events: NATS JetStream with file storage in one
// process, publish with acknowledgement over loopback TCP, fetch with explicit
// acknowledgement. Nothing is signed, nothing is evidence, and by JetStream's default the
// disk is synced every two minutes.
//
// Usage: nats DIR EVENTS BYTES; it prints events a second, from the first publication to
// the last acknowledgement.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: nats DIR EVENTS BYTES")
	}
	events, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(os.Args[3])
	if err != nil {
		return err
	}
	// 1. The server, and a stream on its disk.
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: os.Args[1], NoSigs: true})
	if err != nil {
		return err
	}
	srv.Start()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(10 * time.Second) {
		return fmt.Errorf("the server does not start")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	connect := func() (jetstream.JetStream, error) {
		c, err := nats.Connect(srv.ClientURL())
		if err != nil {
			return nil, err
		}
		return jetstream.New(c, jetstream.WithPublishAsyncMaxPending(1024))
	}
	publisher, err := connect()
	if err != nil {
		return err
	}
	subscriber, err := connect()
	if err != nil {
		return err
	}
	stream, err := publisher.CreateStream(ctx, jetstream.StreamConfig{Name: "bench", Subjects: []string{"bench"}, Storage: jetstream.FileStorage})
	if err != nil {
		return err
	}
	if _, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "bench", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 4096}); err != nil {
		return err
	}
	consumer, err := subscriber.Consumer(ctx, "bench", "bench")
	if err != nil {
		return err
	}
	// 2. Publish and fetch at the same time.
	payload, began := bytes.Repeat([]byte("x"), size), time.Now()
	failed := make(chan error, 1)
	go func() {
		for range events {
			if _, err := publisher.PublishAsync("bench", payload); err != nil {
				failed <- err
				return
			}
		}
		<-publisher.PublishAsyncComplete()
		failed <- nil
	}()
	for taken := 0; taken < events; {
		batch, err := consumer.Fetch(1024, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			if err := m.Ack(); err != nil {
				return err
			}
			taken++
		}
		if err := batch.Error(); err != nil {
			return err
		}
	}
	took := time.Since(began)
	if err := <-failed; err != nil {
		return err
	}
	fmt.Printf("%.0f\n", float64(events)/took.Seconds())
	return nil
}
