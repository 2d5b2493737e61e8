package h1_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/civibus/civibus/internal/h1"
)

// BenchmarkExchange is a POST and its answer of 1 KiB each over kept
// connections, by this package and by net/http. The server reads and writes the
// same bytes always and allocates nothing.
func BenchmarkExchange(b *testing.B) {
	payload := []byte(pattern(1024))
	header := http.Header{"Content-Type": {"application/json"}, "X-Road-Client": {"DEMO/GOV/1000/sub"}, "X-Road-Id": {"a5e6d1f0"}, "Accept": {"application/json"}, "User-Agent": {"bench"}}
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 22 Nov 2026 08:00:00 GMT\r\nX-Road-Id: a5e6d1f0\r\nContent-Length: 1024\r\n\r\n"), payload...)
	address := rawServer(b, func(c net.Conn) {
		in := bufio.NewReaderSize(c, 16<<10)
		for {
			for line := payload; len(line) > 2; {
				var err error
				if line, err = in.ReadSlice('\n'); err != nil {
					return
				}
			}
			if _, err := in.Discard(len(payload)); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	buffers := func() []byte { return make([]byte, 2048) }
	b.Run("h1", func(b *testing.B) {
		p := newPool(b, address)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			buffer := buffers()
			for pb.Next() {
				resp, _, err := p.RoundTrip(b.Context(), &h1.Request{
					Method: "POST", Target: "/r1/x", Header: header, Body: io.NopCloser(bytes.NewReader(payload)), Length: 1024, InMemory: true,
				})
				if err != nil {
					b.Error(err)
					return
				}
				drain(resp, buffer)
			}
		})
	})
	b.Run("net-http", func(b *testing.B) {
		transport := &http.Transport{MaxConnsPerHost: 16, MaxIdleConnsPerHost: 16, DisableCompression: true}
		defer transport.CloseIdleConnections()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			buffer := buffers()
			for pb.Next() {
				req, err := http.NewRequestWithContext(b.Context(), "POST", "http://"+address+"/r1/x", bytes.NewReader(payload))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header = header
				resp, err := transport.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return
				}
				drain(resp, buffer)
			}
		})
	})
}

func drain(resp *http.Response, buffer []byte) {
	for {
		if _, err := resp.Body.Read(buffer); err != nil {
			break
		}
	}
	_ = resp.Body.Close()
}
