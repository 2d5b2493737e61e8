package proof

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry/registrypb"
)

// sealFailures are the names of what can be wrong with the key, the signature
// and the form of a seal.
type sealFailures struct {
	wrongPurpose, anotherMember, notInForce, invalid, malformed, secondInvalid Failure
}

// checkSeal checks key and signature and reads the base.
func (e *entry) checkSeal(seal *evidencepb.Seal, member civibus.MemberID, names sealFailures) (*sealBase, *keyFact, *Error) {
	key, err := e.sealKey(seal.KeyId, member, names)
	if err != nil {
		return nil, nil, err
	}
	if !key.Verify(seal.Base, seal.Signature) {
		return nil, nil, fail(names.invalid, "the signature of key %s does not verify over the recorded base", key.ID)
	}
	base, perr := parseBase(seal.Base)
	if perr != nil {
		return nil, nil, fail(names.malformed, "%v", perr)
	}
	return base, key, nil
}

// sealKey finds a key and checks that it seals for the member.
func (e *entry) sealKey(id []byte, member civibus.MemberID, names sealFailures) (*keyFact, *Error) {
	key, err := e.v.facts.key(id)
	switch {
	case err != nil:
		return nil, err
	case key.record.Purpose != registrypb.Purpose_PURPOSE_SEAL:
		return nil, fail(names.wrongPurpose, "key %s is not for seals", key.ID)
	case key.record.Member != member.String():
		return nil, fail(names.anotherMember, "key %s is of %s and not of %s", key.ID, clip(key.record.Member), member)
	case !key.inForce(e.record.RegistryHeight):
		return nil, fail(names.notInForce, "key %s was not in force at height %d", key.ID, e.record.RegistryHeight)
	}
	return key, nil
}

// checkSecond checks a seal's second signature; there may be none unless the
// policy requires it.
func (e *entry) checkSecond(seal *evidencepb.Seal, base *sealBase, member civibus.MemberID, names sealFailures) (*keyFact, *Error) {
	if seal.Second == nil {
		if e.v.policy.require[requireSecondSeals] {
			return nil, fail(SecondSealMissing, "the seal of %s has one signature only", member)
		}
		return nil, nil
	}
	key, err := e.sealKey(seal.Second.KeyId, member, names)
	if err != nil {
		return nil, err
	}
	if !key.VerifySecond(base.second(seal, key), seal.Second.Signature) {
		return nil, fail(names.secondInvalid, "the second signature, of key %s, does not verify", key.ID)
	}
	return key, nil
}

// checkRequest is step 8.11.
func (e *entry) checkRequest() (string, *Error) {
	r := e.record
	if r.Request == nil {
		return "the record holds no sealed request: who asked is not proven", nil
	}
	names := sealFailures{RequestKeyWrongPurpose, RequestKeyOfAnotherMember, RequestKeyNotInForce, RequestSealInvalid, RequestBaseMalformed, RequestSecondSealInvalid}
	base, key, err := e.checkSeal(r.Request, e.client.MemberID, names)
	if err != nil {
		return "", err
	}
	tags := []string{sealTag}
	if !e.answered() {
		tags = append(tags, headTag)
	}
	if err := base.rightParams(r.Request, key, tags...); err != nil {
		return "", fail(RequestParamsMismatch, "%v", err)
	}
	if base.texts["nonce"] == "" {
		return "", fail(RequestParamsMismatch, "nonce is missing")
	}
	if e.requestSecond, err = e.checkSecond(r.Request, base, e.client.MemberID, names); err != nil {
		return "", err
	}
	if err := e.checkRequestBase(base); err != nil {
		return "", err
	}
	e.request, e.requestKey = base, key
	method, _ := base.plain("@method")
	return fmt.Sprintf("%s sealed %s %s at %s", e.client.MemberID, clip(method), clip(e.path), created(base).Format(time.RFC3339)), nil
}

