package seal_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"testing"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
	"pgregory.net/rapid"

	"github.com/civibus/civibus/seal"
)

// torsion are the encodings of the points of small order, canonical and not,
// with and without the sign bit where it changes nothing.
var torsion = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	// not canonical
	"0100000000000000000000000000000000000000000000000000000000000080",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// agree compares the two implementations and returns what they say.
func agree(t interface {
	Fatalf(string, ...any)
	Helper()
}, pub, message, sig []byte) bool {
	t.Helper()
	want := ed25519.Verify(pub, message, sig)
	if got := seal.VerifyEd25519(pub, message, sig); got != want {
		t.Fatalf("key %x signature %x message %x: %v, crypto/ed25519 says %v", pub, sig, message, got, want)
	}
	return want
}

// TestEd25519SmallOrder crosses every small-order and non-canonical A with
// every such R and with edge values of S.
func TestEd25519SmallOrder(t *testing.T) {
	order := unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	below := append([]byte{}, order...)
	below[0]--
	above := append([]byte{}, order...)
	above[0]++
	scalars := [][]byte{make([]byte, 32), append([]byte{1}, make([]byte, 31)...), below, order, above,
		unhex(t, "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff1f"),
		unhex(t, "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff")}
	accepted := 0
	for _, a := range torsion {
		for _, r := range torsion {
			for _, s := range scalars {
				for m := range 8 { // the challenge runs through the residues that matter
					sig := append(unhex(t, r), s...)
					if agree(t, unhex(t, a), []byte{byte(m)}, sig) {
						accepted++
					}
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("no case is accepted by either: the cases do not reach the equation")
	}
}

// TestEd25519Mixed uses keys and commitments with a small-order part added,
// which cofactored and cofactorless equations treat differently.
func TestEd25519Mixed(t *testing.T) {
	accepted, refused := 0, 0
	for i := range 200 {
		seed := make([]byte, 32)
		_, _ = rand.Read(seed)
		h := sha512.Sum512(seed)
		a, err := scalar.NewFromBytesModOrderWide(h[:])
		if err != nil {
			t.Fatal(err)
		}
		mixed := func(x *scalar.Scalar, encoded string) []byte {
			var p, small curve.EdwardsPoint
			p.MulBasepoint(curve.ED25519_BASEPOINT_TABLE, x)
			var c curve.CompressedEdwardsY
			if _, err := c.SetBytes(unhex(t, encoded)); err != nil {
				t.Fatal(err)
			}
			if _, err := small.SetCompressedY(&c); err != nil {
				t.Fatal(err)
			}
			p.Add(&p, &small)
			c.SetEdwardsPoint(&p)
			return append([]byte{}, c[:]...)
		}
		r := scalar.NewFromUint64(uint64(i) + 7)
		pub := mixed(a, torsion[i%8])
		commitment := mixed(r, torsion[(i/8)%8])
		message := []byte{byte(i)}
		sum := sha512.New()
		sum.Write(commitment)
		sum.Write(pub)
		sum.Write(message)
		k, err := scalar.NewFromBytesModOrderWide(sum.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		var s scalar.Scalar
		s.Mul(k, a)
		s.Add(&s, r)
		out := make([]byte, 32)
		if err := s.ToBytes(out); err != nil {
			t.Fatal(err)
		}
		if agree(t, pub, message, append(commitment, out...)) {
			accepted++
		} else {
			refused++
		}
	}
	if accepted == 0 || refused == 0 {
		t.Errorf("accepted %d, refused %d: both must occur", accepted, refused)
	}
}

// TestEd25519Malleable adds the group order to S and flips single bits.
func TestEd25519Malleable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		message := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "message")
		key := ed25519.NewKeyFromSeed(seed)
		pub := key.Public().(ed25519.PublicKey)
		sig := ed25519.Sign(key, message)
		if !agree(t, pub, message, sig) {
			t.Fatalf("a good signature is refused")
		}
		order, _ := hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
		more, carry := append([]byte{}, sig...), 0
		for i := range order {
			carry += int(more[32+i]) + int(order[i])
			more[32+i], carry = byte(carry), carry>>8
		}
		if agree(t, pub, message, more) {
			t.Fatalf("a malleable signature is accepted")
		}
		bit := rapid.IntRange(0, 511).Draw(t, "bit")
		sig[bit/8] ^= 1 << (bit % 8)
		if agree(t, pub, message, sig) {
			t.Fatalf("an altered signature is accepted")
		}
		agree(t, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"), message, sig)
		agree(t, pub, message, sig[:rapid.IntRange(0, 63).Draw(t, "length")])
	})
}

func FuzzEd25519(f *testing.F) {
	f.Add(make([]byte, 32), []byte("m"), make([]byte, 64))
	f.Fuzz(func(t *testing.T, pub, message, sig []byte) {
		if len(pub) == ed25519.PublicKeySize {
			agree(t, pub, message, sig)
		}
	})
}

func BenchmarkEd25519Verify(b *testing.B) {
	s := edSigner(b)
	message := make([]byte, 1000)
	sig, err := s.sign(message)
	if err != nil {
		b.Fatal(err)
	}
	for name, verify := range map[string]func(m, sig []byte) bool{"crypto": s.pub.Verify, "voi": seal.CachedVerifier(s.pub)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !verify(message, sig) {
					b.Fatal("it does not verify")
				}
			}
		})
	}
}
