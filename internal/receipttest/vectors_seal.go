package receipttest

import (
	"bytes"
	"crypto/sha256"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

func mustUnmarshal(b []byte, m proto.Message) { must(proto.Unmarshal(b, m)) }

// params changes the parameters of one seal.
func params(which, old, new string) func(*Scenario) {
	return func(s *Scenario) {
		s.EditParams = func(w, p string) string {
			if w != which {
				return p
			}
			if !strings.Contains(p, old) {
				panic("receipttest: the parameters have no " + old)
			}
			return strings.Replace(p, old, new, 1)
		}
	}
}

// signed signs something else than the recorded base of one seal.
func signed(which, old, new string) func(*Scenario) {
	return func(s *Scenario) {
		s.EditSigned = func(w string, b []byte) []byte {
			if w != which {
				return b
			}
			if !bytes.Contains(b, []byte(old)) {
				panic("receipttest: the base has no " + old)
			}
			return bytes.Replace(b, []byte(old), []byte(new), 1)
		}
	}
}

// requestVectors break the request's seal.
func requestVectors() []Vector {
	base := func(change func([]Line) []Line) func(*Scenario) {
		return func(s *Scenario) { s.EditRequest = change }
	}
	return []Vector{
		{"request_key_wrong_purpose", proof.RequestKeyWrongPurpose, "sealed with the body's log key", func(s *Scenario) { s.RequestKey = "1001/log" }},
		{"request_key_of_another_member", proof.RequestKeyOfAnotherMember, "sealed by a third body", func(s *Scenario) { s.RequestKey = "3003/seal" }},
		{"request_key_of_another_member-provider", proof.RequestKeyOfAnotherMember, "sealed by the provider itself", func(s *Scenario) { s.RequestKey = "2002/seal" }},
		{"request_key_not_in_force-later", proof.RequestKeyNotInForce, "the key came into force after the decision, before the anchor", func(s *Scenario) {
			s.AddKey("1001/seal", Consumer, registrypb.Purpose_PURPOSE_SEAL, 41, 0)
		}},
		{"request_key_not_in_force-revoked", proof.RequestKeyNotInForce, "the key was revoked at the height of the decision", func(s *Scenario) {
			s.AddKey("1001/seal", Consumer, registrypb.Purpose_PURPOSE_SEAL, 1, 40)
		}},
		{"request_seal_invalid", proof.RequestSealInvalid, "the query was changed after it was sealed", signed("request", "?fields=address", "?fields=name")},
		{"request_seal_invalid-s_not_reduced", proof.RequestSealInvalid, "the signature's S has the group order added to it", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Request.Signature = addOrder(r.Request.Signature) }
		}},
		{"request_base_malformed-list", proof.RequestBaseMalformed, "@signature-params lists another component than the lines", func(s *Scenario) {
			s.EditParams = nil
			s.EditRequest = func(l []Line) []Line { return append(l, Line{`"x-road-issue": a` + "\n" + `"x"`, "b"}) }
		}},
		{"request_base_malformed-repeated", proof.RequestBaseMalformed, "a component twice with different values", base(func(l []Line) []Line { return append(l, Line{`"x-road-client"`, Consumer + "/other"}) })},
		{"request_base_malformed-req", proof.RequestBaseMalformed, "a request that covers a part of a request before it", base(func(l []Line) []Line { return append(l, Line{`"@method";req`, "GET"}) })},
		{"request_params_mismatch-keyid", proof.RequestParamsMismatch, "keyid names another key", params("request", NewKey("1001/seal").Hex(), NewKey("3003/seal").Hex())},
		{"request_params_mismatch-tag", proof.RequestParamsMismatch, "a signature made for another purpose", params("request", `tag="civibus"`, `tag="other"`)},
		{"request_params_mismatch-head", proof.RequestParamsMismatch, "an answered exchange with the seal of a head only", func(s *Scenario) { s.Head = true }},
		{"request_params_mismatch-alg", proof.RequestParamsMismatch, "alg names another algorithm than the key's", params("request", `alg="ed25519"`, `alg="rsa-pss-sha512"`)},
		{"request_params_mismatch-nonce", proof.RequestParamsMismatch, "no nonce", params("request", `;nonce="q83vEjRWeJCrze8SNFZ4kA=="`, "")},
		{"request_component_missing-client", proof.RequestComponentMissing, "x-road-client is not covered", base(func(l []Line) []Line { return drop(l, `"x-road-client"`) })},
		{"request_component_missing-digest", proof.RequestComponentMissing, "content-digest is not covered: any body would do", base(func(l []Line) []Line { return drop(l, `"content-digest"`) })},
		{"request_component_missing-query", proof.RequestComponentMissing, "@query is not covered", base(func(l []Line) []Line { return drop(l, `"@query"`) })},
		{"request_client_mismatch", proof.RequestClientMismatch, "sealed for another subsystem of the same body", base(func(l []Line) []Line { return set(l, `"x-road-client"`, Consumer+"/pensions") })},
		{"request_client_mismatch-list", proof.RequestClientMismatch, "two x-road-client fields", base(func(l []Line) []Line { return set(l, `"x-road-client"`, Consumer+"/pensions, "+Client) })},
		{"request_service_mismatch", proof.RequestServiceMismatch, "sealed for another service of the provider", func(s *Scenario) { s.Path = strings.Replace(s.Path, "/persons/", "/deaths/", 1) }},
		{"request_service_mismatch-case", proof.RequestServiceMismatch, "identifiers are case-sensitive", func(s *Scenario) { s.Path = strings.Replace(s.Path, "/persons/", "/Persons/", 1) }},
		{"request_service_mismatch-short", proof.RequestServiceMismatch, "a path with too few segments", func(s *Scenario) { s.Path = "/r1/DEMO/GOV/2002/population" }},
		{"request_id_mismatch", proof.RequestIDMismatch, "the seal of another exchange of the same two bodies", base(func(l []Line) []Line { return set(l, `"x-road-request-id"`, strings.Replace(Exchange, "7", "8", 1)) })},
		{"request_id_mismatch-message", proof.RequestIDMismatch, "another message id", base(func(l []Line) []Line { return set(l, `"x-road-id"`, "other") })},
		{"request_digest_mismatch", proof.RequestDigestMismatch, "the recorded body digest is not the sealed one", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { h := sum([]byte("other")); r.RequestBody.Sha256 = h[:] }
		}},
		{"request_digest_mismatch-two", proof.RequestDigestMismatch, "two sha-256 members, one of them right", base(func(l []Line) []Line {
			return set(l, `"content-digest"`, digest([]byte("other"))+", "+digest(nil))
		})},
		{"request_digest_mismatch-length", proof.RequestDigestMismatch, "a streamed body whose sealed length is not the recorded one", func(s *Scenario) {
			streamed(s)
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.RequestBody.Size-- }
		}},
		{"request_height_mismatch", proof.RequestHeightMismatch, "the record claims an earlier decision than the seal, when a right was still in force", func(s *Scenario) {
			s.SetRight(s.Terms(), periods(12, 40))
			s.Sides[0].Decision = 39
		}},
	}
}

