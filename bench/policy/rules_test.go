package policy

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/policy"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

// ruled makes a registry with one right to a service and n rules for it.
func ruled(b *testing.B, n int) *registry.View {
	b.Helper()
	admin, validator := newSigner(b, "admin"), newSigner(b, "validator")
	encode := func(s *signer) string { return base64.StdEncoding.EncodeToString(s.public.SPKI) }
	m, err := registry.Open(registry.NewMemoryStore())
	if err != nil {
		b.Fatal(err)
	}
	_, err = m.Init(&registry.Genesis{
		Format: registry.GenesisFormat, Instance: "T", ChainID: "bench", Time: start, Registrars: []string{"T/GOV/A"}, Protocol: 2,
		Members: []registry.GenesisMember{{ID: "T/GOV/A", Name: "A", Keys: []registry.GenesisKey{
			{Purpose: "admin", SPKI: encode(admin)}, {Purpose: "validator", SPKI: encode(validator)},
		}}},
		Validators: []registry.GenesisValidator{{Member: "T/GOV/A", Key: encode(validator), Power: 1}},
	})
	if err != nil {
		b.Fatal(err)
	}
	txs := []*registrypb.Tx{
		{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: "T/GOV/A/POP", Name: "S"}}},
		{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: client(0).String(), Name: "S"}}},
		{Body: &registrypb.Tx_SetService{SetService: &registrypb.SetService{Id: service.String(), Type: 1}}},
		{Body: &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{Service: service.String(),
			Subject: &registrypb.GrantRight_Client{Client: client(0).String()}, Purpose: "residence", LegalBasis: "law"}}},
	}
	for i := range n {
		d := rule.Document{
			Format: rule.Format, Number: fmt.Sprint("R", i), Version: 1, Title: "Cases only", Text: "Whoever asks names a case.",
			Law: rule.Law{Act: "Act", Provision: "1"}, Scope: rule.Scope{Service: service.String()}, Remedy: "Open a case.",
			Applies: `consumer_class == "GOV" && path.startsWith("/persons/")`, Requires: `issue && purpose in ["audit", "residence"] && hour >= 0`,
		}
		document, err := d.Encode()
		if err != nil {
			b.Fatal(err)
		}
		txs = append(txs, &registrypb.Tx{Body: &registrypb.Tx_SetRule{SetRule: &registrypb.SetRule{Document: document}}})
	}
	var batch [][]byte
	for i, tx := range txs {
		tx.ChainId, tx.Sequence = "bench", uint64(i+1)
		e, err := registry.SignTx(context.Background(), admin, tx)
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, e)
	}
	block, err := m.Execute(m.Height()+1, start, batch, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range block.Results {
		if r.Code != registry.OK {
			b.Fatal(r.Code, r.Reason)
		}
	}
	if err := m.Commit(); err != nil {
		b.Fatal(err)
	}
	return m.View()
}

// BenchmarkRules decides on one call and asks the rules for it, as a gateway does.
// Besides the mean it reports the median of single decisions.
func BenchmarkRules(b *testing.B) {
	question := civibus.Question{Client: client(0), Service: service, Method: "GET", Path: "/persons/1"}
	now := start.Add(time.Hour)
	for _, n := range []int{0, 1, 8, 32} {
		v := ruled(b, n)
		known := rule.Values{Of: rule.Exchange, Map: map[string]any{"consumer_class": "GOV", "path": "/persons/1", "issue": true, "purpose": "residence"}}
		decide := func() {
			d := policy.Decide(v, question, now)
			if !d.Allowed() {
				b.Fatal(d.Message)
			}
			if rules := v.RulesFor(question.Service); len(rules) > 0 {
				if f := rule.Judge(rules, known, now); f != nil {
					b.Fatal(f)
				}
			}
		}
		b.Run(fmt.Sprint("rules=", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
			times := make([]time.Duration, 10_001)
			for i := range times {
				begin := time.Now()
				decide()
				times[i] = time.Since(begin)
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "median-ns")
		})
	}
}
