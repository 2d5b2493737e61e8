package proof

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry/registrypb"
)

// entry is the verification of one body's evidence.
type entry struct {
	v    *verification
	file *Entry

	record  *evidencepb.Record // 8.6
	client  civibus.ClientID   // 8.6
	service civibus.ServiceID  // 8.6
	owner   civibus.MemberID   // 8.6

	proof    *tlogProof  // 8.7
	evidence *checkpoint // 8.7

	anchorHeight uint64   // 8.8
	logKey       *keyFact // 8.9

	secondLogKey *keyFact // 8.9; nil: there is no second signature

	clientMember, providerMember *registrypb.Member // 8.10

	request  *sealBase         // 8.11; nil: nothing was sealed
	path     string            // 8.11: the service path
	response *sealBase         // 8.12
	right    *registrypb.Right // 8.13

	requestKey, responseKey       *keyFact
	requestDigest, responseDigest []byte // as sealed; nil of a head seal

	requestSecond, responseSecond *keyFact    // of second signatures, nil without
	certificates                  []SealChain // 8.14
}

func (e *entry) run() bool {
	return e.step("record", e.checkRecord) &&
		e.step("inclusion", e.checkInclusion) &&
		e.step("anchor", e.checkAnchor) &&
		e.step("evidence_checkpoint", e.checkLogSignature) &&
		e.step("members", e.checkMembers) &&
		e.step("request_seal", e.checkRequest) &&
		e.step("response_seal", e.checkResponse) &&
		e.step("right", e.checkRight) &&
		(!e.v.receipt.Second && !e.v.policy.require[requireChains] || e.step("certificates", e.checkCertificates))
}

func (e *entry) step(name string, check func() (string, *Error)) bool {
	return e.v.step(name, e, check)
}

func (e *entry) sideName() string {
	switch e.record.GetSide() {
	case evidencepb.Side_SIDE_CONSUMER:
		return "consumer"
	case evidencepb.Side_SIDE_PROVIDER:
		return "provider"
	}
	return "unknown"
}

func (e *entry) consumer() bool { return e.record.Side == evidencepb.Side_SIDE_CONSUMER }

func (e *entry) answered() bool { return e.record.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED }

// checkRecord is step 8.6.
func (e *entry) checkRecord() (string, *Error) {
	r := new(evidencepb.Record)
	if err := decode(e.file.Record, r); err != nil {
		return "", fail(RecordMalformed, "%v", err)
	}
	e.record = r
	if hasSecond(r) && (!e.v.receipt.Second || r.Version != 2) {
		return "", fail(RecordMalformed, "a seal has a field that version 1 does not know")
	}
	if r.Version != 1 && (r.Version != 2 || !e.v.receipt.Second) {
		return "", fail(RecordVersionUnknown, "version %d, the rule is 1, or 1 and 2 in receipts of version 2", r.Version)
	}
	if err := e.validRecord(); err != nil {
		return "", fail(RecordInvalid, "%v", err)
	}
	if r.ExchangeId != e.v.receipt.Exchange {
		return "", fail(ExchangeMismatch, "the record is of exchange %q, the receipt of %q", clip(r.ExchangeId), e.v.receipt.Exchange)
	}
	if first := e.v.entries[0]; first != e && first.record.Side == r.Side {
		return "", fail(SidesEqual, "both entries are of the %s's side", e.sideName())
	}
	e.owner = e.service.MemberID
	if e.consumer() {
		e.owner = e.client.MemberID
	}
	return fmt.Sprintf("kept by %s as %s, decided at height %d", e.owner, e.sideName(), r.RegistryHeight), nil
}

// hasSecond reports whether a seal has what version 2 added.
func hasSecond(r *evidencepb.Record) bool {
	for _, s := range []*evidencepb.Seal{r.Request, r.Response} {
		if s.GetSecond() != nil || len(s.GetChain()) > 0 {
			return true
		}
	}
	return false
}

