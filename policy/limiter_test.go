package policy_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
	"pgregory.net/rapid"
)

func TestLimiter(t *testing.T) {
	l := policy.NewLimiter(100)
	limit := civibus.RateLimit{Requests: 3, Per: 3 * time.Second}
	for i := range 3 {
		if ok, _ := l.Allow("a", limit, noon); !ok {
			t.Fatalf("call %d of a full bucket refused", i+1)
		}
	}
	ok, retry := l.Allow("a", limit, noon)
	if ok || retry != time.Second {
		t.Fatalf("fourth call: %v, retry after %v; want refused and 1s", ok, retry)
	}
	if ok, _ := l.Allow("b", limit, noon); !ok {
		t.Error("another right is limited by it")
	}
	if ok, _ := l.Allow("a", limit, noon.Add(999*time.Millisecond)); ok {
		t.Error("allowed before the token came")
	}
	if ok, _ := l.Allow("a", limit, noon.Add(time.Second)); !ok {
		t.Error("refused when the token has come")
	}
	if ok, _ := l.Allow("c", civibus.RateLimit{}, noon); !ok || l.Len() != 2 {
		t.Error("a right without a limit is limited or kept")
	}
}

// TestLimiterNeverExceedsTheRate holds the promise of a token bucket: in any
// stretch of time at most its capacity and what flows in.
func TestLimiterNeverExceedsTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := civibus.RateLimit{
			Requests: rapid.Uint32Range(1, 50).Draw(t, "requests"),
			Per:      time.Duration(rapid.IntRange(1, 100).Draw(t, "per")) * time.Second,
		}
		l := policy.NewLimiter(16)
		now, allowed := noon, 0
		for _, step := range rapid.SliceOfN(rapid.IntRange(0, 3000), 1, 300).Draw(t, "steps") {
			now = now.Add(time.Duration(step) * time.Millisecond)
			if ok, _ := l.Allow("r", limit, now); ok {
				allowed++
			}
			flow := float64(limit.Requests) * (1 + now.Sub(noon).Seconds()/limit.Per.Seconds())
			if float64(allowed) > flow+1e-3 {
				t.Fatalf("%d calls in %v under %v", allowed, now.Sub(noon), limit)
			}
		}
	})
}

func TestLimiterMemoryIsBounded(t *testing.T) {
	l := policy.NewLimiter(64)
	limit := civibus.RateLimit{Requests: 1, Per: time.Hour}
	for i := range 10000 {
		l.Allow(fmt.Sprint(i), limit, noon)
	}
	if n := l.Len(); n > 64 {
		t.Errorf("%d buckets kept, want at most 64", n)
	}
	// After an hour all are full and the next call forgets those of its shard.
	before := l.Len()
	l.Allow("x", limit, noon.Add(2*time.Hour))
	if n := l.Len(); n >= before {
		t.Errorf("%d buckets after they are full, before %d", n, before)
	}
}

func TestLimiterConcurrent(t *testing.T) {
	l := policy.NewLimiter(64)
	limit := civibus.RateLimit{Requests: 100, Per: time.Hour}
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if ok, _ := l.Allow("r", limit, noon); ok {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 100 {
		t.Errorf("%d of 800 concurrent calls allowed, want 100", allowed.Load())
	}
}
