package proof

import "github.com/civibus/civibus"

// Parts is what a receipt is assembled from.
type Parts struct {
	Exchange   string
	Checkpoint []byte   // registry checkpoint with the witnesses' signature lines
	BlockEvent []byte   // the checkpoint's last leaf
	BlockProof [][]byte // inclusion of that leaf, index size-1
	Facts      []Fact   // see CollectFacts
	Entries    []EntryParts
}

// EntryParts is one body's evidence and its anchor.
type EntryParts struct {
	Record      []byte
	Salt        []byte
	Checkpoint  []byte   // the anchored evidence checkpoint, a signed note
	Index       uint64   // of the leaf
	Inclusion   [][]byte // of the leaf in Checkpoint
	AnchorEvent []byte
	AnchorIndex uint64   // of the event in the registry's event log
	AnchorProof [][]byte // of the event in Parts.Checkpoint
}

// State is where facts come from; *registry.View is one.
type State interface {
	ProveState(key string) (value []byte, proof []byte, err error)
	KeysOf(civibus.MemberID, civibus.Purpose) []civibus.RegisteredKey
}

// Assemble makes a receipt. It does not verify it.
func Assemble(p Parts) (*Receipt, error) { return nil, nil }

// CollectFacts proves every fact that the receipt of these records needs: the
// members, the keys of the seals, the owner's log keys, the right and the group
// membership it rests on.
func CollectFacts(state State, records ...[]byte) ([]Fact, error) { return nil, nil }