// validRecord checks what a record must hold whoever made it.
func (e *entry) validRecord() (err error) {
	r := e.record
	if e.client, err = civibus.ParseClientID(r.Client); err != nil {
		return err
	}
	if e.service, err = civibus.ParseServiceID(r.Service); err != nil {
		return err
	}
	hasRequest, hasResponse := r.Request != nil, r.Response != nil
	switch {
	case r.Side != evidencepb.Side_SIDE_CONSUMER && r.Side != evidencepb.Side_SIDE_PROVIDER:
		return fmt.Errorf("side %d is unknown", r.Side)
	case r.Outcome < evidencepb.Outcome_OUTCOME_ANSWERED || r.Outcome > evidencepb.Outcome_OUTCOME_FAILED:
		return fmt.Errorf("outcome %d is unknown", r.Outcome)
	case e.client.String() != r.Client || e.service.String() != r.Service:
		return fmt.Errorf("client %q or service %q is not in canonical form", clip(r.Client), clip(r.Service))
	case r.RightId != "" && (len(r.RightId) != 32 || !onlyHex(r.RightId)):
		return fmt.Errorf("right %q, the rule is 32 hex digits", clip(r.RightId))
	case r.ExchangeId == "":
		return fmt.Errorf("it names no exchange")
	case hasRequest && len(r.Request.KeyId) != 32, hasResponse && len(r.Response.KeyId) != 32:
		return fmt.Errorf("a seal's key id has not 32 bytes")
	case !validSecond(r.Request) || !validSecond(r.Response):
		return fmt.Errorf("a second signature's key id or a chain's digest has not 32 bytes")
	case !validDigest(r.RequestBody) || !validDigest(r.ResponseBody):
		return fmt.Errorf("a body's digest has not 32 bytes")
	case len(r.Usage) != 0 && len(r.Usage) != 32:
		return fmt.Errorf("the usage record's commitment has not 32 bytes")
	case hasResponse && (r.Status < 100 || r.Status > 599), !hasResponse && r.Status != 0:
		return fmt.Errorf("status %d does not go with the response", r.Status)
	case e.answered() && (!hasRequest || !hasResponse || r.Fault != ""):
		return fmt.Errorf("an answered exchange has two seals and no fault")
	case !e.answered() && !validFault(r.Fault):
		return fmt.Errorf("fault %q, the rule is 1 to 64 of a-z 0-9 _", clip(r.Fault))
	case r.RightId != "" && !hasRequest:
		return fmt.Errorf("it names a right and holds no request")
	}
	return nil
}

func validSecond(s *evidencepb.Seal) bool {
	return (s.GetSecond() == nil || len(s.Second.KeyId) == 32) && (len(s.GetChain()) == 0 || len(s.Chain) == 32)
}

func validDigest(b *evidencepb.Body) bool { n := len(b.GetSha256()); return n == 0 || n == 32 }

func validFault(s string) bool { return s != "" && len(s) <= 64 && onlyOf(s, "_") }

func onlyHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// checkInclusion is step 8.7.
func (e *entry) checkInclusion() (string, *Error) {
	var err *Error
	if e.proof, err = parseProof(e.file.Proof); err != nil {
		return "", err
	}
	if e.evidence, err = parseCheckpoint(e.proof.checkpoint); err != nil {
		return "", err
	}
	leaf := leafHash(evidenceLeaf(e.file.Salt, e.file.Record))
	if !included(leaf, e.proof, e.evidence.size, e.evidence.root) {
		return "", fail(LeafNotIncluded, "the record's commitment is not leaf %d of %s at size %d", e.proof.index, clip(e.evidence.origin), e.evidence.size)
	}
	return fmt.Sprintf("leaf %d of %s at size %d", e.proof.index, clip(e.evidence.origin), e.evidence.size), nil
}

// checkAnchor is step 8.8.
func (e *entry) checkAnchor() (string, *Error) {
	var event registrypb.Event
	if err := decode(e.file.AnchorEvent, &event); err != nil {
		return "", fail(EventMalformed, "anchor_event: %v", err)
	}
	p, err := parseProof(e.file.AnchorProof)
	if err != nil {
		return "", err
	}
	if p.checkpoint != e.v.blockProof.checkpoint {
		return "", fail(RegistryCheckpointsDiffer, "the anchor is proven in another registry checkpoint than the block")
	}
	if !included(leafHash(e.file.AnchorEvent), p, e.v.registry.size, e.v.registry.root) {
		return "", fail(AnchorEventNotIncluded, "the event is not leaf %d of the registry's event log", p.index)
	}
	log := event.GetLogAnchored()
	if log == nil {
		return "", fail(AnchorEventWrongKind, "the event anchors no log")
	}
	if log.Origin != e.evidence.origin {
		return "", fail(AnchorOfAnotherLog, "the anchor is of %q, the record is in %q", clip(log.Origin), clip(e.evidence.origin))
	}
	if log.Size != e.evidence.size || string(log.Root) != string(e.evidence.root[:]) {
		return "", fail(AnchorOfAnotherCheckpoint, "the anchor is of size %d, the record's checkpoint of size %d, or their roots differ", log.Size, e.evidence.size)
	}
	if owner := e.owner.String(); log.Member != owner || event.Author != owner || !logOf(e.evidence.origin, owner) {
		return "", fail(LogOfAnotherMember, "the log %q of %q is not one of %s", clip(log.Origin), clip(log.Member), owner)
	}
	if log.AnchoredHeight != event.Height || event.Height > e.v.height {
		return "", fail(AnchorHeightInvalid, "anchored at %d by an event of height %d, the block is of height %d", log.AnchoredHeight, event.Height, e.v.height)
	}
	if event.Height < e.record.RegistryHeight {
		return "", fail(AnchorBeforeDecision, "anchored at height %d, but decided at %d", event.Height, e.record.RegistryHeight)
	}
	e.anchorHeight = event.Height
	return fmt.Sprintf("anchored at height %d", event.Height), nil
}

