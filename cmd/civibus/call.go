package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/internal/tlsprofile"
)

// maxJSONBody bounds the answer that --json holds in memory.
const maxJSONBody = 64 << 20

// callFlags are the flags of civibus call.
type callFlags struct {
	client, method, purpose, id, user, data, gateway, output, receipt string
	headers                                                           []string
	cert, key, ca                                                     string
	include                                                           bool
	timeout                                                           time.Duration
}

func newCall(a *app) *cobra.Command {
	var f callFlags
	c := &cobra.Command{
		Use:   "call SERVICE[/PATH][?QUERY]",
		Short: "Call a service through the body's gateway",
		Long: `Call another body's service through the own gateway and print its answer.
SERVICE is INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE; what follows is the service
path. The answer goes to standard output, the exchange's id to standard error.
With --json one object holds status, header, body and exchange. Exit code 0: the
service answered with a status below 400; 3: it did not, or a gateway refused.`,
		Example: "  civibus call --client DEMO/MUN/2001/portal DEMO/GOV/1001/population/persons/38001010001 --receipt out.receipt.json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return a.call(c, f, args[0]) },
	}
	c.Flags().StringVar(&f.client, "client", "", "who calls: `INSTANCE/CLASS/MEMBER[/SUBSYSTEM]` (default: the body itself)")
	c.Flags().StringVarP(&f.method, "method", "X", "", "HTTP `method` (default: GET, or POST with --data)")
	c.Flags().StringVarP(&f.data, "data", "d", "", "body: text, @file, or @- for standard input (`body`)")
	c.Flags().StringArrayVarP(&f.headers, "header", "H", nil, "`'Name: value'` of a further header; again for each")
	c.Flags().StringVar(&f.purpose, "purpose", "", "purpose `code` of the call")
	c.Flags().StringVar(&f.id, "id", "", "message `id` (X-Road-Id)")
	c.Flags().StringVar(&f.user, "user", "", "`id` of the acting user (X-Road-UserId)")
	c.Flags().StringVarP(&f.output, "output", "o", "", "write the answer's body to this `file`")
	c.Flags().BoolVarP(&f.include, "include", "i", false, "print status and header too")
	c.Flags().StringVar(&f.receipt, "receipt", "", "get the receipt afterwards and write it to this `file`")
	c.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "longest wait for the whole answer")
	c.Flags().StringVar(&f.gateway, "gateway", "", "`URL` of the consumer face (default: that of the running node)")
	c.Flags().StringVar(&f.cert, "cert", "", "PEM `file` with the client certificate shown to the gateway")
	c.Flags().StringVar(&f.key, "key", "", "PEM `file` with its private key")
	c.Flags().StringVar(&f.ca, "ca", "", "PEM `file` with the authorities of the gateway's certificate")
	c.MarkFlagsRequiredTogether("cert", "key")
	return c
}

func (a *app) call(c *cobra.Command, f callFlags, target string) error {
	// 1. What to call, and through which gateway.
	call, err := parseTarget(target)
	if err != nil {
		return err
	}
	cl, err := a.caller(c, f)
	if err != nil {
		return err
	}
	call.Method, call.Purpose, call.MessageID, call.UserID = f.method, f.purpose, f.id, f.user
	if call.Header, err = headers(f.headers); err != nil {
		return err
	}
	if c.Flags().Changed("data") {
		body, closeBody, err := a.openBody(f.data)
		if err != nil {
			return err
		}
		defer closeBody()
		call.Body = body
		if call.Method == "" {
			call.Method = http.MethodPost
		}
	}

	// 2. The exchange.
	answer, err := cl.Do(c.Context(), call)
	if err != nil {
		return callError(a, err)
	}
	defer answer.Body.Close()
	if err := a.printAnswer(f, answer); err != nil {
		return err
	}

	// 3. The receipt.
	if f.receipt != "" {
		if err := a.fetchReceipt(c, answer.Exchange, f.receipt); err != nil {
			return err
		}
	}
	if answer.Exchange == "" { // no gateway would begin an exchange without one
		return refusal{fmt.Sprintf("%s answered %s and began no exchange", cl.Gateway, answer.Status), "is it the consumer face of a gateway, and is the path percent-encoded rightly?"}
	}
	if answer.StatusCode >= 400 {
		return refusal{fmt.Sprintf("the service answered %s", answer.Status), ""}
	}
	return nil
}

// parseTarget splits I/C/M/S/SVC[/PATH][?QUERY].
func parseTarget(target string) (client.Call, error) {
	target = strings.TrimPrefix(strings.TrimPrefix(target, "/"), "r1/")
	path, query, _ := strings.Cut(target, "?")
	parts := strings.SplitN(path, "/", 6)
	if len(parts) < 5 {
		return client.Call{}, usageError{fmt.Errorf("service %q: the rule is INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE[/PATH]", target), "\"civibus register service list\" shows the services"}
	}
	id, err := civibus.ParseServiceID(strings.Join(parts[:5], "/"))
	if err != nil {
		return client.Call{}, usageError{err, ""}
	}
	call := client.Call{Service: id, Query: query}
	if len(parts) == 6 {
		call.Path = "/" + parts[5]
	}
	return call, nil
}

