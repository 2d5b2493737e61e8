package proof

import (
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/registry/registrypb"
)

// summary says what a valid receipt proves.
func (v *verification) summary() *Summary {
	e := v.entries[0]
	r := e.record
	s := &Summary{
		Exchange: r.ExchangeId, MessageID: r.MessageId, Client: r.Client, Service: r.Service,
		ClientName: e.clientMember.GetName(), ProviderName: e.providerMember.GetName(),
		Outcome: outcomeName(r.Outcome), Fault: r.Fault, Status: r.Status, Right: r.RightId,
		Registry: Registry{Origin: v.registry.origin, Height: v.height, Size: v.registry.size, BlockTime: v.blockTime},
	}
	if e.request != nil {
		s.Method, _ = e.request.plain("@method")
		s.Path, _ = e.request.plain("@path")
		s.Requested = created(e.request)
		s.RequestSealed = true
		s.RequestBody = body(e.requestDigest, r.RequestBody)
	}
	if e.response != nil {
		s.Answered = created(e.response)
		s.AnswerSealed = true
		s.ResponseBody = body(e.responseDigest, r.ResponseBody)
	}
	if e.right != nil {
		s.Purpose, s.LegalBasis = e.right.GetTerms().GetPurpose(), e.right.GetTerms().GetLegalBasis()
	}
	for _, w := range v.policy.witnesses {
		if t, ok := v.signed[w]; ok {
			s.Registry.Witnesses = append(s.Registry.Witnesses, Witness{w.key.name, t})
		}
	}
	sort.Slice(s.Registry.Witnesses, func(i, j int) bool { return s.Registry.Witnesses[i].Name < s.Registry.Witnesses[j].Name })
	for _, e := range v.entries {
		s.Sides = append(s.Sides, Side{
			Side: e.sideName(), Member: e.owner.String(), RegistryHeight: e.record.RegistryHeight,
			Log: e.evidence.origin, Index: e.proof.index, AnchorHeight: e.anchorHeight,
			Started: nano(e.record.StartedUnixNano), Finished: nano(e.record.FinishedUnixNano),
		})
	}
	v.seconds(s)
	return s
}

// seconds says which second signatures verified, and what was found of chains.
func (v *verification) seconds(s *Summary) {
	add := func(ok bool, what string) {
		if ok && !slices.Contains(s.PostQuantum, what) {
			s.PostQuantum = append(s.PostQuantum, what)
		}
	}
	for _, w := range v.policy.witnesses {
		_, signed := v.signed[w]
		add(signed && w.key.kind == typeMLDSA44, "registry checkpoint by "+w.key.name)
	}
	for _, e := range v.entries {
		add(e.secondLogKey != nil, "log "+e.evidence.origin)
		add(e.requestSecond != nil, "request")
		add(e.responseSecond != nil, "answer")
		s.Certificates = append(s.Certificates, e.certificates...)
	}
}

func outcomeName(o evidencepb.Outcome) string {
	switch o {
	case evidencepb.Outcome_OUTCOME_ANSWERED:
		return "answered"
	case evidencepb.Outcome_OUTCOME_REFUSED:
		return "refused"
	}
	return "failed"
}

func body(digest []byte, b *evidencepb.Body) *Body {
	if digest == nil {
		return nil
	}
	out := &Body{SHA256: hex.EncodeToString(digest)}
	if b != nil {
		out.Size = &b.Size
	}
	return out
}

func nano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// clockTolerance is how far clocks may differ before the report says so. It
// decides nothing: a receipt with a wrong clock is still valid.
const clockTolerance = 10 * time.Minute

// cautions lists what is true of a valid receipt and may still matter to a judge.
func (v *verification) cautions() []string {
	var out []string
	if len(v.entries) == 1 {
		out = append(out, "The receipt holds the record of the "+v.entries[0].sideName()+" only.")
	}
	for _, e := range v.entries {
		if e.request == nil {
			out = append(out, "The "+e.sideName()+"'s record holds no sealed request: who asked is that body's own statement.")
		}
		if e.record.Fault != "" && e.response != nil {
			if _, sealed := e.response.plain("civibus-fault"); !sealed {
				out = append(out, "The failure is the "+e.sideName()+"'s own statement: the sealed answer does not speak of it.")
			}
		}
		if e.response == nil {
			out = append(out, "The "+e.sideName()+"'s record holds no sealed answer: the outcome is that body's own statement.")
		}
		for _, k := range []*keyFact{e.requestKey, e.responseKey, e.logKey, e.requestSecond, e.responseSecond, e.secondLogKey} {
			if k != nil && k.record.Reason == registrypb.RevocationReason_REVOCATION_REASON_COMPROMISED {
				out = append(out, fmt.Sprintf("Key %s of %s was later revoked as compromised, at height %d; this record was anchored at height %d.",
					k.ID, k.record.Member, k.record.RevokeHeight, e.anchorHeight))
			}
		}
		for _, b := range []*sealBase{e.request, e.response} {
			if b != nil && created(b).After(v.blockTime.Add(clockTolerance)) {
				out = append(out, "A seal is dated after the block that proves it existed: that body's clock was wrong.")
			}
		}
	}
	return out
}
