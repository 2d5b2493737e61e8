package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/civibus/civibus/registry/registrypb"
)

// maxAnswer bounds what a client reads: receipts are at most 4 MiB.
const maxAnswer = 16 << 20

// Client talks to a node's administration interface.
type Client struct {
	socket string
	hosted string // the hosted member that requests are about; empty: the node's own body
	http   *http.Client
}

// NewClient makes a client of the node that listens on socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// For returns a client whose requests are about a member that the node hosts.
func (c *Client) For(member string) *Client {
	of := *c
	of.hosted = member
	return &of
}

// do makes one request. Its error is a *Problem whenever the node answered.
func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.hosted != "" {
		req.Header.Set(HostedHeader, c.hosted)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the node's answer: %w", err)
	}
	if resp.StatusCode >= 400 {
		p := &Problem{}
		if json.Unmarshal(out, p) != nil || p.Detail == "" {
			p = Problemf(resp.StatusCode, "unknown", "the node answered %s", resp.Status)
		}
		return nil, p
	}
	return out, nil
}

// unreachable says what it means that the socket does not answer.
func (c *Client) unreachable(err error) error {
	var p *Problem
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		p = Problemf(0, "not_running", "no node answers at %s", c.socket).
			WithHint("start it with \"civibus run\", or name its configuration with --config")
	case errors.Is(err, fs.ErrPermission):
		p = Problemf(0, "not_permitted", "%s may not be opened by this user", c.socket).
			WithHint("only the user that runs the node may administer it")
	default:
		return fmt.Errorf("call the node: %w", err)
	}
	return p
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var out T
	body, err := json.Marshal(in)
	if err == nil {
		body, err = c.do(ctx, http.MethodPost, path, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

// Status describes the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Block returns the hash of the ledger's block at a height.
func (c *Client) Block(ctx context.Context, height uint64) (Block, error) {
	return get[Block](ctx, c, "/v1/blocks/"+strconv.FormatUint(height, 10))
}

// Config returns the node's effective configuration.
func (c *Client) Config(ctx context.Context) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "/v1/config", nil)
}

// Backup returns the node's stores as an archive, which it makes while it is read.
// The archive ends with a manifest; without it, something is missing.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/v1/backup", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		p := &Problem{}
		if json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(p) != nil || p.Detail == "" {
			p = Problemf(resp.StatusCode, "unknown", "the node answered %s", resp.Status)
		}
		return nil, p
	}
	return resp.Body, nil
}

// Policy returns the policy with which the node's receipts verify.
func (c *Client) Policy(ctx context.Context) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "/v1/policy", nil)
}

// ListOptions select a page of a list. Member, Service, Client and Purpose filter
// the lists that have them.
type ListOptions struct {
	After   string
	Limit   int
	Member  string
	Service string
	Client  string
	Purpose string
}

