package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/civibus/civibus"
)

// call is what every connection sends again and again.
type call struct {
	address string   // host:port
	target  string   // request target
	headers []string // "Name: value"
	body    []byte
	persons int // whom the calls concern, in turns; 0: nobody
}

// sample is what one closed-loop run of a target measured.
type sample struct {
	Concurrency int
	PerSecond   float64
	P50, P99    time.Duration
	CPUMicros   float64 // per exchange, of the hops' processes, under load
	LaterMicros float64 // the same, for what they did afterwards
	Errors      int
}

// drive sends call over n keep-alive connections, each waiting for its answer
// before it sends again, for the given time.
func drive(ctx context.Context, c call, n int, lasting time.Duration) (sample, error) {
	requests := c.requests()
	var (
		mu        sync.Mutex
		latencies []time.Duration
		firstErr  error
		failures  int
		wg        sync.WaitGroup
	)
	started := time.Now()
	end := started.Add(lasting)
	for i := range n {
		wg.Go(func() {
			mine, failed, err := connection(ctx, c.address, requests, i, end)
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, mine...)
			failures += failed
			if err != nil && firstErr == nil {
				firstErr = err
			}
		})
	}
	wg.Wait()
	took := time.Since(started)
	if len(latencies) == 0 {
		return sample{}, fmt.Errorf("no answer from %s: %w", c.address, firstErr)
	}
	slices.Sort(latencies)
	return sample{
		Concurrency: n,
		PerSecond:   float64(len(latencies)) / took.Seconds(),
		P50:         latencies[len(latencies)/2],
		P99:         latencies[len(latencies)*99/100],
		Errors:      failures,
	}, firstErr
}

// requests are what is sent in turns: one, or one for each person.
func (c call) requests() [][]byte {
	if c.persons == 0 {
		return [][]byte{c.bytes()}
	}
	var out [][]byte
	for i := range c.persons {
		one := c
		one.headers = append(slices.Clone(c.headers), fmt.Sprintf("%s: FIC-%07d", civibus.HeaderSubject, i))
		out = append(out, one.bytes())
	}
	return out
}

func (c call) bytes() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", c.target, c.address, len(c.body))
	for _, h := range c.headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n")
	return append([]byte(b.String()), c.body...)
}

// connection is one keep-alive connection's closed loop.
func connection(ctx context.Context, address string, requests [][]byte, first int, end time.Time) (latencies []time.Duration, failed int, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, 1, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := bufio.NewReaderSize(conn, 16<<10)
	for i := first * 97; time.Now().Before(end); i++ {
		sent := time.Now()
		if _, err := conn.Write(requests[i%len(requests)]); err != nil {
			return latencies, failed + 1, err
		}
		status, err := readAnswer(in)
		if err != nil {
			return latencies, failed + 1, err
		}
		if status != 200 {
			return latencies, failed + 1, fmt.Errorf("%s answered %d", address, status)
		}
		latencies = append(latencies, time.Since(sent))
	}
	return latencies, failed, nil
}

// readAnswer reads one HTTP/1.1 response and throws its body away.
func readAnswer(in *bufio.Reader) (status int, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("status line %q", line)
	}
	status, err = strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, fmt.Errorf("status line %q", line)
	}
	length, chunked := -1, false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := strings.Cut(string(line), ":")
		switch {
		case strings.EqualFold(name, "Content-Length"):
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return 0, err
			}
		case strings.EqualFold(name, "Transfer-Encoding"):
			chunked = true
		}
	}
	if chunked {
		return status, discardChunks(in)
	}
	_, err = in.Discard(max(length, 0))
	return status, err
}

func discardChunks(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, in, size+2); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
	}
}
