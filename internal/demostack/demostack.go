// Package demostack holds three systems of public bodies that know nothing of
// Civibus: a population register with a REST/JSON interface, a business register
// with a SOAP 1.1 interface, and a permit system that reads and writes files in
// a directory. The demo and tests put them behind gateways as an integration
// engineer would put real ones.
//
// All persons, companies and permits in them are invented, and are marked so:
// names end in "(fictitious)" or are of the kind "Example Person 0001", and codes
// start with FIC.
//
// Trust: nothing here is for production; the stacks listen on loopback only.
package demostack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Server is a running HTTP stack.
type Server struct {
	URL  string // base URL without a slash at the end
	http *http.Server
	done chan error
}

// start serves a handler on a loopback address ("127.0.0.1:0" for a free port)
// until ctx ends or Close.
func start(ctx context.Context, address string, handler func(base string) http.Handler) (*Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("start demo stack: %w", err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = listener.Close()
		return nil, fmt.Errorf("start demo stack on %s: the rule is a loopback address", address)
	}
	s := &Server{URL: "http://" + listener.Addr().String(), done: make(chan error, 1)}
	s.http = &http.Server{
		Handler:           http.MaxBytesHandler(handler(s.URL), 1<<20),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       60 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	go func() {
		err := s.http.Serve(listener)
		stop()
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.done <- err
	}()
	return s, nil
}

// Close stops the stack after the requests under way, for 5 s at most.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if served := <-s.done; err == nil {
		err = served
	}
	return err
}
