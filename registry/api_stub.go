package registry

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

var errStub = errors.New("not built yet")

// Machine executes blocks.
type Machine struct{}

// Open opens the registry in store; a fresh store needs Init next.
func Open(store Store) (*Machine, error) { return nil, errStub }

// Init writes the genesis state; the store must be empty.
func (m *Machine) Init(g *Genesis) (appHash [32]byte, err error) { return appHash, errStub }

// Check tells whether an envelope is worth proposing.
func (m *Machine) Check(envelope []byte) Result { return Result{} }

// Execute runs a block without committing it.
func (m *Machine) Execute(height uint64, t time.Time, envelopes [][]byte) (*Block, error) {
	return nil, errStub
}

// Commit makes the executed block durable and visible.
func (m *Machine) Commit() error { return errStub }

// View returns the committed view, nil before Init.
func (m *Machine) View() *View { return nil }

// AppHash returns the committed application hash.
func (m *Machine) AppHash() [32]byte { return [32]byte{} }

// Height returns the committed height.
func (m *Machine) Height() uint64 { return 0 }

// Dump writes the committed state and all events.
func (m *Machine) Dump(w io.Writer) error { return errStub }

// Import fills an empty store from a dump.
func Import(r io.Reader, store Store) (height uint64, appHash [32]byte, err error) {
	return 0, appHash, errStub
}

// Result is what became of one envelope.
type Result struct {
	Code   Code
	Reason string
	TxHash [32]byte
}

// Block is what became of a block.
type Block struct {
	Results []Result
	Events  [][]byte
	AppHash [32]byte
}

// Code is a result code; 0 is ok.
type Code uint32

// String returns the code's name.
func (c Code) String() string { return "" }

// View is an immutable snapshot.
type View struct{}

// Notarisation is a recorded digest.
type Notarisation struct {
	Digest [32]byte
	Member civibus.MemberID
	Height uint64
	Time   time.Time
}

// Params are the instance's parameters.
type Params struct {
	Instance   string
	ChainID    string
	Registrars []civibus.MemberID
	MaxTxBytes uint32
}

func (v *View) Height() uint64                                                   { return 0 }
func (v *View) Time() time.Time                                                  { return time.Time{} }
func (v *View) ChainID() string                                                  { return "" }
func (v *View) Instance() string                                                 { return "" }
func (v *View) Params() Params                                                   { return Params{} }
func (v *View) AppHash() [32]byte                                                { return [32]byte{} }
func (v *View) Member(id civibus.MemberID) (m civibus.Member, ok bool)           { return }
func (v *View) Subsystem(id civibus.ClientID) (s civibus.Subsystem, ok bool)     { return }
func (v *View) Service(id civibus.ServiceID) (s civibus.Service, ok bool)        { return }
func (v *View) Key(id civibus.KeyID) (k civibus.RegisteredKey, ok bool)          { return }
func (v *View) KeysOf(civibus.MemberID, civibus.Purpose) []civibus.RegisteredKey { return nil }
func (v *View) Sequence(id civibus.KeyID) uint64                                 { return 0 }
func (v *View) Right(id string) (r civibus.AccessRight, ok bool)                 { return }
func (v *View) RightsFor(s civibus.ServiceID, c civibus.ClientID) iter.Seq[*civibus.AccessRight] {
	return nil
}
func (v *View) Group(id string) (g civibus.Group, ok bool)    { return }
func (v *View) InGroup(group string, c civibus.ClientID) bool { return false }
func (v *View) GroupMembers(group, after string, limit int) (items []civibus.ClientID, next string) {
	return
}
func (v *View) Log(origin string) (l civibus.Log, ok bool)                                  { return }
func (v *View) Notarisation(digest [32]byte) (n Notarisation, ok bool, err error)           { return }
func (v *View) Members(after string, limit int) (items []civibus.Member, next string)       { return }
func (v *View) Subsystems(after string, limit int) (items []civibus.Subsystem, next string) { return }
func (v *View) Services(after string, limit int) (items []civibus.Service, next string)     { return }
func (v *View) Rights(after string, limit int) (items []civibus.AccessRight, next string)   { return }
func (v *View) Keys(after string, limit int) (items []civibus.RegisteredKey, next string)   { return }
func (v *View) Groups(after string, limit int) (items []civibus.Group, next string)         { return }
func (v *View) Logs(after string, limit int) (items []civibus.Log, next string)             { return }
func (v *View) ServicesOf(c civibus.ClientID) []civibus.Service                             { return nil }
func (v *View) SubsystemsOf(m civibus.MemberID) []civibus.Subsystem                         { return nil }
func (v *View) StateRoot() [32]byte                                                         { return [32]byte{} }
func (v *View) EventRoot() [32]byte                                                         { return [32]byte{} }
func (v *View) EventSize() uint64                                                           { return 0 }

