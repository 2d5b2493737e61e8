package registry_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const (
	active    = registrypb.Status_STATUS_ACTIVE
	suspended = registrypb.Status_STATUS_SUSPENDED
	ended     = registrypb.Status_STATUS_ENDED
)

// furnish registers what most tests need: a subsystem and a service of B, a
// subsystem of C and a global group.
func furnish(w *world) {
	w.t.Helper()
	b := w.block(
		w.tx(edKey("B/admin"), &registrypb.SetSubsystem{Id: idB + "/POP", Name: "Population"}),
		w.tx(edKey("B/admin"), setService(idB+"/POP/persons")),
		w.tx(edKey("C/admin"), &registrypb.SetSubsystem{Id: idC + "/APP", Name: "Application"}),
		w.tx(edKey("A/admin"), &registrypb.SetGroup{Id: "global/towns", Title: "Towns"}),
	)
	for _, r := range b.Results {
		if r.Code != registry.OK {
			w.t.Fatal(r.Reason)
		}
	}
}

// TestRefusals has every kind of transaction refused for every reason, and
// checks that every code of the catalogue occurs.
func TestRefusals(t *testing.T) {
	covered := map[registry.Code]bool{registry.OK: true, registry.Unavailable: true}
	run := func(name string, code registry.Code, fn func(w *world) []byte) {
		covered[code] = true
		t.Run(fmt.Sprintf("%s/%s", code, name), func(t *testing.T) {
			w := newWorld(t)
			furnish(w)
			w.refusedEnvelope(code, fn(w))
		})
	}
	body := func(name string, code registry.Code, signer string, body any) {
		run(name, code, func(w *world) []byte { return w.tx(edKey(signer), body) })
	}
	after := func(name string, code registry.Code, signer string, last any, before ...func(w *world)) {
		run(name, code, func(w *world) []byte {
			for _, fn := range before {
				fn(w)
			}
			return w.tx(edKey(signer), last)
		})
	}
	do := func(signer string, body any) func(w *world) {
		return func(w *world) { w.ok(edKey(signer), body) }
	}
	envelopeRefusals(run)
	fieldRefusals(body)
	directoryRefusals(body, after, do)
	keyRefusals(body, after, do)
	catalogueRefusals(body, after, do)
	rightRefusals(body, after, do)
	governanceRefusals(body, after, do)
	changeRefusals(body, after)
	hierarchyRefusals(body, after, do)
	processRefusals(run, body, after, do)
	ruleRefusals(body, after, do)
	evidenceTypeRefusals(body, after, do)
	topicRefusals(body, after, do)
	usageRefusals(body, after, do)
	// Anchors have a test of their own; here for the catalogue.
	for _, c := range []registry.Code{registry.BadCheckpoint, registry.StaleCheckpoint, registry.RollbackCheckpoint, registry.ForkedCheckpoint, registry.InconsistentCheckpoint} {
		covered[c] = true
	}
	for _, c := range registry.Codes() {
		if !covered[c.Code] {
			t.Errorf("no test has code %s", c.Name)
		}
	}
}

type (
	runner  func(name string, code registry.Code, fn func(w *world) []byte)
	bodyRun func(name string, code registry.Code, signer string, body any)
	after   func(name string, code registry.Code, signer string, last any, before ...func(w *world))
	doer    func(signer string, body any) func(w *world)
)

