package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/usage"
)

const (
	usageRetry = 10 * time.Second // after a failure, and between two looks at whether a period is over
	// usageMargin keeps the end of a period before the time of the block that takes it,
	// which is a little behind the clocks.
	usageMargin = 5 * time.Second
)

// usageKeyFile is where the key is by which persons are found.
func (c Config) usageKeyFile() string {
	if c.Usage.Key != "" {
		return c.Usage.Key
	}
	return filepath.Join(c.DataDir, usageKeyName)
}

// parseSubject reads a service's rule of whom its requests concern.
func parseSubject(s string) (r usage.Rule, err error) {
	kind, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && kind == "path":
		r.Path = rest
	case ok && kind == "query":
		r.Query = rest
	case ok && kind == "json":
		r.JSON = rest
	default:
		return r, errors.New("the rule is path:PATTERN, query:PARAMETER or json:FIELD")
	}
	return r, r.Validate()
}

// openUsage opens what makes and keeps usage records.
func (n *Node) openUsage(r *rooms, closers *closers) (err error) {
	rules := map[civibus.ServiceID]usage.Rule{}
	for i, s := range n.cfg.Services {
		if s.Subject == "" {
			continue
		}
		parts, err := civibus.SplitIdentifier(s.ID, 2, 3)
		if err != nil {
			return fmt.Errorf("services[%d]: %w", i, err)
		}
		id := civibus.ServiceID{ClientID: civibus.ClientID{MemberID: n.member, Subsystem: parts[0]}, Service: parts[1]}
		if len(parts) == 3 {
			id.Version = parts[2]
		}
		if rules[id], err = parseSubject(s.Subject); err != nil {
			return fmt.Errorf("services[%d].subject: %w", i, err)
		}
	}
	if r.keeper, err = usage.NewKeeper(n.cfg.usageKeyFile(), rules); err != nil {
		return err
	}
	r.usage, err = usage.Open(usage.Config{
		Dir: n.cfg.usageFolder(), Keeper: r.keeper,
		Retention: time.Duration(n.cfg.Evidence.RecordRetention), Clock: n.clock, Logger: n.log.With("room", "usage"),
	})
	if err != nil {
		return err
	}
	closers.add("usage records", func(context.Context) error { return r.usage.Close() })
	return nil
}

// usageService is the service by which portals ask for usage records, if there is one.
func (n *Node) usageService(r *rooms) []service.Upstream {
	if n.cfg.Usage.Subsystem == "" {
		return nil
	}
	code, err := civibus.DecodePart(n.cfg.Usage.Subsystem)
	if err != nil {
		return nil // the configuration was checked
	}
	return []service.Upstream{{
		Service: civibus.ServiceID{ClientID: civibus.ClientID{MemberID: n.member, Subsystem: code}, Service: usage.ServiceCode},
		Handler: usage.NewAPI(r.usage, n.nameOf),
	}}
}

// nameOf is a member's name in the registry, "" if it has none.
func (n *Node) nameOf(id civibus.MemberID) string {
	if v := n.view(); v != nil {
		m, _ := v.Member(id)
		return m.Name
	}
	return ""
}

// runUsage builds the index as the evidence log grows, and has the registry anchor the
// periods. A failure holds up no exchange: the records are durable with their exchanges.
func (n *Node) runUsage(ctx context.Context, r *rooms, group *errgroup.Group) {
	again := func(what string, every time.Duration, fn func() error) func() error {
		return func() error {
			timer := time.NewTicker(every)
			defer timer.Stop()
			for {
				if err := fn(); err != nil && ctx.Err() == nil {
					n.log.WarnContext(ctx, what, "error", err)
				}
				select {
				case <-timer.C:
				case <-ctx.Done():
					return nil
				}
			}
		}
	}
	look := max(min(usageRetry, time.Duration(n.cfg.Usage.Period)), time.Second)
	group.Go(again("index usage records", usageRetry, func() error { return r.usage.Follow(ctx, r.evidence) }))
	group.Go(again("anchor usage records", look, func() error { return n.anchorUsage(ctx, r) }))
}