// checkRequestBase checks that what was sealed is what was recorded.
func (e *entry) checkRequestBase(base *sealBase) *Error {
	r := e.record
	digests := base.either(component{name: "content-digest"})
	head := base.texts["tag"] == headTag
	for _, name := range []string{"@method", "@path", "@query", "x-road-client", "x-road-id", "x-road-request-id"} {
		if _, ok := base.plain(name); !ok {
			return fail(RequestComponentMissing, "the seal does not cover %s", name)
		}
	}
	if len(digests) == 0 && !head {
		return fail(RequestComponentMissing, "the seal does not cover content-digest")
	}
	for _, c := range base.order {
		if c.req {
			return fail(RequestBaseMalformed, "a request's seal covers a part of another request")
		}
	}
	clientText, _ := base.plain("x-road-client")
	if id, err := civibus.ParseClientID(clientText); err != nil || id != e.client {
		return fail(RequestClientMismatch, "the seal is of client %q, the record of %s", clip(clientText), e.client)
	}
	path, _ := base.plain("@path")
	servicePath, ok := splitPath(path, e.service)
	if !ok {
		return fail(RequestServiceMismatch, "the seal is of path %q, the record of service %s", clip(path), e.service)
	}
	e.path = servicePath
	if !e.sameIDs(base) {
		return fail(RequestIDMismatch, "the seal's x-road-id or x-road-request-id is not the record's")
	}
	if !head {
		var err error
		if e.requestDigest, err = sealedDigest(digests, r.RequestBody); err != nil {
			return fail(RequestDigestMismatch, "%v", err)
		}
		if r.RequestBody != nil && !agrees(base, "civibus-body-length", r.RequestBody.Size) {
			return fail(RequestDigestMismatch, "the sealed length is not the recorded one")
		}
	}
	if e.consumer() && !agrees(base, "civibus-height", r.RegistryHeight) {
		return fail(RequestHeightMismatch, "the sealed decision height is not the recorded %d", r.RegistryHeight)
	}
	return nil
}

// sameIDs reports whether the ids that a base covers are the record's.
func (e *entry) sameIDs(base *sealBase) bool {
	request, ok := base.plain("x-road-request-id")
	message, ok2 := base.plain("x-road-id")
	return (!ok || request == e.record.ExchangeId) && (!ok2 || message == e.record.MessageId)
}

// agrees reports whether a covered field is n in decimal; a field that is not
// covered says nothing.
func agrees(base *sealBase, name string, n uint64) bool {
	v, ok := base.plain(name)
	return !ok || v == strconv.FormatUint(n, 10)
}

// splitPath reports whether path names the service, and returns what follows.
func splitPath(path string, service civibus.ServiceID) (rest string, ok bool) {
	tail, ok := strings.CutPrefix(path, "/r1/")
	parts := strings.SplitN(tail, "/", 6)
	if !ok || len(parts) < 5 {
		return "", false
	}
	for i, want := range []string{service.Instance, service.Class, service.Code, service.Subsystem, service.Service} {
		if got, err := civibus.DecodePart(parts[i]); err != nil || got != want {
			return "", false
		}
	}
	if len(parts) == 6 {
		rest = "/" + parts[5]
	}
	return rest, true
}

func created(base *sealBase) time.Time { return time.Unix(int64(base.numbers["created"]), 0).UTC() }

// checkResponse is step 8.12.
func (e *entry) checkResponse() (string, *Error) {
	r := e.record
	if r.Response == nil {
		return "the record holds no sealed answer: nothing is proven about it", nil
	}
	names := sealFailures{ResponseKeyWrongPurpose, ResponseKeyOfAnotherMember, ResponseKeyNotInForce, ResponseSealInvalid, ResponseBaseMalformed, ResponseSecondSealInvalid}
	base, key, err := e.checkSeal(r.Response, e.service.MemberID, names)
	if err != nil {
		return "", err
	}
	tags := []string{sealTag}
	if !e.answered() {
		tags = append(tags, headTag)
	}
	if err := base.rightParams(r.Response, key, tags...); err != nil {
		return "", fail(ResponseParamsMismatch, "%v", err)
	}
	if e.responseSecond, err = e.checkSecond(r.Response, base, e.service.MemberID, names); err != nil {
		return "", err
	}
	if err := e.checkBinding(base); err != nil {
		return "", err
	}
	if err := e.checkAnswer(base); err != nil {
		return "", err
	}
	e.response, e.responseKey = base, key
	return fmt.Sprintf("%s sealed status %d at %s", e.service.MemberID, r.Status, created(base).Format(time.RFC3339)), nil
}

