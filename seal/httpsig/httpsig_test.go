package httpsig_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/dunglas/httpsfv"

	"github.com/civibus/civibus/seal/httpsig"
)

const rawRequest = "POST /path/a%2Fb?param=value&foo=bar&baz=batman&qux=&name=with%20space&x=1&x=2&%C3%A9=%C3%A9+e HTTP/1.1\r\n" +
	"Host: WWW.Example.com:443\r\n" +
	"X-OWS:   Leading and trailing.   \r\n" +
	"Cache-Control: max-age=60\r\n" +
	"Cache-Control:    must-revalidate\r\n" +
	"X-Empty:\r\n" +
	"Example-Dict:  a=1,    b=2;x=1;y=2,   c=(a   b   c), d\r\n" +
	"Example-List: one,   two;q=0.5\r\n" +
	"Example-Item:  \"a\";b=?1\r\n" +
	"Example-Bytes: k=:AQID:, l=:BAUG:\r\n" +
	"X-Comma: value, with, lots\r\n" +
	"X-Comma: of, commas\r\n" +
	"Content-Length: 0\r\n\r\n"

func readMessage(t testing.TB) *httpsig.Message {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(rawRequest)))
	if err != nil {
		t.Fatal(err)
	}
	m := httpsig.FromRequest(r)
	m.Scheme = "https"
	m.Trailer = http.Header{"Expires": {"Wed, 9 Nov 2022 07:28:00 GMT"}}
	return m
}

func value(t testing.TB, m *httpsig.Message, name string, params ...httpsig.Param) (string, error) {
	t.Helper()
	c, err := httpsig.NewComponent(name, params...)
	if err != nil {
		t.Fatal(err)
	}
	in, err := httpsig.NewInput("sig", []httpsig.Component{c}, httpsig.Params{})
	if err != nil {
		t.Fatal(err)
	}
	base, err := httpsig.AppendBase(nil, m, in)
	if err != nil {
		return "", err
	}
	v, ok := strings.CutPrefix(string(base), c.String()+": ")
	if !ok {
		t.Fatalf("base %q", base)
	}
	v, rest, _ := strings.Cut(v, "\n")
	if rest != `"@signature-params": (`+c.String()+")" {
		t.Fatalf("base ends with %q", rest)
	}
	return v, nil
}

