package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/events"
)

// maxEventsAnswer bounds an answer that is held in memory.
const maxEventsAnswer = 64 << 20

// eventsCaller speaks to the consumer face about messages.
type eventsCaller struct {
	a *app
	f callFlags
}

// newEvents is about asynchronous messages.
func newEvents(a *app) *cobra.Command {
	e := &eventsCaller{a: a, f: callFlags{timeout: time.Minute}}
	c := &cobra.Command{
		Use:   "events",
		Short: "Publish CloudEvents, subscribe to them, fetch them and prove them",
		Long: `Publish events on the topics of the body's services, and subscribe to the topics
of others. The commands speak to the consumer face of the body's gateway, as the body's
systems do (docs/events.md). TOPIC is INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE/TOPIC;
"civibus register topic" makes one.`,
		Args: cobra.NoArgs,
	}
	p := c.PersistentFlags()
	p.StringVar(&e.f.client, "client", "", "who calls: `INSTANCE/CLASS/MEMBER[/SUBSYSTEM]` (default: the body itself)")
	p.StringVar(&e.f.gateway, "gateway", "", "`URL` of the consumer face (default: that of the running node)")
	p.StringVar(&e.f.cert, "cert", "", "PEM `file` with the client certificate shown to the gateway")
	p.StringVar(&e.f.key, "key", "", "PEM `file` with its private key")
	p.StringVar(&e.f.ca, "ca", "", "PEM `file` with the authorities of the gateway's certificate")
	c.AddCommand(e.topics(), e.topic(), e.publish(), e.subscribe(), e.list(), e.pull(), e.ack(), e.replay(), e.dead(), e.end(), e.prove(), newEventsVerify(a))
	return c
}

// do makes a call. What is refused is an error.
func (e *eventsCaller) do(c *cobra.Command, method, path, contentType string, header http.Header, body []byte) (http.Header, []byte, error) {
	cl, err := e.a.caller(c, e.f)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(c.Context(), method, strings.TrimSuffix(cl.Gateway, "/")+events.Prefix+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("X-Road-Client", cl.Client.String())
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := cl.HTTP.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxEventsAnswer))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode >= 400 {
		var doc struct{ Type, Message, Detail string }
		if json.Unmarshal(raw, &doc) != nil || doc.Type == "" {
			return nil, nil, refusal{fmt.Sprintf("%s answered %s", cl.Gateway, resp.Status), "is it the consumer face of a gateway?"}
		}
		return nil, nil, callError(e.a, &client.Error{Type: doc.Type, Message: doc.Message, Detail: doc.Detail, Status: resp.StatusCode})
	}
	return resp.Header, raw, nil
}

// ask makes a call with JSON both ways.
func (e *eventsCaller) ask(c *cobra.Command, method, path string, in, out any) error {
	var body []byte
	var err error
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	_, raw, err := e.do(c, method, path, "application/json", nil, body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// topicView is a topic as the gateway tells of it.
type topicView struct {
	Topic       string              `json:"topic"`
	Title       string              `json:"title"`
	Ordered     bool                `json:"ordered"`
	Status      string              `json:"status"`
	Notice      string              `json:"notice,omitempty"`
	Oldest      uint64              `json:"oldest,omitempty"`
	Newest      uint64              `json:"newest,omitempty"`
	Subscribers []events.Subscriber `json:"subscribers,omitempty"`
}

func (e *eventsCaller) topics() *cobra.Command {
	var prefix string
	c := &cobra.Command{
		Use: "topics", Short: "List the topics of the instance", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all := []topicView{}
			for after := ""; ; {
				var page struct {
					Topics []topicView `json:"topics"`
					Next   string      `json:"next"`
				}
				if err := e.ask(c, "GET", "topics?"+url.Values{"prefix": {prefix}, "after": {after}}.Encode(), nil, &page); err != nil {
					return err
				}
				all = append(all, page.Topics...)
				if after = page.Next; after == "" {
					break
				}
			}
			if e.a.json {
				return e.a.printJSON(all)
			}
			for _, t := range all {
				order := "in any order"
				if t.Ordered {
					order = "ordered by key"
				}
				fmt.Fprintf(e.a.out, "%s  %s  %s  %s\n", t.Topic, t.Status, order, t.Title)
			}
			return nil
		},
	}
	c.Flags().StringVar(&prefix, "of", "", "only those whose identifier begins with this `text`")
	return c
}

func (e *eventsCaller) topic() *cobra.Command {
	return &cobra.Command{
		Use: "topic TOPIC", Short: "Show a topic, and to its owner who takes its events and how far they are", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var t topicView
			if err := e.ask(c, "GET", "topics/"+args[0], nil, &t); err != nil {
				return err
			}
			if e.a.json {
				return e.a.printJSON(t)
			}
			e.a.pairs("topic", t.Topic, "title", t.Title, "status", t.Status, "notice", t.Notice, "ordered", strconv.FormatBool(t.Ordered),
				"events", fmt.Sprintf("%d to %d", t.Oldest, t.Newest))
			for _, s := range t.Subscribers {
				fmt.Fprintf(e.a.out, "%s  %s  has %d, %d wait, seen %s\n", s.Client, s.Name, s.Acked, s.Waiting, s.Seen.Format(time.RFC3339))
			}
			return nil
		},
	}
}

