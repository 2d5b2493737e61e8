package seal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/seal/httpsig"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

// pieces gives its parts one Read at a time, and err at the end.
type pieces struct {
	parts [][]byte
	err   error
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.parts) == 0 {
		return 0, p.err
	}
	n := copy(b, p.parts[0])
	if p.parts[0] = p.parts[0][n:]; len(p.parts[0]) == 0 {
		p.parts = p.parts[1:]
	}
	return n, nil
}

func (p *pieces) Close() error { return nil }

// TestBodyWithholdsItsEnd cuts and forges a streamed body at many places: the
// last piece must never come out.
func TestBodyWithholdsItsEnd(t *testing.T) {
	people := newCast(t)
	body := strings.Repeat("0123456789", 20_000)
	m, _ := people.streamed(t, people.ed, body, -1)
	for _, size := range []int{1000, 32 << 10, 40 << 10, len(body), len(body) - 1} {
		for _, way := range []string{"good", "cut", "forged", "no trailers"} {
			for _, writeTo := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s pieces of %d, WriteTo %v", way, size, writeTo), func(t *testing.T) {
					r := m.request()
					src := &pieces{err: io.EOF}
					data := []byte(body)
					switch way {
					case "cut":
						data, src.err = data[:len(data)-1], io.ErrUnexpectedEOF
					case "forged":
						data[0] ^= 1
					case "no trailers":
						r.Trailer = nil
					}
					for len(data) > 0 {
						n := min(size, len(data))
						src.parts, data = append(src.parts, data[:n]), data[n:]
					}
					r.Body = src
					got, err := verifier(people.ed).Request(r)
					if err != nil {
						t.Fatal(err)
					}
					if got.Complete() || !got.Seal().Head || got.Binding().Complete() {
						t.Error("it is complete before its body was read")
					}
					var out bytes.Buffer
					if writeTo {
						_, err = got.Body.WriteTo(&out)
					} else {
						_, err = io.Copy(struct{ io.Writer }{&out}, struct{ io.Reader }{got.Body})
					}
					if way == "good" {
						if err != nil || out.String() != body || !got.Complete() || !got.Binding().Complete() {
							t.Errorf("%v, %d bytes", err, out.Len())
						}
						return
					}
					code := civibus.FaultSeal
					if way == "cut" {
						code = civibus.FaultIO
					}
					wantFault(t, err, code, "")
					if held := len(body) - out.Len(); held < 1 || way != "cut" && held > 32<<10 {
						t.Errorf("%d bytes were withheld", held)
					}
					if got.Complete() || got.Binding().Complete() || got.Err() == nil {
						t.Error("it counts as complete")
					}
					if _, again := got.Body.Read(make([]byte, 1)); !errors.Is(again, err) {
						t.Errorf("a second read gives %v", again)
					}
				})
			}
		}
	}
}

// TestBodyEndWithEOF gives the last bytes together with io.EOF.
func TestBodyEndWithEOF(t *testing.T) {
	people := newCast(t)
	m, _ := people.streamed(t, people.ed, "0123456789", 10)
	r := m.request()
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("0123"), &lastRead{"456789"}))
	got, err := verifier(people.ed).Request(r)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(got.Body); err != nil || string(out) != "0123456789" || got.Length != 10 {
		t.Errorf("%q, %v, length %d", out, err, got.Length)
	}
}

type lastRead struct{ s string }

func (l *lastRead) Read(p []byte) (int, error) { return copy(p, l.s), io.EOF }

// TestLargeWholeBody has a body sealed in the head that is too large to buffer.
func TestLargeWholeBody(t *testing.T) {
	people := newCast(t)
	body := bytes.Repeat([]byte("x"), 100_000)
	m, _ := people.whole(t, people.ed, "POST", string(body), start)
	for _, forged := range []bool{false, true} {
		v := verifier(people.ed)
		v.MaxWhole = 1000
		c := m.clone()
		if forged {
			c.Body[99_999] = 'y'
		}
		got, err := v.Request(c.request())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.Body.Bytes(); ok || got.Seal() != nil || got.Length != 100_000 {
			t.Error("it was verified before its body was read")
		}
		out, err := io.ReadAll(got.Body)
		if forged {
			wantFault(t, err, civibus.FaultSeal, "is not the one that was sealed")
			if len(out) == len(body) {
				t.Error("the forged body came out whole")
			}
		} else if err != nil || !bytes.Equal(out, body) || !got.Complete() {
			t.Errorf("%v, %d bytes", err, len(out))
		}
	}
}

