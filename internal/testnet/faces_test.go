package testnet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/civibus/civibus/admin"
)

// TestFaces looks at what operators and programs meet besides exchanges: metrics
// that a linter accepts, health, and problem documents on the socket.
func TestFaces(t *testing.T) {
	n := network(t)
	b := n.Bodies[0]
	call(t, n.Bodies[3], b, "/1")
	h := oneShot(t)

	t.Run("metrics", func(t *testing.T) {
		text := fetch(t, h, b.Node().MetricsURL()+"/metrics", http.StatusOK)
		problems, err := promlint.New(bytes.NewReader(text)).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("promlint: %v %v", problems, err)
		}
		for _, name := range []string{"civibus_build_info", "civibus_ledger", "civibus_gateway"} {
			if !bytes.Contains(text, []byte("\n"+name)) {
				t.Errorf("no metric begins with %s", name)
			}
		}
		if bytes.Contains(text, []byte("38001010001")) {
			t.Error("metrics hold what was asked")
		}
	})
	t.Run("health", func(t *testing.T) {
		fetch(t, h, b.Node().MetricsURL()+"/healthz", http.StatusOK)
		fetch(t, h, b.Node().MetricsURL()+"/readyz", http.StatusOK)
	})
	t.Run("socket", func(t *testing.T) {
		info, err := os.Stat(b.Config.Admin.Socket)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket mode %v %v, the rule is 0600", info.Mode(), err)
		}
		for _, c := range []struct {
			method, path, body string
			status             int
			code               string
		}{
			{"GET", "/v1/nothing", "", 404, "no_such_endpoint"},
			{"GET", "/v1/members/DEMO", "", 400, "invalid_identifier"},
			{"GET", "/v1/members?limit=0", "", 400, "invalid_parameter"},
			{"GET", "/v1/keys/xyz", "", 400, "invalid_identifier"},
			{"GET", "/v1/receipts/x?wait=1y", "", 400, "invalid_parameter"},
			{"POST", "/v1/changes", "{", 400, "bad_encoding"},
			{"POST", "/v1/changes", "{}", 400, "bad_encoding"},
			{"POST", "/v1/changes", `{"chain_id":"x","set_subsystem":{}}`, 400, "bad_encoding"},
			{"POST", "/v1/changes", `{"anchor_log":{}}`, 400, "not_authorised"},
			{"POST", "/v1/changes", `{"set_subsystem":{"id":"no"}}`, 422, "invalid_field"},
			{"POST", "/v1/changes", strings.Repeat("x", 2<<20), 413, "too_large"},
			{"POST", "/v1/keys", `{"purpose":"seal","more":1}`, 400, "bad_encoding"},
			{"POST", "/v1/keys", `{"purpose":"wings"}`, 400, "invalid_field"},
			{"POST", "/v1/keys", `{"purpose":"validator","algorithm":"ml-dsa-65"}`, 400, "invalid_field"},
		} {
			status, p := raw(t, b.Config.Admin.Socket, c.method, c.path, c.body)
			if status != c.status || p.Code != c.code || p.Detail == "" || p.Status != c.status {
				t.Errorf("%s %s: %d %+v, want %d %s", c.method, c.path, status, p, c.status, c.code)
			}
		}
	})
}

func fetch(t *testing.T, h *http.Client, url string, want int) []byte {
	t.Helper()
	resp, err := h.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s: %d %v: %s", url, resp.StatusCode, err, body)
	}
	return body
}

func raw(t *testing.T, socket, method, path, body string) (int, admin.Problem) {
	t.Helper()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://node"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("%s %s: content type %q", method, path, kind)
	}
	var p admin.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, p
}
