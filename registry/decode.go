package registry

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry/registrypb"
)

// reasons are the revocation reasons in the order of their wire numbers.
func reasons() []string { return []string{"", "rotated", "compromised", "ceased"} }

func algorithmNumber(a civibus.Algorithm) registrypb.Algorithm {
	switch a {
	case civibus.Ed25519:
		return registrypb.Algorithm_ALGORITHM_ED25519
	case civibus.ECDSAP256SHA256:
		return registrypb.Algorithm_ALGORITHM_ECDSA_P256_SHA256
	case civibus.MLDSA44:
		return registrypb.Algorithm_ALGORITHM_ML_DSA_44
	case civibus.MLDSA65:
		return registrypb.Algorithm_ALGORITHM_ML_DSA_65
	case civibus.MLDSA87:
		return registrypb.Algorithm_ALGORITHM_ML_DSA_87
	}
	return registrypb.Algorithm_ALGORITHM_UNSPECIFIED
}

// loadValue makes the record under a state key part of the state. It accepts
// exactly what encode writes.
func (s *state) loadValue(key string, value []byte) error {
	err := s.load(key, value)
	if err != nil {
		return fmt.Errorf("state record %q: %w", key, err)
	}
	return nil
}

func (s *state) load(key string, value []byte) error {
	if hexID, ok := strings.CutPrefix(key, sequencePrefix); ok {
		var m registrypb.Sequence
		if err := proto.Unmarshal(value, &m); err != nil {
			return err
		}
		if _, err := civibus.ParseKeyID(hexID); err != nil || hexID != strings.ToLower(hexID) {
			return errors.New("the key is not a key id in lower-case hex")
		}
		q := sequence{m.Last, m.Notarised, m.Started}
		if !bytes.Equal(q.encode(), value) {
			return errors.New("it is not in the canonical encoding")
		}
		s.sequences.Set(hexID, q)
		return nil
	}
	r, err := decodeRecord(key, value)
	if err != nil {
		return err
	}
	if r.stateKey() != key {
		return fmt.Errorf("it is the record of %q", r.stateKey())
	}
	if !bytes.Equal(r.encode(), value) {
		return errors.New("it is not in the canonical encoding")
	}
	r.put(s)
	return nil
}

// decodeRecord decodes the value under a state key. It is lenient: load compares
// what it gives with what was stored.
func decodeRecord(key string, value []byte) (record, error) {
	kind, _, _ := strings.Cut(key, "/")
	switch kind + "/" {
	case memberPrefix:
		return decodeMember(value)
	case keyPrefix:
		return decodeKey(value)
	case subsystemPrefix:
		return decodeSubsystem(value)
	case servicePrefix:
		return decodeService(value)
	case rightPrefix:
		return decodeRight(value)
	case groupPrefix:
		var m registrypb.Group
		err := proto.Unmarshal(value, &m)
		return groupRecord{&civibus.Group{ID: m.Id, Title: m.Title}}, err
	case groupMemberPrefix:
		var m registrypb.GroupMember
		if err := proto.Unmarshal(value, &m); err != nil {
			return nil, err
		}
		client, err := civibus.ParseClientID(m.Client)
		return groupMemberRecord{&groupMember{m.Group, client, periodsOf(m.Periods)}}, err
	case logPrefix:
		return decodeLog(value)
	case notaryPrefix:
		return decodeNotarisation(value)
	case validatorPrefix:
		return decodeValidator(value)
	case nodesPrefix:
		return decodeNodes(value)
	case votesPrefix:
		return decodeVotes(value)
	case proposalPrefix:
		return decodeProposal(value)
	case votePrefix:
		return decodeVote(value)
	case delegationPrefix:
		return decodeDelegation(value)
	case hostingPrefix:
		return decodeHosting(value)
	case upgradePrefix:
		return decodeUpgrade(value)
	case misbehaviorPrefix:
		return decodeMisconduct(value)
	case chainPrefix:
		return decodeChain(value)
	case processPrefix:
		return decodeProcess(value)
	case rolePrefix:
		return decodeRole(value)
	case instancePrefix:
		return decodeInstance(value)
	case rulePrefix:
		return decodeRule(value)
	case evidenceTypePrefix:
		return decodeEvidenceType(value)
	case topicPrefix:
		return decodeTopic(value)
	case usagePrefix:
		return decodeUsage(value)
	case paramsKey + "/":
		return decodeParams(value)
	}
	return nil, errors.New("records of this kind are not known")
}

