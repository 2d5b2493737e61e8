//go:build linux

package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/evidence/tiles"
)

// Figures are what a run counted.
type Figures struct {
	Exchanges   int            `json:"exchanges"`   // acknowledged
	Changes     int            `json:"changes"`     // of the registry, acknowledged
	Failed      map[string]int `json:"failed"`      // what clients were refused, by reason
	LongestGap  time.Duration  `json:"-"`           // without an exchange between two healthy bodies
	Receipts    int            `json:"receipts"`    // issued, all verified
	Checkpoints int            `json:"checkpoints"` // of evidence logs, all compared with the log at the end
	Heights     int            `json:"heights"`     // at which application hashes were compared
}

// sample is how many exchanges receipts are made of at the end, beside those made
// on the way.
const sample = 24

// Verify ends the load, stops all bodies in order and reports everything that does
// not hold:
//   - no two nodes had different application hashes at one height
//   - what was acknowledged is there: exchanges in the logs of both bodies, changes
//     in the registry of every node
//   - every receipt verifies, with nothing but the policy file
//   - evidence logs only grew: each checkpoint seen is a state that the log, rebuilt
//     from its entries, had; and the log fits its records
//   - exchanges between healthy bodies did not stop for longer than one timeout
//   - no exchange was refused for a reason that an up-to-date registry does not give
//
// All bodies must run.
func (n *Network) Verify(ctx context.Context) (f Figures, err error) {
	// 1. The load ends, and the figures that it leaves.
	l := n.load
	l.Stop()
	f = Figures{Exchanges: len(l.exchanges), Changes: len(l.changes), Failed: l.failed}
	for _, line := range l.lines {
		f.LongestGap = max(f.LongestGap, line.gap)
	}
	var errs []error
	check := func(err error) { errs = append(errs, err) }
	if f.LongestGap > AnswerTimeout+Slack() {
		check(fmt.Errorf("no exchange between two healthy bodies for %v, the rule is at most one timeout, %v", f.LongestGap, AnswerTimeout))
	}
	if f.Exchanges == 0 || f.Changes == 0 {
		check(fmt.Errorf("%d exchanges and %d changes were acknowledged: there was no load", f.Exchanges, f.Changes))
	}
	for _, kind := range []string{"AccessDenied", "UnknownMember", "UnknownService"} {
		for reason, times := range f.Failed {
			if strings.HasSuffix(reason, kind) {
				check(fmt.Errorf("%s, %d times: a node decided on a view that it should have known to be old, since no right ever ended", reason, times))
			}
		}
	}
	// 2. What the running nodes say.
	check(n.Await(ctx, n.Bodies...))
	check(n.agree(ctx))
	check(n.checkChanges(ctx))
	check(n.issueSome(ctx))
	for _, r := range n.watch.receipts {
		if _, err := proof.Verify(r.file, r.policy); err != nil {
			check(fmt.Errorf("the receipt of exchange %s: %w", r.exchange.id, err))
		}
	}
	f.Receipts = len(n.watch.receipts)
	// 3. What is on their disks once they have stopped.
	for _, b := range n.Bodies {
		check(b.Process().Stop(30 * time.Second))
	}
	n.watch.stop()
	n.watch.group.Wait()
	check(n.watch.violations())
	f.Heights = len(n.watch.hashes)
	for _, b := range n.Bodies {
		check(n.checkLog(ctx, b))
		f.Checkpoints += len(n.watch.checkpoints[b])
	}
	return f, errors.Join(errs...)
}

// issueSome has receipts made of a sample of the exchanges, at both bodies. What a
// gateway that was killed never recorded keeps the other's half waiting for a while:
// then the own half alone must do.
func (n *Network) issueSome(ctx context.Context) error {
	picked := rand.Perm(len(n.load.exchanges))[:min(sample, len(n.load.exchanges))]
	errs := make([]error, len(picked))
	var group errgroup.Group
	group.SetLimit(sample)
	for i, k := range picked {
		group.Go(func() error {
			x := n.load.exchanges[k]
			if errs[i] = n.watch.issue(ctx, x, 2*time.Second, true); errs[i] == nil {
				return nil
			}
			// Nor need a quorum of cosignatures come in time on a busy computer.
			patient, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_ = Until(patient, func() bool { // errs says why not
				errs[i] = n.watch.issue(ctx, x, 30*time.Second, false)
				return errs[i] == nil
			})
			return nil
		})
	}
	return errors.Join(group.Wait(), errors.Join(errs...))
}

