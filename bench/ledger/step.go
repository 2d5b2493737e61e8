package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	setUp     = 3 // subsystem, process, role
	caseSteps = 8
)

// stepDefinition is a process of eight steps, one after the other, each of which
// yields a sealed fact; one has a condition over a public one.
func stepDefinition() []byte {
	d := &definition.Definition{
		Format: definition.Format, ID: "case", Version: 1, Title: "A case", Law: definition.Law{Act: "Act"},
		Roles: []definition.Role{{ID: "office", Title: "Office"}},
		Facts: []definition.Fact{{ID: "resident", Title: "Resident", Type: definition.Bool, Public: true}},
		Ends:  []definition.End{{ID: "closed", Title: "Closed"}, {ID: "cancelled", Title: "Cancelled", Cancelled: true}},
	}
	for i := range caseSteps {
		fact := fmt.Sprint("fact_", i)
		d.Facts = append(d.Facts, definition.Fact{ID: fact, Title: "A fact", Type: definition.Hash})
		s := definition.Step{
			ID: fmt.Sprint("step-", i), Title: "A step", From: "office", Kind: definition.ServiceStep, Service: "do", Undo: "undo",
			Yields: []string{fact}, Deadline: definition.Duration(24 * time.Hour),
		}
		switch i {
		case 0:
			s.Yields = []string{"resident", fact}
		case 1:
			s.When = "resident"
			fallthrough
		default:
			s.Needs = &definition.Needs{All: []string{fmt.Sprint("step-", i-1)}}
		}
		d.Steps = append(d.Steps, s)
	}
	text, err := d.Encode()
	if err != nil {
		panic(err)
	}
	return text
}

// signStep makes the next transaction of a member: what its process needs, and then
// instance after instance.
func (w *work) signStep(key int, n uint64) []byte {
	member := memberName(key)
	subsystem, process := member+"/SUB", member+"/case/1"
	tx, signer := &registrypb.Tx{ChainId: chainID, Sequence: n}, w.admins[key]
	switch n {
	case 1:
		tx.Body = &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: subsystem, Name: "Population register"}}
	case 2:
		tx.Body = &registrypb.Tx_SetProcess{SetProcess: &registrypb.SetProcess{Owner: member, Definition: stepDefinition()}}
	case 3:
		tx.Body = &registrypb.Tx_TakeRole{TakeRole: &registrypb.TakeRole{Process: process, Role: "office", Subsystem: subsystem}}
	default:
		signer, tx.Sequence = w.keys[key], n-setUp
		place := (n - setUp - 1) % (caseSteps + 1)
		if place == 0 {
			tx.Body = &registrypb.Tx_StartInstance{StartInstance: &registrypb.StartInstance{Process: process, Parts: []*registrypb.Part{{Role: "office", Subsystem: subsystem}}}}
			break
		}
		m := &registrypb.PostStep{Instance: w.runs[key], Step: fmt.Sprint("step-", place-1), Attempt: 1, Kind: registrypb.StepKind_STEP_KIND_DONE}
		if place == 1 {
			m.Yields = append(m.Yields, &registrypb.Yield{Fact: "resident", Value: "true"})
		}
		m.Yields = append(m.Yields, &registrypb.Yield{Fact: fmt.Sprint("fact_", place-1), Commitment: randomHash()})
		tx.Body = &registrypb.Tx_PostStep{PostStep: m}
	}
	envelope, err := registry.SignTx(context.Background(), signer, tx)
	if err != nil {
		panic(err)
	}
	if tx.GetStartInstance() != nil {
		hash := registry.TxHash(envelope)
		w.runs[key] = hex.EncodeToString(hash[:16])
	}
	return envelope
}
