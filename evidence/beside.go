package evidence

import (
	"context"
	"iter"
	"slices"
	"sync"
)

// besidesKept is of how many of the newest leaves it is remembered whether something is
// kept beside them.
const besidesKept = 1 << 16

// besides remembers which of the newest leaves have something beside them, so that who
// follows the log for that alone need not read all others back.
type besides struct {
	mu       sync.Mutex
	from, to uint64   // the leaves of which it is known
	with     []uint64 // those that have something, in order
}

// note takes the leaves that came.
func (b *besides) note(entries []stored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		if e.index != b.to { // nothing is known of what is between
			b.from, b.with = e.index, nil
		}
		b.to = e.index + 1
		if e.beside {
			b.with = append(b.with, e.index)
		}
	}
	if b.to-b.from > 2*besidesKept {
		b.from = b.to - besidesKept
		n, _ := slices.BinarySearch(b.with, b.from)
		b.with = slices.Clone(b.with[n:])
	}
}

// within returns the first leaf of a stretch of which it is known, and those from it on
// that have something beside them.
func (b *besides) within(from, to uint64) (known uint64, with []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if to > b.to || b.to == 0 {
		return to, nil
	}
	known = min(max(from, b.from), to)
	first, _ := slices.BinarySearch(b.with, known)
	last, _ := slices.BinarySearch(b.with, to)
	return known, slices.Clone(b.with[first:max(first, last)])
}

// Besides goes through the integrated entries from..to (to excluded) that have something
// beside them, as Entries does.
func (l *Log) Besides(ctx context.Context, from, to uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		to := min(to, l.tree.Tree().Size())
		known, with := l.besides.within(from, to)
		for e, err := range l.Entries(ctx, from, known) {
			if err == nil && len(e.Beside) == 0 {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		for _, index := range with {
			for e, err := range l.Entries(ctx, index, index+1) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}
