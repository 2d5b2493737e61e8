package proof

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteText writes the report for an auditor to read.
func (r *Report) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	if r.Valid {
		fmt.Fprintln(b, "VALID")
		r.Summary.write(b)
	} else {
		last := r.Steps[len(r.Steps)-1]
		fmt.Fprintf(b, "NOT VALID: %s\n%s\n", r.Failure, last.Meaning)
	}
	for _, c := range r.Cautions {
		fmt.Fprintln(b, "Note:", c)
	}
	fmt.Fprintln(b, "\nSteps")
	entry := ""
	for _, s := range r.Steps {
		if s.Entry != entry {
			entry = s.Entry
			if entry != "" {
				fmt.Fprintf(b, "  %s's evidence\n", entry)
			}
		}
		state := "ok  "
		if !s.OK {
			state = "FAIL"
		}
		fmt.Fprintf(b, "  %s %-20s %s\n", state, s.Name, printable(s.Detail))
		if s.OK {
			fmt.Fprintf(b, "       %-20s %s\n", "", s.Meaning)
		}
	}
	if !r.Valid {
		fmt.Fprintln(b, "\nThe steps after this one were not run. \"Not valid\" says that this file does not prove what it states,\nnot that the opposite is true.")
	}
	return b.Flush()
}

func (s *Summary) write(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-12s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	asked := "asked"
	if !s.RequestSealed {
		asked = "is said to have asked"
	}
	line("Who", "%s %s %s", named(s.Client, s.ClientName), asked, named(s.Service, s.ProviderName))
	if s.RequestSealed {
		line("What", "%s %s%s", s.Method, s.Path, s.RequestBody.text())
		line("Asked", "%s (the client's seal)", s.Requested.Format(time.RFC3339))
	}
	outcome := s.Outcome
	if s.Fault != "" {
		outcome += ": " + s.Fault
	}
	if s.AnswerSealed {
		line("Outcome", "%s, status %d%s", outcome, s.Status, s.ResponseBody.text())
		line("Answered", "%s (the provider's seal)", s.Answered.Format(time.RFC3339))
	} else {
		line("Outcome", "%s, without a sealed answer", outcome)
	}
	if s.Right != "" {
		line("Right", "%s", s.Right)
		line("Purpose", "%s", s.Purpose)
		line("Legal basis", "%s", s.LegalBasis)
	}
	for _, side := range s.Sides {
		line("Evidence", "%s (%s): leaf %d of %s, decided at height %d, anchored at height %d",
			side.Member, side.Side, side.Index, side.Log, side.RegistryHeight, side.AnchorHeight)
	}
	line("Registry", "%s, height %d, block of %s", s.Registry.Origin, s.Registry.Height, s.Registry.BlockTime.Format(time.RFC3339))
	for _, x := range s.Registry.Witnesses {
		line("Witness", "%s at %s", x.Name, x.Time.Format(time.RFC3339))
	}
	for _, what := range s.PostQuantum {
		line("Post-quantum", "second signature on the %s", what)
	}
	for _, c := range s.Certificates {
		line("Certificate", "%s: %s, issued by %s", c.Seal, c.Subject, c.Issuer)
		for _, f := range c.Findings {
			line("", "%s: %s%s", f.Statement, f.Outcome, f.Detail)
		}
	}
	line("Exchange", "%s, message %s", s.Exchange, s.MessageID)
}

func named(id, name string) string {
	if name == "" {
		return id
	}
	return id + " (" + name + ")"
}

func (b *Body) text() string {
	if b == nil {
		return ""
	}
	if b.Size == nil {
		return ", body with SHA-256 " + b.SHA256
	}
	return fmt.Sprintf(", body of %d bytes with SHA-256 %s", *b.Size, b.SHA256)
}

// printable keeps what came from outside from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}
