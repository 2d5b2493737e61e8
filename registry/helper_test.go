package registry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/mldsa"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// testSigner holds a private key in memory.
type testSigner struct {
	public civibus.PublicKey
	ed     ed25519.PrivateKey
	ec     *ecdsa.PrivateKey
	pq     *mldsa.PrivateKey
}

func (s *testSigner) Key() civibus.PublicKey { return s.public }

func (s *testSigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	if s.ed != nil {
		return ed25519.Sign(s.ed, message), nil
	}
	if s.pq != nil {
		return s.pq.Sign(message)
	}
	sum := sha256.Sum256(message)
	r, t, err := ecdsa.Sign(rand.Reader, s.ec, sum[:])
	if err != nil {
		return nil, err
	}
	b := make([]byte, 64)
	r.FillBytes(b[:32])
	t.FillBytes(b[32:])
	return b, nil
}

// edKey makes the same Ed25519 key for the same name, every time.
func edKey(name string) *testSigner {
	seed := sha256.Sum256([]byte(name))
	s := &testSigner{ed: ed25519.NewKeyFromSeed(seed[:])}
	s.public = must(civibus.NewPublicKey(s.ed.Public()))
	return s
}

// ecKey makes the same P-256 key for the same name, every time.
func ecKey(name string) *testSigner {
	seed := sha256.Sum256([]byte(name))
	s := &testSigner{ec: must(ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:]))}
	s.public = must(civibus.NewPublicKey(s.ec.Public()))
	return s
}

// pqKey makes the same ML-DSA key for the same name, every time.
func pqKey(name string, algorithm civibus.Algorithm) *testSigner {
	seed := sha256.Sum256([]byte(name))
	s := &testSigner{pq: must(mldsa.NewPrivateKey(algorithm, seed[:]))}
	s.public = must(civibus.NewPublicKey(s.pq.Public()))
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// certificate makes a self-signed certificate over an Ed25519 key.
func certificate(s *testSigner) []byte {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"},
		NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(2_000_000_000, 0),
	}
	return must(x509.CreateCertificate(rand.Reader, t, t, s.ed.Public(), s.ed))
}

func member(code string) civibus.MemberID {
	return civibus.MemberID{Instance: "TEST", Class: "GOV", Code: code}
}

// The founding bodies of the test instance; A is the registrar, C is under B.
const (
	idA = "TEST/GOV/A"
	idB = "TEST/GOV/B"
	idC = "TEST/GOV/C"
)

func genesisKey(s *testSigner, purpose civibus.Purpose) registry.GenesisKey {
	k := registry.GenesisKey{Purpose: purpose.String(), SPKI: base64.StdEncoding.EncodeToString(s.public.SPKI)}
	if purpose == civibus.TransportKey {
		k.Certificate = base64.StdEncoding.EncodeToString(certificate(s))
	}
	return k
}

// testGenesis is of the newest protocol, firstGenesis of protocol 0.
func testGenesis() *registry.Genesis {
	g := firstGenesis()
	g.Protocol = registry.Protocol
	return g
}

func firstGenesis() *registry.Genesis {
	g := &registry.Genesis{
		Format: registry.GenesisFormat, Instance: "TEST", ChainID: "test-1",
		Time: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), Registrars: []string{idA},
	}
	for _, code := range []string{"A", "B", "C"} {
		m := registry.GenesisMember{
			ID: member(code).String(), Name: "Body " + code,
			Gateways: []registry.GenesisGateway{{Code: "gw1", Address: "127.0.0.1:4000"}},
			Keys: []registry.GenesisKey{
				genesisKey(edKey(code+"/admin"), civibus.AdminKey), genesisKey(edKey(code+"/log"), civibus.LogKey),
				genesisKey(edKey(code+"/seal"), civibus.SealKey), genesisKey(edKey(code+"/validator"), civibus.ValidatorKey),
			},
		}
		if code == "C" {
			m.Parent = idB
		}
		g.Members = append(g.Members, m)
		g.Validators = append(g.Validators, registry.GenesisValidator{Member: m.ID, Key: m.Keys[3].SPKI, Power: 10})
	}
	return g
}

// world is a registry under test with the senders' sequences.
type world struct {
	t     testing.TB
	store registry.Store
	m     *registry.Machine
	now   time.Time
	seq   map[civibus.KeyID]uint64

	evidence []registry.Misbehaviour // in every block while it is set
	pass3    bool                    // D votes on what is passed
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOf(t, testGenesis())
}

func newWorldOf(t testing.TB, g *registry.Genesis) *world {
	t.Helper()
	w := &world{t: t, store: registry.NewMemoryStore(), now: g.Time, seq: map[civibus.KeyID]uint64{}}
	w.m = must(registry.Open(w.store))
	if _, err := w.m.Init(g); err != nil {
		t.Fatal(err)
	}
	return w
}

