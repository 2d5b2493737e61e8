package gateway

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/civibus/civibus"
)

// House is several bodies behind one pair of faces: the one whose gateway it is
// and those that it hosts. Each keeps its own seal key, evidence, services and
// client rules; which one an exchange is of, the client says at the consumer face
// and the service at the provider face.
type House struct {
	// Own answers for the body itself, and whatever is of nobody.
	Own *Gateway
	// Hosted finds the gateway of a member that is hosted here; ok is false if none
	// is. Whoever gets a gateway calls leave when the exchange is over. A member that
	// is hosted here and cannot be served now has no gateway and a reason.
	Hosted func(civibus.MemberID) (g *Gateway, leave func(), reason error, ok bool)
}

// Consumer returns the face towards the systems of all of them.
func (h *House) Consumer() http.Handler {
	own, self := h.Own.Consumer(), h.Own.config.Member.String()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := last(r.Header, civibus.HeaderClient)
		if rest, ok := strings.CutPrefix(text, self); ok && (rest == "" || rest[0] == '/') {
			own.ServeHTTP(w, r)
			return
		}
		client, err := civibus.ParseClientID(text)
		if err != nil { // whatever is wrong with it, the own gateway says
			own.ServeHTTP(w, r)
			return
		}
		g, leave, reason, ok := h.Hosted(client.MemberID)
		switch {
		case !ok:
			own.ServeHTTP(w, r)
		case g == nil:
			h.notServed(w, r, client.MemberID, reason)
		default:
			defer leave()
			g.Consumer().ServeHTTP(w, r)
		}
	})
}

// notServed tells a client system that its member is hosted here and cannot be
// served now.
func (h *House) notServed(w http.ResponseWriter, r *http.Request, member civibus.MemberID, reason error) {
	fault := civibus.Faultf(civibus.ConsumerGateway, civibus.FaultMaintenance, "Member '%s' is hosted here and cannot be served at present; its host's \"civibus status\" says why", member)
	d := h.Own.problems.Document(fault, r.Header["Accept"], "")
	h.Own.config.Logger.LogAttrs(r.Context(), slog.LevelInfo, "hosted member not served", slog.String("hosted", member.String()), slog.String("detail", d.Detail), slog.Any("err", reason))
	d.WriteTo(w, r)
}

// Provider returns the face towards other bodies' gateways. A request to a member
// that this body hosts by the registry, and that is not served here now, goes to
// refuse, which tells the other gateway that no handler has seen it.
func (h *House) Provider(refuse http.HandlerFunc) http.Handler {
	own, self := h.Own.Provider(), h.Own.config.Member
	prefix := "/r1/" + self.String() + "/"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, _, _ := target(r)
		if strings.HasPrefix(path, prefix) {
			own.ServeHTTP(w, r)
			return
		}
		member, ok := serviceMember(path)
		if !ok || member == self {
			own.ServeHTTP(w, r)
			return
		}
		g, leave, _, ok := h.Hosted(member)
		switch {
		case ok && g != nil:
			defer leave()
			g.Provider().ServeHTTP(w, r)
		case ok || h.Own.config.View().Carries(self, member):
			refuse(w, r)
		default:
			own.ServeHTTP(w, r)
		}
	})
}

// serviceMember reads from a raw path whose service it is of.
func serviceMember(path string) (id civibus.MemberID, ok bool) {
	parts, n := segments(path)
	if n < 7 || parts[1] != "r1" {
		return id, false
	}
	for i, to := range [...]*string{&id.Instance, &id.Class, &id.Code} {
		part, err := civibus.DecodePart(parts[i+2])
		if err != nil {
			return id, false
		}
		*to = part
	}
	return id, true
}
