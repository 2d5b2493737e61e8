package httpsig_test

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/civibus/civibus/seal/httpsig"
)

const vectors = "../../spec/vectors/rfc9421/"

// sharedSecret is the key of RFC 9421 B.1.5.
const sharedSecret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// message reads an HTTP/1.1 message file and returns it with its fields.
func message(t testing.TB, name string) (*httpsig.Message, http.Header, []byte) {
	t.Helper()
	head, body, _ := bytes.Cut(read(t, name), []byte("\n\n"))
	raw := strings.ReplaceAll(string(head), "\n", "\r\n") + "\r\n\r\n" + strings.TrimSuffix(string(body), "\n")
	in := bufio.NewReader(strings.NewReader(raw))
	if strings.HasPrefix(raw, "HTTP/") {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return httpsig.FromResponse(resp, nil), resp.Header, content
	}
	req, err := http.ReadRequest(in)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	return httpsig.FromRequest(req), req.Header, content
}

func publicKey(t testing.TB, name string) any {
	t.Helper()
	data := string(read(t, name))
	if block, _ := pem.Decode([]byte(data)); block != nil {
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	// The published RSA-PSS file breaks its lines with spaces.
	body := regexp.MustCompile(`-----[A-Z ]+-----`).ReplaceAllString(data, "")
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func parse(t testing.TB, h http.Header, label string) (*httpsig.Input, []byte) {
	t.Helper()
	inputs, err := httpsig.ParseInputs(h.Values("Signature-Input"))
	if err != nil {
		t.Fatal(err)
	}
	sigs, err := httpsig.ParseSignatures(h.Values("Signature"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range inputs {
		for j := range sigs {
			if inputs[i].Label == label && sigs[j].Label == label {
				return &inputs[i], sigs[j].Signature
			}
		}
	}
	t.Fatalf("no signature labelled %q", label)
	return nil, nil
}

func TestRFC9421AppendixB(t *testing.T) {
	secret, err := base64.StdEncoding.DecodeString(sharedSecret)
	if err != nil {
		t.Fatal(err)
	}
	pss := publicKey(t, "test-key-rsa-pss.pub")
	p256 := publicKey(t, "test-key-ecc-p256.pub")
	ed := publicKey(t, "test-key-ed25519.pub")
	for _, c := range []struct {
		name, signed, base, label string
		alg                       httpsig.Algorithm
		key                       any
	}{
		{"B.2.1", "b21_request_signed.txt", "b21_request_sigbase.txt", "sig-b21", httpsig.RSAPSSSHA512, pss},
		{"B.2.2", "b22_request_signed.txt", "b22_request_sigbase.txt", "sig-b22", httpsig.RSAPSSSHA512, pss},
		{"B.2.3", "b23_request_signed.txt", "b23_request_sigbase.txt", "sig-b23", httpsig.RSAPSSSHA512, pss},
		{"B.2.4", "b24_response_signed.txt", "b24_response_sigbase.txt", "sig-b24", httpsig.ECDSAP256SHA256, p256},
		{"B.2.5", "b25_request_signed.txt", "b25_request_sigbase.txt", "sig-b25", httpsig.HMACSHA256, secret},
		{"B.2.6", "b26_request_signed.txt", "b26_request_sigbase.txt", "sig-b26", httpsig.Ed25519, ed},
		{"B.3", "b3_request_signed.txt", "b3_request_sigbase.txt", "ttrp", httpsig.ECDSAP256SHA256, p256},
		{"B.4 original", "b4_accept_original.txt", "b4_request_sigbase.txt", "transform", httpsig.Ed25519, ed},
		{"B.4 added parameter", "b4_accept_added_parameter.txt", "b4_request_sigbase.txt", "transform", httpsig.Ed25519, ed},
		{"B.4 combined field", "b4_accept_combined_field.txt", "b4_request_sigbase.txt", "transform", httpsig.Ed25519, ed},
		{"B.4 reordered fields", "b4_accept_reordered_fields.txt", "b4_request_sigbase.txt", "transform", httpsig.Ed25519, ed},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, h, content := message(t, c.signed)
			in, sig := parse(t, h, c.label)
			base, err := httpsig.AppendBase(nil, m, in)
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.TrimSuffix(read(t, c.base), []byte("\n"))
			if !bytes.Equal(base, want) {
				t.Fatalf("signature base:\n%s\nwant:\n%s", base, want)
			}
			if !httpsig.Verify(c.alg, c.key, base, sig) {
				t.Error("the published signature does not verify")
			}
			sig[5] ^= 1
			if httpsig.Verify(c.alg, c.key, base, sig) {
				t.Error("an altered signature verifies")
			}
			if h.Get("Content-Digest") != "" {
				if err := httpsig.VerifyDigests(h.Values("Content-Digest"), content); err != nil {
					t.Error(err)
				}
				if httpsig.VerifyDigests(h.Values("Content-Digest"), append(content, ' ')) == nil {
					t.Error("an altered body fits its digest")
				}
			}
		})
	}
}

func TestRFC9421TransformationsThatBreak(t *testing.T) {
	ed := publicKey(t, "test-key-ed25519.pub")
	for _, name := range []string{"b4_reject_method_and_authority.txt", "b4_reject_reordered_values.txt"} {
		t.Run(name, func(t *testing.T) {
			m, h, _ := message(t, name)
			in, sig := parse(t, h, "transform")
			base, err := httpsig.AppendBase(nil, m, in)
			if err != nil {
				t.Fatal(err)
			}
			if httpsig.Verify(httpsig.Ed25519, ed, base, sig) {
				t.Error("the signature survived")
			}
		})
	}
}

// TestRFC9421Reproduce signs the deterministic examples from scratch.
func TestRFC9421Reproduce(t *testing.T) {
	secret, _ := base64.StdEncoding.DecodeString(sharedSecret)
	block, _ := pem.Decode(read(t, "test-key-ed25519.key"))
	edKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, signed, label, keyid string
		alg                        httpsig.Algorithm
		key                        crypto.PrivateKey
		cover                      []string
	}{
		{"B.2.5", "b25_request_signed.txt", "sig-b25", "test-shared-secret", httpsig.HMACSHA256, secret,
			[]string{"date", "@authority", "content-type"}},
		{"B.2.6", "b26_request_signed.txt", "sig-b26", "test-key-ed25519", httpsig.Ed25519, edKey,
			[]string{"date", "@method", "@path", "@authority", "content-type", "content-length"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, published, _ := message(t, c.signed)
			m, _, _ := message(t, "rfc-test-request.txt")
			var components []httpsig.Component
			for _, n := range c.cover {
				component, err := httpsig.NewComponent(n)
				if err != nil {
					t.Fatal(err)
				}
				components = append(components, component)
			}
			in, err := httpsig.NewInput(c.label, components, httpsig.Params{
				Present: httpsig.HasCreated | httpsig.HasKeyID, Created: 1618884473, KeyID: c.keyid})
			if err != nil {
				t.Fatal(err)
			}
			base, err := httpsig.AppendBase(nil, m, in)
			if err != nil {
				t.Fatal(err)
			}
			sig, err := httpsig.Sign(c.alg, c.key, base)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := in.Field(), published.Get("Signature-Input"); got != want {
				t.Errorf("Signature-Input: %s, want %s", got, want)
			}
			if got, want := httpsig.FormatSignature(c.label, sig), published.Get("Signature"); got != want {
				t.Errorf("Signature: %s, want %s", got, want)
			}
		})
	}
}
