package gateway

import (
	"net/http"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
)

// consume is an exchange at the consumer's gateway: a client system's call is
// carried to the provider and the sealed answer brought back.
func (g *Gateway) consume(w http.ResponseWriter, r *http.Request) {
	x := g.begin(civibus.ConsumerGateway, evidencepb.Side_SIDE_CONSUMER)
	defer x.end()
	x.carry(w, r)
}

func (x *exchange) carry(w http.ResponseWriter, r *http.Request) {
	ctx, g := r.Context(), x.g

	// 1. identify: what is called, in whose name, by which system. A call that
	//    gets no further can be held against nobody and leaves no record.
	if err := x.identify(r); err != nil {
		x.tell(w, r, err)
		return
	}

	// 2. policy: the provider's rights and rules, applied beforehand to one registry view;
	//    and nothing is sent that could not be evidenced.
	if err := g.config.Evidence.Admit(); err != nil {
		x.tell(w, r, err)
		return
	}
	if err := x.decide(r); err != nil {
		x.refuse(w, r, err)
		return
	}

	// 3. seal: the key, and the request's body if that is short
	sent, err := x.prepare(ctx, w, r)
	if err != nil {
		x.refuse(w, r, err)
		return
	}

	// 4. transport: to one of the provider's gateways, over mutual TLS; the
	//    request is sealed for the one at the other end of the connection
	resp, err := x.send(ctx, sent)
	if err != nil {
		x.refuse(w, r, err)
		return
	}
	defer resp.Body.Close()

	// 3. seal: the answer verifies and is the answer to this request
	answer, err := x.verifyAnswer(sent, resp)
	if err != nil {
		x.refuse(w, r, err)
		return
	}

	// 5. evidence, 6. answer: the record is durable before the answer's end
	//    reaches the client system
	x.deliver(w, r, resp.StatusCode, answer)
}

// provide is an exchange at the provider's gateway: another body's sealed
// request is brought to the service and its answer sealed. Whatever is refused
// is refused with a seal too.
func (g *Gateway) provide(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	x := g.begin(civibus.ProviderGateway, evidencepb.Side_SIDE_PROVIDER)
	defer x.end()
	p := &provision{exchange: x, w: w, r: r}

	// 1. identify, 3. seal: the body at the other end of the connection has
	//    sealed this request for this gateway, in the name of one of its own
	//    clients, and never before
	if err := p.verifyRequest(ctx); err != nil {
		p.refuse(ctx, err)
		return
	}

	// 2. policy: decided again, and this decision is the law
	if err := p.decide(); err != nil {
		p.refuse(ctx, err)
		return
	}

	// 5. evidence: no service is called that could not be evidenced
	if err := g.config.Evidence.Admit(); err != nil {
		p.refuse(ctx, err)
		return
	}

	// 5a. usage: whom it concerns, where the right says that it concerns persons; an
	//     exchange of which nobody could be told is none
	if err := p.person(); err != nil {
		p.refuse(ctx, err)
		return
	}

	// 6. service: the body's own, or this gateway for metadata
	p.called = p.right != ""
	answer, err := p.serve(ctx)
	if err != nil {
		p.refuse(ctx, err)
		return
	}
	defer answer.close()

	// 3. seal, 5. evidence: the record is durable before the sealed answer's end
	//    leaves
	p.answer(ctx, answer)
}
