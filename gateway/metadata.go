package gateway

import (
	"cmp"
	"context"
	"net/url"
	"slices"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
)

// serviceList is the answer to listMethods and allowedMethods, as X-Road's own
// gateways write it (the schema in PR-MREST says otherwise).
type serviceList struct {
	Service []listedService `json:"service"`
}

type listedService struct {
	MemberClass    string           `json:"member_class"`
	MemberCode     string           `json:"member_code"`
	ObjectType     string           `json:"object_type"`
	ServiceCode    string           `json:"service_code"`
	ServiceVersion string           `json:"service_version,omitempty"`
	ServiceType    string           `json:"service_type"`
	SubsystemCode  string           `json:"subsystem_code"`
	XRoadInstance  string           `json:"xroad_instance"`
	EndpointList   []listedEndpoint `json:"endpoint_list"`
}

type listedEndpoint struct {
	Method string `json:"method"`
	Path   string `json:"path"`
}

// metadata answers a metadata call.
func (p *provision) metadata(ctx context.Context, hash string) (*answer, error) {
	switch p.call.service.Service {
	case policy.ListMethods:
		return replyJSON(p.list(func(s civibus.Service) ([]civibus.Endpoint, bool) { return s.Endpoints, true }), hash)
	case policy.AllowedMethods:
		return replyJSON(p.list(p.allowedEndpoints), hash)
	}
	return p.openAPI(ctx, hash)
}

// list lists the REST services of the called subsystem that which admits.
func (p *provision) list(which func(civibus.Service) ([]civibus.Endpoint, bool)) serviceList {
	out := serviceList{Service: []listedService{}}
	for _, s := range p.view.ServicesOf(p.call.service.ClientID) {
		if s.Status == civibus.Ended || s.Type != civibus.REST && s.Type != civibus.OpenAPI3 || civibus.ReservedService(s.ID.Service) {
			continue
		}
		endpoints, ok := which(s)
		if !ok {
			continue
		}
		out.Service = append(out.Service, listedService{
			MemberClass: s.ID.Class, MemberCode: s.ID.Code, ObjectType: "SERVICE", ServiceCode: s.ID.Service,
			ServiceVersion: s.ID.Version, ServiceType: s.Type.String(), SubsystemCode: s.ID.Subsystem,
			XRoadInstance: s.ID.Instance, EndpointList: listEndpoints(endpoints),
		})
	}
	return out
}

// listEndpoints leaves the base endpoint out, sorts and removes duplicates.
func listEndpoints(endpoints []civibus.Endpoint) []listedEndpoint {
	out := make([]listedEndpoint, 0, len(endpoints))
	for _, e := range endpoints {
		if e != (civibus.Endpoint{Method: "*", Path: "**"}) {
			out = append(out, listedEndpoint(e))
		}
	}
	slices.SortFunc(out, func(a, b listedEndpoint) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	return slices.Compact(out)
}

// allowedEndpoints returns what the caller's rights allow of a service: all of
// it where a right covers the whole service, else the rights' endpoints.
func (p *provision) allowedEndpoints(s civibus.Service) ([]civibus.Endpoint, bool) {
	var out []civibus.Endpoint
	some := false
	for r := range p.view.RightsFor(s.ID, p.call.client) {
		if !policy.InForce(r, p.started) {
			continue
		}
		some = true
		if len(r.Endpoints) == 0 || slices.Contains(r.Endpoints, civibus.Endpoint{Method: "*", Path: "**"}) {
			return s.Endpoints, true
		}
		out = append(out, r.Endpoints...)
	}
	return out, some
}

// openAPI fetches the description of a service as it is now.
func (p *provision) openAPI(ctx context.Context, hash string) (*answer, error) {
	query, err := url.ParseQuery(p.call.query)
	if err != nil {
		return nil, civibus.Faultf(p.place, civibus.FaultInvalidRequest, "The query of getOpenAPI is malformed")
	}
	id := civibus.ServiceID{ClientID: p.call.service.ClientID, Service: query.Get("serviceCode"), Version: query.Get("serviceVersion")}
	if id.Service == "" {
		return nil, civibus.Faultf(p.place, civibus.FaultInvalidRequest, "Missing serviceCode in message body")
	}
	s, ok := p.view.Service(id)
	switch {
	case !ok || s.Status == civibus.Ended:
		return nil, civibus.Faultf(p.place, civibus.FaultInternal, "Service not found: %s", id.XRoad())
	case s.Type != civibus.OpenAPI3:
		return nil, civibus.Faultf(p.place, civibus.FaultInternal, "Invalid service type: %s has no OpenAPI description", id.XRoad())
	}
	body, contentType, err := p.g.config.Upstreams.Description(ctx, id)
	if err != nil {
		return nil, err
	}
	if body, err = hideServers(body); err != nil {
		fault := civibus.Faultf(p.place, civibus.FaultInternal, "The description of %s is neither JSON nor YAML", id.XRoad())
		fault.Err = err
		return nil, fault
	}
	if contentType == "" {
		contentType = "text/plain"
	}
	return reply(contentType, body, hash), nil
}