// addOrder adds the order of the Ed25519 group to a signature's S.
func addOrder(signature []byte) []byte {
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	out := bytes.Clone(signature)
	carry := 0
	for i, b := range order {
		carry += int(out[32+i]) + int(b)
		out[32+i] = byte(carry)
		carry >>= 8
	}
	return out
}

// responseVectors break the answer's seal.
func responseVectors() []Vector {
	base := func(change func([]Line) []Line) func(*Scenario) {
		return func(s *Scenario) { s.EditResponse = change }
	}
	return []Vector{
		{"response_key_wrong_purpose", proof.ResponseKeyWrongPurpose, "sealed with the provider's log key", func(s *Scenario) { s.ResponseKey = "2002/log" }},
		{"response_key_of_another_member", proof.ResponseKeyOfAnotherMember, "the consumer sealed the answer itself", func(s *Scenario) { s.ResponseKey = "1001/seal" }},
		{"response_key_not_in_force", proof.ResponseKeyNotInForce, "the provider's key was revoked before", func(s *Scenario) {
			s.AddKey("2002/seal", Provider, registrypb.Purpose_PURPOSE_SEAL, 1, 39)
		}},
		{"response_seal_invalid", proof.ResponseSealInvalid, "the status was changed after it was sealed", signed("response", `"@status": 200`, `"@status": 404`)},
		{"response_seal_invalid-p256", proof.ResponseSealInvalid, "a P-256 seal over another base", func(s *Scenario) {
			s.ResponseKey = "p256/2002/seal"
			s.AddKey(s.ResponseKey, Provider, registrypb.Purpose_PURPOSE_SEAL, 30, 0)
			signed("response", `"@status": 200`, `"@status": 404`)(s)
		}},
		{"response_seal_invalid-zero_p256", proof.ResponseSealInvalid, "a P-256 signature of zeroes", func(s *Scenario) {
			s.ResponseKey = "p256/2002/seal"
			s.AddKey(s.ResponseKey, Provider, registrypb.Purpose_PURPOSE_SEAL, 30, 0)
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Response.Signature = make([]byte, 64) }
		}},
		{"response_base_malformed", proof.ResponseBaseMalformed, "an escape in a parameter", params("response", `tag="civibus"`, `tag="civi\"bus"`)},
		{"response_params_mismatch", proof.ResponseParamsMismatch, "a number in the place of keyid", params("response", `keyid="`+NewKey("2002/seal").Hex()+`"`, `keyid=1`)},
		{"response_component_missing-status", proof.ResponseComponentMissing, "@status is not covered", base(func(l []Line) []Line { return drop(l, `"@status"`) })},
		{"response_component_missing-signature", proof.ResponseComponentMissing, "the request's signature is not covered: the answer could be to any request of that kind", base(func(l []Line) []Line { return drop(l, `"signature"`) })},
		{"response_component_missing-digest", proof.ResponseComponentMissing, "the request's digest is not covered", base(func(l []Line) []Line { return drop(l, `"content-digest";req`) })},
		{"response_to_another_request-path", proof.ResponseToAnotherRequest, "the answer is to another path", base(func(l []Line) []Line {
			return set(l, `"@path";req`, "/r1/DEMO/GOV/2002/population/persons/v1/persons/1")
		})},
		{"response_to_another_request-signature", proof.ResponseToAnotherRequest, "the answer is to another request with the same path", base(func(l []Line) []Line {
			return set(l, `"signature";req;key="civibus"`, ":"+strings.Repeat("A", 86)+"==:")
		})},
		{"response_to_another_request-uncovered", proof.ResponseToAnotherRequest, "the answer quotes a field of the request that the request's seal does not cover", base(func(l []Line) []Line {
			return append(l, Line{`"x-road-issue";req`, "1"})
		})},
		{"response_to_another_request-id", proof.ResponseToAnotherRequest, "the answer names another exchange", base(func(l []Line) []Line { return set(l, `"x-road-request-id"`, "other") })},
		{"response_status_mismatch", proof.ResponseStatusMismatch, "the record has another status than the seal", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Status = 404 }
		}},
		{"response_digest_mismatch", proof.ResponseDigestMismatch, "the recorded digest of the answer is another", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { h := sum([]byte("other")); r.ResponseBody.Sha256 = h[:] }
		}},
		{"response_height_mismatch", proof.ResponseHeightMismatch, "the provider's record claims another decision height than it sealed", func(s *Scenario) {
			s.Sides = []*Side{s.ProviderSide()}
			s.Sides[0].Decision = 39
		}},
		{"fault_mismatch", proof.FaultMismatch, "the record gives another reason for the refusal than the answer", func(s *Scenario) {
			refused(s)
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Fault = "rate_limited" }
		}},
		{"fault_mismatch-answered", proof.FaultMismatch, "a refusal recorded as an answer", func(s *Scenario) {
			s.EditResponse = func(l []Line) []Line { return append(l, Line{`"civibus-fault"`, "access_denied"}) }
		}},
		{"fault_mismatch-not_sealed", proof.FaultMismatch, "an answer recorded as a refusal", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) {
				r.Outcome, r.Fault, r.RightId = evidencepb.Outcome_OUTCOME_REFUSED, "access_denied", ""
			}
		}},
		{"fault_mismatch-provider_failure", proof.FaultMismatch, "the provider calls a failure what it sealed as an answer", func(s *Scenario) {
			s.Sides, s.Outcome, s.Right = []*Side{s.ProviderSide()}, evidencepb.Outcome_OUTCOME_FAILED, ""
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Fault = "io_error" }
		}},
		{"response_params_mismatch-head", proof.ResponseParamsMismatch, "an answered exchange with the seal of the answer's head only", func(s *Scenario) { s.Cut = true }},
		{"sides_disagree-status", proof.SidesDisagree, "the sides hold different answers to the same request", func(s *Scenario) {
			both(s)
			s.Sides[1].EditRecord = func(r *evidencepb.Record) {
				other := New()
				other.Status = 404
				_, seal := other.seals()
				r.Response, r.Status = seal, 404
			}
		}},
		{"sides_disagree-request", proof.SidesDisagree, "the same exchange id over two different requests", func(s *Scenario) {
			both(s)
			s.Sides[1].EditRecord = func(r *evidencepb.Record) {
				other := New()
				other.Query = "?fields=name"
				r.Request, r.Response = other.seals()
			}
		}},
	}
}

