package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// signer is a body's admin key.
type signer struct {
	private ed25519.PrivateKey
	public  civibus.PublicKey
}

func (s *signer) Key() civibus.PublicKey { return s.public }

func (s *signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.private, message), nil
}

func newSigner(purpose string, i int) *signer {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s %d", purpose, i))
	s := &signer{private: ed25519.NewKeyFromSeed(seed[:])}
	s.public, _ = civibus.NewPublicKey(s.private.Public()) // an Ed25519 key is always one
	return s
}

func memberID(i int) civibus.MemberID {
	return civibus.MemberID{Instance: "UNION", Class: "GOV", Code: fmt.Sprintf("B%04d", i)}
}

func clientID(i int) civibus.ClientID {
	return civibus.ClientID{MemberID: memberID(i), Subsystem: "CASES"}
}

func serviceID(i, service int) civibus.ServiceID {
	return civibus.ServiceID{ClientID: civibus.ClientID{MemberID: memberID(i), Subsystem: "REGISTER"}, Service: fmt.Sprintf("service%d", service)}
}

// right returns which client may call which service by the i-th right: all pairs
// differ as long as there are enough clients, which sizeOf sees to.
func (z size) right(i int) (client civibus.ClientID, service civibus.ServiceID) {
	services := z.members * servicesOf
	s, round := i%services, i/services
	provider := s / servicesOf
	return clientID((provider + 1 + round) % z.members), serviceID(provider, s%servicesOf)
}

// network is a registry with what its bodies need to write to it.
type network struct {
	m         *registry.Machine
	db        *database
	admins    []*signer
	sequences []uint64
	now       time.Time
}

func openNetwork(dir string, z size) (*network, error) {
	db, err := openDatabase(filepath.Join(dir, "registry"))
	if err != nil {
		return nil, err
	}
	n := &network{db: db, admins: make([]*signer, z.members), sequences: make([]uint64, z.members), now: start}
	for i := range n.admins {
		n.admins[i] = newSigner("admin", i)
	}
	n.m, err = registry.Open(db)
	return n, err
}

// genesis has every body with six keys, and seven validators.
func genesis(z size, admins []*signer) *registry.Genesis {
	g := &registry.Genesis{Format: registry.GenesisFormat, Instance: "UNION", ChainID: "scale", Time: start, Protocol: registry.Protocol}
	encode := func(s *signer) string { return base64.StdEncoding.EncodeToString(s.public.SPKI) }
	for i, admin := range admins {
		m := registry.GenesisMember{
			ID: memberID(i).String(), Name: fmt.Sprint("Body ", i), Gateways: []registry.GenesisGateway{{Code: "gw1", Address: fmt.Sprintf("gw.b%d.example:5500", i)}},
			Keys: []registry.GenesisKey{{Purpose: "admin", SPKI: encode(admin)}},
		}
		for _, purpose := range []string{"seal", "log", "witness", "validator"} {
			m.Keys = append(m.Keys, registry.GenesisKey{Purpose: purpose, SPKI: encode(newSigner(purpose, i))})
		}
		if i < 7 {
			g.Validators = append(g.Validators, registry.GenesisValidator{Member: m.ID, Key: m.Keys[4].SPKI, Power: 10})
		}
		g.Members = append(g.Members, m)
	}
	return g
}

func (n *network) sign(body int, tx *registrypb.Tx) ([]byte, error) {
	n.sequences[body]++
	tx.ChainId, tx.Sequence = "scale", n.sequences[body]
	return registry.SignTx(context.Background(), n.admins[body], tx)
}

func (n *network) grant(z size, i int, purpose string) ([]byte, error) {
	client, service := z.right(i)
	body := (i % (z.members * servicesOf)) / servicesOf
	return n.sign(body, &registrypb.Tx{Body: &registrypb.Tx_GrantRight{GrantRight: &registrypb.GrantRight{
		Service: service.String(), Subject: &registrypb.GrantRight_Client{Client: client.String()}, Purpose: purpose, LegalBasis: "Data Exchange Act, section 5",
	}}})
}

// block executes and commits, and returns how long that took.
func (n *network) block(envelopes [][]byte) (time.Duration, error) {
	n.now = n.now.Add(time.Second)
	begin := time.Now()
	out, err := n.m.Execute(n.m.Height()+1, n.now, envelopes, nil)
	if err != nil {
		return 0, err
	}
	if err := n.m.Commit(); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	for _, r := range out.Results {
		if r.Code != registry.OK {
			return 0, fmt.Errorf("%s: %s", r.Code, r.Reason)
		}
	}
	return took, nil
}

type built struct {
	PerSecond, DiskMB float64
}

// build makes the network of a size on disk.
func build(dir string, z size) (any, error) {
	n, err := openNetwork(dir, z)
	if err != nil {
		return nil, err
	}
	if _, err := n.m.Init(genesis(z, n.admins)); err != nil {
		return nil, err
	}
	var batch [][]byte
	var spent time.Duration
	count := 0
	add := func(e []byte, err error) error {
		if err != nil {
			return err
		}
		count++
		if batch = append(batch, e); len(batch) < 2000 {
			return nil
		}
		took, err := n.block(batch)
		spent, batch = spent+took, nil
		return err
	}
	for i := range z.members {
		subsystems := []string{clientID(i).String(), serviceID(i, 0).ClientID.String()}
		for _, id := range subsystems {
			if err := add(n.sign(i, &registrypb.Tx{Body: &registrypb.Tx_SetSubsystem{SetSubsystem: &registrypb.SetSubsystem{Id: id, Name: "System"}}})); err != nil {
				return nil, err
			}
		}
		for s := range servicesOf {
			set := &registrypb.SetService{Id: serviceID(i, s).String(), Type: registrypb.ServiceType_SERVICE_TYPE_OPENAPI3, Title: "Service", DescriptionDigest: make([]byte, 32)}
			if err := add(n.sign(i, &registrypb.Tx{Body: &registrypb.Tx_SetService{SetService: set}})); err != nil {
				return nil, err
			}
		}
	}
	for i := range z.rights {
		if err := add(n.grant(z, i, "administration")); err != nil {
			return nil, err
		}
	}
	took, err := n.block(batch)
	if err != nil {
		return nil, err
	}
	spent += took
	if err := n.db.close(); err != nil {
		return nil, err
	}
	bytes, err := diskUse(dir)
	return built{float64(count) / spent.Seconds(), float64(bytes) / 1e6}, err
}

func diskUse(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// purpose makes rights of measured blocks differ from those that are there.
func purpose(block, i int) string {
	return fmt.Sprintf("p%x", binary.BigEndian.Uint32([]byte{byte(block >> 8), byte(block), byte(i >> 8), byte(i)}))
}
