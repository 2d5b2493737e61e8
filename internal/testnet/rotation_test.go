package testnet_test

import (
	"encoding/hex"
	"slices"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/registry/registrypb"
)

// TestRotationWithoutDowntime replaces every kind of key of both bodies of an
// exchange while they run: the new key is added, the old one revoked, and the
// next exchange, its anchors, its cosignatures and its receipts are made with the
// new ones; receipts of before still verify.
func TestRotationWithoutDowntime(t *testing.T) {
	n := network(t)
	provider, consumer := n.Bodies[0], n.Bodies[3]
	before := call(t, consumer, provider, "/1")
	receiptOf(t, consumer, before)

	for _, b := range []*testnet.Body{provider, consumer} {
		for _, purpose := range []civibus.Purpose{civibus.SealKey, civibus.TransportKey, civibus.LogKey, civibus.WitnessKey, civibus.ValidatorKey, civibus.AdminKey} {
			rotate(t, n, b, purpose)
			exchange := call(t, consumer, provider, "/2")
			receiptOf(t, consumer, exchange)
			receiptOf(t, provider, exchange)
		}
	}
	// A receipt is made anew from the evidence, against the registry of now.
	receiptOf(t, consumer, before)
	receiptOf(t, provider, before)
}

// rotate adds a key and revokes those of the same purpose that were there.
func rotate(t *testing.T, n *testnet.Network, b *testnet.Body, purpose civibus.Purpose) {
	t.Helper()
	a := b.Admin()
	old, err := a.Keys(t.Context(), admin.ListOptions{Member: b.ID.String(), Purpose: purpose.String()})
	if err != nil {
		t.Fatal(err)
	}
	added, err := a.NewKey(t.Context(), admin.NewKey{Purpose: purpose.String()})
	if err != nil {
		t.Fatalf("new %s key of %s: %v", purpose, b.ID, err)
	}
	for _, k := range old.Items {
		if !k.InForce {
			continue
		}
		id, err := hex.DecodeString(k.ID)
		if err != nil {
			t.Fatal(err)
		}
		if purpose == civibus.ValidatorKey {
			to, err := hex.DecodeString(added.ID)
			if err != nil {
				t.Fatal(err)
			}
			register(t, n, testnet.Change{By: b, Tx: &registrypb.Tx{Body: &registrypb.Tx_MoveVotingPower{
				MoveVotingPower: &registrypb.MoveVotingPower{From: id, To: to},
			}}})
		}
		register(t, n, testnet.Change{By: b, Tx: &registrypb.Tx{Body: &registrypb.Tx_RevokeKey{
			RevokeKey: &registrypb.RevokeKey{KeyId: id, Reason: registrypb.RevocationReason_REVOCATION_REASON_ROTATED},
		}}})
	}
	now, err := a.Keys(t.Context(), admin.ListOptions{Member: b.ID.String(), Purpose: purpose.String()})
	if err != nil {
		t.Fatal(err)
	}
	inForce := slices.DeleteFunc(now.Items, func(k admin.Key) bool { return !k.InForce })
	if len(inForce) != 1 || inForce[0].ID != added.ID {
		t.Fatalf("%s keys of %s in force after the rotation: %+v, want %s", purpose, b.ID, inForce, added.ID)
	}
}