// block executes and commits a block.
func (w *world) block(envelopes ...[]byte) *registry.Block {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	b, err := w.m.Execute(w.m.Height()+1, w.now, envelopes, w.evidence)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.m.Commit(); err != nil {
		w.t.Fatal(err)
	}
	if w.m.AppHash() != b.AppHash {
		w.t.Fatal("the committed application hash is not the executed one")
	}
	return b
}

func (w *world) view() *registry.View { return w.m.View() }

// tx signs a transaction with the key's next sequence.
func (w *world) tx(s *testSigner, body any) []byte {
	w.t.Helper()
	w.seq[s.public.ID]++
	return w.sign(s, &registrypb.Tx{ChainId: "test-1", Sequence: w.seq[s.public.ID]}, body)
}

func (w *world) sign(s *testSigner, tx *registrypb.Tx, body any) []byte {
	w.t.Helper()
	setBody(tx, body)
	return must(registry.SignTx(context.Background(), s, tx))
}

// ok has a transaction accepted in a block of its own.
func (w *world) ok(s *testSigner, body any) *registry.Block {
	w.t.Helper()
	b := w.block(w.tx(s, body))
	if b.Results[0].Code != registry.OK {
		w.t.Fatalf("%T: %s: %s", body, b.Results[0].Code, b.Results[0].Reason)
	}
	return b
}

// refused has a transaction refused with a code, and nothing changed by it.
func (w *world) refused(code registry.Code, s *testSigner, body any) {
	w.t.Helper()
	w.refusedEnvelope(code, w.tx(s, body))
}

func (w *world) refusedEnvelope(code registry.Code, envelope []byte) {
	w.t.Helper()
	before := w.m.AppHash()
	b := w.block(envelope)
	if b.Results[0].Code != code {
		w.t.Errorf("got %s (%s), want %s", b.Results[0].Code, b.Results[0].Reason, code)
	}
	if code != registry.OK && (b.AppHash != before || len(b.Events) != 0) {
		w.t.Errorf("%s: a refused transaction changed the state", code)
	}
	if code != registry.OK && b.Results[0].Reason == "" {
		w.t.Errorf("%s: no reason is given", code)
	}
}

// setBody puts a message where transactions have one of its kind.
func setBody(tx *registrypb.Tx, body any) {
	m, kind := tx.ProtoReflect(), body.(proto.Message).ProtoReflect()
	fields := m.Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		if fields.Get(i).Message().FullName() == kind.Descriptor().FullName() {
			m.Set(fields.Get(i), protoreflect.ValueOfMessage(kind))
			return
		}
	}
	panic(fmt.Sprintf("no transaction has a %T", body))
}

// addKey makes an AddKey with proof of possession.
func addKey(s *testSigner, owner string, purpose civibus.Purpose) *registrypb.AddKey {
	id := must(civibus.ParseMemberID(owner))
	m := &registrypb.AddKey{
		Member: owner, Purpose: registrypb.Purpose(purpose), Spki: s.public.SPKI,
		Possession: must(registry.ProvePossession(context.Background(), s, "test-1", id, purpose)),
	}
	if purpose == civibus.TransportKey {
		m.Certificate = certificate(s)
	}
	return m
}

func setMember(id, name, parent string) *registrypb.SetMember {
	return &registrypb.SetMember{Id: id, Name: name, Parent: parent}
}

func setService(id string) *registrypb.SetService {
	return &registrypb.SetService{Id: id, Type: registrypb.ServiceType_SERVICE_TYPE_REST, Title: "Service"}
}

// grant is a right of a client to a service.
func grant(service, client string) *registrypb.GrantRight {
	return &registrypb.GrantRight{
		Service: service, Subject: &registrypb.GrantRight_Client{Client: client}, Purpose: "test", LegalBasis: "Test Act § 1",
	}
}

func groupGrant(service, group string) *registrypb.GrantRight {
	g := grant(service, "")
	g.Subject = &registrypb.GrantRight_Group{Group: group}
	return g
}

// rightID is the id of the right that an envelope grants.
func rightID(envelope []byte) string {
	h := registry.TxHash(envelope)
	return fmt.Sprintf("%x", h[:16])
}

// checkpointNote signs a checkpoint of any log.
func checkpointNote(s *testSigner, origin string, size uint64, root [32]byte, extra string) []byte {
	text := fmt.Sprintf("%s\n%d\n%s\n%s", origin, size, base64.StdEncoding.EncodeToString(root[:]), extra)
	h := sha256.Sum256(append([]byte(origin+"\n\x01"), s.ed.Public().(ed25519.PublicKey)...))
	sig := append(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(h[:])), ed25519.Sign(s.ed, []byte(text))...)
	return fmt.Appendf(nil, "%s\n— %s %s\n", text, origin, base64.StdEncoding.EncodeToString(sig))
}
