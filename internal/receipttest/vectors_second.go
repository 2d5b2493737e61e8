package receipttest

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

// secondLogs gives every side an ML-DSA-44 log key.
func secondLogs(s *Scenario) {
	for _, side := range s.Sides {
		side.Second = "mldsa44/" + side.LogKey
		s.AddKey(side.Second, side.Owner, registrypb.Purpose_PURPOSE_LOG, 1, 0)
	}
}

// secondSeals gives both seals second signatures.
func secondSeals(s *Scenario) {
	s.RequestSecond, s.ResponseSecond = "mldsa65/1001/seal", "mldsa44/2002/seal"
	s.AddKey(s.RequestSecond, Consumer, registrypb.Purpose_PURPOSE_SEAL, 1, 0)
	s.AddKey(s.ResponseSecond, Provider, registrypb.Purpose_PURPOSE_SEAL, 1, 0)
}

// secondWitnesses has the policy require both cosignatures of each witness.
func secondWitnesses(s *Scenario) {
	s.Seconds = slices.Clone(s.Signers)
	s.EditPolicy = func(p string) string {
		w, _, _ := strings.Cut(p, "group ")
		names := ""
		for _, code := range s.Trusted {
			v := proof.PolicyWitness{KeyName: WitnessName(code), Second: NewKey("mldsa44/" + code + "/witness").RawSecond()}
			w += "witness GOV-" + code + "-pq " + v.VKey() + "\ngroup both-" + code + " all GOV-" + code + " GOV-" + code + "-pq\n"
			names += " both-" + code
		}
		return w + "group ledger 3" + names + "\nquorum ledger\n"
	}
}

func policyAdds(lines string) func(*Scenario) {
	return func(s *Scenario) {
		before := s.EditPolicy
		s.EditPolicy = func(p string) string {
			if before != nil {
				p = before(p)
			}
			return p + lines
		}
	}
}

// all applies several changes.
func all(changes ...func(*Scenario)) func(*Scenario) {
	return func(s *Scenario) {
		for _, c := range changes {
			c(s)
		}
	}
}

const requireAll = "require second-log-signatures\nrequire second-seals\n"

