package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/events"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
)

// newEventsVerify verifies an event offline.
func newEventsVerify(a *app) *cobra.Command {
	var receipt, policy string
	c := &cobra.Command{
		Use:   "verify PROOF",
		Short: "Verify the proof of an event, offline",
		Long: `Verify that an event was delivered: the receipt verifies under the policy, its provider
sealed the batch, and the event is in the batch. Needs no node and no network.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.verifyEvent(args[0], receipt, policy)
		},
	}
	c.Flags().StringVar(&receipt, "receipt", "", "the receipt of the exchange (`file`)")
	c.Flags().StringVar(&policy, "policy", "", "the policy that names the validators whose word is taken (`file`)")
	_ = c.MarkFlagRequired("receipt")
	_ = c.MarkFlagRequired("policy")
	return c
}

func (a *app) verifyEvent(proofFile, receiptFile, policyFile string) error {
	// 1. The files.
	var p events.Proof
	raw, err := os.ReadFile(proofFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return refusal{fmt.Sprintf("%s is no proof of an event: %v", proofFile, err), "\"civibus events prove\" makes one"}
	}
	receipt, err := os.ReadFile(receiptFile)
	if err != nil {
		return err
	}
	policy, err := os.ReadFile(policyFile)
	if err != nil {
		return err
	}
	// 2. The exchange.
	report, err := proof.Verify(receipt, policy)
	if err != nil {
		return refusal{fmt.Sprintf("the receipt does not verify: %v", err), "\"civibus receipt verify\" shows every step"}
	}
	s := report.Summary
	if s.Exchange != p.Exchange || !s.AnswerSealed || s.Method != "SUBSCRIBE" || s.Path != "/r1/"+p.Topic {
		return refusal{fmt.Sprintf("the receipt is of exchange %s of %s, the proof of exchange %s on %s", s.Exchange, s.Path, p.Exchange, p.Topic), ""}
	}
	// 3. The event in its batch.
	parsed, err := proof.Parse(receipt)
	if err != nil {
		return err
	}
	for _, entry := range parsed.Entries {
		rec := &evidencepb.Record{}
		if err := proto.Unmarshal(entry.Record, rec); err != nil {
			return err
		}
		field, err := events.SealedField(rec.GetResponse().GetBase())
		if err == nil {
			err = p.Verify(field)
		}
		if err != nil {
			return refusal{fmt.Sprintf("the event is not proved: %v", err), ""}
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"valid": true, "topic": p.Topic, "seq": p.Seq, "event": json.RawMessage(p.Event), "summary": s})
	}
	fmt.Fprintf(a.out, "valid: event %d of %s\n", p.Seq, p.Topic)
	a.pairs("to", s.Client, "from", s.Service, "right", s.Right, "purpose", s.Purpose, "legal basis", s.LegalBasis,
		"sealed", s.Answered.Format("2006-01-02T15:04:05Z07:00"), "event", string(p.Event))
	return nil
}