func (e *eventsCaller) publish() *cobra.Command {
	var data, id, kind, source, key, dataType string
	c := &cobra.Command{
		Use:   "publish TOPIC",
		Short: "Publish events on a topic of the body",
		Long: `Publish events. --data is a CloudEvent in JSON or an array of them; with --type it is
the data of one event. The command returns when the events are on the gateway's disk. The
same source and id again are the same event, which is not delivered twice.`,
		Example: `  civibus events publish --client DEMO/GOV/1001/population DEMO/GOV/1001/population/persons/moved --type example.moved --source /population --id 17 --data '{"case": 4}'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in, done, err := e.a.openBody(data)
			if err != nil {
				return err
			}
			defer done()
			body, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			header, contentType := http.Header{}, events.StructuredType
			if b := bytes.TrimSpace(body); len(b) > 0 && b[0] == '[' {
				contentType = events.BatchType
			}
			if kind != "" {
				contentType = dataType
				for name, value := range map[string]string{"Ce-Specversion": "1.0", "Ce-Type": kind, "Ce-Id": id, "Ce-Source": source, "Ce-Partitionkey": key} {
					if value != "" {
						header.Set(name, strings.ReplaceAll(url.PathEscape(value), "+", "%2B"))
					}
				}
			}
			_, raw, err := e.do(c, "POST", "topics/"+args[0]+"/events", contentType, header, body)
			if err != nil {
				return err
			}
			var out events.Published
			if err := json.Unmarshal(raw, &out); err != nil {
				return err
			}
			if e.a.json {
				return e.a.printJSON(out)
			}
			fmt.Fprintf(e.a.out, "accepted %d, published before %d; the last is event %d\n", out.Accepted, out.Duplicates, out.Last)
			return nil
		},
	}
	c.Flags().StringVarP(&data, "data", "d", "", "text, @file, or @- for standard input (`events`)")
	c.Flags().StringVar(&kind, "type", "", "`type` of the one event whose data --data is")
	c.Flags().StringVar(&id, "id", "", "its `id`")
	c.Flags().StringVar(&source, "source", "", "its source, a `URI` reference")
	c.Flags().StringVar(&key, "partition-key", "", "the `key` by which an ordered topic keeps its order")
	c.Flags().StringVar(&dataType, "data-type", "application/json", "media `type` of its data")
	_ = c.MarkFlagRequired("data")
	return c
}

func (e *eventsCaller) subscribe() *cobra.Command {
	var wish events.Wish
	c := &cobra.Command{
		Use:   "subscribe TOPIC",
		Short: "Subscribe to a topic by the right of the client",
		Long: `Subscribe to a topic. The client needs a right on the service that covers the method
SUBSCRIBE and the topic's path, or the whole service. Events wait in the gateway until they
are fetched ("civibus events pull"), or are pushed to a webhook, whose URL must begin as
the configuration allows (events.webhooks); the secret that signs them is printed once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			wish.Topic = args[0]
			var s events.Subscription
			if err := e.ask(c, "POST", "subscriptions", wish, &s); err != nil {
				return err
			}
			if e.a.json {
				return e.a.printJSON(s)
			}
			e.a.pairs("subscription", s.ID, "topic", s.Topic, "name", s.Name, "webhook", s.Webhook, "secret", s.Secret)
			return nil
		},
	}
	c.Flags().StringVar(&wish.From, "from", events.FromLatest, "first, latest, or the number of the event to begin after (`place`)")
	c.Flags().StringVar(&wish.Name, "name", "default", "`name` that tells several subscriptions of one client apart")
	c.Flags().StringVar(&wish.Webhook, "webhook", "", "`URL` that events are pushed to (default: they are fetched)")
	return c
}

