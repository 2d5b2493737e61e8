//go:build !linux

package wal

// syncer makes a file durable for the one who leads.
type syncer struct{}

func (*syncer) datasync(f File, _ bool) error { return f.Datasync() }

func (*syncer) close() error { return nil }
