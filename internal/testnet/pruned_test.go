package testnet_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/ledger"
)

// TestReceiptsAcrossThePrunedBorder: receipts of exchanges whose blocks every body has
// dropped are made as ever, since they rest on the registry and not on blocks; those
// that were given before verify; and a body that was restarted meanwhile, and one
// without a ledger node, make them too.
func TestReceiptsAcrossThePrunedBorder(t *testing.T) {
	const kept = 10
	n := networkWith(t, func(o *testnet.Options) {
		o.RetainBlocks = kept
		o.Bodies[3].Light = true
	})
	provider, restarted, consumer := n.Bodies[0], n.Bodies[1], n.Bodies[3]
	given, later := call(t, consumer, provider, "/given"), call(t, consumer, provider, "/later")
	_, raw := receiptAt(t, consumer.Admin(), provider, given)
	before := provider.Node().Admin().View().Height()
	for i := range 3 * kept {
		register(t, n, provider.Subsystem(fmt.Sprint("s", i), "A block"))
	}

	// The blocks of that time are gone, at a body that is looked at when it is stopped.
	if err := restarted.Stop(); err != nil {
		t.Fatal(err)
	}
	report, err := ledger.Check(t.Context(), filepath.Join(restarted.Config.DataDir, "ledger"))
	if err != nil || len(report.Problems) != 0 || report.Height-report.Blocks <= before {
		t.Fatalf("at height %d, %d blocks are kept, those until %d should be gone: %+v %v", report.Height, report.Blocks, before, report.Problems, err)
	}
	if err := restarted.Start(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}

	if r := verified(t, restarted, raw); len(r.Summary.Sides) != 2 {
		t.Errorf("the receipt of before says %+v", r.Summary)
	}
	for _, b := range []*testnet.Body{consumer, provider} {
		for _, exchange := range []string{given, later} {
			if r, _ := receiptAt(t, b.Admin(), restarted, exchange); len(r.Summary.Sides) != 2 || r.Summary.Status != 200 {
				t.Errorf("receipt at %s: %+v", b.ID, r.Summary)
			}
		}
	}
}
