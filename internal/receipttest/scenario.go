package receipttest

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

// What all scenarios share.
const (
	Chain    = "demo-1"
	Origin   = "civibus/" + Chain + "/registry"
	Exchange = "7d0b8f2e-5a43-4c52-9a1c-3f6f0f1f9d11"
	Message  = "benefits-2026-000417"
	Consumer = "DEMO/GOV/1001"
	Provider = "DEMO/GOV/2002"
	Client   = Consumer + "/benefits"
	Service  = Provider + "/population/persons"
	RightID  = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	Created  = 1795168800 // 2026-11-20T10:00:00Z

	Decision = 40 // height at which both sides decided
	Block    = 46 // height of the registry checkpoint
)

// Line is one line of a signature base.
type Line struct{ ID, Value string }

// Side is one body's part of a scenario.
type Side struct {
	Side     evidencepb.Side
	Owner    string
	Origin   string // of its evidence log
	LogKey   string // name of the key that signs its checkpoints
	Second   string // name of the ML-DSA-44 key that signs them besides
	Decision uint64
	Anchor   uint64 // height of the anchor event

	EditRecord func(*evidencepb.Record)
	EditNote   func(text, lines string) string // the evidence checkpoint's text and signature lines
	EditAnchor func(*registrypb.Event)
}

// Scenario is one exchange and the world around it. Change its fields before
// Build to make another one.
type Scenario struct {
	State map[string]proto.Message
	Sides []*Side

	Method, Path, Query     string
	Client, Service         string // as recorded
	Right                   string
	Purpose                 string
	Outcome                 evidencepb.Outcome
	Fault                   string
	Status                  uint32
	Request, Response       []byte // bodies
	RequestKey, ResponseKey string
	RequestSecond           string // name of the key of the second signature
	ResponseSecond          string
	RequestChain            proof.Chain
	ResponseChain           proof.Chain
	NoRequest, NoResponse   bool
	Streamed                bool // both messages
	Head                    bool // the request's seal is that of its head
	Cut                     bool // the response's seal is that of its head

	Signers []string // witnesses that cosign, in order
	Seconds []string // witnesses that cosign with ML-DSA-44 besides
	Trusted []string // witnesses of the policy
	Need    int

	EditRequest  func([]Line) []Line
	EditResponse func([]Line) []Line
	EditParams   func(which, params string) string
	EditBlock    func(*registrypb.Event)
	EditNote     func(text, lines string) string
	EditSecond   func(which string, base []byte) []byte // what the second signature is over
	EditSigned   func(which string, base []byte) []byte // what is signed, where it is not the recorded base
	EditFacts    func(b *Built, facts []proof.Fact) []proof.Fact
	EditReceipt  func(b *Built, r *proof.Receipt)
	EditVersion  func(second bool) bool
	EditFile     func(string) string
	EditPolicy   func(string) string
	FactKeys     []string // facts besides those of members, keys and right
	OriginText   string   // of the registry checkpoint
}

// Built is a scenario's outcome with the parts that tampering needs.
type Built struct {
	Receipt []byte
	Policy  []byte
	State   map[string][]byte
	Note    string // registry checkpoint

	tree   stateTree
	events *merkleLog
}