// secondVectors are about second, ML-DSA signatures.
func secondVectors() []Vector {
	version1 := func(s *Scenario) { s.EditVersion = func(bool) bool { return false } }
	secondKey := func(which func(*Scenario) string, change func(*registrypb.Key)) func(*Scenario) {
		return all(secondLogs, secondSeals, func(s *Scenario) { change(s.Key(which(s))) })
	}
	requestKey := func(s *Scenario) string { return s.RequestSecond }
	responseKey := func(s *Scenario) string { return s.ResponseSecond }
	logKey := func(s *Scenario) string { return s.Sides[0].Second }
	other := func(which string) func(*Scenario) {
		return all(secondSeals, func(s *Scenario) {
			s.EditSecond = func(w string, b []byte) []byte {
				if w == which {
					return bytes.Replace(b, []byte("created="), []byte("created=1"), 1)
				}
				return b
			}
		})
	}
	return []Vector{
		{"second_log_signature", "", "the body's log signed its checkpoint with ML-DSA-44 as well, and the policy requires it", all(secondLogs, policyAdds("require second-log-signatures\n"))},
		{"second_log_signature_unproven", "", "version 1 with a line of an ML-DSA-44 log key that is not among the facts: it is ignored", all(secondLogs, version1, func(s *Scenario) {
			s.EditFacts = func(_ *Built, f []proof.Fact) []proof.Fact {
				return slices.DeleteFunc(f, func(f proof.Fact) bool { return f.Key == "key/"+NewKey(s.Sides[0].Second).Hex() })
			}
		})},
		{"second_cosignatures", "", "version 1 with ML-DSA-44 cosignatures that the policy does not speak of", func(s *Scenario) { s.Seconds = s.Signers }},
		{"second_cosignatures_required", "", "the policy requires both cosignatures of each witness", secondWitnesses},
		{"second_seals", "", "both seals have second signatures, ML-DSA-65 and ML-DSA-44", all(both, secondSeals)},
		{"second_seals_streamed", "", "streamed messages with second signatures in their trailers", all(streamed, both, secondSeals)},
		{"second_seals_head", "", "a streamed request refused early, with second signatures of the heads", all(streamed, refused, secondSeals, func(s *Scenario) { s.Streamed, s.Head = false, true })},
		{"second_everything", "", "second signatures everywhere, and a policy that requires them", all(both, secondLogs, secondSeals, secondWitnesses, policyAdds(requireAll))},
		{"second_seal_one_side", "", "one body seals twice, the other once", all(secondSeals, func(s *Scenario) { s.ResponseSecond = "" })},

		{"receipt_malformed-version_2_without_chains", proof.ReceiptMalformed, "version 2 without its member chains", edit("civibus-receipt/v1", "civibus-receipt/v2")},
		{"receipt_malformed-chains_in_version_1", proof.ReceiptMalformed, "version 1 with the member chains", edit(`"exchange"`, `"chains": [], "exchange"`)},
		{"receipt_malformed-empty_chain", proof.ReceiptMalformed, "a chain without a certificate", all(secondSeals, edit(`"chains": []`, `"chains": [[]]`))},
		{"policy_malformed-require_unknown", proof.PolicyMalformed, "a policy that requires what is not known", policyAdds("require everything\n")},
		{"policy_malformed-require_twice", proof.PolicyMalformed, "a requirement twice", policyAdds("require second-seals\nrequire second-seals\n")},
		{"policy_malformed-second_key_length", proof.PolicyMalformed, "an ML-DSA-44 witness key that is too short", func(s *Scenario) {
			s.EditPolicy = func(p string) string {
				v := proof.PolicyWitness{KeyName: WitnessName("1001"), Second: NewKey("mldsa44/1001/witness").RawSecond()[:1311]}
				return "witness short " + v.VKey() + "\n" + p
			}
		}},
		{"cosignature_invalid-second", proof.CosignatureInvalid, "an ML-DSA-44 cosignature of another checkpoint", all(secondWitnesses, func(s *Scenario) {
			s.EditNote = func(text, lines string) string {
				return text + "\n" + lines + secondLine(WitnessName("4004"), s.OriginText, 99, [32]byte{}, NewKey("mldsa44/4004/witness"), Created+8)
			}
		})},
		{"quorum_not_reached-second", proof.QuorumNotReached, "the policy requires both cosignatures, one witness gave one", all(secondWitnesses, func(s *Scenario) { s.Seconds = s.Seconds[:2] })},
		{"fact_malformed-ml_dsa_in_version_1", proof.FactMalformed, "version 1 with an ML-DSA key among its facts", all(secondLogs, version1)},
		{"fact_missing-second_key", proof.FactMissing, "the key of the second signature is left out", all(secondSeals, func(s *Scenario) {
			s.EditFacts = func(_ *Built, f []proof.Fact) []proof.Fact {
				return slices.DeleteFunc(f, func(f proof.Fact) bool { return f.Key == "key/"+NewKey(s.RequestSecond).Hex() })
			}
		})},
		{"record_malformed-second_in_version_1", proof.RecordMalformed, "version 1 with a record whose seals have second signatures", all(secondSeals, version1, func(s *Scenario) {
			s.EditFacts = func(_ *Built, f []proof.Fact) []proof.Fact {
				return slices.DeleteFunc(f, func(f proof.Fact) bool {
					return f.Key == "key/"+NewKey(s.RequestSecond).Hex() || f.Key == "key/"+NewKey(s.ResponseSecond).Hex()
				})
			}
		})},
		{"record_malformed-second_in_record_1", proof.RecordMalformed, "a record of version 1 with second signatures", all(secondSeals, func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Version = 1 }
		})},
		{"record_version_unknown-2_in_version_1", proof.RecordVersionUnknown, "version 1 with a record of version 2", func(s *Scenario) {
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Version = 2 }
		}},
		{"second_log_signature_missing", proof.SecondLogSignatureMissing, "the policy requires a second signature of the log", policyAdds("require second-log-signatures\n")},
		{"log_signature_invalid-second", proof.LogSignatureInvalid, "the second signature of the log is of another size", all(secondLogs, func(s *Scenario) {
			s.Sides[0].EditNote = func(text, lines string) string {
				first, _, _ := strings.Cut(lines, "\n")
				return text + "\n" + first + "\n" + secondLine(s.Sides[0].Origin, s.Sides[0].Origin, 8, [32]byte{}, NewKey(s.Sides[0].Second), Created)
			}
		})},
		{"log_key_wrong_purpose-second", proof.LogKeyWrongPurpose, "the second signature of the log is by a seal key", secondKey(logKey, func(k *registrypb.Key) { k.Purpose = registrypb.Purpose_PURPOSE_SEAL })},
		{"log_key_not_in_force-second", proof.LogKeyNotInForce, "the second log key was revoked before the anchor", secondKey(logKey, func(k *registrypb.Key) { k.RevokeHeight = 44 })},
		{"request_second_seal_invalid", proof.RequestSecondSealInvalid, "the second signature is over another time than the first", other("request")},
		{"request_second_seal_invalid-first_kind", proof.RequestSecondSealInvalid, "the second signature is Ed25519", all(secondSeals, func(s *Scenario) {
			s.RequestSecond = "1001/seal"
		})},
		{"request_second_seal_invalid-ml_dsa_87", proof.RequestSecondSealInvalid, "the second signature is ML-DSA-87, which seals do not have", all(secondSeals, func(s *Scenario) {
			s.RequestSecond = "mldsa87/1001/seal"
			s.AddKey(s.RequestSecond, Consumer, registrypb.Purpose_PURPOSE_SEAL, 1, 0)
		})},
		{"request_seal_invalid-ml_dsa_alone", proof.RequestSealInvalid, "the first signature is ML-DSA", all(secondSeals, func(s *Scenario) { s.RequestKey = s.RequestSecond })},
		{"response_second_seal_invalid", proof.ResponseSecondSealInvalid, "the answer's second signature is over another time than the first", other("response")},
		{"second_seal_missing-request", proof.SecondSealMissing, "the policy requires second seals", policyAdds("require second-seals\n")},
		{"second_seal_missing-response", proof.SecondSealMissing, "the policy requires second seals, the answer has one signature", all(secondSeals, func(s *Scenario) { s.ResponseSecond = "" }, policyAdds("require second-seals\n"))},
		{"request_key_not_in_force-second", proof.RequestKeyNotInForce, "the second key was not yet in force", secondKey(requestKey, func(k *registrypb.Key) { k.ActivateHeight = Decision + 1 })},
		{"request_key_wrong_purpose-second", proof.RequestKeyWrongPurpose, "the second key is a log key", secondKey(requestKey, func(k *registrypb.Key) { k.Purpose = registrypb.Purpose_PURPOSE_LOG })},
		{"response_key_of_another_member-second", proof.ResponseKeyOfAnotherMember, "the second key is another body's", secondKey(responseKey, func(k *registrypb.Key) { k.Member = Consumer })},
		{"sides_disagree-second", proof.SidesDisagree, "one side's record lacks the second signature", all(both, secondSeals, func(s *Scenario) {
			s.Sides[1].EditRecord = func(r *evidencepb.Record) {
				r.Request = &evidencepb.Seal{Base: r.Request.Base, Signature: r.Request.Signature, KeyId: r.Request.KeyId}
			}
		})},
	}
}

