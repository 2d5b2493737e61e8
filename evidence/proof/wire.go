package proof

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// decode reads a message by the strict rules of spec/receipt.md section 4.
// The protobuf runtime alone would keep unknown fields, merge repeated ones and
// cut integers, so two verifiers could read the same bytes differently.
func decode(b []byte, m proto.Message) error {
	if err := strict(b, m.ProtoReflect().Descriptor()); err != nil {
		return err
	}
	return proto.Unmarshal(b, m)
}

// strict recurses as deep as the schema does, which is not recursive.
func strict(b []byte, md protoreflect.MessageDescriptor) error {
	seen := make(map[protoreflect.FieldNumber]bool, 16)
	oneofs := make(map[int]bool, 1)
	for len(b) > 0 {
		tag, n, err := varint(b)
		if err != nil {
			return err
		}
		b = b[n:]
		if tag>>3 > math.MaxInt32 {
			return fmt.Errorf("%s: field number %d", md.Name(), tag>>3)
		}
		num, typ := protowire.Number(tag>>3), protowire.Type(tag&7)
		fd := md.Fields().ByNumber(num)
		if fd == nil {
			return fmt.Errorf("%s has a field %d that version 1 does not know", md.Name(), num)
		}
		if seen[num] && !fd.IsList() {
			return fmt.Errorf("%s has field %d twice", md.Name(), num)
		}
		seen[num] = true
		if o := fd.ContainingOneof(); o != nil {
			if oneofs[o.Index()] {
				return fmt.Errorf("%s has two of the fields that exclude each other", md.Name())
			}
			oneofs[o.Index()] = true
		}
		if n, err = strictValue(b, typ, fd); err != nil {
			return fmt.Errorf("%s field %d: %w", md.Name(), num, err)
		}
		b = b[n:]
	}
	return nil
}

// strictValue checks one value and returns its length.
func strictValue(b []byte, typ protowire.Type, fd protoreflect.FieldDescriptor) (int, error) {
	want := protowire.BytesType
	limit := uint64(math.MaxUint64)
	switch fd.Kind() {
	case protoreflect.BytesKind, protoreflect.StringKind, protoreflect.MessageKind:
	case protoreflect.Uint64Kind, protoreflect.Int64Kind:
		want = protowire.VarintType
	case protoreflect.Uint32Kind:
		want, limit = protowire.VarintType, math.MaxUint32
	case protoreflect.EnumKind:
		want, limit = protowire.VarintType, math.MaxInt32
	case protoreflect.BoolKind:
		want, limit = protowire.VarintType, 1
	default:
		return 0, fmt.Errorf("kind %s is not used in receipts", fd.Kind())
	}
	if typ != want {
		return 0, fmt.Errorf("wire type %d, the rule is %d", typ, want)
	}
	v, n, err := varint(b)
	if err != nil {
		return 0, err
	}
	if want == protowire.VarintType {
		if v > limit {
			return 0, fmt.Errorf("value %d is above %d", v, limit)
		}
		return n, nil
	}
	if v > uint64(len(b)-n) {
		return 0, errors.New("it is cut short")
	}
	content := b[n : n+int(v)]
	switch fd.Kind() {
	case protoreflect.StringKind:
		if !utf8.Valid(content) {
			return 0, errors.New("it is not UTF-8")
		}
	case protoreflect.MessageKind:
		if err := strict(content, fd.Message()); err != nil {
			return 0, err
		}
	}
	return n + int(v), nil
}

func varint(b []byte) (uint64, int, error) {
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, 0, errors.New("it is cut short or has a varint above 64 bits")
	}
	if n > 1 && b[n-1] == 0 {
		return 0, 0, errors.New("a varint is longer than it must be")
	}
	return v, n, nil
}
