package draw

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/civibus/civibus/process/definition"
)

// BPMN writes a definition as it is in a variant, "" for none, as a BPMN 2.0
// choreography with its diagram (OMG formal/2011-01-03, chapters 11 and 12): each step
// is a choreography task that its role begins. What BPMN has no element for, such as
// deadlines and who takes a step back, is in the tasks' documentation. Guards are CEL.
//
// It is for people and their tools; what counts is the definition.
func BPMN(p *definition.Process, variant string) ([]byte, error) {
	steps, err := p.Plan(variant)
	if err != nil {
		return nil, err
	}
	c := &choreography{process: p, graph: &graph{}, last: make(map[string]int)}
	// 1. From the start to the first steps, and from each step to those after it.
	c.flowOf(steps)
	// 2. Where nothing is left to do, the first end that holds.
	c.flowToEnds(steps)
	c.forkWhereSeveralFollow()
	// 3. Places, and the document.
	c.graph.lay()
	return c.document(variant, steps), nil
}

// choreography is a BPMN choreography while it is made. Elements and flows are the nodes
// and edges of the graph, in the same order.
type choreography struct {
	process  *definition.Process
	graph    *graph
	elements []element
	flows    []flow
	last     map[string]int // step: the element with which it is done or skipped
}

// element is a flow node.
type element struct {
	id, name, kind string
	documentation  string
	condition      string           // complexGateway: when it goes on
	step           *definition.Step // choreographyTask
}

// flow is a sequence flow.
type flow struct {
	name, condition string
	otherwise       bool // what is taken when no condition holds
}

// sized are the elements' sizes in the diagram.
var sized = map[string]point{
	"startEvent": {36, 36}, "endEvent": {36, 36}, "choreographyTask": {150, 100},
	"parallelGateway": {50, 50}, "exclusiveGateway": {50, 50}, "complexGateway": {50, 50},
}

func (c *choreography) add(e element) int {
	size := sized[e.kind]
	c.elements = append(c.elements, e)
	c.graph.nodes = append(c.graph.nodes, node{w: size.x, h: size.y})
	return len(c.elements) - 1
}

func (c *choreography) connect(from, to int, f flow) {
	c.flows = append(c.flows, f)
	c.graph.edges = append(c.graph.edges, edge{from: from, to: to})
}

// flowOf makes the steps with the gateways before them: one that waits for what is
// needed, and, where there is a guard, one that goes around the step.
func (c *choreography) flowOf(steps []definition.Step) {
	start := c.add(element{id: "start", name: "begun", kind: "startEvent"})
	for i := range steps {
		s := &steps[i]
		var before []int
		for _, id := range s.Needs.Before() {
			if e, ok := c.last[id]; ok { // else the variant leaves it out
				before = append(before, e)
			}
		}
		at := start
		switch {
		case len(before) == 1:
			at = before[0]
		case len(before) > 1:
			at = c.add(joining(s))
			for _, b := range before {
				c.connect(b, at, flow{})
			}
		}
		task := element{id: "step-" + s.ID, name: s.Title, kind: "choreographyTask", documentation: documented(s), step: s}
		if s.When == "" {
			c.last[s.ID] = c.add(task)
			c.connect(at, c.last[s.ID], flow{})
			continue
		}
		ask := c.add(element{id: "if-" + s.ID, name: "needed?", kind: "exclusiveGateway"})
		done := c.add(task)
		past := c.add(element{id: "past-" + s.ID, kind: "exclusiveGateway"})
		c.connect(at, ask, flow{})
		c.connect(ask, done, flow{name: "yes", condition: s.When})
		c.connect(ask, past, flow{name: "no", otherwise: true})
		c.connect(done, past, flow{})
		c.last[s.ID] = past
	}
}

// joining waits for the steps before one.
func joining(s *definition.Step) element {
	e := element{id: "wait-" + s.ID, kind: "parallelGateway"}
	n := 0
	switch {
	case len(s.Needs.Any) > 0:
		n = 1
	case s.Needs.Of > 0:
		n = s.Needs.Of
	}
	if n > 0 {
		e.kind, e.name, e.condition = "complexGateway", fmt.Sprintf("%d of %d", n, len(s.Needs.Before())), "activationCount >= "+strconv.Itoa(n)
	}
	return e
}

// documented says what BPMN has no element for.
func documented(s *definition.Step) string {
	parts := []string{"Within " + s.Deadline.String() + " from when it may be done."}
	switch s.OnTimeout {
	case definition.Skip:
		parts = append(parts, "If it is late the others go on without it.")
	case definition.Cancel:
		parts = append(parts, "If it is late what was done is taken back.")
	default:
		parts = append(parts, "If it is late a civil servant of the same role takes it over.")
	}
	if s.Undo != "" {
		parts = append(parts, "Taken back by the service "+s.Undo+".")
	}
	if len(s.Yields) > 0 {
		parts = append(parts, "Finds out: "+strings.Join(s.Yields, ", ")+".")
	}
	return strings.Join(parts, " ")
}