// TestSenderRefuses shows what a sender cannot seal.
func TestSenderRefuses(t *testing.T) {
	people := newCast(t)
	for length, body := range map[int64]string{5: "1234", 3: "1234"} {
		r := newRequest(t, "http://g.example", "PUT")
		r.ContentLength = length
		p, err := seal.SealRequestStream(t.Context(), people.ed, r, strings.NewReader(body), start)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(r.Body)
		wantFault(t, err, civibus.FaultIO, "")
		if p.Complete() || p.Binding().Complete() {
			t.Error("a body of the wrong length was sealed")
		}
	}
	broken := errors.New("disk gone")
	r := newRequest(t, "http://g.example", "PUT")
	if _, err := seal.SealRequestStream(t.Context(), people.ed, r, &pieces{parts: [][]byte{[]byte("x")}, err: broken}, start); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadAll(r.Body)
	wantFault(t, err, civibus.FaultIO, "could not be read")
	if !errors.Is(err, broken) {
		t.Error("the cause is lost")
	}

	for name, change := range map[string]func(h http.Header){
		"too many fields": func(h http.Header) {
			for i := range 200 {
				h.Set(fmt.Sprintf("X-%d", i), "1")
			}
		},
		"too long":      func(h http.Header) { h.Set("X-Long", strings.Repeat("a", 70<<10)) },
		"line break":    func(h http.Header) { h.Set("X-Break", "a\r\nb") },
		"not canonical": func(h http.Header) { h["x-lower"] = []string{"1"} },
		"bad name":      func(h http.Header) { h["X Y"] = []string{"1"} },
	} {
		r := newRequest(t, "http://g.example", "POST")
		change(r.Header)
		_, err := seal.SealRequest(t.Context(), people.ed, r, nil, start)
		if err == nil {
			t.Errorf("%s: it was sealed", name)
			continue
		}
		wantFault(t, err, civibus.FaultBadRequest, "cannot be sealed")
	}
	r = newRequest(t, "http://g.example", "POST")
	for i := range 60 {
		r.Header.Set(fmt.Sprintf("X-%s-%d", strings.Repeat("long", 15), i), "1")
	}
	_, err = seal.SealRequestStream(t.Context(), people.ed, r, strings.NewReader("x"), start)
	wantFault(t, err, civibus.FaultBadRequest, "too many bytes for a streamed body")

	_, pending := people.streamed(t, people.ed, "x", -1)
	_ = pending
	early := seal.Unverified(httptest.NewRequest("GET", "/", nil))
	_, err = seal.SealResponse(t.Context(), people.ed, http.Header{}, 200, early, nil, start)
	wantFault(t, err, civibus.FaultIO, "needs the whole sealed request")
	failing := &signer{people.ed.pub, func([]byte) ([]byte, error) { return nil, broken }}
	_, err = seal.SealRequest(t.Context(), failing, newRequest(t, "http://g.example", "GET"), nil, start)
	wantFault(t, err, civibus.FaultInternal, "could not be sealed")
	if strings.Contains(err.Error(), "disk") || !errors.Is(err, broken) {
		t.Error("internals are told to the caller, or lost")
	}
}

// generated is a body that is never in memory.
type generated struct{ left int64 }

func (g *generated) Read(p []byte) (int, error) {
	if g.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), g.left))
	for i := range p[:n] {
		p[i] = byte(g.left) + byte(i)
	}
	g.left -= int64(n)
	return n, nil
}

// TestStreamsBoundedMemory sends 256 MiB there and back through real servers.
func TestStreamsBoundedMemory(t *testing.T) {
	people := newCast(t)
	v := verifier(people.ed, people.ec)
	const size = 256 << 20
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, err := v.Request(r)
		if err != nil {
			t.Error(err)
			return
		}
		if n, err := io.Copy(io.Discard, in.Body); err != nil || n != size {
			t.Errorf("received %d: %v", n, err)
			return
		}
		out, err := seal.NewResponseStream(r.Context(), people.ec, w, 200, in.Binding(), size, start)
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{out}, &generated{size}, make([]byte, 64<<10))
		}
		if err == nil {
			err = out.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()

	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, atomic.Uint64{}
	r := newRequest(t, server.URL, "PUT")
	r.ContentLength = size
	p, err := seal.SealRequestStream(t.Context(), people.ed, r, &watched{&generated{size}, &peak}, start)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := v.Response(resp, p.Binding())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(struct{ io.Writer }{io.Discard}, &watched{got.Body, &peak}); err != nil || n != size {
		t.Fatalf("received %d: %v", n, err)
	}
	if !got.Complete() || got.Seal().Size != size || p.Seal().Size != size {
		t.Error("it is not completely sealed")
	}
	if grown := int64(peak.Load()) - int64(before); grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// watched notes the largest heap while it is read.
type watched struct {
	io.Reader
	peak *atomic.Uint64
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 && p[0] == 0 { // now and then
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.peak.Store(max(w.peak.Load(), m.HeapAlloc))
	}
	return n, err
}

// TestCutConnection ends the connection in the middle of a body: a service
// behind the receiver must see an incomplete message.
func TestCutConnection(t *testing.T) {
	people := newCast(t)
	v := verifier(people.ed, people.ec)
	result := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, err := v.Request(r)
		if err == nil {
			_, err = io.Copy(io.Discard, in.Body)
		}
		result <- err
	}))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	r := newRequest(t, server.URL, "PUT").WithContext(ctx)
	if _, err := seal.SealRequestStream(ctx, people.ed, r, &hanging{ctx: ctx, data: bytes.Repeat([]byte("x"), 1<<20), reached: cancel}, start); err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Do(r); err == nil {
		resp.Body.Close()
		t.Error("the cut request was answered")
	}
	select {
	case err := <-result:
		wantFault(t, err, civibus.FaultIO, "was cut")
	case <-time.After(10 * time.Second):
		t.Fatal("the receiver did not find out")
	}
}