// chainVectors are about certificates of the seals' keys.
func chainVectors() []Vector {
	issuing := newAuthority("Example Issuing CA", "p256/issuing")
	with := func(from authority, change func(*certified), edit func(proof.Chain) proof.Chain, policy string) func(*Scenario) {
		return func(s *Scenario) {
			chain, root := chainFor(s.RequestKey, from, change)
			if edit != nil {
				chain = edit(chain)
			}
			s.RequestChain = chain
			if strings.Contains(policy, "require chains") {
				s.ResponseChain, _ = chainFor(s.ResponseKey, issuing, nil)
			}
			policyAdds(strings.ReplaceAll(policy, "ROOT", root))(s)
		}
	}
	const required = "require chains\nROOT"
	late := func(c *certified) { c.from, c.to = time.Unix(Created-7200, 0), time.Unix(Created-3600, 0) }
	anotherKey := func(c *certified) { c.public = NewKey("3003/seal").Key }
	return []Vector{
		{"chain", "", "certificates of the seals' keys, which a policy with a trust anchor requires", with(issuing, nil, nil, required)},
		{"chain_rsa", "", "the issuing authority has an RSA key", with(rsaAuthority("Example RSA CA"), nil, nil, required)},
		{"chain_ed25519", "", "the issuing authority has an Ed25519 key", with(newAuthority("Example Ed25519 CA", "ca"), nil, nil, required)},
		{"chain_without_anchor", "", "the policy names no trust anchor: nobody's word is taken for the certificates", with(issuing, nil, nil, "")},
		{"chain_late", "", "a certificate had ended when the key sealed: a finding, since the policy requires none", with(issuing, late, nil, "ROOT")},
		{"chain_of_another", "", "a certificate over another key: a finding, since the policy requires none", with(issuing, anotherKey, nil, "ROOT")},
		{"chain_left_out", "", "the record names a chain that the file does not hold", all(with(issuing, nil, nil, ""), receipt(func(_ *Built, r *proof.Receipt) { r.Chains = nil }))},
		{"chain_missing", proof.ChainMissing, "the policy requires certificates, the records name none", policyAdds("require chains\n")},
		{"chain_missing-altered", proof.ChainMissing, "a certificate in the file is not the one that the record names", all(with(issuing, nil, nil, required), receipt(func(_ *Built, r *proof.Receipt) {
			r.Chains[0][0] = append(r.Chains[0][0][:len(r.Chains[0][0])-1:len(r.Chains[0][0])-1], r.Chains[0][0][len(r.Chains[0][0])-1]^1)
		}))},
		{"chain_of_another_key", proof.ChainOfAnotherKey, "the certificate is over another key than the one that sealed", with(issuing, anotherKey, nil, required)},
		{"chain_not_in_time", proof.ChainNotInTime, "the certificate had ended when the key sealed", with(issuing, late, nil, required)},
		{"chain_not_signed", proof.ChainNotSigned, "the certificate was issued by another key under the same name", with(newAuthority("Example Issuing CA", "p256/other"), nil, func(c proof.Chain) proof.Chain {
			good, _ := chainFor("1001/seal", issuing, nil)
			return proof.Chain{c[0], good[1]}
		}, required)},
		{"chain_not_signed-no_authority", proof.ChainNotSigned, "the issuer is no authority", with(issuing, nil, func(c proof.Chain) proof.Chain {
			top := newAuthority("Example Root", "p256/root")
			return proof.Chain{c[0], top.issue(certified{public: issuing.key.Public(), name: issuing.name})}
		}, required)},
		{"chain_not_trusted", proof.ChainNotTrusted, "no trust anchor of the policy issued the certificates", all(with(issuing, nil, nil, "require chains\n"), func(s *Scenario) {
			policyAdds(anchor(newAuthority("Another Root", "p256/another")))(s)
		})},
		{"chain_not_trusted-no_anchor", proof.ChainNotTrusted, "the policy requires certificates and names no trust anchor", with(issuing, nil, nil, "require chains\n")},
		{"policy_malformed-certificate_open", proof.PolicyMalformed, "a trust anchor that does not end", policyAdds("-----BEGIN CERTIFICATE-----\nAAAA\n")},
		{"policy_malformed-certificate", proof.PolicyMalformed, "a trust anchor that is no certificate", policyAdds("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
	}
}
