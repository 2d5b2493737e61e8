package evidence

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/civibus/civibus/evidence/archive"
	"github.com/civibus/civibus/evidence/evidencepb"
)

// Body takes one message body as it passes: write it, then Commit or Abort. It
// is for one goroutine.
type Body struct {
	size    uint64
	sum     hash.Hash       // nil: the policy keeps no digest
	archive *archive.Writer // nil: the policy keeps no body
	done    bool
}

var _ io.Writer = (*Body)(nil)

// NewBody begins a body of an exchange. What is kept of it depends on the
// policy; memory does not grow with it.
func (l *Log) NewBody(_ context.Context, _ string, _ evidencepb.Side) (*Body, error) {
	if err := l.unusable(); err != nil {
		return nil, err
	}
	switch l.cfg.Archive {
	case ArchiveEncrypted:
		w, err := l.archive.Create(l.cfg.Clock())
		if err != nil {
			return nil, err
		}
		return &Body{archive: w}, nil
	case ArchiveDigest:
		return &Body{sum: sha256.New()}, nil
	}
	return &Body{}, nil
}

var errBodyDone = errors.New("evidence body: it is complete or dropped")

// Write adds p to the body.
func (b *Body) Write(p []byte) (int, error) {
	if b.done {
		return 0, errBodyDone
	}
	if b.archive != nil {
		if _, err := b.archive.Write(p); err != nil {
			return 0, err
		}
	}
	if b.sum != nil {
		b.sum.Write(p)
	}
	b.size += uint64(len(p))
	return len(p), nil
}

// Commit makes the body durable, if the policy keeps it, and returns its
// description for the record.
func (b *Body) Commit() (*evidencepb.Body, error) {
	if b.done {
		return nil, errBodyDone
	}
	b.done = true
	out := &evidencepb.Body{Size: b.size}
	switch {
	case b.archive != nil:
		name, _, digest, err := b.archive.Commit()
		if err != nil {
			return nil, err
		}
		out.Archive, out.Sha256 = name, digest[:]
	case b.sum != nil:
		out.Sha256 = b.sum.Sum(nil)
	}
	return out, nil
}

// Abort drops the body; after Commit it does nothing.
func (b *Body) Abort() {
	if b.done {
		return
	}
	b.done = true
	if b.archive != nil {
		b.archive.Abort()
	}
}

// OpenBody reads an archived body by the name that its record gives.
func (l *Log) OpenBody(name string) (io.ReadCloser, error) {
	if l.archive == nil {
		return nil, fmt.Errorf("archived body %s: the archive policy is %s", name, l.cfg.Archive)
	}
	return l.archive.Read(name)
}
