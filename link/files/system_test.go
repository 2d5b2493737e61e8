package files_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/demostack"
	"github.com/civibus/civibus/link/files"
	"github.com/civibus/civibus/service"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRealSystem lets the demo's permit system, which knows nothing but files,
// answer through a gateway's set of upstreams.
func TestRealSystem(t *testing.T) {
	a, dir := newAdapter(t, func(c *files.Config) { c.Wait, c.Poll = 30*time.Second, time.Millisecond })
	id := civibus.ServiceID{ClientID: civibus.ClientID{MemberID: civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "3000"}, Subsystem: "permits"}, Service: "requests"}
	set, err := service.NewSet([]service.Upstream{{Service: id, Handler: a}}, service.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	call := func(method, path, body string) (int, string) {
		t.Helper()
		resp, err := set.Call(t.Context(), id, method, path, "", http.Header{}, strings.NewReader(body), int64(len(body)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	system, err := demostack.StartPermits(context.Background(), dir, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := call("POST", "", "STATUS;FIC-P-001\n"); status != 200 || !strings.Contains(body, "FIC-P-001;FIC10001;BUILDING;GRANTED") {
		t.Errorf("%d %q", status, body)
	}
	if status, body := call("PUT", "/case-7", "LIST;FIC10005\n"); status != 200 || strings.Count(body, "FIC10005") != 2 {
		t.Errorf("%d %q", status, body)
	}
	if status, body := call("POST", "/", "NONSENSE;1\n"); status != 422 || !strings.Contains(body, "UNKNOWN COMMAND") {
		t.Errorf("%d %q", status, body)
	}
	if status, body := call("GET", "/case-7", ""); status != 200 || !strings.Contains(body, "FIC10005") {
		t.Errorf("%d %q", status, body)
	}
	if err := system.Close(); err != nil {
		t.Error(err)
	}
	// While the system is down, requests wait for it.
	waiting, _ := newAdapter(t, func(c *files.Config) { c.Dir = dir })
	if w := do(waiting, "PUT", "/late", "STATUS;FIC-P-002\n"); w.Code != 202 {
		t.Errorf("%d", w.Code)
	}
	if system, err = demostack.StartPermits(context.Background(), dir, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		w := do(waiting, "GET", "/late", "")
		if w.Code == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no late answer: %d", w.Code)
		}
		time.Sleep(time.Millisecond)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}