// rightVectors break the access right.
func rightVectors() []Vector {
	path := func(rest string, patterns ...string) func(*Scenario) {
		return func(s *Scenario) {
			endpoints(s, patterns...)
			s.Path = "/r1/DEMO/GOV/2002/population/persons" + rest
		}
	}
	return []Vector{
		{"right_missing", proof.RightMissing, "an answered call without a right", func(s *Scenario) { s.Right = "" }},
		{"right_missing-metadata_path", proof.RightMissing, "a path below a metadata call", func(s *Scenario) {
			s.Right, s.Service = "", Provider+"/population/getOpenAPI"
			s.Path = "/r1/DEMO/GOV/2002/population/getOpenAPI/x"
		}},
		{"right_missing-metadata_method", proof.RightMissing, "a POST to a metadata call's code", func(s *Scenario) {
			s.Right, s.Service, s.Method = "", Provider+"/population/listMethods", "POST"
			s.Path = "/r1/DEMO/GOV/2002/population/listMethods"
		}},
		{"right_of_another_service", proof.RightOfAnotherService, "a right for another service of the same provider", func(s *Scenario) { s.Terms().Service = Provider + "/population/deaths" }},
		{"right_of_another_service-version", proof.RightOfAnotherService, "a right for another version", func(s *Scenario) { s.Terms().Service = Service + "/v1"; s.Service += "/v2" }},
		{"right_of_another_client", proof.RightOfAnotherClient, "a right of another subsystem", func(s *Scenario) {
			s.Terms().Subject = &registrypb.GrantRight_Client{Client: Consumer + "/pensions"}
		}},
		{"right_of_another_client-member", proof.RightOfAnotherClient, "a member's right does not cover its subsystems", func(s *Scenario) {
			s.Terms().Subject = &registrypb.GrantRight_Client{Client: Consumer}
		}},
		{"group_membership_not_in_force", proof.GroupNotInForce, "the client joined the group later", func(s *Scenario) { group(s, periods(41, 0)) }},
		{"fact_missing-group_membership", proof.FactMissing, "the group membership is left out", func(s *Scenario) { group(s, periods(1, 0)); s.FactKeys = nil }},
		{"endpoint_not_covered-method", proof.EndpointNotCovered, "the right covers another method", func(s *Scenario) { endpoints(s, "POST", "/v1/**", "get", "/**") }},
		{"endpoint_not_covered-one_segment", proof.EndpointNotCovered, "one star does not cross a slash", path("/v1/persons/1/address", "GET", "/v1/persons/*")},
		{"endpoint_not_covered-encoded_slash", proof.EndpointNotCovered, "one star does not cross an encoded slash", path("/v1/persons/1%2Faddress", "GET", "/v1/persons/*")},
		{"endpoint_not_covered-dots", proof.EndpointNotCovered, "dots lead out of the path that the right covers", path("/v1/persons/../secrets", "GET", "/v1/persons/**")},
		{"endpoint_not_covered-encoded_dots", proof.EndpointNotCovered, "encoded dots lead out of the path that the right covers", path("/v1/persons/%2e%2E/secrets", "GET", "/v1/persons/**")},
		{"endpoint_not_covered-anchored", proof.EndpointNotCovered, "the pattern must match the whole path", path("/v1/persons/1", "GET", "/v1/persons", "GET", "/persons/1")},
		{"path_not_normal-encoded_slash", proof.PathNotNormal, "dots behind an encoded slash", path("/v1/persons/..%2fsecrets", "GET", "/v1/persons/**")},
		{"path_not_normal-double_encoding", proof.PathNotNormal, "dots that a second decoding brings forth", path("/v1/persons/%252e%252e/secrets", "GET", "/v1/persons/**")},
		{"path_not_normal-above_root", proof.PathNotNormal, "dots that leave the service", path("/../../deaths", "GET", "/**")},
		{"path_not_normal-empty_segment", proof.PathNotNormal, "dots after an empty segment", path("/v1//../secrets", "GET", "/v1/**")},
		{"path_not_normal-encoding", proof.PathNotNormal, "broken percent-encoding", path("/v1/%zz", "GET", "/**")},
		{"right_not_in_force-later", proof.RightNotInForce, "the right was granted after the exchange, before the anchor", func(s *Scenario) { s.SetRight(s.Terms(), periods(41, 0)) }},
		{"right_not_in_force-ended", proof.RightNotInForce, "the right ended at the height of the decision", func(s *Scenario) { s.SetRight(s.Terms(), periods(12, 40)) }},
		{"right_not_valid_then-until", proof.RightNotValidThen, "the right expired in the second of the seal", func(s *Scenario) { s.Terms().ValidUntil = Created }},
		{"right_not_valid_then-from", proof.RightNotValidThen, "the right becomes valid a second later", func(s *Scenario) { s.Terms().ValidFrom = Created + 1 }},
		{"purpose_mismatch", proof.PurposeMismatch, "the request states another purpose than the right's", func(s *Scenario) { s.Purpose = "MARKETING" }},
	}
}
