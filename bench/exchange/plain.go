package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/transport"
)

// plainView is a registry view of one body and one key, enough for the hop.
type plainView struct {
	key     civibus.RegisteredKey
	gateway string
}

var (
	plainMember  = civibus.MemberID{Instance: "BENCH", Class: "GOV", Code: "1"}
	plainService = civibus.ServiceID{ClientID: civibus.ClientID{MemberID: plainMember, Subsystem: "bench"}, Service: "plain"}
)

func (v plainView) Height() uint64 { return 1 }

func (v plainView) Key(id civibus.KeyID) (civibus.RegisteredKey, bool) { return v.key, id == v.key.ID }

func (v plainView) Member(id civibus.MemberID) (civibus.Member, bool) {
	return civibus.Member{
		ID: plainMember, Status: civibus.Active, Periods: []civibus.Period{{From: 1}},
		Gateways: []civibus.Gateway{{Code: "gw", Address: v.gateway}},
	}, id == plainMember
}

func (v plainView) Carrier(member civibus.MemberID) civibus.MemberID { return member }

// startPlain is our own two hops with seal and evidence off: the same
// transport and the same upstream client, and nothing else.
func startPlain(ctx context.Context, b *bench) (*variant, error) {
	dir := filepath.Join(b.dir, "plain")
	if err := writeCertificates(dir); err != nil {
		return nil, err
	}
	v := &variant{name: "plain"}
	next := b.upstream
	for _, role := range []string{"provider", "consumer"} {
		p, err := start(ctx, b.log, b.self, "plain", role, dir, next)
		if err != nil {
			v.stop()
			return nil, err
		}
		v.hops = append(v.hops, p)
		if next, err = p.line(); err != nil {
			v.stop()
			return nil, err
		}
	}
	v.call = call{address: next, target: "/r1/bench", body: payload("question")}
	return v, nil
}

// runPlainHop is one hop's process: role, folder of the certificates, address
// of what comes next.
func runPlainHop(args []string) error {
	if len(args) != 3 {
		return errors.New("plain: the rule is ROLE DIR NEXT")
	}
	role, dir, next := args[0], args[1], args[2]
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return err
	}
	public, err := civibus.NewPublicKey(leaf.PublicKey)
	if err != nil {
		return err
	}
	view := plainView{gateway: next, key: civibus.RegisteredKey{
		PublicKey: public, Member: plainMember, Purpose: civibus.TransportKey, Certificate: leaf.Raw, Activate: 1,
	}}
	hop := plainHop{
		view:        func() transport.View { return view },
		certificate: func() (*tls.Certificate, error) { return &certificate, nil },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	if role == "provider" {
		return hop.provide(listener, next)
	}
	return hop.consume(listener)
}

type plainHop struct {
	view        func() transport.View
	certificate func() (*tls.Certificate, error)
}

func (h plainHop) provide(listener net.Listener, upstream string) error {
	set, err := service.NewSet([]service.Upstream{{Service: plainService, URL: "http://" + upstream}}, service.Config{})
	if err != nil {
		return err
	}
	defer set.Close()
	server, err := transport.NewServer(transport.ServerConfig{View: h.view, Certificate: h.certificate, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := set.Call(r.Context(), plainService, r.Method, "", r.URL.RawQuery, r.Header, r.Body, r.ContentLength)
		relay(w, answer, err)
	})})
	if err != nil {
		return err
	}
	closeWithInput(server)
	return server.Serve(listener)
}

func (h plainHop) consume(listener net.Listener) error {
	client, err := transport.NewClient(transport.ClientConfig{View: h.view, Certificate: h.certificate})
	if err != nil {
		return err
	}
	defer client.Close()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, _, err := client.Do(r.Context(), plainMember, "", func(ctx context.Context, _ transport.Peer) (*http.Request, error) {
			out, err := http.NewRequestWithContext(ctx, r.Method, "/", r.Body)
			if err == nil {
				out.URL, out.Header, out.ContentLength = r.URL, service.EndToEnd(r.Header), r.ContentLength
			}
			return out, err
		})
		relay(w, answer, err)
	})}
	closeWithInput(server)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// closeWithInput ends the hop when the benchmark closes its input.
func closeWithInput(server io.Closer) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Close()
	}()
}

func relay(w http.ResponseWriter, answer *http.Response, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	for name, values := range service.EndToEnd(answer.Header) {
		w.Header()[name] = values
	}
	if answer.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(answer.ContentLength))
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}
