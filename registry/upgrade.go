package registry

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry/registrypb"
)

// UpgradeStatus is where an upgrade stands.
type UpgradeStatus int

// The statuses of upgrades.
const (
	UpgradePlanned UpgradeStatus = iota + 1
	UpgradeDone
	UpgradeCancelled
)

// String returns the lower-case name.
func (s UpgradeStatus) String() string {
	names := [...]string{"unspecified", "planned", "done", "cancelled"}
	if s < 1 || int(s) >= len(names) {
		return names[0]
	}
	return names[s]
}

// Upgrade is a change of all nodes to another version of the software, at a
// height: the first block that the new version executes.
type Upgrade struct {
	Name    string
	Height  uint64
	Status  UpgradeStatus
	Planned uint64 // height of the block that planned it
	// Validators are taken into the state, in the upgrade to protocol 1 only.
	Validators []*registrypb.ValidatorPower
}

type upgradeRecord struct{ *Upgrade }

func (r upgradeRecord) stateKey() string           { return upgradePrefix + r.Name }
func (r upgradeRecord) put(s *state)               { s.upgrades.Set(r.Name, r.Upgrade) }
func (upgradeRecord) eventField() protowire.Number { return 27 }

func (r upgradeRecord) encode() []byte {
	w := writer{}.str(1, r.Name).num(2, r.Height).num(3, uint64(r.Status)).num(4, r.Planned)
	for _, v := range r.Validators {
		w = w.message(5, writer{}.bytes(1, v.KeyId).num(2, v.Power))
	}
	return w
}

func decodeUpgrade(value []byte) (record, error) {
	var m registrypb.Upgrade
	err := proto.Unmarshal(value, &m)
	return upgradeRecord{&Upgrade{m.Name, m.Height, UpgradeStatus(m.Status), m.PlannedHeight, m.Validators}}, err
}

// planned returns the upgrade that is planned, nil if none is.
func (s *state) planned() *Upgrade {
	var out *Upgrade
	s.upgrades.Scan(func(_ string, u *Upgrade) bool {
		if u.Status == UpgradePlanned {
			out = u
		}
		return out == nil
	})
	return out
}

// Upgrade returns the upgrade that is planned: its name, and the height of the
// first block that is executed after it. A node whose software does not know the
// name (KnowsUpgrade) stops before that block.
func (v *View) Upgrade() (name string, height uint64, ok bool) {
	u := v.state.planned()
	if u == nil {
		return "", 0, false
	}
	return u.Name, u.Height, true
}

// Upgrades lists the upgrades, planned, done and cancelled, by name, like
// Members.
func (v *View) Upgrades(after string, limit int) (items []Upgrade, next string) {
	return page(v.state.upgrades, "", after, limit)
}

// KnowsUpgrade reports whether this software can go on after the upgrade of that
// name: the protocols up to its own, and the names of its build.
func KnowsUpgrade(name string) bool {
	n, ok := upgradeProtocol(name)
	return ok && n <= Protocol
}

// upgradeProtocol returns the protocol to which an upgrade leads, if its name is
// "protocol-N".
func upgradeProtocol(name string) (uint32, bool) {
	digits, ok := strings.CutPrefix(name, "protocol-")
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), ok && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits
}
