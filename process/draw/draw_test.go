package draw_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/process/draw"
	"github.com/civibus/civibus/process/examples"
)

// compiled are all examples, and one with every kind of needs and hostile text.
func compiled(t *testing.T) map[string]*definition.Process {
	t.Helper()
	texts := map[string][]byte{"hostile": []byte(hostile)}
	files, err := examples.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if texts[f.Name()], err = examples.Files.ReadFile(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
	out := make(map[string]*definition.Process)
	for name, text := range texts {
		d, err := definition.Read(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out[name], err = d.Compile(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return out
}

const hostile = `
format: civibus-process-1
id: hostile
version: 3
title: '<script>alert(1)</script> & "others"'
law: {act: 'Act <b>1</b>', uri: 'https://law.example/1?a=1&b=2'}
roles:
  - {id: one, title: '</text><image href="x"/>'}
  - {id: two, title: Two}
facts:
  - {id: yes, title: Yes, type: bool, public: true}
steps:
  - {id: a, title: A, from: one, to: one, kind: task, yields: [yes], deadline: P1D, final: true}
  - {id: b, title: B, from: one, to: two, kind: task, deadline: P1D, onTimeout: skip, final: true}
  - {id: c, title: C, from: two, kind: service, service: c, deadline: P1D, onTimeout: cancel, undo: un-c}
  - {id: any, title: '` + "Æ" + ` title that is far too long for the three lines of thirty-two characters each that there are in a box of the picture', from: two, kind: task, needs: {any: [a, b]}, deadline: P1D, final: true}
  - {id: some, title: Some, from: two, to: one, kind: task, needs: {of: 2, steps: [a, b, c]}, when: 'yes && "<" != ">"', deadline: P1D, final: true}
  - {id: all, title: All, from: two, kind: task, needs: {all: [any, some, c]}, deadline: P1D, final: true}
ends:
  - {id: good, title: Good, needs: {all: [all]}, when: 'yes'}
  - {id: plain, title: Plain}
  - {id: never, title: One before it always holds}
  - {id: undone, title: Undone, cancelled: true}
variants:
  - {id: short, title: Without C, law: {act: A}, without: [c]}
`

// document is XML as it was read: each element with its attributes and text.
type document struct {
	elements []element
}

type element struct {
	name       string
	attributes map[string]string
	text       string
	parent     int
}

func read(t *testing.T, text []byte) *document {
	t.Helper()
	d, open := &document{}, []int{-1}
	decoder := xml.NewDecoder(bytes.NewReader(text))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return d
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: token.Name.Local, attributes: make(map[string]string), parent: open[len(open)-1]}
			for _, a := range token.Attr {
				if _, twice := e.attributes[a.Name.Local]; twice && a.Name.Space != "xmlns" {
					t.Fatalf("%s has %s twice", e.name, a.Name.Local)
				}
				e.attributes[a.Name.Local] = a.Value
			}
			d.elements = append(d.elements, e)
			open = append(open, len(d.elements)-1)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if at := open[len(open)-1]; at >= 0 {
				d.elements[at].text += string(token)
			}
		}
	}
}

func (d *document) of(name string) (out []int) {
	for i, e := range d.elements {
		if e.name == name {
			out = append(out, i)
		}
	}
	return out
}

func (d *document) under(parent int, name string) (texts []string) {
	for _, e := range d.elements {
		if e.parent == parent && e.name == name {
			texts = append(texts, e.text)
		}
	}
	return texts
}

// TestBPMN: every id is there once, every reference leads somewhere, flows and elements
// agree, each step is a task of two participants, and everything has its place.
func TestBPMN(t *testing.T) {
	for name, p := range compiled(t) {
		variants := []string{""}
		for _, v := range p.Variants {
			variants = append(variants, v.ID)
		}
		for _, variant := range variants {
			t.Run(name+"/"+variant, func(t *testing.T) {
				text, err := draw.BPMN(p, variant)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := draw.BPMN(p, variant); err != nil || !bytes.Equal(again, text) {
					t.Fatalf("it is drawn in another way the second time: %v", err)
				}
				checkBPMN(t, p, variant, read(t, text))
			})
		}
	}
}

func checkBPMN(t *testing.T, p *definition.Process, variant string, d *document) {
	ncname := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	ids := make(map[string]int)
	for i, e := range d.elements {
		if id, ok := e.attributes["id"]; ok {
			if _, twice := ids[id]; twice || !ncname.MatchString(id) {
				t.Errorf("id %q is there twice or is no NCName", id)
			}
			ids[id] = i
		}
	}
	drawn := make(map[string]bool)
	for _, e := range d.elements {
		for _, ref := range []string{"sourceRef", "targetRef", "default", "initiatingParticipantRef", "bpmnElement", "choreographyActivityShape"} {
			if to, ok := e.attributes[ref]; ok {
				if _, there := ids[to]; !there {
					t.Errorf("%s %s=%q leads nowhere", e.name, ref, to)
				}
			}
		}
		switch e.name {
		case "incoming", "outgoing", "participantRef", "messageFlowRef":
			if _, there := ids[e.text]; !there {
				t.Errorf("%s %q leads nowhere", e.name, e.text)
			}
		}
		drawn[e.attributes["bpmnElement"]] = true
	}
	// Flows and what their elements say of them.
	in, out := make(map[string][]string), make(map[string][]string)
	for _, f := range d.of("sequenceFlow") {
		a := d.elements[f].attributes
		out[a["sourceRef"]] = append(out[a["sourceRef"]], a["id"])
		in[a["targetRef"]] = append(in[a["targetRef"]], a["id"])
		if !drawn[a["id"]] {
			t.Errorf("flow %s is not in the diagram", a["id"])
		}
	}
	for _, kind := range []string{"startEvent", "endEvent", "choreographyTask", "parallelGateway", "exclusiveGateway", "complexGateway"} {
		for _, n := range d.of(kind) {
			id := d.elements[n].attributes["id"]
			if !slices.Equal(d.under(n, "incoming"), in[id]) || !slices.Equal(d.under(n, "outgoing"), out[id]) {
				t.Errorf("%s: %v in and %v out, the flows say %v and %v", id, d.under(n, "incoming"), d.under(n, "outgoing"), in[id], out[id])
			}
			if (len(in[id]) == 0) != (kind == "startEvent") || (len(out[id]) == 0) != (kind == "endEvent") {
				t.Errorf("%s %s: %d flows arrive, %d leave", kind, id, len(in[id]), len(out[id]))
			}
			if !strings.HasSuffix(kind, "Gateway") && len(out[id]) > 1 {
				t.Errorf("%s: %d flows leave without a gateway", id, len(out[id]))
			}
			if !drawn[id] {
				t.Errorf("%s is not in the diagram", id)
			}
		}
	}
	// Steps.
	steps, err := p.Plan(variant)
	if err != nil {
		t.Fatal(err)
	}
	if tasks := d.of("choreographyTask"); len(tasks) != len(steps) {
		t.Fatalf("%d tasks for %d steps", len(tasks), len(steps))
	}
	for _, s := range steps {
		n := ids["step-"+s.ID]
		e := d.elements[n]
		who := d.under(n, "participantRef")
		if e.attributes["name"] != s.Title || e.attributes["initiatingParticipantRef"] != "role-"+s.From || len(who) != 2 || who[0] != "role-"+s.From || who[1] == who[0] {
			t.Errorf("step %s: %v with %v", s.ID, e.attributes, who)
		}
	}
	if len(d.of("endEvent")) != len(p.Ends) || len(d.of("participant")) != len(p.Roles)+1 {
		t.Errorf("%d ends, %d participants", len(d.of("endEvent")), len(d.of("participant")))
	}
}

// TestSVG: all steps and ends are in the picture, no box lies on another one, and text
// is text.
func TestSVG(t *testing.T) {
	for name, p := range compiled(t) {
		text, err := draw.Definition(p, "")
		if err != nil {
			t.Fatal(err)
		}
		d := read(t, text)
		if d.of("script") != nil || d.of("image") != nil {
			t.Errorf("%s: a title became markup", name)
		}
		type box struct{ x, y, w, h float64 }
		var boxes []box
		for _, r := range d.of("rect") {
			a := d.elements[r].attributes
			if a["x"] == "" {
				continue // the ground
			}
			var at box
			for field, to := range map[string]*float64{"x": &at.x, "y": &at.y, "width": &at.w, "height": &at.h} {
				if *to, err = strconv.ParseFloat(a[field], 64); err != nil {
					t.Fatal(err)
				}
			}
			for _, o := range boxes {
				if at.x < o.x+o.w && o.x < at.x+at.w && at.y < o.y+o.h && o.y < at.y+at.h {
					t.Errorf("%s: boxes %v and %v lie on each other", name, at, o)
				}
			}
			boxes = append(boxes, at)
		}
		if want := len(p.Steps) + len(p.Ends); len(boxes) != want {
			t.Errorf("%s: %d boxes, want %d", name, len(boxes), want)
		}
	}
	if _, err := draw.Definition(compiled(t)["hostile"], "no-such"); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("a variant that there is not: %v", err)
	}
}

// TestInstance: where each step stands is in words.
func TestInstance(t *testing.T) {
	p := compiled(t)["hostile"]
	at := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	i, err := p.Start("", map[string]string{"one": "DEMO/GOV/1", "two": "DEMO/GOV/2"}, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Apply(definition.Event{Step: "a", Attempt: 1, Kind: definition.StepDone, By: "DEMO/GOV/1", At: at.Add(time.Hour), Yields: []definition.Yield{{Fact: "yes", Value: true}}}); err != nil {
		t.Fatal(err)
	}
	text, err := draw.Instance(p, i)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(read(t, text))
	for _, want := range []string{"A; by ", "now: done; since 2026-03-01T10:00:00Z", "open, due 2026-03-02 09:00", "waiting"} {
		if !strings.Contains(got, want) {
			t.Errorf("the picture does not say %q:\n%s", want, text)
		}
	}
}
