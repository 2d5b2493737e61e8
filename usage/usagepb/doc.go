// Package usagepb holds the usage record's wire format (spec/usage.md), generated from
// usage.proto.
//
// Trust: it only decodes, and believes nothing of what it decodes.
package usagepb

//go:generate ../../internal/gen/protoc.sh usage/usagepb/usage.proto
