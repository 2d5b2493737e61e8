package node

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/registry"
)

var errNoKey = errors.New("no log key of the body that is in force signed the checkpoint")

// checkNote verifies that a checkpoint bears the signature of a log key in force.
// A C2SP signature line is "— NAME base64(key hash (4) || signature (64))".
func checkNote(v *registry.View, m civibus.MemberID, note []byte) error {
	text, lines, ok := strings.Cut(string(note), "\n\n")
	if !ok {
		return errors.New("the checkpoint is not a signed note")
	}
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil || len(raw) != 4+64 {
			continue
		}
		for _, k := range v.KeysOf(m, civibus.LogKey) {
			if k.InForce(v.Height()) && k.Verify([]byte(text+"\n"), raw[4:]) {
				return nil
			}
		}
	}
	return errNoKey
}

// checkExtends verifies that the log of size and root extends what the registry
// witnessed.
func checkExtends(log *evidence.Log, anchored civibus.Log, size uint64, root [32]byte) error {
	if anchored.Size == size {
		if !bytes.Equal(anchored.Root[:], root[:]) {
			return fmt.Errorf("the registry witnessed another root for %d entries: the log was changed", size)
		}
		return nil
	}
	hashes, err := log.Consistency(anchored.Size, size)
	if err != nil {
		return fmt.Errorf("prove consistency: %w", err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, anchored.Size, size, hashes, anchored.Root[:], root[:]); err != nil {
		return fmt.Errorf("the log does not extend what the registry witnessed: %w", err)
	}
	return nil
}
