package proof

// Failure is the stable name of what is wrong with a receipt. The names, and
// the step in which each is found, are those of spec/receipt.md section 9.
type Failure string

// The failures.
const (
	ReceiptTooLarge  Failure = "receipt_too_large"
	ReceiptMalformed Failure = "receipt_malformed"
	Base64Malformed  Failure = "base64_malformed"
	FormatUnknown    Failure = "format_unknown"

	PolicyMalformed     Failure = "policy_malformed"
	PolicyWithoutQuorum Failure = "policy_without_quorum"

	ProofMalformed            Failure = "proof_malformed"
	CheckpointMalformed       Failure = "checkpoint_malformed"
	RegistryCheckpointsDiffer Failure = "registry_checkpoints_differ"
	RegistryOriginInvalid     Failure = "registry_origin_invalid"
	WitnessOfAnotherLedger    Failure = "witness_of_another_ledger"
	CosignatureInvalid        Failure = "cosignature_invalid"
	SecondLogSignatureMissing Failure = "second_log_signature_missing"
	QuorumNotReached          Failure = "quorum_not_reached"

	EventMalformed        Failure = "event_malformed"
	BlockEventNotLast     Failure = "block_event_not_last"
	BlockEventNotIncluded Failure = "block_event_not_included"
	BlockEventWrongKind   Failure = "block_event_wrong_kind"

	FactDuplicate      Failure = "fact_duplicate"
	FactProofMalformed Failure = "fact_proof_malformed"
	FactNotProven      Failure = "fact_not_proven"
	FactMalformed      Failure = "fact_malformed"
	FactMissing        Failure = "fact_missing"
	FactAbsent         Failure = "fact_absent"

	RecordMalformed      Failure = "record_malformed"
	RecordVersionUnknown Failure = "record_version_unknown"
	RecordInvalid        Failure = "record_invalid"
	ExchangeMismatch     Failure = "exchange_mismatch"
	SidesEqual           Failure = "sides_equal"

	LeafNotIncluded Failure = "leaf_not_included"

	AnchorEventNotIncluded    Failure = "anchor_event_not_included"
	AnchorEventWrongKind      Failure = "anchor_event_wrong_kind"
	AnchorOfAnotherLog        Failure = "anchor_of_another_log"
	AnchorOfAnotherCheckpoint Failure = "anchor_of_another_checkpoint"
	LogOfAnotherMember        Failure = "log_of_another_member"
	AnchorHeightInvalid       Failure = "anchor_height_invalid"
	AnchorBeforeDecision      Failure = "anchor_before_decision"

	LogSignatureMissing   Failure = "log_signature_missing"
	LogSignatureInvalid   Failure = "log_signature_invalid"
	LogKeyWrongPurpose    Failure = "log_key_wrong_purpose"
	LogKeyOfAnotherMember Failure = "log_key_of_another_member"
	LogKeyNotInForce      Failure = "log_key_not_in_force"

	ClientNotInForce   Failure = "client_not_in_force"
	ProviderNotInForce Failure = "provider_not_in_force"

	RequestKeyWrongPurpose    Failure = "request_key_wrong_purpose"
	RequestKeyOfAnotherMember Failure = "request_key_of_another_member"
	RequestKeyNotInForce      Failure = "request_key_not_in_force"
	RequestSealInvalid        Failure = "request_seal_invalid"
	RequestBaseMalformed      Failure = "request_base_malformed"
	RequestParamsMismatch     Failure = "request_params_mismatch"
	RequestComponentMissing   Failure = "request_component_missing"
	RequestClientMismatch     Failure = "request_client_mismatch"
	RequestServiceMismatch    Failure = "request_service_mismatch"
	RequestIDMismatch         Failure = "request_id_mismatch"
	RequestDigestMismatch     Failure = "request_digest_mismatch"
	RequestHeightMismatch     Failure = "request_height_mismatch"

	ResponseKeyWrongPurpose    Failure = "response_key_wrong_purpose"
	ResponseKeyOfAnotherMember Failure = "response_key_of_another_member"
	ResponseKeyNotInForce      Failure = "response_key_not_in_force"
	ResponseSealInvalid        Failure = "response_seal_invalid"
	ResponseBaseMalformed      Failure = "response_base_malformed"
	ResponseParamsMismatch     Failure = "response_params_mismatch"
	ResponseComponentMissing   Failure = "response_component_missing"
	ResponseToAnotherRequest   Failure = "response_to_another_request"
	ResponseStatusMismatch     Failure = "response_status_mismatch"
	ResponseDigestMismatch     Failure = "response_digest_mismatch"
	ResponseHeightMismatch     Failure = "response_height_mismatch"
	FaultMismatch              Failure = "fault_mismatch"

	RightMissing          Failure = "right_missing"
	RightOfAnotherService Failure = "right_of_another_service"
	RightOfAnotherClient  Failure = "right_of_another_client"
	GroupNotInForce       Failure = "group_membership_not_in_force"
	EndpointNotCovered    Failure = "endpoint_not_covered"
	PathNotNormal         Failure = "path_not_normal"
	RightNotInForce       Failure = "right_not_in_force"
	RightNotValidThen     Failure = "right_not_valid_then"
	PurposeMismatch       Failure = "purpose_mismatch"

	RequestSecondSealInvalid  Failure = "request_second_seal_invalid"
	ResponseSecondSealInvalid Failure = "response_second_seal_invalid"
	SecondSealMissing         Failure = "second_seal_missing"
	ChainMissing              Failure = "chain_missing"
	ChainOfAnotherKey         Failure = "chain_of_another_key"
	ChainNotInTime            Failure = "chain_not_in_time"
	ChainNotSigned            Failure = "chain_not_signed"
	ChainNotTrusted           Failure = "chain_not_trusted"

	SidesDisagree Failure = "sides_disagree"
)
