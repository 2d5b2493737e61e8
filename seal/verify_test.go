package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFile = "../spec/vectors/seal/messages.json"

// vectorSet is the file of vectors.
type vectorSet struct {
	Description string            `json:"description"`
	Now         int64             `json:"now"`
	MaxAge      int               `json:"max_age_seconds"`
	MaxSkew     int               `json:"max_skew_seconds"`
	Keys        map[string]string `json:"keys"` // key id: SubjectPublicKeyInfo in base64
	Cases       []testCase        `json:"cases"`
}

// run verifies a case and returns the seal proper and the fields kept.
func (c testCase) run(v *seal.Verifier) (*seal.Verified, error) {
	if c.Response == nil {
		got, err := v.Request(c.Request.request())
		if err == nil {
			_, err = io.ReadAll(got.Body)
		}
		return got, err
	}
	// The consumer knows what it sent.
	sent, err := v.Request(c.Request.request())
	if err == nil {
		_, err = io.ReadAll(sent.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("the request of the case: %w", err)
	}
	got, err := v.Response(c.Response.response(), sent.Binding())
	if err == nil {
		_, err = io.ReadAll(got.Body)
	}
	return got, err
}

func (c testCase) check(t *testing.T, v *seal.Verifier) *seal.Verified {
	t.Helper()
	got, err := c.run(v)
	if c.Code != "" {
		wantFault(t, err, c.Code, c.Words)
		if got != nil && got.Complete() {
			t.Error("it is refused and complete at once")
		}
		if got != nil && got.Err() == nil {
			t.Error("Err does not tell the refusal")
		}
		return got
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range c.Dropped {
		if _, ok := got.Header[name]; ok {
			t.Errorf("field %s was not dropped", name)
		}
	}
	return got
}

func TestCases(t *testing.T) {
	people := newCast(t)
	set := vectorSet{
		Description: "Sealed messages and what a receiver must make of them. The rules are in spec/seal.md; each case is verified on its own, with an empty record of nonces.",
		Now:         start.Unix(), MaxAge: int(seal.DefaultMaxAge.Seconds()), MaxSkew: int(seal.DefaultMaxSkew.Seconds()),
		Keys: map[string]string{
			people.ed.pub.ID.String(): base64.StdEncoding.EncodeToString(people.ed.pub.SPKI),
			people.ec.pub.ID.String(): base64.StdEncoding.EncodeToString(people.ec.pub.SPKI)},
	}
	for _, c := range append(people.requestCases(t), people.responseCases(t)...) {
		kind := "request"
		if c.Response != nil {
			kind = "response"
		}
		t.Run(strings.ReplaceAll(strings.Join([]string{kind, c.Failure, c.Name}, "/"), " ", "_"), func(t *testing.T) {
			got := c.check(t, verifier(people.ed, people.ec))
			if c.Code == "" {
				c.Base = string(got.Seal().Base)
			}
			if b, err := json.Marshal(c); err == nil && len(b) < 40<<10 { // the largest would only fill the file
				set.Cases = append(set.Cases, c)
			}
		})
	}
	if !*update {
		return
	}
	b, err := json.MarshalIndent(set, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(vectorFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestVectors reads the vectors as any other implementation would.
func TestVectors(t *testing.T) {
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var set vectorSet
	if err := json.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	var known []*signer
	for id, spki := range set.Keys {
		der, err := base64.StdEncoding.DecodeString(spki)
		if err != nil {
			t.Fatal(err)
		}
		k, err := civibus.ParsePublicKey(der)
		if err != nil || k.ID.String() != id {
			t.Fatalf("key %s: %v", id, err)
		}
		known = append(known, &signer{pub: k})
	}
	if set.Now != start.Unix() {
		t.Fatal("the vectors are of another time")
	}
	good, bad := 0, map[string]bool{}
	for _, c := range set.Cases {
		got := c.check(t, verifier(known...))
		if c.Code != "" {
			bad[c.Failure] = true
			continue
		}
		good++
		if string(got.Seal().Base) != c.Base {
			t.Errorf("%s: base\n%s\nwant\n%s", c.Name, got.Seal().Base, c.Base)
		}
	}
	if good < 15 || len(bad) < 25 {
		t.Errorf("%d good cases and %d classes of failure: vectors are missing", good, len(bad))
	}
}

// TestAnySingleChangeFails is the property of the seal: what is sealed
// verifies, and no byte of what it covers can be changed.
func TestAnySingleChangeFails(t *testing.T) {
	people := newCast(t)
	names := []string{"Accept", "Content-Type", "X-Road-Client", "X-Road-Id", "X-Road-Userid", "Civibus-Purpose", "X-A", "Dnt"}
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.SampledFrom([]*signer{people.ed, people.ec}).Draw(rt, "signer")
		path := "/" + rapid.StringMatching(`[a-zA-Z0-9._~/-]{0,20}`).Draw(rt, "path")
		query := rapid.StringMatching(`(\?[a-z0-9=&+%2B-]{0,10})?`).Draw(rt, "query")
		query = strings.ReplaceAll(query, "%", "%25")
		r, err := http.NewRequest(rapid.SampledFrom([]string{"GET", "POST", "PATCH"}).Draw(rt, "method"), "http://g.example"+strings.ReplaceAll(path, "//", "/a/")+query, nil)
		if err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(0, 6).Draw(rt, "fields") {
			r.Header.Add(rapid.SampledFrom(names).Draw(rt, "name"), rapid.StringMatching(`[!-~]([ -~]{0,20}[!-~])?`).Draw(rt, "value"))
		}
		body := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "body")
		m := message{Method: r.Method, Target: r.URL.RequestURI()}
		if rapid.Bool().Draw(rt, "streamed") {
			if _, err := seal.SealRequestStream(t.Context(), s, r, strings.NewReader(string(body)), start); err != nil {
				rt.Fatal(err)
			}
			if m.Body, err = io.ReadAll(r.Body); err != nil {
				rt.Fatal(err)
			}
			m.Trailers = fieldList(r.Trailer)
		} else {
			if _, err := seal.SealRequest(t.Context(), s, r, body, start); err != nil {
				rt.Fatal(err)
			}
			m.Body = body
		}
		m.Fields = fieldList(r.Header)
		c := testCase{Request: m}
		if _, err := c.run(verifier(people.ed, people.ec)); err != nil {
			rt.Fatalf("what was sealed does not verify: %v\n%+v", err, m)
		}
		changed := changeOne(rt, m)
		c.Request = changed
		got, err := c.run(verifier(people.ed, people.ec))
		if err == nil {
			rt.Fatalf("a change was not found:\n%+v\n%+v\n%s", m, changed, got.Seal().Base)
		}
	})
}

// changeOne alters one byte of the message in a way that matters.
func changeOne(t *rapid.T, m message) message {
	m = m.clone()
	flip := func(s string) string {
		i := rapid.IntRange(0, len(s)-1).Draw(t, "at")
		b := []byte(s)
		b[i] ^= 1 << rapid.IntRange(0, 3).Draw(t, "bit")
		return string(b)
	}
	switch rapid.IntRange(0, 4).Draw(t, "what") {
	case 0:
		m.Method += "X"
	case 1:
		m.Target += rapid.SampledFrom([]string{"x", "/", "&a", "%20"}).Draw(t, "more")
		if !strings.Contains(m.Target, "?") {
			m.Target += "?y"
		}
	case 2:
		if len(m.Body) == 0 {
			m.Body = []byte("x")
			break
		}
		m.Body = []byte(flip(string(m.Body)))
	case 3:
		i := rapid.IntRange(0, len(m.Fields)-1).Draw(t, "field")
		if m.Fields[i][0] == "Signature-Input" || m.Fields[i][1] == "" {
			m.Method += "X" // white space and signatures of others may vary there
			break
		}
		m.Fields[i][1] = m.Fields[i][1] + rapid.SampledFrom([]string{"x", ",", "\""}).Draw(t, "tail")
	case 4:
		list := m.list(m.Trailers != nil && rapid.Bool().Draw(t, "trailer"))
		i := rapid.IntRange(0, len(*list)-1).Draw(t, "which")
		if rapid.Bool().Draw(t, "drop") {
			*list = append((*list)[:i:i], (*list)[i+1:]...)
			break
		}
		(*list)[i][1] = flip((*list)[i][1])
	}
	return m
}

// FuzzVerify feeds the verifier with fields of an attacker's making.
func FuzzVerify(f *testing.F) {
	people := newCast(f)
	whole, _ := people.whole(f, people.ed, "POST", "{}", start)
	streamed, _ := people.streamed(f, people.ed, "{}", -1)
	for _, m := range []message{whole, streamed} {
		h := headerOf(m.Fields)
		f.Add(m.Target, h.Get("Signature-Input"), h.Get("Signature"), h.Get("Content-Digest"), headerOf(m.Trailers).Get("Signature-Input"), m.Body)
	}
	f.Fuzz(func(t *testing.T, target, input, signature, digest, trailer string, body []byte) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.RequestURI = target
		r.Header = http.Header{"Signature-Input": {input}, "Signature": {signature}, "Content-Digest": {digest}, "X-Road-Client": {"a"}}
		r.Trailer = http.Header{"Signature-Input": {trailer}, "Signature": {signature}, "Content-Digest": {digest}}
		binding := seal.Unverified(r)
		got, err := verifier(people.ed, people.ec).Request(r)
		if err == nil {
			_, err = io.ReadAll(got.Body)
		}
		if err == nil {
			t.Fatalf("a message with other fields than were sealed verifies:\n%s", got.Seal().Base)
		}
		if _, err := seal.SealResponse(t.Context(), people.ed, http.Header{}, 403, binding, nil, start); err != nil {
			wantFault(t, err, civibus.FaultInternal, "")
		}
	})
}

// TestNoBinding shows that a forgotten binding is an error and not a panic.
func TestNoBinding(t *testing.T) {
	people := newCast(t)
	_, err := seal.SealResponse(t.Context(), people.ed, http.Header{}, 403, nil, nil, start)
	wantFault(t, err, civibus.FaultInternal, "")
	_, err = seal.NewResponseStream(t.Context(), people.ed, &recorder{h: http.Header{}}, 403, nil, -1, start)
	wantFault(t, err, civibus.FaultInternal, "")
	_, err = verifier().Response(&http.Response{}, nil)
	wantFault(t, err, civibus.FaultInternal, "")
}