func envelopeRefusals(run runner) {
	good := &registrypb.SetSubsystem{Id: idB + "/X", Name: "X"}
	admin := edKey("B/admin")
	tx := func(w *world) []byte { return w.tx(admin, good) }
	run("empty", registry.BadEncoding, func(w *world) []byte { return nil })
	run("garbage", registry.BadEncoding, func(w *world) []byte { return []byte("garbage") })
	run("cut", registry.BadEncoding, func(w *world) []byte { e := tx(w); return e[:len(e)-1] })
	run("extended", registry.BadEncoding, func(w *world) []byte { return append(tx(w), 0x1a, 1, 1) })
	run("signature twice", registry.BadEncoding, func(w *world) []byte { e := tx(w); return append(e, e[len(e)-66:]...) })
	run("no signature", registry.BadEncoding, func(w *world) []byte { e := tx(w); return e[:len(e)-66] })
	run("long varint", registry.BadEncoding, func(w *world) []byte {
		e := tx(w)
		return append([]byte{e[0], e[1] | 0x80, 0}, e[2:]...)
	})
	retx := func(fn func(raw []byte) []byte) func(w *world) []byte {
		return func(w *world) []byte {
			var e registrypb.Envelope
			if err := proto.Unmarshal(tx(w), &e); err != nil {
				w.t.Fatal(err)
			}
			return signRaw(admin, fn(e.Tx))
		}
	}
	run("unknown field", registry.BadEncoding, retx(func(raw []byte) []byte {
		return protowire.AppendVarint(protowire.AppendTag(raw, 99, protowire.VarintType), 1)
	}))
	run("default value", registry.BadEncoding, retx(func(raw []byte) []byte {
		i := bytes.Index(raw, []byte{0x18, 1}) // sequence 1
		return bytes.Join([][]byte{raw[:i+2], raw[i+2:]}, []byte{0x20, 0})
	}))
	run("two bodies", registry.BadEncoding, retx(func(raw []byte) []byte {
		return append(protowire.AppendTag(raw, 23, protowire.BytesType), 0)
	}))
	run("no body", registry.BadEncoding, func(w *world) []byte {
		b, _ := proto.Marshal(&registrypb.Tx{ChainId: "test-1", KeyId: admin.public.ID[:], Sequence: 9})
		return signRaw(admin, b)
	})
	run("short key id", registry.BadEncoding, func(w *world) []byte {
		b, _ := proto.Marshal(&registrypb.Tx{ChainId: "test-1", KeyId: admin.public.ID[:31], Sequence: 9, Body: &registrypb.Tx_SetSubsystem{SetSubsystem: good}})
		return signRaw(admin, b)
	})
	run("not UTF-8", registry.BadEncoding, retx(func(raw []byte) []byte { return bytes.Replace(raw, []byte("test-1"), []byte("test-\xff"), 1) }))
	run("large", registry.TooLarge, func(w *world) []byte { return make([]byte, 64<<10+1) })
	run("chain", registry.WrongChain, func(w *world) []byte {
		return w.sign(admin, &registrypb.Tx{ChainId: "test-2", Sequence: 9}, good)
	})
	run("unknown", registry.UnknownKey, func(w *world) []byte { return w.tx(edKey("nobody"), good) })
	run("flipped bit", registry.BadSignature, func(w *world) []byte { e := tx(w); e[len(e)-1] ^= 1; return e })
	run("flipped bit of r", registry.BadSignature, func(w *world) []byte { e := tx(w); e[len(e)-40] ^= 1; return e })
	run("other key", registry.BadSignature, func(w *world) []byte {
		b, _ := proto.Marshal(&registrypb.Tx{ChainId: "test-1", KeyId: admin.public.ID[:], Sequence: 9, Body: &registrypb.Tx_SetSubsystem{SetSubsystem: good}})
		return signRaw(edKey("A/admin"), b)
	})
	run("without domain", registry.BadSignature, func(w *world) []byte {
		var e registrypb.Envelope
		_ = proto.Unmarshal(tx(w), &e)
		e.Signature = must(admin.Sign(w.t.Context(), e.Tx))
		return must(proto.Marshal(&e))
	})
	run("high s", registry.BadSignature, func(w *world) []byte {
		k := ecKey("B/admin2")
		w.ok(admin, addKey(k, idB, civibus.AdminKey))
		e := w.tx(k, good)
		return flipS(e)
	})
	run("seal key", registry.WrongPurpose, func(w *world) []byte { return w.tx(edKey("B/seal"), good) })
	run("log key", registry.WrongPurpose, func(w *world) []byte { return w.tx(edKey("B/log"), good) })
	run("admin key notarises", registry.WrongPurpose, func(w *world) []byte {
		return w.tx(admin, &registrypb.Notarise{Digest: make([]byte, 32)})
	})
	run("replayed", registry.BadSequence, func(w *world) []byte {
		e := tx(w)
		w.block(e)
		return e
	})
	run("zero", registry.BadSequence, func(w *world) []byte { return w.sign(admin, &registrypb.Tx{ChainId: "test-1"}, good) })
	run("far ahead", registry.BadSequence, func(w *world) []byte {
		return w.sign(admin, &registrypb.Tx{ChainId: "test-1", Sequence: w.seq[admin.public.ID] + 1<<20 + 1}, good)
	})
	run("late", registry.Expired, func(w *world) []byte {
		return w.sign(admin, &registrypb.Tx{ChainId: "test-1", Sequence: 9, ExpiresAtHeight: w.m.Height()}, good)
	})
	run("revoked", registry.KeyNotInForce, func(w *world) []byte {
		w.ok(edKey("B/log"), &registrypb.Notarise{Digest: bytes.Repeat([]byte{1}, 32)})
		id := edKey("B/log").public.ID
		w.ok(admin, &registrypb.RevokeKey{KeyId: id[:], Reason: 1})
		return w.tx(edKey("B/log"), &registrypb.Notarise{Digest: make([]byte, 32)})
	})
	run("not yet", registry.KeyNotInForce, func(w *world) []byte {
		m := addKey(edKey("B/admin2"), idB, civibus.AdminKey)
		m.ActivateHeight = 1000
		w.ok(admin, m)
		return w.tx(edKey("B/admin2"), good)
	})
	run("suspended", registry.MemberNotActive, func(w *world) []byte {
		w.ok(edKey("A/admin"), &registrypb.SetMemberStatus{Id: idB, Status: suspended})
		return tx(w)
	})
	run("ended", registry.KeyNotInForce, func(w *world) []byte {
		w.ok(edKey("B/admin"), &registrypb.SetMemberStatus{Id: idC, Status: ended})
		return w.tx(edKey("C/log"), &registrypb.AnchorLog{})
	})
}

