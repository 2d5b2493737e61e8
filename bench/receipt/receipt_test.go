// Package receipt measures what the offline verification of a receipt costs
// beside the signature checks that it cannot do without.
//
// Trust: it measures, and nothing depends on it; an attacker who controls it
// can at most publish wrong figures.
package receipt

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	verifier "github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/receipttest"
)

// check is one signature of a receipt.
type check struct {
	key                civibus.PublicKey
	message, signature []byte
}

// signatures returns every signature check of a receipt, ready to be made.
func signatures(tb testing.TB, b *receipttest.Built) []check {
	r, err := verifier.Parse(b.Receipt)
	if err != nil {
		tb.Fatal(err)
	}
	keys := make(map[civibus.KeyID]civibus.PublicKey)
	for _, name := range []string{"1001/seal", "2002/seal", "p256/2002/seal"} {
		k := receipttest.NewKey(name).PublicKey
		keys[k.ID] = k
	}
	logKeys := map[evidencepb.Side]string{evidencepb.Side_SIDE_CONSUMER: "1001/log", evidencepb.Side_SIDE_PROVIDER: "2002/log"}
	var out []check
	text, lines, _ := strings.Cut(b.Note, "\n\n")
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		raw, err := base64.StdEncoding.DecodeString(words[2])
		if err != nil {
			tb.Fatal(err)
		}
		code := words[1][strings.LastIndexByte(words[1], '/')+1:]
		message := fmt.Sprintf("cosignature/v1\ntime %d\n%s\n", binary.BigEndian.Uint64(raw[4:]), text)
		out = append(out, check{receipttest.NewKey(code + "/witness").PublicKey, []byte(message), raw[12:]})
	}
	for _, e := range r.Entries {
		var rec evidencepb.Record
		if err := proto.Unmarshal(e.Record, &rec); err != nil {
			tb.Fatal(err)
		}
		for _, s := range []*evidencepb.Seal{rec.Request, rec.Response} {
			out = append(out, check{keys[civibus.KeyID(s.KeyId)], s.Base, s.Signature})
		}
		_, note, _ := strings.Cut(e.Proof, "\n\n")
		body, line, _ := strings.Cut(note, "\n\n")
		raw, err := base64.StdEncoding.DecodeString(strings.Fields(line)[2])
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, check{receipttest.NewKey(logKeys[rec.Side]).PublicKey, []byte(body + "\n"), raw[4:]})
	}
	return out
}

func (c check) do(tb testing.TB) {
	ok := false
	if public, is := c.key.Key.(ed25519.PublicKey); is {
		ok = ed25519.Verify(public, c.message, c.signature)
	} else {
		ok = c.key.Verify(c.message, c.signature)
	}
	if !ok {
		tb.Fatal("a signature of the receipt does not verify")
	}
}

// BenchmarkVerify measures the verification and, in the same loop, the bare
// signature checks of the same receipt. Metric "ratio" is the one over the
// other; the goal is at most 3.
func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"consumer_side", "both_sides", "both_sides_all_witnesses", "endpoint_right", "p256_seal_key"} {
		for _, v := range receipttest.Vectors() {
			if v.Name == name {
				b.Run(name, func(b *testing.B) { measure(b, v.Build()) })
			}
		}
	}
}

func measure(b *testing.B, built *receipttest.Built) {
	checks := signatures(b, built)
	var whole, bare time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if _, err := verifier.Verify(built.Receipt, built.Policy); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		for _, c := range checks {
			c.do(b)
		}
		whole += middle.Sub(start)
		bare += time.Since(middle)
	}
	b.ReportMetric(float64(whole)/float64(bare), "ratio")
	b.ReportMetric(float64(whole.Microseconds())/float64(b.N), "verify-µs")
	b.ReportMetric(float64(bare.Microseconds())/float64(b.N), "signatures-µs")
	b.ReportMetric(float64(len(checks)), "signatures")
	b.ReportMetric(float64(len(built.Receipt)), "bytes")
}
