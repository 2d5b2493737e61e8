package light_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/ledger/light"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

const chainID = "test-1"

// body is one public body with a validator.
type body struct {
	member      civibus.MemberID
	admin, log  *keys.Key
	validator   *keys.Key
	nodeKey     ed25519.PrivateKey
	id          string
	sequence    atomic.Uint64
	logSequence atomic.Uint64
}

// network is validators in this process with faces that anybody may ask.
type network struct {
	t       testing.TB
	dir     string
	bodies  []*body
	genesis *registry.Genesis
	nodes   []*ledger.Node
	listen  []string
	faces   []*face
}

// face is a full node's face, behind which a test may lie.
type face struct {
	*httptest.Server
	node func() *ledger.Node
	lie  atomic.Pointer[func(w http.ResponseWriter, r *http.Request, honest http.Handler)]
	asks atomic.Int64
}

func (f *face) address() string { return f.Listener.Addr().String() }

// tell sets the lie; nil: the truth.
func (f *face) tell(lie func(w http.ResponseWriter, r *http.Request, honest http.Handler)) {
	if lie == nil {
		f.lie.Store(nil)
		return
	}
	f.lie.Store(&lie)
}

func newFace(t testing.TB, node func() *ledger.Node) *face {
	f := &face{node: node}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asks.Add(1)
		n := f.node()
		if n == nil {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if lie := f.lie.Load(); lie != nil {
			(*lie)(w, r, n.Face())
			return
		}
		n.Face().ServeHTTP(w, r)
	}))
	f.Server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	f.Server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	f.StartTLS()
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

// newNetwork starts n validators.
func newNetwork(t testing.TB, n int, change func(i int, cfg *ledger.Config)) *network {
	t.Helper()
	w := &network{t: t, dir: t.TempDir()}
	w.genesis = &registry.Genesis{
		Format: registry.GenesisFormat, Instance: "TEST", ChainID: chainID, Time: time.Now().UTC().Truncate(time.Second), Protocol: registry.Protocol,
		Registrars: []string{"TEST/GOV/BODY0"},
	}
	for i := range n {
		w.makeBody(i, 10)
	}
	w.nodes, w.listen = make([]*ledger.Node, n), make([]string, n)
	for i := range n {
		cfg := ledger.Config{
			Dir: filepath.Join(w.dir, fmt.Sprint("body", i)), Genesis: w.genesis, ValidatorKeys: votesWith(t, w.bodies[i].validator), NodeKey: w.bodies[i].nodeKey,
			TimeoutCommit: 10 * time.Millisecond, HeartbeatInterval: 300 * time.Millisecond, WatchInterval: 50 * time.Millisecond, ListenAddress: "127.0.0.1:0", Logger: testLogger(),
		}
		for j, b := range w.bodies {
			if j < i {
				cfg.Peers = append(cfg.Peers, b.id+"@"+w.listen[j])
			} else if j > i {
				cfg.Peers = append(cfg.Peers, b.id)
			}
		}
		if change != nil {
			change(i, &cfg)
		}
		node, err := ledger.Open(context.Background(), cfg)
		check(t, err)
		w.nodes[i], w.listen[i] = node, node.ListenAddress()
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			check(t, node.Close(ctx))
		})
		w.faces = append(w.faces, newFace(t, func() *ledger.Node { return node }))
	}
	return w
}

func newKey(t testing.TB, purpose civibus.Purpose) *keys.Key {
	t.Helper()
	k, err := keys.Generate(purpose, civibus.Ed25519)
	check(t, err)
	return k
}

func nodeKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	private, err := newKey(t, keys.NodeKey).Ed25519()
	check(t, err)
	return private
}

// votesWith hands a validator key to a node.
func votesWith(t testing.TB, k *keys.Key) func() []ledger.ValidatorKey {
	t.Helper()
	private, err := k.Ed25519()
	check(t, err)
	key, err := ledger.NewValidatorKey(private)
	check(t, err)
	return func() []ledger.ValidatorKey { return []ledger.ValidatorKey{key} }
}

