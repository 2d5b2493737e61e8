package node

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/civibus/civibus"
)

// What another body may send to receiptsPath. A body that is hostile pays for
// its own exchange and its own leaf; it must not make this one pay more.
const (
	maxReceiptsBody     = 8 << 20 // of one delivery
	maxReceiptsBatch    = 256
	maxReceiptsTime     = 30 * time.Second // to send it
	maxCheckpoint       = 4 << 10          // as in the registry
	maxMemberText       = 3 << 10          // three parts of 255 bytes, each %-encoded
	maxInclusion        = 64               // hashes
	maxTrimmedRecord    = 16 << 10         // identifiers, times and digests only
	maxWholeRecord      = 512 << 10        // two signature bases besides
	maxDeliveriesAtOnce = 8                // of all bodies, one of each
)

// deliveries admits one delivery of each body, and few at a time.
type deliveries struct {
	mu   sync.Mutex
	from map[civibus.MemberID]bool
}

// begin reports whether a delivery of a body may be looked at now; if so, end
// must be called.
func (d *deliveries) begin(from civibus.MemberID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from[from] || len(d.from) >= maxDeliveriesAtOnce {
		return false
	}
	if d.from == nil {
		d.from = make(map[civibus.MemberID]bool)
	}
	d.from[from] = true
	return true
}

func (d *deliveries) end(from civibus.MemberID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.from, from)
}

// limitedReader reads up to an end in bytes and in time.
type limitedReader struct {
	src   io.Reader
	left  int64
	until time.Time
	now   civibus.Clock
}

var errTooMuch = errors.New("it is longer than the rule, or takes longer to arrive")

// Read reads within the limits.
func (r *limitedReader) Read(p []byte) (int, error) {
	if r.left < 0 || r.now().After(r.until) {
		return 0, errTooMuch
	}
	n, err := r.src.Read(p[:min(int64(len(p)), r.left+1)])
	if r.left -= int64(n); r.left < 0 {
		return 0, errTooMuch
	}
	return n, err
}

// checkHalves holds an encoded HalfReceipts to the limits before it is decoded:
// a few bytes can become a hundred times as many in memory.
func checkHalves(raw []byte) error {
	halves := 0
	return eachField(raw, func(number protowire.Number, value []byte) error {
		switch {
		case number == 1 && len(value) > maxCheckpoint:
			return fmt.Errorf("the checkpoint has %d bytes, the rule is at most %d", len(value), maxCheckpoint)
		case number > 2 && len(value) > maxMemberText:
			return fmt.Errorf("an identifier has %d bytes, the rule is at most %d", len(value), maxMemberText)
		case number != 2:
			return nil
		}
		if halves++; halves > maxReceiptsBatch {
			return fmt.Errorf("the rule is at most %d halves", maxReceiptsBatch)
		}
		return checkHalf(value)
	})
}

func checkHalf(raw []byte) error {
	hashes, record, trimmed := 0, 0, false
	err := eachField(raw, func(number protowire.Number, value []byte) error {
		switch number {
		case 2:
			record = len(value)
		case 3:
			trimmed = len(value) != 1 || value[0] != 0
		case 6:
			if hashes++; hashes > maxInclusion {
				return fmt.Errorf("a proof has more than %d hashes", maxInclusion)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case trimmed && record > maxTrimmedRecord, record > maxWholeRecord:
		return fmt.Errorf("a record has %d bytes, the rule is at most %d, and %d without seals", record, maxWholeRecord, maxTrimmedRecord)
	}
	return nil
}

// eachField calls f with the fields of a message, which must be known ones. The
// value is what is in a length-delimited field, or the varint itself.
func eachField(raw []byte, f func(number protowire.Number, value []byte) error) error {
	for len(raw) > 0 {
		number, wire, n := protowire.ConsumeTag(raw)
		if n < 0 || number > 6 {
			return errors.New("it does not decode")
		}
		raw = raw[n:]
		value, m := raw, protowire.ConsumeFieldValue(number, wire, raw)
		if m < 0 || wire != protowire.BytesType && wire != protowire.VarintType {
			return errors.New("it does not decode")
		}
		value = value[:m]
		if wire == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		if err := f(number, value); err != nil {
			return err
		}
		raw = raw[m:]
	}
	return nil
}
