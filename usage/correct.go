package usage

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/usage/usagepb"
)

// The lengths of what a correction may say, in characters.
const (
	maxReason   = 1000
	maxSentence = 500
)

// Change is what a correction changes of a usage record. Empty fields stay as they are.
type Change struct {
	Subject    string // whom it concerned; the person of before is shown that it was a mistake
	Purpose    string
	LegalBasis string
	Sentence   string
	Case       string
	Reason     string // why, in words that the person understands; required
}

// check checks a change.
func (c *Change) check() error {
	if c.Subject == "" && c.Purpose == "" && c.LegalBasis == "" && c.Sentence == "" && c.Case == "" {
		return fmt.Errorf("the correction changes nothing, the rule is at least one of person, purpose, legal basis, sentence and case")
	}
	for _, f := range []struct {
		name, text string
		least, max int
	}{
		{"reason", c.Reason, 1, maxReason}, {"sentence", c.Sentence, 0, maxSentence}, {"purpose", c.Purpose, 0, maxSentence},
		{"legal basis", c.LegalBasis, 0, maxSentence}, {"case", c.Case, 0, maxCase}, {"person", c.Subject, 0, maxSubject},
	} {
		if n := utf8.RuneCountInString(f.text); n < f.least || n > f.max || len(f.text) > 4*f.max || !utf8.ValidString(f.text) || strings.TrimSpace(f.text) != f.text {
			return fmt.Errorf("%s has %d characters, the rule is %d to %d of UTF-8 without blanks around", f.name, n, f.least, f.max)
		}
	}
	return nil
}

// Correct makes the usage record that supersedes another one, and the evidence record
// that holds the commitment to it: it is of no exchange, but a statement of the body. The
// superseded record stays, and a person is shown that it was corrected. Only the newest
// of a chain is corrected.
func (s *Store) Correct(old Found, c Change) (*evidencepb.Record, []byte, error) {
	// 1. What it says.
	if err := c.check(); err != nil {
		return nil, nil, err
	}
	newer, ok, err := s.SupersededBy(old.Leaf)
	switch {
	case err != nil:
		return nil, nil, err
	case ok:
		return nil, nil, fmt.Errorf("record %d was corrected by record %d: correct that one", old.Leaf, newer)
	}
	r := proto.CloneOf(old.Record)
	r.Supersedes, r.Reason = old.Leaf+1, c.Reason
	if c.Subject != "" {
		tag := s.cfg.Keeper.Tag(c.Subject)
		r.Subject = tag[:]
	}
	for _, f := range []struct {
		to   *string
		text string
	}{{&r.Purpose, c.Purpose}, {&r.LegalBasis, c.LegalBasis}, {&r.Sentence, c.Sentence}, {&r.CaseReference, c.Case}} {
		if f.text != "" {
			*f.to = f.text
		}
	}
	beside, commitment, err := seal(r)
	if err != nil {
		return nil, nil, err
	}
	// 2. What the log holds of it.
	var id [16]byte
	rand.Read(id[:])
	now := s.cfg.Clock().UnixNano()
	return &evidencepb.Record{
		Version: 3, Side: evidencepb.Side_SIDE_PROVIDER, ExchangeId: "correction-" + hex.EncodeToString(id[:]),
		Client: r.Client, Service: r.Service, RightId: r.RightId, Usage: commitment[:],
		Correction: &evidencepb.Correction{Leaf: old.Leaf}, StartedUnixNano: now, FinishedUnixNano: now,
	}, beside, nil
}

// SupersededBy returns the record that corrects another one.
func (s *Store) SupersededBy(leaf uint64) (newer uint64, ok bool, err error) {
	n, err := s.number(key('s', leaf))
	return n - 1, err == nil && n > 0, err
}

// Chain returns the leaves of a record with all that it corrects and that correct it, the
// oldest first. They are erased together.
func (s *Store) Chain(f Found) (out []uint64, err error) {
	for at := f; ; {
		out = append([]uint64{at.Leaf}, out...)
		if at.Record.Supersedes == 0 {
			break
		}
		older, ok, err := s.byLeaf(at.Record.Supersedes - 1)
		if err != nil {
			return nil, err
		}
		if !ok {
			break // gone already
		}
		at = older
	}
	for at := f.Leaf; ; {
		newer, ok, err := s.SupersededBy(at)
		if err != nil || !ok {
			return out, err
		}
		out, at = append(out, newer), newer
	}
}

// seal gives a record a salt and computes its commitment.
func seal(r *usagepb.Record) (beside []byte, c Commitment, err error) {
	var salt [saltSize]byte
	rand.Read(salt[:])
	beside, err = proto.MarshalOptions{Deterministic: true}.MarshalAppend(append(make([]byte, 0, 512), salt[:]...), r)
	if err != nil {
		return nil, c, fmt.Errorf("usage record: %w", err)
	}
	return beside, Commit(salt, beside[saltSize:]), nil
}
