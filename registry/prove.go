package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/smt"
)

// StateRoot returns the root of the state tree.
func (v *View) StateRoot() [32]byte { return v.tree.Root() }

// EventRoot returns the root of the event log.
func (v *View) EventRoot() [32]byte { return v.events.Root() }

// EventSize returns the number of events in the log.
func (v *View) EventSize() uint64 { return v.events.Size() }

// EventRootAt returns the root that the event log had at an earlier size.
func (v *View) EventRootAt(size uint64) ([32]byte, error) {
	h, err := v.events.At(size)
	if err != nil {
		return [32]byte{}, err
	}
	return h.Root(), nil
}

// EventSizeAt returns the size of the event log after the block at height; ok is
// false when that block changed nothing or is later than the view.
func (v *View) EventSizeAt(height uint64) (size uint64, ok bool, err error) {
	if height > v.height {
		return 0, false, nil
	}
	size, ok, err = readNumber(v.store, blockStoreKey(height))
	if err != nil {
		return 0, false, fmt.Errorf("event log size at height %d: %w", height, err)
	}
	return size, ok, nil
}

// AnchorEvent returns the event by which the checkpoint of exactly that size of
// an evidence log was anchored.
func (v *View) AnchorEvent(origin string, size uint64) (index uint64, event []byte, ok bool, err error) {
	index, ok, err = readNumber(v.store, anchorStoreKey(origin, size))
	if err == nil && ok && index < v.EventSize() {
		event, err = v.Event(index)
	}
	if err != nil {
		return 0, nil, false, fmt.Errorf("anchor of log %s at size %d: %w", origin, size, err)
	}
	return index, event, event != nil, nil
}

func readNumber(store Store, key []byte) (n uint64, ok bool, err error) {
	b, err := store.Get(key)
	switch {
	case err != nil || b == nil:
		return 0, false, err
	case len(b) != 8:
		return 0, false, errors.New("an index record is not 8 bytes; the store is damaged")
	}
	return binary.BigEndian.Uint64(b), true, nil
}

// Event returns an event, encoded.
func (v *View) Event(index uint64) ([]byte, error) { return v.events.Event(index) }

// ProveEvent returns the RFC 6962 inclusion proof of an event in the log of
// EventSize.
func (v *View) ProveEvent(index uint64) ([][]byte, error) { return v.events.Inclusion(index) }

// ProveEventAt returns the inclusion proof in the log of an earlier size.
func (v *View) ProveEventAt(index, size uint64) ([][]byte, error) {
	if size > v.EventSize() {
		return nil, fmt.Errorf("prove event %d at size %d: the log has %d events", index, size, v.EventSize())
	}
	h, err := v.events.At(size)
	if err != nil {
		return nil, err
	}
	return h.Inclusion(index)
}

// ConsistencyProof returns the RFC 6962 proof that the log of oldSize is a
// prefix of the log of EventSize.
func (v *View) ConsistencyProof(oldSize uint64) ([][]byte, error) {
	return v.events.Consistency(oldSize)
}

// ProveState returns what a state key holds, nil for nothing, and an encoded
// StateProof of that against StateRoot.
func (v *View) ProveState(key string) (value []byte, proof []byte, err error) {
	p, valueHash, present, err := v.tree.Prove(key)
	if err != nil {
		return nil, nil, err
	}
	if present {
		if value, err = v.value(key); err != nil {
			return nil, nil, fmt.Errorf("prove %q: %w", key, err)
		}
		if value == nil || smt.ValueHash(value) != valueHash {
			return nil, nil, fmt.Errorf("prove %q: the state does not hold what the tree proves; the store is damaged", key)
		}
	}
	if proof, err = encodeCanonical(p); err != nil {
		return nil, nil, fmt.Errorf("prove %q: %w", key, err)
	}
	return value, proof, nil
}

