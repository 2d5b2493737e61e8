package ldb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	ldberrors "github.com/syndtr/goleveldb/leveldb/errors"
	"github.com/syndtr/goleveldb/leveldb/storage"
)

// The journal format: blocks of 32 KiB, in them chunks of a checksum (4 bytes),
// a length (2 bytes) and a type (1 byte), then the payload. A record is one full
// chunk, or a first, middles and a last.
const (
	journalBlock  = 32 << 10
	journalHeader = 7

	chunkFull, chunkFirst, chunkMiddle, chunkLast = 1, 2, 3, 4
)

// cutTornEnd cuts an unfinished record off the end of a journal file. It does
// nothing and returns false when there is none, or more is wrong.
func cutTornEnd(file string) (bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	whole, torn := lastWhole(data)
	if !torn || whole == len(data) {
		return false, nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	return true, errors.Join(f.Truncate(int64(whole)), f.Sync(), f.Close())
}

// checkJournals reads the journals in a folder and returns an error if one of them is
// damaged elsewhere than at its end.
func checkJournals(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if whole, torn := lastWhole(data); !torn {
			fd := storage.FileDesc{Type: storage.TypeJournal}
			_, _ = fmt.Sscanf(filepath.Base(name), "%d.log", &fd.Num) // another name is no journal's
			return ldberrors.NewErrCorrupted(fd, fmt.Errorf("a record at or after byte %d does not have its checksum", whole))
		}
	}
	return nil
}

// lastWhole returns where the last whole record before any damage ends. What follows is
// the torn end of a journal unless a record begins there: then more is wrong than an end
// that was not written.
func lastWhole(data []byte) (whole int, torn bool) {
	// 1. Where does the last whole record end, and where is the damage?
	at := 0
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
			return whole, false
		}
	}
	return whole, true
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
