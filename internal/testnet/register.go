package testnet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// Change is one change of the registry by a body.
type Change struct {
	By *Body
	Tx *registrypb.Tx
}

// Register submits changes at the same time, waits for all, and then until every
// body's view has them. The ids are in the order of the changes.
func (n *Network) Register(ctx context.Context, changes ...Change) (ids []string, err error) {
	ids = make([]string, len(changes))
	errs := make([]error, len(changes))
	heights := make([]uint64, len(changes))
	var wg sync.WaitGroup
	for i, c := range changes {
		wg.Go(func() {
			var out admin.Change
			out, errs[i] = c.By.Admin().Change(ctx, c.Tx)
			ids[i], heights[i] = out.ID, out.Height
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	height := uint64(0)
	for _, h := range heights {
		height = max(height, h)
	}
	return ids, n.Await(ctx, func(v *registry.View) bool { return v.Height() >= height })
}

// Await waits until done says true of every running body's registry view.
func (n *Network) Await(ctx context.Context, done func(*registry.View) bool) error {
	for _, b := range n.Bodies {
		nd := b.Node()
		if nd == nil {
			continue
		}
		if err := nd.AwaitView(ctx, done); err != nil {
			return fmt.Errorf("%s: %w", b.ID, err)
		}
	}
	return nil
}

// Subsystem is the change that registers a subsystem.
func (b *Body) Subsystem(code, name string) Change {
	return Change{b, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: b.Client(code).String(), Name: name}}}}
}

// Publish is the change that publishes a service.
func (b *Body) Publish(s civibus.Service) Change {
	set := &registrypb.SetService{Id: s.ID.String(), Type: registrypb.ServiceType(s.Type), Title: s.Title, DescriptionDigest: s.DescriptionDigest}
	for _, e := range s.Endpoints {
		set.Endpoints = append(set.Endpoints, &registrypb.Endpoint{Method: e.Method, Path: e.Path})
	}
	return Change{b, &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: set}}}
}

// Grant is the change that grants a right.
func (b *Body) Grant(r civibus.AccessRight) Change {
	g := &registrypb.GrantRight{Service: r.Service.String(), Purpose: r.Purpose, LegalBasis: r.LegalBasis, Disclosure: registrypb.Disclosure(r.Disclosure), Sentence: r.Sentence}
	if !r.DisclosedFrom.IsZero() {
		g.DisclosedFrom = r.DisclosedFrom.Unix()
	}
	if r.Group != "" {
		g.Subject = &registrypb.GrantRight_Group{Group: r.Group}
	} else {
		g.Subject = &registrypb.GrantRight_Client{Client: r.Client.String()}
	}
	for _, e := range r.Endpoints {
		g.Endpoints = append(g.Endpoints, &registrypb.Endpoint{Method: e.Method, Path: e.Path})
	}
	if r.Limit.Requests > 0 {
		g.RateLimit = &registrypb.RateLimit{Requests: r.Limit.Requests, PerSeconds: uint32(r.Limit.Per.Seconds())}
	}
	return Change{b, &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: g}}}
}

// Topic is the change that registers a topic of a service, or changes it.
func (b *Body) Topic(service civibus.ServiceID, name, title string, ordered bool, status civibus.Status, notice string) Change {
	return Change{b, &registrypb.Tx{Body: &registrypb.Tx_SetTopic{SetTopic: &registrypb.SetTopic{
		Topic: service.String() + "/" + name, Title: title, Ordered: ordered, Status: registrypb.Status(status), Notice: notice}}}}
}
