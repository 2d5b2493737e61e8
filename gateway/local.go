package gateway

import (
	"context"
	"net/http"

	"github.com/civibus/civibus"
)

// fromNode marks the context of requests that the body's own node makes.
type fromNode struct{}

// FromNode returns a context in which the node itself is the calling system: it may
// speak for every client of the body. Nothing that comes from outside can have it.
func FromNode(ctx context.Context) context.Context {
	return context.WithValue(ctx, fromNode{}, true)
}

func isFromNode(ctx context.Context) bool {
	mark, _ := ctx.Value(fromNode{}).(bool)
	return mark
}

// Local returns a handler of what the node offers to the body's systems beside
// exchanges: next sees only requests of systems that may speak for the client that
// they name in X-Road-Client, by the same rules as for exchanges.
func (g *Gateway) Local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := g.admitLocal(r); err != nil {
			g.problems.Document(civibus.AsFault(civibus.ConsumerGateway, err), r.Header["Accept"], "").WriteTo(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *Gateway) admitLocal(r *http.Request) error {
	text := last(r.Header, civibus.HeaderClient)
	if text == "" {
		return civibus.Faultf(civibus.ConsumerGateway, civibus.FaultMissingClient, "The client identifier is missing: send the header X-Road-Client: INSTANCE/CLASS/MEMBER/SUBSYSTEM")
	}
	client, err := civibus.ParseClientID(text)
	if err != nil {
		return civibus.Faultf(civibus.ConsumerGateway, civibus.FaultBadRequest, "Invalid X-Road-Client: %v", err)
	}
	v := g.config.View()
	if client.MemberID != g.config.Member || v == nil || !active(v, client) {
		return civibus.Faultf(civibus.ConsumerGateway, civibus.FaultUnknownMember, "Client '%s' not found", client.XRoad())
	}
	return g.authenticate(r, client)
}
