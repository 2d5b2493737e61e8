// Package dump puts the stores of a node into a backup: files as they are, and
// databases as sequences of keys and values, so that a backup does not depend on how
// a database lays out its files.
//
// Trust: none; it copies what it is given, and what is loaded is checked by the
// store that it belongs to.
package dump

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Suffix ends the name of the folder that holds a database's keys and values:
// files 000000.kv, 000001.kv and so on, each a sequence of records: length of the
// key, key, length of the value, value, with lengths as unsigned varints, in
// ascending order of keys.
const Suffix = ".dump"

const (
	dumpBytes = 8 << 20 // after which a new file begins
	maxRecord = 1 << 30
)

// Put adds a file of a known size to a backup.
type Put func(name string, size int64, content io.Reader) error

// File adds a file of the disk, of which it takes at most size bytes; negative: all
// of it as of now.
func File(put Put, name, file string, size int64) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	defer f.Close()
	if size < 0 {
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("back up %s: %w", name, err)
		}
		size = info.Size()
	}
	return put(name, size, f)
}

// Bytes adds a file that is in memory.
func Bytes(put Put, name string, content []byte) error {
	return put(name, int64(len(content)), bytes.NewReader(content))
}

// Iterator is what a database's snapshot gives.
type Iterator interface {
	Next() bool
	Key() []byte
	Value() []byte
	Error() error
}

// Database adds a database to an archive as name + Suffix. proceed is asked now and
// then whether to go on.
func Database(put Put, name string, it Iterator, proceed func() error) error {
	var b bytes.Buffer
	file := 0
	flush := func() error {
		if err := proceed(); err != nil {
			return err
		}
		err := put(fmt.Sprintf("%s%s/%06d.kv", name, Suffix, file), int64(b.Len()), bytes.NewReader(b.Bytes()))
		file++
		b.Reset()
		return err
	}
	for it.Next() {
		for _, part := range [][]byte{it.Key(), it.Value()} {
			b.Write(binary.AppendUvarint(b.AvailableBuffer(), uint64(len(part))))
			b.Write(part)
		}
		if b.Len() >= dumpBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	return flush()
}

// Load calls fn with every record of a dump in the folder dir, in order. The slices
// are only valid during the call.
func Load(dir string, fn func(key, value []byte) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("load database: %w", err)
	}
	for i, e := range entries { // in order of names
		if want := fmt.Sprintf("%06d.kv", i); e.Name() != want {
			return fmt.Errorf("load database %s: %s is where %s should be", dir, e.Name(), want)
		}
		if err := loadFile(filepath.Join(dir, e.Name()), fn); err != nil {
			return err
		}
	}
	return nil
}

func loadFile(name string, fn func(key, value []byte) error) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("load database: %w", err)
	}
	defer f.Close()
	if err := load(bufio.NewReaderSize(f, 1<<16), fn); err != nil {
		return fmt.Errorf("load database %s: %w", name, err)
	}
	return nil
}

func load(r *bufio.Reader, fn func(key, value []byte) error) error {
	var parts [2]bytes.Buffer
	for {
		for i := range parts {
			n, err := binary.ReadUvarint(r)
			if err == io.EOF && i == 0 {
				return nil
			}
			if err != nil || n > maxRecord {
				return errors.New("a record's length is not readable")
			}
			parts[i].Reset()
			if _, err := io.CopyN(&parts[i], r, int64(n)); err != nil {
				return errors.New("a record is cut off")
			}
		}
		if err := fn(parts[0].Bytes(), parts[1].Bytes()); err != nil {
			return err
		}
	}
}
