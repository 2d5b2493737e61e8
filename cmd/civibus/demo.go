package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/internal/demo"
	"github.com/civibus/civibus/internal/obs"
)

// demoFlags are the flags of civibus demo.
type demoFlags struct {
	once              bool
	port              int
	dir               string
	upstream, openAPI string
	log               string
}

// demoPorts is how many ports --port takes: four for each body and two registers.
const demoPorts = 18

func newDemo(a *app) *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run four bodies on this machine and show what the bus does",
		Long: `Run four public bodies of a fictitious state in this process, each with its own
keys, data directory, gateway and validator, and real sockets between them. Three
of them put a system behind their gateway that knows nothing of the bus: a
REST register, a SOAP register, and a directory of files. The fourth calls all
three. The receipts are verified offline; a forged request, a replay, a call
without a right and a tampered receipt are refused. Then everything stays up to
be tried out until Ctrl-C. All data is invented.

With --port N body 1 takes ports N to N+3 (consumer face, provider face, ledger,
metrics), body 2 the next four, and so on; N+16 and N+17 are the REST and the
SOAP register. Exit code 0 if all went as it should, 1 if not.`,
		Example: "  civibus demo\n  civibus demo --once --json\n  civibus demo --upstream http://127.0.0.1:9000 --openapi openapi.json",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.demo(c.Context(), f) },
	}
	c.Flags().BoolVar(&f.once, "once", false, "end after the script")
	c.Flags().IntVar(&f.port, "port", 0, "first `port`; the others follow (default: free ones)")
	c.Flags().StringVar(&f.dir, "dir", "", "new `folder` to keep everything in (default: a temporary one, removed at the end)")
	c.Flags().StringVar(&f.upstream, "upstream", "", "base `URL` of your own HTTP service, offered as DEMO/GOV/1003/own/service")
	c.Flags().StringVar(&f.openAPI, "openapi", "", "`file` with its OpenAPI 3 description")
	c.Flags().StringVar(&f.log, "log", "", "`level` of the nodes' logs on standard error: debug, info, warn or error (default: none)")
	c.AddCommand(newDemoMatter(a, "birth", "Run the birth of a child through six bodies"), newDemoMatter(a, "moving", "Run a move to another town through five bodies"),
		newDemoMatter(a, "asylum", "Run an application for asylum through federal, state and municipal bodies"))
	return c
}

// matterPorts is how many ports a matter takes: four for each body and one for each system.
func matterPorts(m demo.Matter) int { return 5 * m.Bodies }

func newDemoMatter(a *app, name, short string) *cobra.Command {
	var f demoFlags
	m := demo.Matters()[name]
	c := &cobra.Command{
		Use:   name,
		Short: short,
		Long: fmt.Sprintf(`Run %d public bodies of a fictitious state in this process, each with its own
gateway, validator and part of one process ("civibus process example %s"). Their
systems are of several kinds that know nothing of each other. Nobody drives the
whole: each body does its own steps and sees on the ledger whose turn it is.

A first instance comes to its end although one body is down for a while, and is
shown as each body sees it. In a second one a body misses its deadline: the others
say so on the ledger, and what was done is taken back, the last first. Then the
ledger refuses what no body can do. Deadlines are seconds and minutes instead of
days; all data is invented.`, m.Bodies, name),
		Example: fmt.Sprintf("  civibus demo %[1]s\n  civibus demo %[1]s --once --json\n  civibus demo %[1]s --once --dir pictures", name),
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.demoMatter(c.Context(), f, m) },
	}
	c.Flags().BoolVar(&f.once, "once", false, "end after the script")
	c.Flags().IntVar(&f.port, "port", 0, "first `port`; the others follow (default: free ones)")
	c.Flags().StringVar(&f.dir, "dir", "", "new `folder` to keep everything in, with pictures of both instances (default: a temporary one, removed at the end)")
	c.Flags().StringVar(&f.log, "log", "", "`level` of the nodes' logs on standard error: debug, info, warn or error (default: none)")
	if name == "asylum" {
		c.Flags().StringVar(&m.Variant, "variant", "", "local `variant` of the process, such as arrival-centre")
	}
	return c
}

