// Package archive keeps message bodies encrypted, each under its own random key
// that the archive key wraps, and around that a key that can be destroyed. Bodies stream through in chunks, so that memory
// does not grow with them; names are random and say nothing about the exchange
// but the day.
//
// Trust: an attacker who reads the archive without the archive key learns sizes
// and times. One who changes it can at most make a body unreadable: chunks are
// authenticated in their order, with the end marked, under a key that is bound
// to the file's name. Whoever holds the archive key reads every body.
package archive

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus/internal/shred"
)

// The file format; spec/evidence.md section 6 is normative. Bodies of before the key was
// wrapped twice begin with magic1.
const (
	magic      = "civibus-body/v2\n"
	magic1     = "civibus-body/v1\n"
	keySize    = 32
	nonceSize  = 12
	tagSize    = 16
	chunkSize  = 64 << 10
	wrapSize   = nonceSize + keySize + tagSize
	headerSize = len(magic) + shred.Overhead + wrapSize
	keyMark    = 3 // of a wrapped key under a key that can be destroyed
	dayFormat  = "20060102"
	suffix     = ".body"
)

// ErrDamaged says that an archived body is not what was written.
var ErrDamaged = errors.New("the archived body is damaged")

// Archive is a directory of bodies.
type Archive struct {
	dir  string
	key  cipher.AEAD
	keys *shred.Keys // nil: they are not there
}

// Open opens or makes the archive in dir under the key in keyFile, which is
// made when both it and the archive are new. keys are those that can be destroyed.
func Open(dir, keyFile string, keys *shred.Keys) (*Archive, error) {
	key, err := readKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		var used bool
		if used, err = hasBodies(dir); err != nil {
			return nil, err
		}
		if used {
			return nil, fmt.Errorf("archive key %s is missing, but %s holds bodies that it wraps: restore the key", keyFile, dir)
		}
		key, err = makeKey(keyFile)
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	return open(dir, key, keys)
}

// OpenReader opens an archive for reading; nothing is made. Without keys, only bodies of
// before they were wrapped twice are readable.
func OpenReader(dir, keyFile string, keys *shred.Keys) (*Archive, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	return open(dir, key, keys)
}

func open(dir string, key []byte, keys *shred.Keys) (*Archive, error) {
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return &Archive{dir: dir, key: aead, keys: keys}, nil
}

func hasBodies(dir string) (bool, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"+suffix))
	if err != nil {
		return false, fmt.Errorf("open archive: %w", err)
	}
	return len(names) > 0, nil
}

// maxKeyFile bounds what is read of a key file.
const maxKeyFile = 1 << 10

// readKey reads a key file: one line, base64 of 32 bytes. One that others than
// its owner may use is refused: it opens every body.
func readKey(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("archive key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("archive key: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("archive key %s is not a regular file", name)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("archive key %s has mode %04o, so others than its owner may use it; the rule is 0600: chmod 600 %s", name, info.Mode().Perm(), name)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("archive key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("archive key %s: the rule is one line with base64 of %d bytes", name, keySize)
	}
	return key, nil
}

func makeKey(name string) ([]byte, error) {
	key := make([]byte, keySize)
	rand.Read(key)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("make archive key: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make archive key: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("make archive key: %w", err)
	}
	return key, syncDir(filepath.Dir(name))
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("archive key: %w", err)
	}
	return cipher.NewGCM(block)
}

// fileOf returns the file of a name, which must be one that Create gives.
func fileOf(dir, name string) (string, error) {
	day, id, ok := strings.Cut(name, "/")
	if _, err := time.Parse(dayFormat, day); !ok || err != nil {
		return "", fmt.Errorf("archive name %q: the rule is a day, a slash and 32 hex digits", name)
	}
	if b, err := hex.DecodeString(id); err != nil || len(b) != 16 || strings.ToLower(id) != id {
		return "", fmt.Errorf("archive name %q: the rule is a day, a slash and 32 hex digits", name)
	}
	return filepath.Join(dir, day, id+suffix), nil
}

// Writer takes one body.
type Writer struct {
	name string
	path string
	file *os.File
	body *stream
	sum  hash.Hash
	size int64
	err  error
}

// Create begins a body. Nothing is visible under its name before Commit.
func (a *Archive) Create(now time.Time) (*Writer, error) {
	var id [16]byte
	rand.Read(id[:])
	w := &Writer{name: now.UTC().Format(dayFormat) + "/" + hex.EncodeToString(id[:]), sum: sha256.New()}
	var err error
	if w.path, err = fileOf(a.dir, w.name); err != nil {
		return nil, err
	}
	if err := makeDay(a.dir, filepath.Dir(w.path)); err != nil {
		return nil, fmt.Errorf("archive body: %w", err)
	}
	key, wrapped := make([]byte, keySize), make([]byte, nonceSize, wrapSize)
	rand.Read(key)
	rand.Read(wrapped)
	wrapped = a.key.Seal(wrapped, wrapped, key, []byte(magic+w.name))
	header := append(make([]byte, 0, headerSize), magic...)
	header = a.keys.Seal(header[:len(magic)+shred.HeadSize], wrapped, keyMark)
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	w.body = newStream(aead)
	if w.file, err = os.OpenFile(w.path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, fmt.Errorf("archive body: %w", err)
	}
	if _, err := w.file.Write(header); err != nil {
		w.Abort()
		return nil, fmt.Errorf("archive body: %w", err)
	}
	return w, nil
}