// value returns the encoded value of a state key, nil if there is none.
func (v *View) value(key string) ([]byte, error) {
	kind, id, _ := strings.Cut(key, "/")
	switch kind + "/" {
	case notaryPrefix:
		b, err := v.store.Get(stateStoreKey(key))
		if err != nil || b == nil {
			return nil, err
		}
		if r, err := decodeNotarisation(b); err != nil || r.Height > v.height {
			return nil, err
		}
		return b, nil
	case sequencePrefix:
		if q, ok := v.state.sequences.Get(id); ok {
			return q.encode(), nil
		}
		return nil, nil
	}
	if r := v.state.record(key); r != nil {
		return r.encode(), nil
	}
	if id, ok := strings.CutPrefix(key, instancePrefix); ok { // it ended
		i, ok, err := v.ProcessInstance(id)
		if err != nil || !ok {
			return nil, err
		}
		return instanceRecord{ProcessInstance: &i}.encode(), nil
	}
	return nil, nil
}

// record returns the record under a state key, nil if there is none here.
func (s *state) record(key string) record {
	kind, id, _ := strings.Cut(key, "/")
	switch kind + "/" {
	case memberPrefix:
		return recordAt(s.members, id, func(p *civibus.Member) record { return memberRecord{p} })
	case keyPrefix:
		return recordAt(s.keys, id, func(p *civibus.RegisteredKey) record { return keyRecord{p} })
	case subsystemPrefix:
		return recordAt(s.subsystems, id, func(p *civibus.Subsystem) record { return subsystemRecord{p} })
	case servicePrefix:
		return recordAt(s.services, id, func(p *civibus.Service) record { return serviceRecord{p} })
	case rightPrefix:
		return recordAt(s.rights, id, func(p *civibus.AccessRight) record { return rightRecord{p} })
	case groupPrefix:
		return recordAt(s.groups, id, func(p *civibus.Group) record { return groupRecord{p} })
	case groupMemberPrefix:
		return recordAt(s.groupMembers, id, func(p *groupMember) record { return groupMemberRecord{p} })
	case logPrefix:
		return recordAt(s.logs, id, func(p *civibus.Log) record { return logRecord{p} })
	case validatorPrefix:
		return recordAt(s.validators, id, func(p *validator) record { return validatorRecord{p} })
	case nodesPrefix:
		return recordAt(s.nodes, id, func(p *memberNodes) record { return nodesRecord{p} })
	case votesPrefix:
		return recordAt(s.votes, id, func(p *memberVotes) record { return votesRecord{p} })
	case proposalPrefix:
		return recordAt(s.proposals, id, func(p *Proposal) record { return proposalRecord{p} })
	case votePrefix:
		return recordAt(s.ballots, id, func(p *Vote) record { return voteRecord{p} })
	case delegationPrefix:
		return recordAt(s.delegations, id, func(p *Delegation) record { return delegationRecord{p} })
	case hostingPrefix:
		return recordAt(s.hostings, id, func(p *Hosting) record { return hostingRecord{p} })
	case upgradePrefix:
		return recordAt(s.upgrades, id, func(p *Upgrade) record { return upgradeRecord{p} })
	case misbehaviorPrefix:
		return recordAt(s.misbehaviour, id, func(p *Misconduct) record { return misconductRecord{p} })
	case chainPrefix:
		return recordAt(s.chains, id, func(p *chain) record { return chainRecord{p} })
	case processPrefix:
		return recordAt(s.processes, id, func(p *Process) record { return processRecord{p} })
	case rolePrefix:
		return recordAt(s.roles, id, func(p *ProcessRole) record { return roleRecord{p} })
	case instancePrefix:
		return recordAt(s.instances, id, func(p *ProcessInstance) record { return instanceRecord{ProcessInstance: p} })
	case rulePrefix:
		return recordAt(s.enacted, id, func(p *EnactedRule) record { return ruleRecord{p} })
	case evidenceTypePrefix:
		return recordAt(s.evidenceTypes, id, func(p *EvidenceType) record { return evidenceTypeRecord{p} })
	case topicPrefix:
		return recordAt(s.topics, id, func(p *Topic) record { return topicRecord{p} })
	case usagePrefix:
		return recordAt(s.usage, id, func(p *UsagePeriod) record { return usageRecord{p} })
	case paramsKey + "/":
		if key == paramsKey {
			return paramsRecord{s.params}
		}
	}
	return nil
}

func recordAt[V any](t *table[V], id string, wrap func(V) record) record {
	p, ok := t.Get(id)
	if !ok {
		return nil
	}
	return wrap(p)
}
