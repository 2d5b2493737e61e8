package gateway

import (
	"github.com/civibus/civibus"
	"github.com/civibus/civibus/usage"
)

// person finds whom the exchange concerns, where the right says that calls under it
// concern persons, and makes the usage record that becomes durable with the exchange's.
// It is made before the service is called, so that nothing about a person is answered of
// which she could not be told.
func (p *provision) person() error {
	if !p.persons {
		return nil
	}
	keeper := p.g.config.Usage
	if keeper == nil {
		return civibus.Faultf(p.place, civibus.FaultInternal, "Access right %s concerns persons, and this gateway keeps no usage records", p.right)
	}
	// 1. The right's terms; the view is the one that the decision was made from.
	c := &p.call
	var right *civibus.AccessRight
	p.view.RightsFor(c.service, c.client)(func(r *civibus.AccessRight) bool {
		if r.ID == p.right {
			right = r
		}
		return right == nil
	})
	if right == nil {
		return civibus.Faultf(p.place, civibus.FaultInternal, "Access right %s is not in the registry view", p.right)
	}
	// 2. The person.
	body, whole := p.message.Body.Bytes()
	subject, err := keeper.Subject(&usage.Request{
		Service: c.service, Path: c.servicePath, Query: c.query, Header: p.message.Header, Body: body, Whole: whole,
	})
	if err != nil {
		return civibus.Faultf(p.place, civibus.FaultBadRequest, "Access right %s concerns persons: %v", p.right, err)
	}
	// 3. The record.
	p.usage, p.commit, err = keeper.Make(&usage.Use{
		Exchange: c.requestID, Right: right, Client: c.clientText, Service: c.serviceText,
		Case: last(p.message.Header, civibus.HeaderIssue), Subject: subject, Time: p.started,
	})
	if err != nil {
		return p.unrecorded(err)
	}
	return nil
}
