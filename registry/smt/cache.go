package smt

import "sync"

// cache keeps recently used pages. It has two generations: what is not asked
// for while one generation fills is forgotten with it, so that its size is
// bounded and no list has to be kept in order.
type cache struct {
	shards [16]cacheShard
	limit  int // pages per generation and shard
}

type cacheShard struct {
	mu         sync.Mutex
	young, old map[uint64]*page
}

func newCache(pages int) *cache {
	c := &cache{limit: max(pages/(2*16), 4)}
	for i := range c.shards {
		c.shards[i].young = make(map[uint64]*page)
	}
	return c
}

func (c *cache) get(id uint64) *page {
	s := &c.shards[id%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.young[id]; p != nil {
		return p
	}
	p := s.old[id]
	if p != nil {
		s.put(id, p, c.limit)
	}
	return p
}

func (c *cache) put(id uint64, p *page) {
	s := &c.shards[id%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(id, p, c.limit)
}

func (c *cache) drop(id uint64) {
	s := &c.shards[id%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.young, id)
	delete(s.old, id)
}

func (s *cacheShard) put(id uint64, p *page, limit int) {
	if len(s.young) >= limit {
		s.old, s.young = s.young, make(map[uint64]*page, limit)
	}
	s.young[id] = p
}
