package receipttest

import (
	"slices"
	"strings"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

// Vector is one receipt with what a verifier must say of it.
type Vector struct {
	Name    string        // of the file, without ending
	Failure proof.Failure // empty: valid
	About   string
	Change  func(*Scenario)
}

// Build makes the vector's receipt and policy.
func (v Vector) Build() *Built {
	s := New()
	if v.Change != nil {
		v.Change(s)
	}
	return s.Build()
}

// Vectors returns all vectors: valid ones, then tampered ones in the order of
// the steps that find them.
func Vectors() []Vector {
	return slices.Concat(validVectors(), fileVectors(), registryVectors(), evidenceVectors(), requestVectors(), responseVectors(), rightVectors(), secondVectors(), chainVectors())
}

func both(s *Scenario) { s.Sides = []*Side{s.ConsumerSide(), s.ProviderSide()} }

func refused(s *Scenario) {
	s.Outcome, s.Right = evidencepb.Outcome_OUTCOME_REFUSED, ""
	s.Fault, s.Status = "access_denied", 403
	s.Response = []byte(`{"type":"Server.ServerProxy.AccessDenied","message":"Request is not allowed","detail":"0"}`)
}

func streamed(s *Scenario) {
	s.Method, s.Query, s.Streamed = "POST", "?", true
	s.Path = "/r1/DEMO/GOV/2002/population/persons/v1/photos"
	s.Request = []byte(strings.Repeat("streamed ", 1000))
}

// endpoints narrows the right.
func endpoints(s *Scenario, methodPath ...string) {
	for i := 0; i < len(methodPath); i += 2 {
		s.Terms().Endpoints = append(s.Terms().Endpoints, &registrypb.Endpoint{Method: methodPath[i], Path: methodPath[i+1]})
	}
}

// Group is the group of the scenarios with a group right.
const Group = "global/SOCIAL"

func group(s *Scenario, p []*registrypb.Period) {
	s.Terms().Subject = &registrypb.GrantRight_Group{Group: Group}
	s.State["groupmember/"+Group+"|"+Client] = &registrypb.GroupMember{Group: Group, Client: Client, Periods: p}
	s.FactKeys = append(s.FactKeys, "groupmember/"+Group+"|"+Client)
}

func validVectors() []Vector {
	return []Vector{
		{"consumer_side", "", "the plain case: the consumer's entry", nil},
		{"provider_side", "", "the provider's entry", func(s *Scenario) { s.Sides = []*Side{s.ProviderSide()} }},
		{"both_sides", "", "both entries, which agree", both},
		{"both_sides_all_witnesses", "", "both entries, provider first, all four witnesses", func(s *Scenario) {
			s.Sides = []*Side{s.ProviderSide(), s.ConsumerSide()}
			s.Signers = []string{"4004", "3003", "2002", "1001"}
		}},
		{"refusal", "", "the provider's gateway refused, sealed on both sides", func(s *Scenario) { both(s); refused(s) }},
		{"refusal_head", "", "a streamed request refused before its body had come: the seals of the heads", func(s *Scenario) {
			streamed(s)
			refused(s)
			s.Streamed, s.Head = false, true
		}},
		{"refusal_early", "", "a streamed request refused early, of which the consumer holds the whole seal", func(s *Scenario) {
			streamed(s)
			refused(s)
			s.EditResponse = func(lines []Line) []Line {
				out := drop(lines, `"content-digest";req`, `"signature";req`)
				return append(out, Line{`"signature";req;key="civibus-head"`, ":AAAA:"})
			}
		}},
		{"refusal_unsealed_request", "", "the provider refused a request whose seal it could not verify: who asked is not proven", func(s *Scenario) {
			refused(s)
			s.Sides = []*Side{s.ProviderSide()}
			s.Fault, s.NoRequest = "invalid_seal", true
		}},
		{"failure_without_answer", "", "the provider could not be reached: the consumer's own statement", func(s *Scenario) {
			s.Outcome, s.Fault, s.Right, s.NoResponse = evidencepb.Outcome_OUTCOME_FAILED, "network_error", "", true
		}},
		{"answer_cut", "", "a streamed answer whose end did not come: the seal of its head, the failure is each body's own statement", func(s *Scenario) {
			both(s)
			s.Outcome, s.Fault, s.Right, s.Cut = evidencepb.Outcome_OUTCOME_FAILED, "io_error", "", true
		}},
		{"answer_end_false", "", "a streamed answer whose end was false: the consumer refused it and holds the seal of the head", func(s *Scenario) {
			s.Outcome, s.Fault, s.Right, s.Cut = evidencepb.Outcome_OUTCOME_REFUSED, "invalid_seal", "", true
		}},
		{"failure_after_answer", "", "the consumer's gateway could not use a sealed answer: its own statement", func(s *Scenario) {
			s.Outcome, s.Right = evidencepb.Outcome_OUTCOME_FAILED, ""
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Fault = "inconsistent_response" }
		}},
		{"group_right", "", "the right is of a group that the client is in", func(s *Scenario) { group(s, periods(20, 0)) }},
		{"endpoint_right", "", "the right covers one method and path pattern", func(s *Scenario) { endpoints(s, "POST", "/v1/**", "GET", "/v1/persons/*") }},
		{"endpoint_double_star", "", "the right covers a subtree; the path has an encoded slash and dot segments", func(s *Scenario) {
			endpoints(s, "*", "/v1/**/address")
			s.Path = "/r1/DEMO/GOV/2002/population/persons/v1/./persons/x/../p-000417%2Fcurrent/address"
		}},
		{"endpoint_escaped_star", "", "a pattern with an escaped star", func(s *Scenario) {
			endpoints(s, "GET", `/v1/\*/*`)
			s.Path = "/r1/DEMO/GOV/2002/population/persons/v1/*/a"
		}},
		{"right_without_version", "", "a right for every version of the service", func(s *Scenario) { s.Service += "/v2" }},
		{"right_suspended_between", "", "the right was suspended before and after, not at the time", func(s *Scenario) {
			s.SetRight(s.Terms(), periods(5, 9, 12, 38, 40, 41))
		}},
		{"metadata_call", "", "getOpenAPI needs no right", func(s *Scenario) {
			s.Right, s.Service = "", Provider+"/population/getOpenAPI"
			s.Path, s.Query = "/r1/DEMO/GOV/2002/population/getOpenAPI", "?serviceCode=persons"
		}},
		{"p256_seal_key", "", "the provider's seal key is ECDSA P-256", func(s *Scenario) {
			s.ResponseKey = "p256/2002/seal"
			s.AddKey(s.ResponseKey, Provider, registrypb.Purpose_PURPOSE_SEAL, 30, 0)
			both(s)
		}},
		{"rotated_keys", "", "seal and log key were revoked after the exchange was anchored", func(s *Scenario) {
			s.AddKey("1001/seal", Consumer, registrypb.Purpose_PURPOSE_SEAL, 1, 41)
			s.AddKey("1001/log", Consumer, registrypb.Purpose_PURPOSE_LOG, 1, 45)
			s.AddKey("1001/seal/2", Consumer, registrypb.Purpose_PURPOSE_SEAL, 41, 0)
		}},
		{"compromised_key", "", "the seal key was later revoked as compromised: valid, with a caution", func(s *Scenario) {
			s.AddKey("1001/seal", Consumer, registrypb.Purpose_PURPOSE_SEAL, 1, 43).Reason = registrypb.RevocationReason_REVOCATION_REASON_COMPROMISED
		}},
		{"streamed", "", "both bodies streamed: digests and signatures in trailers", func(s *Scenario) { streamed(s); both(s) }},
		{"body_not_described", "", "the records do not describe the bodies: the sealed digests stand", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.RequestBody.Sha256, r.ResponseBody = nil, nil }
		}},
		{"foreign_cosignature", "", "a signature line of an unknown witness is ignored", func(s *Scenario) { s.Signers = []string{"9009", "1001", "3003", "4004"} }},
		{"known_name_other_key", "", "a line with a witness's name and another key is ignored", func(s *Scenario) {
			s.EditNote = func(text, lines string) string {
				return text + "\n" + cosignLine(WitnessName("1001"), text, NewKey("other/witness"), Created) + lines
			}
		}},
		{"absent_fact", "", "a fact that says that the registry has no such key", func(s *Scenario) { s.FactKeys = []string{"member/DEMO/GOV/9999"} }},
		{"encoded_identifiers", "", "identifiers with a slash, a plus and letters beyond ASCII", func(s *Scenario) {
			s.Client, s.Service = Consumer+"/s%2Fub+1", Provider+"/population/%C3%B6ffentlich"
			s.Path = "/r1/DEMO/GOV/2002/population/%c3%b6ffentlich/x"
			s.Terms().Service, s.Terms().Subject = s.Service, &registrypb.GrantRight_Client{Client: s.Client}
		}},
		{"nested_policy", "", "a policy with nested groups, comments and a URL", func(s *Scenario) {
			s.EditPolicy = func(p string) string {
				w, _, _ := strings.Cut(p, "group ")
				return "# the court's policy\n\n" + strings.Replace(w, "\n", "\thttps://gw1001.example/witness\n", 1) + "group ministries any GOV-1001 GOV-4004\ngroup others all  GOV-2002 GOV-3003\n  group both 2 ministries others\nquorum both"
			}
		}},
	}
}

// drop removes the lines whose identifier begins with one of the prefixes.
func drop(lines []Line, prefixes ...string) []Line {
	return slices.DeleteFunc(lines, func(l Line) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(l.ID, p) })
	})
}

// set changes the value of the line with an identifier.
func set(lines []Line, id, value string) []Line {
	for i := range lines {
		if lines[i].ID == id {
			lines[i].Value = value
			return lines
		}
	}
	panic("receipttest: no line " + id)
}
