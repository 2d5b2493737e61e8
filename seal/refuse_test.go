package seal_test

import (
	"testing"
	"time"

	"github.com/civibus/civibus"
)

// TestReplayedAndStale shows the checks that need the receiver's memory.
func TestReplayedAndStale(t *testing.T) {
	people := newCast(t)
	v := verifier(people.ed)
	m, _ := people.whole(t, people.ed, "POST", "{}", start)
	if _, err := v.Request(m.request()); err != nil {
		t.Fatal(err)
	}
	_, err := v.Request(m.request())
	wantFault(t, err, civibus.FaultReplay, "received before")
	// A request that does not verify does not use up the nonce.
	m, _ = people.whole(t, people.ed, "POST", "{}", start)
	bad := m.clone()
	bad.Method = "PUT"
	_, err = v.Request(bad.request())
	wantFault(t, err, civibus.FaultSeal, "")
	if _, err := v.Request(m.request()); err != nil {
		t.Errorf("a forged copy used up the nonce: %v", err)
	}
	// The clocks are 10 minutes apart.
	v.Now = func() time.Time { return start.Add(10 * time.Minute) }
	m, _ = people.whole(t, people.ed, "POST", "{}", start)
	_, err = v.Request(m.request())
	wantFault(t, err, civibus.FaultClockSkew, "2026-11-22T09:00:00Z")
	wantFault(t, err, civibus.FaultClockSkew, "2026-11-22T09:10:00Z")
	wantFault(t, err, civibus.FaultClockSkew, "6m0s before and 1m0s after")
	wantFault(t, err, civibus.FaultClockSkew, "NTP")
	v.Replay = nil
	m, _ = people.whole(t, people.ed, "POST", "{}", start.Add(10*time.Minute))
	_, err = v.Request(m.request())
	wantFault(t, err, civibus.FaultInternal, "")
}
