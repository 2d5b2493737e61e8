package proof

import (
	"fmt"
	"strings"
	"time"

	"github.com/civibus/civibus/registry/registrypb"
)

// verification is one run over one receipt. Its fields are filled by the steps
// in their order.
type verification struct {
	report  *Report
	receipt *Receipt // 8.1
	policy  *Policy  // 8.2

	blockProof *tlogProof                // 8.3
	registry   *checkpoint               // 8.3
	signed     map[*policyNode]time.Time // 8.3

	height    uint64    // 8.4
	blockTime time.Time // 8.4
	stateRoot [32]byte  // 8.4

	facts   *facts   // 8.5
	entries []*entry // 8.6 to 8.13
}

// Verify checks a receipt against a policy, offline, by the steps of
// spec/receipt.md section 8. It stops at the first step that fails. The report
// is never nil; the error is its Report.Error: nil exactly when the receipt is
// valid.
func Verify(receipt, policy []byte) (*Report, error) {
	v := &verification{report: new(Report)}
	if v.run(receipt, policy) {
		v.report.Valid = true
		v.report.Summary = v.summary()
		v.report.Cautions = v.cautions()
	}
	return v.report, v.report.Error()
}

func (v *verification) run(receipt, policy []byte) bool {
	// 1. receipt and 2. policy
	ok := v.step("receipt", nil, func() (detail string, err *Error) {
		if v.receipt, err = parse(receipt); err != nil {
			return "", err
		}
		return fmt.Sprintf("exchange %s; entries: %d, facts: %d", v.receipt.Exchange, len(v.receipt.Entries), len(v.receipt.Registry.Facts)), nil
	}) && v.step("policy", nil, func() (detail string, err *Error) {
		if v.policy, err = parsePolicy(policy); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d witnesses", len(v.policy.witnesses)), nil
	}) &&
		// 3. to 5. what the registry says
		v.step("registry_checkpoint", nil, v.checkRegistry) &&
		v.step("registry_block", nil, v.checkBlock) &&
		v.step("registry_facts", nil, v.checkFacts)
	if !ok {
		return false
	}
	// 6. to 13. what each body recorded
	for i := range v.receipt.Entries {
		e := &entry{v: v, file: &v.receipt.Entries[i]}
		v.entries = append(v.entries, e)
		if !e.run() {
			return false
		}
	}
	// 14. both
	return v.step("both_sides", nil, v.checkBothSides)
}

// step runs one step and reports it.
func (v *verification) step(name string, e *entry, check func() (string, *Error)) bool {
	detail, err := check()
	s := Step{Name: name, OK: err == nil, Detail: detail, Meaning: stepMeaning(name)}
	if e != nil {
		s.Entry = e.sideName()
	}
	if err != nil {
		err.Step = name
		s.Detail, s.Meaning = err.Detail, err.Failure.Meaning()
		v.report.Failure = err.Failure
	}
	v.report.Steps = append(v.report.Steps, s)
	return err == nil
}

// checkRegistry is step 8.3.
func (v *verification) checkRegistry() (string, *Error) {
	var err *Error
	if v.blockProof, err = parseProof(v.receipt.Registry.BlockProof); err != nil {
		return "", err
	}
	if v.registry, err = parseCheckpoint(v.blockProof.checkpoint); err != nil {
		return "", err
	}
	prefix, ok := strings.CutSuffix(v.registry.origin, "registry")
	chain, isLedger := strings.CutPrefix(prefix, "civibus/")
	chain, slash := strings.CutSuffix(chain, "/")
	if !ok || !isLedger || !slash || chain == "" || strings.Contains(chain, "/") {
		return "", fail(RegistryOriginInvalid, "origin %q, the rule is civibus/<chain id>/registry", clip(v.registry.origin))
	}
	for _, w := range v.policy.witnesses {
		if !strings.HasPrefix(w.key.name, prefix) {
			return "", fail(WitnessOfAnotherLedger, "the policy's witness %s is not one of %s", clip(w.key.name), clip(v.registry.origin))
		}
	}
	if v.signed, err = v.policy.signed(v.registry); err != nil {
		return "", err
	}
	if !v.policy.quorum.reached(v.signed) {
		return "", fail(QuorumNotReached, "%d of the policy's %d witnesses cosigned, which is not enough", len(v.signed), len(v.policy.witnesses))
	}
	return fmt.Sprintf("%s at size %d, cosigned by %d of %d witnesses", v.registry.origin, v.registry.size, len(v.signed), len(v.policy.witnesses)), nil
}

// checkBlock is step 8.4.
func (v *verification) checkBlock() (string, *Error) {
	var e registrypb.Event
	if err := decode(v.receipt.Registry.BlockEvent, &e); err != nil {
		return "", fail(EventMalformed, "block_event: %v", err)
	}
	if v.blockProof.index+1 != v.registry.size {
		return "", fail(BlockEventNotLast, "it has index %d, the last leaf has %d", v.blockProof.index, v.registry.size-1)
	}
	if !included(leafHash(v.receipt.Registry.BlockEvent), v.blockProof, v.registry.size, v.registry.root) {
		return "", fail(BlockEventNotIncluded, "the inclusion proof does not lead to the checkpoint's root")
	}
	b := e.GetBlockCommitted()
	if b == nil || len(b.StateRoot) != 32 {
		return "", fail(BlockEventWrongKind, "the last event is not a block_committed with a state root")
	}
	v.height, v.blockTime, v.stateRoot = e.Height, time.Unix(0, b.TimeUnixNano).UTC(), [32]byte(b.StateRoot)
	return fmt.Sprintf("height %d, committed %s", v.height, v.blockTime.Format(time.RFC3339)), nil
}

// checkFacts is step 8.5.
func (v *verification) checkFacts() (string, *Error) {
	var err *Error
	if v.facts, err = proveFacts(v.stateRoot, v.receipt.Registry.Facts, v.receipt.Second); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d facts proven by the state of height %d", len(v.receipt.Registry.Facts), v.height), nil
}
