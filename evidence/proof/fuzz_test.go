package proof_test

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/receipttest"
)

// FuzzVerify feeds files and policies to the verifier. Nothing may panic, and
// whatever is said to be valid must survive being written again.
func FuzzVerify(f *testing.F) {
	for i, v := range receipttest.Vectors() {
		if v.Failure == "" || i%7 == 0 {
			b := v.Build()
			f.Add(b.Receipt, b.Policy)
		}
	}
	f.Fuzz(func(t *testing.T, receipt, policy []byte) {
		r, err := proof.Verify(receipt, policy)
		if r == nil || (err == nil) != r.Valid || len(r.Steps) == 0 {
			t.Fatalf("report %+v, error %v", r, err)
		}
		if err := r.WriteText(io.Discard); err != nil {
			t.Fatal(err)
		}
		parsed, err := proof.Parse(receipt)
		if err != nil {
			return
		}
		if !json.Valid(receipt) {
			t.Fatal("a receipt that is not JSON was read")
		}
		again, err := parsed.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if r2, _ := proof.Verify(again, policy); r2.Valid != r.Valid || r2.Failure != r.Failure {
			t.Fatalf("written again: %v %q, before %v %q", r2.Valid, r2.Failure, r.Valid, r.Failure)
		}
	})
}

// FuzzSeal feeds bases to the part of the verifier that reads them, signed as a
// body could sign anything.
func FuzzSeal(f *testing.F) {
	s := receipttest.New()
	s.Sides[0].EditRecord = func(r *evidencepb.Record) {
		f.Add(bytes.Clone(r.Request.Base), bytes.Clone(r.Response.Base))
	}
	s.Build()
	f.Fuzz(func(t *testing.T, request, response []byte) {
		s := receipttest.New()
		s.Sides[0].EditRecord = func(r *evidencepb.Record) {
			r.Request.Base, r.Request.Signature = request, receipttest.NewKey(s.RequestKey).Sign(request)
			r.Response.Base, r.Response.Signature = response, receipttest.NewKey(s.ResponseKey).Sign(response)
		}
		b := s.Build()
		if r, _ := proof.Verify(b.Receipt, b.Policy); r.Valid {
			// The answer quotes the request's signature, so only the scenario's own
			// request can have an answer.
			if !bytes.Contains(request, []byte(receipttest.Exchange)) || !bytes.Contains(response, []byte(`"signature";req`)) {
				t.Fatalf("valid with request %q and response %q", request, response)
			}
		}
	})
}