// hanging gives its data and then waits for the end of ctx.
type hanging struct {
	ctx     context.Context
	data    []byte
	reached func()
}

func (h *hanging) Read(p []byte) (int, error) {
	if len(h.data) > 0 {
		n := copy(p, h.data)
		h.data = h.data[n:]
		return n, nil
	}
	h.reached()
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

// TestAbandonedAnswer ends a handler without Close: the consumer must not take
// what it got for the whole.
func TestAbandonedAnswer(t *testing.T) {
	people := newCast(t)
	v := verifier(people.ed, people.ec)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, err := v.Request(r)
		if err != nil {
			t.Error(err)
			return
		}
		out, err := seal.NewResponseStream(r.Context(), people.ec, w, 200, in.Binding(), -1, start)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := out.Write([]byte("half")); err != nil {
			t.Error(err)
		}
		out.Flush()
	}))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	r := newRequest(t, server.URL, "GET")
	sent, err := seal.SealRequest(t.Context(), people.ed, r, nil, start)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := v.Response(resp, sent.Binding())
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(got.Body)
	wantFault(t, err, civibus.FaultSeal, "in the trailers")
	if len(out) != 0 {
		t.Errorf("%q came out", out)
	}
}

// TestKeyDecides shows that the Key function alone decides whose seals count:
// its reason is kept for the log and not told to the sender.
func TestKeyDecides(t *testing.T) {
	people := newCast(t)
	reason := errors.New("key of DEMO/GOV/B is a transport key")
	v := verifier(people.ed)
	asked := civibus.KeyID{}
	v.Key = func(id civibus.KeyID) (civibus.PublicKey, error) {
		asked = id
		return civibus.PublicKey{}, reason
	}
	m, _ := people.whole(t, people.ed, "POST", "{}", start)
	_, err := v.Request(m.request())
	wantFault(t, err, civibus.FaultSeal, "is not a seal key in force")
	if !errors.Is(err, reason) || strings.Contains(err.Error(), "transport") || asked != people.ed.pub.ID {
		t.Errorf("%v, asked for %s", err, asked)
	}
	// A registry that answers with another key is a fault of ours.
	v.Key = func(civibus.KeyID) (civibus.PublicKey, error) { return people.stranger.pub, nil }
	_, err = v.Request(m.request())
	wantFault(t, err, civibus.FaultInternal, "")
}

// TestEarlyStreamedAnswer has a provider that lies: it answers 200 to a
// streamed request and seals the answer to the head alone, in good form.
func TestEarlyStreamedAnswer(t *testing.T) {
	people := newCast(t)
	request, _ := people.streamed(t, people.ed, "{}", -1)
	early := seal.Unverified(message{Method: request.Method, Target: request.Target, Fields: request.Fields}.request())
	w := &recorder{h: http.Header{}}
	out, err := seal.NewResponseStream(t.Context(), people.ec, w, 200, early, -1, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte("[]")); err != nil {
		t.Fatal(err)
	}
	wantFault(t, out.Close(), civibus.FaultIO, "needs the whole sealed request")
	// The honest sender refuses; this one signs by hand.
	inputs, err := httpsig.ParseInputs(w.head["Signature-Input"])
	if err != nil {
		t.Fatal(err)
	}
	digest, err := httpsig.NewComponent("content-digest", httpsig.TR())
	if err != nil {
		t.Fatal(err)
	}
	params := inputs[0].Params
	params.Tag = seal.Label
	in, err := httpsig.NewInput(seal.Label, slices.Insert(inputs[0].Components, 1, digest), params)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("[]"))
	trailer := http.Header{"Content-Digest": {httpsig.FormatDigest(httpsig.SHA256, sum[:])}}
	base, err := httpsig.AppendBase(nil, &httpsig.Message{Status: 200, Header: w.head, Trailer: trailer, Length: -1,
		Request: httpsig.FromRequest(request.request())}, in)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := people.ec.sign(base)
	if err != nil {
		t.Fatal(err)
	}
	trailer.Set("Signature-Input", in.Field())
	trailer.Set("Signature", httpsig.FormatSignature(seal.Label, sig))
	answer := message{Status: 200, Fields: fieldList(w.head), Body: []byte("[]"), Trailers: fieldList(trailer)}
	_, err = testCase{Request: request, Response: &answer}.run(verifier(people.ed, people.ec))
	wantFault(t, err, civibus.FaultIO, "needs the whole sealed request")
}
