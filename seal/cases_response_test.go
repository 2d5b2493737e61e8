package seal_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
)

// responseCases are those about the answer.
func (c cast) responseCases(t testing.TB) []testCase {
	request, sent := c.whole(t, c.ed, "POST", "{}", start)
	again, sentAgain := c.whole(t, c.ed, "POST", "{}", start)
	headRequest, sentHead := c.whole(t, c.ed, "HEAD", "", start)
	stream, pending := c.streamed(t, c.ed, "{}", -1)
	whole := c.answer(t, c.ec, sent.Binding(), 200, `{"ok":true}`)
	streamed := c.streamedAnswer(t, c.ec, sent.Binding(), 200, strings.Repeat("0123456789", 1000))
	var out []testCase
	ok := func(name string, req, resp message) {
		out = append(out, testCase{Name: name, Request: req, Response: &resp})
	}
	bad := func(class, name string, req, resp message, words string, change func(m *message)) {
		m := resp.clone()
		change(&m)
		out = append(out, testCase{Name: name, Failure: class, Code: civibus.FaultSeal, Words: words, Request: req, Response: &m})
	}
	ok("answer", request, whole)
	ok("refusal", request, c.answer(t, c.ec, sent.Binding(), 403, `{"type":"access_denied"}`))
	ok("streamed answer", request, streamed)
	ok("answer to a streamed request", stream, c.answer(t, c.ed, pending.Binding(), 200, "{}"))
	ok("streamed answer to a streamed request", stream, c.streamedAnswer(t, c.ed, pending.Binding(), 200, "0123456789"))
	early := seal.Unverified(message{Method: stream.Method, Target: stream.Target, Fields: stream.Fields}.request())
	ok("refusal before the end of a streamed request", stream, c.answer(t, c.ed, early, 403, "{}"))
	ok("no content", request, c.answer(t, c.ec, sent.Binding(), 204, ""))
	h := http.Header{"Content-Length": {"12345"}, "Content-Type": {"application/json"}}
	if _, err := seal.SealResponse(t.Context(), c.ec, h, 200, sentHead.Binding(), nil, start); err != nil {
		t.Fatal(err)
	}
	ok("answer to HEAD", headRequest, message{Status: 200, Fields: fieldList(h)})

	bad("altered_status", "answer", request, whole, "the signature is not", func(m *message) { m.Status = 201 })
	bad("altered_field", "answer", request, whole, "the signature is not", func(m *message) { m.edit(t, false, "X-Road-Request-Hash", "abc", "abd") })
	bad("altered_body", "answer", request, whole, "is not the one that was sealed", func(m *message) { m.Body[2] ^= 1 })
	bad("other_request", "answer to the same request sent before", again, whole, "the signature is not", func(*message) {})
	bad("other_request", "answer to another method", headRequest, whole, "the signature is not", func(m *message) {})
	bad("other_request", "binding left out", request, whole, "not bound to the request", func(m *message) {
		m.edit(t, false, "Signature-Input", ` "signature";req;key="civibus"`, "")
	})
	bad("other_request", "answer to a whole request for a streamed one", stream, whole, "not bound to the request", func(*message) {})
	bad("wrong_parameters", "nonce in an answer", request, whole, "parameters", func(m *message) {
		m.edit(t, false, "Signature-Input", ";keyid", `;nonce="AAECAwQFBgcICQoLDA0ODw==";keyid`)
	})
	bad("altered_body", "streamed answer", request, streamed, "is not the one that was sealed", func(m *message) { m.Body[5] ^= 1 })
	bad("altered_status", "streamed answer", request, streamed, "the signature is not", func(m *message) { m.Status = 206 })
	bad("no_trailers", "streamed answer", request, streamed, "trailers have no seal", func(m *message) { m.Trailers = [][2]string{} })
	bad("no_seal", "a request's seal as the answer's", request, whole, "does not begin", func(m *message) {
		m.drop(false, "Signature")
		m.drop(false, "Signature-Input")
		m.add("Signature", headerOf(request.Fields).Get("Signature"))
		m.add("Signature-Input", strings.Replace(headerOf(request.Fields).Get("Signature-Input"), `;nonce="`+sent.Nonce+`"`, "", 1))
	})
	// Only a refusal may be bound to the head alone.
	refusal := c.answer(t, c.ed, early, 403, "{}")
	refusal.Status = 200
	out = append(out, testCase{Name: "a refusal turned into an answer", Failure: "early_answer", Code: civibus.FaultIO, Words: "needs the whole sealed request", Request: stream, Response: &refusal})
	_ = sentAgain
	return out
}
