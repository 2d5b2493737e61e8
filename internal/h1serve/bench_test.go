package h1serve_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/h1serve"
)

// BenchmarkServer compares the server with net/http's: calls with heads like
// those between gateways and bodies of 1 KiB over 16 connections. cpu-us/op is
// the whole process's, with a client that costs the same in all of them.
func BenchmarkServer(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(r.Body, body); err != nil {
			b.Error(err)
		}
		_, _ = r.Body.Read(make([]byte, 1))
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		_ = ctx.Done()
		for name, values := range r.Header {
			if strings.HasPrefix(name, "X-") || strings.HasPrefix(name, "S") {
				w.Header()[name] = values
			}
		}
		w.Header()["Content-Type"] = r.Header["Content-Type"]
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(body)
	})
	type server interface {
		Serve(net.Listener) error
		Close() error
	}
	for _, secure := range []bool{false, true} {
		for name, s := range map[string]func() server{
			"net_http": func() server {
				return &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
			},
			"h1serve": func() server {
				return h1serve.New(h1serve.Options{Handler: handler, HeadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, StallTimeout: 30 * time.Second, MaxHeadBytes: 64 << 10})
			},
		} {
			b.Run(fmt.Sprintf("%s/tls=%v", name, secure), func(b *testing.B) { drive(b, s(), secure) })
		}
	}
}

func drive(b *testing.B, s interface {
	Serve(net.Listener) error
	Close() error
}, secure bool) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	dial := func() (net.Conn, error) { return net.Dial("tcp", address) }
	if secure {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			b.Fatal(err)
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		dial = func() (net.Conn, error) {
			return tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own server
		}
	}
	var group sync.WaitGroup
	group.Go(func() { _ = s.Serve(l) })
	defer group.Wait()
	defer s.Close()
	request := []byte("POST /r1/TEST/GOV/OFFICE/register/persons?x=y HTTP/1.1\r\nHost: gateway.invalid\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n" +
		"X-Road-Client: TEST/MUN/TOWN/desk\r\nX-Road-Id: TEST-0b1c5b4e-5c66-4f3e-9f6d-0a4d3a0b1c5b\r\nX-Road-Request-Id: 0b1c5b4e-5c66-4f3e-9f6d-0a4d3a0b1c5b\r\n" +
		"Content-Digest: sha-256=:" + strings.Repeat("A", 44) + ":\r\nSignature: civibus=:" + strings.Repeat("A", 88) + ":\r\n" +
		"Signature-Input: civibus=(" + strings.Repeat("\"x-road-client\" ", 10) + ");created=1700000000;nonce=\"abcdefgh\";keyid=\"" + strings.Repeat("a", 64) + "\"\r\n" +
		"Civibus-Height: 123456\r\nAccept: application/json\r\nUser-Agent: load\r\n\r\n" + strings.Repeat("b", 1024))
	const conns = 16
	var open [conns]net.Conn
	for i := range conns {
		if open[i], err = dial(); err != nil {
			b.Fatal(err)
		}
		defer open[i].Close()
	}
	b.ReportAllocs()
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ResetTimer()
	var clients sync.WaitGroup
	for i, c := range open {
		clients.Go(func() {
			in := bufio.NewReader(c)
			for n := i; n < b.N; n += conns {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				for {
					line, err := in.ReadSlice('\n')
					if err != nil {
						b.Error(err)
						return
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := in.Discard(1024); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	b.StopTimer()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := func(r syscall.Rusage) float64 { return float64(r.Utime.Nano()+r.Stime.Nano()) / 1000 }
	b.ReportMetric((cpu(after)-cpu(before))/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(after.Nvcsw-before.Nvcsw)/float64(b.N), "switches/op")
}