// caller makes the client; what no flag says comes from the running node.
func (a *app) caller(c *cobra.Command, f callFlags) (*client.Client, error) {
	if f.gateway == "" || f.client == "" {
		admin, err := a.client()
		if err != nil {
			return nil, err
		}
		s, err := admin.Status(c.Context())
		if err != nil {
			return nil, err
		}
		if f.gateway == "" {
			f.gateway = s.ConsumerURL
		}
		if f.client == "" {
			f.client = s.Member
		}
	}
	id, err := civibus.ParseClientID(f.client)
	if err != nil {
		return nil, usageError{err, "e.g. --client DEMO/GOV/0001/portal"}
	}
	tc := tlsprofile.New()
	if f.cert != "" {
		pair, err := tlsprofile.LoadPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		tc.Certificates = []tls.Certificate{pair}
	}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, err
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca %s: no PEM certificate in it", f.ca)
		}
	}
	h := &http.Client{
		Transport: &http.Transport{TLSClientConfig: tc, DisableCompression: true}, Timeout: f.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &client.Client{Gateway: f.gateway, Client: id, HTTP: h}, nil
}

func headers(flags []string) (http.Header, error) {
	h := http.Header{}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, usageError{fmt.Errorf("header %q: the rule is 'Name: value'", f), ""}
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}

func (a *app) openBody(data string) (io.Reader, func(), error) {
	file, ok := strings.CutPrefix(data, "@")
	switch {
	case !ok:
		return strings.NewReader(data), func() {}, nil
	case file == "-":
		return a.in, func() {}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { _ = f.Close() }, nil // only read
}

// printAnswer streams the answer out; as JSON it is one object.
func (a *app) printAnswer(f callFlags, answer *client.Answer) error {
	if a.json {
		return a.printAnswerJSON(f, answer)
	}
	if f.include {
		fmt.Fprintf(a.out, "%s %s\n", answer.Proto, answer.Status)
		if err := answer.Header.Write(a.out); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	if err := copyAnswer(f.output, a.out, answer); err != nil {
		return err
	}
	if answer.Exchange != "" {
		fmt.Fprintf(a.err, "exchange: %s\n", answer.Exchange)
	}
	return nil
}

// copyAnswer streams the answer's body to a file if one is named, else to out.
func copyAnswer(name string, out io.Writer, answer *client.Answer) (err error) {
	if name != "" {
		file, ferr := os.Create(name)
		if ferr != nil {
			return ferr
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	n, err := io.Copy(out, answer.Body)
	if err != nil {
		return fmt.Errorf("read the answer (after %d bytes): %w", n, err)
	}
	return nil
}

// printAnswerJSON prints one object, with the body in it unless it goes to a file.
func (a *app) printAnswerJSON(f callFlags, answer *client.Answer) error {
	o := map[string]any{"status": answer.StatusCode, "header": answer.Header, "exchange": answer.Exchange, "message_id": answer.MessageID}
	if f.output != "" {
		if err := copyAnswer(f.output, nil, answer); err != nil {
			return err
		}
		o["file"] = f.output
		return a.printJSON(o)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxJSONBody+1))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxJSONBody {
		return hinted{fmt.Errorf("the answer has more than %d MiB, too much for one JSON object", maxJSONBody>>20), "write it to a file with --output"}
	}
	switch {
	case json.Valid(body):
		o["body"] = json.RawMessage(body)
	case utf8.Valid(body):
		o["body"] = string(body)
	default:
		o["body_base64"] = body
	}
	return a.printJSON(o)
}

func (a *app) fetchReceipt(c *cobra.Command, exchange, file string) error {
	admin, err := a.client()
	if err != nil {
		return err
	}
	receipt, err := admin.Receipt(c.Context(), exchange, 30*time.Second, false)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(receipt, '\n'), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "receipt: %s\n", file)
	return nil
}

// callError turns a gateway's refusal into one with a hint.
func callError(a *app, err error) error {
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	if a.json {
		if perr := a.printJSON(map[string]any{"error": map[string]any{"type": e.Type, "message": e.Message, "detail": e.Detail, "status": e.Status}, "exchange": e.Exchange}); perr != nil {
			return perr
		}
	}
	hint := ""
	switch {
	case strings.HasSuffix(e.Type, "AccessDenied"), strings.HasSuffix(e.Type, "access_denied"):
		hint = "the provider grants rights with \"civibus register right add\""
	case strings.HasSuffix(e.Type, "UnknownService"), strings.HasSuffix(e.Type, "unknown_service"):
		hint = "\"civibus register service list\" shows the services"
	case strings.HasSuffix(e.Type, "UnknownMember"), strings.HasSuffix(e.Type, "unknown_member"):
		hint = "\"civibus register member list\" shows the members; the client must be of this body (--client)"
	}
	if e.Exchange != "" {
		fmt.Fprintf(a.err, "exchange: %s\n", e.Exchange)
	}
	return refusal{e.Error(), hint}
}
