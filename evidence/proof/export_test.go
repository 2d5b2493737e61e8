package proof

import "golang.org/x/mod/sumdb/tlog"

// Included exposes the inclusion check.
func Included(leaf tlog.Hash, index uint64, hashes tlog.RecordProof, size uint64, root tlog.Hash) bool {
	p := &tlogProof{index: index}
	for _, h := range hashes {
		p.hashes = append(p.hashes, h)
	}
	return included(leaf, p, size, root)
}

// VerifyEd25519 exposes the signature check.
func VerifyEd25519(public, message, signature []byte) bool {
	return verifyEd25519(public, message, signature)
}
