package soap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
)

// problem is an answer that the adapter itself gives, an RFC 9457 document.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Fault is the SOAP fault code, when the service answered with a fault.
	Fault string `json:"soapFault,omitempty"`
	cause error
}

// Error says what is wrong, for the log.
func (p *problem) Error() string {
	if p.cause != nil {
		return p.Detail + ": " + p.cause.Error()
	}
	return p.Detail
}

func problemf(status int, format string, args ...any) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// ServeHTTP answers a REST request: 1. find the operation, 2. make the SOAP
// request, 3. call, 4. read the answer, 5. write it as JSON.
func (a *Adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rawPath := r.URL.EscapedPath()
	if r.Method == http.MethodGet && rawPath == "/openapi.json" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(a.description)
		return
	}
	op, parameters, allowed := a.match(r.Method, rawPath)
	if op == nil {
		if allowed != nil {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			a.fail(w, r, problemf(http.StatusMethodNotAllowed, "the path does not have this method"))
			return
		}
		a.fail(w, r, problemf(http.StatusNotFound, "no operation has this path"))
		return
	}
	answer, err := a.exchange(r, op, parameters)
	if err != nil {
		var p *problem
		if !errors.As(err, &p) {
			p = problemf(http.StatusInternalServerError, "the adapter failed")
			p.cause = err
		}
		a.fail(w, r, p)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(op.Status)
	_, _ = w.Write(answer)
}

func (a *Adapter) fail(w http.ResponseWriter, r *http.Request, p *problem) {
	if p.Status >= 500 {
		a.config.Logger.WarnContext(r.Context(), "soap adapter", "status", p.Status, "err", p)
	}
	body, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Title, p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

func (a *Adapter) exchange(r *http.Request, op *route, parameters map[string]string) ([]byte, error) {
	envelope, err := a.envelope(r, op, parameters)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.config.URL, strings.NewReader(envelope))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	req.Header.Set("SOAPAction", `"`+op.Action+`"`)
	req.Header.Set("Accept", "text/xml")
	req.Header.Set("User-Agent", "civibus")
	resp, err := a.config.Transport.RoundTrip(req)
	if err != nil {
		return nil, callProblem(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, a.config.MaxBytes+1))
	if err != nil {
		return nil, callProblem(ctx, err)
	}
	if int64(len(body)) > a.config.MaxBytes {
		return nil, problemf(http.StatusBadGateway, "the SOAP service's answer is larger than %d bytes", a.config.MaxBytes)
	}
	// SOAP 1.1 section 6.2: an answer is 2xx, a fault is 500. Anything else does
	// not come from the SOAP service but from something before it.
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusInternalServerError || media != "text/xml" && media != "application/xml" {
		return nil, problemf(http.StatusBadGateway, "the SOAP service answered with status %d and content type %.40q", resp.StatusCode, media)
	}
	return a.read(op, body)
}

func callProblem(ctx context.Context, err error) error {
	p := problemf(http.StatusBadGateway, "the SOAP service cannot be reached or broke the connection")
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		p = problemf(http.StatusGatewayTimeout, "the SOAP service did not answer in time")
	}
	p.cause = err
	return p
}
