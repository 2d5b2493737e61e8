package transport_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/civibus/civibus/transport"
)

// BenchmarkHop is one request and answer of 1 KiB each over a kept connection,
// both ends in this process.
func BenchmarkHop(b *testing.B) {
	n := newNetwork(b)
	consumer, provider := n.body(consumerID), n.body(providerID)
	payload := bytes.Repeat([]byte("x"), 1024)
	provider.serve(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(payload)
	})
	client := consumer.client()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			resp, _, err := client.Do(b.Context(), providerID, "", func(context.Context, transport.Peer) (*http.Request, error) {
				body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil }
				req := &http.Request{Method: "POST", URL: &url.URL{Path: "/r1/x"}, Header: http.Header{}, GetBody: body, ContentLength: 1024}
				req.Body, _ = body()
				return req, nil
			})
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}
