package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/civibus/civibus"
)

// rightIndex finds the rights for a service and a subject by a hash of both. A list
// may hold rights of several pairs, whose hashes are the same by chance or by
// somebody's work: whoever reads it compares.
type rightIndex = hashed[uint64, []*civibus.AccessRight]

// state is everything that the registry knows, decoded, with the indices that
// make lookups independent of its size. Records are never changed in place: a
// change puts a new one.
type state struct {
	params        *Params
	members       *table[*civibus.Member]        // I/C/M
	keys          *table[*civibus.RegisteredKey] // hex key id
	subsystems    *table[*civibus.Subsystem]     // I/C/M/S
	services      *table[*civibus.Service]       // I/C/M/S/SVC[/VER]
	rights        *table[*civibus.AccessRight]   // id
	groups        *table[*civibus.Group]         // id
	groupMembers  *table[*groupMember]           // group|client
	logs          *table[*civibus.Log]           // origin
	sequences     *table[sequence]               // hex key id
	validators    *table[*validator]             // hex key id
	nodes         *table[*memberNodes]           // I/C/M
	votes         *table[*memberVotes]           // I/C/M
	proposals     *table[*Proposal]              // id, 20 digits
	ballots       *table[*Vote]                  // id|I/C/M
	delegations   *table[*Delegation]            // root|to
	hostings      *table[*Hosting]               // I/C/M
	upgrades      *table[*Upgrade]               // name
	misbehaviour  *table[*Misconduct]            // hex key id|height, 20 digits
	chains        *table[*chain]                 // hex key id
	processes     *table[*Process]               // I/C/M/ID/VERSION
	roles         *table[*ProcessRole]           // process/role|I/C/M/S
	instances     *table[*ProcessInstance]       // hex id: those that go on, and ended
	ended         []*ProcessInstance             // in the last block
	enacted       *table[*EnactedRule]           // I/C/M/NUMBER/VERSION
	topics        *table[*Topic]                 // I/C/M/S/SERVICE/TOPIC
	evidenceTypes *table[*EvidenceType]          // I/C/M/S/SERVICE/TYPE
	usage         *table[*UsagePeriod]           // origin of an evidence log

	// Indices, derived from the above.
	open        *table[struct{}]                          // ids of open proposals
	openOf      *table[struct{}]                          // proposer|id of open proposals
	deadlines   *table[uint64]                            // deadline|id of open proposals: id
	charged     *hashed[string, uint64]                   // I/C/M: records of it and its descendants
	children    *table[struct{}]                          // parent|child
	keysOf      *hashed[string, []*civibus.RegisteredKey] // member|purpose
	rightsFor   *rightIndex                               // the rights that are not ended
	groupsOf    *hashed[string, []string]                 // client: groups that it is in
	instancesOf *table[struct{}]                          // I/C/M/S|id of instances that go on
	typesOf     *table[struct{}]                          // requirement|I/C/M/S/SERVICE/TYPE
	rulesOf     *hashed[string, []*EnactedRule]           // scope: the rules that are not ended

	uncounted bool // while loading: nothing is charged

	// directory counts the changes of all but rights, logs and notarisations, which
	// are many: what was found out about the rest holds while it stays the same. From 1.
	directory uint64
}

// sequence is what is kept of a key that signs transactions.
type sequence struct {
	last      uint64 // of the last accepted transaction
	notarised uint64 // digests that it recorded; 0 in protocol 0
	started   uint64 // records charged for instances that it began
}

// groupMember is a client's membership in a group, with its history.
type groupMember struct {
	group   string
	client  civibus.ClientID
	periods []civibus.Period
}

// open reports whether the client is a member now.
func (g *groupMember) open() bool { return openPeriod(g.periods) }

