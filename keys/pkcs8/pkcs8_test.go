package pkcs8_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/civibus/civibus/keys/pkcs8"
	"github.com/civibus/civibus/keys/secret"
)

const phrase = "correct horse battery staple"

var cheap = pkcs8.Cost{N: 2, R: 8, P: 1}

func passphrase(text string, cost pkcs8.Cost) *pkcs8.Passphrase {
	return pkcs8.NewPassphrase(secret.NewText([]byte(text)), cost)
}

// privateKeys returns the DER of an Ed25519 and an ECDSA key.
func privateKeys(t testing.TB) map[string][]byte {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, k := range map[string]any{"ed25519": ed, "P-256": ec} {
		if out[name], err = x509.MarshalPKCS8PrivateKey(k); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	for name, der := range privateKeys(t) {
		p := passphrase(phrase, cheap)
		first, err := p.Encrypt(der)
		if err != nil {
			t.Fatal(err)
		}
		second, err := p.Encrypt(der)
		if err != nil || bytes.Equal(first, second) || bytes.Contains(first, der[len(der)-16:]) {
			t.Errorf("%s: encryption repeats itself or does nothing (%v)", name, err)
		}
		for _, opener := range []*pkcs8.Passphrase{p, passphrase(phrase, cheap)} {
			if got, err := opener.Decrypt(first); err != nil || !bytes.Equal(got, der) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestAWrongPassphraseIsSaidToBeWrong(t *testing.T) {
	sealed, err := passphrase(phrase, cheap).Encrypt(privateKeys(t)["P-256"])
	if err != nil {
		t.Fatal(err)
	}
	for i := range 600 { // the padding of some fits by chance
		if _, err := passphrase(fmt.Sprint("guess ", i), cheap).Decrypt(sealed); !errors.Is(err, pkcs8.ErrPassphrase) {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
}

// TestAFolderCostsOneDerivation: who decrypts a key encrypts others under the
// same salt, so that opening all of them derives once.
func TestAFolderCostsOneDerivation(t *testing.T) {
	der := privateKeys(t)["ed25519"]
	first, err := passphrase(phrase, cheap).Encrypt(der)
	if err != nil {
		t.Fatal(err)
	}
	later := passphrase(phrase, cheap)
	if _, err := later.Decrypt(first); err != nil {
		t.Fatal(err)
	}
	second, err := later.Encrypt(der)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := salt(t, first), salt(t, second); !bytes.Equal(a, b) {
		t.Errorf("salts %x and %x", a, b)
	}
	other, err := passphrase(phrase+"!", cheap).Encrypt(der)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(salt(t, first), salt(t, other)) {
		t.Error("another passphrase has the same salt")
	}
}

// salt finds scrypt's salt: 16 bytes that follow its identifier.
func salt(t *testing.T, der []byte) []byte {
	t.Helper()
	i := bytes.Index(der, []byte{0xda, 0x47, 0x04, 0x0b})
	if i < 0 {
		t.Fatal("no scrypt identifier")
	}
	return der[i+8 : i+24]
}

func openssl(t *testing.T, arguments ...string) []byte {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	out, err := exec.Command(program, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
	return out
}

func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenSSLReadsWhatIsWritten(t *testing.T) {
	secretFile := file(t, "phrase", []byte(phrase+"\n"))
	p := passphrase(phrase, pkcs8.DefaultCost())
	for name, der := range privateKeys(t) {
		sealed, err := p.Encrypt(der)
		if err != nil {
			t.Fatal(err)
		}
		path := file(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: sealed}))
		block, _ := pem.Decode(openssl(t, "pkcs8", "-in", path, "-passin", "file:"+secretFile))
		if block == nil || !bytes.Equal(block.Bytes, der) {
			t.Errorf("%s: openssl reads another key", name)
		}
		if why := pkcs8.Weak(sealed); why != "" {
			t.Errorf("%s: weak: %s", name, why)
		}
	}
}

func TestWhatOpenSSLWritesIsRead(t *testing.T) {
	secretFile := file(t, "phrase", []byte(phrase+"\n"))
	der := privateKeys(t)["P-256"]
	path := file(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for _, c := range []struct {
		arguments  string
		weak, fail string
	}{
		{"-v2 aes-256-cbc", "2048 iterations", ""},
		{"-v2 aes-256-cbc -v2prf hmacWithSHA512 -iter 1000", "1000 iterations", ""},
		{"-scrypt", "N=16384, r=8, p=1", ""},
		{"-v2 aes-128-cbc", "not AES-256-CBC", "openssl pkcs8 -topk8"},
		{"-v2 aes-256-cbc -v2prf hmacWithSHA1", "HMAC-SHA-256", "openssl pkcs8 -topk8"},
		{"-v1 PBE-SHA1-3DES", "not encrypted by PBES2", "openssl pkcs8 -topk8"},
	} {
		text := openssl(t, append([]string{"pkcs8", "-topk8", "-in", path, "-passout", "file:" + secretFile}, strings.Fields(c.arguments)...)...)
		block, _ := pem.Decode(text)
		got, err := passphrase(phrase, cheap).Decrypt(block.Bytes)
		switch {
		case c.fail == "" && (err != nil || !bytes.Equal(got, der)):
			t.Errorf("%s: %v", c.arguments, err)
		case c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)):
			t.Errorf("%s: error %v, want one with %q", c.arguments, err, c.fail)
		}
		if why := pkcs8.Weak(block.Bytes); !strings.Contains(why, c.weak) {
			t.Errorf("%s: weak because %q, want %q", c.arguments, why, c.weak)
		}
	}
}

func TestEncryptRefusesAShortPassphrase(t *testing.T) {
	if _, err := passphrase("fifteen letters", cheap).Encrypt(privateKeys(t)["P-256"]); err == nil || !strings.Contains(err.Error(), "at least 16") {
		t.Errorf("error %v", err)
	}
}

// TestCostIsBounded: a file does not get all the memory or time that it asks for.
func TestCostIsBounded(t *testing.T) {
	sealed, err := passphrase(phrase, cheap).Encrypt(privateKeys(t)["P-256"])
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2][]byte{
		{{0x02, 0x01, 0x02, 0x02, 0x01, 0x08}, {0x02, 0x01, 0x03, 0x02, 0x01, 0x08}}, // N=3
		{{0x02, 0x01, 0x02, 0x02, 0x01, 0x08}, {0x02, 0x01, 0x40, 0x02, 0x01, 0x00}}, // r=0
		{{0x02, 0x01, 0x20, 0x30}, {0x02, 0x01, 0x10, 0x30}},                         // another key size
	} {
		if bad := bytes.Replace(sealed, change[0], change[1], 1); !bytes.Equal(bad, sealed) {
			if _, err := passphrase(phrase, cheap).Decrypt(bad); err == nil || errors.Is(err, pkcs8.ErrPassphrase) {
				t.Errorf("%x: %v", change[1], err)
			}
		}
	}
	for _, cost := range []pkcs8.Cost{{N: 1 << 19, R: 8, P: 1}, {N: 1 << 14, R: 8, P: 1 << 20}, {N: 1 << 40, R: 1 << 20, P: 1 << 20}} {
		if _, err := passphrase(phrase, cost).Encrypt([]byte{0x30, 0}); err == nil || !strings.Contains(err.Error(), "more memory or time") {
			t.Errorf("%+v: %v", cost, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	p := passphrase(phrase, cheap)
	der := privateKeys(t)["ed25519"]
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			sealed, err := p.Encrypt(der)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := p.Decrypt(sealed); err != nil || !bytes.Equal(got, der) {
				t.Errorf("error %v", err)
			}
		})
	}
	group.Wait()
}

func TestNothingPrintsThePassphrase(t *testing.T) {
	p := passphrase(phrase, cheap)
	var out strings.Builder
	for _, v := range []any{p, *p, struct{ P *pkcs8.Passphrase }{p}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if j, err := json.Marshal(v); err == nil {
			out.Write(j)
		}
	}
	for _, spelling := range []string{phrase, fmt.Sprintf("%x", phrase), strings.Trim(fmt.Sprint([]byte(phrase)), "[]")} {
		if strings.Contains(out.String(), spelling) {
			t.Errorf("the passphrase is printed as %q", spelling)
		}
	}
}

func FuzzDecrypt(f *testing.F) {
	p := passphrase(phrase, cheap)
	for _, der := range privateKeys(f) {
		sealed, err := p.Encrypt(der)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if pkcs8.Weak(der) == "" {
			return // would take a quarter of a second or more
		}
		if plain, err := p.Decrypt(der); err == nil && len(plain) == 0 {
			t.Error("nothing was decrypted")
		}
	})
}