// New returns the plain scenario: the Ministry's benefits system asks the
// population register for a person; one right covers the whole service.
func New() *Scenario {
	s := &Scenario{
		State:  make(map[string]proto.Message),
		Method: "GET", Path: "/r1/DEMO/GOV/2002/population/persons/v1/persons/p-000417", Query: "?fields=address",
		Client: Client, Service: Service, Right: RightID, Purpose: "SOCIAL-BENEFIT",
		Outcome: evidencepb.Outcome_OUTCOME_ANSWERED, Status: 200,
		Response:   []byte(`{"address":"Example street 1"}`),
		RequestKey: "1001/seal", ResponseKey: "2002/seal",
		Signers: []string{"1001", "2002", "3003"}, Trusted: []string{"1001", "2002", "3003", "4004"}, Need: 3,
		OriginText: Origin,
	}
	s.Sides = []*Side{s.ConsumerSide()}
	for i, name := range []string{"Ministry of Social Affairs", "Population Register", "Tax Agency", "Court Registry"} {
		code := strconv.Itoa(1001 * (i + 1))
		id := "DEMO/GOV/" + code
		s.State["member/"+id] = &registrypb.Member{Id: id, Name: name, Status: registrypb.Status_STATUS_ACTIVE,
			Gateways: []*registrypb.Gateway{{Code: "gw1", Address: "gw" + code + ".example:5500"}}, Periods: periods(1, 0)}
		s.AddKey(code+"/seal", id, registrypb.Purpose_PURPOSE_SEAL, 1, 0)
		s.AddKey(code+"/log", id, registrypb.Purpose_PURPOSE_LOG, 1, 0)
	}
	s.SetRight(&registrypb.GrantRight{Service: Service, Subject: &registrypb.GrantRight_Client{Client: Client},
		Purpose: "SOCIAL-BENEFIT", LegalBasis: "https://law.example/eli/act/2019/12/art/4"}, periods(12, 0))
	return s
}

func periods(fromTo ...uint64) []*registrypb.Period {
	var out []*registrypb.Period
	for i := 0; i < len(fromTo); i += 2 {
		out = append(out, &registrypb.Period{FromHeight: fromTo[i], ToHeight: fromTo[i+1]})
	}
	return out
}

// ConsumerSide returns the consumer's part.
func (s *Scenario) ConsumerSide() *Side {
	return &Side{Side: evidencepb.Side_SIDE_CONSUMER, Owner: Consumer, Origin: "civibus/" + Consumer + "/evidence/1", LogKey: "1001/log", Decision: Decision, Anchor: 44}
}

// ProviderSide returns the provider's part.
func (s *Scenario) ProviderSide() *Side {
	return &Side{Side: evidencepb.Side_SIDE_PROVIDER, Owner: Provider, Origin: "civibus/" + Provider + "/evidence/1", LogKey: "2002/log", Decision: Decision, Anchor: 45}
}

// AddKey registers the key of a name and returns its record.
func (s *Scenario) AddKey(name, member string, purpose registrypb.Purpose, activate, revoke uint64) *registrypb.Key {
	k := NewKey(name)
	r := &registrypb.Key{Id: k.ID[:], Member: member, Purpose: purpose, Algorithm: registrypb.Algorithm_ALGORITHM_ED25519,
		Spki: k.SPKI, ActivateHeight: activate, RevokeHeight: revoke}
	switch prefix, _, _ := strings.Cut(name, "/"); prefix {
	case "p256":
		r.Algorithm = registrypb.Algorithm_ALGORITHM_ECDSA_P256_SHA256
	case "mldsa44":
		r.Algorithm = registrypb.Algorithm_ALGORITHM_ML_DSA_44
	case "mldsa65":
		r.Algorithm = registrypb.Algorithm_ALGORITHM_ML_DSA_65
	case "mldsa87":
		r.Algorithm = registrypb.Algorithm_ALGORITHM_ML_DSA_87
	}
	if revoke != 0 {
		r.Reason = registrypb.RevocationReason_REVOCATION_REASON_ROTATED
	}
	s.State["key/"+k.Hex()] = r
	return r
}

// Key returns the record of a registered key.
func (s *Scenario) Key(name string) *registrypb.Key {
	return s.State["key/"+NewKey(name).Hex()].(*registrypb.Key)
}

// Member returns the record of a member.
func (s *Scenario) Member(id string) *registrypb.Member {
	return s.State["member/"+id].(*registrypb.Member)
}

// SetRight registers the right that the exchange relies on.
func (s *Scenario) SetRight(terms *registrypb.GrantRight, p []*registrypb.Period) {
	s.State["right/"+RightID] = &registrypb.Right{Id: RightID, Terms: terms, Status: registrypb.Status_STATUS_ACTIVE, Periods: p}
}

// Terms returns the terms of that right.
func (s *Scenario) Terms() *registrypb.GrantRight {
	return s.State["right/"+RightID].(*registrypb.Right).Terms
}