// agree waits until all nodes are at one height and compares their application
// hashes. The hash covers the log of all events, and with it the state after every
// block before (docs/decisions/0002): nodes that agree now always did.
func (n *Network) agree(ctx context.Context) error {
	var all []admin.Status
	err := Until(ctx, func() bool {
		all = nil
		for _, b := range n.Bodies {
			s, err := b.Status(ctx)
			if err != nil {
				return false
			}
			all = append(all, s)
		}
		return !slices.ContainsFunc(all, func(s admin.Status) bool { return s.Ledger.Height != all[0].Ledger.Height })
	})
	if err != nil {
		return fmt.Errorf("the nodes do not come to one height: %w", err)
	}
	for _, s := range all {
		if s.Ledger.AppHash != all[0].Ledger.AppHash {
			return fmt.Errorf("at height %d %s has application hash %s, %s has %s", s.Ledger.Height, s.Member, s.Ledger.AppHash, all[0].Member, all[0].Ledger.AppHash)
		}
	}
	return nil
}

// checkChanges looks for every acknowledged change in every node's registry.
func (n *Network) checkChanges(ctx context.Context) error {
	var errs []error
	for _, b := range n.Bodies {
		have := map[string]bool{}
		for after, more := "", true; more; more = after != "" {
			page, err := b.Admin().Subsystems(ctx, admin.ListOptions{After: after, Limit: 1000})
			if err != nil {
				return fmt.Errorf("%s: %w", b.ID, err)
			}
			for _, s := range page.Items {
				have[s.ID] = true
			}
			after = page.Next
		}
		for _, id := range n.load.changes {
			if !have[id] {
				errs = append(errs, fmt.Errorf("%s was acknowledged, and is not in the registry of %s", id, b.ID))
			}
		}
	}
	return errors.Join(errs...)
}

// checkLog checks a stopped body's evidence log against itself, against every
// checkpoint that was seen, and against what its clients and peers were answered.
func (n *Network) checkLog(ctx context.Context, b *Body) error {
	dir := b.Path(b.Config.EvidenceDir())
	var errs []error
	// 1. Its files fit one another.
	report, err := evidence.Fsck(ctx, dir, evidence.FsckOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w", b.ID, err)
	}
	for _, p := range report.Problems {
		errs = append(errs, fmt.Errorf("%s: %s: %s", b.ID, p.File, p.What))
	}
	// 2. Every state that it ever signed is one on the way to the last.
	seen := n.watch.checkpoints[b]
	sizes := slices.Collect(maps.Keys(seen))
	roots, err := tiles.Rebuild(ctx, filepath.Join(dir, "tree"), report.Size, sizes, nil, func(d tiles.Damage) {
		errs = append(errs, fmt.Errorf("%s: %s: %s", b.ID, d.File, d.What))
	})
	if err != nil {
		return err
	}
	for size, root := range seen {
		if got, ok := roots[size]; !ok || fmt.Sprintf("%x", got) != root {
			errs = append(errs, fmt.Errorf("%s signed a checkpoint of size %d with root %s, its log of size %d has %x there", b.ID, size, root, report.Size, got))
		}
	}
	// 3. Every acknowledged exchange of the body is in it.
	reader, err := evidence.OpenReader(dir)
	if err != nil {
		return err
	}
	defer reader.Close()
	have := map[string]bool{}
	for e, err := range reader.Entries(ctx, 0, reader.Size()) {
		if err != nil {
			return fmt.Errorf("%s: %w", b.ID, err)
		}
		var record evidencepb.Record
		if err := proto.Unmarshal(e.Record, &record); err != nil {
			return fmt.Errorf("%s: entry %d: %w", b.ID, e.Index, err)
		}
		have[record.ExchangeId] = record.Outcome == evidencepb.Outcome_OUTCOME_ANSWERED
	}
	for _, x := range n.load.exchanges {
		if (x.consumer == b || x.provider == b) && !have[x.id] {
			errs = append(errs, fmt.Errorf("exchange %s from %s to %s was acknowledged, and is not in the evidence of %s", x.id, x.consumer.ID, x.provider.ID, b.ID))
		}
	}
	return errors.Join(errs...)
}
