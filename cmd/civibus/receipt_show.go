package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

// shownEntry is what one body's entry of a receipt claims.
type shownEntry struct {
	Side     string    `json:"side"`
	Client   string    `json:"client"`
	Service  string    `json:"service"`
	Right    string    `json:"right,omitempty"`
	Outcome  string    `json:"outcome"`
	Fault    string    `json:"fault,omitempty"`
	Status   uint32    `json:"status,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Log      string    `json:"log"`
	Anchored uint64    `json:"anchored_height"`
}

func (a *app) showReceipt(r *proof.Receipt) error {
	var entries []shownEntry
	for i, e := range r.Entries {
		rec := &evidencepb.Record{}
		anchor := &registrypb.Event{}
		if err := proto.Unmarshal(e.Record, rec); err != nil {
			return refusal{fmt.Sprintf("entry %d: the record does not decode: %v", i+1, err), ""}
		}
		if err := proto.Unmarshal(e.AnchorEvent, anchor); err != nil {
			return refusal{fmt.Sprintf("entry %d: the anchor event does not decode: %v", i+1, err), ""}
		}
		entries = append(entries, shownEntry{
			Side: lowerSuffix(rec.Side.String()), Client: rec.Client, Service: rec.Service, Right: rec.RightId,
			Outcome: lowerSuffix(rec.Outcome.String()), Fault: rec.Fault, Status: rec.Status,
			Started: time.Unix(0, rec.StartedUnixNano).UTC(), Finished: time.Unix(0, rec.FinishedUnixNano).UTC(),
			Log: anchor.GetLogAnchored().GetOrigin(), Anchored: anchor.Height,
		})
	}
	facts := make([]string, len(r.Registry.Facts))
	for i, f := range r.Registry.Facts {
		facts[i] = f.Key
	}
	if a.json {
		return a.printJSON(struct {
			Exchange string       `json:"exchange"`
			Verified bool         `json:"verified"`
			Entries  []shownEntry `json:"entries"`
			Facts    []string     `json:"facts"`
		}{r.Exchange, false, entries, facts})
	}
	fmt.Fprintf(a.out, "exchange %s: what the receipt claims, not verified\n", r.Exchange)
	for _, e := range entries {
		fmt.Fprintf(a.out, "\n%s's record\n", e.Side)
		status := ""
		if e.Status > 0 {
			status = fmt.Sprint(e.Status)
		}
		a.pairs("  client", e.Client, "  service", e.Service, "  right", e.Right, "  outcome", e.Outcome, "  fault", e.Fault, "  status", status,
			"  started", e.Started.Format(time.RFC3339Nano), "  finished", e.Finished.Format(time.RFC3339Nano),
			"  log", e.Log, "  anchored at", fmt.Sprint(e.Anchored))
	}
	fmt.Fprintf(a.out, "\nregistry facts: %s\n", strings.Join(facts, ", "))
	return nil
}

// lowerSuffix is the last word of an enumeration's name in lower case.
func lowerSuffix(s string) string { return strings.ToLower(s[strings.LastIndexByte(s, '_')+1:]) }
