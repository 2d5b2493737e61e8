package registry_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// signMixed signs like Ed25519, but for a point of order eight in R: only the key's
// owner can do that, and only ZIP 215 accepts it.
func signMixed(s *testSigner, message []byte) []byte {
	h := sha512.Sum512(s.ed.Seed())
	h[0] &= 248
	h[31] = h[31]&63 | 64
	a := must(scalar.NewFromBytesModOrder(h[:32]))
	r := scalar.NewFromUint64(7)
	var p, small curve.EdwardsPoint
	p.MulBasepoint(curve.ED25519_BASEPOINT_TABLE, r)
	var c curve.CompressedEdwardsY
	copy(c[:], must(hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")))
	must(small.SetCompressedY(&c))
	p.Add(&p, &small)
	c.SetEdwardsPoint(&p)
	sum := sha512.New()
	sum.Write(c[:])
	sum.Write(s.ed.Public().(ed25519.PublicKey))
	sum.Write(message)
	k := must(scalar.NewFromBytesModOrderWide(sum.Sum(nil)))
	var x scalar.Scalar
	x.Mul(k, a)
	x.Add(&x, r)
	signature := append(bytes.Clone(c[:]), make([]byte, 32)...)
	if err := x.ToBytes(signature[32:]); err != nil {
		panic(err)
	}
	return signature
}

// mixed is an envelope whose signature has a point of order eight in R.
func (w *world) mixed(s *testSigner, body any) []byte {
	var e registrypb.Envelope
	if err := proto.Unmarshal(w.tx(s, body), &e); err != nil {
		w.t.Fatal(err)
	}
	e.Signature = signMixed(s, append([]byte("civibus/tx/v1\n"), e.Tx...))
	return must(registry.EncodeCanonical(&e))
}

// TestSignaturesOfProtocol2: from its block on, and not before, signatures are those
// of ZIP 215, wherever they are verified.
func TestSignaturesOfProtocol2(t *testing.T) {
	g := testGenesis()
	g.Protocol = 1
	w := newWorldOf(t, must(registry.ParseGenesis(must(g.TOML()))))
	b := edKey("B/admin")
	body := &registrypb.SetSubsystem{Id: idB + "/X", Name: "X"}
	everywhere := func(envelope []byte) (check, all, execute registry.Code) {
		t.Helper()
		w.m.Forget()
		check = w.m.Check(envelope).Code
		w.m.Forget()
		all = w.m.CheckAll([][]byte{envelope, w.tx(edKey("A/admin"), &registrypb.SetSubsystem{Id: idA + "/Y", Name: "Y"})})[0].Code
		w.m.Forget()
		return check, all, must(w.m.Execute(w.m.Height()+1, w.now, [][]byte{envelope}, nil)).Results[0].Code
	}
	at := w.m.Height() + 5
	w.pass(&registrypb.PlanUpgrade{Name: "protocol-2", Height: at})
	for w.m.Height() < at-2 {
		w.block()
	}
	envelope := w.mixed(b, body)
	if check, all, execute := everywhere(envelope); check != registry.BadSignature || all != registry.BadSignature || execute != registry.BadSignature {
		t.Errorf("protocol 1: %s, %s, %s", check, all, execute)
	}
	w.block()
	// The next block is the first of protocol 2. What waits for it is checked by the
	// rules before it.
	if check, all, execute := everywhere(envelope); check != registry.BadSignature || all != registry.BadSignature || execute != registry.OK {
		t.Errorf("the block of the upgrade: %s, %s, %s", check, all, execute)
	}
	w.block()
	if p := w.view().Params(); p.Protocol != 2 {
		t.Fatalf("protocol %d", p.Protocol)
	}
	if check, all, execute := everywhere(envelope); check != registry.OK || all != registry.OK || execute != registry.OK {
		t.Errorf("protocol 2: %s, %s, %s", check, all, execute)
	}
}

// TestCheckAllIsCheck: whatever stands in a list, each envelope has the result that
// it has alone, and Execute finds out the same after either.
func TestCheckAllIsCheck(t *testing.T) {
	w := newWorld(t)
	r := rand.New(rand.NewPCG(3, 4))
	signers := []*testSigner{edKey("A/admin"), edKey("B/admin"), edKey("C/admin"), edKey("nobody")}
	var pool [][]byte
	for i := range 40 {
		s := signers[r.IntN(len(signers))]
		good := w.tx(s, &registrypb.SetSubsystem{Id: []string{idA, idB, idC}[r.IntN(3)] + "/S" + string(rune('A'+i%26)), Name: "S"})
		pool = append(pool, good)
		bad := bytes.Clone(good)
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		last := bytes.Clone(good)
		last[len(last)-40] ^= 4 // of the signature
		pool = append(pool, bad, last)
	}
	pool = append(pool, nil, []byte("x"), w.mixed(signers[1], &registrypb.SetSubsystem{Id: idB + "/Z", Name: "Z"}))
	codes := make(map[registry.Code]int)
	for range 60 {
		list := make([][]byte, r.IntN(80))
		for i := range list {
			list[i] = pool[r.IntN(len(pool))]
		}
		w.m.Forget()
		want := make([]registry.Result, len(list))
		for i, e := range list {
			want[i] = w.m.Check(e)
		}
		alone := must(w.m.Execute(w.m.Height()+1, w.now, list, nil))
		w.m.Forget()
		for i, got := range w.m.CheckAll(list) {
			if got != want[i] {
				t.Fatalf("envelope %d of %d: %+v, alone %+v", i, len(list), got, want[i])
			}
			codes[got.Code]++
		}
		together := must(w.m.Execute(w.m.Height()+1, w.now, list, nil))
		if alone.AppHash != together.AppHash {
			t.Fatal("the block has another hash after CheckAll")
		}
	}
	if codes[registry.OK] == 0 || codes[registry.BadSignature] == 0 || codes[registry.UnknownKey] == 0 || codes[registry.BadEncoding] == 0 {
		t.Errorf("codes %v: the test does not reach what it is for", codes)
	}
}