// logOf reports whether origin is that of one of owner's evidence logs.
func logOf(origin, owner string) bool {
	prefix := "civibus/" + strings.ReplaceAll(owner, "+", "%2B") + "/evidence/"
	number, ok := strings.CutPrefix(origin, prefix)
	n, err := parseNumber(number)
	return ok && err == nil && n > 0
}

// checkLogSignature is step 8.9.
func (e *entry) checkLogSignature() (string, *Error) {
	detail, err := e.logSignature(civibus.Ed25519, typeEd25519)
	if err != nil {
		return "", err
	}
	if e.logKey == nil {
		return "", fail(LogSignatureMissing, "no signature line is of a key among the facts")
	}
	second, err := e.logSignature(civibus.MLDSA44, typeMLDSA44)
	switch {
	case err != nil:
		return "", err
	case e.secondLogKey != nil:
		detail += ", and " + second
	case e.v.policy.require[requireSecondLogSignatures]:
		return "", fail(SecondLogSignatureMissing, "no signature line is of an ML-DSA-44 key among the facts")
	}
	return detail, nil
}

// logSignature checks the lines of the first log key of an algorithm among the
// facts to which any belong.
func (e *entry) logSignature(algorithm civibus.Algorithm, kind byte) (string, *Error) {
	for _, k := range e.v.facts.order {
		if k.Algorithm != algorithm {
			continue
		}
		n := newNoteKey(e.evidence.origin, kind, rawKey(k))
		valid, owned := true, false
		for _, l := range e.evidence.lines {
			if n.owns(l) {
				_, ok := n.verify(e.evidence, l)
				owned, valid = true, valid && ok
			}
		}
		if !owned {
			continue
		}
		if kind == typeMLDSA44 {
			e.secondLogKey = k
		} else {
			e.logKey = k
		}
		switch {
		case k.record.Purpose != registrypb.Purpose_PURPOSE_LOG:
			return "", fail(LogKeyWrongPurpose, "key %s is not for logs", k.ID)
		case k.record.Member != e.owner.String():
			return "", fail(LogKeyOfAnotherMember, "key %s is of %s", k.ID, clip(k.record.Member))
		case !k.inForce(e.anchorHeight):
			return "", fail(LogKeyNotInForce, "key %s was not in force at height %d", k.ID, e.anchorHeight)
		case !valid:
			return "", fail(LogSignatureInvalid, "the signature of key %s does not verify", k.ID)
		}
		return "signed by key " + k.ID.String(), nil
	}
	return "", nil
}

// rawKey is the key's encoding as notes have it.
func rawKey(k *keyFact) []byte {
	if second, ok := k.Key.(*mldsa.PublicKey); ok {
		return second.Bytes()
	}
	return k.SPKI[len(spkiEd25519):]
}

// checkMembers is step 8.10.
func (e *entry) checkMembers() (string, *Error) {
	var err *Error
	if e.consumer() || e.record.Request != nil {
		if e.clientMember, err = e.v.facts.member(e.client.MemberID); err != nil {
			return "", err
		}
		if !inForce(e.clientMember.Periods, e.record.RegistryHeight) {
			return "", fail(ClientNotInForce, "%s was in force %s, not at height %d", e.client.MemberID, describe(e.clientMember.Periods), e.record.RegistryHeight)
		}
	}
	if !e.consumer() || e.record.Request != nil {
		if e.providerMember, err = e.v.facts.member(e.service.MemberID); err != nil {
			return "", err
		}
		if !inForce(e.providerMember.Periods, e.record.RegistryHeight) {
			return "", fail(ProviderNotInForce, "%s was in force %s, not at height %d", e.service.MemberID, describe(e.providerMember.Periods), e.record.RegistryHeight)
		}
	}
	return "in force at height " + strconv.FormatUint(e.record.RegistryHeight, 10), nil
}
