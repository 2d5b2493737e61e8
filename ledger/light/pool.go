package light

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// A full node that fails is asked again after pauseFirst, then after twice as long
// each time, up to pauseMost. One that lied is left alone for Config.DropFor.
const (
	pauseFirst = 500 * time.Millisecond
	pauseMost  = 30 * time.Second
	poolMost   = 24  // full nodes that are known at a time, beside the configured ones
	liesKept   = 100 // files
)

// pool is the full nodes that are known.
type pool struct {
	c *Client

	mu    sync.Mutex
	nodes []*fullNode // in the order in which they are asked

	updated time.Time
}

// usable are the full nodes that may be asked now, the preferred one first.
func (p *pool) usable() []*fullNode {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.c.cfg.Clock()
	var out []*fullNode
	for _, f := range p.nodes {
		if !now.Before(f.until) {
			out = append(out, f)
		}
	}
	return out
}

// next is when the first full node may be asked that may not be asked now.
func (p *pool) next() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	least := pauseMost
	for _, f := range p.nodes {
		least = min(least, f.until.Sub(p.c.cfg.Clock()))
	}
	return max(least, 20*time.Millisecond)
}

// prefer asks a full node first from now on.
func (p *pool) prefer(f *fullNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.nodes, f)
	if i > 0 {
		p.nodes = slices.Insert(slices.Delete(p.nodes, i, i+1), 0, f)
	}
}

// worked says that a full node answered.
func (p *pool) worked(f *fullNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.pause, f.problem, f.lied = 0, "", false
}

// failed leaves a full node alone for a time, as long as what it did deserves. It
// is asked after the others from then on.
func (p *pool) failed(ctx context.Context, f *fullNode, err error) {
	if ctx.Err() != nil {
		return
	}
	var l *lie
	isLie := errors.As(err, &l)
	p.mu.Lock()
	f.pause = min(max(2*f.pause, pauseFirst), pauseMost)
	pause := f.pause
	if isLie {
		pause = p.c.cfg.DropFor
	}
	f.until, f.problem, f.lied = p.c.cfg.Clock().Add(pause), err.Error(), isLie
	if i := slices.Index(p.nodes, f); i >= 0 {
		p.nodes = append(slices.Delete(p.nodes, i, i+1), f)
	}
	p.mu.Unlock()
	if isLie {
		p.keep(f, l)
		return
	}
	p.c.cfg.Logger.Info("a full node does not answer as it should", slog.String("full_node", f.address), slog.Any("error", err), slog.Duration("pause", pause))
}

// testimony is a lie as it is kept.
type testimony struct {
	FullNode string    `json:"full_node"`
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"`
	Why      string    `json:"why"`
	Asked    string    `json:"asked"`
	Trusted  int64     `json:"trusted_height"`
	Hash     string    `json:"trusted_hash"`
	Said     []byte    `json:"said"` // base64, as it came
}

// keep names a full node that lied and keeps what it said.
func (p *pool) keep(f *fullNode, l *lie) {
	t := testimony{FullNode: f.address, At: p.c.cfg.Clock().UTC(), Kind: l.kind, Why: l.why.Error(), Asked: l.path, Said: l.said}
	if lb := p.c.trust(); lb != nil {
		t.Trusted, t.Hash = lb.Height, hex.EncodeToString(lb.Hash())
	}
	p.c.metrics.lies.WithLabelValues(l.kind).Inc()
	file, err := p.write(t)
	p.c.cfg.Logger.Error("a full node lied and is left alone", slog.String("full_node", f.address), slog.String("kind", l.kind),
		slog.String("why", l.why.Error()), slog.Duration("for", p.c.cfg.DropFor), slog.String("kept_in", file))
	if err != nil {
		p.c.cfg.Logger.Error("what a full node said cannot be kept", slog.Any("error", err))
	}
}

func (p *pool) write(t testimony) (string, error) {
	dir := filepath.Join(p.c.cfg.Dir, "lies")
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// The newest are kept: names begin with the time.
	old, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for i := 0; i <= len(old)-liesKept; i++ {
		if err := os.Remove(filepath.Join(dir, old[i].Name())); err != nil {
			return "", err
		}
	}
	file := filepath.Join(dir, fmt.Sprintf("%s-%s.json", t.At.Format("20060102T150405.000000000"), t.Kind))
	return file, os.WriteFile(file, append(b, '\n'), 0o600)
}

// update takes the gateways of the registry's members that run a ledger node.
func (p *pool) update(v *registry.View) {
	want := gatewaysOf(v, p.c.cfg.Member, p.c.cfg.ServerCode)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.nodes {
		if i := slices.Index(want, f.address); i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else if !f.configured {
			f.problem = "gone"
		}
	}
	p.nodes = slices.DeleteFunc(p.nodes, func(f *fullNode) bool {
		if f.problem == "gone" && !f.configured {
			f.close()
			return true
		}
		return false
	})
	for _, a := range want {
		p.nodes = append(p.nodes, newFullNode(p.c, a))
	}
}

// updateEvery is how often the registry's gateways are looked at.
const updateEvery = 30 * time.Second

// updateSometimes is update, now and then.
func (p *pool) updateSometimes(v *registry.View) {
	p.mu.Lock()
	now := p.c.cfg.Clock()
	due := now.Sub(p.updated) >= updateEvery
	if due {
		p.updated = now
	}
	p.mu.Unlock()
	if due {
		p.update(v)
	}
}

// last asks a full node after the others from now on.
func (p *pool) last(f *fullNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.nodes, f); i >= 0 {
		p.nodes = append(slices.Delete(p.nodes, i, i+1), f)
	}
}

// gatewaysOf are the addresses of gateways whose members run ledger nodes but for
// one gateway itself, few of them, not the same ones at every member.
func gatewaysOf(v *registry.View, self civibus.MemberID, code string) (out []string) {
	members := map[civibus.MemberID]bool{}
	for _, n := range v.Nodes() {
		members[n.Member] = true
	}
	for _, k := range v.Validators() {
		members[k.Member] = k.Power > 0 || members[k.Member]
	}
	for m := range members {
		rec, ok := v.Member(m)
		if !ok || rec.Status != civibus.Active {
			continue
		}
		for _, g := range rec.Gateways {
			if (m != self || g.Code != code) && splitAddress(g.Address) == nil && !slices.Contains(out, g.Address) {
				out = append(out, g.Address)
			}
		}
	}
	rank := func(address string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(self.String() + " " + address))
		return h.Sum64()
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	return out[:min(len(out), poolMost)]
}

// count says how many full nodes are known, may be asked now, and lied.
func (p *pool) count() (known, usable, liars int, names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.c.cfg.Clock()
	for _, f := range p.nodes {
		if f.problem == "" {
			usable++
		}
		if f.lied && now.Before(f.until) {
			liars++
			names = append(names, f.address)
		}
	}
	return len(p.nodes), usable, liars, names
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.nodes {
		f.close()
	}
}
