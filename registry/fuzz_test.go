package registry_test

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// FuzzEnvelope feeds arbitrary envelopes, and the same bytes signed as a
// transaction of a registrar, to Check and Execute: never a panic, a result
// each, two replicas that agree, and what is accepted is canonical.
func FuzzEnvelope(f *testing.F) {
	w := newWorld(f)
	furnish(w)
	admin := edKey("A/admin")
	for _, body := range []any{
		setMember("TEST/GOV/X", "X", idA), &registrypb.SetMemberStatus{Id: idA, Status: suspended}, addKey(edKey("x"), idA, 1),
		&registrypb.RevokeKey{KeyId: admin.public.ID[:], Reason: 1}, &registrypb.SetSubsystem{Id: idA + "/S", Name: "S"},
		&registrypb.SetSubsystemStatus{Id: idA + "/S", Status: ended}, setService(idA + "/S/x"), &registrypb.SetServiceStatus{Id: idA + "/S/x", Status: active},
		grant(idB+"/POP/persons", idC+"/APP"), groupGrant(idB+"/POP/persons", "global/towns"), &registrypb.SetRightStatus{Id: "0"},
		&registrypb.SetGroup{Id: "global/x", Title: "X"}, &registrypb.SetGroupMember{Group: "global/towns", Client: idC, Member: true},
		&registrypb.AnchorLog{Checkpoint: []byte("x\n1\nAAAA\n\n— x AAAAAAAA\n"), Consistency: [][]byte{make([]byte, 32)}}, &registrypb.Notarise{Digest: make([]byte, 32)},
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
