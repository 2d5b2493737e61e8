package registry_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const topicID = idB + "/POP/persons/moved"

func setTopic(topic, title string, ordered bool, status registrypb.Status, notice string) *registrypb.SetTopic {
	return &registrypb.SetTopic{Topic: topic, Title: title, Ordered: ordered, Status: status, Notice: notice}
}

// TestTopicLife: a topic is registered, changed, suspended and ended; each change is an
// event, and what the topic was when can be proved.
func TestTopicLife(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	b := w.ok(edKey("B/admin"), setTopic(topicID, "Persons who moved", true, active, ""))
	var e registrypb.Event
	if err := proto.Unmarshal(b.Events[0], &e); err != nil {
		t.Fatal(err)
	}
	if m := e.GetTopicSet(); m.GetId() != topicID || !m.Ordered || m.Status != active || len(m.Periods) != 1 {
		t.Errorf("event %v", &e)
	}
	w.ok(edKey("B/admin"), setTopic(topicID, "Removals", true, active, ""))
	w.ok(edKey("B/admin"), setTopic(topicID, "Removals", true, suspended, "The register moves house"))
	id := must(registry.ParseTopicID(topicID))
	got, ok := w.view().Topic(id)
	if !ok || got.Title != "Removals" || got.Status != civibus.Suspended || got.Notice == "" || len(got.Periods) != 1 || got.Periods[0].To == 0 {
		t.Errorf("topic %+v", got)
	}
	w.ok(edKey("B/admin"), setTopic(idB+"/POP/persons/born", "Births", false, active, ""))
	if of := w.view().TopicsOf(id.Service); len(of) != 2 || of[0].ID.Name != "born" || of[1].ID.Path() != "/moved" {
		t.Errorf("topics of the service %+v", of)
	}
	if all, next := w.view().Topics("", 1); len(all) != 1 || next != idB+"/POP/persons/born" {
		t.Errorf("page %+v, next %q", all, next)
	}
	if value, _, err := w.view().ProveState("topic/" + topicID); err != nil || value == nil {
		t.Errorf("no value to prove: %v", err)
	}
	w.ok(edKey("B/admin"), setTopic(topicID, "Removals", true, ended, ""))
}

func topicRefusals(body bodyRun, after after, do doer) {
	begun := do("B/admin", setTopic(topicID, "Moved", true, active, ""))
	for _, id := range []string{"", "x", idB + "/POP/persons", idB + "/POP/persons/Moved", idB + "/POP/persons/.x", idB + "/POP/persons/v1/moved/x", idB + "/POP/persons/v1/moved", idB + "/POP/persons/mov%65d"} {
		body("topic: id "+id, registry.InvalidField, "B/admin", setTopic(id, "Moved", false, active, ""))
	}
	body("topic: title", registry.InvalidField, "B/admin", setTopic(topicID, "", false, active, ""))
	body("topic of another", registry.NotAuthorised, "A/admin", setTopic(topicID, "Moved", false, active, ""))
	body("topic of no service", registry.NotFound, "B/admin", setTopic(idB+"/POP/pets/moved", "Moved", false, active, ""))
	body("topic of no subsystem", registry.NotFound, "B/admin", setTopic(idB+"/X/pets/moved", "Moved", false, active, ""))
	body("topic: new and suspended", registry.InvalidField, "B/admin", setTopic(topicID, "Moved", false, suspended, "Not yet"))
	body("topic: new without status", registry.InvalidField, "B/admin", setTopic(topicID, "Moved", false, 0, ""))
	body("topic: notice of an active one", registry.InvalidField, "B/admin", setTopic(topicID, "Moved", false, active, "Why"))
	after("topic: suspended without notice", registry.InvalidField, "B/admin", setTopic(topicID, "Moved", true, suspended, ""), begun)
	after("topic: another order", registry.InvalidField, "B/admin", setTopic(topicID, "Moved", false, active, ""), begun)
	after("topic: no change", registry.NoChange, "B/admin", setTopic(topicID, "Moved", true, active, ""), begun)
	after("topic: of a service that ended", registry.Ended, "B/admin", setTopic(topicID, "Moved", true, active, ""),
		do("B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: ended}))
	after("topic: final", registry.Ended, "B/admin", setTopic(topicID, "Moved", true, active, ""), begun, do("B/admin", setTopic(topicID, "Moved", true, ended, "")))
	after("topic of a SOAP service", registry.InvalidField, "B/admin", setTopic(idB+"/POP/soap/moved", "Moved", true, active, ""),
		do("B/admin", &registrypb.SetService{Id: idB + "/POP/soap", Type: registrypb.ServiceType_SERVICE_TYPE_WSDL}))
}

// drawTopicBody makes transactions of topics that may or may not be accepted.
func drawTopicBody(t *rapid.T) (*testSigner, any) {
	switch rapid.IntRange(0, 2).Draw(t, "before the topic") {
	case 0:
		return edKey("B/admin"), &registrypb.SetSubsystem{Id: idB + "/S", Name: "Publishes"}
	case 1:
		return edKey("B/admin"), setService(idB + "/S/svc")
	}
	topic := rapid.SampledFrom([]string{"/S/svc/a", "/S/svc/b", "/S/none/a"}).Draw(t, "topic")
	status := rapid.SampledFrom([]registrypb.Status{active, active, suspended, ended}).Draw(t, "status")
	notice := ""
	if status == suspended {
		notice = "Why"
	}
	return edKey("B/admin"), setTopic(idB+topic, rapid.SampledFrom([]string{"A", "B"}).Draw(t, "title"), rapid.Bool().Draw(t, "ordered"), status, notice)
}
