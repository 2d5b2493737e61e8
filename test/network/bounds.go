//go:build linux

package network

import (
	"os"
	"time"
)

// The times of the issue hold on a computer that does nothing else. The fault suite
// (test/fault/run) holds the network to them; "go test ./..." runs on whatever there
// is, beside all other packages, and gives it a minute.

// strict is whether the times are asserted.
func strict() bool { return os.Getenv("CIVIBUS_FAULT") != "" }

// CommitBound is how soon the network must commit again after a fault has ended.
func CommitBound() time.Duration {
	if strict() {
		return 10 * time.Second
	}
	return time.Minute
}

// Slack is how much longer than one timeout exchanges between healthy bodies may
// stop: the client's own way there and back.
func Slack() time.Duration {
	if strict() {
		return 2 * time.Second
	}
	return time.Minute
}
