package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The folders of a change of the passphrase, within the key directory.
const (
	changing = ".rekey-new" // files in their new form, not yet valid
	changed  = ".rekey"     // the same, valid: each is read in place of the file of its name
)

// ChangePassphrase writes all key files of dir anew under another passphrase and
// returns how many. With old nil none of them may be encrypted, with next nil
// none will be; files that are not encrypted yet are taken either way. Keys stay
// the same keys, and a running body goes on with them.
//
// A crash at any time leaves all files under the old passphrase or all under the
// new one: the new files become valid together, by the renaming of their folder,
// and whoever opens the directory next carries on from there.
func ChangePassphrase(dir string, old, next *Passphrase) (int, error) {
	return changePassphrase(dir, old, next, func(string) {})
}

// changePassphrase tells before each step which it is.
func changePassphrase(dir string, old, next *Passphrase, step func(string)) (int, error) {
	lock, err := lockDir(dir, unix.LOCK_EX)
	if err != nil {
		return 0, fmt.Errorf("change passphrase: %w", err)
	}
	defer lock.Close()
	// 1. What an earlier change left.
	if err := finishChange(dir, step); err != nil {
		return 0, fmt.Errorf("change passphrase: %w", err)
	}
	// 2. All keys in their new form, read back before they count.
	names, err := keyFiles(dir)
	if err != nil {
		return 0, fmt.Errorf("change passphrase: %w", err)
	}
	if len(names) == 0 {
		return 0, nil
	}
	if err := prepareChange(dir, names, old, next, step); err != nil {
		_ = os.RemoveAll(filepath.Join(dir, changing))
		return 0, fmt.Errorf("change passphrase, nothing is changed: %w", err)
	}
	// 3. From here on the new files are valid.
	step("commit")
	if err := os.Rename(filepath.Join(dir, changing), filepath.Join(dir, changed)); err != nil {
		return 0, fmt.Errorf("change passphrase, nothing is changed: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return 0, fmt.Errorf("change passphrase: %w", err)
	}
	// 4. They take the old ones' places.
	if err := finishChange(dir, step); err != nil {
		return len(names), fmt.Errorf("change passphrase: the new passphrase is valid, and its files are in %s: %w", filepath.Join(dir, changed), err)
	}
	return len(names), nil
}

func keyFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && filepath.Ext(e.Name()) == keyEnding {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func prepareChange(dir string, names []string, old, next *Passphrase, step func(string)) error {
	folder := filepath.Join(dir, changing)
	step("prepare")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		k, err := OpenEncrypted(filepath.Join(dir, name), old)
		if err != nil {
			return err
		}
		step("write " + name)
		if err := k.WriteEncrypted(filepath.Join(folder, name), next); err != nil {
			return err
		}
		again, err := OpenEncrypted(filepath.Join(folder, name), next)
		if err != nil {
			return err
		}
		if again.public.ID != k.public.ID {
			return fmt.Errorf("key file %s: the new file holds another key", name)
		}
	}
	return syncDir(folder)
}

// finishChange carries a change that was made through to the end and removes
// what one that was not made left.
func finishChange(dir string, step func(string)) error {
	if err := os.RemoveAll(filepath.Join(dir, changing)); err != nil {
		return err
	}
	folder := filepath.Join(dir, changed)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		step("move " + e.Name())
		from, to := filepath.Join(folder, e.Name()), filepath.Join(dir, e.Name())
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			err = os.Remove(from) // the key was taken away since
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Rename(from, to); err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	step("clean up")
	if err := os.Remove(folder); err != nil {
		return err
	}
	return syncDir(dir)
}

// lockDir waits for the directory's lock, shared to read or alone to write, so
// that nobody reads it in the middle of a change. It ends with the file, or with
// the process.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}
