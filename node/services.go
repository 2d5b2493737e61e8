package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/tlsprofile"
	"github.com/civibus/civibus/link/files"
	"github.com/civibus/civibus/link/soap"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/service"
)

// openServices connects the body's services with the systems that answer.
func (n *Node) openServices(r *rooms, closers *closers) (*service.Set, error) {
	var upstreams []service.Upstream
	for i, s := range n.cfg.Services {
		parts, err := civibus.SplitIdentifier(s.ID, 2, 3)
		if err != nil {
			return nil, fmt.Errorf("services[%d]: %w", i, err)
		}
		u := service.Upstream{
			Service: civibus.ServiceID{ClientID: civibus.ClientID{MemberID: n.member, Subsystem: parts[0]}, Service: parts[1]},
			OpenAPI: s.OpenAPI, AnswerTimeout: time.Duration(s.Timeout),
		}
		if len(parts) == 3 {
			u.Service.Version = parts[2]
		}
		if s.Adapter == "rest" {
			u.URL, u.CA, u.ClientCertificate, u.ClientKey = s.URL, s.CA, s.ClientCertificate, s.ClientKey
		} else if u.Handler, err = n.adapter(s, closers); err != nil {
			return nil, fmt.Errorf("services[%d] (%s): %w", i, s.ID, err)
		}
		upstreams = append(upstreams, u)
	}
	if n.host == nil {
		for _, p := range n.processParts() {
			upstreams = append(upstreams, service.Upstream{
				Service: civibus.ServiceID{ClientID: p.Subsystem, Service: process.ServiceCode}, Handler: n.process.Load().Inbox(),
			})
		}
	}
	upstreams = append(upstreams, n.usageService(r)...)
	upstreams = append(upstreams, n.onceUpstreams()...)
	set, err := service.NewSet(upstreams, service.Config{Logger: n.log.With("room", "service"), Metrics: n.metrics})
	if err != nil {
		return nil, err
	}
	closers.add("services", func(context.Context) error { set.Close(); return nil })
	return set, nil
}

// adapter makes the handler that speaks a legacy system's language.
func (n *Node) adapter(s ServiceConfig, closers *closers) (http.Handler, error) {
	log := n.log.With("room", "link", "service", s.ID)
	switch s.Adapter {
	case "files":
		a, err := files.New(files.Config{Dir: s.Dir, Wait: time.Duration(s.Wait), ContentType: s.ContentType, Logger: log})
		if err != nil {
			return nil, err
		}
		closers.add("file adapter", func(context.Context) error { return a.Close() })
		return a, nil
	case "soap":
		text, err := os.ReadFile(s.Mapping)
		if err != nil {
			return nil, err
		}
		var c soap.Config
		if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c); err != nil {
			return nil, fmt.Errorf("mapping %s: %w", s.Mapping, err)
		}
		t, err := upstreamTransport(s)
		if err != nil {
			return nil, err
		}
		closers.add("SOAP adapter", func(context.Context) error { t.CloseIdleConnections(); return nil })
		c.URL, c.Timeout, c.Logger, c.Transport = s.URL, time.Duration(s.Timeout), log, t
		return soap.New(c)
	}
	return nil, fmt.Errorf("adapter %q is not known", s.Adapter)
}

// upstreamTransport carries an adapter's calls with the service's certificates.
func upstreamTransport(s ServiceConfig) (*http.Transport, error) {
	tc := tlsprofile.Upstream()
	if s.CA != "" {
		text, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, err
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca %s: no PEM certificate in it", s.CA)
		}
	}
	if s.ClientCertificate != "" {
		pair, err := tlsprofile.LoadPair(s.ClientCertificate, s.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		tc.Certificates = []tls.Certificate{pair}
	}
	return &http.Transport{TLSClientConfig: tc, MaxConnsPerHost: 128, IdleConnTimeout: 30 * time.Second}, nil
}
