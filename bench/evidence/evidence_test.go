package evidence_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/tiles"
	"github.com/civibus/civibus/evidence/wal"
)

const origin = "civibus/DEMO/GOV/1001/evidence/1"

// signer is a log key in memory.
type signer struct {
	private ed25519.PrivateKey
	public  civibus.PublicKey
}

func newSigner(b *testing.B) signer {
	b.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	public, err := civibus.NewPublicKey(private.Public())
	if err != nil {
		b.Fatal(err)
	}
	return signer{private, public}
}

func (s signer) Key() civibus.PublicKey { return s.public }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.private, message), nil
}

func openLog(b *testing.B) *evidence.Log {
	b.Helper()
	l, err := evidence.Open(context.Background(), evidence.Config{Dir: b.TempDir(), Origin: origin, Signer: newSigner(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return l
}

// record is about as large as a gateway's: 1.3 KiB.
func record(n int) *evidencepb.Record {
	id := fmt.Sprintf("%08x-0000-4000-8000-%012x", n>>32, n)
	base := make([]byte, 420)
	for i := range base {
		base[i] = byte('a' + i%26)
	}
	seal := &evidencepb.Seal{Base: base, Signature: base[:64], KeyId: base[:32]}
	body := &evidencepb.Body{Size: 1024, Sha256: base[:32]}
	return &evidencepb.Record{
		Version: 1, Side: evidencepb.Side_SIDE_CONSUMER, ExchangeId: id, MessageId: id,
		Client: "DEMO/GOV/1001/SYSTEM", Service: "DEMO/GOV/1002/REGISTER/persons/v1", RightId: "right-1",
		RegistryHeight: 1000, Outcome: evidencepb.Outcome_OUTCOME_ANSWERED, Status: 200,
		Request: seal, Response: seal, RequestBody: body, ResponseBody: body,
		StartedUnixNano: int64(n), FinishedUnixNano: int64(n) + 1, PeerKeyId: base[:32],
	}
}

// cpu is the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMerkleLog appends from 512 goroutines until everything is in the
// Merkle log (sustained: nothing is left behind). "records" is the baseline: the
// same records are made and marshalled, and that is all.
func BenchmarkMerkleLog(b *testing.B) {
	b.Run("records", func(b *testing.B) {
		used, n := cpu(), 0
		for ; b.Loop(); n++ {
			if _, err := proto.Marshal(record(n)); err != nil {
				b.Fatal(err)
			}
		}
		report(b, n, cpu()-used)
	})
	b.Run("entries", func(b *testing.B) {
		l := openLog(b)
		var next atomic.Int64
		b.ResetTimer()
		used := cpu()
		var wg sync.WaitGroup
		for range 512 {
			wg.Go(func() {
				for {
					n := next.Add(1)
					if n > int64(b.N) {
						return
					}
					if err := l.Append(context.Background(), record(int(n))); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for l.Status().Pending > 0 {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		report(b, b.N, cpu()-used)
	})
}

func report(b *testing.B, n int, used time.Duration) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(n), "cpu-us/entry")
	b.ReportMetric(float64(n)/used.Seconds(), "entries/cpu-s")
}

// BenchmarkAppend times Append. "plain" is the baseline: a write of as many
// bytes and an fdatasync by one goroutine.
func BenchmarkAppend(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		f, err := wal.OpenOS(filepath.Join(b.TempDir(), "plain"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		payload, at := make([]byte, 1400), int64(0)
		var took []time.Duration
		for b.Loop() {
			t := time.Now()
			if _, err := f.WriteAt(payload, at); err != nil {
				b.Fatal(err)
			}
			if err := f.Datasync(); err != nil {
				b.Fatal(err)
			}
			took, at = append(took, time.Since(t)), at+int64(len(payload))
		}
		percentiles(b, took)
	})
	for _, c := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("c=%d", c), func(b *testing.B) {
			l := openLog(b)
			var next atomic.Int64
			var mu sync.Mutex
			var took []time.Duration
			b.ResetTimer()
			var wg sync.WaitGroup
			for range c {
				wg.Go(func() {
					var mine []time.Duration
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						r := record(int(n))
						t := time.Now()
						if err := l.Append(context.Background(), r); err != nil {
							b.Error(err)
							return
						}
						mine = append(mine, time.Since(t))
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, mine...)
				})
			}
			wg.Wait()
			b.StopTimer()
			percentiles(b, took)
		})
	}
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(took[(len(took)-1)*p/100].Nanoseconds())/1e3, fmt.Sprintf("p%d-us", p))
	}
}

// BenchmarkInclusion builds proofs of random entries. "tessera" is the baseline:
// Tessera's own builder on the same tree.
func BenchmarkInclusion(b *testing.B) {
	dir := b.TempDir()
	w, err := tiles.OpenWriter(context.Background(), dir, origin, newSigner(b), nil, 4096)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for n := range uint64(32) {
		batch := make([][]byte, 4096)
		for i := range batch {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n<<12|uint64(i)))
			batch[i] = append([]byte{1}, sum[:]...)
		}
		if _, err := w.Add(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
	size := w.Tree().Size()
	b.Run("tessera", func(b *testing.B) {
		build, err := tiles.TesseraProofs(dir, size)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := build(mrand.Uint64N(size)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proofs/s")
	})
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.Tree().Inclusion(mrand.Uint64N(size), size); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proofs/s")
	})
}
