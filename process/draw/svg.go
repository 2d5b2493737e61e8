package draw

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/civibus/civibus/process/definition"
)

const (
	boxWidth   = 270
	bandHeight = 20
	lineHeight = 16
	lineLength = 32 // characters of a title's line
	titleLines = 3
	boxHeight  = 2*bandHeight + titleLines*lineHeight + 24
	endWidth   = 240
	endHeight  = 56
)

// look is how a step of a status is shown: by a word, and by colours of which none
// carries what the word does not say.
type look struct{ fill, line, word string }

func looks(s definition.Status) look {
	switch s {
	case definition.Open:
		return look{"#fff4ce", "#8a6100", "open"}
	case definition.Done:
		return look{"#dff3e4", "#1d6f3a", "done"}
	case definition.Skipped:
		return look{"#eeeeee", "#6b6b6b", "skipped"}
	case definition.Reverting:
		return look{"#fde3d3", "#9a3b00", "to be taken back"}
	case definition.Reverted:
		return look{"#e9e3f5", "#4f3a8a", "taken back"}
	case definition.Abandoned:
		return look{"#fbdada", "#9b1c1c", "not taken back"}
	}
	return look{"#ffffff", "#44546a", "waiting"}
}

// Definition draws a definition as it is in a variant, "" for none, as a choreography:
// each step with who does it above and who gets the result below.
func Definition(p *definition.Process, variant string) ([]byte, error) {
	return picture(p, variant, nil)
}

// Instance draws where an instance of p stands, with what is due in UTC.
func Instance(p *definition.Process, i *definition.Instance) ([]byte, error) {
	return picture(p, i.Variant, i)
}

func picture(p *definition.Process, variant string, i *definition.Instance) ([]byte, error) {
	steps, err := p.Plan(variant)
	if err != nil {
		return nil, err
	}
	// 1. Steps, and the ends right of all.
	g := &graph{}
	index := make(map[string]int)
	for n, s := range steps {
		g.nodes = append(g.nodes, node{w: boxWidth, h: boxHeight})
		index[s.ID] = n
		for _, before := range s.Needs.Before() {
			if from, ok := index[before]; ok { // else the variant leaves it out
				g.edges = append(g.edges, edge{from: from, to: n})
			}
		}
	}
	last := 0
	g.rank()
	for n := range g.nodes {
		last = max(last, g.nodes[n].column)
	}
	for range p.Ends {
		g.nodes = append(g.nodes, node{w: endWidth, h: endHeight, column: last + 1})
	}
	for e, end := range p.Ends {
		for _, before := range end.Needs.Before() {
			if from, ok := index[before]; ok {
				g.edges = append(g.edges, edge{from: from, to: len(steps) + e})
			}
		}
	}
	width, height := g.lay()
	// 2. The picture.
	w := &canvas{}
	w.begin(p, variant, len(steps), i != nil, width, height)
	for _, e := range g.edges {
		w.arrow(e, e.to >= len(steps))
	}
	roles := make(map[string]string)
	for _, r := range p.Roles {
		roles[r.ID] = r.Title
	}
	for n := range steps {
		w.step(g.nodes[n], &steps[n], roles, i)
	}
	for e := range p.Ends {
		w.end(g.nodes[len(steps)+e], &p.Ends[e], i)
	}
	w.WriteString("</g>\n</svg>\n")
	return w.Bytes(), nil
}

// canvas is an SVG while it is written.
type canvas struct{ bytes.Buffer }

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

