package ledger_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain runs the tests, or, in a child process, the node that is to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("CIVIBUS_LEDGER_CHILD") != "" {
		os.Exit(childMain())
	}
	flag.Parse()
	code := m.Run()
	if code == 0 {
		// The engine leaves a few goroutines that notice within seconds that it
		// stopped; everything else is a leak.
		var err error
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if err = goleak.Find(engineLeaks...); err == nil {
				break
			}
		}
		if err != nil {
			os.Stderr.WriteString("goroutines leaked: " + err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// engineLeaks are goroutines that CometBFT v0.40.0 leaves behind for each node:
// its write-ahead log's file group never closes its head (two goroutines).
var engineLeaks = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/cometbft/cometbft/libs/autofile.(*AutoFile).closeFileRoutine"),
	goleak.IgnoreTopFunction("github.com/cometbft/cometbft/libs/autofile.OpenAutoFile.func1"),
}