// makeDay makes the directory of a day durable.
func makeDay(dir, day string) error {
	if _, err := os.Stat(day); err == nil {
		return nil
	}
	if err := os.Mkdir(day, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// Write adds to the body.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.sum.Write(p)
	w.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		var chunk []byte
		chunk, rest = w.body.take(rest)
		if chunk == nil {
			continue
		}
		if _, err := w.file.Write(chunk); err != nil {
			w.err = fmt.Errorf("archive body: %w", err)
			return 0, w.err
		}
	}
	return len(p), nil
}

// Commit makes the body durable under its name.
func (w *Writer) Commit() (name string, size int64, digest [32]byte, err error) {
	if w.err == nil {
		_, w.err = w.file.Write(w.body.last())
	}
	if w.err == nil {
		w.err = w.file.Sync()
	}
	if w.err != nil {
		err = fmt.Errorf("archive body: %w", w.err)
		w.Abort()
		return "", 0, digest, err
	}
	w.err = errors.New("archive body: it is complete")
	err = errors.Join(w.file.Close(), os.Rename(w.path+".tmp", w.path), syncDir(filepath.Dir(w.path)))
	if err != nil {
		os.Remove(w.path + ".tmp")
		return "", 0, digest, fmt.Errorf("archive body: %w", err)
	}
	return w.name, w.size, [32]byte(w.sum.Sum(nil)), nil
}

// Abort drops the body.
func (w *Writer) Abort() {
	w.err = errors.New("archive body: it was dropped")
	w.file.Close()
	os.Remove(w.path + ".tmp")
}

// Read opens a body. The reader fails with ErrDamaged where the body is not
// what was written, at the latest instead of io.EOF.
func (a *Archive) Read(name string) (io.ReadCloser, error) {
	path, err := fileOf(a.dir, name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("archived body %s: %w", name, err)
	}
	r, err := a.newReader(f, name)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, f}, nil
}

// newReader reads the header of a body and returns a reader of its content.
func (a *Archive) newReader(f io.Reader, name string) (io.Reader, error) {
	version, wrapped, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	if version == magic {
		if a.keys == nil {
			return nil, errors.New("the erasure keys are not there: put their newest copy beside the log")
		}
		wrapped, err = a.keys.Open(wrapped, keyMark)
		if errors.Is(err, shred.ErrDestroyed) {
			return nil, fmt.Errorf("the archived body: %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: its key does not open with the erasure keys", ErrDamaged)
		}
	}
	if len(wrapped) != wrapSize {
		return nil, fmt.Errorf("%w: its wrapped key has %d bytes, the rule is %d", ErrDamaged, len(wrapped), wrapSize)
	}
	key, err := a.key.Open(nil, wrapped[:nonceSize], wrapped[nonceSize:], []byte(version+name))
	if err != nil {
		return nil, fmt.Errorf("%w: its key does not open with the archive key", ErrDamaged)
	}
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return newStreamReader(aead, f), nil
}

// readHeader reads a body's header: its version, and the key that is wrapped.
func readHeader(f io.Reader) (version string, wrapped []byte, err error) {
	header := make([]byte, headerSize)
	n, err := io.ReadFull(f, header[:len(magic)+wrapSize])
	if err != nil {
		return "", nil, fmt.Errorf("%w: its header is cut off", ErrDamaged)
	}
	switch version = string(header[:len(magic)]); version {
	case magic1:
		return version, header[len(magic):n], nil
	case magic:
		if _, err := io.ReadFull(f, header[n:]); err != nil {
			return "", nil, fmt.Errorf("%w: its header is cut off", ErrDamaged)
		}
		return version, header[len(magic):], nil
	}
	return "", nil, fmt.Errorf("%w: it does not begin with %q", ErrDamaged, magic)
}

// Number returns the number of the key that can be destroyed of a body in dir; of one of
// before bodies had one, sealed is false.
func Number(dir, name string) (n uint64, sealed bool, err error) {
	path, err := fileOf(dir, name)
	if err != nil {
		return 0, false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, false, fmt.Errorf("archived body %s: %w", name, err)
	}
	defer f.Close()
	version, wrapped, err := readHeader(f)
	if err != nil || version != magic {
		return 0, false, err
	}
	n, err = shred.Number(wrapped)
	return n, err == nil, err
}

// Remove deletes a body in dir, wrapped key first; one that is gone is well.
func Remove(dir, name string) error {
	path, err := fileOf(dir, name)
	if err != nil {
		return err
	}
	if err := shredKey(path); err != nil {
		if IsMissing(err) {
			return nil
		}
		return fmt.Errorf("delete archived body %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("delete archived body %s: %w", name, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a directory's entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
