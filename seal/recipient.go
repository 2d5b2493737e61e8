package seal

import (
	"encoding/hex"

	"github.com/civibus/civibus"
)

// CheckRecipient holds a request against the transport key that this gateway
// showed on the connection that the request came by. The nonces that were used are
// remembered by one gateway, so a request that another gateway of the same body
// has seen must not count here. alone says that the body has no other gateway: only
// then may the request name none, as those of gateways before this rule do.
func (v *Verified) CheckRecipient(shown civibus.KeyID, alone func() bool) error {
	const place = civibus.ProviderGateway
	lines, named := v.Header[civibus.HeaderRecipient]
	switch {
	case !named && alone():
		return nil
	case !named:
		return fault(place, civibus.FaultMisdirected, nil, "the request does not name the gateway that it is for, and this body has several: seal it with %s", civibus.HeaderRecipient)
	case len(lines) != 1:
		return fault(place, civibus.FaultMisdirected, nil, "the request has %d lines %s, the rule is one", len(lines), civibus.HeaderRecipient)
	case !names(lines[0], shown):
		return fault(place, civibus.FaultMisdirected, nil, "the request was sealed for the gateway with the transport key %.64q, and this one showed %s on the connection: seal it anew for this one; nothing in between may end TLS", lines[0], shown)
	}
	return nil
}

// names reports whether text is the key's id in 64 lower-case hex digits.
func names(text string, key civibus.KeyID) bool {
	var room [2 * len(key)]byte
	hex.Encode(room[:], key[:])
	return text == string(room[:])
}
