package node

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
)

// openServices connects the body's services with the systems that answer.
func (n *Node) openServices(closers *closers) (*service.Set, error) {
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
	set, err := service.NewSet(upstreams, service.Config{Logger: n.log.With("room", "service"), Metrics: n.metrics})
	if err != nil {
		return nil, err
	}
	closers.add("services", func(context.Context) error { set.Close(); return nil })
	return set, nil
}

// adapter makes the handler that speaks a legacy system's language.
func (n *Node) adapter(s ServiceConfig, closers *closers) (http.Handler, error) {
	return nil, fmt.Errorf("adapter %q is not known", s.Adapter)
}
