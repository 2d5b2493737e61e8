package civibus_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/civibus/civibus"
)

// FuzzParsePublicKey feeds arbitrary bytes as SubjectPublicKeyInfo: what is
// accepted has one encoding, so that a key has one id.
func FuzzParsePublicKey(f *testing.F) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	k, err := civibus.NewPublicKey(&private.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.SPKI)
	f.Add(append(bytes.Clone(k.SPKI), 0))
	f.Add([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00})
	f.Fuzz(func(t *testing.T, spki []byte) {
		k, err := civibus.ParsePublicKey(spki)
		if err != nil {
			return
		}
		if !bytes.Equal(k.SPKI, spki) {
			t.Fatalf("%x was read as %x", spki, k.SPKI)
		}
		k.Verify([]byte("message"), spki) // a signature of any form: no panic
		if id, err := civibus.ParseKeyID(k.ID.String()); err != nil || id != k.ID {
			t.Fatalf("key id %s: %v, %v", k.ID, id, err)
		}
	})
}

// FuzzParseClientID holds that members and clients, too, have one form.
func FuzzParseClientID(f *testing.F) {
	f.Add("DEMO/GOV/1001")
	f.Add("DEMO/GOV/1001/a%2Fb")
	f.Add("%c3%b6/%/..//")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := civibus.ParseClientID(s); err == nil {
			again, err := civibus.ParseClientID(id.String())
			if err != nil || again != id {
				t.Fatalf("client %q: %+v became %+v, %v", s, id, again, err)
			}
		}
		if id, err := civibus.ParseMemberID(s); err == nil {
			again, err := civibus.ParseMemberID(id.String())
			if err != nil || again != id {
				t.Fatalf("member %q: %+v became %+v, %v", s, id, again, err)
			}
		}
	})
}
