package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/registry"
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
			"testnet": testNet, "retry": retry, "await": await, "awaitfile": awaitFile, "subst": subst, "httpget": httpGet, "isjson": isJSON, "setenv": setEnv,
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

// testNet founds and starts a network of a number of bodies without registrars in
// this process: "testnet N [KIND=QUORUM/THRESHOLD/SECONDS]...". The configuration of
// body i is $B1, $B2 and so on; the first has the service population/persons at
// $UPSTREAM; its ledger node $PEER1, its provider face $FACE1, the
// genesis $GENESIS.
func testNet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: testnet N [KIND=QUORUM/THRESHOLD/SECONDS]...")
	}
	count, err := strconv.Atoi(args[0])
	ts.Check(err)
	o := testnet.Options{Dir: ts.MkAbs("net"), StartTimeout: time.Minute}
	for i := range count {
		o.Bodies = append(o.Bodies, testnet.BodySpec{Class: "GOV", Code: fmt.Sprint(1001 + i), Name: fmt.Sprintf("Office %d (fictitious)", i+1)})
	}
	o.Bodies[0].Services = []node.ServiceConfig{{ID: "population/persons", URL: ts.Getenv("UPSTREAM")}}
	o.Genesis = func(g *registry.Genesis) {
		g.Registrars = []string{}
		for _, arg := range args[1:] {
			var r registry.GenesisRule
			name, rest, _ := strings.Cut(arg, "=")
			_, err := fmt.Sscanf(rest, "%d/%d/%d", &r.Quorum, &r.Threshold, &r.PeriodSeconds)
			ts.Check(err)
			r.Kind = name
			g.Rules = append(g.Rules, r)
		}
	}
	// Blocks without transactions, so that deadlines come.
	o.Configure = func(_ int, c *node.Config) { c.Ledger.Heartbeat = node.Duration(time.Second) }
	n, err := testnet.New(context.Background(), o)
	ts.Check(err)
	ts.Defer(func() { ts.Check(n.Close()) })
	for i, b := range n.Bodies {
		ts.Setenv(fmt.Sprintf("B%d", i+1), b.ConfigFile)
		ts.Setenv(fmt.Sprintf("FACE%d", i+1), b.ProviderAddress())
		s, err := b.Admin().Status(context.Background())
		ts.Check(err)
		ts.Setenv(fmt.Sprintf("PEER%d", i+1), s.LedgerID+"@"+s.LedgerAddr)
	}
	ts.Setenv("GENESIS", filepath.Join(o.Dir, "genesis.toml"))
}

// retry runs a command until its output matches: "retry REGEXP COMMAND ARG...".
func retry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: retry REGEXP COMMAND ARG...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var out []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Env = ts.MkAbs("."), append(os.Environ(), "PATH="+ts.Getenv("PATH"))
		out, err = cmd.CombinedOutput()
		if err == nil && want.Match(out) {
			_, _ = ts.Stdout().Write(out)
			return
		}
	}
	ts.Fatalf("%v never says %q: %v\n%s", args[1:], args[0], err, out)
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

// setEnv sets a variable to the first line of a file: "setenv NAME FILE".
func setEnv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: setenv NAME FILE")
	}
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	ts.Setenv(args[0], line)
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
	text := regexp.MustCompile(`civibus --config \S+ `).ReplaceAllString(all.String(), "civibus ")
	for _, c := range leaves(newRoot(&app{})) {
		if path := c.CommandPath(); !strings.Contains(text, path) {
			t.Errorf("no script runs %q", path)
		}
	}
}