// makeBody makes a body and puts it into the genesis, with a validator of some power.
func (w *network) makeBody(i int, power int64) *body {
	w.t.Helper()
	b := &body{member: civibus.MemberID{Instance: "TEST", Class: "GOV", Code: fmt.Sprint("BODY", i)}}
	b.validator, b.nodeKey = newKey(w.t, civibus.ValidatorKey), nodeKey(w.t)
	b.id = ledger.NodeID(b.nodeKey.Public().(ed25519.PublicKey))
	gm := registry.GenesisMember{ID: b.member.String(), Name: b.member.Code}
	for purpose, to := range map[civibus.Purpose]**keys.Key{civibus.AdminKey: &b.admin, civibus.LogKey: &b.log} {
		k, err := keys.Generate(purpose, civibus.Ed25519)
		check(w.t, err)
		*to = k
		gm.Keys = append(gm.Keys, registry.GenesisKey{Purpose: purpose.String(), SPKI: base64.StdEncoding.EncodeToString(k.Key().SPKI)})
	}
	spki := base64.StdEncoding.EncodeToString(b.validator.Key().SPKI)
	gm.Keys = append(gm.Keys, registry.GenesisKey{Purpose: civibus.ValidatorKey.String(), SPKI: spki})
	w.genesis.Members = append(w.genesis.Members, gm)
	w.genesis.Validators = append(w.genesis.Validators, registry.GenesisValidator{Member: gm.ID, Key: spki, Power: power})
	w.bodies = append(w.bodies, b)
	return b
}

// note signs a transaction that records a digest.
func (b *body) note(t testing.TB, text string) []byte {
	digest := sha256.Sum256([]byte(text))
	return b.sign(t, b.log, &b.logSequence, &registrypb.Tx{Body: &registrypb.Tx_Notarise{Notarise: &registrypb.Notarise{Digest: digest[:]}}})
}

// subsystem signs a transaction that makes or renames a subsystem.
func (b *body) subsystem(t testing.TB, code string) []byte {
	id := civibus.ClientID{MemberID: b.member, Subsystem: code}.String()
	return b.sign(t, b.admin, &b.sequence, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: code}}})
}

func (b *body) sign(t testing.TB, key *keys.Key, sequence *atomic.Uint64, tx *registrypb.Tx) []byte {
	t.Helper()
	tx.ChainId, tx.Sequence = chainID, sequence.Add(1)
	envelope, err := registry.SignTx(context.Background(), key, tx)
	check(t, err)
	return envelope
}

// commit has a full node commit an envelope.
func (w *network) commit(i int, envelope []byte) uint64 {
	w.t.Helper()
	c, err := w.nodes[i].Submit(within(w.t), envelope)
	check(w.t, err)
	if c.Code != 0 {
		w.t.Fatalf("refused: %s %s", c.Code, c.Reason)
	}
	return c.Height
}

// config is a light client's with some full nodes.
func (w *network) config(faces ...*face) light.Config {
	cfg := light.Config{
		Dir: filepath.Join(w.dir, "light"), Genesis: w.genesis, Certificate: certificate(w.t), Logger: testLogger(),
		Poll: time.Second, AnswerTimeout: 2 * time.Second, Heartbeat: 300 * time.Millisecond, StaleAfter: 5 * time.Second,
	}
	for _, f := range faces {
		cfg.FullNodes = append(cfg.FullNodes, f.address())
	}
	return cfg
}

// open starts a light client that closes with the test.
func open(t testing.TB, cfg light.Config) *light.Client {
	t.Helper()
	c, err := light.Open(context.Background(), cfg)
	check(t, err)
	t.Cleanup(func() { check(t, c.Close(context.Background())) })
	return c
}

// reaches waits until a light client has a height and compares its view with a full
// node's.
func (w *network) reaches(c *light.Client, height uint64) {
	w.t.Helper()
	if err := c.WaitView(within(w.t), func(v *registry.View) bool { return v.Height() >= height }); err != nil {
		w.t.Fatalf("%v: at height %d, want %d: %v", err, heightOf(c), height, c.Status().Problems)
	}
	w.same(c)
}

// same compares a light client's view with the full node's at its height.
func (w *network) same(c *light.Client) {
	w.t.Helper()
	v := c.View()
	n := w.nodes[0]
	check(w.t, n.WaitView(within(w.t), func(f *registry.View) bool { return f.Height() > v.Height() }))
	want, err := n.AgreedHash(v.Height())
	check(w.t, err)
	if v.AppHash() != want {
		w.t.Fatalf("the light client has %x at height %d, full nodes agreed on %x", v.AppHash(), v.Height(), want)
	}
}

func heightOf(c *light.Client) uint64 {
	if v := c.View(); v != nil {
		return v.Height()
	}
	return 0
}

// certificate makes a client certificate.
func certificate(t testing.TB) func() (*tls.Certificate, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	return func() (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until what becomes true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		if done() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testLogger() *slog.Logger {
	if os.Getenv("CIVIBUS_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// pemPair is a client certificate and its key, as files hold them.
func pemPair(t testing.TB) (cert, key []byte) {
	t.Helper()
	c, err := certificate(t)()
	check(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
