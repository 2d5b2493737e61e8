package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

func newRegisterRight(a *app) *cobra.Command {
	c := &cobra.Command{Use: "right", Short: "Access rights: who may call what, and why", Args: cobra.NoArgs}
	var lf listFlags
	var o admin.ListOptions
	list := &cobra.Command{
		Use: "list", Short: "List access rights", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listAll(c.Context(), a, lf, o, (*admin.Client).Rights,
				[]string{"RIGHT", "SERVICE", "SUBJECT", "ENDPOINTS", "PURPOSE", "STATUS"}, func(r admin.Right) []string {
					return []string{r.ID, r.Service, r.Client + r.Group, endpointText(r.Endpoints), r.Purpose, r.Status}
				})
		},
	}
	lf.register(list)
	list.Flags().StringVar(&o.Member, "member", "", "only those that this `member` grants or has")
	list.Flags().StringVar(&o.Service, "service", "", "only those to this `service`")
	list.Flags().StringVar(&o.Client, "client", "", "only those of this `client`")
	show := &cobra.Command{
		Use: "show RIGHT", Short: "Show an access right", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.Right(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			a.pairs("right", r.ID, "service", r.Service, "client", r.Client, "group", r.Group, "endpoints", endpointText(r.Endpoints),
				"purpose", r.Purpose, "legal basis", r.LegalBasis, "valid from", timeText(r.ValidFrom), "valid until", timeText(r.ValidUntil),
				"limit", limitText(r.RateLimit), "supersedes", r.Supersedes, "disclosure", r.Disclosure, "disclosed from", timeText(r.DisclosedFrom), "sentence", r.Sentence, "granted by", r.GrantedBy,
				"status", r.Status, "in force", periodText(r.Periods))
			return nil
		},
	}
	c.AddCommand(list, show, a.grantRight(), a.changeRight(),
		a.rightStatus("approve", "Approve, as a second person, a right that keeps something from persons", registrypb.Status_STATUS_ACTIVE),
		a.rightStatus("suspend", "Suspend a right", registrypb.Status_STATUS_SUSPENDED),
		a.rightStatus("resume", "End a right's suspension", registrypb.Status_STATUS_ACTIVE),
		a.rightStatus("revoke", "End a right for good", registrypb.Status_STATUS_ENDED))
	return c
}

func (a *app) rightStatus(use, short string, s registrypb.Status) *cobra.Command {
	return a.verb(use, short, "RIGHT", func(id string) *registrypb.Tx {
		return &registrypb.Tx{Body: &registrypb.Tx_SetRightStatus{SetRightStatus: &registrypb.SetRightStatus{Id: id, Status: s}}}
	})
}

// rightFlags are the terms of a right.
type rightFlags struct {
	service, client, group, purpose, legalBasis, from, until, limit string
	disclosure, disclosedFrom, sentence                             string
	endpoints                                                       []string
}

func (f *rightFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.service, "service", "", "`service` that may be called")
	c.Flags().StringVar(&f.client, "client", "", "member or subsystem (`client`) that may call")
	c.Flags().StringVar(&f.group, "group", "", "`group` whose clients may call: global/CODE or local/I/C/M/S/CODE")
	c.Flags().StringArrayVar(&f.endpoints, "endpoint", nil, "`\"METHOD PATH\"` that may be called; again for each (default: the whole service)")
	c.Flags().StringVar(&f.purpose, "purpose", "", "purpose `code`")
	c.Flags().StringVar(&f.legalBasis, "legal-basis", "", "legal basis, e.g. an ELI `URI`")
	c.Flags().StringVar(&f.from, "from", "", "not valid before this `time` (RFC 3339)")
	c.Flags().StringVar(&f.until, "until", "", "not valid from this `time` on (RFC 3339)")
	c.Flags().StringVar(&f.limit, "limit", "", "`N/duration`: at most so many calls, e.g. 100/1m")
	c.Flags().StringVar(&f.disclosure, "disclosure", "", "calls concern persons, who are shown them: `shown`, later or never (a second person approves the last two)")
	c.Flags().StringVar(&f.disclosedFrom, "disclosed-from", "", "with later: shown from this `time` on (RFC 3339)")
	c.Flags().StringVar(&f.sentence, "sentence", "", "what a person is told of a call: a `sentence` in plain words")
}

func (a *app) grantRight() *cobra.Command {
	var f rightFlags
	c := &cobra.Command{
		Use: "add", Short: "Grant an access right to one of the body's services", Args: cobra.NoArgs,
		Example: "  civibus register right add --service DEMO/GOV/0001/population/persons --client DEMO/GOV/0002/portal --endpoint 'GET /*' --purpose residence-check --legal-basis https://law.example/act/1",
		RunE: func(c *cobra.Command, _ []string) error {
			terms := &registrypb.GrantRight{}
			if err := f.apply(c, terms); err != nil {
				return err
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: terms}})
		},
	}
	f.register(c)
	for _, flag := range []string{"service", "purpose", "legal-basis"} {
		_ = c.MarkFlagRequired(flag) // fails only for unknown flags
	}
	c.MarkFlagsMutuallyExclusive("client", "group")
	c.MarkFlagsOneRequired("client", "group")
	return c
}