// flowToEnds leads what nothing follows to the ends: the first one that holds.
func (c *choreography) flowToEnds(steps []definition.Step) {
	needed := make(map[string]bool)
	for i := range steps {
		for _, id := range steps[i].Needs.Before() {
			needed[id] = true
		}
	}
	all := c.add(element{id: "nothing-left", name: "nothing is left to do", kind: "parallelGateway"})
	for i := range steps {
		if !needed[steps[i].ID] {
			c.connect(c.last[steps[i].ID], all, flow{})
		}
	}
	which := c.add(element{id: "which-end", name: "the first that holds", kind: "exclusiveGateway"})
	c.connect(all, which, flow{})
	otherwise := false
	for i := range c.process.Ends {
		e := &c.process.Ends[i]
		about, condition := "", []string{}
		if before := e.Needs.Before(); len(before) > 0 {
			about = "Needs " + strings.Join(before, ", ") + "."
			condition = append(condition, "done("+strings.Join(before, ", ")+")")
		}
		if e.When != "" {
			condition = append(condition, e.When)
		}
		if e.Cancelled {
			about, condition = "When the instance was cancelled and what was done is taken back.", []string{"cancelled"}
		}
		end := c.add(element{id: "end-" + e.ID, name: e.Title, kind: "endEvent", documentation: about})
		f := flow{condition: strings.Join(condition, " && ")}
		switch {
		case f.condition != "":
		case otherwise: // one before it always holds
			f.condition = "false"
		default:
			f.otherwise, otherwise = true, true
		}
		c.connect(which, end, f)
	}
}

// forkWhereSeveralFollow puts a parallel gateway after each start and task that several
// flows leave, which then go on side by side.
func (c *choreography) forkWhereSeveralFollow() {
	for from := range len(c.elements) {
		e := c.elements[from]
		splits := strings.HasPrefix(e.id, "if-") || e.id == "which-end"
		if out := c.leaving(from); len(out) > 1 && !splits {
			fork := c.add(element{id: "fork-" + e.id, kind: "parallelGateway"})
			for _, f := range out {
				c.graph.edges[f].from = fork
			}
			c.connect(from, fork, flow{})
		}
	}
}

func (c *choreography) leaving(from int) (flows []int) {
	for f := range c.graph.edges {
		if c.graph.edges[f].from == from {
			flows = append(flows, f)
		}
	}
	return flows
}

func (c *choreography) arriving(to int) (flows []int) {
	for f := range c.graph.edges {
		if c.graph.edges[f].to == to {
			flows = append(flows, f)
		}
	}
	return flows
}

// ledgerID is the participant that gets what a step does when no role does: everybody
// concerned reads it on the ledger.
const ledgerID = "ledger"

func receiver(s *definition.Step) string {
	if s.To == "" || s.To == s.From {
		return ledgerID
	}
	return "role-" + s.To
}

// document writes all of it.
func (c *choreography) document(variant string, steps []definition.Step) []byte {
	p, w := c.process, &markup{}
	name := p.Title
	for _, v := range p.Variants {
		if v.ID == variant {
			name += ": " + v.Title
		}
	}
	w.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	w.open("definitions", "xmlns", "http://www.omg.org/spec/BPMN/20100524/MODEL", "xmlns:bpmndi", "http://www.omg.org/spec/BPMN/20100524/DI",
		"xmlns:dc", "http://www.omg.org/spec/DD/20100524/DC", "xmlns:di", "http://www.omg.org/spec/DD/20100524/DI",
		"xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance", "id", "definitions", "name", name,
		"targetNamespace", fmt.Sprintf("urn:civibus:process:%s:%d", p.ID, p.Version), "expressionLanguage", "https://cel.dev", "exporter", "civibus")
	w.open("choreography", "id", "choreography", "name", name, "isClosed", "true")
	w.text("documentation", fmt.Sprintf("%s, version %d, digest %x. %s", p.ID, p.Version, p.Digest, law(p.Law)))
	// 1. Who takes part, and what goes from whom to whom.
	for _, r := range p.Roles {
		w.empty("participant", "id", "role-"+r.ID, "name", r.Title)
	}
	w.empty("participant", "id", ledgerID, "name", "Ledger")
	for i := range steps {
		w.empty("messageFlow", "id", "message-"+steps[i].ID, "sourceRef", "role-"+steps[i].From, "targetRef", receiver(&steps[i]))
	}
	// 2. The flow.
	for n := range c.elements {
		c.element(w, n)
	}
	for f := range c.flows {
		c.flow(w, f)
	}
	w.close("choreography")
	// 3. The diagram.
	c.diagram(w)
	w.close("definitions")
	return w.Bytes()
}

func law(l definition.Law) string {
	return strings.Join(strings.Fields(l.Act+" "+l.Provision+" "+l.URI), " ")
}

