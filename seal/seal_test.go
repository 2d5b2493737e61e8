package seal_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
)

// signer signs with a key in memory.
type signer struct {
	pub  civibus.PublicKey
	sign func(message []byte) ([]byte, error)
}

func (s *signer) Key() civibus.PublicKey { return s.pub }

func (s *signer) Sign(_ context.Context, message []byte) ([]byte, error) { return s.sign(message) }

func edSigner(t testing.TB) *signer {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return edSignerOf(t, pub, key)
}

func edSignerOf(t testing.TB, pub ed25519.PublicKey, key ed25519.PrivateKey) *signer {
	t.Helper()
	k, err := civibus.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{k, func(m []byte) ([]byte, error) { return ed25519.Sign(key, m), nil }}
}

func ecSigner(t testing.TB) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := civibus.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{k, func(m []byte) ([]byte, error) {
		sum := sha256.Sum256(m)
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			return nil, err
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out, nil
	}}
}

// start is the time at which tests run.
var start = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func clock() time.Time { return start }

var errUnknownKey = errors.New("not in the registry")

// verifier knows the keys of the signers given.
func verifier(signers ...*signer) *seal.Verifier {
	return &seal.Verifier{
		Now:    clock,
		Replay: seal.NewReplayMemory(0, 0),
		Key: func(id civibus.KeyID) (civibus.PublicKey, error) {
			for _, s := range signers {
				if s.pub.ID == id {
					return s.pub, nil
				}
			}
			return civibus.PublicKey{}, errUnknownKey
		},
	}
}

const target = "/r1/DEMO/GOV/A/SYS/svc/persons/1?name=a%20b&x="

func newRequest(t testing.TB, url, method string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(civibus.HeaderClient, "DEMO/GOV/B/SYS")
	r.Header.Set(civibus.HeaderID, "0b4c7b1e-1")
	r.Header.Add("Accept", "application/json")
	r.Header.Add("Accept", "text/plain;q=0.5")
	r.Header.Set("Authorization", "Bearer secret")
	r.Header.Set("Connection", "close, X-Hop")
	r.Header.Set("X-Hop", "1")
	return r
}

// wire is what the other side of the connection would receive of r.
func wire(t testing.TB, r *http.Request, body []byte) *http.Request {
	t.Helper()
	in := httptest.NewRequest(r.Method, r.URL.RequestURI(), bytes.NewReader(body))
	in.Header = r.Header.Clone()
	in.Header.Set("User-Agent", "Go-http-client/1.1")
	return in
}

func wantFault(t testing.TB, err error, code civibus.FaultCode, words string) {
	t.Helper()
	var f *civibus.Fault
	if !errors.As(err, &f) {
		t.Fatalf("error %v, want a fault %s", err, code)
	}
	if f.Code != code || !strings.Contains(f.Message, words) {
		t.Fatalf("fault %v, want %s with %q", f, code, words)
	}
}

func TestWholeExchange(t *testing.T) {
	for name, s := range map[string]*signer{"ed25519": edSigner(t), "ecdsa-p256": ecSigner(t)} {
		for _, body := range []string{"", `{"id":1}`} {
			t.Run(fmt.Sprintf("%s body %d", name, len(body)), func(t *testing.T) {
				v := verifier(s)
				r := newRequest(t, "http://gateway.example", "POST")
				sent, err := seal.SealRequest(t.Context(), s, r, []byte(body), start)
				if err != nil {
					t.Fatal(err)
				}
				got, err := v.Request(wire(t, r, []byte(body)))
				if err != nil {
					t.Fatal(err)
				}
				content, err := io.ReadAll(got.Body)
				if err != nil || string(content) != body {
					t.Fatalf("body %q, %v", content, err)
				}
				if !got.Complete() || !bytes.Equal(got.Seal().Base, sent.Base) || got.Seal().Digest != sent.Digest || got.Seal().Size != int64(len(body)) {
					t.Error("the two sides do not hold the same seal")
				}
				if got.Header.Get("User-Agent") != "" || got.Header.Get("X-Hop") != "" {
					t.Errorf("fields that were not sealed came through: %v", got.Header)
				}
				if got.Header.Get("Authorization") != "Bearer secret" || got.Header.Get(civibus.HeaderClient) != "DEMO/GOV/B/SYS" || len(got.Header["Accept"]) != 2 {
					t.Errorf("fields are missing: %v", got.Header)
				}
				if bytes.Contains(sent.Base, []byte("secret")) {
					t.Error("a secret field is in the signature base")
				}

				h := http.Header{"Content-Type": {"application/json"}, "Set-Cookie": {"a=b"}}
				made, err := seal.SealResponse(t.Context(), s, h, 200, got.Binding(), []byte("[]"), start)
				if err != nil {
					t.Fatal(err)
				}
				resp := &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(strings.NewReader("[]")), ContentLength: 2}
				answer, err := v.Response(resp, sent.Binding())
				if err != nil {
					t.Fatal(err)
				}
				if !answer.Complete() || !bytes.Equal(answer.Seal().Base, made.Base) || answer.Header.Get("Set-Cookie") != "a=b" {
					t.Error("the answer's seal is not the same on both sides")
				}
			})
		}
	}
}

