package evidence

import "github.com/civibus/civibus/evidence/tiles"

// Entry is one record that the log keeps.
type Entry struct {
	Seq        uint64 // position in the write-ahead log
	Record     []byte // evidencepb.Record, verbatim
	Salt       [16]byte
	Beside     []byte // what AppendBeside kept with it
	Integrated bool   // whether the entry is in the Merkle log
	Index      uint64 // its leaf index, when Integrated
}

// Leaf returns the entry's leaf in the Merkle log: 0x01 || SHA-256(salt || record).
func (e Entry) Leaf() []byte { return Leaf(e.Salt, e.Record) }

// VerifierKey returns the C2SP verifier key (vkey) of the log.
func (l *Log) VerifierKey() string {
	vkey, err := tiles.VerifierKey(l.cfg.Origin, l.cfg.Signer.Key())
	if err != nil {
		return "" // cannot be: Validate has checked the key
	}
	return vkey
}