func newState() *state {
	return &state{
		params:        &Params{},
		members:       new(table[*civibus.Member]),
		keys:          new(table[*civibus.RegisteredKey]),
		subsystems:    new(table[*civibus.Subsystem]),
		services:      new(table[*civibus.Service]),
		rights:        new(table[*civibus.AccessRight]),
		groups:        new(table[*civibus.Group]),
		groupMembers:  new(table[*groupMember]),
		logs:          new(table[*civibus.Log]),
		sequences:     new(table[sequence]),
		validators:    new(table[*validator]),
		nodes:         new(table[*memberNodes]),
		votes:         new(table[*memberVotes]),
		proposals:     new(table[*Proposal]),
		ballots:       new(table[*Vote]),
		delegations:   new(table[*Delegation]),
		hostings:      new(table[*Hosting]),
		upgrades:      new(table[*Upgrade]),
		misbehaviour:  new(table[*Misconduct]),
		chains:        new(table[*chain]),
		processes:     new(table[*Process]),
		roles:         new(table[*ProcessRole]),
		instances:     new(table[*ProcessInstance]),
		instancesOf:   new(table[struct{}]),
		enacted:       new(table[*EnactedRule]),
		rulesOf:       new(hashed[string, []*EnactedRule]),
		topics:        new(table[*Topic]),
		evidenceTypes: new(table[*EvidenceType]),
		typesOf:       new(table[struct{}]),
		usage:         new(table[*UsagePeriod]),
		open:          new(table[struct{}]),
		openOf:        new(table[struct{}]),
		deadlines:     new(table[uint64]),
		charged:       new(hashed[string, uint64]),
		children:      new(table[struct{}]),
		keysOf:        new(hashed[string, []*civibus.RegisteredKey]),
		rightsFor:     new(rightIndex),
		groupsOf:      new(hashed[string, []string]),
		directory:     1,
	}
}

// copy returns a state that can be written without the original noticing.
func (s *state) copy() *state {
	return &state{
		params:        s.params,
		members:       s.members.Copy(),
		keys:          s.keys.Copy(),
		subsystems:    s.subsystems.Copy(),
		services:      s.services.Copy(),
		rights:        s.rights.Copy(),
		groups:        s.groups.Copy(),
		groupMembers:  s.groupMembers.Copy(),
		logs:          s.logs.Copy(),
		sequences:     s.sequences.Copy(),
		validators:    s.validators.Copy(),
		nodes:         s.nodes.Copy(),
		votes:         s.votes.Copy(),
		proposals:     s.proposals.Copy(),
		ballots:       s.ballots.Copy(),
		delegations:   s.delegations.Copy(),
		hostings:      s.hostings.Copy(),
		upgrades:      s.upgrades.Copy(),
		misbehaviour:  s.misbehaviour.Copy(),
		chains:        s.chains.Copy(),
		processes:     s.processes.Copy(),
		roles:         s.roles.Copy(),
		instances:     s.instances.Copy(),
		ended:         s.ended,
		instancesOf:   s.instancesOf.Copy(),
		enacted:       s.enacted.Copy(),
		rulesOf:       s.rulesOf.Copy(),
		topics:        s.topics.Copy(),
		evidenceTypes: s.evidenceTypes.Copy(),
		typesOf:       s.typesOf.Copy(),
		usage:         s.usage.Copy(),
		open:          s.open.Copy(),
		openOf:        s.openOf.Copy(),
		deadlines:     s.deadlines.Copy(),
		charged:       s.charged.Copy(),
		children:      s.children.Copy(),
		keysOf:        s.keysOf.Copy(),
		rightsFor:     s.rightsFor.Copy(),
		groupsOf:      s.groupsOf.Copy(),
		directory:     s.directory,
	}
}

func (s *state) member(id civibus.MemberID) *civibus.Member {
	m, _ := s.members.Get(id.String())
	return m
}

func (s *state) key(id civibus.KeyID) *civibus.RegisteredKey {
	k, _ := s.keys.Get(id.String())
	return k
}

func (s *state) putMember(m *civibus.Member) {
	id := m.ID.String()
	old, had := s.members.Set(id, m)
	if had && old.Parent == m.Parent {
		return
	}
	used, _ := s.charged.Get(id)
	if had && !old.Parent.IsZero() {
		s.children.Delete(pair(old.Parent.String(), id))
		s.charge(old.Parent, -used)
	}
	if !m.Parent.IsZero() {
		s.children.Set(pair(m.Parent.String(), id), struct{}{})
		s.charge(m.Parent, used)
	}
	if !had {
		s.charge(m.ID, 1)
	}
}

