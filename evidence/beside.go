package evidence

import (
	"context"
	"iter"
	"slices"
	"sync"
)

const (
	// besidesKept is of how many of the newest leaves it is remembered whether something
	// is kept beside them.
	besidesKept = 1 << 16
	// besidesBytes bounds what is remembered of that itself.
	besidesBytes = 16 << 20
	besideMost   = 4 << 10 // and of one entry
)

// besides remembers which of the newest leaves have something beside them, so that who
// follows the log for that alone need not read all others back; and what it is, until
// somebody has followed, so that these are not read back and unsealed either.
type besides struct {
	mu       sync.Mutex
	from, to uint64   // the leaves of which it is known
	with     []uint64 // those that have something, in order
	content  map[uint64][]byte
	bytes    int
}

// note takes the leaves that came.
func (b *besides) note(entries []stored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		if e.index != b.to { // nothing is known of what is between
			b.from, b.with, b.content, b.bytes = e.index, nil, nil, 0
		}
		b.to = e.index + 1
		if !e.beside {
			continue
		}
		b.with = append(b.with, e.index)
		if n := len(e.content); n > 0 && b.bytes+n <= besidesBytes {
			if b.content == nil {
				b.content = map[uint64][]byte{}
			}
			b.content[e.index] = e.content
			b.bytes += n
		}
	}
	if b.to-b.from > 2*besidesKept {
		b.from = b.to - besidesKept
		n, _ := slices.BinarySearch(b.with, b.from)
		for _, index := range b.with[:n] {
			b.take(index)
		}
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

// take returns what is beside a leaf, if it is remembered, and does not remember it any
// more. b.mu is held.
func (b *besides) take(index uint64) []byte {
	content := b.content[index]
	delete(b.content, index)
	b.bytes -= len(content)
	return content
}

// once is take for who follows.
func (b *besides) once(index uint64) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.take(index)
}

// forget is called with leaves before they are erased: nothing of them is in memory then.
func (b *besides) forget(leaves []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, index := range leaves {
		b.take(index)
	}
}

// Besides goes through the integrated entries from..to (to excluded) that have something
// beside them, as Entries does. Of an entry that was not gone through before it may be that
// only Index and Beside are told.
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
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
			if content := l.besides.once(index); content != nil {
				if !yield(Entry{Index: index, Integrated: true, Beside: content}, nil) {
					return
				}
				continue
			}
			for e, err := range l.Entries(ctx, index, index+1) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}