func (o ListOptions) query() string {
	q := url.Values{}
	add := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	add("after", o.After)
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	add("member", o.Member)
	add("service", o.Service)
	add("client", o.Client)
	add("purpose", o.Purpose)
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// Members lists members.
func (c *Client) Members(ctx context.Context, o ListOptions) (Page[Member], error) {
	return get[Page[Member]](ctx, c, "/v1/members"+o.query())
}

// Member returns one.
func (c *Client) Member(ctx context.Context, id string) (Member, error) {
	return get[Member](ctx, c, "/v1/members/"+id)
}

// Subsystems lists subsystems.
func (c *Client) Subsystems(ctx context.Context, o ListOptions) (Page[Subsystem], error) {
	return get[Page[Subsystem]](ctx, c, "/v1/subsystems"+o.query())
}

// Subsystem returns one.
func (c *Client) Subsystem(ctx context.Context, id string) (Subsystem, error) {
	return get[Subsystem](ctx, c, "/v1/subsystems/"+id)
}

// Services lists services.
func (c *Client) Services(ctx context.Context, o ListOptions) (Page[Service], error) {
	return get[Page[Service]](ctx, c, "/v1/services"+o.query())
}

// Service returns one.
func (c *Client) Service(ctx context.Context, id string) (Service, error) {
	return get[Service](ctx, c, "/v1/services/"+id)
}

// Rights lists access rights.
func (c *Client) Rights(ctx context.Context, o ListOptions) (Page[Right], error) {
	return get[Page[Right]](ctx, c, "/v1/rights"+o.query())
}

// Right returns one.
func (c *Client) Right(ctx context.Context, id string) (Right, error) {
	return get[Right](ctx, c, "/v1/rights/"+url.PathEscape(id))
}

// Rules lists rules.
func (c *Client) Rules(ctx context.Context, o ListOptions) (Page[EnactedRule], error) {
	return get[Page[EnactedRule]](ctx, c, "/v1/rules"+o.query())
}

// Rule returns one.
func (c *Client) Rule(ctx context.Context, id string) (EnactedRule, error) {
	return get[EnactedRule](ctx, c, "/v1/rules/"+id)
}

// Simulate says what a rule, of which document is the canonical form, would have said
// of the exchanges among the newest entries of the evidence log.
func (c *Client) Simulate(ctx context.Context, document []byte, limit int) (Simulation, error) {
	var out Simulation
	answer, err := c.do(ctx, http.MethodPost, "/v1/rules/simulate?limit="+strconv.Itoa(limit), document)
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(answer, &out)
}

// Keys lists keys.
func (c *Client) Keys(ctx context.Context, o ListOptions) (Page[Key], error) {
	return get[Page[Key]](ctx, c, "/v1/keys"+o.query())
}

// Key returns one.
func (c *Client) Key(ctx context.Context, id string) (Key, error) {
	return get[Key](ctx, c, "/v1/keys/"+url.PathEscape(id))
}

// Groups lists groups.
func (c *Client) Groups(ctx context.Context, o ListOptions) (Page[Group], error) {
	return get[Page[Group]](ctx, c, "/v1/groups"+o.query())
}

// Logs lists the evidence logs that the registry knows.
func (c *Client) Logs(ctx context.Context, o ListOptions) (Page[Log], error) {
	return get[Page[Log]](ctx, c, "/v1/logs"+o.query())
}

// Change submits a change; only tx's body is set.
func (c *Client) Change(ctx context.Context, tx *registrypb.Tx) (Change, error) {
	var out Change
	in, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(tx)
	if err != nil {
		return out, fmt.Errorf("encode change: %w", err)
	}
	body, err := c.do(ctx, http.MethodPost, "/v1/changes", in)
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

// NewKey has the node make and register a key.
func (c *Client) NewKey(ctx context.Context, req NewKey) (Change, error) {
	var out Change
	in, err := json.Marshal(req)
	if err != nil {
		return out, fmt.Errorf("encode key request: %w", err)
	}
	body, err := c.do(ctx, http.MethodPost, "/v1/keys", in)
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

// Receipt returns the receipt of an exchange. It waits up to wait for the anchor
// and, when both, for the other body's half.
func (c *Client) Receipt(ctx context.Context, exchangeID string, wait time.Duration, both bool) ([]byte, error) {
	return c.receipt(ctx, exchangeID, url.Values{}, wait, both)
}

// ReceiptOfEntry is Receipt for one of several entries with one id, by the index
// of its leaf.
func (c *Client) ReceiptOfEntry(ctx context.Context, exchangeID string, entry uint64, wait time.Duration, both bool) ([]byte, error) {
	return c.receipt(ctx, exchangeID, url.Values{"entry": {strconv.FormatUint(entry, 10)}}, wait, both)
}

func (c *Client) receipt(ctx context.Context, exchangeID string, q url.Values, wait time.Duration, both bool) ([]byte, error) {
	q.Set("wait", wait.String())
	if both {
		q.Set("both", "true")
	}
	return c.do(ctx, http.MethodGet, "/v1/receipts/"+url.PathEscape(exchangeID)+"?"+q.Encode(), nil)
}

// Exchange returns what the body holds about an exchange.
func (c *Client) Exchange(ctx context.Context, id string) (Exchange, error) {
	return get[Exchange](ctx, c, "/v1/exchanges/"+url.PathEscape(id))
}

// Exchanges lists the newest entries of the evidence log.
func (c *Client) Exchanges(ctx context.Context, limit int) (Page[Entry], error) {
	return get[Page[Entry]](ctx, c, "/v1/exchanges?limit="+strconv.Itoa(limit))
}

// CheckLog checks the evidence log against the registry.
func (c *Client) CheckLog(ctx context.Context) (Check, error) {
	return get[Check](ctx, c, "/v1/log/check")
}

// IsCode reports whether err is a problem with the code.
func IsCode(err error, code string) bool {
	var p *Problem
	return errors.As(err, &p) && strings.EqualFold(p.Code, code)
}
