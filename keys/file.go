package keys

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/keys/pkcs8"
	"github.com/civibus/civibus/keys/secret"
)

// maxFile bounds what is read from a key directory. The largest legitimate file
// is a certificate chain of some KiB.
const maxFile = 64 << 10

// nameTime is the time in a key file's name. It has a fixed width, so that
// names sort by age.
const nameTime = "20060102T150405.000000000Z"

// The endings of file names.
const (
	keyEnding         = ".pem"
	referenceEnding   = ".pkcs11"
	certificateEnding = ".crt"
)

// ErrEncrypted says that a key file is encrypted and no passphrase is given.
var ErrEncrypted = errors.New("the key is encrypted and no passphrase is given; configure where the passphrase is: file:PATH, fd:NUMBER or credential:NAME")

// FileName returns the name under which a key made at created is kept.
func (k *Key) FileName(created time.Time) string { return k.stem(created) + keyEnding }

func (k *Key) stem(created time.Time) string {
	return PurposeName(k.purpose) + "-" + created.UTC().Format(nameTime) + "-" + hex.EncodeToString(k.public.ID[:8])
}

// Write creates the key file at path, mode 0600, not encrypted. It never
// overwrites: an existing file is an error that matches fs.ErrExist. A crash
// leaves either no file or the whole one.
func (k *Key) Write(path string) error { return k.WriteEncrypted(path, nil) }

// WriteEncrypted is Write with the key encrypted; nil does not encrypt.
func (k *Key) WriteEncrypted(path string, p *Passphrase) error {
	text, err := k.text(p)
	if err != nil {
		return fmt.Errorf("write %s key: %w", PurposeName(k.purpose), err)
	}
	defer clear(text)
	return create(path, text, 0o600)
}

// text returns the content of the key's file.
func (k *Key) text(p *Passphrase) ([]byte, error) {
	der, err := k.pkcs8()
	if err != nil {
		return nil, err
	}
	defer clear(der)
	block, kind := &pem.Block{Type: "PRIVATE KEY", Bytes: der}, "secret"
	if p != nil {
		sealed, err := p.box().Encrypt(der)
		if err != nil {
			return nil, err
		}
		block, kind = &pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: sealed}, "encrypted"
	}
	encoded := pem.EncodeToMemory(block)
	defer clear(encoded)
	// RFC 7468 allows explanatory text before the block; tools skip it.
	return append([]byte(fmt.Sprintf("Civibus %s private key, %s.\nKey id: %s\n", PurposeName(k.purpose), kind, k.public.ID)), encoded...), nil
}

// Open reads the key file at path, which is not encrypted. The purpose is the
// file name's part before the first hyphen. A file that others than its owner
// may read is refused.
func Open(path string) (*Key, error) { return OpenEncrypted(path, nil) }

// OpenEncrypted reads the key file at path, which may be encrypted with p. The
// error matches ErrPassphrase if p does not open it and ErrEncrypted if p is nil.
func OpenEncrypted(path string, p *Passphrase) (*Key, error) {
	k, _, err := openFile(path, p)
	return k, err
}

// openFile tells also how the file is protected.
func openFile(path string, p *Passphrase) (*Key, protection, error) {
	purpose, err := purposeOf(path)
	if err != nil {
		return nil, protection{}, err
	}
	raw, err := readKeyFile(path)
	if err != nil {
		return nil, protection{}, fmt.Errorf("open key file: %w", err)
	}
	defer clear(raw)
	k, how, err := parse(purpose, raw, p)
	if err == nil {
		err = checkName(path, k.public.ID)
	}
	if err != nil {
		return nil, how, fmt.Errorf("open key file %s: %w", path, err)
	}
	return k, how, nil
}

// readKeyFile reads a key file, in its new form if a change of the passphrase
// was made and not carried through.
func readKeyFile(path string) ([]byte, error) {
	raw, err := secret.ReadFile(filepath.Join(filepath.Dir(path), changed, filepath.Base(path)), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = secret.ReadFile(path, maxFile)
	}
	return raw, err
}

func purposeOf(path string) (civibus.Purpose, error) {
	name, _, ok := strings.Cut(filepath.Base(path), "-")
	if ok {
		if purpose, ok := parsePurpose(name); ok {
			return purpose, nil
		}
	}
	return 0, fmt.Errorf("key file %s: the rule for its name is PURPOSE-ANYTHING%s, where PURPOSE is seal, log, transport, validator, admin, witness or node; rename it", path, filepath.Ext(path))
}

