package usage

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/usage/usagepb"
)

const (
	saltSize      = 32
	commitmentTag = "civibus usage v1\n"
	maxCase       = 255 // bytes of a case reference
	maxSubject    = 256 // bytes of a person's identifier
)

// Commitment is what the evidence log and the anchored periods hold of a record.
type Commitment [sha256.Size]byte

// Tag stands for a person in the store: HMAC-SHA-256 of her identifier under the body's key.
type Tag [sha256.Size]byte

// Commit computes the commitment to a record's bytes.
func Commit(salt [saltSize]byte, record []byte) (c Commitment) {
	h := sha256.New()
	h.Write([]byte(commitmentTag))
	h.Write(salt[:])
	h.Write(record)
	h.Sum(c[:0])
	return c
}

// Use is what the gateway knows of an exchange that concerns a person.
type Use struct {
	Exchange string
	Right    *civibus.AccessRight
	Client   string
	Service  string
	Case     string
	Subject  string
	Time     time.Time
}

// Keeper makes records, by the body's key and its rules of whom its services concern.
type Keeper struct {
	key   [32]byte
	rules map[string]Rule
}

// NewKeeper makes a keeper with the key in a file, which is made (0600) when it is
// missing. The gateways of one body need the same key for one person to be found in all.
func NewKeeper(keyFile string, rules map[civibus.ServiceID]Rule) (*Keeper, error) {
	k := &Keeper{rules: make(map[string]Rule, len(rules))}
	for id, r := range rules {
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("usage rule of %s: %w", id, err)
		}
		k.rules[id.String()] = r
	}
	raw, err := os.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		rand.Read(k.key[:])
		return k, writeKey(keyFile, k.key[:])
	}
	if err != nil {
		return nil, fmt.Errorf("usage key: %w", err)
	}
	info, err := os.Stat(keyFile)
	switch {
	case err != nil:
		return nil, fmt.Errorf("usage key: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("usage key %s: others may read it (mode %04o); chmod 600 it", keyFile, info.Mode().Perm())
	case len(raw) != len(k.key):
		return nil, fmt.Errorf("usage key %s: it has %d bytes, the rule is %d; restore it, for without it nobody's records are found", keyFile, len(raw), len(k.key))
	}
	copy(k.key[:], raw)
	return k, nil
}

// writeKey writes a key whole or not at all.
func writeKey(name string, key []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("usage key: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".key") // of mode 0600
	if err != nil {
		return fmt.Errorf("usage key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("usage key: %w", err)
	}
	return nil
}

// Tag is what stands for a person.
func (k *Keeper) Tag(subject string) (t Tag) {
	m := hmac.New(sha256.New, k.key[:])
	m.Write([]byte(subject))
	m.Sum(t[:0])
	return t
}

// Make makes the record of a use: what is kept beside the evidence record, and the
// commitment that the evidence record holds.
func (k *Keeper) Make(u *Use) (beside []byte, c Commitment, err error) {
	tag := k.Tag(u.Subject)
	r := usagepb.Record{
		Version: 1, ExchangeId: u.Exchange, RightId: u.Right.ID, Client: u.Client, Service: u.Service,
		Purpose: u.Right.Purpose, LegalBasis: u.Right.LegalBasis, Sentence: u.Right.Sentence, Disclosure: uint32(u.Right.Disclosure),
		CaseReference: clip(u.Case), TimeUnixNano: u.Time.UnixNano(), Subject: tag[:],
	}
	if !u.Right.DisclosedFrom.IsZero() {
		r.DisclosedFrom = u.Right.DisclosedFrom.Unix()
	}
	return seal(&r)
}

// clip makes a case reference, which another body chose, what a record can hold.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	for len(s) > maxCase {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// open reads what Make made.
func open(beside []byte) (salt [saltSize]byte, r *usagepb.Record, err error) {
	if len(beside) < saltSize {
		return salt, nil, errors.New("usage record: it has no salt")
	}
	salt, r = [saltSize]byte(beside), new(usagepb.Record)
	if err := proto.Unmarshal(beside[saltSize:], r); err != nil {
		return salt, nil, fmt.Errorf("usage record: %w", err)
	}
	if r.Version != 1 || len(r.Subject) != len(Tag{}) {
		return salt, nil, fmt.Errorf("usage record: version %d with a subject of %d bytes, the rule is 1 and %d", r.Version, len(r.Subject), len(Tag{}))
	}
	return salt, r, nil
}