func decodeMember(value []byte) (record, error) {
	var m registrypb.Member
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	out := &civibus.Member{Name: m.Name, Status: civibus.Status(m.Status), Periods: periodsOf(m.Periods)}
	var err error
	if out.ID, err = civibus.ParseMemberID(m.Id); err != nil {
		return nil, err
	}
	if m.Parent != "" {
		if out.Parent, err = civibus.ParseMemberID(m.Parent); err != nil {
			return nil, err
		}
	}
	out.Gateways = gatewaysOf(m.Gateways)
	return memberRecord{out}, nil
}

func gatewaysOf(in []*registrypb.Gateway) []civibus.Gateway {
	var out []civibus.Gateway
	for _, g := range in {
		out = append(out, civibus.Gateway{Code: g.GetCode(), Address: g.GetAddress()})
	}
	return out
}

func decodeKey(value []byte) (record, error) {
	var m registrypb.Key
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	public, err := parseSPKI(m.Spki)
	if err != nil {
		return nil, err
	}
	out := &civibus.RegisteredKey{
		PublicKey: public, Purpose: civibus.Purpose(m.Purpose), Certificate: m.Certificate,
		Activate: m.ActivateHeight, Revoke: m.RevokeHeight,
	}
	if m.Reason < 0 || int(m.Reason) >= len(reasons()) {
		return nil, errors.New("unknown revocation reason")
	}
	out.Reason = reasons()[m.Reason]
	out.Member, err = civibus.ParseMemberID(m.Member)
	return keyRecord{out}, err
}

// parseSPKI parses a public key and insists on the one DER encoding of it, of
// which the key id is the hash.
func parseSPKI(spki []byte) (civibus.PublicKey, error) {
	public, err := mldsa.ParsePublicKey(spki)
	if err != nil || public.Algorithm.PostQuantum() {
		return public, err // of those only one encoding is accepted
	}
	if again, err := x509.MarshalPKIXPublicKey(public.Key); err != nil || !bytes.Equal(again, spki) {
		return public, errors.New("public key: not the canonical DER encoding")
	}
	public.SPKI = bytes.Clone(spki)
	return public, nil
}

func decodeSubsystem(value []byte) (record, error) {
	var m registrypb.Subsystem
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := civibus.ParseClientID(m.Id)
	return subsystemRecord{&civibus.Subsystem{ID: id, Name: m.Name, Status: civibus.Status(m.Status), Periods: periodsOf(m.Periods)}}, err
}

func decodeService(value []byte) (record, error) {
	var m registrypb.Service
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	id, err := civibus.ParseServiceID(m.Id)
	return serviceRecord{&civibus.Service{
		ID: id, Type: civibus.ServiceType(m.Type), Title: m.Title, Endpoints: endpointsOf(m.Endpoints),
		DescriptionDigest: m.DescriptionDigest, Status: civibus.Status(m.Status), Notice: m.Notice, Periods: periodsOf(m.Periods),
	}}, err
}

