package rule

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/celguard"
)

// Problems are all that is wrong with a rule, each with its place and what holds there.
type Problems []string

// Error lists them.
func (p Problems) Error() string { return strings.Join(p, "; ") }

// Rule is a document that was found good, and what it takes to judge by it. It may be
// used by any number of goroutines.
type Rule struct {
	Document
	ID     string // OWNER/NUMBER/VERSION
	Digest [32]byte
	kind   Kind
	owner  civibus.MemberID

	from, until time.Time // zero: open
	zone        *time.Location
	applies     *celguard.Condition // nil: always
	requires    *celguard.Condition
	broken      error // why nothing can be judged by it
}

// Kind is what the rule is about.
func (r *Rule) Kind() Kind { return r.kind }

// Owner is the member that answers for the rule: that of its scope.
func (r *Rule) Owner() civibus.MemberID { return r.owner }

// From and Until are its validity; zero is open.
func (r *Rule) From() time.Time { return r.from }

// Until is when its validity ends, exclusive; zero is open.
func (r *Rule) Until() time.Time { return r.until }

// Broken returns a rule that cannot be judged by, for instance because another version
// of the software took it. Whatever it is enacted for is refused: nobody knows whether
// it is allowed.
func Broken(id string, d Document, err error) *Rule {
	return &Rule{Document: d, ID: id, broken: err, zone: time.UTC}
}

var (
	numberPattern = regexp.MustCompile(`^[A-Za-z0-9]+([.-][A-Za-z0-9]+)*$`)
	stepPattern   = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	factPattern   = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	offsetPattern = regexp.MustCompile(`^[+-](0[0-9]|1[0-4]):[0-5][0-9]$`)
)

// checker collects the problems of a document.
type checker struct {
	*Rule
	problems Problems
}

func (c *checker) problem(where, format string, args ...any) {
	c.problems = append(c.problems, where+": "+fmt.Sprintf(format, args...))
}

// Compile checks the document and makes a rule of it. The error is a Problems.
func (d *Document) Compile() (*Rule, error) {
	c := &checker{Rule: &Rule{Document: *d, kind: Exchange, zone: time.UTC}}
	// 1. What people read.
	if d.Format != Format {
		c.problem("format", "%.80q, the rule is %q", d.Format, Format)
	}
	if len(d.Number) > MaxNumber || !numberPattern.MatchString(d.Number) {
		c.problem("number", "%.80q, the rule is A-Z, a-z and 0-9 joined by . or -, at most %d bytes", d.Number, MaxNumber)
	}
	if d.Version == 0 {
		c.problem("version", "0, the rule is 1 or more")
	}
	c.text("title", d.Title, 1, MaxTitle, false)
	c.text("text", d.Text, 1, MaxText, true)
	c.text("law.act", d.Law.Act, 1, MaxCitation, false)
	c.text("law.provision", d.Law.Provision, 1, MaxCitation, false)
	c.uri(d.Law.URI)
	c.text("remedy", d.Remedy, 1, MaxRemedy, true)
	// 2. What it is enacted for, and when it is law.
	c.scope()
	c.validity()
	// 3. Its conditions.
	c.conditions()
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	// 4. Its name and size.
	document, err := d.Encode()
	if err != nil {
		return nil, Problems{err.Error()}
	}
	if len(document) > MaxDocument {
		return nil, Problems{fmt.Sprintf("the document has %d bytes, the rule is at most %d", len(document), MaxDocument)}
	}
	c.ID = fmt.Sprintf("%s/%s/%d", c.owner, d.Number, d.Version)
	c.Rule.Digest, _ = d.Digest()
	return c.Rule, nil
}

// text checks what people read: nothing that does not print but, where there are
// paragraphs, their ends.
func (c *checker) text(where, s string, min, max int, lines bool) {
	printed := func(r rune) bool { return unicode.IsPrint(r) || r == '\n' && lines }
	switch {
	case len(s) < min:
		c.problem(where, "it is missing")
	case len(s) > max:
		c.problem(where, "it has %d bytes, the rule is at most %d", len(s), max)
	case !utf8.ValidString(s) || strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return !printed(r) }):
		c.problem(where, "%.80q has characters that do not print, or white space at an end", s)
	}
}

func (c *checker) uri(s string) {
	if s == "" {
		return
	}
	c.text("law.uri", s, 1, MaxURI, false)
	if u, err := url.Parse(s); err != nil || !u.IsAbs() || strings.Contains(s, " ") {
		c.problem("law.uri", "%.80q, the rule is an absolute URI, such as https://law.example/eli/act/2026/12/art_4", s)
	}
}

