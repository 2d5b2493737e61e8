package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/test/fixture"
	"github.com/civibus/civibus/transport"
)

// TestAlteredRequest holds that whatever of a request is altered on the hop,
// the service is not called, the refusal is the provider's and sealed (or, where
// the consumer cannot accept its seal, the consumer's), and both keep a record.
func TestAlteredRequest(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	replaceBody := func(s string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(s)), int64(len(s)), nil
		}
	}
	for name, alter := range map[string]func(*http.Request){
		"method":          func(r *http.Request) { r.Method = "PUT" },
		"query":           func(r *http.Request) { r.URL.RawQuery = "a=2" },
		"query added to":  func(r *http.Request) { r.URL.RawQuery += "&b" },
		"path":            func(r *http.Request) { r.URL.Path, r.URL.RawPath = r.URL.Path+"x", "" },
		"header":          func(r *http.Request) { r.Header.Set("X-Custom", "other") },
		"header gone":     func(r *http.Request) { r.Header.Del("X-Custom") },
		"header doubled":  func(r *http.Request) { r.Header.Add("X-Custom", "again") },
		"client":          func(r *http.Request) { r.Header.Set("X-Road-Client", "TEST/MUN/TOWN/other") },
		"request id":      func(r *http.Request) { r.Header.Set("X-Road-Request-Id", "0") },
		"body":            replaceBody("altered!"),
		"body longer":     replaceBody("the body and more"),
		"body cut":        replaceBody("the"),
		"body and digest": func(r *http.Request) { replaceBody("altered!")(r); r.Header.Set("Content-Digest", "sha-256=:AAAA:") },
		"signature":       func(r *http.Request) { r.Header.Set("Signature", "civibus=:"+strings.Repeat("A", 86)+"==:") },
		"signature gone":  func(r *http.Request) { r.Header.Del("Signature"); r.Header.Del("Signature-Input") },
		"signature input": func(r *http.Request) {
			v := r.Header.Get("Signature-Input")
			r.Header.Set("Signature-Input", strings.Replace(v, `"x-custom" `, "", 1))
		},
		"created": func(r *http.Request) {
			v := r.Header.Get("Signature-Input")
			r.Header.Set("Signature-Input", strings.Replace(v, "created=1", "created=2", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p.T = t
			p.hop.request = alter
			defer func() { p.hop.request = nil }()
			before := p.calls.Load()
			a := p.call("POST", "/x?a=1", strings.NewReader("the body"), "X-Custom", "value")
			if a.StatusCode != 500 || a.Header.Get("X-Road-Error") == "" {
				t.Fatalf("%d %s", a.StatusCode, a.Body)
			}
			if p.begun.Load() != before {
				t.Error("the service was called")
			}
			p.town.World.T = t
			if r := p.town.Record(a.Header.Get("X-Road-Request-Id")); r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED || r.Fault == "" || r.Request == nil {
				t.Errorf("the consumer's record: %v", r)
			}
			if name == "request id" {
				return // the provider's record has a name of its own
			}
			if r := p.office.Record(a.Header.Get("X-Road-Request-Id")); r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED || r.Fault == "" || len(r.PeerKeyId) != 32 {
				t.Errorf("the provider's record: %v", r)
			}
		})
	}
	// An added field is not sealed and does not reach the service; nothing else changes.
	p.T, p.town.World.T = t, t
	p.hop.request = func(r *http.Request) { r.Header.Set("X-Added", "by the attacker") }
	if a := p.call("POST", "/x", strings.NewReader("the body")); a.StatusCode != 200 || string(a.Body) != "the body" {
		t.Errorf("with an added field: %d %s", a.StatusCode, a.Body)
	}
}

