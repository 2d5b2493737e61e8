package gateways

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/usage"
)

// usageLoad is a desk that asks about persons without pause, and what was answered.
type usageLoad struct {
	url, client string
	answered    atomic.Int64
	mu          sync.Mutex
	exchanges   map[string]string // person by exchange
	last        map[int]string    // exchange by worker
}

const usagePersons = 7

func (l *usageLoad) work(t *testing.T, worker int, done <-chan struct{}) {
	hc := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer hc.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		person := fmt.Sprintf("FIC-%d", (worker+i)%usagePersons)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.url, nil)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set(civibus.HeaderClient, l.client)
		r.Header.Set(civibus.HeaderSubject, person)
		resp, err := hc.Do(r)
		if err != nil {
			time.Sleep(20 * time.Millisecond) // it is dead at the moment
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			continue
		}
		l.mu.Lock()
		l.last[worker] = resp.Header.Get("X-Road-Request-Id")
		l.exchanges[l.last[worker]] = person
		l.mu.Unlock()
		l.answered.Add(1)
	}
}

// TestUsageRecordsOutliveAKill: a gateway under calls that concern persons is killed with
// -9 again and again while it indexes usage records and closes periods. Of what was
// answered no record is missing, in the evidence, in the index, and in what the registry
// anchored: counts and roots of all periods are those of the records, computed anew.
//
// CIVIBUS_USAGE_KILLS sets how often; without it six times.
func TestUsageRecordsOutliveAKill(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and kills a process")
	}
	kills := 6
	if s := os.Getenv("CIVIBUS_USAGE_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil || kills < 1 {
			t.Fatalf("CIVIBUS_USAGE_KILLS=%q: the rule is a number from 1", s)
		}
	}
	// 1. One body that asks itself.
	program := filepath.Join(t.TempDir(), "civibus")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/civibus/civibus/cmd/civibus").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(upstream.Close)
	n, err := testnet.Found(testnet.Options{Dir: t.TempDir(), FirstPort: freePorts(t, testnet.PortsPerBody),
		Bodies:    []testnet.BodySpec{{Class: "GOV", Code: "OFFICE", Name: "Office (fictitious)", Services: []node.ServiceConfig{{ID: "register/persons", URL: upstream.URL}}}},
		Configure: func(_ int, c *node.Config) { c.Usage.Period = node.Duration(time.Second) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil { // the ports are the process's
		t.Fatal(err)
	}
	body := n.Bodies[0]
	p := &process{t: t, name: body.ID.Code, program: program, config: body.ConfigFile, admin: body.Admin()}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log(p.tail())
		}
	})
	p.start()
	p.ready()
	desk, persons := body.Client("desk"), body.Service("register", "persons")
	for _, changes := range [][]testnet.Change{
		{body.Subsystem("desk", "Front desk"), body.Subsystem("register", "Register")},
		{body.Publish(civibus.Service{ID: persons, Type: civibus.REST, Title: "Persons"})},
		{body.Grant(civibus.AccessRight{Service: persons, Client: desk, Purpose: "test", LegalBasis: "none, this is a test", Disclosure: civibus.Shown, Sentence: "A test looked you up."})},
	} {
		if _, err := n.Register(t.Context(), changes...); err != nil {
			t.Fatal(err)
		}
	}

	// 2. Load, and kills at any moment of a period.
	l := &usageLoad{url: "http://" + body.Config.Consumer.Listen + "/r1/" + persons.String() + "/x", client: desk.String(), exchanges: map[string]string{}, last: map[int]string{}}
	done, workers := make(chan struct{}), sync.WaitGroup{}
	stop := sync.OnceFunc(func() { close(done); workers.Wait() })
	t.Cleanup(stop)
	for i := range 4 {
		workers.Go(func() { l.work(t, i, done) })
	}
	for range kills {
		from := l.answered.Load()
		eventually(t, "calls are answered", func() bool { return l.answered.Load() >= from+20 })
		time.Sleep(rand.N(1500 * time.Millisecond)) // when the fault comes
		p.kill()
		p.start()
		p.ready()
	}
	from := l.answered.Load()
	eventually(t, "calls are answered after the last kill", func() bool { return l.answered.Load() >= from+20 })
	stop()

	// 3. Everything is indexed and anchored.
	for _, exchange := range l.last {
		eventually(t, "the last exchanges are leaves", func() bool {
			x, err := p.admin.Exchange(t.Context(), exchange)
			return err == nil && len(x.Entries) == 2 && x.Entries[0].Integrated && x.Entries[1].Integrated
		})
	}
	periods := settled(t, p)
	t.Logf("%d kills, %d exchanges answered, %d periods", kills, len(l.exchanges), len(periods))
	if len(periods) < kills/2 {
		t.Errorf("%d periods in %d kills: hardly any was closed", len(periods), kills)
	}
	indexed, missing := l.find(t, p)
	for _, m := range missing {
		t.Error(m)
	}

	// 4. Computed anew from the evidence.
	p.kill()
	l.recompute(t, filepath.Join(body.Config.DataDir, "evidence", "1"), periods, indexed)

	// 5. The index is built again, and is the same.
	if err := os.RemoveAll(filepath.Join(body.Config.DataDir, "usage", "1", "index")); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.ready()
	again := settled(t, p)
	if len(again) != len(periods) || again[0] != periods[0] {
		t.Errorf("built again there are %d periods, the last %+v, before %d, %+v", len(again), again[0], len(periods), periods[0])
	}
	eventually(t, fmt.Sprintf("the index that is built again has %d records", indexed), func() bool {
		n, missing := l.find(t, p)
		return n == indexed && len(missing) == 0
	})

	// 6. What the registry has.
	p.kill()
	if err := body.Start(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	defer body.Stop()
	last, ok := body.Node().Admin().View().UsagePeriod(registry.EvidenceOrigin(body.ID, 1))
	if !ok || last.Period != periods[0].Number || last.EndLeaf != periods[0].EndLeaf || hex.EncodeToString(last.Root[:]) != periods[0].Root || last.Total.Sum() != uint64(indexed) {
		t.Errorf("the registry has %+v, the body %+v with %d records in all", last, periods[0], indexed)
	}
}

