package httpsigjs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/seal/httpsig"
)

// message is an HTTP message as check.mjs takes it.
type message struct {
	Method string      `json:"method,omitempty"`
	Target string      `json:"target,omitempty"`
	Status int         `json:"status,omitempty"`
	Fields [][2]string `json:"fields"`
	Body   []byte      `json:"body"`
}

type testCase struct {
	Name     string   `json:"name"`
	Failure  string   `json:"failure,omitempty"`
	Code     string   `json:"code,omitempty"`
	Request  message  `json:"request"`
	Response *message `json:"response,omitempty"`
}

type job struct {
	PKCS8      []byte   `json:"pkcs8"`
	KeyID      string   `json:"keyid"`
	Alg        string   `json:"alg"`
	Created    int64    `json:"created"`
	Nonce      string   `json:"nonce,omitempty"`
	Components []string `json:"components"`
	Message    message  `json:"message"`
	Request    *message `json:"request,omitempty"`
}

type signer struct {
	pub civibus.PublicKey
	key crypto.Signer
}

func (s *signer) Key() civibus.PublicKey { return s.pub }

func (s *signer) Sign(_ context.Context, m []byte) ([]byte, error) {
	return httpsig.Sign(httpsig.Algorithm(s.pub.Algorithm), s.key, m)
}

func newSigners(t *testing.T) []*signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var out []*signer
	for _, k := range []crypto.Signer{ed, ec} {
		pub, err := civibus.NewPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &signer{pub, k})
	}
	return out
}

var start = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func verifier(signers []*signer) *seal.Verifier {
	return &seal.Verifier{
		Now:    func() time.Time { return start },
		Replay: seal.NewReplayMemory(0, 0),
		Key: func(id civibus.KeyID) (civibus.PublicKey, error) {
			for _, s := range signers {
				if s.pub.ID == id {
					return s.pub, nil
				}
			}
			return civibus.PublicKey{}, os.ErrNotExist
		},
	}
}

// node runs check.mjs; the test is skipped when its packages are not there.
func node(t *testing.T, args ...string) []byte {
	t.Helper()
	if _, err := os.Stat("node_modules/http-message-sig"); err != nil {
		t.Skip("the npm packages are not installed: run `npm ci --ignore-scripts` in test/httpsig-js")
	}
	program, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	cmd := exec.Command(program, append([]string{"check.mjs"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("check.mjs: %v\n%s%s", err, out, stderr.Bytes())
	}
	return out
}

func writeJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "in.json")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func fieldList(h http.Header) [][2]string {
	var out [][2]string
	for n, lines := range h {
		for _, l := range lines {
			out = append(out, [2]string{n, l})
		}
	}
	return out
}

func header(fields [][2]string) http.Header {
	h := http.Header{}
	for _, f := range fields {
		h.Add(f[0], f[1])
	}
	return h
}

const (
	target = "/r1/DEMO/GOV/A/SYS/svc/persons?name=J%C3%BCri&x=1"
	body   = `{"id":1}`
)

func (m message) request() *http.Request {
	u, _ := url.ParseRequestURI(m.Target)
	return &http.Request{Method: m.Method, URL: u, RequestURI: m.Target, Header: header(m.Fields), Host: "gateway.example",
		Body: io.NopCloser(bytes.NewReader(m.Body)), ContentLength: int64(len(m.Body))}
}

func TestVectorsInJavaScript(t *testing.T) { t.Logf("%s", node(t)) }

// TestFreshMessages lets the libraries read what was sealed a moment ago.
func TestFreshMessages(t *testing.T) {
	signers := newSigners(t)
	keys := map[string]string{}
	var cases []testCase
	add := func(c testCase, alter func(c *testCase)) {
		cases = append(cases, c)
		alter(&c)
		c.Failure, c.Code = "altered_field", "invalid_seal"
		cases = append(cases, c)
	}
	for _, s := range signers {
		keys[s.pub.ID.String()] = base64.StdEncoding.EncodeToString(s.pub.SPKI)
		r, err := http.NewRequest("POST", "https://gateway.example"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"a/b", "c/d;q=1"}, "X-Road-Client": {"DEMO/GOV/B/SYS"}}
		sent, err := seal.SealRequest(t.Context(), s, r, []byte(body), start)
		if err != nil {
			t.Fatal(err)
		}
		request := message{Method: "POST", Target: target, Fields: fieldList(r.Header), Body: []byte(body)}
		add(testCase{Name: "request", Request: request}, func(c *testCase) { c.Request.Method = "PUT" })
		h := http.Header{"Content-Type": {"application/json"}}
		if _, err := seal.SealResponse(t.Context(), s, h, 200, sent.Binding(), []byte("[]"), start); err != nil {
			t.Fatal(err)
		}
		response := message{Status: 200, Fields: fieldList(h), Body: []byte("[]")}
		add(testCase{Name: "response", Request: request, Response: &response}, func(c *testCase) { c.Request.Target += "1" })
		add(testCase{Name: "response", Request: request, Response: &response}, func(c *testCase) {
			other := response
			other.Status = 201
			c.Response = &other
		})
	}
	t.Logf("%s", node(t, writeJSON(t, map[string]any{"now": start.Unix(), "keys": keys, "cases": cases})))
}