// checkAnswer checks that what was sealed is what was recorded.
func (e *entry) checkAnswer(base *sealBase) *Error {
	r := e.record
	if status, _ := base.plain("@status"); len(status) != 3 || status != strconv.FormatUint(uint64(r.Status), 10) {
		return fail(ResponseStatusMismatch, "the seal is of status %q, the record of %d", clip(status), r.Status)
	}
	head := base.texts["tag"] == headTag
	if !head {
		var err error
		if e.responseDigest, err = sealedDigest(base.either(component{name: "content-digest"}), r.ResponseBody); err != nil {
			return fail(ResponseDigestMismatch, "%v", err)
		}
		// The answer to HEAD, and a 304, speak of the length of a body that is not sent.
		unsent := base.values[component{name: "@method", req: true}] == "HEAD" || r.Status == 304
		if r.ResponseBody != nil && !unsent && !agrees(base, "civibus-body-length", r.ResponseBody.Size) {
			return fail(ResponseDigestMismatch, "the sealed length is not the recorded one")
		}
	}
	if !e.consumer() && !agrees(base, "civibus-height", r.RegistryHeight) {
		return fail(ResponseHeightMismatch, "the sealed decision height is not the recorded %d", r.RegistryHeight)
	}
	fault, sealed := base.plain("civibus-fault")
	failed := head || r.Outcome == evidencepb.Outcome_OUTCOME_FAILED && e.consumer()
	if sealed && (e.answered() || fault != r.Fault) || !sealed && !e.answered() && !failed {
		return fail(FaultMismatch, "the seal says fault %q, the record %q", clip(fault), r.Fault)
	}
	return nil
}

// checkBinding checks that the answer is to this request and to no other.
func (e *entry) checkBinding(base *sealBase) *Error {
	needed := []component{{name: "@method", req: true}, {name: "@path", req: true}, {name: "@query", req: true}, {name: "@status"}}
	for _, c := range needed {
		if _, ok := base.values[c]; !ok {
			return fail(ResponseComponentMissing, "the seal does not cover %s", c.name)
		}
	}
	tag, early := "", false
	var either []component
	if base.texts["tag"] != headTag {
		either = append(either, component{name: "content-digest"})
	}
	if e.request != nil {
		tag = e.request.texts["tag"]
		early = tag == sealTag && !e.answered() && e.boundEarly(base)
		if tag == sealTag && !early {
			either = append(either, component{name: "content-digest", req: true})
		}
		if !early {
			either = append(either, component{name: "signature", req: true, key: tag, kind: true})
		}
	}
	for _, c := range either {
		if len(base.either(c)) == 0 {
			return fail(ResponseComponentMissing, "the seal does not cover %s of the %s", c.name, map[bool]string{true: "request", false: "answer"}[c.req])
		}
	}
	if !e.sameIDs(base) {
		return fail(ResponseToAnotherRequest, "the answer's x-road-id or x-road-request-id is not the record's")
	}
	if e.request == nil {
		if _, ok := splitPath(base.values[component{name: "@path", req: true}], e.service); !ok {
			return fail(ResponseToAnotherRequest, "the answer is to a call of another service than the record's")
		}
		return nil
	}
	signature := ":" + encodeBase64(e.record.Request.Signature) + ":"
	for _, c := range base.order {
		if !c.req {
			continue
		}
		value, of := base.values[c], c
		of.req = false
		want, covered := e.request.values[of]
		if c.name == "signature" && c.kind && !c.sf && !c.bs {
			switch {
			case c.key == tag:
				want, covered = signature, true
			case early && c.key == headTag:
				want, covered = value, true
			}
		}
		if !covered || value != want {
			return fail(ResponseToAnotherRequest, "the answer is bound to a request with another %s", c.name)
		}
	}
	return nil
}

// boundEarly reports whether a refusal is bound to the head of a streamed
// request whose whole seal the record holds: it was made while the body was
// still on its way. The exchange id, sealed on both sides, binds it then.
func (e *entry) boundEarly(base *sealBase) bool {
	head := base.either(component{name: "signature", req: true, key: headTag, kind: true})
	whole := base.either(component{name: "signature", req: true, key: sealTag, kind: true})
	_, named := base.plain("x-road-request-id")
	return len(head) > 0 && len(whole) == 0 && named
}

