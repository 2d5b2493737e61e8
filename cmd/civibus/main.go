// Command civibus is the whole of the bus in one binary: it makes and runs a
// body's node, administers it, makes exchanges and verifies receipts.
//
// Trust: it acts with the rights of the user who starts it. Verifying a receipt
// trusts nothing but the policy file that is given.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}
