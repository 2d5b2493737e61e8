package gateway_test

import (
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/test/fixture"
)

// pattern is a body of any length that takes no memory.
type pattern struct {
	left int64
	pos  byte
	sum  hash.Hash
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.left))
	for i := range n {
		b[i] = p.pos
		p.pos += 7
	}
	p.sum.Write(b[:n])
	p.left -= int64(n)
	return n, nil
}

// TestMemoryIsBounded passes a long body through both gateways in both
// directions and watches the heap of the whole process: client, both gateways
// and service. With CIVIBUS_TEST_LARGE=1 the body has 2 GiB, else 256 MiB.
func TestMemoryIsBounded(t *testing.T) {
	size := int64(256 << 20)
	if os.Getenv("CIVIBUS_TEST_LARGE") != "" {
		size = 2 << 30
	}
	p := newPair(t, fixture.Options{}, fixture.Options{})
	up := sha256.New()
	id := p.office.AddService(p.register, "large", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(up, r.Body); err != nil || r.Method == "POST" && n != size {
			t.Errorf("the service got %d bytes: %v", n, err)
		}
		if r.Method == "GET" {
			_, _ = io.Copy(w, &pattern{left: size, sum: sha256.New()})
		}
	}), nil)
	p.Grant("r2", p.desk, id)
	const path = "/r1/TEST/GOV/OFFICE/register/large"

	// Let the rest of the tests' garbage go, and see what is in use at rest.
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rest := m.HeapInuse
	var peak atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapInuse))
			}
		}
	}()

	body := &pattern{left: size, sum: sha256.New()}
	a := p.town.Call("POST", path, body, "X-Road-Client", client)
	if a.StatusCode != 200 || string(up.Sum(nil)) != string(body.sum.Sum(nil)) {
		t.Errorf("up: %d %s", a.StatusCode, a.Body)
	}
	r := p.office.Record(a.Header.Get("X-Road-Request-Id"))
	if r.RequestBody.GetSize() != uint64(size) || string(r.RequestBody.GetSha256()) != string(body.sum.Sum(nil)) {
		t.Errorf("the provider's record: %v", r.RequestBody)
	}

	request, _ := http.NewRequest("GET", p.town.Consumer+path, nil)
	request.Header.Set("X-Road-Client", client)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	down := sha256.New()
	n, err := io.Copy(down, resp.Body)
	_ = resp.Body.Close()
	if err != nil || n != size || string(down.Sum(nil)) != string(body.sum.Sum(nil)) {
		t.Errorf("down: %d bytes, %v", n, err)
	}
	close(stop)
	<-stopped
	// Both gateways, the client and the service together stay below what one
	// gateway may use.
	if used := peak.Load() - min(rest, peak.Load()); used > 64<<20 {
		t.Errorf("the heap grew by %d MiB for a body of %d MiB", used>>20, size>>20)
	}
	t.Logf("heap at rest %d MiB, at most %d MiB during two bodies of %d MiB", rest>>20, peak.Load()>>20, size>>20)
}
