package mldsa_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	filippo "filippo.io/mldsa"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
)

var algorithms = []civibus.Algorithm{civibus.MLDSA44, civibus.MLDSA65, civibus.MLDSA87}

// TestVectors holds the package against the vectors of C2SP httpsig-pq v1.0.0.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/httpsig-pq.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct {
			ID        string            `json:"id"`
			Algorithm civibus.Algorithm `json:"algorithm"`
			Seed      string            `json:"private_key_seed_hex"`
			Public    []byte            `json:"public_key_base64"`
			Base      []byte            `json:"signature_base_base64"`
			Signature []byte            `json:"deterministic_signature_base64"`
		} `json:"vectors"`
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Vectors) != 3 {
		t.Fatalf("%d vectors, error %v", len(file.Vectors), err)
	}
	for _, v := range file.Vectors {
		t.Run(v.ID, func(t *testing.T) {
			seed, _ := hex.DecodeString(v.Seed)
			k, err := mldsa.NewPrivateKey(v.Algorithm, seed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(k.Public().Bytes(), v.Public) {
				t.Error("the seed gives another public key")
			}
			if got, err := k.SignDeterministically(v.Base); err != nil || !bytes.Equal(got, v.Signature) {
				t.Errorf("another signature, error %v", err)
			}
			public, err := mldsa.NewPublicKey(v.Algorithm, v.Public)
			if err != nil || !public.Verify(v.Base, v.Signature) || public.Verify(append(v.Base, '\n'), v.Signature) {
				t.Errorf("verification is wrong, error %v", err)
			}
		})
	}
}

