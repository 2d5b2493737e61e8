package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/service"
)

// businessMapping says which REST call is which operation of the business
// register's SOAP interface.
const businessMapping = `title = "Business register (fictitious)"
namespace = "urn:fictitious:business-register:v1"

[[operations]]
method = "GET"
path = "/companies/{code}"
summary = "One company"
action = "urn:fictitious:business-register:v1#GetCompany"
request = "GetCompany"
response = "GetCompanyResponse"
input = [{ name = "code", element = "registrationCode" }]
output = [{ name = "company", required = true, fields = [
  { name = "registrationCode", required = true },
  { name = "name", required = true },
  { name = "active", type = "boolean" },
  { name = "shareCapital", type = "number" },
  { name = "officers", element = "officer", repeated = true, fields = [{ name = "name" }, { name = "role" }] },
] }]

[[operations]]
method = "GET"
path = "/companies"
summary = "Search companies by name"
action = "urn:fictitious:business-register:v1#SearchCompanies"
request = "SearchCompanies"
response = "SearchCompaniesResponse"
input = [{ name = "name", element = "namePart", required = true }, { name = "limit", type = "integer" }]
output = [
  { name = "total", type = "integer" },
  { name = "companies", element = "company", repeated = true, fields = [{ name = "registrationCode" }, { name = "name" }] },
]

[[faults]]
detail = "CompanyNotFound"
status = 404
`

// offered is one service of the demo with the call that the script makes of it.
type offered struct {
	service civibus.Service
	by      *testnet.Body
	purpose string
	basis   string
	rights  []civibus.Endpoint // of the portal; empty: the whole service

	name, method, path, body string
}

// register publishes the services and grants the portal its rights.
func (d *Demo) register(ctx context.Context) error {
	began := time.Now()
	b := d.Network.Bodies
	description, err := fetch(ctx, d.Network.Bodies[populationOffice].Config.Services[0].OpenAPI)
	if err != nil {
		return err
	}
	endpoints, err := service.Endpoints(description)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(description)
	d.services = []offered{
		{
			service: civibus.Service{
				ID: b[populationOffice].Service("population", "register"), Type: civibus.OpenAPI3, Title: "Population register (fictitious)",
				Endpoints: endpoints, DescriptionDigest: digest[:],
			},
			by: b[populationOffice], purpose: "residence-check", basis: "Population Act, section 12 (fictitious)",
			rights: []civibus.Endpoint{{Method: "GET", Path: "/persons/*"}, {Method: "GET", Path: "/persons/*/address"}},
			name:   "REST/JSON population register", method: http.MethodGet, path: "/persons/FIC-0007",
		},
		{
			service: civibus.Service{
				ID: b[businessRegister].Service("business", "companies"), Type: civibus.OpenAPI3, Title: "Business register (fictitious)",
				Endpoints: []civibus.Endpoint{{Method: "GET", Path: "/companies"}, {Method: "GET", Path: "/companies/*"}},
			},
			by: b[businessRegister], purpose: "licence-check", basis: "Trade Act, section 3 (fictitious)",
			name: "SOAP 1.1 business register", method: http.MethodGet, path: "/companies/FIC10003",
		},
		{
			service: civibus.Service{ID: b[permitAuthority].Service("permits", "requests"), Type: civibus.REST, Title: "Permits (fictitious)"},
			by:      b[permitAuthority], purpose: "permit-check", basis: "Permit Act, section 7 (fictitious)",
			name: "file drop of the permit system", method: http.MethodPost, body: "STATUS;FIC-P-001\n",
		},
	}
	if d.opts.Upstream != "" {
		own, err := d.own()
		if err != nil {
			return err
		}
		d.services = append(d.services, own)
	}

	changes := []testnet.Change{b[town].Subsystem("portal", "Citizen portal (fictitious)"), b[businessRegister].Subsystem("audit", "Internal audit (fictitious)")}
	seen := map[civibus.ClientID]bool{}
	for _, s := range d.services {
		if !seen[s.service.ID.ClientID] {
			seen[s.service.ID.ClientID] = true
			changes = append(changes, s.by.Subsystem(s.service.ID.Subsystem, s.service.Title))
		}
	}
	if _, err := d.Network.Register(ctx, changes...); err != nil {
		return fmt.Errorf("register subsystems: %w", err)
	}
	var publish, grant []testnet.Change
	for _, s := range d.services {
		publish = append(publish, s.by.Publish(s.service))
		grant = append(grant, s.by.Grant(civibus.AccessRight{
			Service: s.service.ID, Endpoints: s.rights, Client: b[town].Client("portal"), Purpose: s.purpose, LegalBasis: s.basis,
		}))
	}
	if _, err := d.Network.Register(ctx, publish...); err != nil {
		return fmt.Errorf("publish services: %w", err)
	}
	if _, err := d.Network.Register(ctx, grant...); err != nil {
		return fmt.Errorf("grant rights: %w", err)
	}
	d.report(began, Step{
		Kind: KindRegister, Name: "subsystems, services and access rights",
		Detail: fmt.Sprintf("%d transactions of four bodies, agreed by all validators", len(changes)+len(publish)+len(grant)), OK: true,
	})
	return nil
}

// own is the user's own service.
func (d *Demo) own() (offered, error) {
	b := d.Network.Bodies[permitAuthority]
	s := civibus.Service{ID: b.Service("own", "service"), Type: civibus.REST, Title: "Your own service"}
	if d.opts.OpenAPI != "" {
		text, err := os.ReadFile(d.opts.OpenAPI)
		if err != nil {
			return offered{}, err
		}
		if s.Endpoints, err = service.Endpoints(text); err != nil {
			return offered{}, fmt.Errorf("%s: %w", d.opts.OpenAPI, err)
		}
		digest := sha256.Sum256(text)
		s.Type, s.DescriptionDigest = civibus.OpenAPI3, digest[:]
	}
	return offered{service: s, by: b, purpose: "trial", basis: "the operator's own decision", name: "your own service", method: http.MethodGet}, nil
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch description: %w", err)
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 4<<20))
}
