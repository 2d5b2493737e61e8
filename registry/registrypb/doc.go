// Package registrypb holds the registry's wire formats, generated from
// registry.proto: transactions, state records, events and state proofs.
//
// Trust: it only decodes. An attacker who controls the bytes can at most have
// them refused by package registry, which checks every field.
package registrypb

//go:generate ../../internal/gen/protoc.sh registry/registrypb/registry.proto