func decodeRight(value []byte) (record, error) {
	var m registrypb.Right
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	t := m.GetTerms()
	out := &civibus.AccessRight{
		ID: m.Id, Endpoints: endpointsOf(t.GetEndpoints()), Group: t.GetGroup(), Purpose: t.GetPurpose(), LegalBasis: t.GetLegalBasis(),
		ValidFrom: timeOf(t.GetValidFrom()), ValidUntil: timeOf(t.GetValidUntil()), Supersedes: t.GetSupersedes(),
		Limit:  civibus.RateLimit{Requests: t.GetRateLimit().GetRequests(), Per: time.Duration(t.GetRateLimit().GetPerSeconds()) * time.Second},
		Status: civibus.Status(m.Status), Periods: periodsOf(m.Periods),
		Disclosure: civibus.Disclosure(t.GetDisclosure()), DisclosedFrom: timeOf(t.GetDisclosedFrom()), Sentence: t.GetSentence(),
	}
	if len(m.GrantedBy) == len(out.GrantedBy) {
		out.GrantedBy = civibus.KeyID(m.GrantedBy)
	}
	var err error
	if out.Service, err = civibus.ParseServiceID(t.GetService()); err != nil {
		return nil, err
	}
	if out.Group == "" {
		out.Client, err = civibus.ParseClientID(t.GetClient())
	}
	return rightRecord{out}, err
}

func decodeLog(value []byte) (record, error) {
	var m registrypb.Log
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	if len(m.Root) != 32 {
		return nil, errors.New("its root is not 32 bytes")
	}
	member, err := civibus.ParseMemberID(m.Member)
	return logRecord{&civibus.Log{Origin: m.Origin, Member: member, Size: m.Size, Root: [32]byte(m.Root), Anchored: m.AnchoredHeight}}, err
}

func decodeNotarisation(value []byte) (notarisationRecord, error) {
	var m registrypb.Notarisation
	if err := proto.Unmarshal(value, &m); err != nil {
		return notarisationRecord{}, err
	}
	if len(m.Digest) != 32 {
		return notarisationRecord{}, errors.New("its digest is not 32 bytes")
	}
	member, err := civibus.ParseMemberID(m.Member)
	return notarisationRecord{&Notarisation{Digest: [32]byte(m.Digest), Member: member, Height: m.Height, Time: time.Unix(0, m.TimeUnixNano).UTC()}}, err
}

func decodeParams(value []byte) (record, error) {
	var m registrypb.Params
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	out := &Params{
		Instance: m.Instance, ChainID: m.ChainId, MaxTxBytes: m.MaxTxBytes, Protocol: m.Protocol, Rules: rulesOf(m.Rules),
		MaxOpenProposals: m.MaxOpenProposals, BlockShare: m.BlockShare, MemberQuota: m.MemberQuota,
		MLDSAValidators: m.MlDsaValidators, SecondSeals: m.SecondSeals,
	}
	for _, r := range m.Registrars {
		id, err := civibus.ParseMemberID(r)
		if err != nil {
			return nil, err
		}
		out.Registrars = append(out.Registrars, id)
	}
	return paramsRecord{out}, nil
}

// keyIDOf reads a key id of the wire.
func keyIDOf(b []byte) (civibus.KeyID, error) {
	if len(b) != len(civibus.KeyID{}) {
		return civibus.KeyID{}, fmt.Errorf("a key id has %d bytes, the rule is 32", len(b))
	}
	return civibus.KeyID(b), nil
}

// isLowerHex reports whether s is n bytes in lower-case hex.
func isLowerHex(s string, n int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == n && hex.EncodeToString(b) == s
}

func notaryKey(digest [32]byte) string { return notaryPrefix + hex.EncodeToString(digest[:]) }

func periodsOf(in []*registrypb.Period) []civibus.Period {
	var out []civibus.Period
	for _, p := range in {
		out = append(out, civibus.Period{From: p.FromHeight, To: p.ToHeight})
	}
	return out
}

func endpointsOf(in []*registrypb.Endpoint) []civibus.Endpoint {
	var out []civibus.Endpoint
	for _, e := range in {
		out = append(out, civibus.Endpoint{Method: e.Method, Path: e.Path})
	}
	return slices.Clip(out)
}

// timeOf is the time of a wire form in which 0 is none.
func timeOf(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}
