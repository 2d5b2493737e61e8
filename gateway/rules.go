package gateway

import (
	"net/http"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/rule"
)

// judge asks the rules of the provider, which a call with a right must keep too. What
// cannot be decided is refused: nobody could say afterwards that it was allowed.
func (x *exchange) judge(d *civibus.Decision, fields http.Header, length int64) error {
	if d.Right == "" { // metadata tells nothing of persons and cases
		return nil
	}
	rules := x.view.RulesFor(x.call.service)
	if len(rules) == 0 {
		return nil
	}
	path, err := policy.NormalisePath(x.call.servicePath)
	if err != nil { // the policy has refused it
		return err
	}
	refusal := rule.Judge(rules, &declared{call: &x.call, decision: d, path: path, fields: fields, length: length}, x.started)
	if refusal == nil {
		return nil
	}
	fault := civibus.Faultf(civibus.ProviderGateway, civibus.FaultRule, "%s", rule.Sentence(refusal))
	fault.Rule = refusal
	return fault
}

// declared is what rules are told of an exchange. It holds nothing of the bodies.
type declared struct {
	call     *call
	decision *civibus.Decision
	path     string      // normalised
	fields   http.Header // of the request
	length   int64       // of its body; -1: not announced
}

// Kind implements rule.Context.
func (*declared) Kind() rule.Kind { return rule.Exchange }

var userField = http.CanonicalHeaderKey(civibus.HeaderUserID)

// Value implements rule.Context.
func (e *declared) Value(name string) (any, bool) {
	c := e.call
	switch name {
	case "consumer_member":
		return c.client.MemberID.String(), true
	case "consumer_class":
		return c.client.Class, true
	case "consumer_subsystem":
		return subsystemText(c.client), true
	case "provider_member":
		return c.service.MemberID.String(), true
	case "provider_class":
		return c.service.Class, true
	case "provider_subsystem":
		return subsystemText(c.service.ClientID), true
	case "service":
		return c.service.Service, true
	case "service_version":
		return c.service.Version, true
	case "method":
		return c.method, true
	case "path":
		return e.path, true
	case "purpose":
		return e.decision.Purpose, true
	case "legal_basis":
		return e.decision.LegalBasis, true
	case "purpose_stated":
		return c.purpose != "", true
	case "issue":
		return last(e.fields, civibus.HeaderIssue) != "", true
	case "user":
		return last(e.fields, userField) != "", true
	case "represented":
		return last(e.fields, civibus.HeaderRepresentedParty) != "", true
	case "body":
		return rule.BodyClass(e.length), true
	}
	return nil, false
}

// subsystemText is a subsystem, or nothing if a member acts itself.
func subsystemText(id civibus.ClientID) string {
	if id.Subsystem == "" {
		return ""
	}
	return id.String()
}