func TestComponents(t *testing.T) {
	m := readMessage(t)
	answer := &httpsig.Message{Status: 503, Header: http.Header{"Content-Type": {"text/plain"}}, Length: 12, Request: m}
	plain := *m
	plain.Scheme, plain.Authority, plain.Target, plain.Path, plain.Query = "http", "example.com:8080", "http://example.com:8080", "", ""
	v6 := *m
	v6.Authority = "[2001:DB8::1]:443"
	for _, c := range []struct {
		m      *httpsig.Message
		name   string
		params []httpsig.Param
		want   string
	}{
		{m, "@method", nil, "POST"},
		{m, "@target-uri", nil, "https://www.example.com/path/a%2Fb?param=value&foo=bar&baz=batman&qux=&name=with%20space&x=1&x=2&%C3%A9=%C3%A9+e"},
		{m, "@authority", nil, "www.example.com"},
		{m, "@scheme", nil, "https"},
		{m, "@request-target", nil, "/path/a%2Fb?param=value&foo=bar&baz=batman&qux=&name=with%20space&x=1&x=2&%C3%A9=%C3%A9+e"},
		{m, "@path", nil, "/path/a%2Fb"},
		{m, "@query", nil, "?param=value&foo=bar&baz=batman&qux=&name=with%20space&x=1&x=2&%C3%A9=%C3%A9+e"},
		{m, "@query-param", []httpsig.Param{httpsig.Name("baz")}, "batman"},
		{m, "@query-param", []httpsig.Param{httpsig.Name("qux")}, ""},
		{m, "@query-param", []httpsig.Param{httpsig.Name("name")}, "with%20space"},
		{m, "@query-param", []httpsig.Param{httpsig.Name("%C3%A9")}, "%C3%A9%20e"},
		{&plain, "@path", nil, "/"},
		{&plain, "@query", nil, "?"},
		{&plain, "@authority", nil, "example.com:8080"},
		{&plain, "@target-uri", nil, "http://example.com:8080"},
		{&v6, "@authority", nil, "[2001:db8::1]"},
		{answer, "@status", nil, "503"},
		{answer, "@method", []httpsig.Param{httpsig.Req()}, "POST"},
		{answer, "cache-control", []httpsig.Param{httpsig.Req()}, "max-age=60, must-revalidate"},
		{answer, "content-length", nil, "12"},
		{m, "host", nil, "WWW.Example.com:443"},
		{m, "x-ows", nil, "Leading and trailing."},
		{m, "x-empty", nil, ""},
		{m, "cache-control", nil, "max-age=60, must-revalidate"},
		{m, "example-dict", nil, "a=1,    b=2;x=1;y=2,   c=(a   b   c), d"},
		{m, "example-dict", []httpsig.Param{httpsig.SF()}, "a=1, b=2;x=1;y=2, c=(a b c), d"},
		{m, "example-dict", []httpsig.Param{httpsig.Key("a")}, "1"},
		{m, "example-dict", []httpsig.Param{httpsig.Key("d")}, "?1"},
		{m, "example-dict", []httpsig.Param{httpsig.Key("b")}, "2;x=1;y=2"},
		{m, "example-dict", []httpsig.Param{httpsig.Key("c")}, "(a b c)"},
		{m, "example-bytes", []httpsig.Param{httpsig.Key("l")}, ":BAUG:"},
		{m, "example-list", []httpsig.Param{httpsig.SF()}, "one, two;q=0.5"},
		{m, "example-item", []httpsig.Param{httpsig.SF()}, `"a";b`},
		{m, "x-comma", []httpsig.Param{httpsig.BS()}, ":dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:"},
		{m, "expires", []httpsig.Param{httpsig.TR()}, "Wed, 9 Nov 2022 07:28:00 GMT"},
	} {
		got, err := value(t, c.m, c.name, c.params...)
		if err != nil || got != c.want {
			t.Errorf("%s %v: %q, %v, want %q", c.name, c.params, got, err, c.want)
		}
	}
	for _, c := range []struct {
		m      *httpsig.Message
		name   string
		params []httpsig.Param
	}{
		{m, "@status", nil}, {answer, "@method", nil}, {m, "@method", []httpsig.Param{httpsig.Req()}},
		{m, "@query-param", []httpsig.Param{httpsig.Name("x")}}, {m, "@query-param", []httpsig.Param{httpsig.Name("absent")}},
		{m, "absent", nil}, {m, "x-ows", []httpsig.Param{httpsig.TR()}}, {m, "example-dict", []httpsig.Param{httpsig.Key("z")}},
		{m, "cache-control", []httpsig.Param{httpsig.Key("=")}}, {m, "x-ows", []httpsig.Param{httpsig.SF()}},
		{&httpsig.Message{Method: "GET\n\"@path\": /", Length: -1}, "@method", nil},
	} {
		if got, err := value(t, c.m, c.name, c.params...); err == nil {
			t.Errorf("%s %v: %q", c.name, c.params, got)
		}
	}
}

func TestFolding(t *testing.T) {
	m := &httpsig.Message{Method: "GET", Header: http.Header{"X-Folded": {"a \r\n   b"}, "X-Broken": {"a\nb"}}, Length: -1}
	if got, err := value(t, m, "x-folded"); err != nil || got != "a b" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := value(t, m, "x-broken"); err == nil {
		t.Errorf("%q", got)
	}
}

func TestComponentRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		params []httpsig.Param
	}{
		{"@signature-params", nil}, {"@foo", nil}, {"", nil}, {"X-Upper", nil}, {"a b", nil}, {"é", nil},
		{"@method", []httpsig.Param{httpsig.TR()}}, {"@path", []httpsig.Param{httpsig.SF()}}, {"@query-param", nil},
		{"@path", []httpsig.Param{httpsig.Name("a")}}, {"@status", []httpsig.Param{httpsig.Req()}},
		{"x", []httpsig.Param{httpsig.SF(), httpsig.BS()}}, {"x", []httpsig.Param{httpsig.Key("a"), httpsig.BS()}},
		{"x", []httpsig.Param{httpsig.Name("a")}}, {"x", []httpsig.Param{httpsig.SF(), httpsig.SF()}}, {"x", []httpsig.Param{{}}},
		{"x", []httpsig.Param{httpsig.Key("\x00")}},
	} {
		if got, err := httpsig.NewComponent(c.name, c.params...); err == nil {
			t.Errorf("%s %v: %s", c.name, c.params, got)
		}
	}
	a, _ := httpsig.NewComponent("x", httpsig.Req(), httpsig.Key("k"))
	b, _ := httpsig.NewComponent("x", httpsig.Key("k"), httpsig.Req())
	if _, err := httpsig.NewInput("sig", []httpsig.Component{a, b}, httpsig.Params{}); err == nil {
		t.Error("a component is covered twice, with its parameters in another order")
	}
	many := []httpsig.Component{a}
	for i := range 40 {
		c, _ := httpsig.NewComponent("x", httpsig.Key(strings.Repeat("a", i+1)))
		many = append(many, c)
	}
	if _, err := httpsig.NewInput("sig", many, httpsig.Params{}); err != nil {
		t.Error(err)
	}
	if _, err := httpsig.NewInput("sig", append(many, b), httpsig.Params{}); err == nil {
		t.Error("a component is covered twice in a long list")
	}
	if _, err := httpsig.NewInput("Sig", nil, httpsig.Params{}); err == nil {
		t.Error("a label in upper case")
	}
	if _, err := httpsig.NewInput("sig", nil, httpsig.Params{Present: httpsig.HasCreated, Created: 1e15}); err == nil {
		t.Error("16 digits")
	}
	for name, good := range map[string]bool{"X-Road-Client": true, "Te": true, "X-1a": true, "x-road": false, "X-ROAD": false, "": false, "A B": false, "É": false} {
		c, err := httpsig.FieldComponent(name)
		if (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
		if good && (c.Name() != strings.ToLower(name) || c.String() != `"`+strings.ToLower(name)+`"`) {
			t.Errorf("%q: %s", name, c)
		}
	}
}

func TestParseInputs(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  []string // label=value
	}{
		{"canonical", []string{`a=("@method" "x";key="k";req);created=1;keyid="k", b=()`}, []string{`a=("@method" "x";key="k";req);created=1;keyid="k"`, "b=()"}},
		{"two lines", []string{"a=();created=1", "b=();tag=\"t\""}, []string{"a=();created=1", `b=();tag="t"`}},
		{"white space", []string{`a=( "@method"   "x" ); created=1 ,	b=()`}, []string{`a=("@method" "x");created=1`, "b=()"}},
		{"escapes", []string{`a=("@query-param";name="a");keyid="a\"b\\"`}, []string{`a=("@query-param";name="a");keyid="a\"b\\"`}},
		{"other parameters", []string{`a=();created=1;x;y=1.5;z=tok;w=:AQ==:`}, []string{"a=();created=1;x;y=1.5;z=tok;w=:AQ==:"}},
		{"explicit boolean", []string{`a=("x";sf=?1)`}, []string{`a=("x";sf)`}},
		{"nothing", nil, nil},
	} {
		got, err := httpsig.ParseInputs(c.lines)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", c.name, got)
			continue
		}
		for i := range got {
			if got[i].Field() != c.want[i] {
				t.Errorf("%s: %s, want %s", c.name, got[i].Field(), c.want[i])
			}
		}
	}
	for _, line := range []string{"a", "a=1", `a=("@method"`, `a=(1)`, `a=("@foo")`, `a=("x" "x")`, `a=( "x" "x")`, `a=(), a=()`,
		`a=();created="1"`, `a=();created=1.0`, `a=();created=@1`, `a=();keyid=tok`, `a=();tag`, `a=("x";foo)`, `a=("x";sf=1)`, `a=("x";sf=?0)`, `a=("x";key)`, `a=("X")`,
		`a=();created=1;created=2`, `a=();created=9999999999999999`, "a=()\x00", `a=(),`, `A=()`} {
		got, err := httpsig.ParseInputs([]string{line})
		if err == nil {
			t.Errorf("%s: %v", line, got)
		}
	}
	if _, err := httpsig.ParseCanonicalInputs([]string{"a=( )"}); !errors.Is(err, httpsig.ErrNotCanonical) {
		t.Error(err)
	}
}