// TestEncodings holds the DER against RFC 9881's examples (appendix C), of which
// the seed is 0 to 31, and reads it back.
func TestEncodings(t *testing.T) {
	seed := make([]byte, mldsa.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	for _, c := range []struct {
		algorithm     civibus.Algorithm
		private, spki string // base64; of the public key the beginning
	}{
		{civibus.MLDSA44, "MDQCAQAwCwYJYIZIAWUDBAMRBCKAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f", "MIIFMjALBglghkgBZQMEAxEDggUhANeytHJUquDb"},
		{civibus.MLDSA65, "MDQCAQAwCwYJYIZIAWUDBAMSBCKAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f", "MIIHsjALBglghkgBZQMEAxIDggehAEhoPZGXjjHr"},
		{civibus.MLDSA87, "MDQCAQAwCwYJYIZIAWUDBAMTBCKAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f", "MIIKMjALBglghkgBZQMEAxMDggohAJeSvOwvJDBo"},
	} {
		k, err := mldsa.NewPrivateKey(c.algorithm, seed)
		if err != nil {
			t.Fatal(err)
		}
		if got := base64.StdEncoding.EncodeToString(k.PKCS8()); got != c.private {
			t.Errorf("%s private key %s", c.algorithm, got)
		}
		if got := base64.StdEncoding.EncodeToString(k.Public().SPKI()); !strings.HasPrefix(got, c.spki) {
			t.Errorf("%s public key %.64s", c.algorithm, got)
		}
		again, err := mldsa.ParsePKCS8(k.PKCS8())
		if err != nil || !again.Public().Equal(k.Public()) {
			t.Errorf("%s private key read back: %v", c.algorithm, err)
		}
		public, err := mldsa.ParsePublicKey(k.Public().SPKI())
		if err != nil || public.Algorithm != c.algorithm || !k.Public().Equal(public.Key) {
			t.Fatalf("%s public key read back: %v", c.algorithm, err)
		}
		if signature, err := k.Sign([]byte("m")); err != nil || !public.Verify([]byte("m"), signature) {
			t.Errorf("%s: %v", c.algorithm, err)
		}
	}
}

// TestAgreesWithASecondImplementation signs here and verifies there, and the
// other way round.
func TestAgreesWithASecondImplementation(t *testing.T) {
	theirs := map[civibus.Algorithm]func(seed []byte) (*filippo.PrivateKey, error){
		civibus.MLDSA44: func(s []byte) (*filippo.PrivateKey, error) { return filippo.NewPrivateKey(filippo.MLDSA44(), s) },
		civibus.MLDSA65: func(s []byte) (*filippo.PrivateKey, error) { return filippo.NewPrivateKey(filippo.MLDSA65(), s) },
		civibus.MLDSA87: func(s []byte) (*filippo.PrivateKey, error) { return filippo.NewPrivateKey(filippo.MLDSA87(), s) },
	}
	for _, algorithm := range algorithms {
		for n := range 4 {
			seed := bytes.Repeat([]byte{byte(n)}, mldsa.SeedSize)
			ours, err := mldsa.NewPrivateKey(algorithm, seed)
			if err != nil {
				t.Fatal(err)
			}
			other, err := theirs[algorithm](seed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(other.PublicKey().Bytes(), ours.Public().Bytes()) {
				t.Fatalf("%s: one seed, two public keys", algorithm)
			}
			message := bytes.Repeat([]byte{'m'}, n*n*100)
			a, err := ours.Sign(message)
			if err != nil || filippo.Verify(other.PublicKey(), message, a, nil) != nil {
				t.Errorf("%s: ours does not verify there (%v)", algorithm, err)
			}
			b, err := other.Sign(nil, message, nil)
			if err != nil || !ours.Public().Verify(message, b) {
				t.Errorf("%s: theirs does not verify here (%v)", algorithm, err)
			}
			withContext, err := other.Sign(nil, message, &filippo.Options{Context: "c"})
			if err != nil || ours.Public().Verify(message, withContext) {
				t.Errorf("%s: a signature with a context verifies (%v)", algorithm, err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	k, err := mldsa.Generate(civibus.MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := k.Sign([]byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := k.Sign([]byte("m"))
	if err != nil || bytes.Equal(signature, second) {
		t.Errorf("two signatures of a message are equal (%v)", err)
	}
	for name, wrong := range map[string][]byte{
		"empty": nil, "short": signature[:len(signature)-1], "long": append(bytes.Clone(signature), 0),
		"flipped": append([]byte{signature[0] ^ 1}, signature[1:]...), "zero": make([]byte, len(signature)),
	} {
		if k.Public().Verify([]byte("m"), wrong) {
			t.Errorf("a signature that is %s verifies", name)
		}
	}
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"generate", failure(mldsa.Generate(civibus.Ed25519)), "ml-dsa-44"},
		{"short seed", failure(mldsa.NewPrivateKey(civibus.MLDSA44, make([]byte, 31))), "32"},
		{"short public key", failure(mldsa.NewPublicKey(civibus.MLDSA44, make([]byte, 1311))), "1312"},
		{"public key of another set", failure(mldsa.NewPublicKey(civibus.MLDSA65, k.Public().Bytes())), "1952"},
		{"another algorithm", failure(mldsa.NewPublicKey("rsa", nil)), "ml-dsa-44"},
		{"trailing byte", failure(mldsa.ParsePublicKey(append(k.Public().SPKI(), 0))), "SubjectPublicKeyInfo"},
		{"expanded private key", failure(mldsa.ParsePKCS8(expanded())), "seed-only"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	for _, other := range [][]byte{nil, {0x30}, bytes.Repeat([]byte{0x30}, 54)} {
		if _, err := mldsa.ParsePKCS8(other); !errors.Is(err, mldsa.ErrNotMLDSA) {
			t.Errorf("%x: %v", other, err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %x", []any{k, *k, k, *k}...); strings.Contains(s, hex.EncodeToString(k.PKCS8()[22:])) {
		t.Error("the seed is printed")
	}
}

func failure[T any](_ T, err error) error { return err }

// expanded has the beginning of a key with seed and expanded key, as OpenSSL
// writes it.
func expanded() []byte {
	der, _ := hex.DecodeString("30820a3e020100300b0609608648016503040311")
	return append(der, make([]byte, 0xa3e-16)...)
}

func TestConcurrentUse(t *testing.T) {
	k, err := mldsa.Generate(civibus.MLDSA65)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 8 {
				if signature, err := k.Sign([]byte("m")); err != nil || !k.Public().Verify([]byte("m"), signature) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
	group.Wait()
}

func FuzzParse(f *testing.F) {
	for _, algorithm := range algorithms {
		k, err := mldsa.Generate(algorithm)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k.Public().SPKI())
		f.Add(k.PKCS8())
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if k, err := mldsa.ParsePublicKey(der); err == nil && k.Algorithm.PostQuantum() && !bytes.Equal(k.SPKI, der) {
			t.Error("a second encoding of a key is accepted")
		}
		if k, err := mldsa.ParsePKCS8(der); err == nil && !bytes.Equal(k.PKCS8(), der) {
			t.Error("a second encoding of a private key is accepted")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	for _, algorithm := range algorithms {
		b.Run(string(algorithm), func(b *testing.B) {
			k, _ := mldsa.Generate(algorithm)
			for b.Loop() {
				if _, err := k.Sign([]byte("m")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, algorithm := range algorithms {
		b.Run(string(algorithm), func(b *testing.B) {
			k, _ := mldsa.Generate(algorithm)
			signature, _ := k.Sign([]byte("m"))
			for b.Loop() {
				if !k.Public().Verify([]byte("m"), signature) {
					b.Fatal("does not verify")
				}
			}
		})
	}
}