// ownName is the form of FileName, with the beginning of the key's id.
var ownName = regexp.MustCompile(`^[a-z]+-\d{8}T\d{6}\.\d{9}Z-([0-9a-f]{16})\.[a-z0-9]+$`)

// checkName holds a name that was made here against the key. An encrypted file
// that was altered gives another key.
func checkName(path string, id civibus.KeyID) error {
	m := ownName.FindStringSubmatch(filepath.Base(path))
	if m != nil && m[1] != hex.EncodeToString(id[:8]) {
		return fmt.Errorf("it holds key %s, and by its name another one: it was damaged or exchanged", id)
	}
	return nil
}

// protection says how a key is kept from who reads the directory.
type protection struct {
	custody Custody
	weak    string // why the encryption is easier to break than it should be
}

// parse reads one PKCS#8 PEM block. No error of it quotes the content.
func parse(purpose civibus.Purpose, raw []byte, p *Passphrase) (*Key, protection, error) {
	block, rest := pem.Decode(raw)
	if block == nil {
		return nil, protection{}, errors.New("it holds no PEM block, the rule is one \"PRIVATE KEY\" block (PKCS#8)")
	}
	defer clear(block.Bytes)
	if second, _ := pem.Decode(rest); second != nil {
		return nil, protection{}, errors.New("it holds more than one PEM block, the rule is one key in a file")
	}
	switch block.Type {
	case "PRIVATE KEY":
		k, err := parsePKCS8(purpose, block.Bytes)
		return k, protection{custody: PlainFile}, err
	case "ENCRYPTED PRIVATE KEY":
		how := protection{custody: EncryptedFile, weak: pkcs8.Weak(block.Bytes)}
		if p == nil {
			return nil, how, ErrEncrypted
		}
		der, err := p.box().Decrypt(block.Bytes)
		if err != nil {
			return nil, how, fmt.Errorf("%s: %w", p, err)
		}
		defer clear(der)
		k, err := parsePKCS8(purpose, der)
		return k, how, err
	}
	return nil, protection{}, fmt.Errorf("PEM block %q, the rule is \"PRIVATE KEY\" or \"ENCRYPTED PRIVATE KEY\" (PKCS#8); convert it with \"openssl pkcs8 -topk8 -scrypt\"", printable(block.Type))
}

func parsePKCS8(purpose civibus.Purpose, der []byte) (*Key, error) {
	second, err := mldsa.ParsePKCS8(der)
	if err == nil {
		return newKey(purpose, second)
	}
	if !errors.Is(err, mldsa.ErrNotMLDSA) {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The parser's own error is left out on purpose: it may describe the content.
		return nil, errors.New("the PEM block is not a PKCS#8 private key that can be read")
	}
	return newKey(purpose, private)
}

func printable(s string) string {
	if len(s) > 40 {
		s = s[:40]
	}
	return s
}

// create writes content to a new file. The link at the end is what makes it
// both atomic and never overwriting; a rename would overwrite.
func create(path string, content []byte, mode fs.FileMode) (err error) {
	temp, err := writeTemporary(filepath.Dir(path), content, mode)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer func() {
		if removeErr := os.Remove(temp); err == nil && removeErr != nil {
			err = fmt.Errorf("create %s: %w", path, removeErr)
		}
	}()
	if err := os.Link(temp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create %s: the file exists and keys are never overwritten; move it away first: %w", path, fs.ErrExist)
		}
		return fmt.Errorf("create %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// replace writes content to a file that may exist. A crash leaves the old or the
// new one, whole.
func replace(path string, content []byte, mode fs.FileMode) error {
	temp, err := writeTemporary(filepath.Dir(path), content, mode)
	if err == nil {
		if err = os.Rename(temp, path); err != nil {
			_ = os.Remove(temp)
		}
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// writeTemporary writes a durable file with a name that no reader looks at.
func writeTemporary(dir string, content []byte, mode fs.FileMode) (path string, err error) {
	path = filepath.Join(dir, ".new-"+rand.Text())
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(path)
		return "", err
	}
	return path, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
