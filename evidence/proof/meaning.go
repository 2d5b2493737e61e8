package proof

import "fmt"

// fail makes an error; the step is filled in by who runs it.
func fail(f Failure, format string, args ...any) *Error {
	return &Error{Failure: f, Detail: fmt.Sprintf(format, args...)}
}

// Explanation says what a failure means to somebody who is no engineer.
type Explanation struct {
	Failure Failure
	Step    string // the step or steps that find it
	Meaning string
}

// Meaning says what the failure means to a judge.
func (f Failure) Meaning() string {
	for _, e := range Explanations() {
		if e.Failure == f {
			return e.Meaning
		}
	}
	return ""
}

// Explanations lists every failure in the order of the steps. It is the table
// of spec/receipt.md section 9; a test compares the two.
func Explanations() []Explanation {
	const (
		anyProof = "registry_checkpoint, inclusion, anchor"
		anyEvent = "registry_block, anchor"
		lookups  = "members, request_seal, response_seal, right"
	)
	return []Explanation{
		{ReceiptTooLarge, "receipt", "The file is larger than any receipt can be and was not read."},
		{ReceiptMalformed, "receipt", "The file is not a receipt: it was damaged, altered by hand, or is something else."},
		{Base64Malformed, "receipt", "A part of the file is not written in the one allowed way: it was damaged or altered."},
		{FormatUnknown, "receipt", "The file is of another format version; a verifier for that version is needed."},

		{PolicyMalformed, "policy", "The list of trusted witnesses that the verifier was given cannot be read. Nothing was checked."},
		{PolicyWithoutQuorum, "policy", "The list of trusted witnesses demands none of them, so that nothing could be proven."},

		{ProofMalformed, anyProof, "A proof of inclusion is damaged or altered."},
		{CheckpointMalformed, "registry_checkpoint, inclusion", "A log's signed state is damaged or altered."},
		{RegistryOriginInvalid, "registry_checkpoint", "What is presented as the registry's state is the state of something else."},
		{WitnessOfAnotherLedger, "registry_checkpoint", "The trusted witnesses are those of another ledger than the receipt's."},
		{CosignatureInvalid, "registry_checkpoint", "A trusted witness did not sign this state of the registry, although the file says so."},
		{QuorumNotReached, "registry_checkpoint", "Too few of the trusted witnesses vouch for this state of the registry. It may be invented."},

		{EventMalformed, anyEvent, "An event of the registry is damaged, altered, or of a kind that this verifier does not know."},
		{BlockEventNotLast, "registry_block", "The block shown is not the one that the witnesses vouch for, so the registry's state then is not proven."},
		{BlockEventNotIncluded, "registry_block", "The block shown is not in the registry that the witnesses vouch for."},
		{BlockEventWrongKind, "registry_block", "The event shown closes no block, so the registry's state is not proven."},

		{FactDuplicate, "registry_facts", "The file states the same fact of the registry twice."},
		{FactProofMalformed, "registry_facts", "The proof of a fact of the registry is damaged or altered."},
		{FactNotProven, "registry_facts", "The registry did not say this at that time: the fact is altered, invented, or from another time."},
		{FactMalformed, "registry_facts", "A fact of the registry cannot be read, or is filed under another name than its own."},
		{FactMissing, lookups, "The file leaves out something that the registry would have to confirm."},
		{FactAbsent, lookups, "The registry confirms that it knows no such body, key, right or group membership."},

		{RecordMalformed, "record", "The body's record is damaged, altered, or of a kind that this verifier does not know."},
		{RecordVersionUnknown, "record", "The body's record is of another version; a verifier for that version is needed."},
		{RecordInvalid, "record", "The body's record contradicts itself or lacks something that every record has."},
		{ExchangeMismatch, "record", "The record is of another exchange than the receipt is named after."},
		{SidesEqual, "record", "Both records are of the same side, so the second confirms nothing."},

		{LeafNotIncluded, "inclusion", "The record is not what the body committed to: it was altered, or was never in the body's log."},

		{RegistryCheckpointsDiffer, "anchor", "The file mixes two states of the registry."},
		{AnchorEventNotIncluded, "anchor", "The registry never accepted the state of the body's log that is shown."},
		{AnchorEventWrongKind, "anchor", "The registry's event that is shown does not concern a log."},
		{AnchorOfAnotherLog, "anchor", "The registry accepted the state of another log, not of the one with the record."},
		{AnchorOfAnotherCheckpoint, "anchor", "The registry accepted another state of the body's log than the one with the record."},
		{LogOfAnotherMember, "anchor", "The record is in the log of a body that did not take part on this side."},
		{AnchorHeightInvalid, "anchor", "The registry's statement of when it accepted the log contradicts itself."},
		{AnchorBeforeDecision, "anchor", "The log was accepted before the record says that the exchange was decided."},

		{LogSignatureMissing, "evidence_checkpoint", "The state of the body's log is not signed by a key that the registry knows."},
		{LogKeyWrongPurpose, "evidence_checkpoint", "The state of the body's log is signed by a key that is not for logs."},
		{LogKeyOfAnotherMember, "evidence_checkpoint", "The state of the body's log is signed by another body."},
		{LogKeyNotInForce, "evidence_checkpoint", "The state of the body's log is signed by a key that was not valid at the time."},
		{LogSignatureInvalid, "evidence_checkpoint", "The signature on the state of the body's log is false."},

		{SecondLogSignatureMissing, "evidence_checkpoint", "The state of the body's log lacks the second, post-quantum signature that the verifier demands."},

		{ClientNotInForce, "members", "The body that asked was not an active member at the time."},
		{ProviderNotInForce, "members", "The body that was asked was not an active member at the time."},

		{RequestKeyWrongPurpose, "request_seal", "The request is signed by a key that is not for seals."},
		{RequestKeyOfAnotherMember, "request_seal", "The request is signed by another body than the one that is said to have asked."},
		{RequestKeyNotInForce, "request_seal", "The request is signed by a key that was not valid at the time."},
		{RequestSealInvalid, "request_seal", "The seal on the request is false: the body that is said to have asked did not sign this."},
		{RequestBaseMalformed, "request_seal", "What was sealed as the request cannot be read."},
		{RequestParamsMismatch, "request_seal", "The seal on the request was made for another purpose or names another key."},
		{RequestComponentMissing, "request_seal", "The seal on the request leaves out something that it must cover."},
		{RequestSecondSealInvalid, "request_seal", "The second, post-quantum signature on the request is false."},
		{SecondSealMissing, "request_seal, response_seal", "A seal lacks the second, post-quantum signature that the verifier demands."},
		{RequestClientMismatch, "request_seal", "The sealed request is of another client than the record says."},
		{RequestServiceMismatch, "request_seal", "The sealed request is to another service than the record says."},
		{RequestIDMismatch, "request_seal", "The sealed request is of another exchange than the record says."},
		{RequestDigestMismatch, "request_seal", "The sealed request had another content than the record says."},
		{RequestHeightMismatch, "request_seal", "The request was decided at another state of the registry than the record says."},

		{ResponseKeyWrongPurpose, "response_seal", "The answer is signed by a key that is not for seals."},
		{ResponseKeyOfAnotherMember, "response_seal", "The answer is signed by another body than the one that was asked."},
		{ResponseKeyNotInForce, "response_seal", "The answer is signed by a key that was not valid at the time."},
		{ResponseSealInvalid, "response_seal", "The seal on the answer is false: the body that was asked did not sign this."},
		{ResponseBaseMalformed, "response_seal", "What was sealed as the answer cannot be read."},
		{ResponseParamsMismatch, "response_seal", "The seal on the answer was made for another purpose or names another key."},
		{ResponseComponentMissing, "response_seal", "The seal on the answer leaves out something that it must cover."},
		{ResponseSecondSealInvalid, "response_seal", "The second, post-quantum signature on the answer is false."},
		{ResponseToAnotherRequest, "response_seal", "The answer was given to another request than the one in the record."},
		{ResponseStatusMismatch, "response_seal", "The sealed answer had another status than the record says."},
		{ResponseDigestMismatch, "response_seal", "The sealed answer had another content than the record says."},
		{ResponseHeightMismatch, "response_seal", "The answer was decided at another state of the registry than the record says."},
		{FaultMismatch, "response_seal", "The sealed answer gives another reason for the refusal than the record, or is no refusal at all."},

		{RightMissing, "right", "The record names no access right for a call that needs one."},
		{RightOfAnotherService, "right", "The access right that the record names is for another service."},
		{RightOfAnotherClient, "right", "The access right that the record names belongs to another client."},
		{GroupNotInForce, "right", "The client was not in the group that has the access right at the time."},
		{EndpointNotCovered, "right", "The access right does not cover the method and path that were called."},
		{PathNotNormal, "right", "The path that was called is ambiguous, so that no access right covers it."},
		{RightNotInForce, "right", "The access right was suspended, ended or not yet granted at the time."},
		{RightNotValidThen, "right", "The request was sealed outside the time for which the access right was given."},
		{PurposeMismatch, "right", "The request states another purpose than the access right was given for."},

		{ChainMissing, "certificates", "The file does not hold the certificates of a seal's key that the verifier demands."},
		{ChainOfAnotherKey, "certificates", "The certificates are over another key than the one that sealed."},
		{ChainNotInTime, "certificates", "A certificate of a seal's key was not valid when it sealed."},
		{ChainNotSigned, "certificates", "A certificate of a seal's key is not signed by the one that should have issued it, or by means that this verifier does not know."},
		{ChainNotTrusted, "certificates", "No authority that the verifier trusts issued the certificates of a seal's key."},

		{SidesDisagree, "both_sides", "The two bodies recorded different things about this exchange. Each record may be checked on its own."},
	}
}

// stepMeaning says what a passed step means.
func stepMeaning(step string) string {
	switch step {
	case "receipt":
		return "The file is complete and well-formed."
	case "policy":
		return "It is settled whose word is taken."
	case "registry_checkpoint":
		return "Enough of the trusted witnesses vouch for this state of the registry."
	case "registry_block":
		return "The witnesses' word covers the registry's state at this height."
	case "registry_facts":
		return "The registry says what the receipt claims it says about bodies, keys and rights."
	case "record":
		return "The body's record can be read."
	case "inclusion":
		return "The body committed to exactly this record in its log."
	case "anchor":
		return "The registry accepted that state of the body's log, so the body cannot take the record back."
	case "evidence_checkpoint":
		return "The body itself signed that state of its log."
	case "members":
		return "The bodies were active members at the time."
	case "request_seal":
		return "What the client's body asked, if sealed, is what the record says."
	case "response_seal":
		return "What the provider's body answered, if sealed, is what the record says, and answers that request."
	case "right":
		return "The call was covered by the access right that the record names, or needed none."
	case "certificates":
		return "What the file holds of certificates over the seals' keys was looked at; the findings say with what result."
	case "both_sides":
		return "Whatever both bodies recorded agrees."
	}
	return ""
}
