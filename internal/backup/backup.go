// Package backup is the form of a body's backup: an age file (age-encryption.org/v1)
// that holds a tar archive, whose last file is a manifest with the SHA-256 of every
// other. Databases are in it as sequences of keys and values, so that a backup does
// not depend on how a database lays out its files. docs/operate/backup.md describes
// it for who wants to open one with other tools.
//
// Trust: who can open a backup sees everything in it. Who can write to one without
// a recipient's identity can at most make it unreadable or replace it by one made by
// himself, since a recipient is public: what a restore takes over is checked
// against the signatures in the evidence and, by the ledger, against what the
// validators signed.
package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus/internal/backup/dump"
)

const (
	// Format is the name and version of the form.
	Format = "civibus-backup/v1"
	// HandOver is the kind of an archive that holds what is kept for one hosted member.
	HandOver = "hosted member"
	// ErasureKeys is the kind of an archive that holds what a body's records are sealed
	// with, one by one.
	ErasureKeys = "erasure keys"
	// ManifestFile is the last file of the archive.
	ManifestFile = "manifest.json"

	maxManifest = 256 << 20
)

// Manifest describes a backup.
type Manifest struct {
	Format   string    `json:"format"`
	Kind     string    `json:"kind,omitempty"` // empty: a body's backup
	Member   string    `json:"member"`
	ChainID  string    `json:"chain_id"`
	Software string    `json:"software"` // version of civibus that made it
	Started  time.Time `json:"started"`  // what was acknowledged before is in it
	Finished time.Time `json:"finished"`
	Running  bool      `json:"running"` // made from a running node
	Keys     bool      `json:"keys"`    // private keys are in it
	Ledger   *Ledger   `json:"ledger,omitempty"`
	Logs     []Log     `json:"logs,omitempty"`
	Files    []File    `json:"files"`
}

// Ledger says how far the ledger's stores are.
type Ledger struct {
	Height   uint64          `json:"height"`
	AppHash  string          `json:"app_hash"`
	LastSign json.RawMessage `json:"last_sign,omitempty"` // what the validator had signed last: for information, never restored
}

// Log says how far an evidence log is.
type Log struct {
	Dir    string `json:"dir"` // in the archive
	Origin string `json:"origin"`
	Size   uint64 `json:"size"` // leaves of the Merkle log
	Next   uint64 `json:"next"` // number of the next record; those below are in it
}

// File is one file of the archive.
type File struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Writer writes an archive.
type Writer struct {
	tar   *tar.Writer
	files []File
	now   time.Time
}

// NewWriter begins an archive; its files get the given time.
func NewWriter(w io.Writer, now time.Time) *Writer { return &Writer{tar: tar.NewWriter(w), now: now} }

// Put adds a file.
func (w *Writer) Put(name string, size int64, content io.Reader) error {
	fail := func(err error) error { return fmt.Errorf("back up %s: %w", name, err) }
	if err := checkName(name); err != nil {
		return fail(err)
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.now, Format: tar.FormatPAX}
	if err := w.tar.WriteHeader(header); err != nil {
		return fail(err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w.tar, sum), io.LimitReader(content, size))
	if err == nil && n != size {
		err = fmt.Errorf("it ended after %d of %d bytes", n, size)
	}
	if err != nil {
		return fail(err)
	}
	w.files = append(w.files, File{name, size, hex.EncodeToString(sum.Sum(nil))})
	return nil
}

// PutBytes adds a file that is in memory.
func (w *Writer) PutBytes(name string, content []byte) error {
	return w.Put(name, int64(len(content)), bytes.NewReader(content))
}

// Close completes the manifest, writes it and ends the archive.
func (w *Writer) Close(m *Manifest) error {
	m.Format, m.Files = Format, w.files
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if err := w.PutBytes(ManifestFile, append(b, '\n')); err != nil {
		return err
	}
	return w.tar.Close()
}

// checkName wants a relative path that stays below the folder it is put in.
func checkName(name string) error {
	if name == "" || path.Clean(name) != name || !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, `\`) {
		return fmt.Errorf("%q is not the name of a file within a backup", name)
	}
	return nil
}

// ErrForeign says that a file is not a backup of this form.
var ErrForeign = errors.New("it is not a backup of civibus (" + Format + ")")

// Extract writes the files of an archive into the folder dir, which is empty, and
// checks every one against the manifest: when it returns nil, dir holds exactly the
// files that the manifest lists, durably.
func Extract(r io.Reader, dir string) (Manifest, error) {
	var m Manifest
	t := tar.NewReader(r)
	got := map[string]File{}
	for {
		h, err := t.Next()
		if err == io.EOF {
			return m, fmt.Errorf("%w: it ends without a manifest, after %d files", ErrForeign, len(got))
		}
		if errors.Is(err, tar.ErrHeader) && len(got) == 0 {
			return m, ErrForeign
		}
		if err != nil {
			return m, fmt.Errorf("after %d files: %w", len(got), err)
		}
		if h.Typeflag != tar.TypeReg {
			return m, fmt.Errorf("%w: %q is not a regular file", ErrForeign, h.Name)
		}
		if err := checkName(h.Name); err != nil {
			return m, fmt.Errorf("%w: %w", ErrForeign, err)
		}
		if _, twice := got[h.Name]; twice {
			return m, fmt.Errorf("%w: %s is in it twice", ErrForeign, h.Name)
		}
		if h.Name == ManifestFile {
			if m, err = readManifest(t, h.Size); err != nil {
				return m, err
			}
			break
		}
		f, err := extract(t, filepath.Join(dir, filepath.FromSlash(h.Name)))
		if err != nil {
			return m, fmt.Errorf("%s: %w", h.Name, err)
		}
		f.Path = h.Name
		got[h.Name] = f
	}
	// Nothing follows, and the end is the end: an encrypted stream tells only there
	// that it is whole.
	if _, err := t.Next(); err != io.EOF {
		return m, fmt.Errorf("%w: something follows the manifest (%v)", ErrForeign, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return m, err
	}
	for _, want := range m.Files {
		f, ok := got[want.Path]
		switch {
		case !ok:
			return m, fmt.Errorf("%s is in the manifest and not in the backup", want.Path)
		case f != want:
			return m, fmt.Errorf("%s has %d bytes with SHA-256 %s, the manifest says %d bytes with %s", want.Path, f.Bytes, f.SHA256, want.Bytes, want.SHA256)
		}
		delete(got, want.Path)
	}
	for name := range got {
		return m, fmt.Errorf("%s is in the backup and not in the manifest", name)
	}
	return m, nil
}

func readManifest(r io.Reader, size int64) (Manifest, error) {
	var m Manifest
	if size > maxManifest {
		return m, fmt.Errorf("%w: its manifest has %d bytes", ErrForeign, size)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: its manifest: %w", ErrForeign, err)
	}
	if m.Format != Format {
		return m, fmt.Errorf("%w: its manifest says %q; install the version of civibus that made it", ErrForeign, m.Format)
	}
	return m, nil
}

// extract writes one file durably.
func extract(r io.Reader, file string) (File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return File{}, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return File{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	return File{Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, errors.Join(err, f.Sync(), f.Close())
}

// Each calls put with every file of an archive up to the manifest's place, which it
// returns unread: what a node sends is put into another archive.
func Each(r io.Reader, put dump.Put) (Manifest, error) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return Manifest{}, io.ErrUnexpectedEOF
		}
		if err != nil {
			return Manifest{}, err
		}
		if h.Name == ManifestFile {
			return readManifest(t, h.Size)
		}
		if err := put(h.Name, h.Size, t); err != nil {
			return Manifest{}, err
		}
	}
}
