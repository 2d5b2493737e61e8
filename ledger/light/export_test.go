package light

import "time"

// What full nodes answer, as it is read.

// ParseLight reads a light block and returns its height and hash.
func ParseLight(b []byte, chainID string) (int64, []byte, error) {
	lb, err := parseLight(b, chainID)
	if err != nil {
		return 0, nil, err
	}
	if again, err := encodeLight(lb); err != nil || len(again) == 0 {
		return 0, nil, err
	}
	return lb.Height, lb.Hash(), nil
}

// ParseHeaders counts headers.
func ParseHeaders(b []byte) (int, error) {
	list, err := parseHeaders(b)
	return len(list), err
}

// ParseBlocks returns the hashes of the contents that blocks have and that their
// headers name.
func ParseBlocks(b []byte) (have, named [][]byte, err error) {
	list, err := parseBlocks(b)
	for _, x := range list {
		have = append(have, x.txs.Hash(), x.evidence.Hash())
		named = append(named, x.header.DataHash, x.header.EvidenceHash)
		_ = x.header.Hash()
	}
	return have, named, err
}

// ParseSmall reads the small answers.
func ParseSmall(b []byte) error {
	if _, err := parseSnapshots(b); err == nil {
		return nil
	}
	_, err := parseSubmitted(b)
	return err
}

// Hurry makes submissions give up on full nodes early.
func Hurry() { resubmitAfter, busyAfter = 500*time.Millisecond, time.Second }

// SetStride changes the most blocks between two headers that are trusted, and
// returns what changes it back.
func SetStride(n int64) (back func()) {
	was := stride
	stride = n
	return func() { stride = was }
}
