package admin

import (
	"encoding/hex"
	"time"

	"github.com/civibus/civibus"
)

// Page is one page of a list. Next is empty on the last one; given as after, it
// continues where this page ended.
type Page[T any] struct {
	Items  []T    `json:"items"`
	Next   string `json:"next,omitempty"`
	Height uint64 `json:"height"` // of the registry view that was read
}

// Period is a stretch of registry heights in which something was in force.
type Period struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to,omitempty"` // first height no longer in force; absent: open
}

// Gateway is one address of a member's gateways.
type Gateway struct {
	Code    string `json:"code"`
	Address string `json:"address"`
}

// Member is a public body.
type Member struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Parent   string    `json:"parent,omitempty"`
	Gateways []Gateway `json:"gateways"`
	Status   string    `json:"status"`
	Periods  []Period  `json:"periods"`
}

// Subsystem is one of a body's systems.
type Subsystem struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Status  string   `json:"status"`
	Periods []Period `json:"periods"`
}

// Endpoint is a method and a path pattern.
type Endpoint struct {
	Method string `json:"method"`
	Path   string `json:"path"`
}

// Service is one published service version.
type Service struct {
	ID                string     `json:"id"`
	Type              string     `json:"type"`
	Title             string     `json:"title"`
	Endpoints         []Endpoint `json:"endpoints"`
	DescriptionDigest string     `json:"description_digest,omitempty"`
	Status            string     `json:"status"`
	Notice            string     `json:"notice,omitempty"`
	Periods           []Period   `json:"periods"`
}

// RateLimit bounds calls under a right.
type RateLimit struct {
	Requests   uint32 `json:"requests"`
	PerSeconds uint32 `json:"per_seconds"`
}

// Right is an access right. Exactly one of Client and Group is set.
type Right struct {
	ID         string     `json:"id"`
	Service    string     `json:"service"`
	Endpoints  []Endpoint `json:"endpoints"` // empty: the whole service
	Client     string     `json:"client,omitempty"`
	Group      string     `json:"group,omitempty"`
	Purpose    string     `json:"purpose,omitempty"`
	LegalBasis string     `json:"legal_basis,omitempty"`
	ValidFrom  *time.Time `json:"valid_from,omitempty"`
	ValidUntil *time.Time `json:"valid_until,omitempty"`
	RateLimit  *RateLimit `json:"rate_limit,omitempty"`
	Supersedes string     `json:"supersedes,omitempty"`
	Status     string     `json:"status"`
	Periods    []Period   `json:"periods"`

	Disclosure    string     `json:"disclosure,omitempty"` // shown, later or never; empty: no person is concerned
	DisclosedFrom *time.Time `json:"disclosed_from,omitempty"`
	Sentence      string     `json:"sentence,omitempty"`
	GrantedBy     string     `json:"granted_by,omitempty"`
}

// Key is a public key with its purpose and history.
type Key struct {
	ID             string `json:"id"`
	Member         string `json:"member"`
	Purpose        string `json:"purpose"`
	Algorithm      string `json:"algorithm"`
	SPKI           []byte `json:"spki"`
	Certificate    []byte `json:"certificate,omitempty"`
	ActivateHeight uint64 `json:"activate_height"`
	RevokeHeight   uint64 `json:"revoke_height,omitempty"`
	Reason         string `json:"reason,omitempty"`
	InForce        bool   `json:"in_force"` // at the page's height
}

// Group is a named set of clients.
type Group struct {
	ID    string `json:"id"`
	Title string `json:"title"`
}

// Log is the registry's knowledge of an evidence log.
type Log struct {
	Origin         string `json:"origin"`
	Member         string `json:"member"`
	Size           uint64 `json:"size"`
	Root           []byte `json:"root"`
	AnchoredHeight uint64 `json:"anchored_height"`
}

