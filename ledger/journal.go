package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb"
	ldberrors "github.com/syndtr/goleveldb/leveldb/errors"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/storage"
)

// strict makes goleveldb report damage of any file where it would pass over it:
// a registry of which a part is missing is worse than one that does not open.
const strict = opt.StrictManifest | opt.StrictJournal | opt.StrictJournalChecksum |
	opt.StrictBlockChecksum | opt.StrictCompaction | opt.StrictReader

// openDB opens a database whose writes are all synced. The machine may have lost
// power in the middle of the last write, which nobody was told of: such a torn
// end of a journal is cut off. All other damage is an error.
func openDB(dir string, options opt.Options) (*leveldb.DB, error) {
	options.Strict = strict
	for cuts := 0; ; cuts++ {
		db, err := leveldb.OpenFile(dir, &options)
		damage := damaged(err)
		if damage == nil || cuts == 2 { // one journal and one manifest are open at a time
			return db, err
		}
		name := ""
		switch damage.Fd.Type {
		case storage.TypeJournal:
			name = fmt.Sprintf("%06d.log", damage.Fd.Num)
		case storage.TypeManifest:
			name = fmt.Sprintf("MANIFEST-%06d", damage.Fd.Num)
		default:
			return nil, err
		}
		torn, terr := cutTornEnd(filepath.Join(dir, name))
		if terr != nil || !torn {
			return nil, errors.Join(err, terr)
		}
	}
}

// damaged returns what is damaged if that is the error, or nil.
func damaged(err error) *ldberrors.ErrCorrupted {
	var damage *ldberrors.ErrCorrupted
	if !errors.As(err, &damage) {
		return nil
	}
	return damage
}

// The journal format: blocks of 32 KiB, in them chunks of a checksum (4 bytes),
// a length (2 bytes) and a type (1 byte), then the payload. A record is one full
// chunk, or a first, middles and a last.
const (
	journalBlock  = 32 << 10
	journalHeader = 7

	chunkFull, chunkFirst, chunkMiddle, chunkLast = 1, 2, 3, 4
)

// cutTornEnd cuts an unfinished record off the end of a journal file. It does
// nothing and returns false when a record begins after the damage: then more is
// wrong than an end that was not written.
func cutTornEnd(file string) (bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	// 1. Where does the last whole record end, and where is the damage?
	whole, at := 0, 0
	for at < len(data) {
		if left := journalBlock - at%journalBlock; left < journalHeader {
			at += left // padding
			continue
		}
		kind, next, ok := chunkAt(data, at)
		if !ok {
			break
		}
		at = next
		if kind == chunkFull || kind == chunkLast {
			whole = at
		}
	}
	// 2. Does a record begin behind it?
	for i := at + 1; i+journalHeader <= len(data); i++ {
		if kind, _, ok := chunkAt(data, i); ok && (kind == chunkFull || kind == chunkFirst) {
			return false, nil
		}
	}
	if whole == len(data) {
		return false, nil
	}
	// 3. Cut.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	return true, errors.Join(f.Truncate(int64(whole)), f.Sync(), f.Close())
}

// chunkAt reads the chunk at an offset and returns its type and its end, or
// false if there is no whole chunk.
func chunkAt(data []byte, at int) (kind byte, end int, ok bool) {
	if journalBlock-at%journalBlock < journalHeader || at+journalHeader > len(data) {
		return 0, 0, false
	}
	length := int(binary.LittleEndian.Uint16(data[at+4:]))
	kind, end = data[at+6], at+journalHeader+length
	if kind < chunkFull || kind > chunkLast || end > len(data) || at%journalBlock+journalHeader+length > journalBlock {
		return 0, 0, false
	}
	sum := crc32.Checksum(data[at+6:end], crc32.MakeTable(crc32.Castagnoli))
	masked := sum>>15 | sum<<17
	masked += 0xa282ead8
	return kind, end, masked == binary.LittleEndian.Uint32(data[at:])
}