// TestAlteredStream is the same for a body that is sealed in trailers: the
// service sees the head but never the end.
func TestAlteredStream(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	for name, alter := range map[string]func(io.Reader) io.Reader{
		"first byte": func(r io.Reader) io.Reader { return &flip{r: r, at: 0} },
		"last byte":  func(r io.Reader) io.Reader { return &flip{r: r, at: 3<<20 - 1} },
		"cut":        func(r io.Reader) io.Reader { return io.LimitReader(r, 2<<20) },
		"longer":     func(r io.Reader) io.Reader { return io.MultiReader(r, strings.NewReader("more")) },
	} {
		t.Run(name, func(t *testing.T) {
			p.T, p.town.World.T = t, t
			p.hop.request = func(r *http.Request) {
				body := r.Body
				r.Body = struct {
					io.Reader
					io.Closer
				}{alter(body), body}
			}
			before := p.calls.Load()
			a := p.call("POST", "/x", bytes.NewReader(content))
			if a.StatusCode != 500 || a.Header.Get("X-Road-Error") == "" || p.calls.Load() != before {
				t.Errorf("%d %s; the service saw %d bodies to their end", a.StatusCode, a.Body, p.calls.Load()-before)
			}
		})
	}
	p.T, p.town.World.T, p.hop.request = t, t, nil
	if a := p.call("POST", "/x", bytes.NewReader(content)); a.StatusCode != 200 || !bytes.Equal(a.Body, content) {
		t.Errorf("unaltered: %d", a.StatusCode)
	}
}

