package evidence

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// PutChain keeps the certificates that records name by their digest
// (spec/evidence.md 1.5a), durably and once.
func (l *Log) PutChain(digest [32]byte, certificates [][]byte) error {
	k := key('k', string(digest[:]))
	if had, err := l.index.get(k); err != nil || had != nil {
		return err
	}
	var b []byte
	for _, c := range certificates {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	return l.index.set(k, b)
}

// Chain returns what PutChain kept; nil if nothing was.
func (l *Log) Chain(digest []byte) ([][]byte, error) {
	b, err := l.index.get(key('k', string(digest)))
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, fmt.Errorf("certificates %x: %w", digest, errors.New("the index's record of them is not readable"))
		}
		n := 4 + binary.BigEndian.Uint32(b)
		out, b = append(out, b[4:n]), b[n:]
	}
	return out, nil
}
