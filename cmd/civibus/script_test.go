package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/node"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"civibus": main})
}

// TestScripts runs the commands as users do. Each script gets free ports as
// $PROVIDER, $LEDGER, $CONSUMER and $METRICS, and an HTTP service at $UPSTREAM.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "awaitfile": awaitFile, "subst": subst, "httpget": httpGet, "isjson": isJSON,
		},
		Setup: func(e *testscript.Env) error {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/missing") {
					http.Error(w, "nothing here", http.StatusNotFound)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"method":%q,"path":%q}`, r.Method, r.URL.EscapedPath())
			}))
			e.Defer(srv.Close)
			e.Setenv("UPSTREAM", srv.URL)
			for _, name := range []string{"PROVIDER", "LEDGER", "CONSUMER", "METRICS"} {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				e.Setenv(name, l.Addr().String())
				if err := l.Close(); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// await waits until the node of a configuration file takes exchanges.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await CONFIG")
	}
	file := ts.MkAbs(args[0])
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		cfg, err := node.LoadConfig(file)
		if err == nil {
			var s admin.Status
			if s, err = admin.NewClient(cfg.Admin.Socket).Status(context.Background()); err == nil && s.Ready {
				return
			}
		}
		last = err
	}
	ts.Fatalf("the node of %s is not ready: %v", args[0], last)
}

// awaitFile waits until a file exists.
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: awaitfile FILE")
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("%s does not appear", args[0])
}

// subst replaces $NAME by environment variables in a file.
func subst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: subst FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

// isJSON checks that a file, e.g. stdout, is one JSON value and nothing else.
func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: isjson FILE")
	}
	if text := ts.ReadFile(args[0]); !json.Valid([]byte(text)) {
		ts.Fatalf("not JSON: %q", text)
	}
}

// httpGet fetches a URL with headers, as an X-Road REST client would, and prints
// status, X-Road-Error and body.
func httpGet(ts *testscript.TestScript, neg bool, args []string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, args[0], nil)
	ts.Check(err)
	for _, h := range args[1:] {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body := make([]byte, 1<<16)
	n, _ := resp.Body.Read(body)
	fmt.Fprintf(ts.Stdout(), "%s %s\n%s\n", resp.Status, resp.Header.Get("X-Road-Error"), body[:n])
	if (resp.StatusCode >= 400) != neg {
		ts.Fatalf("status %s: %s", resp.Status, body[:n])
	}
}

// TestEveryCommandHasAScript fails when a command is in no script.
func TestEveryCommandHasAScript(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for _, c := range leaves(newRoot(&app{})) {
		if path := c.CommandPath(); !strings.Contains(all.String(), path) {
			t.Errorf("no script runs %q", path)
		}
	}
}
