package seal_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/seal"
)

const secondFile = "../spec/vectors/seal/second.json"

// pqSigner makes the ML-DSA key of a seed of one repeated byte.
func pqSigner(t testing.TB, a civibus.Algorithm, seed byte) *signer {
	t.Helper()
	k, err := mldsa.NewPrivateKey(a, []byte(strings.Repeat(string(rune(seed)), mldsa.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := civibus.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &signer{pub, k.Sign}
}

// secondCases are about second signatures. The keys are those that a receiver
// knows.
func secondCases(t testing.TB) (cases []testCase, keys []*signer) {
	c := newCast(t)
	q44, q65, q87, stranger := pqSigner(t, civibus.MLDSA44, 'a'), pqSigner(t, civibus.MLDSA65, 'b'), pqSigner(t, civibus.MLDSA87, 'c'), pqSigner(t, civibus.MLDSA44, 'd')
	body := `{"name":"Tamm"}`
	both := func(second *signer) civibus.Signer { return seal.WithSecond(c.ed, second) }
	plain, _ := c.whole(t, c.ed, "POST", body, start)
	whole, sent := c.whole(t, both(q44), "POST", body, start)
	whole65, _ := c.whole(t, both(q65), "POST", body, start)
	stream, pending := c.streamed(t, both(q65), strings.Repeat(body, 100), -1)
	again, _ := c.whole(t, c.ed, "POST", body, start)

	ok := func(name string, request message, response *message) {
		cases = append(cases, testCase{Name: name, Request: request, Response: response, RequireSecond: true})
	}
	bad := func(class, name, words string, from message, change func(m *message)) {
		m := from.clone()
		change(&m)
		cases = append(cases, testCase{Name: name, Failure: class, Code: civibus.FaultSeal, Words: words, Request: m, RequireSecond: class == "second_missing"})
	}
	input := func(m *message, trailer bool, old, new string) {
		t.Helper()
		m.edit(t, trailer, "Signature-Input", old, new)
	}
	ok("ml-dsa-44", whole, nil)
	ok("ml-dsa-65", whole65, nil)
	ok("streamed", stream, nil)
	answer := c.answer(t, both(q44), sent.Binding(), 200, "[]")
	ok("response", whole, &answer)
	streamed := c.streamedAnswer(t, both(q44), pending.Binding(), 200, strings.Repeat("x", 1000))
	ok("streamed response", stream, &streamed)
	cases = append(cases, testCase{Name: "none, and none is required", Request: plain})

	nothing := func(*message) {}
	bad("second_missing", "required", "has no second, post-quantum signature", plain, nothing)
	only := c.answer(t, c.ed, sent.Binding(), 200, "[]")
	cases = append(cases, testCase{Name: "required of the answer", Failure: "second_missing", Code: civibus.FaultSeal, Words: "has no second", Request: whole, Response: &only, RequireSecond: true})
	bad("second_missing", "input without signature", "label civibus-pq has no signature", whole, func(m *message) {
		first, _, _ := strings.Cut(headerOf(m.Fields).Get("Signature"), ", ")
		m.drop(false, "Signature")
		m.add("Signature", first)
	})
	bad("second_bad_signature", "of zeros", "the second signature is not", whole, func(m *message) {
		first, _, _ := strings.Cut(headerOf(m.Fields).Get("Signature"), ", ")
		m.drop(false, "Signature")
		m.add("Signature", first+", civibus-pq=:"+base64.StdEncoding.EncodeToString(make([]byte, 2420))+":")
	})
	bad("second_bad_signature", "of another message", "the second signature is not", whole, func(m *message) {
		other, _ := c.whole(t, both(q44), "POST", body+" ", start)
		_, second, _ := strings.Cut(headerOf(other.Fields).Get("Signature"), ", ")
		first, _, _ := strings.Cut(headerOf(m.Fields).Get("Signature"), ", ")
		m.drop(false, "Signature")
		m.add("Signature", first+", "+second)
	})
	bad("second_of_another_seal", "with the first signature of another seal", "not of the same time and nonce", again, func(m *message) {
		_, in, _ := strings.Cut(headerOf(whole.Fields).Get("Signature-Input"), ", ")
		_, sig, _ := strings.Cut(headerOf(whole.Fields).Get("Signature"), ", ")
		h := headerOf(m.Fields)
		m.drop(false, "Signature-Input")
		m.drop(false, "Signature")
		m.add("Signature-Input", h.Get("Signature-Input")+", "+in)
		m.add("Signature", h.Get("Signature")+", "+sig)
	})
	bad("second_wrong_components", "the first signature is not covered", "does not cover what the first covers", whole, func(m *message) {
		input(m, false, ` "signature";key="civibus"`, "")
	})
	bad("second_wrong_components", "the head's instead of the seal's", "does not cover what the first covers", whole, func(m *message) {
		input(m, false, `"signature";key="civibus"`, `"signature";key="civibus-head"`)
	})
	bad("second_wrong_algorithm", "ml-dsa-87", "not one for second signatures", func() message {
		m, _ := c.whole(t, both(q65), "POST", body, start)
		return m
	}(), func(m *message) {
		input(m, false, q65.pub.ID.String(), q87.pub.ID.String())
		input(m, false, `alg="ml-dsa-65"`, `alg="ml-dsa-87"`)
	})
	bad("second_wrong_algorithm", "ed25519", "not one for second signatures", whole, func(m *message) {
		input(m, false, q44.pub.ID.String(), c.ec.pub.ID.String())
		input(m, false, `alg="ml-dsa-44"`, `alg="ecdsa-p256-sha256"`)
	})
	bad("second_wrong_algorithm", "of another key", "not that of key", whole, func(m *message) { input(m, false, `alg="ml-dsa-44"`, `alg="ml-dsa-65"`) })
	unknown, _ := c.whole(t, both(stranger), "POST", body, start)
	bad("second_unknown_key", "", "of its second signature is not a seal key in force", unknown, nothing)
	bad("second_wrong_tag", "", "or its tag is not", whole, func(m *message) { input(m, false, `tag="civibus-pq"`, `tag="civibus"`) })
	bad("second_alone", "the first signature is ML-DSA", "makes second signatures only", func() message {
		m, _ := c.whole(t, q44, "POST", body, start)
		return m
	}(), nothing)
	bad("second_twice", "", "given twice", whole, func(m *message) {
		_, in, _ := strings.Cut(headerOf(m.Fields).Get("Signature-Input"), ", ")
		m.add("Signature-Input", in)
	})
	bad("second_trailers", "left out of the trailers", "not of the same key as the head's", stream, func(m *message) {
		for _, name := range []string{"Signature-Input", "Signature"} {
			first, _, _ := strings.Cut(headerOf(m.Trailers).Get(name), ", ")
			m.drop(true, name)
			m.Trailers = append(m.Trailers, [2]string{name, first})
		}
	})
	return cases, []*signer{c.ed, c.ec, q44, q65, q87}
}

// TestSecond: second signatures are made, verified where they are, and required
// where the instance says so. With -update the cases become vectors.
func TestSecond(t *testing.T) {
	cases, keys := secondCases(t)
	set := vectorSet{
		Description: "Seals with second signatures, and what a receiver must make of them: spec/seal.md section 8. As messages.json; require_second says that the receiver's instance requires them. ML-DSA keys come from seeds of 32 bytes 'a' (44), 'b' (65), 'c' (87).",
		Now:         start.Unix(), MaxAge: int(seal.DefaultMaxAge.Seconds()), MaxSkew: int(seal.DefaultMaxSkew.Seconds()), Keys: map[string]string{},
	}
	for _, k := range keys {
		set.Keys[k.pub.ID.String()] = base64.StdEncoding.EncodeToString(k.pub.SPKI)
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.Failure+"/"+c.Name, " ", "_"), func(t *testing.T) {
			got := c.secondly(t, keys)
			if c.Code == "" {
				c.Base = string(got.Seal().Base)
			}
			set.Cases = append(set.Cases, c)
		})
	}
	if *update {
		text, err := json.MarshalIndent(set, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(secondFile, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// secondly checks a case, and that what has two signatures says so.
func (c testCase) secondly(t *testing.T, keys []*signer) *seal.Verified {
	t.Helper()
	v := verifier(keys...)
	v.NeedSecond = func() bool { return c.RequireSecond }
	if c.Code != "" && c.Failure != "second_missing" {
		v.NeedSecond = nil // what is there is verified all the same
	}
	got := c.check(t, v)
	if c.Code == "" && c.RequireSecond {
		if second := got.Seal().Second; second == nil || len(second.Signature) < 2420 {
			t.Error("the second signature is not kept")
		}
		if _, ok := got.Second(); !ok {
			t.Error("the second key is not told")
		}
	}
	return got
}

// TestSecondVectors: the vectors that are published verify as they say.
func TestSecondVectors(t *testing.T) {
	text, err := os.ReadFile(secondFile)
	if err != nil {
		t.Fatal(err)
	}
	var set vectorSet
	if err := json.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	var keys []*signer
	for id, spki := range set.Keys {
		der, err := base64.StdEncoding.DecodeString(spki)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := mldsa.ParsePublicKey(der)
		if err != nil || pub.ID.String() != id {
			t.Fatalf("key %s: %v", id, err)
		}
		keys = append(keys, &signer{pub: pub})
	}
	if len(set.Cases) < 20 {
		t.Fatalf("%d cases", len(set.Cases))
	}
	for _, c := range set.Cases {
		t.Run(strings.ReplaceAll(c.Failure+"/"+c.Name, " ", "_"), func(t *testing.T) {
			if got := c.secondly(t, keys); c.Code == "" && string(got.Seal().Base) != c.Base {
				t.Errorf("another base:\n%s", got.Seal().Base)
			}
		})
	}
}

// TestSecondTooLong: a streamed message whose trailers would be too long with two
// signatures is refused by its sender.
func TestSecondTooLong(t *testing.T) {
	c := newCast(t)
	r := newRequest(t, "http://gateway.example", "PUT")
	for i := range 60 {
		r.Header.Set("X-A-Rather-Long-Name-Of-A-Field-"+string(rune('a'+i%26))+strings.Repeat("x", i), "1")
	}
	if _, err := seal.SealRequestStream(t.Context(), seal.WithSecond(c.ed, pqSigner(t, civibus.MLDSA65, 'b')), r, http.NoBody, start); err == nil {
		t.Error("it is sealed")
	}
}
