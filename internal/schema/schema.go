// Package schema marks each store on disk with the version of its layout, so that
// software that does not know a layout refuses it instead of misreading it.
//
// The mark is a file SCHEMA in the store's folder with one line: the store's name
// and a number from 1, such as "civibus-ledger 1". A store without the file was
// made before there were marks and has version 1.
//
// Trust: whoever can write to the folder. A wrong mark can only keep a store from
// being opened.
package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// File is the mark's name.
const File = "SCHEMA"

// Error says that a store has a layout which this software does not know. Starting
// again cannot help.
type Error struct {
	Dir   string
	Store string // the name of the store that was expected
	Found string // the mark's line
	Known int    // the newest version that this software knows
}

// Error says what the store needs.
func (e *Error) Error() string {
	name, version, _ := strings.Cut(e.Found, " ")
	if name == e.Store {
		return fmt.Sprintf("%s has version %s of the layout %s, this software knows versions up to %d: install the version of civibus that wrote it, or a later one; there is no way back to an older layout but a backup from before", e.Dir, version, e.Store, e.Known)
	}
	return fmt.Sprintf("%s is marked as %q, the rule here is %q: the folder belongs to something else, or its file %s is damaged", e.Dir, e.Found, fmt.Sprint(e.Store, " ", e.Known), File)
}

// Check compares the mark of the store in dir with the newest version that this
// software knows, and marks a store that has none. It returns the version found:
// where it is less than known, the caller migrates the store and calls Mark.
func Check(dir, store string, known int) (int, error) {
	text, err := os.ReadFile(filepath.Join(dir, File))
	if errors.Is(err, fs.ErrNotExist) {
		return 1, Mark(dir, store, 1)
	}
	if err != nil {
		return 0, fmt.Errorf("version of %s: %w", store, err)
	}
	line := strings.TrimSuffix(string(text), "\n")
	name, number, _ := strings.Cut(line, " ")
	version, err := strconv.Atoi(number)
	if err != nil || name != store || version < 1 || version > known {
		return 0, &Error{Dir: dir, Store: store, Found: line, Known: known}
	}
	return version, nil
}

// Mark writes the mark durably.
func Mark(dir, store string, version int) error {
	name := filepath.Join(dir, File)
	f, err := os.CreateTemp(dir, ".schema-")
	if err != nil {
		return fmt.Errorf("mark the version of %s: %w", store, err)
	}
	defer os.Remove(f.Name())
	_, err = fmt.Fprintf(f, "%s %d\n", store, version)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("mark the version of %s: %w", store, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
