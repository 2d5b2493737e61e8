package proof

import "time"

// Report says whether a receipt is valid, step by step.
type Report struct {
	Valid    bool     `json:"valid"`
	Failure  Failure  `json:"failure,omitempty"` // empty when valid
	Steps    []Step   `json:"steps"`
	Summary  *Summary `json:"summary,omitempty"` // only when valid
	Cautions []string `json:"cautions,omitempty"`
}

// Step is one step of spec/receipt.md.
type Step struct {
	Name    string `json:"name"`
	Entry   string `json:"entry,omitempty"` // consumer or provider; empty for steps about the registry
	OK      bool   `json:"ok"`
	Detail  string `json:"detail,omitempty"`  // what was found
	Meaning string `json:"meaning,omitempty"` // what that means to a judge
}

// Summary says who asked whom for what, when and under which right.
type Summary struct {
	Exchange      string    `json:"exchange"`
	MessageID     string    `json:"message_id"`
	Client        string    `json:"client"`
	ClientName    string    `json:"client_name"`
	Service       string    `json:"service"`
	ProviderName  string    `json:"provider_name"`
	RequestSealed bool      `json:"request_sealed"` // false: who asked is only said
	AnswerSealed  bool      `json:"answer_sealed"`  // false: the outcome is only said
	Method        string    `json:"method,omitempty"`
	Path          string    `json:"path,omitempty"`
	Outcome       string    `json:"outcome"`
	Fault         string    `json:"fault,omitempty"`
	Status        uint32    `json:"status,omitempty"`
	Right         string    `json:"right,omitempty"`
	Purpose       string    `json:"purpose,omitempty"`
	LegalBasis    string    `json:"legal_basis,omitempty"`
	Requested     time.Time `json:"requested,omitzero"` // created of the request's seal
	Answered      time.Time `json:"answered,omitzero"`  // created of the response's seal
	RequestBody   *Body     `json:"request_body,omitempty"`
	ResponseBody  *Body     `json:"response_body,omitempty"`
	Registry      Registry  `json:"registry"`
	Sides         []Side    `json:"sides"`

	// PostQuantum names what bears a second, ML-DSA signature that verifies.
	PostQuantum []string `json:"post_quantum,omitempty"`
	// Certificates says what was found of the chains of the seals' keys.
	Certificates []SealChain `json:"certificates,omitempty"`
}

// SealChain is what was found of the certificates over a seal's key.
type SealChain struct {
	Seal      string    `json:"seal"`    // whose entry and which seal, e.g. "consumer request"
	Subject   string    `json:"subject"` // of the key's own certificate
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Findings  []Finding `json:"findings"`
}

// Finding is one statement about a chain.
type Finding struct {
	Statement string `json:"statement"` // bound, in_time, signed, trusted, not_revoked, qualified
	Outcome   string `json:"outcome"`   // holds, fails, not checked, claimed
	Detail    string `json:"detail,omitempty"`
}

// Body describes a sealed body. The body itself is not part of a receipt.
type Body struct {
	Size   *uint64 `json:"size,omitempty"` // as recorded, if it was
	SHA256 string  `json:"sha256"`         // hex, as sealed
}

// Registry describes the registry checkpoint that the witnesses cosigned.
type Registry struct {
	Origin    string    `json:"origin"`
	Height    uint64    `json:"height"`
	Size      uint64    `json:"size"`
	BlockTime time.Time `json:"block_time"`
	Witnesses []Witness `json:"witnesses"`
}

// Witness is one cosigner of the registry checkpoint.
type Witness struct {
	Name string    `json:"name"`
	Time time.Time `json:"time"`
}

// Side is one body's entry.
type Side struct {
	Side           string    `json:"side"` // consumer or provider
	Member         string    `json:"member"`
	RegistryHeight uint64    `json:"registry_height"` // of the decision
	Log            string    `json:"log"`
	Index          uint64    `json:"index"`
	AnchorHeight   uint64    `json:"anchor_height"`
	Started        time.Time `json:"started"`
	Finished       time.Time `json:"finished"`
}

// Error describes the failure, or nil when the receipt is valid.
func (r *Report) Error() error {
	if r.Valid {
		return nil
	}
	last := r.Steps[len(r.Steps)-1]
	return &Error{Failure: r.Failure, Step: last.Name, Detail: last.Detail}
}

// Error is why a receipt is not valid.
type Error struct {
	Failure Failure
	Step    string
	Detail  string
}

// Error names the step, the failure and what was found.
func (e *Error) Error() string {
	if e.Step == "" { // Parse takes no steps
		return "receipt: " + string(e.Failure) + ": " + e.Detail
	}
	return "receipt: step " + e.Step + ": " + string(e.Failure) + ": " + e.Detail
}