// scope reads what the rule is enacted for, and with it whose it is.
func (c *checker) scope() {
	s := &c.Document.Scope
	given, err := 0, error(nil)
	for _, one := range []struct {
		name, value string
		parse       func(string) error
	}{
		{"all", s.All, func(v string) (err error) { c.owner, err = civibus.ParseMemberID(v); return err }},
		{"member", s.Member, func(v string) (err error) { c.owner, err = civibus.ParseMemberID(v); return err }},
		{"subsystem", s.Subsystem, func(v string) error {
			id, err := civibus.ParseClientID(v)
			if err == nil && id.Subsystem == "" {
				err = fmt.Errorf("%q is a member", v)
			}
			c.owner = id.MemberID
			return err
		}},
		{"service", s.Service, func(v string) error {
			id, err := civibus.ParseServiceID(v)
			c.owner = id.MemberID
			return err
		}},
		{"process", s.Process, func(v string) error {
			i := strings.LastIndexByte(v, '/')
			if i < 0 || len(v[i+1:]) > maxCode || !stepPattern.MatchString(v[i+1:]) {
				return fmt.Errorf("%.80q, the rule is INSTANCE/CLASS/MEMBER/ID", v)
			}
			c.kind = Step
			c.owner, err = civibus.ParseMemberID(v[:i])
			return err
		}},
	} {
		if one.value == "" {
			continue
		}
		given++
		if err := one.parse(one.value); err != nil {
			c.problem("scope."+one.name, "%v", err)
		}
	}
	if given != 1 {
		c.problem("scope", "it has %d of all, member, subsystem, service and process, the rule is one", given)
	}
	if (s.Step != "") != (s.Process != "") {
		c.problem("scope", "a process and one of its steps belong together")
	} else if s.Step != "" && (len(s.Step) > maxCode || !stepPattern.MatchString(s.Step)) {
		c.problem("scope.step", "%.80q, the rule is words of a-z and 0-9 joined by -, at most %d bytes", s.Step, maxCode)
	}
}

func (c *checker) validity() {
	if o := c.UTCOffset; o != "" {
		if !offsetPattern.MatchString(o) || o == "-00:00" {
			c.problem("utcOffset", "%.80q, the rule is +HH:MM or -HH:MM, at most 14 hours", o)
			return
		}
		t, err := time.Parse("-07:00", o)
		if err != nil {
			c.problem("utcOffset", "%v", err)
			return
		}
		_, seconds := t.Zone()
		c.zone = time.FixedZone(o, seconds)
	}
	read := func(where, s string) (t time.Time) {
		if s == "" {
			return t
		}
		t, err := time.ParseInLocation(time.DateOnly, s, c.zone)
		if err != nil {
			t, err = time.Parse(time.RFC3339, s)
		}
		if err != nil {
			c.problem(where, "%.80q, the rule is a date (2027-01-01) or a time with its offset (2027-01-01T08:00:00+05:00)", s)
		}
		return t
	}
	c.from, c.until = read("valid.from", c.Valid.From), read("valid.until", c.Valid.Until)
	if !c.from.IsZero() && !c.until.IsZero() && !c.from.Before(c.until) {
		c.problem("valid", "it ends before it begins")
	}
}

// languages are those of the two kinds without facts, which most rules have.
var languages = [...]func() (*celguard.Language, error){
	Exchange: sync.OnceValues(func() (*celguard.Language, error) { return language(Exchange, nil) }),
	Step:     sync.OnceValues(func() (*celguard.Language, error) { return language(Step, nil) }),
}

func language(k Kind, facts []Fact) (*celguard.Language, error) {
	var all []celguard.Variable
	for _, v := range Variables(k) {
		all = append(all, celguard.Variable{Name: v.Name, Type: v.kind, Max: v.max})
	}
	for _, f := range facts {
		all = append(all, celguard.Variable{Name: f.ID, Type: f.Type.variable(), Max: maxCode})
	}
	return celguard.New(all, MaxCondition)
}

func (t FactType) variable() celguard.Type {
	return map[FactType]celguard.Type{Bool: celguard.Bool, Int: celguard.Int, Code: celguard.String, Date: celguard.Time, Hash: celguard.Bytes}[t]
}

func (c *checker) conditions() {
	in, err := c.language()
	if err != nil {
		c.problem("facts", "%v", err)
		return
	}
	if in == nil {
		return
	}
	if c.Applies != "" {
		if c.applies, err = in.Compile(c.Applies); err != nil {
			c.problem("applies", "%v", err)
		}
	}
	if c.Requires == "" {
		c.problem("requires", "it is missing")
	} else if c.requires, err = in.Compile(c.Requires); err != nil {
		c.problem("requires", "%v", err)
	}
}

// language is the one of the rule's conditions, nil if its facts are no good.
func (c *checker) language() (*celguard.Language, error) {
	if len(c.Facts) == 0 {
		return languages[c.kind]()
	}
	before := len(c.problems)
	if c.kind != Step {
		c.problem("facts", "only rules for a step of a process have facts")
	}
	if len(c.Facts) > MaxFacts {
		c.problem("facts", "there are %d, the rule is at most %d", len(c.Facts), MaxFacts)
		return nil, nil
	}
	taken := make(map[string]bool)
	for _, v := range Variables(Step) {
		taken[v.Name] = true
	}
	for i, f := range c.Facts {
		where := fmt.Sprintf("facts[%d]", i)
		if len(f.ID) > maxCode || !factPattern.MatchString(f.ID) || taken[f.ID] {
			c.problem(where+".id", "%.80q, the rule is words of a-z and 0-9 joined by _, at most %d bytes, none twice and none that the context has", f.ID, maxCode)
		}
		if taken[f.ID] = true; f.Type.variable() == 0 {
			c.problem(where+".type", "%.80q, the rule is bool, int, code, date or hash", f.Type)
		}
	}
	if len(c.problems) > before {
		return nil, nil
	}
	return language(c.kind, c.Facts)
}

// Covers reports whether calls of a service are in the rule's scope.
func (r *Rule) Covers(service civibus.ServiceID) bool {
	s := &r.Document.Scope
	switch {
	case s.All != "":
		return true
	case s.Member != "":
		return s.Member == service.MemberID.String()
	case s.Subsystem != "":
		return s.Subsystem == service.ClientID.String()
	case s.Service != "":
		all := service
		all.Version = ""
		return s.Service == service.String() || s.Service == all.String()
	}
	return false
}