// TestSignedInJavaScript lets the libraries sign and Civibus verify.
func TestSignedInJavaScript(t *testing.T) {
	signers := newSigners(t)
	v := verifier(signers)
	var jobs []job
	sum := sha256.Sum256([]byte(body))
	digest := httpsig.FormatDigest(httpsig.SHA256, sum[:])
	for i, s := range signers {
		pkcs8, err := x509.MarshalPKCS8PrivateKey(s.key)
		if err != nil {
			t.Fatal(err)
		}
		j := job{PKCS8: pkcs8, KeyID: s.pub.ID.String(), Alg: string(s.pub.Algorithm), Created: start.Unix()}
		r := j
		r.Nonce = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(i + 1)}, 16))
		r.Components = []string{"@method", "@path", "@query", "content-digest", "content-type", "x-road-client"}
		r.Message = message{Method: "POST", Target: target, Body: []byte(body),
			Fields: [][2]string{{"Content-Type", "application/json"}, {"X-Road-Client", "DEMO/GOV/B/SYS"}, {"Content-Digest", digest}}}
		jobs = append(jobs, r)
	}
	type result struct {
		Library string   `json:"library"`
		Message message  `json:"message"`
		Request *message `json:"request"`
	}
	run := func(jobs []job) []result {
		var out []result
		if err := json.Unmarshal(node(t, "--sign", writeJSON(t, jobs)), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	requests := run(jobs)
	if len(requests) != 4 {
		t.Fatalf("%d requests were signed", len(requests))
	}
	var answers []job
	bindings := map[string]*seal.RequestSeal{}
	for i, r := range requests {
		if i == len(signers) {
			v.Replay = seal.NewReplayMemory(0, 0) // the second library signs with the same nonces
		}
		altered := r.Message
		altered.Target += "2"
		if _, err := v.Request(altered.request()); err == nil {
			t.Errorf("%s: an altered request verifies", r.Library)
		}
		got, err := v.Request(r.Message.request())
		if err != nil || !got.Complete() {
			t.Errorf("%s: %v", r.Library, err)
			continue
		}
		a := jobs[i%len(signers)]
		a.Nonce = ""
		a.Components = []string{"@status", "content-digest", "content-type", "@method;req", "@path;req", "@query;req", "content-digest;req", `signature;req;key="civibus"`}
		a.Message = message{Status: 200, Body: []byte(body), Fields: [][2]string{{"Content-Type", "application/json"}, {"Content-Digest", digest}}}
		request := r.Message
		a.Request = &request
		answers = append(answers, a)
		bindings[header(r.Message.Fields).Get("Signature")] = got.Binding()
	}
	for _, r := range run(answers) {
		h := header(r.Message.Fields)
		response := func() *http.Response {
			return &http.Response{StatusCode: r.Message.Status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
		}
		binding := bindings[header(r.Request.Fields).Get("Signature")]
		if got, err := v.Response(response(), binding); err != nil || !got.Complete() {
			t.Errorf("%s: %v", r.Library, err)
		}
		for _, other := range bindings {
			if other == binding {
				continue
			}
			if _, err := v.Response(response(), other); err == nil {
				t.Errorf("%s: an answer verifies for another request", r.Library)
			}
		}
	}
}
