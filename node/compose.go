package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/evidence"
	"github.com/civibus/civibus/gateway"
	"github.com/civibus/civibus/internal/httpd"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/internal/tlsprofile"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/transport"
)

// openLedger starts the ledger's node, or what stands for it.
func (n *Node) openLedger(ctx context.Context) (replica, error) {
	if n.opts.LedgerRoom != nil {
		n.opts.LedgerRoom()
	}
	if n.cfg.Ledger.Mode == modeLight {
		return n.openLight(ctx)
	}
	c := ledger.Config{
		Dir: filepath.Join(n.cfg.DataDir, "ledger"), Genesis: n.genesis,
		ListenAddress: n.cfg.Ledger.Listen, Peers: n.cfg.Ledger.Peers,
		TimeoutCommit: time.Duration(n.cfg.Ledger.BlockPause), HeartbeatInterval: time.Duration(n.cfg.Ledger.Heartbeat),
		SnapshotInterval: uint64(max(n.cfg.Ledger.SnapshotInterval, 0)), RetainBlocks: n.cfg.Ledger.RetainBlocks, HaltHeight: n.cfg.Ledger.HaltHeight,
		Clock: n.clock, Logger: n.log.With("room", "ledger"), Metrics: n.metrics,
	}
	if n.opts.RetainBlocks != 0 {
		c.RetainBlocks, c.FewBlocks = n.opts.RetainBlocks, true
	}
	var err error
	if c.NodeKey, err = nodeKey(n.ring, n.clock()); err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	if n.cfg.Ledger.Mode == "validator" {
		c.ValidatorKeys = n.validatorKeys()
		if len(c.ValidatorKeys()) == 0 {
			return nil, fmt.Errorf("open the ledger: there is no validator key in %s; make one with \"civibus key new validator\", or set ledger.mode = \"follower\"", n.cfg.Keys.Dir)
		}
		if len(n.ring.All(civibus.WitnessKey)) == 0 {
			return nil, fmt.Errorf("open the ledger: there is no witness key in %s; a validator cosigns registry checkpoints: make one with \"civibus register key add witness\"", n.cfg.Keys.Dir)
		}
		c.Witness = ringSigner{n, civibus.WitnessKey}
		c.SecondWitness = func() civibus.Signer { return n.second(civibus.WitnessKey) }
	}
	source, err := n.snapshotSource(ctx, c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	if source != nil {
		defer source.Close()
		c.StateProvider = source
	}
	led, err := ledger.Open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	return led, nil
}

// ringSigner signs with the newest key of a purpose that is in force now; before
// there is a view, with the oldest, which is the genesis's.
type ringSigner struct {
	n       *Node
	purpose civibus.Purpose
}

// Current returns the signer of the key in force now.
func (s ringSigner) Current() civibus.Signer {
	if v := s.n.view(); v != nil {
		if k, err := s.n.ring.For(s.purpose, transport.InForce(v, s.n.member, s.purpose)); err == nil {
			return k
		}
	}
	return s.n.ring.All(s.purpose)[0]
}

// Key describes the key that signs now.
func (s ringSigner) Key() civibus.PublicKey { return s.Current().Key() }

// Sign signs with it.
func (s ringSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return s.Current().Sign(ctx, message)
}

// inForce asks the newest view whether one of the body's keys is in force.
func (n *Node) inForce(p civibus.Purpose) func(civibus.KeyID) bool {
	v := n.view()
	if v == nil {
		return func(civibus.KeyID) bool { return false }
	}
	return transport.InForce(v, n.member, p)
}

// compose opens what an exchange needs.
func (n *Node) compose(ctx context.Context, closers *closers) (*rooms, error) {
	r := &rooms{}
	view := func() transport.View { return n.view() }
	certificate := func() (*tls.Certificate, error) { return n.ring.TLS(n.inForce(civibus.TransportKey)) }

	// Evidence: each checkpoint is signed with the log key in force at the time.
	if _, err := n.ring.For(civibus.LogKey, n.inForce(civibus.LogKey)); err != nil {
		return nil, err
	}
	if err := n.checkHistory(n.view()); err != nil {
		return nil, err
	}
	var err error
	r.evidence, err = evidence.Open(ctx, evidence.Config{
		Dir: n.cfg.evidenceDir(), Origin: n.origin(), Signer: ringSigner{n, civibus.LogKey},
		Second: func() civibus.Signer { return n.second(civibus.LogKey) }, Clock: n.clock, Logger: n.log.With("room", "evidence"),
		BatchAge: time.Duration(n.cfg.Evidence.BatchAge), CheckpointInterval: time.Duration(n.cfg.Evidence.CheckpointInterval),
		ReserveBytes: uint64(n.cfg.Evidence.Reserve), Archive: evidence.ArchivePolicy(n.cfg.Evidence.Archive), ArchiveKey: n.cfg.Evidence.ArchiveKey,
		BodyRetention: time.Duration(n.cfg.Evidence.BodyRetention), RecordRetention: time.Duration(n.cfg.Evidence.RecordRetention),
	})
	if err != nil {
		return nil, fmt.Errorf("open the evidence log: %w", err)
	}
	closers.add("evidence log", r.evidence.Close)
	if err := n.checkEntries(n.view(), r.evidence); err != nil {
		return nil, err
	}

	// Seals: the journal against replays.
	r.replay, err = seal.OpenReplayJournal(seal.ReplayConfig{
		Dir: filepath.Join(n.cfg.DataDir, "replay"), MaxAge: time.Duration(n.cfg.Seal.MaxAge), MaxSkew: time.Duration(n.cfg.Seal.MaxSkew), Now: n.clock,
	})
	if err != nil {
		return nil, fmt.Errorf("open the replay journal: %w", err)
	}
	closers.add("replay journal", func(context.Context) error { return r.replay.Close() })

	// Transport, or the host's.
	if n.host != nil {
		r.transport = n.host.current.Load().transport
	} else if r.transport, err = transport.NewClient(transport.ClientConfig{
		View: view, Certificate: certificate, Clock: n.clock, AnswerTimeout: time.Duration(n.cfg.Consumer.Timeout),
		Dial: n.opts.Dial, Logger: n.log.With("room", "transport"), Metrics: n.metrics,
	}); err != nil {
		return nil, err
	} else {
		closers.add("transport", func(context.Context) error { r.transport.Close(); return nil })
	}

	// Processes, whose facts come through a service.
	if err := n.openProcess(closers); err != nil {
		return nil, err
	}

	// Usage records, for which portals ask through a service.
	if err := n.openUsage(r, closers); err != nil {
		return nil, err
	}

	// Requests for evidence, which come through a service too.
	if err := n.openOnce(closers); err != nil {
		return nil, err
	}

	// Services.
	if r.services, err = n.openServices(r, closers); err != nil {
		return nil, err
	}

	// Gateway.
	gc, err := n.gatewayConfig(r)
	if err != nil {
		return nil, err
	}
	up := &upstreams{Set: r.services}
	gc.Upstreams = up
	if r.gateway, err = gateway.New(gc); err != nil {
		return nil, err
	}

	// Messages.
	if n.host != nil || n.cfg.Events.Off {
		return r, nil
	}
	if r.events, err = n.openEvents(r); err != nil {
		return nil, err
	}
	up.events = r.events
	closers.add("messages", func(context.Context) error { return r.events.Close() })
	return r, nil
}

func (n *Node) gatewayConfig(r *rooms) (gateway.Config, error) {
	rules, err := clientRules(n.member, n.cfg.Consumer.Clients)
	if err != nil {
		return gateway.Config{}, err
	}
	c := gateway.Config{
		Member: n.member, Carrier: n.carrier(),
		View:  func() gateway.View { return n.view() },
		Fresh: n.fresh,
		Signer: func(v gateway.View) (civibus.Signer, error) {
			return n.sealSigner(transport.InForce(v, n.member, civibus.SealKey))
		},
		SecondSeals: n.needSecond,
		Evidence:    newChained(n, r.evidence), Usage: r.keeper, Archive: evidence.ArchivePolicy(n.cfg.Evidence.Archive), Transport: r.transport, Upstreams: r.services, Replay: r.replay,
		MaxAge: time.Duration(n.cfg.Seal.MaxAge), MaxSkew: time.Duration(n.cfg.Seal.MaxSkew), BufferLimit: int64(n.cfg.Provider.BufferLimit),
		Clients: rules, ClientsByRule: n.host != nil, CorrectStatuses: n.cfg.Consumer.CorrectStatuses, AskProvider: n.cfg.Consumer.AskProvider,
		Maintenance: func() string { return n.cfg.Provider.Maintenance },
		Clock:       n.clock, Logger: n.log.With("room", "gateway"), Metrics: n.metrics,
	}
	switch n.cfg.Consumer.PlainHTTP {
	case "loopback":
		c.PlainHTTP = gateway.PlainLoopback
	case "anywhere":
		c.PlainHTTP = gateway.PlainAnywhere
	}
	c.Vocabulary = problem.Camel
	if n.cfg.Consumer.ErrorVocabulary == "7.8" {
		c.Vocabulary = problem.Snake
	}
	return c, nil
}

func clientRules(member civibus.MemberID, clients []ClientConfig) ([]gateway.ClientRule, error) {
	var out []gateway.ClientRule
	for _, c := range clients {
		r := gateway.ClientRule{Client: civibus.ClientID{MemberID: member}}
		if c.Subsystem != "" {
			part, err := civibus.DecodePart(c.Subsystem)
			if err != nil {
				return nil, fmt.Errorf("client rule for %q: %w", c.Subsystem, err)
			}
			r.Client.Subsystem = part
		}
		for _, p := range c.Networks {
			prefix, err := netip.ParsePrefix(p)
			if err != nil {
				return nil, fmt.Errorf("client rule for %q: %w", c.Subsystem, err)
			}
			r.Networks = append(r.Networks, prefix)
		}
		for _, f := range c.Certificates {
			cert, err := readCertificate(f)
			if err != nil {
				return nil, fmt.Errorf("client rule for %q: %w", c.Subsystem, err)
			}
			r.Certificates = append(r.Certificates, gateway.Fingerprint(cert))
		}
		out = append(out, r)
	}
	return out, nil
}

func readCertificate(file string) (*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no PEM certificate in it", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cert, nil
}

// serveFaces opens the consumer and the provider face.
func (n *Node) serveFaces(run context.Context, l listeners, r *rooms, closers *closers, group *errgroup.Group) error {
	options := httpd.Options{Logger: n.log.With("room", "consumer")}
	if n.cfg.Consumer.TLSCertificate != "" {
		cert, err := tlsprofile.LoadPair(n.cfg.Consumer.TLSCertificate, n.cfg.Consumer.TLSKey)
		if err != nil {
			return fmt.Errorf("consumer face: %w", err)
		}
		options.TLS = httpd.CertificateTLS(cert)
	}
	consumer := httpd.New(withEvents(r, n.consumerFace(r)), options)
	peers := n.peerHandler(run, r)
	if n.opts.Hop != nil {
		peers = n.opts.Hop(peers)
	}
	provider, err := transport.NewServer(transport.ServerConfig{
		View:        func() transport.View { return n.view() },
		Certificate: func() (*tls.Certificate, error) { return n.ring.TLS(n.inForce(civibus.TransportKey)) },
		Handler:     peers, Logger: n.log.With("room", "transport"), Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	closers.faces("provider face", provider.Shutdown)
	closers.faces("consumer face", consumer.Shutdown)
	group.Go(func() error { return consumer.Serve(l.consumer) })
	group.Go(func() error { return provider.Serve(l.provider) })
	return nil
}

// serveAdmin opens the administration socket.
func (n *Node) serveAdmin(closers *closers, group *errgroup.Group) error {
	path := n.cfg.Admin.Socket
	// A socket file that nobody answers is left from a node that was killed.
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("administration socket %s: another node answers there; end it first", path)
	}
	if err := removeSocket(path); err != nil {
		return fmt.Errorf("administration socket: %w", err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return fmt.Errorf("administration socket: %w", err)
	}
	srv := httpd.New(admin.NewServer(backend{n}, n.log.With("room", "admin")), httpd.Options{Logger: n.log.With("room", "admin")})
	stop := func(ctx context.Context) error {
		// Requests that wait for a receipt have no reason to hold the stop up.
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			return srv.Close()
		}
		return nil
	}
	closers.add("administration", stop)
	closers.faces("administration", stop)
	group.Go(func() error { return srv.Serve(l) })
	return nil
}

// removeSocket removes a socket that is left over, and nothing else: a path that
// is mistaken for another must not cost a file.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and is no socket; set another path or move it away", path)
	}
	return os.Remove(path)
}

// listenPrivate listens on a Unix socket that its owner alone may open. The
// socket is made in a folder of mode 0700 and moved, so that there is no moment
// at which it is open to others.
func listenPrivate(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	temporary := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(temporary, 0o600), os.Rename(temporary, path))
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &privateListener{l, path}, nil
}

// privateListener removes its socket when it closes.
type privateListener struct {
	*net.UnixListener
	path string
}

// Close stops listening.
func (l *privateListener) Close() error {
	err := l.UnixListener.Close()
	if rm := os.Remove(l.path); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