func (s *state) putKey(k *civibus.RegisteredKey) {
	set(s, s.keys, k.ID.String(), k, k.Member, 1)
	of := keysOfKey(k.Member, k.Purpose)
	list, _ := s.keysOf.Get(of)
	list = upsert(list, k, func(a, b *civibus.RegisteredKey) int {
		return cmp.Or(cmp.Compare(a.Activate, b.Activate), slices.Compare(a.ID[:], b.ID[:]))
	})
	s.keysOf.Set(of, list)
}

func (s *state) putRight(r *civibus.AccessRight) {
	set(s, s.rights, r.ID, r, r.Service.MemberID, 1)
	index := rightsForKey(r.Service, subjectOf(r))
	list, _ := s.rightsFor.Get(index)
	byID := func(a, b *civibus.AccessRight) int { return strings.Compare(a.ID, b.ID) }
	if r.Status != civibus.Ended {
		s.rightsFor.Set(index, upsert(list, r, byID))
		return
	}
	if i, ok := slices.BinarySearchFunc(list, r, byID); ok {
		list = slices.Concat(list[:i], list[i+1:])
	}
	if len(list) == 0 {
		s.rightsFor.Delete(index)
	} else {
		s.rightsFor.Set(index, list)
	}
}

func (s *state) putGroupMember(g *groupMember) {
	client := g.client.String()
	set(s, s.groupMembers, pair(g.group, client), g, groupOwner(g.group), 1)
	list, _ := s.groupsOf.Get(client)
	i, in := slices.BinarySearch(list, g.group)
	switch {
	case g.open() && !in:
		list = slices.Insert(slices.Clone(list), i, g.group)
	case !g.open() && in:
		list = slices.Concat(list[:i], list[i+1:])
	default:
		return
	}
	if len(list) == 0 {
		s.groupsOf.Delete(client)
	} else {
		s.groupsOf.Set(client, list)
	}
}

// upsert returns a copy of the sorted list with item in it, in the place of one
// that compares equal.
func upsert[T any](list []T, item T, compare func(a, b T) int) []T {
	i, found := slices.BinarySearchFunc(list, item, compare)
	list = slices.Clone(list)
	if found {
		list[i] = item
		return list
	}
	return slices.Insert(list, i, item)
}

// pair joins two canonical identifiers. "|" is not in either: it is always
// percent-encoded.
func pair(a, b string) string { return a + "|" + b }

func keysOfKey(m civibus.MemberID, p civibus.Purpose) string {
	return pair(m.String(), p.String())
}

// rightsForKey leaves the version out: a right without one covers all.
func rightsForKey(service civibus.ServiceID, subject string) uint64 {
	var room [2 * keyRoom]byte
	service.Version = ""
	sum := sha256.Sum256(append(append(service.Append(room[:0]), '|'), subject...))
	return binary.BigEndian.Uint64(sum[:])
}

// subjectOf returns the client or the group of a right. The two cannot be
// mistaken for each other: a client has 3 or 4 parts, a group 2 or 6.
func subjectOf(r *civibus.AccessRight) string {
	if r.Group != "" {
		return r.Group
	}
	return r.Client.String()
}

// openPeriod reports whether the last period is open.
func openPeriod(p []civibus.Period) bool { return len(p) > 0 && p[len(p)-1].To == 0 }

// begin returns the periods with one open from height on. A period that ended
// at that very height goes on.
func begin(p []civibus.Period, height uint64) []civibus.Period {
	if openPeriod(p) {
		return p
	}
	p = slices.Clone(p)
	if n := len(p); n > 0 && p[n-1].To == height {
		p[n-1].To = 0
		return p
	}
	return append(p, civibus.Period{From: height})
}

// end returns the periods with the open one ended at height. A period that
// began at that very height never was.
func end(p []civibus.Period, height uint64) []civibus.Period {
	if !openPeriod(p) {
		return p
	}
	p = slices.Clone(p)
	n := len(p)
	if p[n-1].From == height {
		return p[:n-1]
	}
	p[n-1].To = height
	return p
}
