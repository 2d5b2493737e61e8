package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Expire deletes the bodies of days that ended before cutoff, wrapped keys
// first, and what crashes left half-written before cutoff. It returns how many
// bodies it deleted.
func (a *Archive) Expire(ctx context.Context, cutoff time.Time) (int, error) {
	days, err := os.ReadDir(a.dir)
	if err != nil {
		return 0, fmt.Errorf("expire bodies: %w", err)
	}
	deleted := 0
	for _, day := range days {
		if !Expired(day.Name(), cutoff) {
			continue
		}
		n, err := expireDay(ctx, filepath.Join(a.dir, day.Name()))
		deleted += n
		if err != nil {
			return deleted, fmt.Errorf("expire bodies: %w", err)
		}
	}
	return deleted, nil
}

// expireDay deletes one day's bodies.
func expireDay(ctx context.Context, dir string) (int, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	deleted := 0
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return deleted, err
		}
		name := filepath.Join(dir, f.Name())
		if err := shredKey(name); err != nil {
			return deleted, err
		}
		if err := os.Remove(name); err != nil {
			return deleted, err
		}
		if strings.HasSuffix(name, suffix) {
			deleted++
		}
	}
	if err := syncDir(dir); err != nil {
		return deleted, err
	}
	return deleted, os.Remove(dir)
}

// shredKey overwrites the wrapped key in a body's header: without it the rest
// is noise, wherever the file system left copies of it.
func shredKey(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, headerSize), 0); err != nil {
		return err
	}
	return f.Sync()
}

// RemoveUnfinished deletes half-written bodies; nobody may be writing.
func (a *Archive) RemoveUnfinished() error {
	names, err := filepath.Glob(filepath.Join(a.dir, "*", "*"+suffix+".tmp"))
	if err != nil {
		return fmt.Errorf("remove unfinished bodies: %w", err)
	}
	for _, n := range names {
		if err := os.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove unfinished bodies: %w", err)
		}
	}
	return nil
}

// IsMissing reports whether err says that a body is not there.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Expired reports whether Expire with this cutoff deletes the body called name.
func Expired(name string, cutoff time.Time) bool {
	day, _, _ := strings.Cut(name, "/")
	begin, err := time.Parse(dayFormat, day)
	return err == nil && !begin.AddDate(0, 0, 1).After(cutoff)
}

// Check reads a whole body and returns its size and SHA-256.
func (a *Archive) Check(name string) (size int64, digest [32]byte, err error) {
	r, err := a.Read(name)
	if err != nil {
		return 0, digest, err
	}
	defer r.Close()
	sum := sha256.New()
	if size, err = io.Copy(sum, r); err != nil {
		return 0, digest, err
	}
	return size, [32]byte(sum.Sum(nil)), nil
}
