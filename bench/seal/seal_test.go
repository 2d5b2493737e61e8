//go:build unix

package seal_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/seal"
)

type signer struct {
	pub civibus.PublicKey
	ed  ed25519.PrivateKey
	ec  *ecdsa.PrivateKey
	pq  *mldsa.PrivateKey
}

func (s *signer) Key() civibus.PublicKey { return s.pub }

func (s *signer) Sign(_ context.Context, m []byte) ([]byte, error) {
	if s.ed != nil {
		return ed25519.Sign(s.ed, m), nil
	}
	if s.pq != nil {
		return s.pq.Sign(m)
	}
	sum := sha256.Sum256(m)
	r, t, err := ecdsa.Sign(rand.Reader, s.ec, sum[:])
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	t.FillBytes(out[32:])
	return out, nil
}

func newSigner(b *testing.B, alg civibus.Algorithm) *signer {
	b.Helper()
	s := &signer{}
	var err error
	if alg == civibus.Ed25519 {
		var pub ed25519.PublicKey
		if pub, s.ed, err = ed25519.GenerateKey(rand.Reader); err == nil {
			s.pub, err = civibus.NewPublicKey(pub)
		}
	} else if s.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		s.pub, err = civibus.NewPublicKey(&s.ec.PublicKey)
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// newSecond makes an ML-DSA key for second signatures.
func newSecond(b testing.TB, alg civibus.Algorithm) *signer {
	b.Helper()
	k, err := mldsa.Generate(alg)
	if err != nil {
		b.Fatal(err)
	}
	pub, err := civibus.NewPublicKey(k.Public())
	if err != nil {
		b.Fatal(err)
	}
	return &signer{pub: pub, pq: k}
}

// cpu reports the processor time of this process per operation, which other
// work on the machine hardly changes.
func cpu(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

// nothing is a replay guard that lets the same request be verified again.
type nothing struct{}

func (nothing) Use(civibus.KeyID, [16]byte, time.Time, time.Time) error { return nil }

var start = time.Unix(1795338000, 0)

func verifier(s *signer) *seal.Verifier {
	return &seal.Verifier{
		Now:    func() time.Time { return start },
		Replay: nothing{},
		Key:    func(civibus.KeyID) (civibus.PublicKey, error) { return s.pub, nil },
	}
}

// request has the fields of a usual X-Road REST call.
func request(b testing.TB, url string) *http.Request {
	b.Helper()
	r, err := http.NewRequest("POST", url+"/r1/DEMO/GOV/1234/REGISTER/population/persons/search?limit=10", nil)
	if err != nil {
		b.Fatal(err)
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "bench/1",
		civibus.HeaderClient: "DEMO/GOV/5678/CASES", civibus.HeaderID: "29f4011c-e1b9-4d71-8d8a-1a5c8d0b0a7e",
		civibus.HeaderRequestID: "5c1e2c0a-8a30-4ce1-a5a9-0a9f4ddfb0b5", civibus.HeaderUserID: "EE12345",
		civibus.HeaderPurpose: "benefits", civibus.HeaderHeight: "123456",
	} {
		r.Header.Set(k, v)
	}
	return r
}

var body = bytes.Repeat([]byte("0123456789abcdef"), 64) // 1 KiB

func BenchmarkWhole(b *testing.B) {
	for _, alg := range []civibus.Algorithm{civibus.Ed25519, civibus.ECDSAP256SHA256, "ed25519+ml-dsa-44", "ed25519+ml-dsa-65"} {
		first, second, both := strings.Cut(string(alg), "+")
		one := newSigner(b, civibus.Algorithm(first))
		v := verifier(one)
		var s civibus.Signer = one
		if both {
			two := newSecond(b, civibus.Algorithm(second))
			s = seal.WithSecond(one, two)
			v.Key = func(id civibus.KeyID) (civibus.PublicKey, error) {
				if id == two.pub.ID {
					return two.pub, nil
				}
				return one.pub, nil
			}
		}
		r := request(b, "http://gateway.example")
		sent, err := seal.SealRequest(b.Context(), s, r, body, start)
		if err != nil {
			b.Fatal(err)
		}
		incoming := func() *http.Request {
			in := httptest.NewRequest(r.Method, r.URL.RequestURI(), bytes.NewReader(body))
			in.Header = r.Header
			return in
		}
		verified, err := v.Request(incoming())
		if err != nil {
			b.Fatal(err)
		}
		head := http.Header{"Content-Type": {"application/json"}, "Date": {"Sun, 22 Nov 2026 09:00:00 GMT"},
			civibus.HeaderRequestID: {"5c1e2c0a-8a30-4ce1-a5a9-0a9f4ddfb0b5"}, civibus.HeaderRequestHash: {"x"}}
		if _, err := seal.SealResponse(b.Context(), s, head, 200, verified.Binding(), body, start); err != nil {
			b.Fatal(err)
		}
		b.Run(string(alg)+"/SealRequest", func(b *testing.B) {
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if _, err := seal.SealRequest(b.Context(), s, r, body, start); err != nil {
					b.Fatal(err)
				}
			}
		})
		if sent, err = seal.SealRequest(b.Context(), s, r, body, start); err != nil {
			b.Fatal(err)
		}
		b.Run(string(alg)+"/VerifyRequest", func(b *testing.B) {
			b.ReportAllocs()
			defer cpu(b)()
			in := incoming()
			for b.Loop() {
				in.Body = io.NopCloser(bytes.NewReader(body))
				if _, err := v.Request(in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(alg)+"/SealResponse", func(b *testing.B) {
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				if _, err := seal.SealResponse(b.Context(), s, head, 200, sent.Binding(), body, start); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(alg)+"/VerifyResponse", func(b *testing.B) {
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				resp := &http.Response{StatusCode: 200, Header: head, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
				if _, err := v.Response(resp, sent.Binding()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBareSignature is what no seal can do without: crypto/ed25519 over
// 800 bytes.
func BenchmarkBareSignature(b *testing.B) {
	s := newSigner(b, civibus.Ed25519)
	message := make([]byte, 800)
	sig, err := s.Sign(b.Context(), message)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			_, _ = s.Sign(b.Context(), message)
		}
	})
	b.Run("verify", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			s.pub.Verify(message, sig)
		}
	})
}

// BenchmarkReplay records nonces in a journal on disk.
func BenchmarkReplay(b *testing.B) {
	now := start
	j, err := seal.OpenReplayJournal(seal.ReplayConfig{Dir: b.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	var n [16]byte
	i := uint64(0)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		i++
		for k := range 8 {
			n[k] = byte(i >> (8 * k))
		}
		now = start.Add(time.Duration(i) * 100 * time.Microsecond) // 10,000 a second
		if err := j.Use(civibus.KeyID{}, n, now, now); err != nil {
			b.Fatal(err)
		}
	}
}

const streamed = 64 << 20

type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), e.left)
	e.left -= n
	return int(n), nil
}

// BenchmarkStream sends 64 MiB over a loopback connection without TLS: the
// sender's and the receiver's digest and all copying are in the figure.
func BenchmarkStream(b *testing.B) {
	s := newSigner(b, civibus.Ed25519)
	v := verifier(s)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("plain") {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		in, err := v.Request(r)
		if err != nil {
			b.Error(err)
			return
		}
		if _, err := io.Copy(io.Discard, in.Body); err != nil {
			b.Error(err)
		}
	}))
	defer server.Close()
	for _, sealed := range []bool{true, false} {
		name := "sealed"
		if !sealed {
			name = "plain"
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(streamed)
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				r := request(b, server.URL)
				if sealed {
					if _, err := seal.SealRequestStream(b.Context(), s, r, &endless{streamed}, start); err != nil {
						b.Fatal(err)
					}
				} else {
					r.URL.RawQuery = "plain"
					r.Body, r.ContentLength = io.NopCloser(&endless{streamed}), -1
				}
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