func TestParseSignatures(t *testing.T) {
	got, err := httpsig.ParseSignatures([]string{"a=:AQID:, b=::", "c=:BA==: ,d=:BQ==:;x=1"})
	if err != nil || len(got) != 4 || string(got[0].Signature) != "\x01\x02\x03" || got[3].Label != "d" {
		t.Fatalf("%v, %v", got, err)
	}
	if f := httpsig.FormatSignature("a", []byte{1, 2, 3}); f != "a=:AQID:" {
		t.Error(f)
	}
	for _, line := range []string{"a", "a=1", `a="AQID"`, "a=:*:", "a=(:AQID:)", "a=:AQ==:, a=:AQ==:"} {
		if got, err := httpsig.ParseSignatures([]string{line}); err == nil {
			t.Errorf("%s: %v", line, got)
		}
	}
}

func TestParseBase(t *testing.T) {
	for _, name := range []string{"b22_request_sigbase.txt", "b23_request_sigbase.txt", "b24_response_sigbase.txt", "b26_request_sigbase.txt"} {
		base := strings.TrimSuffix(string(read(t, name)), "\n")
		lines, in, err := httpsig.ParseBase([]byte(base))
		if err != nil {
			t.Fatal(err)
		}
		again := ""
		for _, l := range lines {
			again += l.Component.String() + ": " + l.Value + "\n"
		}
		if again+`"@signature-params": `+in.String() != base {
			t.Errorf("%s: %q", name, again)
		}
	}
	for _, base := range []string{"", `"@method": GET`, "\"@method\": GET\n\"@signature-params\": ()", "\"@path\": /\n\"@signature-params\": (\"@method\")",
		"\"@signature-params\": ( )", "\"@signature-params\": ()x"} {
		if _, _, err := httpsig.ParseBase([]byte(base)); err == nil {
			t.Errorf("%q", base)
		}
	}
}

func TestAlgorithmsDoNotMix(t *testing.T) {
	edPub, edKey, _ := ed25519.GenerateKey(rand.Reader)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("secret")
	base := []byte("base")
	keys := map[httpsig.Algorithm][2]any{
		httpsig.Ed25519: {edKey, edPub}, httpsig.ECDSAP256SHA256: {ecKey, &ecKey.PublicKey},
		httpsig.RSAPSSSHA512: {rsaKey, &rsaKey.PublicKey}, httpsig.HMACSHA256: {secret, secret}}
	for alg, key := range keys {
		sig, err := httpsig.Sign(alg, key[0], base)
		if err != nil {
			t.Fatal(err)
		}
		if !httpsig.Verify(alg, key[1], base, sig) || httpsig.Verify(alg, key[1], []byte("Base"), sig) || httpsig.Verify(alg, key[1], base, sig[1:]) {
			t.Errorf("%s does not work", alg)
		}
		for other, k := range keys {
			if other == alg {
				continue
			}
			if httpsig.Verify(other, key[1], base, sig) || httpsig.Verify(alg, k[1], base, sig) {
				t.Errorf("%s verifies as %s", alg, other)
			}
			if _, err := httpsig.Sign(other, key[0], base); err == nil {
				t.Errorf("a key of %s signs as %s", alg, other)
			}
		}
	}
	if _, err := httpsig.Sign(httpsig.ECDSAP256SHA256, p384, base); err == nil {
		t.Error("P-384 signs as P-256")
	}
	if httpsig.Verify(httpsig.ECDSAP256SHA256, &p384.PublicKey, base, make([]byte, 64)) || httpsig.Verify(httpsig.Ed25519, nil, base, nil) {
		t.Error("a wrong key verifies")
	}
}

