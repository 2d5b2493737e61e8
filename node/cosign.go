package node

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/transport"
)

// cosigned is a registry view with its checkpoint cosigned by a quorum.
type cosigned struct {
	view *registry.View
	note string // checkpoint and cosignature lines
}

// witnesses are the bodies whose cosignatures count, and how many are needed:
// those that have a validator and a witness key in force, more than two thirds.
func witnesses(v *registry.View) (members []civibus.MemberID, quorum int) {
	for after := ""; ; {
		items, next := v.Members(after, 200)
		for _, m := range items {
			if m.Status == civibus.Active && anyInForce(v, m.ID, civibus.ValidatorKey) && anyInForce(v, m.ID, civibus.WitnessKey) {
				members = append(members, m.ID)
			}
		}
		if next == "" || next == after {
			break
		}
		after = next
	}
	return members, len(members)*2/3 + 1
}

func anyInForce(v *registry.View, m civibus.MemberID, p civibus.Purpose) bool {
	for _, k := range v.KeysOf(m, p) {
		if k.InForce(v.Height()) {
			return true
		}
	}
	return false
}

// cosign has the checkpoint of view cosigned by a quorum of the validators.
func (n *Node) cosign(ctx context.Context, r *rooms, v *registry.View) (string, error) {
	led := n.ledger.Load()
	size := v.EventSize()
	text, err := led.Checkpoint(size)
	if err != nil {
		return "", err
	}
	members, quorum := witnesses(v)
	if len(members) == 0 {
		return "", errors.New("no member has a validator and a witness key in force, so no checkpoint can be cosigned")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		member civibus.MemberID
		line   string
		err    error
	}
	answers := make(chan answer, len(members))
	var asking sync.WaitGroup
	for _, m := range members {
		asking.Go(func() {
			var line string
			var err error
			if m == n.member {
				line, err = led.Cosign(ctx, size)
			}
			if m != n.member || errors.Is(err, ledger.ErrNoWitness) { // another of the body's gateways may
				line, err = n.askCosignature(ctx, r, m, size)
			}
			if err == nil {
				line, err = checkCosignature(v, m, text, line)
			}
			answers <- answer{m, line, err}
		})
	}
	defer asking.Wait() // after cancel, which is deferred later and runs earlier

	var lines strings.Builder
	var errs []error
	got := 0
	for range members {
		a := <-answers
		if a.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.member, a.err))
			continue
		}
		lines.WriteString(a.line)
		if got++; got == quorum {
			cancel()
			return text + "\n" + lines.String(), nil
		}
	}
	return "", fmt.Errorf("%d of %d validators cosigned the registry checkpoint of size %d, %d are needed: %w", got, len(members), size, quorum, errors.Join(errs...))
}

// askCosignature asks another validator. Of a body's gateways one at most runs it:
// they are asked in turn until one cosigns.
func (n *Node) askCosignature(ctx context.Context, r *rooms, m civibus.MemberID, size uint64) (line string, err error) {
	asked := map[civibus.KeyID]bool{}
	for range max(1, len(receiver{member: m}.holders(n.view()))) {
		next, by, failed := n.askGateway(ctx, r, m, size, asked)
		if failed == nil {
			return next, nil
		}
		err = cmp.Or(err, failed)
		if by.IsZero() { // none that was not asked is reached
			break
		}
		asked[by] = true
	}
	return "", err
}

// askGateway asks one of a body's gateways that was not asked yet, and says which.
func (n *Node) askGateway(ctx context.Context, r *rooms, m civibus.MemberID, size uint64, asked map[civibus.KeyID]bool) (line string, by civibus.KeyID, err error) {
	resp, peer, err := r.transport.Do(ctx, m, "", func(ctx context.Context, peer transport.Peer) (*http.Request, error) {
		if asked[peer.Key] {
			return nil, transport.ErrAnother
		}
		return http.NewRequestWithContext(ctx, http.MethodGet, cosignaturePath+"?second=1&size="+strconv.FormatUint(size, 10), nil)
	})
	if err != nil {
		return "", by, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8192))
	if err != nil {
		return "", peer.Key, err
	}
	if resp.StatusCode != http.StatusOK {
		return "", peer.Key, fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return string(body), peer.Key, nil
}

// checkCosignature verifies the C2SP cosignature lines of a member over a
// checkpoint and returns those that hold, so that one validator's wrong line
// spoils no receipt. The first is Ed25519 and has to hold; the second, ML-DSA-44,
// may be missing.
func checkCosignature(v *registry.View, m civibus.MemberID, checkpoint, lines string) (string, error) {
	name := ledger.WitnessName(v.ChainID(), m)
	line, second, ok := strings.Cut(lines, "\n")
	rest, named := strings.CutPrefix(line, "— "+name+" ")
	if !ok || !named {
		return "", fmt.Errorf("its cosignature is not a line of %s", name)
	}
	raw, err := base64.StdEncoding.DecodeString(rest)
	// The decoder skips line breaks, which would spoil the note.
	if err != nil || len(raw) != 4+8+64 || base64.StdEncoding.EncodeToString(raw) != rest {
		return "", errors.New("its cosignature is malformed")
	}
	message := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(raw[4:12]), checkpoint)
	first, both := false, false
	for _, k := range v.KeysOf(m, civibus.WitnessKey) {
		switch {
		case !k.InForce(v.Height()):
		case k.Algorithm.PostQuantum():
			both = both || ledger.VerifySecond(name, k.PublicKey, checkpoint, second)
		default:
			first = first || k.Verify(message, raw[12:])
		}
	}
	switch {
	case !first:
		return "", errors.New("its cosignature does not verify with a witness key in force")
	case both:
		return line + "\n" + second, nil
	}
	return line + "\n", nil
}
