package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process"
)

// workFlags say in the name of which subsystem something is done, and at which gateway.
type workFlags struct{ callFlags }

func (f *workFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.client, "as", "", "`subsystem` that plays the role, INSTANCE/CLASS/MEMBER/SUBSYSTEM")
	c.Flags().StringVar(&f.gateway, "gateway", "", "`URL` of the consumer face (default: that of the running node)")
	c.Flags().StringVar(&f.cert, "cert", "", "PEM `file` with the client certificate shown to the gateway")
	c.Flags().StringVar(&f.key, "key", "", "PEM `file` with its private key")
	c.Flags().StringVar(&f.ca, "ca", "", "PEM `file` with the authorities of the gateway's certificate")
	c.MarkFlagsRequiredTogether("cert", "key")
	_ = c.MarkFlagRequired("as") // the flag is there
	f.timeout = time.Minute
}

// ask calls the gateway's interface for processes.
func (a *app) ask(c *cobra.Command, f workFlags, method, path string, in, out any) error {
	cl, err := a.caller(c, f.callFlags)
	if err != nil {
		return err
	}
	return askProcess(c.Context(), cl.HTTP, strings.TrimSuffix(cl.Gateway, "/"), cl.Client, method, path, in, out)
}

func askProcess(ctx context.Context, h *http.Client, gateway string, as civibus.ClientID, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, gateway+process.APIPath+path, body)
	if err != nil {
		return err
	}
	req.Header.Set(civibus.HeaderClient, as.String())
	resp, err := h.Do(req)
	if err != nil {
		return fmt.Errorf("call the gateway %s: %w", gateway, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxJSONBody))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var doc struct{ Error, Type, Message string }
		if json.Unmarshal(text, &doc) != nil || doc.Message == "" {
			return refusal{fmt.Sprintf("%s answered %s", gateway, resp.Status), "is it the consumer face of a gateway whose body plays roles ([[process]] in its configuration)?"}
		}
		return refusal{strings.TrimSpace(doc.Error+doc.Type) + ": " + doc.Message, ""}
	}
	return json.Unmarshal(text, out)
}

func newProcessStart(a *app) *cobra.Command {
	var f workFlags
	var parts []string
	b := &process.Beginning{}
	c := &cobra.Command{
		Use:   "start PROCESS --as SUBSYSTEM --part ROLE=SUBSYSTEM...",
		Short: "Begin an instance of a process",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b.Process, b.Parts = args[0], make(map[string]string)
			for _, p := range parts {
				role, subsystem, ok := strings.Cut(p, "=")
				if !ok {
					return usageError{fmt.Errorf("--part %q: the rule is ROLE=SUBSYSTEM", p), "one for each role, which \"civibus process list\" shows"}
				}
				b.Parts[role] = subsystem
			}
			var out struct {
				Instance string `json:"instance"`
			}
			if err := a.ask(c, f, http.MethodPost, "instances", b, &out); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(out)
			}
			fmt.Fprintln(a.out, out.Instance)
			return nil
		},
	}
	f.register(c)
	c.Flags().StringArrayVar(&parts, "part", nil, "who plays a role: `ROLE=SUBSYSTEM`; again for each role")
	c.Flags().StringVar(&b.Variant, "variant", "", "`variant` of the process")
	return c
}

func newProcessTurns(a *app) *cobra.Command {
	var f workFlags
	c := &cobra.Command{
		Use:   "turns --as SUBSYSTEM",
		Short: "List what a subsystem has to do now, with the facts that are opened for it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var out struct {
				Turns []process.Turn `json:"turns"`
			}
			if err := a.ask(c, f, http.MethodGet, "turns", nil, &out); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(out)
			}
			t := table{head: []string{"INSTANCE", "STEP", "ATTEMPT", "DO", "DUE", "FACTS", "YIELDS"}}
			for _, turn := range out.Turns {
				what := turn.Title
				switch {
				case turn.Waiting:
					what = "done; its event is on its way"
				case turn.Undo:
					what = "take back: " + what
				}
				t.add(turn.Instance, turn.Step, fmt.Sprint(turn.Attempt), what, turn.Due.Local().Format(time.DateTime), factText(&turn), strings.Join(turn.Yields, ", "))
			}
			t.write(a.out)
			return nil
		},
	}
	f.register(c)
	return c
}

func factText(t *process.Turn) string {
	var out []string
	for id, v := range t.Facts {
		out = append(out, fmt.Sprintf("%s=%v", id, v))
	}
	sort.Strings(out)
	for _, id := range t.Missing {
		out = append(out, id+" (on its way)")
	}
	return strings.Join(out, " ")
}

func newProcessReport(a *app) *cobra.Command {
	var f workFlags
	var facts []string
	r := &process.Report{}
	c := &cobra.Command{
		Use:   "report INSTANCE STEP ATTEMPT --as SUBSYSTEM",
		Short: "Say what came of a turn",
		Long: `Say what came of a turn that "civibus process turns" shows. When the command ends
with 0 the registry has the event. The same report again does no harm.`,
		Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			for _, fact := range facts {
				id, text, ok := strings.Cut(fact, "=")
				if !ok {
					return usageError{fmt.Errorf("--fact %q: the rule is ID=VALUE", fact), ""}
				}
				if r.Facts == nil {
					r.Facts = make(map[string]any)
				}
				r.Facts[id] = valueOf(text)
			}
			var out struct {
				Posted bool `json:"posted"`
			}
			if err := a.ask(c, f, http.MethodPost, fmt.Sprintf("instances/%s/steps/%s/%s", args[0], args[1], args[2]), r, &out); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(out)
			}
			fmt.Fprintln(a.out, "posted")
			return nil
		},
	}
	f.register(c)
	c.Flags().StringVar(&r.Outcome, "outcome", "done", "`done`, failed, or skipped where the body decides the step's condition")
	c.Flags().StringArrayVar(&facts, "fact", nil, "a fact that the step yields: `ID=VALUE`; again for each")
	c.Flags().StringVar(&r.Reason, "reason", "", "`text` for the own log")
	return c
}

// valueOf is a value as somebody types it: true, false and whole numbers are such.
func valueOf(text string) any {
	if text == "true" || text == "false" {
		return text == "true"
	}
	var n json.Number
	if err := json.Unmarshal([]byte(text), &n); err == nil {
		return n
	}
	return text
}