// EventRootAt returns the root of the event log at an earlier size.
func (v *View) EventRootAt(size uint64) (root [32]byte, err error) { return root, errStub }

// EventSizeAt returns the log's size after the block at height, if that block changed anything.
func (v *View) EventSizeAt(height uint64) (size uint64, ok bool, err error) { return 0, false, errStub }

// AnchorEvent returns the log_anchored event by which a log's checkpoint of exactly that size was anchored.
func (v *View) AnchorEvent(origin string, size uint64) (index uint64, event []byte, ok bool, err error) {
	return 0, nil, false, errStub
}
func (v *View) ProveState(key string) (value []byte, proof []byte, err error) {
	return nil, nil, errStub
}
func (v *View) ProveEvent(index uint64) ([][]byte, error) { return nil, errStub }

// ProveEventAt proves an event in the log of an earlier size.
func (v *View) ProveEventAt(index, size uint64) ([][]byte, error) { return nil, errStub }
func (v *View) Event(index uint64) ([]byte, error)                { return nil, errStub }
func (v *View) ConsistencyProof(oldSize uint64) ([][]byte, error) { return nil, errStub }

// Genesis is the readable file that starts an instance.
type Genesis struct {
	Format     string             `toml:"format" json:"format"`
	Instance   string             `toml:"instance" json:"instance"`
	ChainID    string             `toml:"chain_id" json:"chain_id"`
	Time       time.Time          `toml:"time" json:"time"`
	MaxTxBytes uint32             `toml:"max_tx_bytes,omitempty" json:"max_tx_bytes,omitempty"`
	Registrars []string           `toml:"registrars" json:"registrars"`
	Members    []GenesisMember    `toml:"members" json:"members"`
	Validators []GenesisValidator `toml:"validators" json:"validators"`
}

// GenesisMember is a member at the start.
type GenesisMember struct {
	ID       string           `toml:"id" json:"id"`
	Name     string           `toml:"name" json:"name"`
	Parent   string           `toml:"parent,omitempty" json:"parent,omitempty"`
	Gateways []GenesisGateway `toml:"gateways,omitempty" json:"gateways,omitempty"`
	Keys     []GenesisKey     `toml:"keys,omitempty" json:"keys,omitempty"`
}

// GenesisGateway is a gateway's code and address (host:port).
type GenesisGateway struct {
	Code    string `toml:"code" json:"code"`
	Address string `toml:"address" json:"address"`
}

// GenesisKey is a member's key; SPKI and Certificate are standard base64 of DER.
type GenesisKey struct {
	Purpose     string `toml:"purpose" json:"purpose"`
	SPKI        string `toml:"spki" json:"spki"`
	Certificate string `toml:"certificate,omitempty" json:"certificate,omitempty"`
}

// GenesisValidator gives one of the genesis's validator keys voting power.
type GenesisValidator struct {
	Member string `toml:"member" json:"member"`
	Key    string `toml:"key" json:"key"` // SPKI, standard base64, as in the member's keys
	Power  int64  `toml:"power" json:"power"`
}

// GenesisFormat is the value of Genesis.Format.
const GenesisFormat = "civibus-genesis/v1"

// ParseGenesis reads a genesis file, TOML or JSON, strictly, and validates it.
func ParseGenesis(data []byte) (*Genesis, error) { return nil, errStub }

// Validate reports every problem at once.
func (g *Genesis) Validate() error { return errStub }

// TOML returns the readable file.
func (g *Genesis) TOML() ([]byte, error) { return nil, errStub }

// JSON returns the same as deterministic JSON (for CometBFT's app_state).
func (g *Genesis) JSON() ([]byte, error) { return nil, errStub }

// TxHash names an envelope: SHA-256 of its bytes.
func TxHash(envelope []byte) [32]byte { return [32]byte{} }

// SignTx fills tx.KeyId, encodes and signs it.
func SignTx(ctx context.Context, signer civibus.Signer, tx *registrypb.Tx) (envelope []byte, err error) {
	return nil, errStub
}

// ProvePossession makes AddKey.Possession with the new key.
func ProvePossession(ctx context.Context, newKey civibus.Signer, chainID string, member civibus.MemberID, purpose civibus.Purpose) ([]byte, error) {
	return nil, errStub
}