// anchorUsage closes a period when it is over and has the registry anchor it.
func (n *Node) anchorUsage(ctx context.Context, r *rooms) error {
	v := n.view()
	if v == nil || v.Params().Protocol < 2 {
		return nil
	}
	// 1. The period before, which is noted here also if this process died meanwhile.
	last, ok := v.UsagePeriod(n.origin())
	if ok {
		if _, known, err := r.usage.Period(last.Period); err != nil || !known {
			if err = errors.Join(err, r.usage.Anchored(periodOf(last))); err != nil {
				return err
			}
		}
	}
	// 2. What is witnessed and indexed since. A log without any usage record has no periods.
	next, err := r.usage.Next()
	if err != nil {
		return err
	}
	log, _ := v.Log(n.origin())
	until := n.clock().Add(-usageMargin).Truncate(time.Second)
	end := min(next, log.Size)
	if end <= last.EndLeaf || until.Sub(last.Until) < time.Duration(n.cfg.Usage.Period) || !until.After(last.Until) {
		return nil
	}
	p, err := r.usage.Sum(last.Period+1, last.EndLeaf, end, until)
	if err != nil || !ok && p.Size() == 0 {
		return err
	}
	// 3. The anchor.
	root, err := hex.DecodeString(p.Root)
	if err != nil {
		return err
	}
	c, err := n.submit(ctx, civibus.LogKey, &registrypb.Tx{Body: &registrypb.Tx_AnchorUsage{AnchorUsage: &registrypb.AnchorUsage{
		Log: uint32(n.cfg.Evidence.Log), Period: p.Number, FirstLeaf: p.FirstLeaf, EndLeaf: p.EndLeaf, Until: p.Until.Unix(),
		Shown: p.Shown, Later: p.Later, Never: p.Never, Root: root,
	}}})
	if err != nil {
		return err
	}
	if c.Code != registry.OK {
		return fmt.Errorf("the registry refused usage period %d: %s: %s", p.Number, c.Code, c.Reason)
	}
	p.Height = c.Height
	return r.usage.Anchored(p)
}

func periodOf(p registry.UsagePeriod) usage.Period {
	return usage.Period{
		Number: p.Period, FirstLeaf: p.FirstLeaf, EndLeaf: p.EndLeaf, Until: p.Until,
		Shown: p.Count.Shown, Later: p.Count.Later, Never: p.Count.Never, Root: hex.EncodeToString(p.Root[:]), Height: p.Anchored,
	}
}

// Usage answers the body's own questions about usage records.
func (b backend) Usage(_ context.Context, q admin.UsageQuery) (admin.UsageAnswer, error) {
	r := b.n.current.Load()
	if r == nil {
		return admin.UsageAnswer{}, errStarting
	}
	bad := func(err error) error {
		return admin.Problemf(http.StatusBadRequest, "invalid_parameter", "%v", err)
	}
	out := admin.UsageAnswer{Records: []admin.UsageRecord{}, Periods: []admin.UsagePeriod{}, Objections: []admin.UsageObjection{}}
	if q.Answer != "" {
		if _, err := r.usage.Answer(q.Case, q.Answer); err != nil {
			return out, bad(err)
		}
	}
	if q.Subject != "" {
		page, err := r.usage.Find(usage.Query{Subject: q.Subject, Limit: q.Limit, After: q.After, All: true})
		if err != nil {
			return out, bad(err)
		}
		out.Next = page.Next
		for _, f := range page.Items {
			u := usage.Show(f, b.n.nameOf)
			out.Records = append(out.Records, admin.UsageRecord{
				ID: u.ID, Time: f.Time(), Action: u.Action, Receiver: u.ReceiverCode, Name: u.ReceiverName, System: u.ReceiverSystem, Service: u.Service,
				Purpose: u.Purpose, LegalBasis: u.LegalBasis, Case: u.CaseReference, Exchange: u.Exchange, Disclosure: civibus.Disclosure(f.Record.Disclosure).String(),
				Supersedes: u.Supersedes, Reason: u.Reason, SupersededBy: u.SupersededBy,
			})
		}
		return out, nil
	}
	periods, err := r.usage.Periods(min(max(q.Limit, 1), usage.MaxPage))
	if err != nil {
		return out, err
	}
	for _, p := range periods {
		out.Periods = append(out.Periods, admin.UsagePeriod(p))
	}
	cases, err := r.usage.Objections(min(max(q.Limit, 1), usage.MaxPage))
	if err != nil {
		return out, err
	}
	for _, o := range cases {
		out.Objections = append(out.Objections, admin.UsageObjection(o))
	}
	return out, nil
}