func flowID(f int) string { return fmt.Sprintf("flow-%d", f+1) }

func (c *choreography) element(w *markup, n int) {
	e := &c.elements[n]
	attributes := []string{"id", e.id}
	if e.name != "" {
		attributes = append(attributes, "name", e.name)
	}
	in, out := c.arriving(n), c.leaving(n)
	if strings.HasSuffix(e.kind, "Gateway") {
		direction := "Diverging"
		if len(in) > 1 {
			direction = "Converging"
		}
		attributes = append(attributes, "gatewayDirection", direction)
	}
	for _, f := range out {
		if c.flows[f].otherwise {
			attributes = append(attributes, "default", flowID(f))
		}
	}
	if e.step != nil {
		attributes = append(attributes, "initiatingParticipantRef", "role-"+e.step.From)
	}
	w.open(e.kind, attributes...)
	if e.documentation != "" {
		w.text("documentation", e.documentation)
	}
	for _, f := range in {
		w.text("incoming", flowID(f))
	}
	for _, f := range out {
		w.text("outgoing", flowID(f))
	}
	if e.condition != "" {
		w.text("activationCondition", e.condition, "xsi:type", "tFormalExpression")
	}
	if e.step != nil {
		w.text("participantRef", "role-"+e.step.From)
		w.text("participantRef", receiver(e.step))
		w.text("messageFlowRef", "message-"+e.step.ID)
	}
	w.close(e.kind)
}

func (c *choreography) flow(w *markup, f int) {
	at, e := c.flows[f], c.graph.edges[f]
	attributes := []string{"id", flowID(f), "sourceRef", c.elements[e.from].id, "targetRef", c.elements[e.to].id}
	if at.name != "" {
		attributes = append(attributes, "name", at.name)
	}
	if at.condition == "" {
		w.empty("sequenceFlow", attributes...)
		return
	}
	w.open("sequenceFlow", attributes...)
	w.text("conditionExpression", at.condition, "xsi:type", "tFormalExpression")
	w.close("sequenceFlow")
}

// diagram says where everything is: a choreography task is a box with a band for each
// of the two who take part.
func (c *choreography) diagram(w *markup) {
	w.open("bpmndi:BPMNDiagram", "id", "diagram")
	w.open("bpmndi:BPMNPlane", "id", "plane", "bpmnElement", "choreography")
	for n := range c.elements {
		e, at := &c.elements[n], c.graph.nodes[n]
		w.shape(at.x, at.y, at.w, at.h, "id", "shape-"+e.id, "bpmnElement", e.id)
		if e.step == nil {
			continue
		}
		w.shape(at.x, at.y, at.w, 20, "id", "from-"+e.id, "bpmnElement", "role-"+e.step.From, "isMessageVisible", "false",
			"participantBandKind", "top_initiating", "choreographyActivityShape", "shape-"+e.id)
		w.shape(at.x, at.y+at.h-20, at.w, 20, "id", "to-"+e.id, "bpmnElement", receiver(e.step), "isMessageVisible", "false",
			"participantBandKind", "bottom_non_initiating", "choreographyActivityShape", "shape-"+e.id)
	}
	for f, e := range c.graph.edges {
		w.open("bpmndi:BPMNEdge", "id", "edge-"+flowID(f), "bpmnElement", flowID(f))
		for _, p := range e.points {
			w.empty("di:waypoint", "x", number(p.x), "y", number(p.y))
		}
		w.close("bpmndi:BPMNEdge")
	}
	w.close("bpmndi:BPMNPlane")
	w.close("bpmndi:BPMNDiagram")
}

func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// markup is XML while it is written.
type markup struct {
	bytes.Buffer
	depth int
}

func (w *markup) tag(name, end string, attributes []string) {
	w.WriteString(strings.Repeat("  ", w.depth) + "<" + name)
	for i := 0; i < len(attributes); i += 2 {
		fmt.Fprintf(w, ` %s="%s"`, attributes[i], escape(attributes[i+1]))
	}
	w.WriteString(end)
}

func (w *markup) open(name string, attributes ...string) {
	w.tag(name, ">\n", attributes)
	w.depth++
}

func (w *markup) close(name string) {
	w.depth--
	fmt.Fprintf(w, "%s</%s>\n", strings.Repeat("  ", w.depth), name)
}

func (w *markup) empty(name string, attributes ...string) { w.tag(name, "/>\n", attributes) }

func (w *markup) text(name, text string, attributes ...string) {
	w.tag(name, ">", attributes)
	fmt.Fprintf(w, "%s</%s>\n", escape(text), name)
}

func (w *markup) shape(x, y, width, height float64, attributes ...string) {
	w.open("bpmndi:BPMNShape", attributes...)
	w.empty("dc:Bounds", "x", number(x), "y", number(y), "width", number(width), "height", number(height))
	w.close("bpmndi:BPMNShape")
}
