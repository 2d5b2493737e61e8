package registry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry/registrypb"
)

const maxUpgradeName = 64 // bytes

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

// UnknownUpgradeError says that this software cannot execute the next block. It
// is the error of Execute at the height of an upgrade whose name it does not know.
type UnknownUpgradeError struct {
	Name   string
	Height uint64
}

func (e *UnknownUpgradeError) Error() string {
	return fmt.Sprintf("the instance upgrades to %q at height %d, which this software does not know; install the version that does", e.Name, e.Height)
}

// checkUpgradeName checks a name: 1 to 64 of a-z 0-9 . -
func checkUpgradeName(s string) *refusal {
	ok := s != "" && len(s) <= maxUpgradeName
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-'
	}
	if !ok {
		return refuse(InvalidField, "name: %.80q, the rule is 1 to %d of a-z 0-9 . -", s, maxUpgradeName)
	}
	return nil
}

// isUpgrade reports whether a change plans or cancels an upgrade.
func isUpgrade(c *registrypb.Change) bool {
	k := KindOf(c)
	return k == KindPlanUpgrade || k == KindCancelUpgrade
}

// planUpgrade plans an upgrade, one at a time.
func (x *txn) planUpgrade(m *registrypb.PlanUpgrade) ([]record, *refusal) {
	// 1. The fields.
	if r := checkUpgradeName(m.Name); r != nil {
		return nil, r
	}
	switch {
	case m.Height <= x.height:
		return nil, refuse(HeightPassed, "height is %d, this is height %d, the rule is a later one", m.Height, x.height)
	case m.Height-x.height > maxHeightAhead:
		return nil, refuse(InvalidField, "height is %d, the rule is at most %d from now", m.Height, uint64(maxHeightAhead))
	}
	n, protocol := upgradeProtocol(m.Name)
	if protocol && n != x.params.Protocol+1 {
		return nil, refuse(InvalidField, "name: %s, but the instance has protocol %d, the rule is one more", m.Name, x.params.Protocol)
	}
	if strings.HasPrefix(m.Name, "protocol-") && !protocol {
		return nil, refuse(InvalidField, "name: %.80q, the rule is protocol-N", m.Name)
	}
	// 2. Not two at a time, and none again.
	if u := x.planned(); u != nil {
		return nil, refuse(AlreadyExists, "upgrade %s is planned for height %d; cancel it first", u.Name, u.Height)
	}
	if u, ok := x.upgrades.Get(m.Name); ok && u.Status == UpgradeDone {
		return nil, refuse(AlreadyExists, "upgrade %s was made at height %d", u.Name, u.Height)
	}
	// 3. The validators that protocol 1 begins with.
	if x.params.Protocol > 0 || !protocol {
		if len(m.Validators) > 0 {
			return nil, refuse(InvalidField, "validators: %d, the rule is none but in the upgrade to protocol-1", len(m.Validators))
		}
	} else if _, r := x.setValidators(m.Validators); r != nil {
		return nil, r
	}
	return []record{upgradeRecord{&Upgrade{m.Name, m.Height, UpgradePlanned, x.height, m.Validators}}}, nil
}

// cancelUpgrade takes a planned upgrade back.
func (x *txn) cancelUpgrade(m *registrypb.CancelUpgrade) ([]record, *refusal) {
	if r := checkUpgradeName(m.Name); r != nil {
		return nil, r
	}
	u, ok := x.upgrades.Get(m.Name)
	if !ok || u.Status != UpgradePlanned {
		return nil, refuse(NotFound, "upgrade %s is not planned", m.Name)
	}
	next := *u
	next.Status = UpgradeCancelled
	return []record{upgradeRecord{&next}}, nil
}

// proposeFirstUpgrade plans the upgrade from protocol 0, in which registrars
// decide alone, or cancels it.
func (x *txn) proposeFirstUpgrade(c *registrypb.Change) ([]record, *refusal) {
	if !x.isRegistrar() {
		return nil, refuse(NotAuthorised, "member %s is not a registrar; in protocol 0 only registrars plan upgrades", x.author.ID)
	}
	return x.make(c)
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

// upgrades names the upgrades that this build is made for and those before it, but
// for the protocols, separated by commas. A name stays for as long as there are
// ledgers to be replayed through it. Builds for trials add theirs by
// -ldflags "-X github.com/civibus/civibus/registry.upgrades=NAME".
var upgrades = ""

// KnowsUpgrade reports whether this software can go on after the upgrade of that
// name: the protocols up to its own, and the names of its build.
func KnowsUpgrade(name string) bool {
	if n, ok := upgradeProtocol(name); ok {
		return n <= Protocol
	}
	return name != "" && slices.Contains(strings.Split(upgrades, ","), name)
}

// upgradeProtocol returns the protocol to which an upgrade leads, if its name is
// "protocol-N".
func upgradeProtocol(name string) (uint32, bool) {
	digits, ok := strings.CutPrefix(name, "protocol-")
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), ok && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits
}
