package transport_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/transport"
)

// TestHostedMemberIsReachedAtItsHost moves a member without a gateway from one host
// to another and to a gateway of its own: calls go to whom the registry names, and
// to nobody else, from the very next one on.
func TestHostedMemberIsReachedAtItsHost(t *testing.T) {
	n := newNetwork(t)
	hosted := civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "4000"}
	consumer, first, second := n.body(consumerID), n.body(providerID), n.body(thirdID)
	own := n.body(hosted)
	ok := func(http.ResponseWriter, *http.Request) {}
	first.serve(ok)
	second.serve(ok)
	host := func(id civibus.MemberID) {
		n.change(func(v *fakeView) { v.hosts = map[civibus.MemberID]civibus.MemberID{hosted: id} })
	}
	client := consumer.client()
	answers := func(b *body) {
		t.Helper()
		status, peer, err := get(t, client, hosted, "")
		if err != nil || status != http.StatusOK || peer.Member != b.id || peer.Key != b.currentKey() {
			t.Fatalf("status %d by %v, error %v, want an answer by %s", status, peer, err, b.id)
		}
	}
	_, _, err := get(t, client, hosted, "")
	wantCode(t, err, civibus.FaultUnknownMember) // it has no address

	host(first.id)
	answers(first)
	host(second.id)
	answers(second)
	// At the second's address the first, whom the registry no longer names.
	m, _ := n.View().Member(first.id)
	n.addresses(second.id, m.Gateways[0].Address)
	_, _, err = get(t, client, hosted, "")
	wantCode(t, err, civibus.FaultPeer)

	// A host that is not active carries nobody.
	n.change(func(v *fakeView) {
		m := v.members[second.id]
		m.Status = civibus.Suspended
		v.members[second.id] = m
	})
	_, _, err = get(t, client, hosted, "")
	wantCode(t, err, civibus.FaultUnknownMember)

	// Its own gateway, once nobody hosts it.
	n.change(func(v *fakeView) { v.hosts = nil })
	own.serve(ok)
	answers(own)
}

// TestMemberNotServedHere holds that a host which does not serve a member at present
// loses neither its connections nor its turn for the others that it carries.
func TestMemberNotServedHere(t *testing.T) {
	n := newNetwork(t)
	hosted := civibus.MemberID{Instance: "DEMO", Class: "MUN", Code: "4000"}
	consumer, host := n.body(consumerID), n.body(providerID)
	n.body(hosted)
	var serving atomic.Bool
	host.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hosted" && !serving.Load() {
			transport.NotServedHere(w, r)
		}
	})
	n.change(func(v *fakeView) { v.hosts = map[civibus.MemberID]civibus.MemberID{hosted: host.id} })
	client := consumer.client()
	for range 3 {
		_, _, err := getPath(t, client, hosted, "", "/hosted")
		wantCode(t, err, civibus.FaultMaintenance)
		if status, _, err := getPath(t, client, host.id, "", "/own"); err != nil || status != http.StatusOK {
			t.Fatalf("the host's own call: %d %v", status, err)
		}
	}
	serving.Store(true)
	if status, _, err := getPath(t, client, hosted, "", "/hosted"); err != nil || status != http.StatusOK {
		t.Fatalf("the hosted member's call: %d %v", status, err)
	}
}
