package pkcs11_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/secret"
)

func TestURI(t *testing.T) {
	for text, want := range map[string]pkcs11.URI{
		"pkcs11:token=civibus;id=%3F%2a;type=private":           {Token: "civibus", ID: []byte{0x3f, 0x2a}},
		"pkcs11:id=ab;token=a%20b%3Bc":                          {Token: "a b;c", ID: []byte("ab")},
		"pkcs11:token=t;object=seal%202026;id=%00;type=private": {Token: "t", Object: "seal 2026", ID: []byte{0}},
	} {
		got, err := pkcs11.ParseURI(text)
		if err != nil || got.Token != want.Token || got.Object != want.Object || !bytes.Equal(got.ID, want.ID) {
			t.Errorf("%s: %+v, error %v", text, got, err)
		}
		if again, err := pkcs11.ParseURI(got.String()); err != nil || again.String() != got.String() {
			t.Errorf("%s is written as %s (%v)", text, got, err)
		}
	}
	const pin = "4711"
	for _, text := range []string{
		"", "token=t;id=%01", "pkcs11:", "pkcs11:token=t", "pkcs11:id=%01", "pkcs11:token=;id=%01", "pkcs11:token=t;id=", "pkcs11:token=t;id=%0", "pkcs11:token=t;id=%zz",
		"pkcs11:token=t;id=%01;id=%02", "pkcs11:token=t;id=%01;type=cert", "pkcs11:token=t;id=%01;object=", "pkcs11:token=a b;id=%01", "pkcs11:token=t;id=" + strings.Repeat("%01", 65),
		"pkcs11:token=t;id=%01?pin-value=" + pin, "pkcs11:token=t;id=%01;pin-value=" + pin, "pkcs11:token=t;id=%01;slot-id=" + pin,
	} {
		if u, err := pkcs11.ParseURI(text); err == nil || strings.Contains(err.Error(), pin) {
			t.Errorf("%q: %v, error %v", text, u, err)
		}
	}
}

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	err := pkcs11.Config{Sessions: -1}.Validate()
	for _, want := range []string{"module", "token", "PIN", "sessions"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	fd, _ := secret.ParseSource("fd:3")
	if err := (pkcs11.Config{Module: "m", Token: "t", PIN: fd}).Validate(); err == nil {
		t.Error("a PIN from a descriptor is accepted, which cannot be read when the token is back")
	}
	if !(pkcs11.Config{}).IsZero() || (pkcs11.Config{Module: "m"}).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestABuildWithoutTheTagSaysSo(t *testing.T) {
	if pkcs11.Built {
		t.Skip("this build has the tag")
	}
	if _, err := pkcs11.Open(pkcs11.Config{}); !errors.Is(err, pkcs11.ErrNotBuilt) || !strings.Contains(err.Error(), "-tags pkcs11") {
		t.Errorf("error %v", err)
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=civibus;object=x;id=%3F%2a;type=private")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := pkcs11.ParseURI(text)
		if err != nil {
			return
		}
		again, err := pkcs11.ParseURI(u.String())
		if err != nil || again.Token != u.Token || again.Object != u.Object || !bytes.Equal(again.ID, u.ID) {
			t.Errorf("%q reads as %+v, written as %q reads as %+v (%v)", text, u, u, again, err)
		}
	})
}