// flip changes one byte.
type flip struct {
	r  io.Reader
	at int64
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

// TestAlteredAnswer holds the same for answers: nothing altered is delivered
// as whole, and the record says that it failed.
func TestAlteredAnswer(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	for name, alter := range map[string]func(*http.Response){
		"status":       func(r *http.Response) { r.StatusCode = 201 },
		"header":       func(r *http.Response) { r.Header.Set("Content-Type", "text/evil") },
		"id":           func(r *http.Response) { r.Header.Set("X-Road-Id", "other") },
		"request hash": func(r *http.Response) { r.Header.Set("X-Road-Request-Hash", "AAAA") },
		"body": func(r *http.Response) {
			r.Body = io.NopCloser(strings.NewReader("altered!"))
		},
		"cut":            func(r *http.Response) { r.Body = io.NopCloser(strings.NewReader("the")) },
		"signature gone": func(r *http.Response) { r.Header.Del("Signature-Input") },
		"made a refusal": func(r *http.Response) { r.Header.Set("Civibus-Fault", "access_denied") },
	} {
		t.Run(name, func(t *testing.T) {
			p.T, p.town.World.T = t, t
			p.hop.response = alter
			a := p.call("POST", "/x", strings.NewReader("the body"))
			if name == "made a refusal" { // not sealed, so it does not count
				if a.StatusCode != 200 {
					t.Errorf("%d %s", a.StatusCode, a.Body)
				}
				return
			}
			if a.StatusCode != 500 || !strings.HasPrefix(a.Header.Get("X-Road-Error"), "Server.ClientProxy.") {
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
			if r := p.town.Record(a.Header.Get("X-Road-Request-Id")); r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED || r.RightId != "" {
				t.Errorf("the consumer's record: %v", r)
			}
		})
	}
}

// TestAlteredAnswerStream holds that a long answer that was altered never
// comes to its end.
func TestAlteredAnswerStream(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	for name, alter := range map[string]func(io.Reader) io.Reader{
		"first byte": func(r io.Reader) io.Reader { return &flip{r: r, at: 0} },
		"last byte":  func(r io.Reader) io.Reader { return &flip{r: r, at: 3<<20 - 1} },
		"cut":        func(r io.Reader) io.Reader { return io.LimitReader(r, 2<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			p.T, p.town.World.T = t, t
			p.hop.response = func(r *http.Response) {
				body := r.Body
				r.Body = struct {
					io.Reader
					io.Closer
				}{alter(body), body}
			}
			a, err := p.town.TryCall("POST", persons, bytes.NewReader(content), "X-Road-Client", client)
			if err == nil {
				t.Fatalf("the answer came to its end: %d, %d bytes: %.300s", a.StatusCode, len(a.Body), a.Body)
			}
			if len(a.Body) == len(content) {
				t.Error("the whole altered body came")
			}
			id := a.Header.Get("X-Road-Request-Id")
			fixture.Eventually(t, "the failure is recorded", func() bool { return len(p.town.Records(id)) == 1 })
			if r := p.town.Record(id); r.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED || r.ResponseBody != nil {
				t.Errorf("the consumer's record: %v", r)
			}
		})
	}
}

func TestReplayedRequest(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	var kept *http.Request
	p.hop.request = func(r *http.Request) {
		kept = r.Clone(context.Background())
		kept.Body = io.NopCloser(strings.NewReader("the body"))
	}
	first := p.call("POST", "/x", strings.NewReader("the body"))
	if first.StatusCode != 200 || p.calls.Load() != 1 {
		t.Fatalf("%d %s", first.StatusCode, first.Body)
	}
	for range 2 {
		kept.Body = io.NopCloser(strings.NewReader("the body"))
		resp, _, err := p.town.Transport.Do(context.Background(), p.office.ID, "", made(kept))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.Header.Get("Civibus-Fault") != "replayed_request" || p.calls.Load() != 1 {
			t.Errorf("replayed: %d %v; %d calls", resp.StatusCode, resp.Header, p.calls.Load())
		}
	}
}

func TestAnswerOfAnotherRequest(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	var kept *http.Response
	var peer transport.Peer
	p.hop.response = func(r *http.Response) {
		body, _ := io.ReadAll(r.Body)
		copied := *r
		copied.Header = maps.Clone(r.Header)
		copied.Body = io.NopCloser(bytes.NewReader(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		kept = &copied
	}
	if a := p.call("POST", "/x", strings.NewReader("the body"), "X-Road-Id", "same"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	peer = transport.Peer{Member: p.office.ID, Key: p.office.TLS.Key().ID}
	p.hop.instead = func(context.Context, *http.Request) (*http.Response, transport.Peer, error) { return kept, peer, nil }
	a := p.call("POST", "/x", strings.NewReader("the body"), "X-Road-Id", "same")
	wantError(t, a, "Server.ClientProxy.InvalidSignatureValue", "seal does not verify")
}

// TestInconsistentAnswer is a provider that seals the right binding and lies in
// X-Road's own fields.
func TestInconsistentAnswer(t *testing.T) {
	p := newPair(t, fixture.Options{}, fixture.Options{})
	good := func(r *http.Request) http.Header {
		return http.Header{
			"X-Road-Id": r.Header["X-Road-Id"], "X-Road-Client": r.Header["X-Road-Client"], "X-Road-Request-Id": r.Header["X-Road-Request-Id"],
			"X-Road-Service": {"TEST/GOV/OFFICE/register/persons"}, "X-Road-Request-Hash": {"AAAA"},
		}
	}
	for _, c := range []struct {
		name string
		lie  func(http.Header)
	}{
		{"X-Road-Request-Hash", func(http.Header) {}},
		{"X-Road-Id", func(h http.Header) { h["X-Road-Id"] = []string{"other"} }},
		{"X-Road-Client", func(h http.Header) { delete(h, "X-Road-Client") }},
		{"X-Road-Service", func(h http.Header) { h["X-Road-Service"] = []string{"TEST/GOV/OFFICE/register/other"} }},
		{"X-Road-Request-Id", func(h http.Header) { h["X-Road-Request-Id"] = []string{"a", "b"} }},
	} {
		p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
			h := good(r)
			c.lie(h)
			return p.answer(ctx, r, h)
		}
		wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.InconsistentResponse", c.name)
	}
}

// answer makes a sealed answer as the office.
func (p *pair) answer(ctx context.Context, r *http.Request, h http.Header) (*http.Response, transport.Peer, error) {
	received := &http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Header: r.Header}
	if _, err := seal.SealResponse(ctx, p.office.Seal, h, 200, seal.Unverified(received), nil, time.Now()); err != nil {
		return nil, transport.Peer{}, err
	}
	return &http.Response{StatusCode: 200, Header: h, Body: http.NoBody}, transport.Peer{Member: p.office.ID, Key: p.office.TLS.Key().ID}, nil
}

// TestLyingIdentity holds that a body can neither answer nor ask for another.
func TestLyingIdentity(t *testing.T) {
	t.Run("provider seals with another body's key", func(t *testing.T) {
		p := newPair(t, fixture.Options{}, fixture.Options{})
		p.office.Seal = p.town.Seal
		wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.InvalidSignatureValue", "is not a key of TEST/GOV/OFFICE")
	})
	t.Run("provider seals with a key nobody knows", func(t *testing.T) {
		p := newPair(t, fixture.Options{}, fixture.Options{})
		key := p.office.RotateSeal()
		p.Registry.Change(func(v *fixture.View) {
			k, _ := v.Key(key.Key().ID)
			k.Purpose = civibus.TransportKey // registered, but not for seals
			v.SetKey(k)
		})
		p.office.Seal = key
		wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.InvalidSignatureValue", "not a seal key")
	})
	t.Run("another body listens at the provider's address", func(t *testing.T) {
		p := newPair(t, fixture.Options{}, fixture.Options{})
		thief := p.AddBody("COM", "THIEF", fixture.Options{})
		p.Registry.Change(func(v *fixture.View) {
			m, _ := v.Member(p.office.ID)
			m.Gateways = []civibus.Gateway{{Code: "gw1", Address: thief.Address}}
			v.SetMember(m)
		})
		wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.SslAuthenticationFailed", "")
	})
	t.Run("consumer sends for another body's client", func(t *testing.T) {
		p := newPair(t, fixture.Options{}, fixture.Options{})
		thief := p.AddBody("COM", "THIEF", fixture.Options{})
		// The thief carries the town's own sealed request: right seal, wrong peer.
		p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
			return thief.Transport.Do(ctx, p.office.ID, "", made(r))
		}
		wantError(t, p.call("GET", "/x", nil), "Server.ServerProxy.SslAuthenticationFailed", "may not speak for TEST/MUN/TOWN")
		// The thief seals as itself in the town's name.
		p.hop.instead = func(ctx context.Context, r *http.Request) (*http.Response, transport.Peer, error) {
			forged := r.Clone(ctx)
			if _, err := seal.SealRequest(ctx, thief.Seal, forged, nil, time.Now()); err != nil {
				return nil, transport.Peer{}, err
			}
			resp, peer, err := thief.Transport.Do(ctx, p.office.ID, "", made(forged))
			if err == nil && resp.Header.Get("Civibus-Fault") != "invalid_seal" {
				t.Errorf("forged request: %d %v", resp.StatusCode, resp.Header)
			}
			return resp, peer, err
		}
		if a := p.call("GET", "/x", nil); a.StatusCode != 500 || p.begun.Load() != 0 {
			t.Errorf("%d %s", a.StatusCode, a.Body)
		}
	})
}

func TestClockSkew(t *testing.T) {
	for _, offset := range []time.Duration{-10 * time.Minute, 2 * time.Minute} {
		p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) {
			c.Clock = func() time.Time { return time.Now().Add(offset) }
		}}, fixture.Options{})
		a := p.call("GET", "/x", nil)
		// The refusal itself is dated by the right clock, which the wrong one refuses.
		if got := a.Header.Get("X-Road-Error"); got != "Server.ClientProxy.ClockSkew" && got != "Server.ServerProxy.ClockSkew" || p.begun.Load() != 0 {
			t.Errorf("offset %v: %d %s", offset, a.StatusCode, a.Body)
		}
	}
	p := newPair(t, fixture.Options{Gateway: func(c *gateway.Config) {
		c.Clock = func() time.Time { return time.Now().Add(50 * time.Second) }
	}}, fixture.Options{})
	if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
		t.Errorf("within the tolerance: %d %s", a.StatusCode, a.Body)
	}
}

