// Package draw shows processes to people: a definition, or one of its instances, as an
// SVG picture, and a definition as a BPMN 2.0 choreography (OMG formal/2011-01-03) that
// modelling tools open.
//
// Trust: it draws definitions that passed Compile and shows what is in them; nothing in
// them is executed, and all text is escaped.
package draw
