package proof_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/internal/receipttest"
	"github.com/civibus/civibus/seal"
)

// TestRealSeals verifies receipts whose seals package seal made: the profile
// that gateways use and the one that this package reads are the same.
func TestRealSeals(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		stream  bool
		refused bool
		body    string
		key     string
	}{
		"whole":          {"GET", false, false, "", "2002/seal"},
		"with body":      {"POST", false, false, "a=1", "2002/seal"},
		"P-256":          {"GET", false, false, "", "p256/2002/seal"},
		"head":           {"HEAD", false, false, "", "2002/seal"},
		"streamed":       {"PUT", true, false, "streamed body", "2002/seal"},
		"refused":        {"POST", false, true, "a=1", "2002/seal"},
		"refused stream": {"PUT", true, true, "streamed body", "2002/seal"},
	} {
		t.Run(name, func(t *testing.T) {
			s := receipttest.New()
			s.Method, s.Sides = c.method, append(s.Sides, s.ProviderSide())
			if s.ResponseKey = c.key; c.key != "2002/seal" {
				s.AddKey(c.key, receipttest.Provider, 1, 1, 0)
			}
			e := &realExchange{t: t, s: s, body: c.body, refused: c.refused}
			e.run(c.stream)
			for _, side := range s.Sides {
				side.EditRecord = e.record
			}
			b := s.Build()
			if _, err := proof.Verify(b.Receipt, b.Policy); err != nil {
				t.Error(err)
			}
		})
	}
}

// realExchange makes the seals of one exchange with package seal.
type realExchange struct {
	t       *testing.T
	s       *receipttest.Scenario
	body    string
	refused bool

	request, response *seal.Seal
	status            int
}

func (e *realExchange) record(r *evidencepb.Record) {
	r.Request, r.RequestBody = record(e.request)
	r.Response, r.ResponseBody = record(e.response)
	r.Status = uint32(e.status)
	if e.refused {
		r.Outcome, r.Fault, r.RightId = evidencepb.Outcome_OUTCOME_REFUSED, string(civibus.FaultAccessDenied), ""
	}
}

func record(s *seal.Seal) (*evidencepb.Seal, *evidencepb.Body) {
	out := &evidencepb.Seal{Base: s.Base, Signature: s.Signature, KeyId: s.KeyID[:]}
	if s.Head {
		return out, nil
	}
	return out, &evidencepb.Body{Size: uint64(s.Size), Sha256: s.Digest[:]}
}

type signer struct{ key *receipttest.Key }

func (s signer) Key() civibus.PublicKey { return s.key.PublicKey }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return s.key.Sign(message), nil
}

func (e *realExchange) run(stream bool) {
	ctx, now := e.t.Context(), time.Unix(receipttest.Created, 0)
	r, err := http.NewRequestWithContext(ctx, e.s.Method, "https://gateway.example"+e.s.Path+e.s.Query, nil)
	e.must(err)
	r.Header = http.Header{
		civibus.HeaderClient: {receipttest.Client}, civibus.HeaderID: {receipttest.Message}, civibus.HeaderRequestID: {receipttest.Exchange},
		civibus.HeaderHeight: {"40"}, civibus.HeaderPurpose: {"SOCIAL-BENEFIT"}, "Accept": {"application/json"}, "Authorization": {"secret"},
	}
	answer := http.Header{civibus.HeaderRequestID: {receipttest.Exchange}, civibus.HeaderID: {receipttest.Message}, civibus.HeaderHeight: {"40"}}
	e.status = 200
	if e.refused {
		e.status = 403
		answer[civibus.HeaderFault] = []string{string(civibus.FaultAccessDenied)}
	}
	consumer, provider := signer{receipttest.NewKey(e.s.RequestKey)}, signer{receipttest.NewKey(e.s.ResponseKey)}
	if !stream {
		e.request, err = seal.SealRequest(ctx, consumer, r, []byte(e.body), now)
		e.must(err)
		e.whole(provider, answer, e.request.Binding(), now)
		return
	}
	r.ContentLength = int64(len(e.body))
	p, err := seal.SealRequestStream(ctx, consumer, r, bytes.NewReader([]byte(e.body)), now)
	e.must(err)
	if e.refused { // before the body has come
		e.whole(provider, answer, p.Binding(), now)
		e.request = p.Seal()
		return
	}
	_, err = io.Copy(io.Discard, r.Body)
	e.must(err)
	e.request = p.Seal()
	w := httptest.NewRecorder()
	w.Header()[civibus.HeaderRequestID] = answer[civibus.HeaderRequestID]
	out, err := seal.NewResponseStream(ctx, provider, w, e.status, p.Binding(), -1, now)
	e.must(err)
	_, err = out.Write([]byte("answer"))
	e.must(err)
	e.must(out.Close())
	e.response = out.Seal()
}

// whole seals an answer with a whole body.
func (e *realExchange) whole(provider civibus.Signer, h http.Header, to *seal.RequestSeal, now time.Time) {
	body := []byte(`{"ok":true}`)
	if e.s.Method == http.MethodHead {
		body = nil
		h.Set("Content-Length", "11")
	}
	var err error
	e.response, err = seal.SealResponse(e.t.Context(), provider, h, e.status, to, body, now)
	e.must(err)
}

func (e *realExchange) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}