// settled waits until all leaves are in an anchored period and returns the periods, the
// newest first.
func settled(t *testing.T, p *process) (periods []admin.UsagePeriod) {
	t.Helper()
	eventually(t, "every leaf is in an anchored period", func() bool {
		s, err := p.admin.Status(t.Context())
		if err != nil {
			return false
		}
		out, err := p.admin.Usage(t.Context(), admin.UsageQuery{Limit: 1000})
		periods = out.Periods
		return err == nil && len(periods) > 0 && s.Evidence.Size > 0 && periods[0].EndLeaf == s.Evidence.Size
	})
	return periods
}

// find holds the index to what was answered, and returns how many records it has.
func (l *usageLoad) find(t *testing.T, p *process) (n int, missing []string) {
	t.Helper()
	for i := range usagePersons {
		person, found := fmt.Sprintf("FIC-%d", i), map[string]bool{}
		for after := ""; ; {
			out, err := p.admin.Usage(t.Context(), admin.UsageQuery{Subject: person, Limit: 1000, After: after})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range out.Records {
				if found[r.Exchange] {
					t.Errorf("exchange %s is there twice", r.Exchange)
				}
				found[r.Exchange] = true
			}
			if after = out.Next; after == "" {
				break
			}
		}
		n += len(found)
		for exchange, of := range l.exchanges {
			if of == person && !found[exchange] {
				missing = append(missing, fmt.Sprintf("exchange %s was answered, and has no usage record of %s", exchange, person))
			}
		}
	}
	return n, missing
}

// recompute makes the periods of the evidence, by another implementation of the tree.
func (l *usageLoad) recompute(t *testing.T, dir string, periods []admin.UsagePeriod, indexed int) {
	t.Helper()
	r, err := evidence.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	missing, end, all := make(map[string]bool, len(l.exchanges)), uint64(0), 0
	for exchange := range l.exchanges {
		missing[exchange] = true
	}
	for i := len(periods) - 1; i >= 0; i-- {
		p := periods[i]
		if p.FirstLeaf != end || p.Number != uint64(len(periods)-i) {
			t.Fatalf("period %d begins at leaf %d, the one before ended at %d", p.Number, p.FirstLeaf, end)
		}
		end = p.EndLeaf
		var tree []tlog.Hash
		read := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
			for _, i := range at {
				out = append(out, tree[i])
			}
			return out, nil
		})
		records := int64(0)
		for e, err := range r.Entries(t.Context(), p.FirstLeaf, p.EndLeaf) {
			if err != nil {
				t.Fatal(err)
			}
			var record evidencepb.Record
			if err := proto.Unmarshal(e.Record, &record); err != nil {
				t.Fatal(err)
			}
			if len(e.Beside) == 0 {
				if len(record.Usage) > 0 {
					t.Errorf("leaf %d commits to a usage record that is not kept", e.Index)
				}
				continue
			}
			c := usage.Commit([32]byte(e.Beside), e.Beside[32:])
			if string(c[:]) != string(record.Usage) {
				t.Errorf("leaf %d does not commit to its usage record", e.Index)
			}
			hashes, err := tlog.StoredHashes(records, c[:], read)
			if err != nil {
				t.Fatal(err)
			}
			tree, records = append(tree, hashes...), records+1
			delete(missing, record.ExchangeId)
		}
		root, err := tlog.TreeHash(records, read)
		if err != nil {
			t.Fatal(err)
		}
		if records == 0 {
			root = sha256.Sum256(nil)
		}
		if p.Shown != uint64(records) || p.Later+p.Never != 0 || p.Root != hex.EncodeToString(root[:]) {
			t.Errorf("period %d is %+v, its leaves have %d records with the root %x", p.Number, p, records, root)
		}
		all += int(records)
	}
	if end != r.Size() || all != indexed {
		t.Errorf("the periods end at leaf %d with %d records, the log at %d, the index has %d", end, all, r.Size(), indexed)
	}
	for exchange := range missing {
		t.Errorf("exchange %s was answered, and is in no period", exchange)
	}
}
