package registry

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// encodeCanonical returns the canonical encoding of a message (see canonical):
// fields in ascending order. proto.Marshal puts members of a oneof last and
// does not promise any order, so it is done here.
func encodeCanonical(m proto.Message) ([]byte, error) {
	return appendMessage(nil, m.ProtoReflect())
}

func appendMessage(b []byte, m protoreflect.Message) ([]byte, error) {
	if len(m.GetUnknown()) > 0 {
		return nil, fmt.Errorf("%s has unknown fields", m.Descriptor().Name())
	}
	all := m.Descriptor().Fields()
	fields := make([]protoreflect.FieldDescriptor, all.Len())
	for i := range fields {
		fields[i] = all.Get(i)
	}
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return cmp.Compare(a.Number(), b.Number()) })
	var err error
	for _, fd := range fields {
		if !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			if b, err = appendValue(b, fd, m.Get(fd)); err != nil {
				return nil, err
			}
			continue
		}
		list := m.Get(fd).List()
		for i := range list.Len() {
			if b, err = appendValue(b, fd, list.Get(i)); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

func appendValue(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	number := func(n uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, fd.Number(), protowire.VarintType), n)
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		return appendBytes(b, fd.Number(), []byte(v.String())), nil
	case protoreflect.BytesKind:
		return appendBytes(b, fd.Number(), v.Bytes()), nil
	case protoreflect.MessageKind:
		inner, err := appendMessage(nil, v.Message())
		if err != nil {
			return nil, err
		}
		return appendBytes(b, fd.Number(), inner), nil
	case protoreflect.BoolKind:
		return number(protowire.EncodeBool(v.Bool())), nil
	case protoreflect.EnumKind:
		return number(uint64(v.Enum())), nil
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return number(v.Uint()), nil
	case protoreflect.Int64Kind:
		return number(uint64(v.Int())), nil
	}
	return nil, fmt.Errorf("field %s: kind %s is not in use", fd.FullName(), fd.Kind())
}
