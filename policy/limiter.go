package policy

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/civibus/civibus"
)

const limiterShards = 16

// Limiter bounds the calls under each access right. It stands at the
// provider's gateway and keeps one token bucket a right: a right with a limit
// of n requests per period has a bucket of n tokens that fills evenly over the
// period. Several gateways of one body limit each on its own.
//
// Its memory is bounded: buckets that are full again are forgotten, which
// changes nothing, and when every bucket is in use the one that fills first is
// forgotten.
//
// Trust: an attacker who holds a right can at most use up that right's own
// bucket.
type Limiter struct {
	perShard int
	seed     maphash.Seed
	shards   [limiterShards]limiterShard
}

type limiterShard struct {
	mu   sync.Mutex
	full map[string]time.Time // when the right's bucket is full again
}

// NewLimiter returns a limiter that keeps at most about capacity buckets.
func NewLimiter(capacity int) *Limiter {
	l := &Limiter{perShard: max(1, capacity/limiterShards), seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].full = make(map[string]time.Time)
	}
	return l
}

// Allow takes a token from the right's bucket. When there is none it returns
// false and after how long there will be one.
func (l *Limiter) Allow(right string, limit civibus.RateLimit, now time.Time) (ok bool, retry time.Duration) {
	if limit.Requests == 0 || limit.Per <= 0 {
		return true, 0
	}
	cost := limit.Per / time.Duration(limit.Requests) // time in which one token comes
	s := &l.shards[maphash.String(l.seed, right)%limiterShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	full, known := s.full[right]
	if full.Before(now) {
		full = now
	}
	if full = full.Add(cost); full.Sub(now) > limit.Per {
		return false, full.Sub(now) - limit.Per
	}
	if !known && len(s.full) >= l.perShard {
		s.forget(now)
	}
	s.full[right] = full
	return true, 0
}

// forget makes room: every bucket that is full, or else the one that is full
// first.
func (s *limiterShard) forget(now time.Time) {
	var first string
	var at time.Time
	before := len(s.full)
	for right, full := range s.full {
		if !full.After(now) {
			delete(s.full, right)
		} else if first == "" || full.Before(at) {
			first, at = right, full
		}
	}
	if len(s.full) == before {
		delete(s.full, first)
	}
}

// Len returns the number of buckets in use.
func (l *Limiter) Len() int {
	n := 0
	for i := range l.shards {
		l.shards[i].mu.Lock()
		n += len(l.shards[i].full)
		l.shards[i].mu.Unlock()
	}
	return n
}
