package evidence

import (
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/wal"
)

// ExchangeKey is the prefix of an exchange's entries in the index.
func ExchangeKey(id string) []byte { return exchangeKey(id) }

// EntryKey is the key of one of them.
func EntryKey(id string, side evidencepb.Side, seq uint64) []byte {
	return append(append(exchangeKey(id), byte(side)), number(seq)...)
}

// ParseExchangeKey reads an EntryKey.
func ParseExchangeKey(k []byte) (string, evidencepb.Side, uint64, error) { return parseExchangeKey(k) }

// EncodePosition makes the value of a leaf in the index.
func EncodePosition(p wal.Position) []byte { return encodePosition(p) }

// DecodePosition reads it.
func DecodePosition(b []byte) (wal.Position, error) { return decodePosition(b) }