func (a *app) demoMatter(ctx context.Context, f demoFlags, m demo.Matter) (err error) {
	o := demo.Options{Dir: f.dir, FirstPort: f.port, Started: processStart(), Report: a.demoStep()}
	if ports := matterPorts(m); f.port < 0 || f.port > 65535-ports+1 {
		return usageError{fmt.Errorf("--port %d: the rule is 1 to %d, since %d ports from it on are taken", f.port, 65535-ports+1, ports), ""}
	}
	if f.log != "" {
		if o.Logger, err = obs.NewLogger(a.err, f.log, "text"); err != nil {
			return usageError{err, ""}
		}
	}
	if f.dir == "" {
		if o.Dir, err = os.MkdirTemp("", "civibus-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	} else if err := emptyDir(f.dir); err != nil {
		return err
	}
	debug.SetGCPercent(60)
	d, err := demo.RunMatter(ctx, o, m)
	defer func() { err = errors.Join(err, d.Close()) }()
	if err != nil {
		if ctx.Err() != nil {
			return hinted{errors.New("interrupted"), ""}
		}
		return err
	}
	if err := a.matterSummary(d, f.dir); err != nil {
		return err
	}
	if d.Failed > 0 {
		return fmt.Errorf("%d of %d steps did not go as they should", d.Failed, d.Steps)
	}
	if f.once {
		return nil
	}
	<-ctx.Done()
	return nil
}

func (a *app) matterSummary(d *demo.Demo, dir string) error {
	if a.json {
		_, err := fmt.Fprintf(a.out, "{\"ok\":%v,\"steps\":%d,\"failed\":%d}\n", d.Failed == 0, d.Steps, d.Failed)
		return err
	}
	fmt.Fprintf(a.out, "\n%d steps, %d not as they should\n", d.Steps, d.Failed)
	if dir != "" {
		fmt.Fprintf(a.out, "Pictures: %s, %s\n", filepath.Join(dir, "complete.svg"), filepath.Join(dir, "withdrawn.svg"))
	}
	return nil
}

func (a *app) demo(ctx context.Context, f demoFlags) (err error) {
	o := demo.Options{Dir: f.dir, FirstPort: f.port, Upstream: f.upstream, OpenAPI: f.openAPI, Started: processStart(), Report: a.demoStep()}
	if f.openAPI != "" && f.upstream == "" {
		return usageError{errors.New("--openapi describes the service that --upstream names"), "give --upstream too"}
	}
	if u, err := url.Parse(f.upstream); f.upstream != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return usageError{fmt.Errorf("--upstream %q: the rule is http:// or https://, a host and a path", f.upstream), "e.g. --upstream http://127.0.0.1:8000"}
	}
	if o.OpenAPI != "" { // the body's configuration would look for it beside itself
		if o.OpenAPI, err = filepath.Abs(f.openAPI); err == nil {
			_, err = os.Stat(o.OpenAPI)
		}
		if err != nil {
			return usageError{fmt.Errorf("--openapi: %w", err), ""}
		}
	}
	if f.port < 0 || f.port > 65535-demoPorts+1 {
		return usageError{fmt.Errorf("--port %d: the rule is 1 to %d, since %d ports from it on are taken", f.port, 65535-demoPorts+1, demoPorts), ""}
	}
	if f.log != "" {
		if o.Logger, err = obs.NewLogger(a.err, f.log, "text"); err != nil {
			return usageError{err, ""}
		}
	}
	if f.dir == "" {
		if o.Dir, err = os.MkdirTemp("", "civibus-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	} else if err := emptyDir(f.dir); err != nil {
		return err
	}
	// Four bodies share one process here, so memory is worth a little more time.
	debug.SetGCPercent(60)

	d, err := demo.Run(ctx, o)
	defer func() { err = errors.Join(err, d.Close()) }()
	if err != nil {
		if ctx.Err() != nil {
			return hinted{errors.New("interrupted"), ""}
		}
		return err
	}
	if err := a.demoSummary(d, f.dir == ""); err != nil {
		return err
	}
	if d.Failed > 0 {
		return fmt.Errorf("%d of %d steps did not go as they should", d.Failed, d.Steps)
	}
	if f.once {
		return nil
	}
	invitation := demoInvitation(d)
	if !a.json {
		fmt.Fprint(a.out, invitation)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "try.txt"), []byte(invitation), 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// demoStep prints each step as it is done.
func (a *app) demoStep() func(demo.Step) {
	if a.json {
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		return func(s demo.Step) { _ = enc.Encode(s) } // a closed pipe ends the process
	}
	last := ""
	titles := map[string]string{
		demo.KindStart:    "Bodies of a fictitious state start (all data is invented)",
		demo.KindProcess:  "The process, as it goes",
		demo.KindView:     "The instance, as each body sees it",
		demo.KindExchange: fmt.Sprintf("%-22s %-42s %-24s %6s %9s", "Exchanges: who", "called", "what", "status", "time"),
		demo.KindReceipt:  "Receipts, verified offline with nothing but the policy file",
		demo.KindAttack:   "What must not work",
	}
	return func(s demo.Step) {
		if title := titles[s.Kind]; title != "" && last != s.Kind {
			fmt.Fprintf(a.out, "\n%s\n", title)
		}
		last = s.Kind
		mark := "  ok  "
		if !s.OK {
			mark = " FAIL "
		}
		took := fmt.Sprintf("%.1f ms", s.Millis)
		switch s.Kind {
		case demo.KindExchange:
			fmt.Fprintf(a.out, "%s%-22s %-36s %-24s %6d %9s\n        %s\n", mark, s.Client, s.Service, s.Request, s.Status, took, s.Detail)
		case demo.KindReceipt:
			fmt.Fprintf(a.out, "%s%s (%s)\n        %s\n        %s\n", mark, s.Name, took, s.Detail, s.Receipt)
		case demo.KindProcess, demo.KindView:
			fmt.Fprintf(a.out, "%s%-18s %s (%s)\n        %s\n", mark, s.Client, s.Name, took, s.Detail)
		case demo.KindAttack:
			fmt.Fprintf(a.out, "%s%s (%s)\n        %s\n", mark, s.Name, took, s.Detail)
		default:
			fmt.Fprintf(a.out, "%s%s (%s): %s\n", mark, s.Name, took, s.Detail)
		}
	}
}

func (a *app) demoSummary(d *demo.Demo, temporary bool) error {
	rss := residentBytes()
	if a.json {
		line, err := json.Marshal(struct {
			OK           bool    `json:"ok"`
			Steps        int     `json:"steps"`
			Failed       int     `json:"failed"`
			FirstReceipt float64 `json:"first_receipt_seconds"`
			Resident     int64   `json:"resident_bytes,omitempty"`
		}{d.Failed == 0, d.Steps, d.Failed, d.FirstReceipt.Seconds(), rss})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s\n", line)
		return err
	}
	fmt.Fprintf(a.out, "\n%d steps, %d not as they should; first verified receipt %.1f s after the start", d.Steps, d.Failed, d.FirstReceipt.Seconds())
	if rss > 0 {
		fmt.Fprintf(a.out, "; four bodies and three systems use %d MiB", rss>>20)
	}
	fmt.Fprintln(a.out)
	if temporary {
		fmt.Fprintln(a.out, "Keys, logs and receipts are removed at the end; --dir FOLDER keeps them.")
	}
	return nil
}

// demoInvitation says what can be tried.
func demoInvitation(d *demo.Demo) string {
	var out strings.Builder
	t := table{head: []string{"BODY", "NAME", "CONSUMER FACE", "PROVIDER FACE", "MONITORING"}}
	for _, b := range d.Network.Bodies {
		t.add(b.ID.String(), b.Name, b.ConsumerURL(), b.ProviderAddress(), "http://"+b.Config.Metrics.Listen)
	}
	fmt.Fprintln(&out)
	t.write(&out)
	town := d.Network.Bodies[len(d.Network.Bodies)-1]
	u := town.ConsumerURL()
	fmt.Fprintf(&out, `
Try it (any client of X-Road's REST protocol works):

  curl -H 'X-Road-Client: DEMO/MUN/2001/portal' %[1]s/r1/DEMO/GOV/1001/population/register/persons/FIC-0001
  curl -H 'X-Road-Client: DEMO/MUN/2001/portal' %[1]s/r1/DEMO/GOV/1002/business/companies/companies/FIC10001
  curl -H 'X-Road-Client: DEMO/MUN/2001/portal' --data-binary 'LIST;FIC10001' %[1]s/r1/DEMO/GOV/1003/permits/requests
  curl -H 'X-Road-Client: DEMO/MUN/2001/portal' %[1]s/r1/DEMO/GOV/1001/population/allowedMethods
  curl -H 'Accept: application/json' %[1]s/listClients

  civibus --config %[2]s log show
  civibus --config %[2]s receipt get EXCHANGE --both
  civibus receipt verify EXCHANGE.receipt.json --policy %[3]s
  civibus --config %[2]s register right list
`, u, town.ConfigFile, d.Policy())
	if len(d.Network.Bodies[2].Config.Services) > 1 {
		fmt.Fprintf(&out, "\n  curl -H 'X-Road-Client: DEMO/MUN/2001/portal' %s/r1/DEMO/GOV/1003/own/service/\n", u)
	}
	fmt.Fprintln(&out, "\nCtrl-C ends it.")
	return out.String()
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return usageError{fmt.Errorf("--dir %s is not empty", dir), "name a new folder"}
	}
	return nil
}

// residentBytes is this process's memory, 0 where it cannot be told.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}