func (e *eventsCaller) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the client's subscriptions and how far they are", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var out struct{ Subscriptions []events.Subscription }
			if err := e.ask(c, "GET", "subscriptions", nil, &out); err != nil {
				return err
			}
			if e.a.json {
				return e.a.printJSON(out.Subscriptions)
			}
			for _, s := range out.Subscriptions {
				fmt.Fprintf(e.a.out, "%s  %s  %s  %s  taken %d, here %d, dead letters %d", s.ID, s.Topic, s.Name, s.State, s.Cursor, s.Received, s.Dead)
				if s.Reason != "" {
					fmt.Fprintf(e.a.out, "  %s: %s", s.Reason, s.Message)
				}
				fmt.Fprintln(e.a.out)
			}
			return nil
		},
	}
}

func (e *eventsCaller) pull() *cobra.Command {
	var limit int
	var after int64
	var wait time.Duration
	var ack bool
	c := &cobra.Command{
		Use:   "pull SUBSCRIPTION",
		Short: "Fetch events, one JSON object a line",
		Long: `Fetch the events after the last acknowledgement, or after --after. They come again until
they are acknowledged: by --ack, or by "civibus events ack" with the civibusseq of the last
one that was dealt with.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}, "wait": {strconv.Itoa(int(wait / time.Second))}}
			if c.Flags().Changed("after") {
				q.Set("after", strconv.FormatInt(after, 10))
			}
			h, raw, err := e.do(c, "GET", "subscriptions/"+args[0]+"/events?"+q.Encode(), "", nil, nil)
			if err != nil {
				return err
			}
			var list []json.RawMessage
			if err := json.Unmarshal(raw, &list); err != nil {
				return err
			}
			if e.a.json {
				if err := e.a.printJSON(list); err != nil {
					return err
				}
			} else {
				for _, x := range list {
					fmt.Fprintf(e.a.out, "%s\n", x)
				}
			}
			if !ack {
				return nil
			}
			upto, err := strconv.ParseUint(h.Get("Events-Cursor"), 10, 64)
			if err != nil {
				return fmt.Errorf("the gateway gave no cursor: %w", err)
			}
			return e.ask(c, "POST", "subscriptions/"+args[0]+"/ack", map[string]uint64{"upto": upto}, nil)
		},
	}
	c.Flags().IntVar(&limit, "limit", 100, "at most `N` events, up to 1024")
	c.Flags().Int64Var(&after, "after", 0, "after this event `number` instead of the last acknowledgement")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait when there is none, up to 30s")
	c.Flags().BoolVar(&ack, "ack", false, "acknowledge what was printed")
	return c
}

func (e *eventsCaller) ack() *cobra.Command {
	var refuse []string
	c := &cobra.Command{
		Use: "ack SUBSCRIPTION NUMBER", Short: "Acknowledge all events up to one", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			upto, err := strconv.ParseUint(args[1], 10, 63)
			if err != nil {
				return usageError{fmt.Errorf("%q is not the number of an event", args[1]), ""}
			}
			type refused struct {
				Seq    uint64 `json:"seq"`
				Reason string `json:"reason"`
			}
			in := struct {
				Upto    uint64    `json:"upto"`
				Refused []refused `json:"refused,omitempty"`
			}{Upto: upto}
			for _, r := range refuse {
				number, reason, ok := strings.Cut(r, "=")
				seq, err := strconv.ParseUint(number, 10, 63)
				if !ok || err != nil {
					return usageError{fmt.Errorf("--refuse %q: the rule is NUMBER=REASON", r), ""}
				}
				in.Refused = append(in.Refused, refused{seq, reason})
			}
			var s events.Subscription
			if err := e.ask(c, "POST", "subscriptions/"+args[0]+"/ack", in, &s); err != nil {
				return err
			}
			return e.printState(s)
		},
	}
	c.Flags().StringArrayVar(&refuse, "refuse", nil, "`NUMBER=REASON` of one that the system does not take: it becomes a dead letter; again for each")
	return c
}

func (e *eventsCaller) printState(s events.Subscription) error {
	if e.a.json {
		return e.a.printJSON(s)
	}
	fmt.Fprintf(e.a.out, "taken up to %d, here up to %d, dead letters %d\n", s.Cursor, s.Received, s.Dead)
	return nil
}

func (e *eventsCaller) replay() *cobra.Command {
	var after uint64
	c := &cobra.Command{
		Use: "replay SUBSCRIPTION", Short: "Have events delivered again from a cursor on", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var s events.Subscription
			if err := e.ask(c, "POST", "subscriptions/"+args[0]+"/replay", map[string]uint64{"after": after}, &s); err != nil {
				return err
			}
			return e.printState(s)
		},
	}
	c.Flags().Uint64Var(&after, "after", 0, "`number` of the event after which it begins")
	_ = c.MarkFlagRequired("after")
	return c
}

func (e *eventsCaller) dead() *cobra.Command {
	var retry, drop uint64
	c := &cobra.Command{
		Use: "dead SUBSCRIPTION", Short: "Show a subscription's dead letters; deliver one again, or drop it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path := "subscriptions/" + args[0] + "/dead"
			switch {
			case retry != 0:
				return e.ask(c, "POST", path+"/"+strconv.FormatUint(retry, 10)+"/retry", nil, nil)
			case drop != 0:
				return e.ask(c, "DELETE", path+"/"+strconv.FormatUint(drop, 10), nil, nil)
			}
			var all []events.DeadLetter
			for after := uint64(0); ; {
				var page struct{ Dead []events.DeadLetter }
				if err := e.ask(c, "GET", path+"?after="+strconv.FormatUint(after, 10), nil, &page); err != nil {
					return err
				}
				if len(page.Dead) == 0 {
					break
				}
				all = append(all, page.Dead...)
				after = page.Dead[len(page.Dead)-1].Seq
			}
			if e.a.json {
				return e.a.printJSON(append([]events.DeadLetter{}, all...))
			}
			for _, d := range all {
				fmt.Fprintf(e.a.out, "%d  %s  %s  after %d attempts, %s\n", d.Seq, d.Reason, d.Message, d.Attempts, d.Time.Format(time.RFC3339))
			}
			return nil
		},
	}
	c.Flags().Uint64Var(&retry, "retry", 0, "deliver the dead letter of this `number` again")
	c.Flags().Uint64Var(&drop, "drop", 0, "forget the dead letter of this `number`")
	c.MarkFlagsMutuallyExclusive("retry", "drop")
	return c
}

func (e *eventsCaller) end() *cobra.Command {
	return &cobra.Command{
		Use: "end SUBSCRIPTION", Short: "End a subscription and remove what waits for it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.ask(c, "DELETE", "subscriptions/"+args[0], nil, nil)
		},
	}
}

func (e *eventsCaller) prove() *cobra.Command {
	var output, receipt string
	c := &cobra.Command{
		Use:   "prove SUBSCRIPTION NUMBER",
		Short: "Prove one event without showing another",
		Long: `Write the proof that one event was in the batch which the provider sealed, and with
--receipt the receipt of the exchange that brought it. Both verify offline with "civibus
events verify".`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			var p events.Proof
			if err := e.ask(c, "GET", "subscriptions/"+args[0]+"/proofs/"+url.PathEscape(args[1]), nil, &p); err != nil {
				return err
			}
			if receipt != "" {
				if err := e.a.fetchReceipt(c, p.Exchange, receipt); err != nil {
					return err
				}
			}
			if output == "" {
				return e.a.printJSON(p)
			}
			b, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				return err
			}
			return os.WriteFile(output, append(b, '\n'), 0o600)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write the proof to this `file`")
	c.Flags().StringVar(&receipt, "receipt", "", "get the receipt too and write it to this `file`")
	return c
}