// Status is how a node is.
type Status struct {
	Member       string            `json:"member"`
	Instance     string            `json:"instance"`
	ChainID      string            `json:"chain_id"`
	Version      string            `json:"version"`
	Started      time.Time         `json:"started"`
	Ready        bool              `json:"ready"`
	ConsumerURL  string            `json:"consumer_url"`
	ProviderAddr string            `json:"provider_address"`
	MetricsURL   string            `json:"metrics_url,omitempty"`
	LedgerAddr   string            `json:"ledger_address"`
	LedgerID     string            `json:"ledger_id"`
	Ledger       LedgerStatus      `json:"ledger"`
	Evidence     EvidenceStatus    `json:"evidence"`
	Components   map[string]string `json:"components"` // name -> "ok" or what is wrong
	Hosted       []HostedStatus    `json:"hosted,omitempty"`
}

// HostedStatus is how a member is that the node hosts.
type HostedStatus struct {
	Member       string `json:"member"`
	Serving      bool   `json:"serving"`
	Problem      string `json:"problem,omitempty"` // why it is not served
	Origin       string `json:"origin,omitempty"`
	Size         uint64 `json:"size"`
	AnchoredSize uint64 `json:"anchored_size"`
}

// LedgerStatus is how a node's ledger is.
type LedgerStatus struct {
	Mode       string    `json:"mode"`
	Height     uint64    `json:"height"`
	AppHash    string    `json:"app_hash"`
	BlockHash  string    `json:"block_hash,omitempty"` // of the header at Height
	BlockTime  time.Time `json:"block_time"`
	EventSize  uint64    `json:"event_size"`
	Peers      int       `json:"peers"`
	CatchingUp bool      `json:"catching_up"`
	Healthy    bool      `json:"healthy"`
	Problems   []string  `json:"problems"`
}

// Block names a block of the ledger, as ledger.trust_height and trust_hash of another
// body take it.
type Block struct {
	Height uint64 `json:"height"`
	Hash   string `json:"hash"` // of its header, hex
}

// EvidenceStatus is how a node's evidence log is.
type EvidenceStatus struct {
	Origin         string `json:"origin"`
	Size           uint64 `json:"size"`
	Root           []byte `json:"root"`
	Checkpoint     string `json:"checkpoint"`
	AnchoredSize   uint64 `json:"anchored_size"`
	AnchoredHeight uint64 `json:"anchored_height"`
	AnchorInterval string `json:"anchor_interval"` // between anchors while the log grows, e.g. "2s"; "0s": not yet known
	Accepting      bool   `json:"accepting"`
	Problem        string `json:"problem,omitempty"` // why it does not accept
}

// Entry is one evidence record, without bodies.
type Entry struct {
	Index      uint64    `json:"index"`
	Integrated bool      `json:"integrated"` // in the Merkle log, not only durable
	Side       string    `json:"side"`
	ExchangeID string    `json:"exchange_id"`
	MessageID  string    `json:"message_id"`
	Client     string    `json:"client"`
	Service    string    `json:"service"`
	RightID    string    `json:"right_id,omitempty"`
	Height     uint64    `json:"registry_height"`
	Outcome    string    `json:"outcome"`
	Fault      string    `json:"fault,omitempty"`
	Status     uint32    `json:"status,omitempty"`
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished"`
	Record     []byte    `json:"record"` // the record as it is hashed
}

// Exchange is what a body holds about one exchange.
type Exchange struct {
	Entries     []Entry `json:"entries"`
	Counterpart bool    `json:"counterpart"` // the other body's half receipt is here
}

// Several reports whether more than one exchange has the id: the consumer chose
// it again. A body that called itself has two entries of one.
func (x Exchange) Several() bool {
	if len(x.Entries) != 2 {
		return len(x.Entries) > 2
	}
	a, b := x.Entries[0], x.Entries[1]
	return a.Side == b.Side || a.Client != b.Client || a.Service != b.Service
}

// CheckStep is one thing that a check looked at.
type CheckStep struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Check is the outcome of a check of the evidence log against the registry.
type Check struct {
	OK    bool        `json:"ok"`
	Steps []CheckStep `json:"steps"`
}

