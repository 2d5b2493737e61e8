// Package secret reads passphrases and PINs from where an operator or a service
// manager puts them: a file that only its owner may read, a file descriptor that
// the process inherits, or a systemd credential. Never from the command line or
// the environment, which other processes, shells' histories and crash reports see.
//
// Trust: whoever can read the place that is named, and the system's superuser.
// Nothing here writes a secret to a log, an error, a String or JSON.
package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// maxText is the longest passphrase that OpenSSL reads from a file, in bytes.
const maxText = 1023

// credentialsVariable is where systemd says the folder of credentials is.
const credentialsVariable = "CREDENTIALS_DIRECTORY"

// Source says where a secret is: "file:PATH", "fd:NUMBER" or "credential:NAME".
// The zero Source is none.
type Source struct {
	kind, name string
	used       *atomic.Bool // a descriptor is read once, then its number may mean another file
}

// ParseSource reads a source. It never quotes what it does not understand: that
// may be the secret itself.
func ParseSource(text string) (Source, error) {
	kind, name, _ := strings.Cut(text, ":")
	switch kind {
	case "file":
		if name == "" {
			return Source{}, errors.New("secret source \"file:\": the rule is file:PATH")
		}
		return Source{kind: kind, name: name}, nil
	case "credential":
		if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
			return Source{}, errors.New("secret source \"credential:\": the rule is credential:NAME, where NAME is that of LoadCredential= in the systemd unit")
		}
		return Source{kind: kind, name: name}, nil
	case "fd":
		if n, err := strconv.Atoi(name); err != nil || n < 3 || n > 1<<20 {
			return Source{}, errors.New("secret source \"fd:\": the rule is fd:NUMBER, where NUMBER is 3 or more and open when the process starts")
		}
		return Source{kind: kind, name: name, used: new(atomic.Bool)}, nil
	}
	return Source{}, errors.New("secret source: the rule is file:PATH, fd:NUMBER or credential:NAME; it is not shown here, since it may be a secret: a secret itself is never written into arguments, the environment or the configuration")
}

// File is the source "file:PATH".
func File(path string) Source { return Source{kind: "file", name: path} }

// Abs returns the source with a file's path taken as relative to base.
func (s Source) Abs(base string) Source {
	if s.kind == "file" && !filepath.IsAbs(s.name) {
		s.name = filepath.Join(base, s.name)
	}
	return s
}

// IsZero reports whether s is no source.
func (s Source) IsZero() bool { return s.kind == "" }

// IsFile reports whether s is a file or a credential, which can be read again.
func (s Source) IsFile() bool { return s.kind == "file" || s.kind == "credential" }

// String returns the source as it is configured.
func (s Source) String() string {
	if s.kind == "" {
		return ""
	}
	return s.kind + ":" + s.name
}

// Stamp changes when a file's content may have. It is empty for other sources.
func (s Source) Stamp() string {
	path, err := s.path()
	if err != nil || !s.IsFile() {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return "missing"
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano())
}

// Read reads the secret: one line, of which a line feed at the end is not part.
func (s Source) Read() (*Text, error) {
	raw, err := s.raw()
	if err != nil {
		return nil, fmt.Errorf("read secret from %s: %w", s, err)
	}
	defer clear(raw)
	line := bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("read secret from %s: it is empty", s)
	case len(line) > maxText:
		return nil, fmt.Errorf("read secret from %s: it has more than %d bytes", s, maxText)
	case bytes.ContainsAny(line, "\n\r\x00"):
		return nil, fmt.Errorf("read secret from %s: the rule is one line of text", s)
	}
	return NewText(line), nil
}

func (s Source) raw() ([]byte, error) {
	if s.kind == "fd" {
		return s.inherited()
	}
	path, err := s.path()
	if err != nil {
		return nil, err
	}
	if s.kind == "credential" {
		return read(path, ownerOrGroup)
	}
	return ReadFile(path, maxText+3)
}

func (s Source) path() (string, error) {
	switch s.kind {
	case "file":
		return s.name, nil
	case "credential":
		dir := os.Getenv(credentialsVariable)
		if dir == "" {
			return "", fmt.Errorf("%s is not set, so systemd gave this process no credentials; the rule is LoadCredential=%s:PATH or LoadCredentialEncrypted= in its unit", credentialsVariable, s.name)
		}
		return filepath.Join(dir, s.name), nil
	case "fd":
		return "", nil
	}
	return "", errors.New("no source is given")
}

// inherited reads a descriptor to its end and closes it.
func (s Source) inherited() ([]byte, error) {
	if s.used.Swap(true) {
		return nil, errors.New("a descriptor can be read once and was")
	}
	number, err := strconv.Atoi(s.name)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(number), s.String())
	if f == nil {
		return nil, errors.New("the descriptor is not open")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the descriptor is not open: %w", errors.Unwrap(err))
	}
	// A file that has no name any more, such as a memory file, is out of others' reach.
	if st, ok := info.Sys().(*syscall.Stat_t); info.Mode().IsRegular() && ok && st.Nlink > 0 {
		if err := onlyOwner(s.String(), info); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, maxText+3))
}

// ReadFile reads a file of at most limit bytes after checking, on the open file
// and not on its name, that only its owner may use it.
func ReadFile(path string, limit int64) ([]byte, error) {
	return read(path, func(name string, info fs.FileInfo) error {
		if info.Size() > limit {
			return fmt.Errorf("%s has %d bytes, the rule is at most %d", name, info.Size(), limit)
		}
		return onlyOwner(name, info)
	})
}

func read(path string, check func(name string, info fs.FileInfo) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := check(path, info); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, info.Size()))
}

func onlyOwner(name string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, so others than its owner may use it; the rule is 0600: chmod 600 %s, and replace what it holds if others were on this machine", name, mode, name)
	}
	return nil
}

// ownerOrGroup is the check of systemd's credentials: for a service with a user
// of its own systemd grants by an access control list, which shows as the bits of
// the group.
func ownerOrGroup(name string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return fmt.Errorf("%s has mode %04o, the rule for a credential is 0400 or 0440", name, mode)
	}
	if info.Size() > maxText+3 {
		return fmt.Errorf("%s has %d bytes, the rule is at most %d", name, info.Size(), maxText)
	}
	return nil
}

// Text is a secret text. It is held in a closure, so that no way of printing a
// Text can show it. Erasing it from memory is not promised: Go may have copied it.
type Text struct{ reveal func() []byte }

// NewText keeps a copy of text.
func NewText(text []byte) *Text {
	held := slices.Clone(text)
	return &Text{reveal: func() []byte { return held }}
}

// Use hands the text to f, which must neither keep nor change it.
func (t *Text) Use(f func(text []byte)) { f(t.reveal()) }

// Len returns the text's length in bytes.
func (t *Text) Len() int { return len(t.reveal()) }

// Equal reports whether two texts are the same.
func (t *Text) Equal(other *Text) bool {
	return other != nil && bytes.Equal(t.reveal(), other.reveal())
}

// String says that this is a secret.
func (t *Text) String() string { return "(secret)" }

// GoString is String.
func (t *Text) GoString() string { return t.String() }

// LogValue is what slog shows.
func (t *Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText is String, for JSON.
func (t *Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
