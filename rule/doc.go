// Package rule is the law as bodies wrote it down: rules with their number, text and
// citation, and a condition over what a gateway or a process knows of an exchange or
// a step before it takes effect.
//
// A rule is one document, YAML for people and canonical JSON on the ledger. Document
// is what is written, Rule what is compiled from it. Judge says of an exchange or a
// step which of the rules in force it breaks first, if any, and that answer names the
// rule, cites its provision and says what to do. The answer is a pure function of the
// rules, the context and the time. spec/rule.md is normative.
//
// Trust: an attacker who controls a rule can at most have what it is enacted for
// refused, which is for the owner of that to enact; it sees no payload and tells
// nobody anything but its own words. One who controls a request chooses among the
// outcomes that the rules allow: a context that a rule cannot decide on is refused.
package rule