func (a *app) changeRight() *cobra.Command {
	var f rightFlags
	c := &cobra.Command{
		Use: "change RIGHT", Short: "Replace a right by one with other terms, in one step", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			old, err := client.Right(c.Context(), args[0])
			if err != nil {
				return err
			}
			terms := termsOf(old)
			terms.Supersedes = old.ID
			if err := f.apply(c, terms); err != nil {
				return err
			}
			return a.change(c.Context(), &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: terms}})
		},
	}
	f.register(c)
	c.MarkFlagsMutuallyExclusive("client", "group")
	return c
}

func termsOf(r admin.Right) *registrypb.GrantRight {
	t := &registrypb.GrantRight{Service: r.Service, Purpose: r.Purpose, LegalBasis: r.LegalBasis}
	for _, e := range r.Endpoints {
		t.Endpoints = append(t.Endpoints, &registrypb.Endpoint{Method: e.Method, Path: e.Path})
	}
	if r.Group != "" {
		t.Subject = &registrypb.GrantRight_Group{Group: r.Group}
	} else {
		t.Subject = &registrypb.GrantRight_Client{Client: r.Client}
	}
	if r.ValidFrom != nil {
		t.ValidFrom = r.ValidFrom.Unix()
	}
	if r.ValidUntil != nil {
		t.ValidUntil = r.ValidUntil.Unix()
	}
	if d, err := civibus.ParseDisclosure(r.Disclosure); err == nil {
		t.Disclosure, t.Sentence = registrypb.Disclosure(d), r.Sentence
	}
	if r.DisclosedFrom != nil {
		t.DisclosedFrom = r.DisclosedFrom.Unix()
	}
	if r.RateLimit != nil {
		t.RateLimit = &registrypb.RateLimit{Requests: r.RateLimit.Requests, PerSeconds: r.RateLimit.PerSeconds}
	}
	return t
}

// apply lays the flags that were given over terms.
func (f *rightFlags) apply(c *cobra.Command, t *registrypb.GrantRight) (err error) {
	given := c.Flags().Changed
	if given("service") {
		t.Service = f.service
	}
	if given("client") {
		t.Subject = &registrypb.GrantRight_Client{Client: f.client}
	}
	if given("group") {
		t.Subject = &registrypb.GrantRight_Group{Group: f.group}
	}
	if given("endpoint") {
		if t.Endpoints, err = endpoints(f.endpoints); err != nil {
			return err
		}
	}
	if given("purpose") {
		t.Purpose = f.purpose
	}
	if given("legal-basis") {
		t.LegalBasis = f.legalBasis
	}
	if given("from") {
		if t.ValidFrom, err = unixTime("from", f.from); err != nil {
			return err
		}
	}
	if given("until") {
		if t.ValidUntil, err = unixTime("until", f.until); err != nil {
			return err
		}
	}
	if given("limit") {
		if t.RateLimit, err = rateLimit(f.limit); err != nil {
			return err
		}
	}
	return f.applyDisclosure(c, t)
}

// applyDisclosure lays the flags about persons over terms.
func (f *rightFlags) applyDisclosure(c *cobra.Command, t *registrypb.GrantRight) (err error) {
	if c.Flags().Changed("disclosure") {
		d, err := civibus.ParseDisclosure(f.disclosure)
		if err != nil {
			return usageError{fmt.Errorf("--disclosure: %w", err), "e.g. --disclosure shown --sentence 'The town looked up your address.'"}
		}
		t.Disclosure = registrypb.Disclosure(d)
	}
	if c.Flags().Changed("sentence") {
		t.Sentence = f.sentence
	}
	if c.Flags().Changed("disclosed-from") {
		if t.DisclosedFrom, err = unixTime("disclosed-from", f.disclosedFrom); err != nil {
			return err
		}
	}
	return nil
}

func unixTime(flag, s string) (int64, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, usageError{fmt.Errorf("--%s %q: the rule is RFC 3339", flag, s), "e.g. 2027-01-01T00:00:00Z"}
	}
	return t.Unix(), nil
}

func rateLimit(s string) (*registrypb.RateLimit, error) {
	bad := usageError{fmt.Errorf("--limit %q: the rule is N/duration in whole seconds", s), "e.g. 100/1m"}
	n, per, ok := strings.Cut(s, "/")
	requests, err := strconv.ParseUint(n, 10, 32)
	if !ok || err != nil {
		return nil, bad
	}
	d, err := time.ParseDuration(per)
	if err != nil || d < time.Second || d%time.Second != 0 || d > 366*24*time.Hour {
		return nil, bad
	}
	return &registrypb.RateLimit{Requests: uint32(requests), PerSeconds: uint32(d / time.Second)}, nil
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func limitText(l *admin.RateLimit) string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("%d in %v", l.Requests, time.Duration(l.PerSeconds)*time.Second)
}