func TestRevokedAndFutureKeys(t *testing.T) {
	set := func(p *pair, id civibus.KeyID, change func(*civibus.RegisteredKey, uint64)) {
		p.Registry.Change(func(v *fixture.View) {
			k, _ := v.Key(id)
			change(&k, v.Height())
			v.SetKey(k)
		})
	}
	revoke := func(k *civibus.RegisteredKey, h uint64) { k.Revoke, k.Reason = h, "compromised" }
	future := func(k *civibus.RegisteredKey, h uint64) { k.Activate = h + 10 }
	p := newPair(t, fixture.Options{}, fixture.Options{})
	old := p.town.Seal
	set(p, old.Key().ID, future)
	wantError(t, p.call("GET", "/x", nil), "Server.ServerProxy.InvalidSignatureValue", "not a seal key in force")
	set(p, old.Key().ID, func(k *civibus.RegisteredKey, h uint64) { k.Activate = h })
	if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	set(p, old.Key().ID, revoke)
	wantError(t, p.call("GET", "/x", nil), "Server.ServerProxy.InvalidSignatureValue", "not a seal key in force")
	p.town.RotateSeal()
	if a := p.call("GET", "/x", nil); a.StatusCode != 200 {
		t.Fatalf("after rotation: %d %s", a.StatusCode, a.Body)
	}
	set(p, p.office.Seal.Key().ID, revoke)
	wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.InvalidSignatureValue", "not a seal key in force")
	p.office.RotateSeal()
	set(p, p.office.TLS.Key().ID, revoke)
	wantError(t, p.call("GET", "/x", nil), "Server.ClientProxy.SslAuthenticationFailed", "")
}