// Change is the outcome of an accepted change of the registry.
type Change struct {
	Height uint64 `json:"height"`
	TxHash string `json:"tx_hash"`
	ID     string `json:"id"` // of what was set: member, service, key or right id
}

// NewKey asks the node to make a key of its own body and to register it, or to
// register one that is in its key folder already.
type NewKey struct {
	Purpose        string `json:"purpose"`
	Key            string `json:"key,omitempty"`             // id of a key of the folder; absent: a new one is made
	Algorithm      string `json:"algorithm,omitempty"`       // ed25519 or ecdsa-p256-sha256; absent: the purpose's usual one
	ActivateHeight uint64 `json:"activate_height,omitempty"` // absent: at once
}

func periods(ps []civibus.Period) []Period {
	out := make([]Period, len(ps))
	for i, p := range ps {
		out[i] = Period{p.From, p.To}
	}
	return out
}

func endpoints(es []civibus.Endpoint) []Endpoint {
	out := make([]Endpoint, len(es))
	for i, e := range es {
		out[i] = Endpoint{e.Method, e.Path}
	}
	return out
}

func memberOf(m civibus.Member) Member {
	out := Member{ID: m.ID.String(), Name: m.Name, Gateways: make([]Gateway, len(m.Gateways)), Status: m.Status.String(), Periods: periods(m.Periods)}
	if !m.Parent.IsZero() {
		out.Parent = m.Parent.String()
	}
	for i, g := range m.Gateways {
		out.Gateways[i] = Gateway{g.Code, g.Address}
	}
	return out
}

func subsystemOf(s civibus.Subsystem) Subsystem {
	return Subsystem{ID: s.ID.String(), Name: s.Name, Status: s.Status.String(), Periods: periods(s.Periods)}
}

func serviceOf(s civibus.Service) Service {
	return Service{
		ID: s.ID.String(), Type: s.Type.String(), Title: s.Title, Endpoints: endpoints(s.Endpoints),
		DescriptionDigest: hex.EncodeToString(s.DescriptionDigest), Status: s.Status.String(), Notice: s.Notice, Periods: periods(s.Periods),
	}
}

func rightOf(r civibus.AccessRight) Right {
	out := Right{
		ID: r.ID, Service: r.Service.String(), Endpoints: endpoints(r.Endpoints), Group: r.Group,
		Purpose: r.Purpose, LegalBasis: r.LegalBasis, Supersedes: r.Supersedes, Status: r.Status.String(), Periods: periods(r.Periods),
	}
	if r.Group == "" {
		out.Client = r.Client.String()
	}
	out.Disclosure, out.Sentence = r.Disclosure.String(), r.Sentence
	if !r.DisclosedFrom.IsZero() {
		t := r.DisclosedFrom.UTC()
		out.DisclosedFrom = &t
	}
	if !r.GrantedBy.IsZero() {
		out.GrantedBy = r.GrantedBy.String()
	}
	if !r.ValidFrom.IsZero() {
		t := r.ValidFrom.UTC()
		out.ValidFrom = &t
	}
	if !r.ValidUntil.IsZero() {
		t := r.ValidUntil.UTC()
		out.ValidUntil = &t
	}
	if r.Limit.Requests > 0 {
		out.RateLimit = &RateLimit{r.Limit.Requests, uint32(r.Limit.Per / time.Second)}
	}
	return out
}

func keyOf(k civibus.RegisteredKey, height uint64) Key {
	return Key{
		ID: k.ID.String(), Member: k.Member.String(), Purpose: k.Purpose.String(), Algorithm: string(k.Algorithm), SPKI: k.SPKI,
		Certificate: k.Certificate, ActivateHeight: k.Activate, RevokeHeight: k.Revoke, Reason: k.Reason, InForce: k.InForce(height),
	}
}

func logOf(l civibus.Log) Log {
	return Log{Origin: l.Origin, Member: l.Member.String(), Size: l.Size, Root: l.Root[:], AnchoredHeight: l.Anchored}
}
