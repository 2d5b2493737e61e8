package registry

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/civibus/civibus/registry/registrypb"
)

// decodeEnvelope cuts an envelope into the transaction's bytes and the
// signature, and decodes the transaction. Only the canonical encoding is
// accepted: the hash of an envelope names it, and nobody but its signer shall
// be able to make another one.
func decodeEnvelope(envelope []byte) (tx *registrypb.Tx, raw, signature []byte, err error) {
	md := (&registrypb.Envelope{}).ProtoReflect().Descriptor()
	if err := canonical(envelope, md); err != nil {
		return nil, nil, nil, fmt.Errorf("envelope: %w", err)
	}
	for b := envelope; len(b) > 0; {
		field, _, n := protowire.ConsumeTag(b)
		v, m := protowire.ConsumeBytes(b[n:])
		if field == 1 {
			raw = v
		} else {
			signature = v
		}
		b = b[n+m:]
	}
	if raw == nil || signature == nil {
		return nil, nil, nil, errors.New("envelope: the transaction or the signature is missing")
	}
	tx = &registrypb.Tx{}
	if err := canonical(raw, tx.ProtoReflect().Descriptor()); err != nil {
		return nil, nil, nil, fmt.Errorf("transaction: %w", err)
	}
	if err := (proto.UnmarshalOptions{RecursionLimit: 10}).Unmarshal(raw, tx); err != nil {
		// The library's text differs between builds on purpose; the reason
		// must not.
		return nil, nil, nil, errors.New("transaction: a string is not UTF-8")
	}
	if len(tx.KeyId) != 32 {
		return nil, nil, nil, fmt.Errorf("transaction: key_id has %d bytes, the rule is 32", len(tx.KeyId))
	}
	if tx.Body == nil {
		return nil, nil, nil, errors.New("transaction: it has no body")
	}
	return tx, raw, signature, nil
}

// canonical checks that b is the one encoding of its content as a message of
// type md: fields in ascending order, each singular one at most once and one of
// each oneof, no default values outside oneofs, no unknown fields, shortest
// varints.
func canonical(b []byte, md protoreflect.MessageDescriptor) error {
	var last protowire.Number
	var oneof protoreflect.OneofDescriptor
	for len(b) > 0 {
		tag, n := shortVarint(b)
		if n == 0 {
			return errors.New("malformed tag")
		}
		b = b[n:]
		if tag > math.MaxUint32 {
			return errors.New("malformed tag")
		}
		number, wire := protowire.DecodeTag(tag)
		fd := md.Fields().ByNumber(number)
		switch {
		case fd == nil:
			return fmt.Errorf("%s: unknown field %d", md.Name(), number)
		case number < last:
			return fmt.Errorf("%s: field %d follows field %d, the rule is ascending order", md.Name(), number, last)
		case number == last && !fd.IsList():
			return fmt.Errorf("%s: field %s occurs twice", md.Name(), fd.Name())
		}
		last = number
		if of := fd.ContainingOneof(); of != nil {
			if oneof == of {
				return fmt.Errorf("%s: more than one of %s", md.Name(), of.Name())
			}
			oneof = of
		}
		n, err := canonicalField(b, wire, fd)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", md.Name(), fd.Name(), err)
		}
		b = b[n:]
	}
	return nil
}

// canonicalField checks one field's value and returns its length.
func canonicalField(b []byte, wire protowire.Type, fd protoreflect.FieldDescriptor) (int, error) {
	optional := fd.IsList() || fd.ContainingOneof() != nil
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		size, n := shortVarint(b)
		if wire != protowire.BytesType || n == 0 || size > uint64(len(b)-n) {
			return 0, errors.New("malformed length or wire type")
		}
		end := n + int(size)
		if fd.Kind() == protoreflect.MessageKind {
			return end, canonical(b[n:end], fd.Message())
		}
		if size == 0 && !optional {
			return 0, errors.New("an empty value is encoded")
		}
		return end, nil
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Int64Kind:
		v, n := shortVarint(b)
		if wire != protowire.VarintType || n == 0 {
			return 0, errors.New("malformed varint or wire type")
		}
		if v == 0 && !optional {
			return 0, errors.New("a zero is encoded")
		}
		if fd.Kind() == protoreflect.BoolKind && v > 1 ||
			fd.Kind() == protoreflect.EnumKind && v > math.MaxInt32 ||
			fd.Kind() == protoreflect.Uint32Kind && v > math.MaxUint32 {
			return 0, errors.New("number out of range")
		}
		return n, nil
	}
	return 0, fmt.Errorf("fields of kind %s are not in use", fd.Kind())
}

// shortVarint reads a varint of the shortest form; n is 0 when there is none.
func shortVarint(b []byte) (v uint64, n int) {
	v, n = protowire.ConsumeVarint(b)
	if n < 0 || n != protowire.SizeVarint(v) {
		return 0, 0
	}
	return v, n
}
