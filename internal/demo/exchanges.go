package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus/client"
	"github.com/civibus/civibus/evidence/proof"
)

// receiptPatience is how long a receipt may take until the demo calls it missing.
const receiptPatience = 30 * time.Second

// exchange is one that was made.
type exchange struct {
	offered
	id string
}

// exchanges calls every service in the name of the town's portal.
func (d *Demo) exchanges(ctx context.Context) ([]exchange, error) {
	consumer := d.Network.Bodies[town]
	portal := &client.Client{Gateway: consumer.ConsumerURL(), Client: consumer.Client("portal"), HTTP: oneShot()}
	var out []exchange
	for i, s := range d.services {
		if i == populationOffice {
			d.tap.arm() // what a thief on the hop would get
		}
		began := time.Now()
		step := Step{Kind: KindExchange, Name: s.name, Client: portal.Client.String(), Service: s.service.ID.String(), Request: s.method + " " + s.path}
		call := client.Call{Service: s.service.ID, Method: s.method, Path: s.path, Purpose: s.purpose}
		if s.body != "" {
			call.Body = strings.NewReader(s.body)
			call.Header = http.Header{"Content-Type": {"text/csv"}}
		}
		answer, err := portal.Do(ctx, call)
		if err != nil {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			step.Detail = err.Error()
			d.report(began, step)
			continue
		}
		body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		answer.Body.Close()
		step.Status, step.Exchange, step.Detail = answer.StatusCode, answer.Exchange, excerpt(body)
		// Of the user's own service any answer is an answer.
		step.OK = err == nil && (answer.StatusCode == http.StatusOK || d.opts.Upstream != "" && i == len(d.services)-1)
		if err != nil {
			step.Detail = err.Error()
		}
		d.report(began, step)
		out = append(out, exchange{s, answer.Exchange})
	}
	return out, nil
}

// oneShot makes an HTTP client that leaves no connection behind.
func oneShot() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}
}

// excerpt is the beginning of a text on one line.
func excerpt(body []byte) string {
	s := strings.Join(strings.Fields(string(body)), " ")
	if len(s) > 96 {
		s = strings.ToValidUTF8(s[:96], "") + "..."
	}
	return s
}

// prove fetches the receipts with both bodies' halves and verifies them with
// nothing but the policy file.
func (d *Demo) prove(ctx context.Context, done []exchange) (receipts [][]byte, err error) {
	consumer := d.Network.Bodies[town]
	policy, err := consumer.Admin().Policy(ctx)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if err := os.WriteFile(d.policy, policy, 0o644); err != nil {
		return nil, err
	}
	for i, x := range done {
		began := time.Now()
		step := Step{Kind: KindReceipt, Name: x.name, Exchange: x.id}
		raw, err := consumer.Admin().Receipt(ctx, x.id, receiptPatience, true)
		if err == nil {
			step.Receipt = filepath.Join(d.receipts, fmt.Sprintf("%d-%s%s", i+1, x.service.ID.Service, proof.FileExtension))
			err = os.WriteFile(step.Receipt, append(raw, '\n'), 0o644)
		}
		if err != nil {
			step.Detail = err.Error()
			d.report(began, step)
			receipts = append(receipts, nil)
			continue
		}
		report, err := proof.Verify(raw, policy)
		switch {
		case err != nil:
			step.Detail = err.Error()
		case len(report.Summary.Sides) != 2:
			step.Detail = "valid, but with one body's half only"
		case report.Summary.Exchange != x.id || report.Summary.Service != x.service.ID.String():
			step.Detail = "valid, but of another exchange"
		default:
			step.OK = true
			s := report.Summary
			step.Detail = fmt.Sprintf("valid: recorded by both bodies, cosigned by %d validators, for %s under %s", len(s.Registry.Witnesses), s.Purpose, s.LegalBasis)
			if d.FirstReceipt == 0 {
				d.FirstReceipt = time.Since(d.opts.Started)
			}
		}
		d.report(began, step)
		receipts = append(receipts, raw)
	}
	return receipts, nil
}

// refusedWith reports whether err is a gateway's refusal of a kind, in either
// vocabulary, and what it said.
func refusedWith(err error, kind string) (e *client.Error, ok bool) {
	if !errors.As(err, &e) {
		return nil, false
	}
	return e, strings.HasSuffix(e.Type, kind)
}
