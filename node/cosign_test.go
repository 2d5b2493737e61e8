package node_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/node"
	"github.com/civibus/civibus/transport"
)

// TestCosignatureShares: one member's questions use up its own share and nobody
// else's, and the share comes back. The questions have no size, so that none is
// signed.
func TestCosignatureShares(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	c := node.Cosignatures(func() time.Time { return now })
	ask := func(code string) int {
		r := httptest.NewRequest(http.MethodGet, node.CosignaturePath, nil)
		if code != "" {
			r = r.WithContext(transport.WithPeer(r.Context(), transport.Peer{Member: civibus.MemberID{Instance: "DEMO", Class: "GOV", Code: code}}))
		}
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		return w.Code
	}
	for i := range node.CosignRequests {
		if got := ask("A"); got != http.StatusBadRequest {
			t.Fatalf("question %d: status %d", i, got)
		}
	}
	if got := ask("A"); got != http.StatusTooManyRequests {
		t.Errorf("one too many: status %d", got)
	}
	if got := ask("B"); got != http.StatusBadRequest {
		t.Errorf("another member: status %d", got)
	}
	if got := ask(""); got != http.StatusForbidden {
		t.Errorf("a stranger: status %d", got)
	}
	now = now.Add(node.CosignPeriod / node.CosignRequests)
	if got := ask("A"); got != http.StatusBadRequest {
		t.Errorf("later: status %d", got)
	}
}
