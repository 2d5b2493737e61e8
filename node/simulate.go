package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/rule"
	"github.com/civibus/civibus/seal/httpsig"
)

// maxSimulatedClients bounds the table of those who would have been refused.
const maxSimulatedClients = 1000

// simulationNotes say what a simulation does not know.
func simulationNotes() []string {
	return []string{
		"Only exchanges that were answered under an access right are counted: of what was refused then, nobody knows whether it would be asked again.",
		"The validity of the rule is left aside: it is asked as if it had been law at the time.",
		"The time is the one at which this body's own gateway began the exchange. Where this body was the consumer, the provider's gateway decides by its own clock.",
		"A body whose length was not announced is counted by the size that it had.",
	}
}

// Simulate says what a rule would have said of past exchanges.
func (b backend) Simulate(ctx context.Context, r *rule.Rule, limit int) (admin.Simulation, error) {
	rooms := b.n.current.Load()
	if rooms == nil {
		return admin.Simulation{}, errStarting
	}
	// 1. The newest entries.
	size := rooms.evidence.Status().Size
	from := size - min(size, uint64(limit))
	s := &simulation{rule: r, view: b.n.view(), own: b.n.member, by: make(map[[2]string]*admin.SimulatedClient), out: admin.Simulation{
		Rule: r.ID, Outcomes: make(map[rule.Outcome]int), Unknown: make(map[string]int), Refused: []admin.SimulatedClient{}, Notes: simulationNotes(),
	}}
	// 2. What the rule says of each.
	for e, err := range rooms.evidence.Entries(ctx, from, size) {
		if err != nil {
			return admin.Simulation{}, err
		}
		record := &evidencepb.Record{}
		if err := proto.Unmarshal(e.Record, record); err != nil {
			return admin.Simulation{}, fmt.Errorf("record at index %d: %w", e.Index, err)
		}
		s.out.Looked++
		s.judge(record)
	}
	// 3. Who would have been refused, the most frequent first.
	for _, c := range s.by {
		s.out.Refused = append(s.out.Refused, *c)
	}
	slices.SortFunc(s.out.Refused, func(a, b admin.SimulatedClient) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), strings.Compare(a.Client, b.Client), strings.Compare(a.Service, b.Service))
	})
	return s.out, nil
}

// simulation counts what a rule says.
type simulation struct {
	rule *rule.Rule
	view *registry.View
	own  civibus.MemberID
	by   map[[2]string]*admin.SimulatedClient
	out  admin.Simulation
}

func (s *simulation) judge(record *evidencepb.Record) {
	// 1. Is it about such an exchange? Of one with itself a body has two records.
	service, err := civibus.ParseServiceID(record.Service)
	if err != nil || record.Outcome != evidencepb.Outcome_OUTCOME_ANSWERED || record.RightId == "" || !s.rule.Covers(service) ||
		record.Side == evidencepb.Side_SIDE_CONSUMER && service.MemberID == s.own {
		return
	}
	started := time.Unix(0, record.StartedUnixNano).UTC()
	s.out.Exchanges++
	if s.out.From == nil || started.Before(*s.out.From) {
		s.out.From = &started
	}
	if s.out.To == nil || started.After(*s.out.To) {
		s.out.To = &started
	}
	// 2. What it says, of what is known.
	v := s.rule.Estimate(rule.Values{Of: rule.Exchange, Map: s.context(record, service)}, started)
	s.out.Outcomes[v.Outcome]++
	for _, name := range v.Unknown {
		s.out.Unknown[name]++
	}
	if v.Err != nil {
		s.out.Unknown["(the condition fails)"]++
	}
	if v.Outcome != rule.Refused {
		return
	}
	key := [2]string{record.Client, record.Service}
	if s.by[key] == nil {
		if len(s.by) >= maxSimulatedClients {
			return
		}
		s.by[key] = &admin.SimulatedClient{Client: record.Client, Service: record.Service}
	}
	s.by[key].Count++
	s.by[key].Exchange = record.ExchangeId
}

// context is what the record and the registry know of the declared context. What a
// record does not hold has no value.
func (s *simulation) context(record *evidencepb.Record, service civibus.ServiceID) map[string]any {
	known := map[string]any{
		"provider_member": service.MemberID.String(), "provider_class": service.Class, "provider_subsystem": service.ClientID.String(),
		"service": service.Service, "service_version": service.Version,
	}
	if client, err := civibus.ParseClientID(record.Client); err == nil {
		known["consumer_member"], known["consumer_class"], known["consumer_subsystem"] = client.MemberID.String(), client.Class, ""
		if client.Subsystem != "" {
			known["consumer_subsystem"] = client.String()
		}
	}
	if right, ok := s.view.Right(record.RightId); ok {
		known["purpose"], known["legal_basis"] = right.Purpose, right.LegalBasis
	}
	if record.RequestBody != nil {
		known["body"] = rule.BodyClass(int64(record.RequestBody.Size))
	}
	// What was sealed says what was there: all of these fields are sealed when they are.
	lines, _, err := httpsig.ParseBase(record.GetRequest().GetBase())
	if err != nil {
		return known
	}
	values := make(map[string]string)
	for _, l := range lines {
		if !l.Component.Req() {
			values[l.Component.Name()] = l.Value
		}
	}
	known["method"] = values["@method"]
	for name, field := range map[string]string{
		"issue": civibus.HeaderIssue, "user": civibus.HeaderUserID, "represented": civibus.HeaderRepresentedParty, "purpose_stated": civibus.HeaderPurpose,
	} {
		known[name] = values[strings.ToLower(field)] != ""
	}
	if parts := strings.SplitN(values["@path"], "/", 8); len(parts) >= 7 {
		raw := ""
		if len(parts) == 8 {
			raw = "/" + parts[7]
		}
		if path, err := policy.NormalisePath(raw); err == nil {
			known["path"] = path
		}
	}
	return known
}
