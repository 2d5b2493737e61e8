package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/civibus/civibus/evidence/wal"
	"github.com/civibus/civibus/internal/backup/dump"
	"github.com/civibus/civibus/internal/ldb"
)

// The parts of the room's folder, and of a backup.
const (
	indexDir        = "index"
	inboxDir        = "inbox"
	outboxDir       = "outbox"
	epochFile       = "epoch"
	subscribersFile = "subscribers.json"
)

// cut is what of one stream belongs to a backup.
type cut struct {
	name     string // of its folder within the room's
	segments []wal.Segment
}

// Backup adds the running room to a backup under name: every event that was acknowledged
// before the call, and subscriptions, cursors and dead letters as of one moment. Events go
// on being taken and delivered meanwhile; none reaches the end of its retention.
//
// The epochs of the topics are not in it: what is published after the backup would be lost
// by a restore, and other events would get its numbers.
func (r *Room) Backup(ctx context.Context, put dump.Put, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	r.keep.Lock()
	defer r.keep.Unlock()
	// 1. The subscriptions and how far each stream is, of one moment: a cursor is never
	// ahead of its inbox, and what an inbox holds began somewhere.
	index, inboxes, err := r.freeze()
	if err != nil {
		return fmt.Errorf("back up the messages: %w", err)
	}
	defer index.Release()
	it := index.NewIterator(nil, &opt.ReadOptions{DontFillCache: true})
	err = dump.Database(put, name+"/"+indexDir, it, ctx.Err)
	it.Release()
	if err != nil {
		return err
	}
	// 2. The events.
	for _, c := range inboxes {
		if err := c.copy(ctx, put, name); err != nil {
			return err
		}
	}
	boxes, err := r.boxes.openAll()
	if err != nil {
		return fmt.Errorf("back up the messages: %w", err)
	}
	for folder, o := range boxes {
		c := cut{outboxDir + "/" + folder, o.stream.log.Segments()}
		if err := c.copy(ctx, put, name); err != nil {
			return err
		}
		list, err := json.Marshal(o.list())
		if err == nil {
			err = dump.Bytes(put, name+"/"+c.name+"/"+subscribersFile, list)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freeze holds up what is received for as long as it takes to look.
func (r *Room) freeze() (index *leveldb.Snapshot, inboxes []cut, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.subs {
		s.stream.write.Lock()
		defer s.stream.write.Unlock()
		inboxes = append(inboxes, cut{inboxDir + "/" + s.info.ID, s.stream.log.Segments()})
	}
	index, err = r.db.GetSnapshot()
	return index, inboxes, err
}

// copy adds a stream's segments: of the one that is written to, what is durable.
func (c cut) copy(ctx context.Context, put dump.Put, name string) error {
	for i, seg := range c.segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		size := int64(-1)
		if i == len(c.segments)-1 && seg.Bytes > 0 {
			size = seg.Bytes
		}
		if err := dump.File(put, name+"/"+c.name+"/"+filepath.Base(seg.Path), seg.Path, size); err != nil {
			return err
		}
	}
	return nil
}

// openAll opens every outbox that there is and returns them by their folders.
func (b *outboxes) openAll() (map[string]*outbox, error) {
	out := map[string]*outbox{}
	return out, eachFolder(b.dir, func(folder string) error {
		o, err := b.get(topicIn(folder), false)
		if o != nil {
			out[folder] = o
		}
		return err
	})
}

// eachFolder calls fn with the name of every folder in a folder, which may be missing.
func eachFolder(dir string, fn func(name string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := fn(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// BackupDir is Backup of a room that no process has open.
func BackupDir(ctx context.Context, dir string, put dump.Put, name string) (err error) {
	db, err := ldb.Open(filepath.Join(dir, indexDir), opt.Options{ReadOnly: true, ErrorIfMissing: true})
	if err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }() // until then nobody else opens the room
	if err := db.Backup(put, name+"/"+indexDir, ctx.Err); err != nil {
		return err
	}
	for _, part := range []string{inboxDir, outboxDir} {
		if err := eachFolder(filepath.Join(dir, part), func(folder string) error {
			segments, err := wal.List(filepath.Join(dir, part, folder))
			if err != nil {
				return err
			}
			if err := (cut{part + "/" + folder, segments}).copy(ctx, put, name); err != nil {
				return err
			}
			list := filepath.Join(dir, part, folder, subscribersFile)
			if _, err := os.Stat(list); err != nil {
				return nil // a topic that nobody subscribed to, or an inbox
			}
			return dump.File(put, name+"/"+part+"/"+folder+"/"+subscribersFile, list, -1)
		}); err != nil {
			return fmt.Errorf("back up the messages: %w", err)
		}
	}
	return nil
}

// RestoreDir makes a room of what a backup put into dir, and reads every event of it. Each
// topic has another epoch then: what was published after the backup is lost here, its
// numbers will be given to other events, and no subscriber may mistake those for it.
func RestoreDir(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, indexDir) + dump.Suffix); errors.Is(err, fs.ErrNotExist) {
		return nil // no messages are in the backup
	}
	if err := ldb.Restore(filepath.Join(dir, indexDir)); err != nil {
		return err
	}
	for _, part := range []string{inboxDir, outboxDir} {
		if err := eachFolder(filepath.Join(dir, part), func(folder string) error {
			at := filepath.Join(dir, part, folder)
			s, err := openStream(at, wal.OpenOS)
			if err == nil {
				err = s.close()
			}
			if err == nil && part == outboxDir {
				_, err = newEpoch(filepath.Join(at, epochFile))
			}
			return err
		}); err != nil {
			return fmt.Errorf("restore the messages: %w", err)
		}
	}
	return nil
}
