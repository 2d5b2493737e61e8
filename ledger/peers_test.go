package ledger_test

import (
	"net"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/registry"
)

// TestPeersAreTheRegistrys: nodes find each other by the registry alone; a body
// that is no member is refused, finds in when it is admitted, knowing one address,
// and is cut off when it is removed, although it goes on dialling.
func TestPeersAreTheRegistrys(t *testing.T) {
	var w *network
	w = governed(t, 3, func(i int, cfg *ledger.Config) {
		cfg.Peers = nil
		if i == 3 {
			cfg.Peers = []string{w.bodies[0].nodeID + "@" + w.listen[0]}
		}
	})
	w.add()
	for i := range w.bodies {
		w.listen[i] = freePort(t)
	}
	for i := range w.genesis.Members {
		w.genesis.Members[i].Nodes = []registry.GenesisNode{{ID: w.bodies[i].nodeID, Address: w.listen[i], Role: "validator"}}
	}
	w.startAll()
	peers := func(i, want int) {
		t.Helper()
		eventually(t, 20*time.Second, "the number of peers", func() bool { return w.nodes[i].Status().Peers == want })
	}
	for i := range 3 {
		peers(i, 2)
	}
	mustSubmit(t, w.nodes[0], w.bodies[0].notarise(t, "among members"))
	peers(3, 0)

	w.pass([]int{0, 1, 2}, w.bodies[3].admission(t, w.listen[3]))
	for i := range 4 {
		peers(i, 3)
	}
	w.awaitPowers(map[string]int64{"BODY0": 10, "BODY1": 10, "BODY2": 10, "BODY3": 10})
	w.agree(mustSubmit(t, w.nodes[3], w.bodies[3].notarise(t, "from the newcomer")).Height)

	w.pass([]int{0, 1, 2}, w.bodies[3].removal())
	for i := range 3 {
		peers(i, 2)
	}
	peers(3, 0)
	mustSubmit(t, w.nodes[1], w.bodies[1].notarise(t, "without it"))
	for i := range 3 {
		peers(i, 2)
	}
}

// freePort is a loopback address with a port that is free now.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}
