package keys

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// maxFile bounds what is read from a key directory. The largest legitimate file
// is a certificate of about 1 KiB.
const maxFile = 64 << 10

// nameTime is the time in a key file's name. It has a fixed width, so that
// names sort by age.
const nameTime = "20060102T150405.000000000Z"

// FileName returns the name under which a key made at created is kept.
func (k *Key) FileName(created time.Time) string {
	return k.purpose.String() + "-" + created.UTC().Format(nameTime) + "-" + hex.EncodeToString(k.public.ID[:8]) + ".pem"
}

// Write creates the key file at path, mode 0600. It never overwrites: an
// existing file is an error that matches fs.ErrExist. A crash leaves either no
// file or the whole one.
func (k *Key) Write(path string) error {
	der, err := k.pkcs8()
	if err != nil {
		return fmt.Errorf("write %s key: %w", k.purpose, err)
	}
	defer clear(der)
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(block)
	// RFC 7468 allows explanatory text before the block; tools skip it.
	text := []byte(fmt.Sprintf("Civibus %s private key, secret.\nKey id: %s\n", k.purpose, k.public.ID))
	return create(path, append(text, block...), 0o600)
}

// Open reads the key file at path. The purpose is the file name's part before
// the first hyphen. A file that others than its owner may read is refused.
func Open(path string) (*Key, error) {
	purpose, err := purposeOf(path)
	if err != nil {
		return nil, err
	}
	raw, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer clear(raw)
	k, err := parse(purpose, raw)
	if err != nil {
		return nil, fmt.Errorf("open key file %s: %w", path, err)
	}
	return k, nil
}

func purposeOf(path string) (civibus.Purpose, error) {
	name, _, ok := strings.Cut(filepath.Base(path), "-")
	if ok {
		if purpose, err := civibus.ParsePurpose(name); err == nil {
			return purpose, nil
		}
	}
	return 0, fmt.Errorf("key file %s: the rule for its name is PURPOSE-ANYTHING.pem, where PURPOSE is seal, log, transport, validator, admin or witness; rename it", path)
}

// parse reads one PKCS#8 PEM block. No error of it quotes the content.
func parse(purpose civibus.Purpose, raw []byte) (*Key, error) {
	block, rest := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("it holds no PEM block, the rule is one \"PRIVATE KEY\" block (PKCS#8)")
	}
	defer clear(block.Bytes)
	switch block.Type {
	case "PRIVATE KEY":
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the key is encrypted and there is nobody to ask for its password; decrypt it with \"openssl pkcs8\" and protect the file by its mode")
	default:
		return nil, fmt.Errorf("PEM block %q, the rule is \"PRIVATE KEY\" (PKCS#8); convert it with \"openssl pkcs8 -topk8 -nocrypt\"", printable(block.Type))
	}
	if second, _ := pem.Decode(rest); second != nil {
		return nil, errors.New("it holds more than one PEM block, the rule is one key in a file")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
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

// readSecret reads a file after checking, on the open file and not on its name,
// that only its owner may read it.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o, so others than its owner may use it; the rule is 0600: chmod 600 %s, and replace the key if others were on this machine", path, info.Mode().Perm(), path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes, the rule is at most %d", path, info.Size(), maxFile)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// create writes content to a new file. The link at the end is what makes it
// both atomic and never overwriting; a rename would overwrite.
func create(path string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, ".new-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer func() {
		if removeErr := os.Remove(temp); err == nil && removeErr != nil {
			err = fmt.Errorf("create %s: %w", path, removeErr)
		}
	}()
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
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := os.Link(temp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create %s: the file exists and keys are never overwritten; move it away first: %w", path, fs.ErrExist)
		}
		return fmt.Errorf("create %s: %w", path, err)
	}
	return syncDir(dir)
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