func (w *canvas) begin(p *definition.Process, variant string, steps int, running bool, width, height float64) {
	const head = 34
	name := fmt.Sprintf("%s (%s, version %d)", p.Title, p.ID, p.Version)
	if variant != "" {
		name += ", variant " + variant
	}
	about := fmt.Sprintf("%d steps of %d roles, from left to right; arrows lead from a step to those that wait for it.", steps, len(p.Roles))
	if running {
		about = "Where an instance stands. " + about
	}
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title about" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" font-family="system-ui, sans-serif" font-size="13">`+"\n",
		width, height+head, width, height+head)
	fmt.Fprintf(w, "<title id=\"title\">%s</title>\n<desc id=\"about\">%s</desc>\n", escape(name), escape(about))
	w.WriteString(`<defs><marker id="tip" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L10 5L0 10z" fill="#44546a"/></marker></defs>` + "\n")
	fmt.Fprintf(w, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", width, height+head)
	fmt.Fprintf(w, `<text x="%d" y="28" font-size="17" font-weight="600" fill="#1b2733">%s</text>`+"\n", margin, escape(name))
	fmt.Fprintf(w, `<g transform="translate(0 %d)">`+"\n", head)
}

// arrow is one edge; what leads to an end is dashed.
func (w *canvas) arrow(e edge, toEnd bool) {
	dash := ""
	if toEnd {
		dash = ` stroke-dasharray="5 4"`
	}
	fmt.Fprintf(w, `<path d="M%.0f %.0f`, e.points[0].x, e.points[0].y)
	for i := 1; i < len(e.points); i++ {
		a, b := e.points[i-1], e.points[i]
		if a.y == b.y {
			fmt.Fprintf(w, "L%.0f %.0f", b.x, b.y)
			continue
		}
		middle := (a.x + b.x) / 2
		fmt.Fprintf(w, "C%.0f %.0f %.0f %.0f %.0f %.0f", middle, a.y, middle, b.y, b.x, b.y)
	}
	fmt.Fprintf(w, `" fill="none" stroke="#44546a" stroke-width="1.4" marker-end="url(#tip)"%s/>`+"\n", dash)
}

// step is a choreography task: the role that does it above, the one that gets the
// result below, what is done and until when between them.
func (w *canvas) step(n node, s *definition.Step, roles map[string]string, i *definition.Instance) {
	how, state := looks(definition.Waiting), definition.StepState{}
	if i != nil {
		if _, at, ok := i.Step(s.ID); ok {
			how, state = looks(at.Status), at
		}
	}
	to := "recorded on the ledger"
	if s.To != "" {
		to = roles[s.To]
	}
	fmt.Fprintf(w, `<g id="step-%s"><title>%s</title>`, escape(s.ID), escape(told(s, roles, i != nil, how, state)))
	fmt.Fprintf(w, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="8" fill="%s" stroke="%s" stroke-width="1.6"/>`, n.x, n.y, n.w, n.h, how.fill, how.line)
	fmt.Fprintf(w, `<path d="M%.0f %.0fh%.0fM%.0f %.0fh%.0f" stroke="%s" stroke-width="1"/>`, n.x, n.y+bandHeight, n.w, n.x, n.y+n.h-bandHeight, n.w, how.line)
	w.line(n.x+10, n.y+14.5, "600", cut(roles[s.From], lineLength))
	w.line(n.x+10, n.y+n.h-6, "400", "→ "+cut(to, lineLength-2))
	for l, text := range wrap(s.Title, lineLength, titleLines) {
		w.line(n.x+10, n.y+bandHeight+16+float64(l)*lineHeight, "400", text)
	}
	below := "within " + s.Deadline.String()
	if s.When != "" {
		below += ", on a condition"
	}
	if i != nil {
		below = how.word
		if !state.Due.IsZero() {
			below += ", due " + state.Due.UTC().Format("2006-01-02 15:04")
		}
	}
	fmt.Fprintf(w, `<text x="%.0f" y="%.0f" font-size="12" fill="%s" font-weight="600">%s</text></g>`+"\n", n.x+10, n.y+n.h-bandHeight-7, how.line, escape(cut(below, lineLength+3)))
}

// told is all about a step, for who points at it or has it read out.
func told(s *definition.Step, roles map[string]string, running bool, how look, state definition.StepState) string {
	parts := []string{s.Title, "by " + roles[s.From], "within " + s.Deadline.String()}
	if s.When != "" {
		parts = append(parts, "if "+s.When)
	}
	if s.Undo != "" {
		parts = append(parts, "taken back by "+s.Undo)
	}
	if running {
		parts = append(parts, "now: "+how.word)
		if state.Human && !state.Due.IsZero() {
			parts = append(parts, "a civil servant sees to it")
		}
		if !state.Since.IsZero() {
			parts = append(parts, "since "+state.Since.UTC().Format(time.RFC3339))
		}
	}
	return strings.Join(parts, "; ")
}

func (w *canvas) end(n node, e *definition.End, i *definition.Instance) {
	fill, line, width := "#ffffff", "#44546a", "2.5"
	if i != nil && i.End == e.ID {
		fill, line, width = "#dff3e4", "#1d6f3a", "4"
		if e.Cancelled {
			fill, line = "#e9e3f5", "#4f3a8a"
		}
	}
	about := e.Title
	if e.When != "" {
		about += "; if " + e.When
	}
	fmt.Fprintf(w, `<g id="end-%s"><title>%s</title><rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="28" fill="%s" stroke="%s" stroke-width="%s"/>`,
		escape(e.ID), escape(about), n.x, n.y, n.w, n.h, fill, line, width)
	lines := wrap(e.Title, lineLength-6, 2)
	for l, text := range lines {
		w.line(n.x+18, n.y+n.h/2+5+(float64(l)-float64(len(lines)-1)/2)*lineHeight, "400", text)
	}
	w.WriteString("</g>\n")
}

func (w *canvas) line(x, y float64, weight, text string) {
	fmt.Fprintf(w, `<text x="%.0f" y="%.1f" font-weight="%s" fill="#1b2733">%s</text>`, x, y, weight, escape(text))
}

// wrap breaks a text into lines of at most length characters; what does not fit into
// so many lines is cut off.
func wrap(s string, length, lines int) (out []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > length {
			out, line = append(out, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		out = append(out, line)
	}
	if len(out) > lines {
		out = append(out[:lines-1], strings.Join(out[lines-1:], " "))
	}
	for i := range out {
		out[i] = cut(out[i], length)
	}
	return out
}

// cut shortens a text to length characters.
func cut(s string, length int) string {
	if utf8.RuneCountInString(s) <= length {
		return s
	}
	return string([]rune(s)[:length-1]) + "…"
}