// signRaw makes an envelope around any transaction bytes.
func signRaw(s *testSigner, raw []byte) []byte {
	sig := must(s.Sign(context.Background(), append([]byte("civibus/tx/v1\n"), raw...)))
	e := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), raw)
	return protowire.AppendBytes(protowire.AppendTag(e, 2, protowire.BytesType), sig)
}

func fieldRefusals(body bodyRun) {
	bad := func(name, signer string, b any) { body(name, registry.InvalidField, signer, b) }
	for _, id := range []string{"", "TEST", "TEST/GOV", "TEST/GOV/X/Y", "TEST//X", "OTHER/GOV/X", "TEST/GOV/%58", "TEST/GOV/a%5Cb", "TEST/GOV/..", "TEST/GOV/a b",
		"TEST/GOV/%0A", "TEST/GOV/%E2%80%8B", "TEST/GOV/a%3Ab", "TEST/GOV/a:b", "TEST/GOV/%zz", "TEST/GOV/" + strings.Repeat("x", 256)} {
		bad("member id "+id[:min(len(id), 30)], "A/admin", setMember(id, "X", ""))
	}
	bad("parent", "A/admin", setMember("TEST/GOV/X", "X", "nonsense"))
	for name, text := range map[string]string{"empty": "", "long": strings.Repeat("x", 256), "control": "a\x00b", "newline": "a\nb", "direction": "a\u202eb", "space": " a"} {
		bad("name "+name, "A/admin", setMember("TEST/GOV/X", text, ""))
		bad("title "+name, "A/admin", &registrypb.SetGroup{Id: "global/x", Title: text})
	}
	for _, a := range []string{"", "host", "host:", ":80", "host:0", "host:65536", "host:080", "HOST:80", "a b:80", "-a:80", "::1:80", "[::1%25eth0]:80", "[0::1]:80", "http://a:80", strings.Repeat("a", 300) + ":80"} {
		m := setMember(idA, "X", "")
		m.Gateways = []*registrypb.Gateway{{Code: "a", Address: a}}
		bad("address "+a[:min(len(a), 20)], "A/admin", m)
	}
	m := setMember(idA, "X", "")
	m.Gateways = []*registrypb.Gateway{{Code: "a", Address: "a:1"}, {Code: "a", Address: "b:1"}}
	bad("gateway twice", "A/admin", m)
	m = setMember(idA, "X", "")
	for i := range 17 {
		m.Gateways = append(m.Gateways, &registrypb.Gateway{Code: fmt.Sprint(i), Address: "a:1"})
	}
	bad("17 gateways", "A/admin", m)
	bad("status", "A/admin", &registrypb.SetMemberStatus{Id: idA})
	bad("status 4", "A/admin", &registrypb.SetMemberStatus{Id: idA, Status: 4})
	bad("subsystem is a member", "B/admin", &registrypb.SetSubsystem{Id: idB, Name: "X"})
	bad("service id", "B/admin", setService(idB+"/POP"))
	s := setService(idB + "/POP/x")
	s.Type = 9
	bad("service type", "B/admin", s)
	s = setService(idB + "/POP/x")
	s.DescriptionDigest = make([]byte, 31)
	bad("digest", "B/admin", s)
	for _, e := range [][2]string{{"get", "/"}, {"", "/"}, {"GET", ""}, {"GET", "x"}, {"GET", "/a b"}, {"GET", "/a?b"}, {"GET", "/a#b"}, {"GET", "/***"}, {"GET", `/\a`}, {"GET", `/\`},
		{"GET", "/%"}, {"GET", "/%zz"}, {"GET", "/a/../b"}, {"GET", "/a/%2E./b"}, {"GET", "/."}, {"GET", "/\x7f"}, {"GET", "/ü"}, {"GET", "/" + strings.Repeat("x", 1024)}, {strings.Repeat("G", 17), "/"}} {
		s := setService(idB + "/POP/x")
		s.Endpoints = []*registrypb.Endpoint{{Method: e[0], Path: e[1]}}
		bad("endpoint "+e[0]+" "+e[1][:min(len(e[1]), 10)], "B/admin", s)
	}
	s = setService(idB + "/POP/x")
	s.Endpoints = []*registrypb.Endpoint{{Method: "GET", Path: "/a"}, {Method: "GET", Path: "/a"}}
	bad("endpoint twice", "B/admin", s)
	s = setService(idB + "/POP/x")
	for i := range 129 {
		s.Endpoints = append(s.Endpoints, &registrypb.Endpoint{Method: "GET", Path: fmt.Sprint("/", i)})
	}
	bad("129 endpoints", "B/admin", s)
	bad("a metadata service's code", "B/admin", setService(idB+"/POP/listMethods"))
	bad("suspended without notice", "B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: suspended})
	bad("active with notice", "B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: active, Notice: "x"})
	for _, id := range []string{"", "global", "global/", "towns", "global/a/b", "global/%61", "local/x", "local/" + idB + "/x", "local/" + idB + "/POP/", "other/x"} {
		bad("group id "+id, "A/admin", &registrypb.SetGroup{Id: id, Title: "X"})
	}
	bad("notarise", "B/log", &registrypb.Notarise{Digest: make([]byte, 31)})
	bad("key id", "B/admin", &registrypb.RevokeKey{KeyId: make([]byte, 31), Reason: 1})
	bad("reason", "B/admin", &registrypb.RevokeKey{KeyId: make([]byte, 32)})
	bad("right id", "B/admin", &registrypb.SetRightStatus{Id: strings.Repeat("A", 32), Status: ended})
	grantRefusals(bad)
}

func grantRefusals(bad func(name, signer string, b any)) {
	with := func(name string, change func(g *registrypb.GrantRight)) {
		g := grant(idB+"/POP/persons", idC+"/APP")
		change(g)
		bad("grant "+name, "B/admin", g)
	}
	with("no subject", func(g *registrypb.GrantRight) { g.Subject = nil })
	with("client", func(g *registrypb.GrantRight) { g.Subject = &registrypb.GrantRight_Client{Client: "x"} })
	with("other's local group", func(g *registrypb.GrantRight) {
		g.Subject = &registrypb.GrantRight_Group{Group: "local/" + idC + "/APP/x"}
	})
	with("purpose", func(g *registrypb.GrantRight) { g.Purpose = "a b" })
	with("no purpose", func(g *registrypb.GrantRight) { g.Purpose = "" })
	with("no legal basis", func(g *registrypb.GrantRight) { g.LegalBasis = "" })
	with("negative time", func(g *registrypb.GrantRight) { g.ValidFrom = -1 })
	with("late time", func(g *registrypb.GrantRight) { g.ValidUntil = 1 << 50 })
	with("expired", func(g *registrypb.GrantRight) { g.ValidUntil = testGenesis().Time.Unix() })
	with("until before from", func(g *registrypb.GrantRight) { g.ValidFrom, g.ValidUntil = 5e9, 4e9 })
	with("rate without seconds", func(g *registrypb.GrantRight) { g.RateLimit = &registrypb.RateLimit{Requests: 1} })
	with("empty rate", func(g *registrypb.GrantRight) { g.RateLimit = &registrypb.RateLimit{} })
	with("path", func(g *registrypb.GrantRight) { g.Endpoints = []*registrypb.Endpoint{{Method: "GET", Path: "/../x"}} })
}

func directoryRefusals(body bodyRun, after after, do doer) {
	body("top level by another", registry.NotAuthorised, "B/admin", setMember("TEST/GOV/X", "X", ""))
	body("under another", registry.NotAuthorised, "C/admin", setMember("TEST/GOV/X", "X", idB))
	body("rename another", registry.NotAuthorised, "B/admin", setMember(idA, "X", ""))
	body("registrar renames", registry.NotAuthorised, "A/admin", setMember(idB, "X", ""))
	body("child renames parent", registry.NotAuthorised, "C/admin", setMember(idB, "X", ""))
	body("leave parent", registry.NotAuthorised, "C/admin", setMember(idC, "Body C", ""))
	body("parent lets go", registry.NotAuthorised, "B/admin", setMember(idC, "Body C", ""))
	body("suspend another", registry.NotAuthorised, "C/admin", &registrypb.SetMemberStatus{Id: idB, Status: suspended})
	body("registrar suspends child", registry.NotAuthorised, "A/admin", &registrypb.SetMemberStatus{Id: idC, Status: suspended})
	body("unknown member", registry.NotFound, "A/admin", &registrypb.SetMemberStatus{Id: "TEST/GOV/X", Status: suspended})
	body("unknown parent", registry.NotAuthorised, "A/admin", setMember("TEST/GOV/X", "X", "TEST/GOV/Y"))
	body("same", registry.NoChange, "A/admin", &registrypb.SetMemberStatus{Id: idB, Status: active})
	after("same member", registry.NoChange, "B/admin", setMember(idB, "New", ""), do("B/admin", setMember(idB, "New", "")))
	body("own child as parent", registry.BadHierarchy, "A/admin", setMember(idA, "A", "TEST/GOV/A"))
	after("cycle", registry.BadHierarchy, "A/admin", setMember(idA, "A", "TEST/GOV/A1"), do("A/admin", setMember("TEST/GOV/A1", "A1", idA)))
	var chain []func(w *world)
	parent := idA
	for i := range 7 {
		id := fmt.Sprintf("TEST/GOV/A%d", i)
		chain = append(chain, do("A/admin", setMember(id, "A", parent)))
		parent = id
	}
	after("ninth level", registry.BadHierarchy, "A/admin", setMember("TEST/GOV/A9", "A", parent), chain...)
	side := append(chain, do("A/admin", setMember("TEST/GOV/S", "S", idA)), do("A/admin", setMember("TEST/GOV/T", "T", "TEST/GOV/S")))
	after("move makes it too deep", registry.BadHierarchy, "A/admin", setMember("TEST/GOV/S", "S", "TEST/GOV/A5"), side...)
	after("ended", registry.Ended, "B/admin", setMember(idC, "X", idB), do("B/admin", &registrypb.SetMemberStatus{Id: idC, Status: ended}))
	after("ended for good", registry.Ended, "B/admin", &registrypb.SetMemberStatus{Id: idC, Status: active}, do("B/admin", &registrypb.SetMemberStatus{Id: idC, Status: ended}))
	after("under an ended one", registry.Ended, "B/admin", setMember("TEST/GOV/X", "X", idC), do("B/admin", &registrypb.SetMemberStatus{Id: idC, Status: ended}))
	body("last registrar", registry.LastRegistrar, "A/admin", &registrypb.SetMemberStatus{Id: idA, Status: suspended})
	body("has children", registry.InUse, "B/admin", &registrypb.SetMemberStatus{Id: idB, Status: ended})
}

func keyRefusals(body bodyRun, after after, do doer) {
	k := edKey("new")
	id := edKey("B/admin").public.ID
	with := func(name string, code registry.Code, purpose civibus.Purpose, change func(m *registrypb.AddKey)) {
		m := addKey(k, idB, purpose)
		change(m)
		body(name, code, "B/admin", m)
	}
	with("purpose", registry.InvalidField, civibus.SealKey, func(m *registrypb.AddKey) { m.Purpose = 7 })
	with("spki", registry.InvalidField, civibus.SealKey, func(m *registrypb.AddKey) { m.Spki = m.Spki[1:] })
	with("no certificate", registry.BadCertificate, civibus.TransportKey, func(m *registrypb.AddKey) { m.Certificate = nil })
	with("other's certificate", registry.BadCertificate, civibus.TransportKey, func(m *registrypb.AddKey) { m.Certificate = certificate(edKey("other")) })
	with("cut certificate", registry.BadCertificate, civibus.TransportKey, func(m *registrypb.AddKey) { m.Certificate = m.Certificate[:50] })
	with("extended certificate", registry.BadCertificate, civibus.TransportKey, func(m *registrypb.AddKey) { m.Certificate = append(m.Certificate, 0) })
	with("long certificate", registry.BadCertificate, civibus.SealKey, func(m *registrypb.AddKey) { m.Certificate = make([]byte, 8193) })
	with("possession", registry.BadPossession, civibus.SealKey, func(m *registrypb.AddKey) { m.Possession[0] ^= 1 })
	with("no possession", registry.BadPossession, civibus.SealKey, func(m *registrypb.AddKey) { m.Possession = nil })
	with("possession for another purpose", registry.BadPossession, civibus.SealKey, func(m *registrypb.AddKey) { m.Purpose = 5 })
	with("possession for another member", registry.BadPossession, civibus.SealKey, func(m *registrypb.AddKey) { m.Member = idC })
	with("height", registry.HeightPassed, civibus.SealKey, func(m *registrypb.AddKey) { m.ActivateHeight = 1 })
	with("far height", registry.InvalidField, civibus.SealKey, func(m *registrypb.AddKey) { m.ActivateHeight = 1 << 40 })
	body("EC log key", registry.InvalidField, "B/admin", addKey(ecKey("ec"), idB, civibus.LogKey))
	body("key of another", registry.NotAuthorised, "C/admin", addKey(k, idB, civibus.SealKey))
	body("registrar for one with an admin key", registry.NotAuthorised, "A/admin", addKey(k, idB, civibus.AdminKey))
	body("key of nobody", registry.NotFound, "A/admin", addKey(k, "TEST/GOV/X", civibus.SealKey))
	body("key twice", registry.AlreadyExists, "B/admin", addKey(edKey("B/log"), idB, civibus.LogKey))
	body("other's key", registry.AlreadyExists, "B/admin", addKey(edKey("A/log"), idB, civibus.SealKey))
	body("key as ended member's", registry.NotFound, "B/admin", &registrypb.RevokeKey{KeyId: make([]byte, 32), Reason: 1})
	after("to an ended one", registry.Ended, "B/admin", addKey(k, idC, civibus.SealKey), do("B/admin", &registrypb.SetMemberStatus{Id: idC, Status: ended}))
	body("last admin", registry.LastAdminKey, "B/admin", &registrypb.RevokeKey{KeyId: id[:], Reason: 1})
	later := addKey(edKey("B/admin2"), idB, civibus.AdminKey)
	later.ActivateHeight = 500
	after("successor too late", registry.LastAdminKey, "B/admin", &registrypb.RevokeKey{KeyId: id[:], RevokeHeight: 499, Reason: 1}, do("B/admin", later))
	seal := edKey("B/seal").public.ID
	after("twice", registry.Ended, "B/admin", &registrypb.RevokeKey{KeyId: seal[:], Reason: 1}, do("B/admin", &registrypb.RevokeKey{KeyId: seal[:], Reason: 1}))
	after("later than announced", registry.NoChange, "B/admin", &registrypb.RevokeKey{KeyId: seal[:], RevokeHeight: 101, Reason: 1}, do("B/admin", &registrypb.RevokeKey{KeyId: seal[:], RevokeHeight: 100, Reason: 1}))
	body("revoke another's", registry.NotAuthorised, "C/admin", &registrypb.RevokeKey{KeyId: seal[:], Reason: 1})
}

func catalogueRefusals(body bodyRun, after after, do doer) {
	body("subsystem of another", registry.NotAuthorised, "C/admin", &registrypb.SetSubsystem{Id: idB + "/X", Name: "X"})
	body("same subsystem", registry.NoChange, "B/admin", &registrypb.SetSubsystem{Id: idB + "/POP", Name: "Population"})
	body("unknown subsystem", registry.NotFound, "B/admin", &registrypb.SetSubsystemStatus{Id: idB + "/X", Status: ended})
	body("service of unknown subsystem", registry.NotFound, "B/admin", setService(idB+"/X/x"))
	body("same service", registry.NoChange, "B/admin", setService(idB+"/POP/persons"))
	body("service of another", registry.NotAuthorised, "C/admin", setService(idB+"/POP/x"))
	body("unknown service", registry.NotFound, "B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/x", Status: active})
	body("enabled", registry.NoChange, "B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: active})
	endSub := do("B/admin", &registrypb.SetSubsystemStatus{Id: idB + "/POP", Status: ended})
	endService := do("B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: ended})
	after("subsystem", registry.Ended, "B/admin", &registrypb.SetSubsystem{Id: idB + "/POP", Name: "X"}, endSub)
	after("service of subsystem", registry.Ended, "B/admin", setService(idB+"/POP/x"), endSub)
	after("service", registry.Ended, "B/admin", setService(idB+"/POP/persons"), endService)
	after("right to service", registry.Ended, "B/admin", grant(idB+"/POP/persons", idC+"/APP"), endService)
	after("right for client", registry.Ended, "B/admin", grant(idB+"/POP/persons", idC+"/APP"), do("C/admin", &registrypb.SetSubsystemStatus{Id: idC + "/APP", Status: ended}))
	after("same notice", registry.NoChange, "B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: suspended, Notice: "x"},
		do("B/admin", &registrypb.SetServiceStatus{Id: idB + "/POP/persons", Status: suspended, Notice: "x"}))
	var toggle []func(w *world)
	toggle = append(toggle, func(w *world) {
		for range 511 {
			w.ok(edKey("B/admin"), &registrypb.SetSubsystemStatus{Id: idB + "/POP", Status: suspended})
			w.ok(edKey("B/admin"), &registrypb.SetSubsystemStatus{Id: idB + "/POP", Status: active})
		}
	})
	after("periods", registry.LimitReached, "B/admin", &registrypb.SetSubsystemStatus{Id: idB + "/POP", Status: suspended}, toggle...)
}

func rightRefusals(body bodyRun, after after, do doer) {
	body("by another", registry.NotAuthorised, "C/admin", grant(idB+"/POP/persons", idC+"/APP"))
	body("unknown service", registry.NotFound, "B/admin", grant(idB+"/POP/x", idC+"/APP"))
	body("unknown version", registry.NotFound, "B/admin", grant(idB+"/POP/persons/v1", idC+"/APP"))
	body("unknown client", registry.NotFound, "B/admin", grant(idB+"/POP/persons", idC+"/X"))
	body("unknown group", registry.NotFound, "B/admin", groupGrant(idB+"/POP/persons", "global/x"))
	super := grant(idB+"/POP/persons", idC+"/APP")
	super.Supersedes = strings.Repeat("0", 32)
	body("supersedes nothing", registry.NotFound, "B/admin", super)
	body("unknown right", registry.NotFound, "B/admin", &registrypb.SetRightStatus{Id: strings.Repeat("0", 32), Status: ended})
	body("global group", registry.NotAuthorised, "B/admin", &registrypb.SetGroup{Id: "global/x", Title: "X"})
	body("global group member", registry.NotAuthorised, "B/admin", &registrypb.SetGroupMember{Group: "global/towns", Client: idC + "/APP", Member: true})
	body("other's local group", registry.NotAuthorised, "C/admin", &registrypb.SetGroup{Id: "local/" + idB + "/POP/x", Title: "X"})
	body("local group of unknown subsystem", registry.NotFound, "B/admin", &registrypb.SetGroup{Id: "local/" + idB + "/X/x", Title: "X"})
	body("same group", registry.NoChange, "A/admin", &registrypb.SetGroup{Id: "global/towns", Title: "Towns"})
	body("member of unknown group", registry.NotFound, "A/admin", &registrypb.SetGroupMember{Group: "global/x", Client: idC + "/APP", Member: true})
	body("unknown member of group", registry.NotFound, "A/admin", &registrypb.SetGroupMember{Group: "global/towns", Client: idC + "/X", Member: true})
	body("not in group", registry.NoChange, "A/admin", &registrypb.SetGroupMember{Group: "global/towns", Client: idC + "/APP"})
	after("digest again", registry.AlreadyExists, "B/log", &registrypb.Notarise{Digest: bytes.Repeat([]byte{7}, 32)},
		do("C/log", &registrypb.Notarise{Digest: bytes.Repeat([]byte{7}, 32)}))
}

// TestCatalogueOfCodes checks that the codes are the numbers in order, and that
// the specification lists exactly them.
func TestCatalogueOfCodes(t *testing.T) {
	spec, err := os.ReadFile("../spec/registry.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i, c := range registry.Codes() {
		if int(c.Code) != i || c.Code.String() != c.Name || !strings.HasSuffix(c.Meaning, ".") {
			t.Errorf("code %d is %+v", i, c)
		}
		checked := ""
		if c.Checked {
			checked = "yes"
		}
		fmt.Fprintf(&want, "| %d | `%s` | %s | %s |\n", i, c.Name, c.Meaning, checked)
	}
	if !strings.Contains(string(spec), want.String()) {
		t.Errorf("spec/registry.md does not hold the table of codes, which is:\n%s", want.String())
	}
	if registry.Code(9999).String() != "code_9999" {
		t.Error("an unknown code has no name")
	}
}

// flipS turns an envelope's ECDSA signature (r, s) into (r, -s), which also
// verifies by the standard.
func flipS(envelope []byte) []byte {
	e := bytes.Clone(envelope)
	s := new(big.Int).SetBytes(e[len(e)-32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(e[len(e)-32:])
	return e
}
