// Package client calls other bodies' services through one's own body's gateway.
// It is a thin layer over HTTP: the gateway's consumer face is X-Road's REST
// protocol, so any HTTP client will do as well.
//
// Trust: it trusts its own body's gateway, which signs for the body and verifies
// what comes back. An attacker between this client and the gateway can read and
// alter calls unless the connection is TLS.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/civibus/civibus"
)

// maxErrorBody bounds what is read of an error document.
const maxErrorBody = 64 << 10

// Client calls in the name of one client of the body.
type Client struct {
	// Gateway is the consumer face, e.g. http://127.0.0.1:8080. Required.
	Gateway string
	// Client is who calls: a subsystem of the body, or the body itself. Required.
	Client civibus.ClientID
	// HTTP makes the requests. It must follow no redirects, since a service's
	// redirect is its answer. Default: one that follows none.
	HTTP *http.Client
}

// Call is one call of a service.
type Call struct {
	Service civibus.ServiceID
	// Method is the HTTP method. Default: GET.
	Method string
	// Path is the service path, percent-encoded, "" or beginning with "/".
	Path string
	// Query is the query as it is sent, without "?".
	Query string
	// Header holds further fields, which reach the service.
	Header http.Header
	// Body is streamed. Nil: none.
	Body io.Reader
	// Length is the body's length if it is known; 0 or less: it is not, unless
	// Body is of a kind that net/http knows.
	Length int64
	// Purpose is the purpose code that the caller states.
	Purpose string
	// MessageID is X-Road-Id. Default: the gateway makes one.
	MessageID string
	// UserID is X-Road-UserId.
	UserID string
}

// Answer is the service's answer. The caller closes Body.
type Answer struct {
	*http.Response
	Exchange  string // names the exchange in both bodies' evidence
	MessageID string
}

// Error is the refusal or failure of a gateway, ours or the other body's, not of
// the service.
type Error struct {
	Type     string // X-Road's error type, e.g. Server.ServerProxy.AccessDenied
	Message  string
	Detail   string // names the occurrence in the gateway's log
	Status   int
	Exchange string // empty if none was begun
}

// Error returns type and message.
func (e *Error) Error() string { return e.Type + ": " + e.Message }

// Do makes a call. A gateway's refusal is an *Error; every answer of the service,
// whatever its status, is an Answer.
func (c *Client) Do(ctx context.Context, call Call) (*Answer, error) {
	req, err := c.request(ctx, call)
	if err != nil {
		return nil, err
	}
	h := c.HTTP
	if h == nil {
		h = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	resp, err := h.Do(req)
	if err != nil {
		var u *url.Error // names the target without the host, since that is opaque
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("call the gateway %s: %w", c.Gateway, err)
	}
	if kind := resp.Header.Get(civibus.HeaderError); kind != "" {
		defer resp.Body.Close()
		e := &Error{Type: kind, Status: resp.StatusCode, Exchange: resp.Header.Get(civibus.HeaderRequestID)}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		if err != nil {
			return nil, errors.Join(e, err)
		}
		var doc struct{ Message, Detail string }
		if json.Unmarshal(body, &doc) == nil {
			e.Message, e.Detail = doc.Message, doc.Detail
		} else {
			e.Message = strings.TrimSpace(string(body))
		}
		return nil, e
	}
	return &Answer{Response: resp, Exchange: resp.Header.Get(civibus.HeaderRequestID), MessageID: resp.Header.Get(civibus.HeaderID)}, nil
}

func (c *Client) request(ctx context.Context, call Call) (*http.Request, error) {
	base, err := url.Parse(c.Gateway)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("gateway %q: the rule is http:// or https:// and host:port", c.Gateway)
	}
	if call.Path != "" && !strings.HasPrefix(call.Path, "/") {
		return nil, fmt.Errorf("service path %q: the rule is empty or beginning with \"/\"", call.Path)
	}
	method := call.Method
	if method == "" {
		method = http.MethodGet
	}
	target := "/r1/" + call.Service.String() + call.Path
	req, err := http.NewRequestWithContext(ctx, method, base.Scheme+"://"+base.Host+"/", call.Body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	// The path goes out as it was given: the seal and the service see it raw.
	req.URL.Opaque = target
	req.URL.RawQuery = call.Query
	if call.Length > 0 {
		req.ContentLength = call.Length
	}
	for k, v := range call.Header {
		req.Header[http.CanonicalHeaderKey(k)] = append([]string(nil), v...)
	}
	req.Header.Set(civibus.HeaderClient, c.Client.String())
	for field, value := range map[string]string{
		civibus.HeaderPurpose: call.Purpose, civibus.HeaderID: call.MessageID, civibus.HeaderUserID: call.UserID,
	} {
		if value != "" {
			req.Header.Set(field, value)
		}
	}
	return req, nil
}
