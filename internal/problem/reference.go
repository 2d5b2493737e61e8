package problem

import (
	"fmt"
	"strings"
)

// Reference returns docs/reference/errors.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Errors

<!-- Made from internal/problem/catalogue.go by "go test ./internal/problem -update"; do not edit. -->

Every answer that a gateway makes in place of the service's own carries the header ` + "`X-Road-Error`" + `. Its value is the
type in the body: a prefix that says which gateway speaks, and the name below. The answers of services never carry it.

| prefix (7.0 to 7.7) | prefix (7.8) | who speaks |
|---|---|---|
| ` + "`Server.ClientProxy.`" + ` | ` + "`server.clientproxy.`" + ` | the consumer's gateway |
| ` + "`Server.ServerProxy.`" + ` | ` + "`server.serverproxy.`" + ` | the provider's gateway, or the consumer's when it applies the provider's rule beforehand |

The vocabulary is a setting of the consumer's gateway; the default is that of 7.0 to 7.7. The HTTP status is 500 for
every error, as with X-Road, unless the gateway is set to answer with the statuses below. A caller whose
` + "`Accept`" + ` names ` + "`text/xml`, `application/xml` or `application/problem+json`" + ` gets that format; the default is JSON:

` + "```json\n" + `{"type":"Server.ServerProxy.AccessDenied","message":"Request is not allowed: SERVICE:...","detail":"<uuid>"}
` + "```" + `

The detail names this occurrence in the gateway's log.

| code | name (7.0 to 7.7) | name (7.8) | status | meaning and remedy |
|---|---|---|---|---|
`)
	for _, e := range Catalogue() {
		fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %d | **%s.** %s |\n", e.Code, e.Camel, e.Snake, e.Status, e.Title, e.Help)
	}
	b.WriteString(`
The code is Civibus's own, closed set. It stands in evidence records, in the sealed header ` + "`Civibus-Fault`" + ` between
gateways and in ` + "`application/problem+json`" + ` documents.
`)
	return b.String()
}
