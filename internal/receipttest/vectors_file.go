package receipttest

import (
	"encoding/base64"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

// edit changes the first occurrence of old in the file, which must be there.
func edit(old, new string) func(*Scenario) {
	return func(s *Scenario) {
		s.EditFile = func(f string) string {
			if !strings.Contains(f, old) {
				panic("receipttest: the file has no " + old)
			}
			return strings.Replace(f, old, new, 1)
		}
	}
}

// receipt changes the assembled receipt.
func receipt(change func(b *Built, r *proof.Receipt)) func(*Scenario) {
	return func(s *Scenario) { s.EditReceipt = change }
}

func policyText(old, new string) func(*Scenario) {
	return func(s *Scenario) {
		s.EditPolicy = func(p string) string {
			if !strings.Contains(p, old) {
				panic("receipttest: the policy has no " + old)
			}
			return strings.Replace(p, old, new, 1)
		}
	}
}

// fileVectors break the file and the policy.
func fileVectors() []Vector {
	vkey := proof.PolicyWitness{KeyName: WitnessName("1001"), Public: NewKey("1001/witness").Raw()}.VKey()
	twice := proof.PolicyWitness{KeyName: WitnessName("1001b"), Public: NewKey("1001/witness").Raw()}.VKey()
	return []Vector{
		{"receipt_malformed-truncated", proof.ReceiptMalformed, "the file is cut", func(s *Scenario) { s.EditFile = func(f string) string { return f[:len(f)/2] } }},
		{"receipt_malformed-duplicate_member", proof.ReceiptMalformed, "a second exchange member: readers differ in which they take", edit(`"exchange"`, `"exchange": "00000000-0000-4000-8000-000000000000", "exchange"`)},
		{"receipt_malformed-duplicate_entry_member", proof.ReceiptMalformed, "a second record in the entry", edit(`"salt"`, `"record": "CAE=", "salt"`)},
		{"receipt_malformed-case_of_member", proof.ReceiptMalformed, "Exchange instead of exchange", edit(`"exchange"`, `"Exchange"`)},
		{"receipt_malformed-unknown_member", proof.ReceiptMalformed, "a member that the format does not have", edit(`"registry"`, `"comment": "valid", "registry"`)},
		{"receipt_malformed-missing_member", proof.ReceiptMalformed, "a fact without its proof", func(s *Scenario) {
			s.EditFile = func(f string) string {
				head, tail, _ := strings.Cut(f, `"proof": "`)
				_, tail, _ = strings.Cut(tail, `"`)
				return strings.TrimRight(strings.TrimRight(head, " \n"), ",") + tail
			}
		}},
		{"receipt_malformed-trailing_data", proof.ReceiptMalformed, "something follows the object", func(s *Scenario) { s.EditFile = func(f string) string { return f + "{}" } }},
		{"receipt_malformed-no_entries", proof.ReceiptMalformed, "no entry at all", receipt(func(_ *Built, r *proof.Receipt) { r.Entries = []proof.Entry{} })},
		{"receipt_malformed-three_entries", proof.ReceiptMalformed, "three entries", receipt(func(_ *Built, r *proof.Receipt) { r.Entries = append(r.Entries, r.Entries[0], r.Entries[0]) })},
		{"receipt_malformed-lone_surrogate", proof.ReceiptMalformed, "half a surrogate pair in a fact's key", edit(`"member/DEMO`, `"\ud800member/DEMO`)},
		{"receipt_malformed-salt_length", proof.ReceiptMalformed, "a salt of 15 bytes: part of it could be taken from the record", receipt(func(_ *Built, r *proof.Receipt) {
			e := &r.Entries[0]
			e.Record, e.Salt = append(e.Salt[15:16:16], e.Record...), e.Salt[:15]
		})},
		{"base64_malformed-unused_bits", proof.Base64Malformed, "the unused bits of the last character of the salt are set", func(s *Scenario) {
			s.EditFile = func(f string) string {
				head, tail, _ := strings.Cut(f, `"salt": "`)
				i := strings.Index(tail, "==")
				const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
				return head + `"salt": "` + tail[:i-1] + string(digits[strings.IndexByte(digits, tail[i-1])+1]) + tail[i:]
			}
		}},
		{"base64_malformed-line_break", proof.Base64Malformed, "a line break inside the record", edit(`"record": "CAEQ`, `"record": "CAEQ\n`)},
		{"base64_malformed-no_padding", proof.Base64Malformed, "the salt without padding", edit(`==",`, `",`)},
		{"format_unknown", proof.FormatUnknown, "another format version", edit("civibus-receipt/v1", "civibus-receipt/v9")},

		{"policy_malformed-same_key_twice", proof.PolicyMalformed, "one witness under two names: its word would count twice", policyText("group ledger 3 ", "witness twin "+twice+"\ngroup ledger 3 twin ")},
		{"policy_malformed-member_twice", proof.PolicyMalformed, "a group with one witness twice", policyText("group ledger 3 GOV-1001", "group ledger 3 GOV-1001 GOV-1001")},
		{"policy_malformed-two_groups", proof.PolicyMalformed, "a witness in two groups", policyText("group ledger 3 ", "group extra any GOV-1001\ngroup ledger 3 extra ")},
		{"policy_malformed-threshold", proof.PolicyMalformed, "a threshold of zero", policyText("ledger 3", "ledger 0")},
		{"policy_malformed-key_hash", proof.PolicyMalformed, "a vkey whose hash is not that of its name and key", policyText(vkey, strings.Replace(vkey, "GOV/1001", "GOV/1002", 1))},
		{"policy_malformed-log_key", proof.PolicyMalformed, "a witness with a key of the log signature type", policyText(vkey, vkey[:strings.LastIndexByte(vkey, '+')+1]+base64.StdEncoding.EncodeToString(append([]byte{1}, NewKey("1001/witness").Raw()...)))},
		{"policy_without_quorum", proof.PolicyWithoutQuorum, "a policy that asks for no witness", policyText("quorum ledger", "quorum none")},
	}
}

// unknownField appends a field that no message has.
func unknownField(b []byte) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b[:len(b):len(b)], 99, protowire.VarintType), 1)
}

