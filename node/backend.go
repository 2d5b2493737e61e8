package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// backend is the node as its administration interface sees it.
type backend struct{ n *Node }

var _ admin.Backend = backend{}

// View returns the current registry view.
func (b backend) View() *registry.View { return b.n.view() }

// Change submits a change of the registry.
func (b backend) Change(ctx context.Context, tx *registrypb.Tx) (admin.Change, error) {
	return b.n.change(ctx, tx)
}

// NewKey makes and registers a key of the body.
func (b backend) NewKey(ctx context.Context, req admin.NewKey) (admin.Change, error) {
	return b.n.newKey(ctx, req)
}

// Receipt builds a receipt.
func (b backend) Receipt(ctx context.Context, exchange string, entry *uint64, both bool) ([]byte, error) {
	return b.n.receipts.make(ctx, exchange, entry, both)
}

// BlockHash is the hash of the ledger's header at a height.
func (b backend) BlockHash(height uint64) (string, error) {
	led := b.n.ledger.Load()
	if led == nil {
		return "", errStarting
	}
	hash, err := led.HeaderHash(height)
	if err != nil {
		return "", admin.Problemf(http.StatusNotFound, "not_found", "%v", err).
			WithHint("a light gateway keeps the last header only; a full node those of the blocks that it keeps")
	}
	return hex.EncodeToString(hash), nil
}

// Policy returns the policy with which receipts verify now.
func (b backend) Policy() ([]byte, error) { return b.n.policy() }

// Config returns the effective configuration.
func (b backend) Config() string { return Commented(b.n.cfg) }

// Hosted is the backend of a member that the node hosts.
func (b backend) Hosted(member string) (admin.Backend, error) {
	id, err := civibus.ParseMemberID(member)
	if err != nil {
		return nil, admin.Problemf(http.StatusBadRequest, "invalid_identifier", "%v", err)
	}
	h := b.n.hostedOf(id)
	if h == nil {
		return nil, admin.Problemf(http.StatusNotFound, "not_hosted", "member %s is not hosted here", id).
			WithHint("the configuration has a table [[hosted]] for each; \"civibus status\" lists them")
	}
	guest, leave, err := h.enter()
	if err != nil {
		return nil, admin.Problemf(http.StatusServiceUnavailable, "not_served", "hosted member %s is not served: %v", id, err)
	}
	leave() // administration holds nothing up that ends
	return backend{guest}, nil
}

// hostedStatus describes the members that the node hosts.
func (n *Node) hostedStatus() []admin.HostedStatus {
	var out []admin.HostedStatus
	for _, h := range n.hosted {
		s := admin.HostedStatus{Member: h.cfg.Member}
		guest, leave, err := h.enter()
		if err != nil {
			s.Problem = err.Error()
		} else {
			es := guest.current.Load().evidence.Status()
			s.Serving, s.Origin, s.Size, s.AnchoredSize = true, es.Origin, es.Size, es.AnchoredSize
			leave()
		}
		out = append(out, s)
	}
	return out
}

// Backup writes the node's stores as an archive.
func (b backend) Backup(ctx context.Context, to io.Writer) error { return b.n.Backup(ctx, to) }

// Status describes the node.
func (b backend) Status() admin.Status {
	n := b.n
	s := admin.Status{
		Member: n.cfg.Member, Instance: n.member.Instance, ChainID: n.genesis.ChainID, Version: Version(),
		Started: n.started.UTC(), Ready: n.front().takesExchanges(), ConsumerURL: n.front().ConsumerURL(), ProviderAddr: n.front().ProviderAddress(),
		MetricsURL: n.front().MetricsURL(), Components: n.components(),
		Ledger:   admin.LedgerStatus{Mode: n.cfg.Ledger.Mode, Problems: []string{}},
		Evidence: admin.EvidenceStatus{Origin: n.origin()}, Hosted: n.hostedStatus(),
	}
	if led := n.ledger.Load(); led != nil {
		ls := led.Status()
		s.LedgerAddr, s.LedgerID = led.ListenAddress(), led.NodeID()
		s.Ledger.Height, s.Ledger.AppHash, s.Ledger.BlockTime = ls.Height, hex.EncodeToString(ls.AppHash[:]), ls.BlockTime.UTC()
		if hash, err := led.HeaderHash(ls.Height); err == nil {
			s.Ledger.BlockHash = hex.EncodeToString(hash)
		}
		s.Ledger.Peers, s.Ledger.CatchingUp, s.Ledger.Healthy = ls.Peers, ls.CatchingUp, ls.Healthy
		s.Ledger.Problems = append(s.Ledger.Problems, ls.Problems...)
		if v := led.View(); v != nil {
			s.Ledger.EventSize = v.EventSize()
		}
	}
	if r := n.current.Load(); r != nil {
		note, size, root := r.evidence.Checkpoint()
		es := r.evidence.Status()
		s.Evidence.Checkpoint, s.Evidence.Size, s.Evidence.Root = string(note), size, root[:]
		s.Evidence.AnchoredSize, s.Evidence.AnchoredHeight = es.AnchoredSize, es.AnchoredHeight
		s.Evidence.AnchorInterval = time.Duration(b.n.cfg.Evidence.AnchorInterval).String()
		if es.AnchorInterval > 0 {
			s.Evidence.AnchorInterval = es.AnchorInterval.String()
		}
		s.Evidence.Accepting = true
		if err := r.evidence.Admit(); err != nil {
			s.Evidence.Accepting, s.Evidence.Problem = false, err.Error()
		}
	}
	return s
}