// TestRealServers streams and answers over real connections.
func TestRealServers(t *testing.T) {
	consumer, provider := edSigner(t), ecSigner(t)
	v := verifier(consumer, provider)
	var last *seal.Seal // the provider's seal of its last answer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, err := v.Request(r)
		if err != nil {
			t.Error(err)
			return
		}
		content, err := io.ReadAll(in.Body)
		if err != nil {
			t.Error(err)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Got", fmt.Sprint(len(content)))
		if r.URL.Path == "/stream" {
			length := int64(-1)
			if r.URL.RawQuery == "known" {
				length = int64(len(content))
			}
			s, err := seal.NewResponseStream(r.Context(), provider, w, 201, in.Binding(), length, start)
			if err == nil {
				_, err = io.Copy(s, bytes.NewReader(content))
			}
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				t.Error(err)
				return
			}
			last = s.Seal()
			return
		}
		status, body := 200, content
		switch r.URL.Path {
		case "/204":
			status, body = 204, nil
		case "/304":
			status, body = 304, nil
		}
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "4711")
			body = nil
		}
		if last, err = seal.SealResponse(r.Context(), provider, w.Header(), status, in.Binding(), body, start); err != nil {
			t.Error(err)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()

	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	for _, c := range []struct {
		name, method, path string
		body               []byte
		stream, known      bool
		status             int
		length             int64
	}{
		{"whole", "POST", "/whole", big, false, false, 200, int64(len(big))},
		{"empty", "GET", "/whole", nil, false, false, 200, 0},
		{"HEAD", "HEAD", "/whole", nil, false, false, 200, 4711},
		{"no content", "DELETE", "/204", nil, false, false, 204, -1},
		{"not modified", "GET", "/304", nil, false, false, 304, -1},
		{"streamed request", "PUT", "/whole", big, true, false, 200, int64(len(big))},
		{"streamed request of known length", "PUT", "/whole", big, true, true, 200, int64(len(big))},
		{"streamed answer", "POST", "/stream", big, false, false, 201, -1},
		{"streamed answer of known length", "POST", "/stream?known", big, false, false, 201, int64(len(big))},
		{"both streamed", "POST", "/stream", big, true, false, 201, -1},
		{"both streamed, empty", "POST", "/stream", nil, true, false, 201, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest(c.method, server.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			var binding *seal.RequestSeal
			var sent func() *seal.Seal
			if c.stream {
				if c.known {
					r.ContentLength = int64(len(c.body))
				}
				p, err := seal.SealRequestStream(t.Context(), consumer, r, bytes.NewReader(c.body), start)
				if err != nil {
					t.Fatal(err)
				}
				binding, sent = p.Binding(), p.Seal
			} else {
				s, err := seal.SealRequest(t.Context(), consumer, r, c.body, start)
				if err != nil {
					t.Fatal(err)
				}
				binding, sent = s.Binding(), func() *seal.Seal { return s }
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answer, err := v.Response(resp, binding)
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			if c.status == 200 && c.method != "HEAD" || c.status == 201 {
				if !bytes.Equal(content, c.body) {
					t.Errorf("the body came back with %d bytes of %d", len(content), len(c.body))
				}
			}
			if resp.StatusCode != c.status || answer.Length != c.length || answer.Header.Get("X-Got") != fmt.Sprint(len(c.body)) {
				t.Errorf("status %d length %d header %v", resp.StatusCode, answer.Length, answer.Header)
			}
			if !answer.Complete() || answer.Seal().Digest != sha256.Sum256(content) || answer.Seal().Head {
				t.Error("the answer is not completely sealed")
			}
			if s := sent(); s.Head || s.Digest != sha256.Sum256(c.body) || s.Size != int64(len(c.body)) {
				t.Error("the request is not completely sealed")
			}
			if !bytes.Equal(last.Base, answer.Seal().Base) || !bytes.Equal(last.Signature, answer.Seal().Signature) {
				t.Error("the two sides do not hold the same seal of the answer")
			}
		})
	}
}
