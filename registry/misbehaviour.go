package registry

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// Misbehaviour is what the ledger's evidence says: that the validator with an
// address signed what it must not at a height.
type Misbehaviour struct {
	Address [20]byte // first 20 bytes of SHA-256 of the raw public key
	Height  uint64
}

// Misconduct is misbehaviour as the registry keeps it.
type Misconduct struct {
	Key      civibus.KeyID
	Member   civibus.MemberID
	Height   uint64 // at which the validator misbehaved
	Recorded uint64 // height of the block that carried the evidence
}

type misconductRecord struct{ *Misconduct }

func misconductKey(key civibus.KeyID, height uint64) string {
	return pair(key.String(), fmt.Sprintf("%020d", height))
}

func (r misconductRecord) stateKey() string {
	return misbehaviorPrefix + misconductKey(r.Key, r.Height)
}
func (r misconductRecord) put(s *state) {
	s.misbehaviour.Set(misconductKey(r.Key, r.Height), r.Misconduct)
}
func (misconductRecord) eventField() protowire.Number { return 28 }

func (r misconductRecord) encode() []byte {
	return writer{}.bytes(1, r.Key[:]).str(2, r.Member.String()).num(3, r.Height).num(4, r.Recorded)
}

func decodeMisconduct(value []byte) (record, error) {
	var m registrypb.Misbehaviour
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	key, err := keyIDOf(m.KeyId)
	if err != nil {
		return nil, err
	}
	member, err := civibus.ParseMemberID(m.Member)
	return misconductRecord{&Misconduct{key, member, m.Height, m.RecordedHeight}}, err
}

// Misbehaviour lists what validators were caught at, by key id and height, like
// Members.
func (v *View) Misbehaviour(after string, limit int) (items []Misconduct, next string) {
	return page(v.state.misbehaviour, "", after, limit)
}
