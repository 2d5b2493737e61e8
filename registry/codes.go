package registry

import "fmt"

// Code says what became of a transaction. The set is closed; numbers are never
// reused. Codes lists it with texts, spec/registry.md repeats that list.
type Code uint32

// The result codes.
const (
	OK Code = iota
	BadEncoding
	TooLarge
	WrongChain
	UnknownKey
	BadSignature
	KeyNotInForce
	WrongPurpose
	MemberNotActive
	BadSequence
	Expired
	NotAuthorised
	NotFound
	AlreadyExists
	InvalidField
	Ended
	NoChange
	LimitReached
	BadPossession
	BadCertificate
	HeightPassed
	LastAdminKey
	LastRegistrar
	BadHierarchy
	InUse
	BadCheckpoint
	StaleCheckpoint
	RollbackCheckpoint
	ForkedCheckpoint
	InconsistentCheckpoint
	Unavailable
	LastValidator
	LastVoter
	NotInForce
	BadDefinition
	Already
	UnknownStep
	NotYourStep
	NotYourTurn
	BadAttempt
	Conflict
	NotDue
	BadFacts
	GuardPublic
	BadRule
	BadMigration
)

const lastCode = BadMigration

// CodeInfo documents one result code.
type CodeInfo struct {
	Code Code
	// Name is what programs compare and what the console shows.
	Name string
	// Meaning is one sentence for people.
	Meaning string
	// Checked is true when Check refuses with the code. The others are left to
	// the block, because transactions before this one in the same block may
	// change the outcome.
	Checked bool
}

// codes is the one catalogue: the constants' order.
func codes() [lastCode + 1]CodeInfo {
	return [...]CodeInfo{
		{OK, "ok", "The transaction was accepted and its events are in the event log.", false},
		{BadEncoding, "bad_encoding", "The envelope or the transaction is not the canonical encoding of a known message.", true},
		{TooLarge, "too_large", "The envelope is larger than the instance's max_tx_bytes.", true},
		{WrongChain, "wrong_chain", "The transaction names another chain.", true},
		{UnknownKey, "unknown_key", "The registry does not know the signing key.", true},
		{BadSignature, "bad_signature", "The signature is not the signing key's over the transaction.", true},
		{KeyNotInForce, "key_not_in_force", "The signing key is not yet activated, or revoked.", true},
		{WrongPurpose, "wrong_purpose", "The signing key's purpose does not allow this kind of transaction.", true},
		{MemberNotActive, "member_not_active", "The signing member is suspended or ended.", true},
		{BadSequence, "bad_sequence", "The sequence is not above the key's last accepted one, or too far above it.", true},
		{Expired, "expired", "The transaction's last height has passed.", true},
		{NotAuthorised, "not_authorised", "The signing member may not make this change.", false},
		{NotFound, "not_found", "Something that the transaction refers to is not registered.", false},
		{AlreadyExists, "already_exists", "What the transaction would add is already registered.", false},
		{InvalidField, "invalid_field", "A field breaks its rule.", true},
		{Ended, "ended", "What the transaction refers to has ended for good.", false},
		{NoChange, "no_change", "The registry already is as the transaction wants it.", false},
		{LimitReached, "limit_reached", "A limit on the number of records is reached.", false},
		{BadPossession, "bad_possession", "The proof of possession is not the new key's signature.", true},
		{BadCertificate, "bad_certificate", "The certificate is missing, malformed or over another key.", true},
		{HeightPassed, "height_passed", "The height at which the change should take effect has passed.", true},
		{LastAdminKey, "last_admin_key", "A member may not revoke its own last admin key in force.", false},
		{LastRegistrar, "last_registrar", "The instance would be left without an active registrar.", false},
		{BadHierarchy, "bad_hierarchy", "The member hierarchy would have a cycle or be too deep or too wide to check.", false},
		{InUse, "in_use", "Something registered still depends on what would end.", false},
		{BadCheckpoint, "bad_checkpoint", "The checkpoint is malformed, of another log, or not signed by a log key in force of the sender.", true},
		{StaleCheckpoint, "stale_checkpoint", "The proof does not start at the last anchored checkpoint.", false},
		{RollbackCheckpoint, "rollback_checkpoint", "The checkpoint is of a smaller log than the last anchored one.", true},
		{ForkedCheckpoint, "forked_checkpoint", "The checkpoint has the last anchored size but another root.", true},
		{InconsistentCheckpoint, "inconsistent_checkpoint", "The proof does not show that the log only grew since the last anchored checkpoint.", true},
		{Unavailable, "unavailable", "This node could not read its store; never the result of a block.", true},
		{LastValidator, "last_validator", "The ledger would be left without a validator whose key is in force without an end.", false},
		{LastVoter, "last_voter", "The instance would be left without an active member that can vote.", false},
		{NotInForce, "not_in_force", "Something that the transaction refers to is not in force now.", false},
		{BadDefinition, "bad_definition", "The definition of the process is not in canonical form or breaks one of its rules.", true},
		{Already, "already", "The very event was taken before; nothing is to be done.", false},
		{UnknownStep, "unknown_step", "The instance has no such step.", false},
		{NotYourStep, "not_your_step", "Another body has to do the step.", false},
		{NotYourTurn, "not_your_turn", "The step is not to be done now.", false},
		{BadAttempt, "bad_attempt", "Another attempt at the step is under way.", false},
		{Conflict, "conflict", "The attempt was closed with other content.", false},
		{NotDue, "not_due", "The step may still be done in time.", false},
		{BadFacts, "bad_facts", "The facts are not those that the step yields.", false},
		{GuardPublic, "guard_public", "Whether the step is skipped is decided by the ledger.", false},
		{BadRule, "bad_rule", "The rule is not in canonical form or its document breaks one of its rules.", true},
		{BadMigration, "bad_migration", "The instance cannot go on under the other version of its process.", false},
	}
}

// Codes returns the catalogue of result codes in the order of their numbers.
func Codes() []CodeInfo {
	c := codes()
	return c[:]
}

// String returns the code's name.
func (c Code) String() string {
	if c > lastCode {
		return fmt.Sprintf("code_%d", uint32(c))
	}
	return codes()[c].Name
}

// checked reports whether Check refuses with the code.
func (c Code) checked() bool { return c <= lastCode && codes()[c].Checked }

// Result is what became of one envelope.
type Result struct {
	Code Code
	// Reason is a sentence for people: the input, the rule and, where there is
	// one, the fix. It is empty when Code is OK. It is the same on all nodes,
	// but programs look at Code only.
	Reason string
	// TxHash is SHA-256 of the envelope.
	TxHash [32]byte
}

// refusal is why a transaction is not accepted. A nil refusal is acceptance.
type refusal struct {
	code   Code
	reason string
}

func refuse(code Code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}
