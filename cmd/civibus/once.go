package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/registry/registrypb"
)

// newOnce is about evidence that bodies exchange so that nobody is asked twice.
func newOnce(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "once",
		Short: "Ask other bodies for evidence, upon a person's explicit request and with a preview",
		Long: `Ask the body that has some evidence for it, show it to the person that it is about, and
use it if that person approves (docs/once.md). The gateway must have [once] enabled.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newOnceTypes(a), newOnceAsk(a), newOnceShow(a), newOnceContent(a, "preview", "Print what may be shown to the person"), newOnceDecide(a),
		newOnceContent(a, "evidence", "Print the evidence that the person approved, to be used"), newOnceErase(a))
	return c
}

// askOnce calls the gateway's interface for evidence and returns its answer.
func (a *app) askOnce(c *cobra.Command, f workFlags, method, path string, in any) ([]byte, error) {
	cl, err := a.caller(c, f.callFlags)
	if err != nil {
		return nil, err
	}
	text := []byte(nil)
	if in != nil {
		if text, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	gateway := strings.TrimSuffix(cl.Gateway, "/")
	req, err := http.NewRequestWithContext(c.Context(), method, gateway+once.APIPath+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set(civibus.HeaderClient, cl.Client.String())
	resp, err := cl.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call the gateway %s: %w", gateway, err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(io.LimitReader(resp.Body, 2*once.MaxEvidence)); err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		var doc struct{ Error, Type, Message string }
		if json.Unmarshal(text, &doc) != nil || doc.Message == "" {
			return nil, refusal{fmt.Sprintf("%s answered %s", gateway, resp.Status), "is it the consumer face of a gateway with [once] enabled?"}
		}
		return nil, refusal{doc.Error + doc.Type + ": " + doc.Message, ""}
	}
	return text, nil
}

func (a *app) printOnce(text []byte, err error) error {
	var s once.Status
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(s)
	}
	digest := ""
	if s.Evidence != nil {
		digest = fmt.Sprintf("%x", s.Evidence[:])
	}
	a.pairs("request", s.ID, "type", s.Type, "state", string(s.State), "media type", s.MediaType, "evidence", digest,
		"again after", timeText(s.RetryAt), "expires", s.Expires.UTC().Format(time.RFC3339), "token", s.Token)
	return nil
}

func newOnceTypes(a *app) *cobra.Command {
	var f workFlags
	requirement := ""
	c := &cobra.Command{
		Use: "types --as SUBSYSTEM", Short: "List the catalogue: what evidence can be had, and what it proves", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			type item struct {
				ID           string   `json:"id"`
				Title        string   `json:"title"`
				Law          string   `json:"law"`
				Requirements []string `json:"requirements"`
				Status       string   `json:"status"`
			}
			all, after := []item{}, ""
			for more := true; more; more = after != "" {
				text, err := a.askOnce(c, f, http.MethodGet, "types?requirement="+url.QueryEscape(requirement)+"&after="+url.QueryEscape(after), nil)
				if err != nil {
					return err
				}
				var page struct {
					Types []item `json:"types"`
					Next  string `json:"next"`
				}
				if err := json.Unmarshal(text, &page); err != nil {
					return err
				}
				all, after = append(all, page.Types...), page.Next
			}
			if a.json {
				return a.printJSON(all)
			}
			t := table{head: []string{"TYPE", "TITLE", "LAW", "PROVES", "STATUS"}}
			for _, i := range all {
				t.add(i.ID, i.Title, i.Law, strings.Join(i.Requirements, ", "), i.Status)
			}
			t.write(a.out)
			return nil
		},
	}
	f.register(c)
	c.Flags().StringVar(&requirement, "requirement", "", "only what proves this requirement (`URI`)")
	return c
}

func newOnceAsk(a *app) *cobra.Command {
	var f workFlags
	w := &once.Wanted{}
	subject := ""
	c := &cobra.Command{
		Use: "ask TYPE --as SUBSYSTEM --requirement URI --subject JSON --asked-by WHO", Short: "Ask for evidence, upon a person's explicit request", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !json.Valid([]byte(subject)) {
				return usageError{fmt.Errorf("--subject %.80q is no JSON", subject), "what the provider's service wants to know of the person, such as '{\"number\":\"...\"}'"}
			}
			w.Type, w.Subject, w.AskedAt = args[0], json.RawMessage(subject), time.Now()
			return a.printOnce(a.askOnce(c, f, http.MethodPost, "requests", w))
		},
	}
	f.register(c)
	c.Flags().StringVar(&w.Requirement, "requirement", "", "`URI` of the requirement that is to be proved")
	c.Flags().StringVar(&subject, "subject", "", "whose evidence: `JSON` for the provider's service")
	c.Flags().StringVar(&w.AskedBy, "asked-by", "", "`who` has asked explicitly: person or representative")
	c.Flags().StringVar(&w.Case, "case", "", "the body's own `case`")
	return c
}

func newOnceShow(a *app) *cobra.Command {
	var f workFlags
	again := false
	c := &cobra.Command{
		Use: "show REQUEST --as SUBSYSTEM", Short: "Show where a request for evidence stands", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if again {
				return a.printOnce(a.askOnce(c, f, http.MethodPost, "requests/"+url.PathEscape(args[0])+"/preview", nil))
			}
			return a.printOnce(a.askOnce(c, f, http.MethodGet, "requests/"+url.PathEscape(args[0]), nil))
		},
	}
	f.register(c)
	c.Flags().BoolVar(&again, "again", false, "ask the provider again, where it has not answered or has it later")
	return c
}

func newOnceContent(a *app, what, short string) *cobra.Command {
	var f workFlags
	c := &cobra.Command{
		Use: what + " REQUEST --as SUBSYSTEM", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			content, err := a.askOnce(c, f, http.MethodGet, "requests/"+url.PathEscape(args[0])+"/"+what, nil)
			if err == nil {
				_, err = a.out.Write(content)
			}
			return err
		},
	}
	f.register(c)
	return c
}

func newOnceDecide(a *app) *cobra.Command {
	var f workFlags
	by := ""
	c := &cobra.Command{
		Use: "decide REQUEST approved|declined --as SUBSYSTEM --by WHO", Short: "Tell what the person decided after the preview", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			in := map[string]string{"decision": args[1], "decided_by": by}
			return a.printOnce(a.askOnce(c, f, http.MethodPost, "requests/"+url.PathEscape(args[0])+"/decision", in))
		},
	}
	f.register(c)
	c.Flags().StringVar(&by, "by", "", "`who` decided: person or representative")
	return c
}

// newRegisterEvidenceType is about the catalogue of the once-only principle.
func newRegisterEvidenceType(a *app) *cobra.Command {
	c := &cobra.Command{Use: "evidence-type", Short: "What evidence services give, and which requirements it proves", Args: cobra.NoArgs}
	m := &registrypb.SetEvidenceType{}
	suspend, end := "", false
	set := &cobra.Command{
		Use: "set TYPE", Short: "Register a type of evidence (SERVICE/NAME), or change, suspend or end one", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m.Id, m.Status = args[0], registrypb.Status_STATUS_ACTIVE
			slices.Sort(m.Requirements)
			switch {
			case end:
				m.Status = registrypb.Status_STATUS_ENDED
			case suspend != "":
				m.Status, m.Notice = registrypb.Status_STATUS_SUSPENDED, suspend
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetEvidenceType{SetEvidenceType: m}})
		},
	}
	set.Flags().StringVar(&m.Title, "title", "", "`title` for people")
	set.Flags().StringVar(&m.Law, "law", "", "the `provision` under which it is given")
	set.Flags().StringArrayVar(&m.Requirements, "requirement", nil, "`URI` of a requirement that it proves; again for each")
	set.Flags().StringVar(&suspend, "suspend", "", "give none for now, and this `notice` instead")
	set.Flags().BoolVar(&end, "end", false, "end it for good")
	set.MarkFlagsMutuallyExclusive("suspend", "end")
	c.AddCommand(set)
	return c
}