func TestDigests(t *testing.T) {
	body := []byte(`{"hello": "world"}`)
	good := "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
	for lines, ok := range map[string]bool{
		good: true, "md5=:AAAA:, " + good: true, "": false, "md5=:AAAA:": false, "sha-256=1": false, "sha-256=:X48E:": false,
		good + ", sha-512=:AAAA:": false, "sha-256=:*:": false,
	} {
		if err := httpsig.VerifyDigests([]string{lines}, body); (err == nil) != ok {
			t.Errorf("%s: %v", lines, err)
		}
	}
}

// sameInput compares what the two parsers made of one member.
func sameInput(t *testing.T, fast httpsig.Input, slow httpsfv.Member) {
	t.Helper()
	v, err := httpsfv.Marshal(httpsfv.List{slow})
	if err != nil {
		t.Fatal(err)
	}
	if v != fast.String() {
		t.Fatalf("%q, httpsfv says %q", fast.String(), v)
	}
}

// FuzzParseInputs compares the canonical scanner with httpsfv.
func FuzzParseInputs(f *testing.F) {
	for _, s := range []string{`a=("@method" "x";key="k";req);created=1;keyid="k", b=()`, "a=( );x", `a=("a\"b")`, "a=();created=-1", "a=();created=-0", "*a.b_-=();nonce=\"\"",
		`civibus=("@status" "content-digest";tr "signature";req;tr;key="civibus");created=1795338000;keyid="00";alg="ed25519";tag="civibus"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		all, err := httpsig.ParseInputs([]string{line})
		fast, fastErr := httpsig.ParseCanonicalInputs([]string{line})
		if fastErr == nil {
			d, err := httpsfv.UnmarshalDictionary([]string{line})
			if err != nil {
				t.Fatalf("%q: httpsfv refuses it: %v", line, err)
			}
			if len(fast) != len(d.Names()) {
				t.Fatalf("%q: %d members, httpsfv says %d", line, len(fast), len(d.Names()))
			}
			for _, in := range fast {
				m, ok := d.Get(in.Label)
				if !ok {
					t.Fatalf("%q: httpsfv has no %q", line, in.Label)
				}
				sameInput(t, in, m)
			}
		}
		if err != nil {
			return
		}
		m := readMessage(t)
		for i := range all {
			base, err := httpsig.AppendBase(nil, m, &all[i])
			if err != nil {
				continue
			}
			again, err := httpsig.ParseInputs([]string{all[i].Field()})
			if err != nil || len(again) != 1 || again[0].Field() != all[i].Field() {
				t.Fatalf("%q does not read back: %v", all[i].Field(), err)
			}
			_, in, err := httpsig.ParseBase(base)
			if err == nil && in.String() != all[i].String() {
				t.Fatalf("base %q reads back as %q", base, in)
			}
		}
	})
}

// FuzzDictionaryMember compares the shortcut for byte sequences with httpsfv.
func FuzzDictionaryMember(f *testing.F) {
	for _, s := range []string{"a=:AQID:, b=:AQ==:", "a=::", "a=:AR==:", "a=:AQ", "a, b=:AQ==:", "a=:AQ==:, a=:Ag==:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\r\n") {
			return
		}
		m := &httpsig.Message{Method: "GET", Header: http.Header{"X-D": {line}}, Length: -1}
		got, err := value(t, m, "x-d", httpsig.Key("a"))
		d, slowErr := httpsfv.UnmarshalDictionary([]string{line})
		want := ""
		if slowErr == nil {
			if member, ok := d.Get("a"); ok {
				want, slowErr = httpsfv.Marshal(httpsfv.List{member})
			} else {
				slowErr = errors.New("absent")
			}
		}
		if (err == nil) != (slowErr == nil) || got != want {
			t.Fatalf("%q: %q %v, httpsfv says %q %v", line, got, err, want, slowErr)
		}
		sigs, err := httpsig.ParseSignatures([]string{line})
		if err == nil && d != nil {
			for _, s := range sigs {
				if _, ok := d.Get(s.Label); !ok {
					t.Fatalf("%q: httpsfv has no %q", line, s.Label)
				}
			}
		}
	})
}

func FuzzParseBase(f *testing.F) {
	f.Add([]byte("\"@method\": GET\n\"@signature-params\": (\"@method\");created=1"))
	f.Fuzz(func(t *testing.T, base []byte) {
		lines, in, err := httpsig.ParseBase(base)
		if err != nil {
			return
		}
		again := ""
		for _, l := range lines {
			again += l.Component.String() + ": " + l.Value + "\n"
		}
		if again+`"@signature-params": `+in.String() != string(base) {
			t.Fatalf("%q reads back as %q", base, again)
		}
	})
}

func FuzzDigests(f *testing.F) {
	f.Add("sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:")
	f.Fuzz(func(t *testing.T, line string) {
		digests, err := httpsig.ParseDigests([]string{line})
		if err == nil {
			for _, d := range digests {
				if _, err := httpsig.ParseDigests([]string{httpsig.FormatDigest(d.Algorithm, d.Sum)}); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestFromRequest(t *testing.T) {
	out, err := http.NewRequest("", "HTTPS://Example.com/a%20b?x=1", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	m := httpsig.FromRequest(out)
	if m.Method != "GET" || m.Scheme != "https" || m.Authority != "Example.com" || m.Target != "/a%20b?x=1" || m.Path != "/a%20b" || m.Query != "x=1" || m.Length != 4 {
		t.Errorf("%+v", m)
	}
	if v, err := value(t, m, "content-length"); err != nil || v != "4" {
		t.Errorf("%q, %v", v, err)
	}
	for target, want := range map[string][2]string{
		"/": {"/", ""}, "/?": {"/", ""}, "/a?b?c": {"/a", "b?c"}, "http://h/p?q": {"/p", "q"}, "http://h": {"", ""}, "http://h?q": {"", "q"},
		"*": {"*", ""}, "/a://b": {"/a://b", ""},
	} {
		if p, q := httpsig.SplitTarget(target); p != want[0] || q != want[1] {
			t.Errorf("%s: %q %q", target, p, q)
		}
	}
	// A percent sign that starts no escape stands for itself.
	broken := &httpsig.Message{Method: "GET", Query: "a=100%&b=%zz+%41&%=1", Length: -1}
	for name, want := range map[string]string{"a": "100%25", "b": "%25zz%20A", "%25": "1"} {
		if v, err := value(t, broken, "@query-param", httpsig.Name(name)); err != nil || v != want {
			t.Errorf("%s: %q, %v, want %q", name, v, err, want)
		}
	}
	c, _ := httpsig.NewComponent("x", httpsig.Req(), httpsig.TR())
	if !c.Req() || !c.Trailer() || c.Derived() {
		t.Error("the component's parameters are lost")
	}
}

func BenchmarkAppendBase(b *testing.B) {
	m := readMessage(b)
	m.Scheme = "https"
	in, err := httpsig.ParseInput("sig", `("@method" "@path" "@query" "cache-control" "content-length" "x-comma" "x-ows");created=1618884473;keyid="k"`)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := httpsig.AppendBase(dst, m, in); err != nil {
			b.Fatal(err)
		}
	}
}
