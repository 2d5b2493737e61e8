package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/civibus/civibus/keys/secret"
)

// ErrWrongKey says that a backup does not open with what was given.
var ErrWrongKey = errors.New("it does not open with this identity or passphrase")

// Recipients are for whom a backup is encrypted: age recipients (age1...), those
// listed in files, one a line, or a passphrase, which excludes the others.
func Recipients(texts, files []string, passphrase secret.Source) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, t := range texts {
		if strings.HasPrefix(strings.ToUpper(t), "AGE-SECRET-KEY-") {
			return nil, errors.New("recipient: an identity was given, which is secret, where the rule is a recipient, age1...; make a new identity, since others may have seen this one")
		}
		r, err := age.ParseRecipients(strings.NewReader(t))
		if err != nil {
			return nil, fmt.Errorf("recipient %q: the rule is that of age-keygen, age1...: %w", t, err)
		}
		out = append(out, r...)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
		r, err := age.ParseRecipients(f)
		f.Close() // it was only read
		if err != nil {
			return nil, fmt.Errorf("recipients %s: %w", name, err)
		}
		out = append(out, r...)
	}
	if passphrase.IsZero() {
		if len(out) == 0 {
			return nil, errors.New("a backup is always encrypted: name a recipient or a passphrase's source")
		}
		return out, nil
	}
	if len(out) > 0 {
		return nil, errors.New("a backup is encrypted for recipients or with a passphrase, not both")
	}
	text, err := passphrase.Read()
	if err != nil {
		return nil, fmt.Errorf("passphrase of the backup: %w", err)
	}
	var r *age.ScryptRecipient
	text.Use(func(b []byte) { r, err = age.NewScryptRecipient(string(b)) })
	if err != nil {
		return nil, fmt.Errorf("passphrase of the backup: %w", err)
	}
	return []age.Recipient{r}, nil
}

// Identities are what opens a backup: the identities in files that only their owner
// may read, or a passphrase.
func Identities(files []string, passphrase secret.Source) ([]age.Identity, error) {
	var out []age.Identity
	for _, name := range files {
		b, err := secret.ReadFile(name, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		ids, err := age.ParseIdentities(strings.NewReader(string(b)))
		clear(b)
		if err != nil { // age's message may quote the line, which is secret
			return nil, fmt.Errorf("identity %s: the rule is lines AGE-SECRET-KEY-... as age-keygen makes them", name)
		}
		out = append(out, ids...)
	}
	if !passphrase.IsZero() {
		text, err := passphrase.Read()
		if err != nil {
			return nil, fmt.Errorf("passphrase of the backup: %w", err)
		}
		var id *age.ScryptIdentity
		text.Use(func(b []byte) { id, err = age.NewScryptIdentity(string(b)) })
		if err != nil {
			return nil, fmt.Errorf("passphrase of the backup: %w", err)
		}
		out = append(out, id)
	}
	if len(out) == 0 {
		return nil, errors.New("name the identity's file or the passphrase's source that opens the backup")
	}
	return out, nil
}

// Encrypt begins an age file; close the writer at the end.
func Encrypt(w io.Writer, recipients []age.Recipient) (io.WriteCloser, error) {
	return age.Encrypt(w, recipients...)
}

// Decrypt opens an age file.
func Decrypt(r io.Reader, identities []age.Identity) (io.Reader, error) {
	begin := make([]byte, len(intro))
	n, err := io.ReadFull(r, begin)
	if err != nil || string(begin) != intro {
		return nil, fmt.Errorf("%w: it does not begin as an age file", ErrForeign)
	}
	out, err := age.Decrypt(io.MultiReader(strings.NewReader(string(begin[:n])), r), identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrWrongKey
	}
	if err != nil {
		return nil, fmt.Errorf("its age header is damaged: %w", err)
	}
	return out, nil
}

const intro = "age-encryption.org/v1\n"