// registryVectors break what the registry is said to say.
func registryVectors() []Vector {
	note := func(change func(text, lines string) string) func(*Scenario) {
		return func(s *Scenario) { s.EditNote = change }
	}
	facts := func(change func(b *Built, f []proof.Fact) []proof.Fact) func(*Scenario) {
		return func(s *Scenario) { s.EditFacts = change }
	}
	blockProof := func(old, new string) func(*Scenario) {
		return receipt(func(_ *Built, r *proof.Receipt) {
			r.Registry.BlockProof = strings.Replace(r.Registry.BlockProof, old, new, 1)
		})
	}
	return []Vector{
		{"proof_malformed-truncated", proof.ProofMalformed, "the block's proof is cut before the checkpoint", receipt(func(_ *Built, r *proof.Receipt) {
			r.Registry.BlockProof, _, _ = strings.Cut(r.Registry.BlockProof, "\n\n")
		})},
		{"proof_malformed-extra", proof.ProofMalformed, "an extra line, which nothing authenticates", blockProof("index", "extra QUJD\nindex")},
		{"proof_malformed-leading_zero", proof.ProofMalformed, "an index with a leading zero", blockProof("index ", "index 0")},
		{"proof_malformed-hash_base64", proof.ProofMalformed, "a hash whose base64 is not canonical", func(s *Scenario) {
			s.EditReceipt = func(_ *Built, r *proof.Receipt) {
				r.Registry.BlockProof = strings.Replace(r.Registry.BlockProof, "=\n", "\n", 1)
			}
		}},
		{"checkpoint_malformed-extension", proof.CheckpointMalformed, "the cosigned checkpoint has an extension line", func(s *Scenario) {
			s.EditNote = func(text, _ string) string {
				text += "height 46\n"
				return text + "\n" + Cosign("1001", text) + Cosign("2002", text) + Cosign("3003", text)
			}
			s.EditReceipt = nil
		}},
		{"checkpoint_malformed-no_signature", proof.CheckpointMalformed, "no signature line at all", note(func(text, _ string) string { return text + "\n" })},
		{"registry_origin_invalid", proof.RegistryOriginInvalid, "a checkpoint of an evidence log in the place of the registry's", func(s *Scenario) { s.OriginText = "civibus/demo-1/evidence" }},
		{"witness_of_another_ledger", proof.WitnessOfAnotherLedger, "the policy is that of ledger demo-1, the receipt of demo-2", func(s *Scenario) { s.OriginText = "civibus/demo-2/registry" }},
		{"cosignature_invalid-other_checkpoint", proof.CosignatureInvalid, "one cosignature is of another checkpoint", note(func(text, lines string) string {
			return text + "\n" + lines + Cosign("4004", strings.Replace(text, "\n11\n", "\n12\n", 1)+"x")
		})},
		{"cosignature_invalid-time", proof.CosignatureInvalid, "the time of one cosignature was changed", note(func(text, lines string) string {
			changed := []byte(Cosign("4004", text))
			i := len(changed) - 93 // in the time
			if changed[i] == 'A' {
				changed[i] = 'B'
			} else {
				changed[i] = 'A'
			}
			return text + "\n" + lines + string(changed)
		})},
		{"cosignature_invalid-log_type", proof.CosignatureInvalid, "a witness's line without a time", note(func(text, lines string) string {
			k := NewKey("4004/witness")
			return text + "\n" + lines + signatureLine(WitnessName("4004"), 4, k.Raw(), k.Sign([]byte(text)))
		})},
		{"quorum_not_reached", proof.QuorumNotReached, "two of the three needed witnesses", func(s *Scenario) { s.Signers = s.Signers[:2] }},
		{"quorum_not_reached-one_twice", proof.QuorumNotReached, "two witnesses, one of them with two cosignatures at different times", note(func(text, _ string) string {
			return text + "\n" + Cosign("1001", text) + Cosign("2002", text) + cosignLine(WitnessName("2002"), text, NewKey("2002/witness"), Created+9)
		})},
		{"quorum_not_reached-unknown", proof.QuorumNotReached, "three cosignatures, one of a witness that the policy does not name", func(s *Scenario) { s.Signers = []string{"1001", "2002", "9009"} }},
		{"quorum_not_reached-swapped_names", proof.QuorumNotReached, "one witness's key under another witness's name", note(func(text, _ string) string {
			return text + "\n" + Cosign("1001", text) + Cosign("2002", text) + cosignLine(WitnessName("3003"), text, NewKey("2002/witness"), Created+8)
		})},

		{"event_malformed-block", proof.EventMalformed, "the block's event has a field that version 1 does not know", func(s *Scenario) {
			s.EditReceipt = func(_ *Built, r *proof.Receipt) { r.Registry.BlockEvent = unknownField(r.Registry.BlockEvent) }
		}},
		{"block_event_not_last", proof.BlockEventNotLast, "an older block's event, which is in the log but not its last leaf", receipt(func(b *Built, r *proof.Receipt) {
			r.Registry.BlockEvent = b.events.leaves[7]
			r.Registry.BlockProof = proof.TLogProof(7, b.events.prove(7, b.events.size()), []byte(b.Note))
		})},
		{"block_event_not_included", proof.BlockEventNotIncluded, "a block's event that is not in the log", receipt(func(b *Built, r *proof.Receipt) {
			var e registrypb.Event
			mustUnmarshal(r.Registry.BlockEvent, &e)
			e.GetBlockCommitted().TimeUnixNano -= 3600e9
			r.Registry.BlockEvent = marshal(&e)
		})},
		{"block_event_not_included-index", proof.BlockEventNotLast, "the index is off by one", func(s *Scenario) {
			s.EditReceipt = func(b *Built, r *proof.Receipt) {
				r.Registry.BlockProof = strings.Replace(r.Registry.BlockProof, "index 9\n", "index 8\n", 1)
			}
		}},
		{"block_event_wrong_kind", proof.BlockEventWrongKind, "the last event closes no block", func(s *Scenario) {
			s.EditBlock = func(e *registrypb.Event) {
				e.Body = &registrypb.Event_MemberSet{MemberSet: &registrypb.Member{Id: Consumer}}
			}
		}},

		{"fact_duplicate", proof.FactDuplicate, "one fact twice", facts(func(_ *Built, f []proof.Fact) []proof.Fact { return append(f, f[0]) })},
		{"fact_proof_malformed-siblings", proof.FactProofMalformed, "a proof with a sibling too many", facts(func(b *Built, f []proof.Fact) []proof.Fact {
			var p registrypb.StateProof
			mustUnmarshal(f[0].Proof, &p)
			p.Siblings = append(p.Siblings, p.Siblings[0])
			f[0].Proof = marshal(&p)
			return f
		})},
		{"fact_proof_malformed-other_leaf", proof.FactProofMalformed, "absence shown by the key's own leaf", facts(func(b *Built, f []proof.Fact) []proof.Fact {
			return append(f, b.hidden("key/"+NewKey("4004/seal").Hex()))
		})},
		{"fact_not_proven-value", proof.FactNotProven, "the right's purpose was changed", facts(func(b *Built, f []proof.Fact) []proof.Fact {
			var r registrypb.Right
			last := &f[len(f)-1]
			mustUnmarshal(last.Value, &r)
			r.Terms.Purpose = "ANY-PURPOSE"
			last.Value = marshal(&r)
			return f
		})},
		{"fact_not_proven-older_root", proof.FactNotProven, "the facts are proven by an older state root", func(s *Scenario) {
			s.EditFacts = func(b *Built, f []proof.Fact) []proof.Fact {
				older := New()
				delete(older.State, "key/"+NewKey("3003/seal").Hex())
				return older.Build().mustFacts(f)
			}
		}},
		{"fact_not_proven-absent", proof.FactNotProven, "a key that is in the state is said to be absent", facts(func(b *Built, f []proof.Fact) []proof.Fact {
			p := b.Fact("key/" + NewKey("4004/seal").Hex())
			p.Value = nil
			return append(f, p)
		})},
		{"fact_malformed-unknown_field", proof.FactMalformed, "the registry's record has a field that version 1 does not know", func(s *Scenario) {
			k := "member/" + Provider
			s.EditFacts = func(b *Built, f []proof.Fact) []proof.Fact { return f }
			s.State[k].ProtoReflect().SetUnknown(unknownField(nil))
		}},
		{"fact_malformed-other_name", proof.FactMalformed, "the state holds a member's record under another member's key", func(s *Scenario) {
			s.State["member/"+Provider] = s.State["member/"+Consumer]
		}},
		{"fact_malformed-key_id", proof.FactMalformed, "a registered key whose id is not the hash of its public key", func(s *Scenario) {
			s.Key("2002/seal").Spki = NewKey("4004/seal").SPKI
		}},
		{"fact_missing-right", proof.FactMissing, "the right is left out", facts(func(_ *Built, f []proof.Fact) []proof.Fact { return f[:len(f)-1] })},
		{"fact_missing-member", proof.FactMissing, "the provider's member is left out", facts(func(_ *Built, f []proof.Fact) []proof.Fact { return append(f[:1:1], f[2:]...) })},
		{"fact_absent-key", proof.FactAbsent, "the request is sealed with a key that the registry does not know", func(s *Scenario) {
			s.RequestKey = "1001/unregistered"
		}},
		{"fact_absent-right", proof.FactAbsent, "the right does not exist", func(s *Scenario) { s.Right = strings.Repeat("ab", 16) }},
	}
}