var errStarting = admin.Problemf(http.StatusServiceUnavailable, "starting", "the node is starting").WithHint("\"civibus status\" says what it waits for")

// Exchange returns what the body holds about an exchange.
func (b backend) Exchange(id string) (admin.Exchange, error) {
	r := b.n.current.Load()
	if r == nil {
		return admin.Exchange{}, errStarting
	}
	found, err := r.evidence.Find(id)
	if err != nil {
		return admin.Exchange{}, err
	}
	if len(found) == 0 {
		return admin.Exchange{}, admin.Problemf(http.StatusNotFound, "not_found", "exchange %q is not in this body's evidence", id).
			WithHint("the id is the X-Road-Request-Id of the answer; \"civibus log show\" lists the newest%s", b.n.elsewhere())
	}
	var out admin.Exchange
	for _, e := range found {
		entry, err := entryOf(e)
		if err != nil {
			return admin.Exchange{}, err
		}
		out.Entries = append(out.Entries, entry)
	}
	other, err := r.evidence.Counterpart(id)
	out.Counterpart = other != nil
	return out, err
}

// Exchanges lists the newest entries.
func (b backend) Exchanges(ctx context.Context, limit int) ([]admin.Entry, error) {
	r := b.n.current.Load()
	if r == nil {
		return nil, errStarting
	}
	size := r.evidence.Status().Size
	from := uint64(0)
	if size > uint64(limit) {
		from = size - uint64(limit)
	}
	var out []admin.Entry
	for e, err := range r.evidence.Entries(ctx, from, size) {
		if err != nil {
			return nil, err
		}
		entry, err := entryOf(e)
		if err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

func entryOf(e evidence.Entry) (admin.Entry, error) {
	r := &evidencepb.Record{}
	if err := proto.Unmarshal(e.Record, r); err != nil {
		return admin.Entry{}, fmt.Errorf("record at index %d: %w", e.Index, err)
	}
	return admin.Entry{
		Index: e.Index, Integrated: e.Integrated, Side: sideName(r.Side), ExchangeID: r.ExchangeId, MessageID: r.MessageId,
		Client: r.Client, Service: r.Service, RightID: r.RightId, Height: r.RegistryHeight,
		Outcome: strings.ToLower(strings.TrimPrefix(r.Outcome.String(), "OUTCOME_")), Fault: r.Fault, Status: r.Status,
		Started: time.Unix(0, r.StartedUnixNano).UTC(), Finished: time.Unix(0, r.FinishedUnixNano).UTC(), Record: e.Record,
	}, nil
}

// CheckLog compares the evidence log with what the registry witnessed.
func (b backend) CheckLog(context.Context) (admin.Check, error) {
	r := b.n.current.Load()
	if r == nil {
		return admin.Check{}, errStarting
	}
	c := admin.Check{OK: true}
	step := func(name string, err error, good string) {
		s := admin.CheckStep{Name: name, OK: err == nil, Detail: good}
		if err != nil {
			s.Detail, c.OK = err.Error(), false
		}
		c.Steps = append(c.Steps, s)
	}
	v := b.n.view()
	note, size, root := r.evidence.Checkpoint()
	anchored, has := v.Log(b.n.origin())
	switch {
	case !has && size == 0:
		step("anchor", nil, "the log is empty and nothing is anchored")
		return c, nil
	case !has:
		step("anchor", nil, fmt.Sprintf("%d entries wait for their first anchor", size))
		return c, nil
	}
	step("checkpoint", checkNote(v, b.n.member, note), fmt.Sprintf("%d entries, signed with a log key in force", size))
	step("no rollback", ifErr(anchored.Size > size, "the registry witnessed %d entries and the log has %d: entries are lost", anchored.Size, size),
		fmt.Sprintf("the registry witnessed %d entries at height %d", anchored.Size, anchored.Anchored))
	if anchored.Size <= size {
		step("no fork", checkExtends(r.evidence, anchored, size, root), "the log extends what the registry witnessed")
	}
	step("admission", r.evidence.Admit(), "exchanges are accepted")
	return c, nil
}

func ifErr(bad bool, format string, args ...any) error {
	if bad {
		return fmt.Errorf(format, args...)
	}
	return nil
}

// origin is the origin of the body's evidence log.
func (n *Node) origin() string {
	return fmt.Sprint(originPrefix(n.member), n.cfg.Evidence.Log)
}

// originPrefix begins the origins of all evidence logs of a member.
func originPrefix(id civibus.MemberID) string {
	part := func(s string) string { return strings.ReplaceAll(civibus.EncodePart(s), "+", "%2B") }
	return fmt.Sprintf("civibus/%s/%s/%s/evidence/", part(id.Instance), part(id.Class), part(id.Code))
}
