package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// The layout on disk; spec/evidence.md section 2 is normative. All integers are
// little-endian.
const (
	frameMagic   = 0x46575643 // "CVWF"
	frameHeader  = 32
	frameEntry   = 1 // the only kind
	segmentMagic = "civibus-wal/v1\n\x00"
	// SegmentHeader is the length of a segment's header.
	SegmentHeader = 32
	// MaxPayload is the greatest length of an entry.
	MaxPayload = 16 << 20
)

// frame is one parsed frame.
type frame struct {
	seq     uint64
	group   uint64 // sequence number of the first frame of the same write
	payload []byte
	size    int64 // bytes on disk with header and padding
}

// frameSize returns how many bytes a payload of n bytes takes on disk.
func frameSize(n int) int64 { return frameHeader + (int64(n)+7)&^7 }

// castagnoli returns the table of CRC32C, which crc32 makes once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendFrame appends the frame of an entry with the sequence numbers still
// zero; sealFrame sets them.
func appendFrame(b []byte, payload []byte) []byte {
	var h [frameHeader]byte
	binary.LittleEndian.PutUint32(h[0:], frameMagic)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[24:], frameEntry)
	b = append(b, h[:]...)
	b = append(b, payload...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// sealFrame sets a frame's sequence number, group and checksum.
func sealFrame(b []byte, seq, group uint64) {
	n := binary.LittleEndian.Uint32(b[4:])
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], group)
	binary.LittleEndian.PutUint32(b[28:], frameSum(b, n))
}

// frameSum is CRC32C over the header without its last four bytes, then the payload.
func frameSum(b []byte, n uint32) uint32 {
	sum := crc32.Update(0, castagnoli(), b[:28])
	return crc32.Update(sum, castagnoli(), b[frameHeader:frameHeader+int(n)])
}

// parseFrame reads the frame at the start of b. The payload aliases b.
func parseFrame(b []byte) (frame, error) {
	if len(b) < frameHeader {
		return frame{}, fmt.Errorf("%d bytes are left, a frame's header has %d", len(b), frameHeader)
	}
	if m := binary.LittleEndian.Uint32(b); m != frameMagic {
		return frame{}, fmt.Errorf("it begins with %08x instead of a frame's mark", m)
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > MaxPayload || n > math.MaxInt32 {
		return frame{}, fmt.Errorf("its length is %d, the rule is at most %d", n, MaxPayload)
	}
	size := frameSize(int(n))
	if size > int64(len(b)) {
		return frame{}, fmt.Errorf("its length is %d, but only %d bytes are left", size, len(b))
	}
	if got, want := frameSum(b, n), binary.LittleEndian.Uint32(b[28:]); got != want {
		return frame{}, fmt.Errorf("its checksum is %08x, the content's is %08x", want, got)
	}
	if k := binary.LittleEndian.Uint32(b[24:]); k != frameEntry {
		return frame{}, fmt.Errorf("its kind is %d, the rule is %d", k, frameEntry)
	}
	for _, p := range b[frameHeader+int64(n) : size] {
		if p != 0 {
			return frame{}, fmt.Errorf("its padding is not zero")
		}
	}
	f := frame{
		seq:     binary.LittleEndian.Uint64(b[8:]),
		group:   binary.LittleEndian.Uint64(b[16:]),
		payload: b[frameHeader : frameHeader+int64(n)],
		size:    size,
	}
	if f.group > f.seq {
		return frame{}, fmt.Errorf("its group %d begins after its own number %d", f.group, f.seq)
	}
	return f, nil
}

// segmentHeader makes the header of the segment that begins with entry first.
func segmentHeader(first uint64) []byte {
	b := make([]byte, 0, SegmentHeader)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, first)
	b = append(b, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

// checkSegmentHeader compares a segment's header with what its name promises.
func checkSegmentHeader(b []byte, first uint64) error {
	if len(b) < SegmentHeader || !bytes.Equal(b[:SegmentHeader], segmentHeader(first)) {
		return fmt.Errorf("its header is not that of a segment that begins with entry %d", first)
	}
	return nil
}