// checkRight is step 8.13.
func (e *entry) checkRight() (string, *Error) {
	id, height := e.record.RightId, e.record.RegistryHeight
	if id == "" {
		if !e.answered() {
			return "not answered: no right was needed", nil
		}
		method, _ := e.request.plain("@method")
		if !policy.Metadata(method, e.service) || e.path != "" {
			return "", fail(RightMissing, "the record names no right and the call is not a metadata call")
		}
		return "a metadata call needs no right", nil
	}
	right, err := e.v.facts.right(id)
	if err != nil {
		return "", err
	}
	terms := right.GetTerms()
	unversioned := e.service
	unversioned.Version = ""
	if s := terms.GetService(); s != e.service.String() && s != unversioned.String() {
		return "", fail(RightOfAnotherService, "the right is for %s", clip(s))
	}
	if err := e.checkSubject(terms); err != nil {
		return "", err
	}
	if err := e.checkEndpoint(terms.GetEndpoints()); err != nil {
		return "", err
	}
	if !inForce(right.Periods, height) {
		return "", fail(RightNotInForce, "the right was in force %s, not at height %d", describe(right.Periods), height)
	}
	t := created(e.request).Unix()
	if t < terms.ValidFrom || terms.ValidUntil != 0 && t >= terms.ValidUntil {
		return "", fail(RightNotValidThen, "the request was sealed at %d, the right is valid from %d to %d", t, terms.ValidFrom, terms.ValidUntil)
	}
	if purpose, ok := e.request.plain("civibus-purpose"); ok && purpose != terms.Purpose {
		return "", fail(PurposeMismatch, "the request states purpose %q, the right is for %q", clip(purpose), clip(terms.Purpose))
	}
	e.right = right
	return fmt.Sprintf("right %s, purpose %s, basis %s", id, clip(terms.Purpose), clip(terms.LegalBasis)), nil
}

func (e *entry) checkSubject(terms *registrypb.GrantRight) *Error {
	client := e.client.String()
	if terms.GetGroup() == "" {
		if terms.GetClient() != client {
			return fail(RightOfAnotherClient, "the right is of %q", clip(terms.GetClient()))
		}
		return nil
	}
	g, err := e.v.facts.groupMember(terms.GetGroup(), client)
	if err != nil {
		return err
	}
	if !inForce(g.Periods, e.record.RegistryHeight) {
		return fail(GroupNotInForce, "%s was in group %s %s, not at height %d", client, clip(g.Group), describe(g.Periods), e.record.RegistryHeight)
	}
	return nil
}

func (e *entry) checkEndpoint(list []*registrypb.Endpoint) *Error {
	if len(list) == 0 {
		return nil
	}
	path, err := policy.NormalisePath(e.path)
	if err != nil {
		return fail(PathNotNormal, "%v", err)
	}
	endpoints := make([]civibus.Endpoint, len(list))
	for i, p := range list {
		endpoints[i] = civibus.Endpoint{Method: p.Method, Path: p.Path}
	}
	method, _ := e.request.plain("@method")
	if !policy.Covers(endpoints, method, path) {
		return fail(EndpointNotCovered, "the right covers other endpoints than %s %s", clip(method), clip(path))
	}
	return nil
}

// checkBothSides is step 8.14.
func (v *verification) checkBothSides() (string, *Error) {
	if len(v.entries) == 1 {
		return "the receipt has the entry of one side", nil
	}
	a, b := v.entries[0].record, v.entries[1].record
	switch {
	case a.MessageId != b.MessageId || a.Client != b.Client || a.Service != b.Service:
		return "", fail(SidesDisagree, "the sides recorded another message, client or service")
	case a.Outcome != b.Outcome || a.Fault != b.Fault || a.Status != b.Status:
		return "", fail(SidesDisagree, "the sides recorded another outcome")
	case !sameSeal(a.Request, b.Request) || !sameSeal(a.Response, b.Response):
		return "", fail(SidesDisagree, "the sides recorded other seals")
	case !sameSize(a.RequestBody, b.RequestBody) || !sameSize(a.ResponseBody, b.ResponseBody):
		return "", fail(SidesDisagree, "the sides recorded other bodies")
	}
	return "both sides recorded the same exchange", nil
}

func sameSeal(a, b *evidencepb.Seal) bool {
	return string(a.GetBase()) == string(b.GetBase()) && string(a.GetSignature()) == string(b.GetSignature()) &&
		string(a.GetKeyId()) == string(b.GetKeyId()) &&
		string(a.GetSecond().GetSignature()) == string(b.GetSecond().GetSignature()) &&
		string(a.GetSecond().GetKeyId()) == string(b.GetSecond().GetKeyId())
}

// sameSize compares bodies that both sides recorded; their digests are compared
// with the seals.
func sameSize(a, b *evidencepb.Body) bool { return a == nil || b == nil || a.Size == b.Size }
