package registry_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	birthID = idB + "/POP/persons/birth"
	bornURI = "https://law.example/requirements/born"
	nameURI = "https://law.example/requirements/name"
)

func setEvidenceType(id, title string, s registrypb.Status, notice string, requirements ...string) *registrypb.SetEvidenceType {
	return &registrypb.SetEvidenceType{Id: id, Title: title, Law: "Civil Status Act, § 9", Requirements: requirements, Status: s, Notice: notice}
}

// TestEvidenceTypeLife: a type of evidence is registered, found by what it proves,
// changed, suspended and ended; each change is an event and can be proved.
func TestEvidenceTypeLife(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	b := w.ok(edKey("B/admin"), setEvidenceType(birthID, "Birth", active, "", bornURI, nameURI))
	var e registrypb.Event
	if err := proto.Unmarshal(b.Events[0], &e); err != nil {
		t.Fatal(err)
	}
	if m := e.GetEvidenceTypeSet(); m.GetId() != birthID || m.Status != active || len(m.Requirements) != 2 || len(m.Periods) != 1 {
		t.Errorf("event %v", &e)
	}
	w.ok(edKey("B/admin"), setEvidenceType(idB+"/POP/persons/name", "Name", active, "", nameURI))
	found := func(uri string) (out []string) {
		items, _ := w.view().EvidenceTypesFor(uri, "", 0)
		for _, i := range items {
			out = append(out, i.ID.Name)
		}
		return out
	}
	if got := found(nameURI); len(got) != 2 || got[0] != "birth" || got[1] != "name" {
		t.Errorf("types for the name: %v", got)
	}
	before := w.view()
	w.ok(edKey("B/admin"), setEvidenceType(birthID, "Birth certificate", active, "", bornURI))
	if got := found(nameURI); len(got) != 1 || len(found(bornURI)) != 1 || found("https://law.example/requirements") != nil {
		t.Errorf("types for the name after the change: %v", got)
	}
	if old, _ := before.EvidenceTypesFor(nameURI, "", 1); len(old) != 1 {
		t.Errorf("the view before has changed: %v", old)
	}
	w.ok(edKey("B/admin"), setEvidenceType(birthID, "Birth certificate", suspended, "The register moves house", bornURI))
	got, ok := w.view().EvidenceType(must(registry.ParseEvidenceTypeID(birthID)))
	if !ok || got.Status != civibus.Suspended || got.Title != "Birth certificate" || got.Periods[0].To == 0 {
		t.Errorf("type %+v", got)
	}
	if value, _, err := w.view().ProveState("evidence-type/" + birthID); err != nil || value == nil {
		t.Errorf("no value to prove: %v", err)
	}
	w.ok(edKey("B/admin"), setEvidenceType(birthID, "Birth certificate", ended, "", bornURI))
	if all, next := w.view().EvidenceTypes("", 1); len(all) != 1 || next != birthID {
		t.Errorf("page %+v, next %q", all, next)
	}
}

func evidenceTypeRefusals(body bodyRun, after after, do doer) {
	good := func() *registrypb.SetEvidenceType { return setEvidenceType(birthID, "Birth", active, "", bornURI) }
	begun := do("B/admin", good())
	for _, id := range []string{"", "x", idB + "/POP/persons", idB + "/POP/persons/Birth", idB + "/POP/persons/v1/birth", idB + "/POP/persons/bir%74h"} {
		body("evidence type: id "+id, registry.InvalidField, "B/admin", setEvidenceType(id, "Birth", active, "", bornURI))
	}
	body("evidence type: title", registry.InvalidField, "B/admin", setEvidenceType(birthID, "", active, "", bornURI))
	lawless := good()
	lawless.Law = ""
	body("evidence type: law", registry.InvalidField, "B/admin", lawless)
	for name, list := range map[string][]string{"none": nil, "no URI": {"born"}, "space": {"https://law.example/a b"}, "order": {nameURI, bornURI}, "twice": {bornURI, bornURI}, "many": make([]string, 17)} {
		body("evidence type: requirements: "+name, registry.InvalidField, "B/admin", setEvidenceType(birthID, "Birth", active, "", list...))
	}
	body("evidence type of another", registry.NotAuthorised, "A/admin", good())
	body("evidence type of no service", registry.NotFound, "B/admin", setEvidenceType(idB+"/POP/pets/birth", "Birth", active, "", bornURI))
	body("evidence type of no subsystem", registry.NotFound, "B/admin", setEvidenceType(idB+"/X/pets/birth", "Birth", active, "", bornURI))
	body("evidence type: new and suspended", registry.InvalidField, "B/admin", setEvidenceType(birthID, "Birth", suspended, "Not yet", bornURI))
	body("evidence type: notice of an active one", registry.InvalidField, "B/admin", setEvidenceType(birthID, "Birth", active, "Why", bornURI))
	after("evidence type: suspended without notice", registry.InvalidField, "B/admin", setEvidenceType(birthID, "Birth", suspended, "", bornURI), begun)
	after("evidence type: no change", registry.NoChange, "B/admin", good(), begun)
	after("evidence type: final", registry.Ended, "B/admin", good(), begun, do("B/admin", setEvidenceType(birthID, "Birth", ended, "", bornURI)))
}

// drawEvidenceTypeBody makes transactions of evidence types that may or may not be accepted.
func drawEvidenceTypeBody(t *rapid.T) (*testSigner, any) {
	id := rapid.SampledFrom([]string{"/S/svc/a", "/S/svc/b", "/S/none/a"}).Draw(t, "evidence type")
	status := rapid.SampledFrom([]registrypb.Status{active, active, suspended, ended}).Draw(t, "type's status")
	notice := ""
	if status == suspended {
		notice = "Why"
	}
	list := rapid.SampledFrom([][]string{{bornURI}, {nameURI}, {bornURI, nameURI}}).Draw(t, "requirements")
	return edKey("B/admin"), setEvidenceType(idB+id, rapid.SampledFrom([]string{"A", "B"}).Draw(t, "type's title"), status, notice, list...)
}
