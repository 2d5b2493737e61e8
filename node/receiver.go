package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/registry"
)

// A body may have several gateways, each with an evidence log of its own. The half
// of a receipt belongs to the one that keeps the other record of the exchange,
// which the own record names by the transport key that it showed.

// receiver is that gateway.
type receiver struct {
	member  civibus.MemberID
	gateway civibus.KeyID // the transport key that it showed in the exchange
}

// holders are the transport keys of the gateways that may have the record: the one
// of the exchange, if it is still in force, and then all others of the body, since
// the gateway may have another key by now.
func (to receiver) holders(v *registry.View) []civibus.KeyID {
	var first, others []civibus.KeyID
	for _, k := range v.KeysOf(v.Carrier(to.member), civibus.TransportKey) {
		switch {
		case !k.InForce(v.Height()):
		case k.ID == to.gateway:
			first = append(first, k.ID)
		default:
			others = append(others, k.ID)
		}
	}
	return append(first, others...)
}

// both reports whether the other record of an exchange in which the body called
// itself is in this log, or can be in no other: the body has one gateway.
func (d *deliverer) both(to receiver, exchange string, rec *evidencepb.Record) (bool, error) {
	if d.ownKey(to.gateway) || len(d.others(to)) == 0 {
		return true, nil
	}
	entries, err := d.r.evidence.Find(exchange)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		other := &evidencepb.Record{}
		if err := proto.Unmarshal(e.Record, other); err != nil {
			return false, fmt.Errorf("own record of exchange %s: %w", exchange, err)
		}
		if otherSideOf(rec, other, d.n.member) {
			return true, nil
		}
	}
	return false, nil
}

// ownKey reports whether a transport key is one that this gateway shows or showed.
func (d *deliverer) ownKey(id civibus.KeyID) bool {
	return slices.ContainsFunc(d.n.front().ring.All(civibus.TransportKey), func(k *keys.Key) bool { return k.Key().ID == id })
}

// others are the holders but, where the body called itself, this gateway.
func (d *deliverer) others(to receiver) []civibus.KeyID {
	holders := to.holders(d.n.view())
	if to.member == d.n.member {
		holders = slices.DeleteFunc(holders, d.ownKey)
	}
	return holders
}

// offer delivers halves to the gateway that has the records. What none of the
// body's gateways knows is unknown; then missed says which of them were not
// reached, nil if all were.
func (d *deliverer) offer(ctx context.Context, to receiver, in *evidencepb.HalfReceipts) (results []*evidencepb.HalfResult, missed error) {
	results = make([]*evidencepb.HalfResult, len(in.Halves))
	rest := make([]int, len(in.Halves)) // what no gateway has taken yet
	for i := range rest {
		results[i], rest[i] = &evidencepb.HalfResult{Status: evidencepb.HalfStatus_HALF_STATUS_UNKNOWN}, i
	}
	holders := d.others(to)
	if len(holders) == 0 {
		return results, fmt.Errorf("%s has no transport key in force", to.member)
	}
	for _, key := range holders {
		// 1. Ask one gateway for all that is left.
		part := &evidencepb.HalfReceipts{Checkpoint: in.Checkpoint, From: in.From}
		for _, i := range rest {
			part.Halves = append(part.Halves, in.Halves[i])
		}
		answer, err := d.post(ctx, receiver{to.member, key}, part)
		if err != nil {
			missed = errors.Join(missed, err)
			continue
		}
		// 2. What it does not know, another may.
		var unknown []int
		for n, i := range rest {
			results[i] = answer[n]
			if answer[n].Status == evidencepb.HalfStatus_HALF_STATUS_UNKNOWN {
				unknown = append(unknown, i)
			}
		}
		if rest = unknown; len(rest) == 0 {
			return results, nil
		}
	}
	return results, missed
}

// elsewhere says where an exchange may be recorded that is not in the own log,
// empty if the body has no other gateway.
func (n *Node) elsewhere() string {
	v := n.view()
	if v == nil {
		return ""
	}
	m, ok := v.Member(n.member)
	var others []string
	for _, g := range m.Gateways {
		if g.Code != n.cfg.ServerCode {
			others = append(others, g.Code)
		}
	}
	if !ok || len(others) == 0 {
		return ""
	}
	return fmt.Sprintf("; this is the log of %s, and an exchange is recorded by the gateway that it went over: ask %s too", n.cfg.ServerCode, strings.Join(others, ", "))
}
