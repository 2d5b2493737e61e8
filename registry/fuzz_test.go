package registry_test

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// FuzzEnvelope feeds arbitrary envelopes, and the same bytes signed as a
// transaction of a registrar, to Check and Execute: never a panic, a result
// each, two replicas that agree, and what is accepted is canonical.
func FuzzEnvelope(f *testing.F) {
	// One vote decides, so that what is proposed is also made.
	g := testGenesis()
	g.Members[1].Votes = votes(0)
	w := newWorldOf(f, g)
	furnish(w)
	w.open("A", &registrypb.SetValidators{Validators: []*registrypb.ValidatorPower{powerOf("C/validator", 3)}})
	admin := edKey("A/admin")
	for _, body := range []any{
		setMember("TEST/GOV/X", "X", idA), &registrypb.SetMemberStatus{Id: idA, Status: suspended}, addKey(edKey("x"), idA, 1),
		&registrypb.RevokeKey{KeyId: admin.public.ID[:], Reason: 1}, &registrypb.SetSubsystem{Id: idA + "/S", Name: "S"},
		&registrypb.SetSubsystemStatus{Id: idA + "/S", Status: ended}, setService(idA + "/S/x"), &registrypb.SetServiceStatus{Id: idA + "/S/x", Status: active},
		grant(idB+"/POP/persons", idC+"/APP"), groupGrant(idB+"/POP/persons", "global/towns"), &registrypb.SetRightStatus{Id: "0"},
		&registrypb.SetGroup{Id: "global/x", Title: "X"}, &registrypb.SetGroupMember{Group: "global/towns", Client: idC, Member: true},
		&registrypb.AnchorLog{Checkpoint: []byte("x\n1\nAAAA\n\n— x AAAAAAAA\n"), Consistency: [][]byte{make([]byte, 32)}}, &registrypb.Notarise{Digest: make([]byte, 32)},
		proposal(newcomer("X")), proposal(&registrypb.SuspendMember{Id: idB}), proposal(&registrypb.ReinstateMember{Id: idB}), proposal(&registrypb.RemoveMember{Id: idB}),
		proposal(&registrypb.SetVotes{Member: idB, Votes: 2}), proposal(setPowers(powerOf("B/validator", 0), powerOf("C/validator", 3))),
		proposal(&registrypb.SetParams{Registrars: &registrypb.Registrars{Members: []string{idB}}, BlockShare: 7, Rules: []*registrypb.Rule{{Kind: 1, Quorum: 1, Threshold: 501, PeriodSeconds: 1}}}),
		proposal(&registrypb.SetGroup{Id: "global/x", Title: "X"}), proposal(&registrypb.SetGroupMember{Group: "global/towns", Client: idC, Member: true}),
		proposal(&registrypb.PlanUpgrade{Name: "protocol-2", Height: 50}), proposal(&registrypb.CancelUpgrade{Name: "v1"}), proposal(revokeNow("B/seal")), proposal(&registrypb.RecoverMember{Id: idB, Key: newKey("x", idB, civibus.AdminKey)}),
		vote(1, false), &registrypb.WithdrawProposal{Proposal: 1}, &registrypb.Delegate{Root: idA, To: idB, Rights: true, Until: 4_000_000_000}, &registrypb.RevokeDelegation{Root: idA, To: idB},
		&registrypb.SetNodes{Member: idA, Nodes: []*registrypb.NodeAddress{node("A")}}, &registrypb.MoveVotingPower{From: keyIDBytes("A/validator"), To: keyIDBytes("B/validator")},
		&registrypb.Leave{}, &registrypb.SetHost{Member: idA, Host: idB}, &registrypb.AcceptHost{Member: idB, Host: idA},
		&registrypb.SetChain{KeyId: keyIDBytes("A/seal"), Certificates: [][]byte{certificate(edKey("A/seal"))}},
	} {
		tx := &registrypb.Tx{ChainId: "test-1", Sequence: 1000}
		setBody(tx, body)
		e := must(registry.SignTx(context.Background(), admin, tx))
		f.Add(e)
		var env registrypb.Envelope
		if err := proto.Unmarshal(e, &env); err != nil {
			f.Fatal(err)
		}
		f.Add(env.Tx)
	}
	start := dump(f, w.view())
	f.Fuzz(func(t *testing.T, b []byte) {
		signed := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
		signature := must(admin.Sign(t.Context(), append([]byte("civibus/tx/v1\n"), b...)))
		signed = protowire.AppendBytes(protowire.AppendTag(signed, 2, protowire.BytesType), signature)
		var hashes [2][32]byte
		for i := range hashes {
			store := registry.NewMemoryStore()
			if _, _, err := registry.Import(bytes.NewReader(start), store); err != nil {
				t.Fatal(err)
			}
			m := must(registry.Open(store))
			if i == 0 {
				m.Check(b)
				m.Check(signed)
			}
			block, err := m.Execute(m.Height()+1, w.now, [][]byte{b, signed, signed}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for n, r := range block.Results {
				if (r.Code != registry.OK) != (r.Reason != "") || r.Code == registry.Unavailable {
					t.Fatalf("result %d: %+v", n, r)
				}
			}
			if block.Results[2].Code == registry.OK {
				t.Fatal("an envelope is accepted twice")
			}
			if err := m.Commit(); err != nil {
				t.Fatal(err)
			}
			reopened := must(registry.Open(store))
			if hashes[i] = reopened.AppHash(); hashes[i] != block.AppHash {
				t.Fatal("reopened, the registry differs")
			}
		}
		if hashes[0] != hashes[1] {
			t.Fatal("two replicas differ")
		}
	})
}
