package gateways

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestBodyCallsItself: a body that calls its own service has receipts with both
// halves, where both records are at one gateway and where each is at one of two.
func TestBodyCallsItself(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four processes")
	}
	w := newWorld(t)
	inner, persons := w.office.Client("inner"), w.office.Service("register", "persons")
	for _, change := range []*registrypb.Tx{
		w.office.Subsystem("inner", "Inner desk").Tx,
		w.office.Grant(civibus.AccessRight{Service: persons, Client: inner, Purpose: "test", LegalBasis: "none, this is a test"}).Tx,
	} {
		if _, err := w.providers[0].admin.Change(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	listed := func(first, second string) {
		t.Helper()
		set := &registrypb.SetMember{Id: w.office.ID.String(), Name: w.office.Name, Gateways: []*registrypb.Gateway{{Code: "gateway-1", Address: first}, {Code: "gateway-2", Address: second}}}
		if _, err := w.providers[0].admin.Change(t.Context(), &registrypb.Tx{Body: &registrypb.Tx_SetMember{SetMember: set}}); err != nil {
			t.Fatal(err)
		}
		for _, p := range w.providers {
			eventually(t, p.name+" knows the addresses", func() bool {
				m, err := p.admin.Member(t.Context(), w.office.ID.String())
				return err == nil && len(m.Gateways) == 2 && m.Gateways[0].Address == first && m.Gateways[1].Address == second
			})
		}
	}

	// 1. An exchange over each pair of gateways. The registry's addresses lead to the one
	// that is to answer.
	type pair struct{ asked, answered int }
	exchanges := map[pair]string{}
	for answered, at := range w.providers {
		listed(at.provider, at.provider)
		for asked, from := range w.providers {
			eventually(t, fmt.Sprintf("%s answers %s", at.name, from.name), func() bool {
				exchange, err := w.asInner(from, inner.String(), persons.String())
				if err != nil {
					return false // its view may be a block behind, or it goes where it went before
				}
				x, err := at.admin.Exchange(t.Context(), exchange)
				for _, e := range x.Entries {
					if err == nil && e.Side == "provider" {
						exchanges[pair{asked, answered}] = exchange
						return true
					}
				}
				return false
			})
		}
	}

	// 2. Each has both halves at each gateway that has a record of it.
	listed(w.providers[0].provider, w.providers[1].provider)
	for p, exchange := range exchanges {
		w.receipt(w.providers[p.asked], exchange)
		w.receipt(w.providers[p.answered], exchange)
	}

	// 3. Erased at one gateway, it is erased at the other, which has the other side.
	gone := exchanges[pair{0, 1}]
	e, err := w.providers[0].admin.Erase(t.Context(), admin.EraseRequest{Exchanges: []string{gone}, Ground: "Act, section 1"})
	if err != nil || len(e.Leaves) != 1 || len(e.Gateways) != 1 || e.Gateways[0].Gateway != "gateway-2" || e.Gateways[0].Records != 1 || e.Gateways[0].Problem != "" {
		t.Fatalf("%+v, %v", e, err)
	}
	for _, p := range w.providers {
		if x, err := p.admin.Exchange(t.Context(), gone); err == nil && len(x.Entries) > 0 {
			t.Errorf("%s still has %+v", p.name, x)
		}
		notes, err := p.admin.Erasures(t.Context(), admin.ListOptions{})
		if err != nil || len(notes.Items) != 1 || notes.Items[0].Ground != "Act, section 1" {
			t.Errorf("%s: %+v, %v", p.name, notes, err)
		}
	}
	// The other exchanges are proved as before, and one gateway that is down is named.
	w.receipt(w.providers[0], exchanges[pair{1, 0}])
	w.providers[1].kill()
	e, err = w.providers[0].admin.Erase(t.Context(), admin.EraseRequest{Exchanges: []string{exchanges[pair{1, 0}]}, Ground: "Act, section 1"})
	if err != nil || len(e.Leaves) != 1 || len(e.Gateways) != 1 || e.Gateways[0].Problem == "" {
		t.Errorf("%+v, %v", e, err)
	}
}

// asInner makes one call and returns its exchange.
func (w *world) asInner(at *process, client, service string) (exchange string, err error) {
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://"+at.consumer+"/r1/"+service+"/x", nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("X-Road-Client", client)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d %s %w", resp.StatusCode, text, err)
	}
	return resp.Header.Get("X-Road-Request-Id"), nil
}