// hidden returns a fact that denies a key by showing the key's own leaf.
func (b *Built) hidden(key string) proof.Fact {
	f := b.Fact(key)
	var p registrypb.StateProof
	mustUnmarshal(f.Proof, &p)
	k, v := sum([]byte(key)), sum(f.Value)
	p.OtherKeyHash, p.OtherValueHash = k[:], v[:]
	return proof.Fact{Key: key, Proof: marshal(&p)}
}

// mustFacts proves the same keys in this state.
func (b *Built) mustFacts(like []proof.Fact) []proof.Fact {
	var out []proof.Fact
	for _, f := range like {
		out = append(out, b.Fact(f.Key))
	}
	return out
}

// evidenceVectors break the record, its log and its anchor.
func evidenceVectors() []Vector {
	record := func(change func(*evidencepb.Record)) func(*Scenario) {
		return func(s *Scenario) { s.Sides[0].EditRecord = change }
	}
	anchor := func(change func(e *registrypb.Event, log *registrypb.Log)) func(*Scenario) {
		return func(s *Scenario) {
			s.Sides[0].EditAnchor = func(e *registrypb.Event) { change(e, e.GetLogAnchored()) }
		}
	}
	note := func(change func(text, lines string) string) func(*Scenario) {
		return func(s *Scenario) { s.Sides[0].EditNote = change }
	}
	return []Vector{
		{"record_malformed-unknown_field", proof.RecordMalformed, "the record has a field that version 1 does not know", record(func(r *evidencepb.Record) { r.ProtoReflect().SetUnknown(unknownField(nil)) })},
		{"record_malformed-field_twice", proof.RecordMalformed, "a field twice: readers differ in which they take", record(func(r *evidencepb.Record) {
			r.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 5, protowire.BytesType), Consumer+"/other"))
		})},
		{"record_version_unknown", proof.RecordVersionUnknown, "version 2", record(func(r *evidencepb.Record) { r.Version = 2 })},
		{"record_invalid-side", proof.RecordInvalid, "a record without a side", record(func(r *evidencepb.Record) { r.Side = 0 })},
		{"record_invalid-answered_fault", proof.RecordInvalid, "an answered exchange with a fault", record(func(r *evidencepb.Record) { r.Fault = "access_denied" })},
		{"record_invalid-no_response", proof.RecordInvalid, "an answered exchange without an answer", record(func(r *evidencepb.Record) { r.Response, r.ResponseBody, r.Status = nil, nil, 0 })},
		{"record_invalid-spelling", proof.RecordInvalid, "a client that is not in canonical form", record(func(r *evidencepb.Record) { r.Client = Consumer + "/benef%69ts" })},
		{"exchange_mismatch", proof.ExchangeMismatch, "the receipt is named after another exchange", edit(`"exchange": "7d0b8f2e`, `"exchange": "8d0b8f2e`)},
		{"sides_equal", proof.SidesEqual, "the consumer's entry twice", func(s *Scenario) { s.Sides = []*Side{s.ConsumerSide(), s.ConsumerSide()} }},

		{"leaf_not_included-record", proof.LeafNotIncluded, "the recorded status was changed", receipt(func(_ *Built, r *proof.Receipt) {
			var rec evidencepb.Record
			mustUnmarshal(r.Entries[0].Record, &rec)
			rec.FinishedUnixNano++
			r.Entries[0].Record = marshal(&rec)
		})},
		{"leaf_not_included-salt", proof.LeafNotIncluded, "another salt", receipt(func(_ *Built, r *proof.Receipt) { r.Entries[0].Salt[0] ^= 1 })},
		{"leaf_not_included-index", proof.LeafNotIncluded, "the index is off by one", receipt(func(_ *Built, r *proof.Receipt) {
			r.Entries[0].Proof = strings.Replace(r.Entries[0].Proof, "index 5\n", "index 4\n", 1)
		})},
		{"leaf_not_included-short_proof", proof.LeafNotIncluded, "the last hash of the proof is missing", receipt(func(_ *Built, r *proof.Receipt) {
			head, tail, _ := strings.Cut(r.Entries[0].Proof, "\n\n")
			r.Entries[0].Proof = head[:strings.LastIndexByte(head, '\n')] + "\n\n" + tail
		})},
		{"leaf_not_included-swapped_records", proof.LeafNotIncluded, "the two sides' records are swapped", func(s *Scenario) {
			both(s)
			s.EditReceipt = func(_ *Built, r *proof.Receipt) {
				a, b := &r.Entries[0], &r.Entries[1]
				a.Record, b.Record, a.Salt, b.Salt = b.Record, a.Record, b.Salt, a.Salt
			}
		}},
		{"checkpoint_malformed-evidence", proof.CheckpointMalformed, "the evidence checkpoint's signature line lacks its newline", note(func(text, lines string) string { return text + "\n" + strings.TrimSuffix(lines, "\n") })},

		{"event_malformed-anchor", proof.EventMalformed, "the anchor's event is cut", receipt(func(_ *Built, r *proof.Receipt) {
			e := &r.Entries[0]
			e.AnchorEvent = e.AnchorEvent[:len(e.AnchorEvent)-1]
		})},
		{"registry_checkpoints_differ", proof.RegistryCheckpointsDiffer, "the anchor is proven in a checkpoint with other cosignatures", receipt(func(b *Built, r *proof.Receipt) {
			e := &r.Entries[0]
			e.AnchorProof = strings.Replace(e.AnchorProof, b.Note, b.Note+"\u2014 someone.example AAAAAAA=\n", 1)
		})},
		{"anchor_event_not_included", proof.AnchorEventNotIncluded, "an anchor's event that is not in the registry's log", receipt(func(_ *Built, r *proof.Receipt) {
			var e registrypb.Event
			mustUnmarshal(r.Entries[0].AnchorEvent, &e)
			e.Index++
			r.Entries[0].AnchorEvent = marshal(&e)
		})},
		{"anchor_event_wrong_kind", proof.AnchorEventWrongKind, "the event in the anchor's place closes a block", receipt(func(b *Built, r *proof.Receipt) {
			r.Entries[0].AnchorEvent = b.events.leaves[7]
			r.Entries[0].AnchorProof = proof.TLogProof(7, b.events.prove(7, b.events.size()), []byte(b.Note))
		})},
		{"anchor_of_another_log", proof.AnchorOfAnotherLog, "the anchor's event is that of the other body's log", func(s *Scenario) {
			both(s)
			s.EditReceipt = func(_ *Built, r *proof.Receipt) {
				a, b := &r.Entries[0], &r.Entries[1]
				a.AnchorEvent, a.AnchorProof = b.AnchorEvent, b.AnchorProof
			}
		}},
		{"anchor_of_another_checkpoint-size", proof.AnchorOfAnotherCheckpoint, "the anchored size is another", anchor(func(_ *registrypb.Event, l *registrypb.Log) { l.Size = 8 })},
		{"anchor_of_another_checkpoint-root", proof.AnchorOfAnotherCheckpoint, "the anchored root is another: the body showed the registry another log", anchor(func(_ *registrypb.Event, l *registrypb.Log) { h := sum(l.Root); l.Root = h[:] })},
		{"log_of_another_member-side", proof.LogOfAnotherMember, "the record says consumer but is in the provider's log", func(s *Scenario) {
			s.Sides = []*Side{s.ProviderSide()}
			s.Sides[0].EditRecord = func(r *evidencepb.Record) { r.Side = evidencepb.Side_SIDE_CONSUMER }
		}},
		{"log_of_another_member-origin", proof.LogOfAnotherMember, "the origin names another member than the registry's event", func(s *Scenario) { s.Sides[0].Origin = "civibus/DEMO/GOV/3003/evidence/1" }},
		{"log_of_another_member-origin_form", proof.LogOfAnotherMember, "log number 0", func(s *Scenario) { s.Sides[0].Origin = "civibus/" + Consumer + "/evidence/0" }},
		{"anchor_height_invalid", proof.AnchorHeightInvalid, "anchored after the block", anchor(func(e *registrypb.Event, l *registrypb.Log) { e.Height, l.AnchoredHeight = 47, 47 })},
		{"anchor_before_decision", proof.AnchorBeforeDecision, "anchored at a height below that of the decision", func(s *Scenario) { s.Sides[0].Decision = 45 }},

		{"log_signature_missing", proof.LogSignatureMissing, "the log key is not among the facts", func(s *Scenario) {
			s.EditFacts = func(_ *Built, f []proof.Fact) []proof.Fact {
				key := "key/" + NewKey("1001/log").Hex()
				var out []proof.Fact
				for _, x := range f {
					if x.Key != key {
						out = append(out, x)
					}
				}
				return out
			}
		}},
		{"log_signature_missing-name", proof.LogSignatureMissing, "the signature line bears another name than the origin", note(func(text, _ string) string {
			return text + "\n" + logLine("civibus/"+Consumer+"/evidence/2", text, NewKey("1001/log"))
		})},
		{"log_signature_invalid", proof.LogSignatureInvalid, "the log's signature is over another text", note(func(text, _ string) string {
			k := NewKey("1001/log")
			return text + "\n" + signatureLine("civibus/"+Consumer+"/evidence/1", 1, k.Raw(), k.Sign([]byte(text+"\n")))
		})},
		{"log_key_wrong_purpose", proof.LogKeyWrongPurpose, "the checkpoint is signed with the body's seal key", func(s *Scenario) { s.Sides[0].LogKey = "1001/seal" }},
		{"log_key_of_another_member", proof.LogKeyOfAnotherMember, "the checkpoint is signed with another body's log key", func(s *Scenario) { s.Sides[0].LogKey = "3003/log" }},
		{"log_key_not_in_force-revoked", proof.LogKeyNotInForce, "the log key was revoked before the anchor", func(s *Scenario) {
			s.AddKey("1001/log", Consumer, registrypb.Purpose_PURPOSE_LOG, 1, 44)
		}},
		{"log_key_not_in_force-later", proof.LogKeyNotInForce, "the log key came into force after the anchor", func(s *Scenario) {
			s.AddKey("1001/log", Consumer, registrypb.Purpose_PURPOSE_LOG, 45, 0)
		}},

		{"client_not_in_force", proof.ClientNotInForce, "the client's body was suspended at the time", func(s *Scenario) { s.Member(Consumer).Periods = periods(1, 40, 42, 0) }},
		{"provider_not_in_force", proof.ProviderNotInForce, "the provider's body joined later", func(s *Scenario) { s.Member(Provider).Periods = periods(41, 0) }},
	}
}
