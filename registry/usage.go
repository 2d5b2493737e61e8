package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/registrypb"
)

// UsageCount is how many usage records there are of each class of disclosure.
type UsageCount struct {
	Shown, Later, Never uint64
}

// Sum is the number of records of all classes.
func (c UsageCount) Sum() uint64 { return c.Shown + c.Later + c.Never }

func (c UsageCount) encode() []byte {
	return writer{}.num(1, c.Shown).num(2, c.Later).num(3, c.Never)
}

func usageCountOf(m *registrypb.UsageCount) UsageCount {
	return UsageCount{m.GetShown(), m.GetLater(), m.GetNever()}
}

// UsagePeriod is the last period of a body's usage records (spec/usage.md): what the
// body has committed itself to for a stretch of leaves of one of its evidence logs. The
// periods before are events.
type UsagePeriod struct {
	Origin             string // of the evidence log
	Member             civibus.MemberID
	Period             uint64 // from 1
	FirstLeaf, EndLeaf uint64 // the end is excluded
	From, Until        time.Time
	Count, Total       UsageCount // of this period, and of all
	Root               [32]byte   // RFC 6962, over the commitments in the order of the leaves
	Anchored           uint64     // height
}

type usageRecord struct{ *UsagePeriod }

func (r usageRecord) stateKey() string           { return usagePrefix + r.Origin }
func (r usageRecord) put(s *state)               { set(s, s.usage, r.Origin, r.UsagePeriod, r.Member, 1) }
func (usageRecord) eventField() protowire.Number { return 48 }

func (r usageRecord) encode() []byte {
	return writer{}.str(1, r.Origin).str(2, r.Member.String()).num(3, r.Period).num(4, r.FirstLeaf).num(5, r.EndLeaf).
		num(6, unixSeconds(r.From)).num(7, unixSeconds(r.Until)).message(8, r.Count.encode()).message(9, r.Total.encode()).
		bytes(10, r.Root[:]).num(11, r.Anchored)
}

func decodeUsage(value []byte) (record, error) {
	var m registrypb.UsagePeriod
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, err
	}
	if len(m.Root) != 32 {
		return nil, errors.New("its root is not 32 bytes")
	}
	member, err := civibus.ParseMemberID(m.Member)
	return usageRecord{&UsagePeriod{
		Origin: m.Origin, Member: member, Period: m.Period, FirstLeaf: m.FirstLeaf, EndLeaf: m.EndLeaf,
		From: timeOf(m.From), Until: timeOf(m.Until), Count: usageCountOf(m.Count), Total: usageCountOf(m.Total),
		Root: [32]byte(m.Root), Anchored: m.AnchoredHeight,
	}}, err
}

// maxUsageLog is the highest number of an evidence log, as for checkpoints.
const maxUsageLog = 1 << 20

// anchorUsage commits the sender to the usage records of a stretch of its evidence log.
// Stretches follow each other without gaps, and each is of leaves that the registry has
// witnessed, so that a record that is left out can be shown to be missing.
func (x *txn) anchorUsage(m *registrypb.AnchorUsage) ([]record, *refusal) {
	// 1. The fields.
	if m.Log < 1 || m.Log > maxUsageLog {
		return nil, refuse(InvalidField, "log: %d, the rule is the number of an evidence log, from 1", m.Log)
	}
	if len(m.Root) != 32 {
		return nil, refuse(InvalidField, "root has %d bytes, the rule is 32", len(m.Root))
	}
	if m.EndLeaf <= m.FirstLeaf {
		return nil, refuse(InvalidField, "end_leaf: %d, the rule is after first_leaf %d", m.EndLeaf, m.FirstLeaf)
	}
	leaves, count := m.EndLeaf-m.FirstLeaf, UsageCount{m.Shown, m.Later, m.Never}
	if count.Shown > leaves || count.Later > leaves || count.Never > leaves || count.Sum() > leaves {
		return nil, refuse(InvalidField, "shown, later and never: %d, %d and %d, the rule is at most one record for each of the %d leaves", count.Shown, count.Later, count.Never, leaves)
	}
	if empty := sha256.Sum256(nil); count.Sum() == 0 && !bytes.Equal(m.Root, empty[:]) {
		return nil, refuse(InvalidField, "root: %x, the rule for no records is the SHA-256 of nothing", m.Root)
	}
	// 2. It follows the period before.
	next, r := x.nextUsage(EvidenceOrigin(x.author.ID, int(m.Log)), m)
	if r != nil {
		return nil, r
	}
	// 3. The leaves are witnessed.
	log, ok := x.logs.Get(next.Origin)
	if !ok {
		return nil, refuse(NotFound, "log %s is not anchored", next.Origin)
	}
	if m.EndLeaf > log.Size {
		return nil, refuse(StaleCheckpoint, "end_leaf: %d, log %s is anchored at size %d; anchor its checkpoint first", m.EndLeaf, log.Origin, log.Size)
	}
	next.Count, next.Root, next.Anchored = count, [32]byte(m.Root), x.height
	next.Total = UsageCount{next.Total.Shown + count.Shown, next.Total.Later + count.Later, next.Total.Never + count.Never}
	return []record{usageRecord{next}}, nil
}

// nextUsage begins the period that follows the last one of a log.
func (x *txn) nextUsage(origin string, m *registrypb.AnchorUsage) (*UsagePeriod, *refusal) {
	next := &UsagePeriod{Origin: origin, Member: x.author.ID, Period: 1}
	if last, ok := x.usage.Get(origin); ok {
		next.Period, next.FirstLeaf, next.From, next.Total = last.Period+1, last.EndLeaf, last.Until, last.Total
	}
	switch {
	case m.Period > 0 && m.Period < next.Period:
		return nil, refuse(AlreadyExists, "period %d of log %s is anchored, the rule is that periods never change", m.Period, origin)
	case m.Period != next.Period:
		return nil, refuse(InvalidField, "period: %d, the rule is the next period of log %s, which is %d", m.Period, origin, next.Period)
	case m.FirstLeaf != next.FirstLeaf:
		return nil, refuse(InvalidField, "first_leaf: %d, the rule is where the period before ended, which is %d", m.FirstLeaf, next.FirstLeaf)
	case m.Until <= int64(unixSeconds(next.From)) || m.Until > x.now.Unix():
		return nil, refuse(InvalidField, "until: %d, the rule is after the end of the period before (%d) and not after now (%d)", m.Until, int64(unixSeconds(next.From)), x.now.Unix())
	}
	next.EndLeaf, next.Until = m.EndLeaf, timeOf(m.Until)
	return next, nil
}

// UsagePeriod returns the last anchored period of usage records of an evidence log.
func (v *View) UsagePeriod(origin string) (UsagePeriod, bool) { return get(v.state.usage, origin) }

// UsagePeriods lists the last anchored periods by the origins of their logs, like Members.
func (v *View) UsagePeriods(after string, limit int) (items []UsagePeriod, next string) {
	return page(v.state.usage, "", after, limit)
}

// UsagePeriodsOf lists the last anchored periods of a member's logs.
func (v *View) UsagePeriodsOf(member civibus.MemberID) []UsagePeriod {
	prefix := EvidenceOrigin(member, 1)
	items, _ := page(v.state.usage, prefix[:len(prefix)-1], "", maxPage)
	return items
}
