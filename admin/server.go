package admin

import (
	"context"
	_ "embed" // the description of the interface is served by it
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/rule"
)

//go:embed openapi.yaml
var openAPI []byte

const (
	maxBody      = 1 << 20
	defaultLimit = 100
	maxLimit     = 1000
	maxScan      = 20000 // items that one filtered list call looks at
	maxWait      = 60 * time.Second
)

// Backend is the node behind the interface.
type Backend interface {
	// View returns the current registry view.
	View() *registry.View
	// Status describes the node.
	Status() Status
	// Change signs tx with the body's admin key (a notarisation: with its log
	// key), submits it and waits until it is in the registry. A refusal is a
	// *Problem with the registry's result code.
	Change(ctx context.Context, tx *registrypb.Tx) (Change, error)
	// NewKey makes a key of the body, keeps it and registers it.
	NewKey(ctx context.Context, req NewKey) (Change, error)
	// Receipt builds the receipt of an exchange, waiting for what is still
	// missing until ctx ends. An entry, the index of a leaf, chooses among several
	// exchanges with one id; nil is the first. A *Problem says what is missing.
	Receipt(ctx context.Context, exchangeID string, entry *uint64, both bool) ([]byte, error)
	// BlockHash is the hash of the ledger's header at a height; a *Problem if the node
	// does not keep it.
	BlockHash(height uint64) (string, error)
	// Policy returns the policy that this node's receipts verify with.
	Policy() ([]byte, error)
	// Exchange returns what the body holds about an exchange.
	Exchange(exchangeID string) (Exchange, error)
	// Exchanges lists the newest entries of the evidence log, oldest first.
	Exchanges(ctx context.Context, limit int) ([]Entry, error)
	// Simulate says what a rule would have said of the exchanges among the newest
	// entries of the evidence log.
	Simulate(ctx context.Context, r *rule.Rule, limit int) (Simulation, error)
	// Usage finds usage records, periods and objections.
	Usage(ctx context.Context, q UsageQuery) (UsageAnswer, error)
	// CorrectUsage makes a usage record that supersedes another one.
	CorrectUsage(ctx context.Context, q UsageCorrection) error
	// Erase erases records of the evidence log, with all that is kept of them.
	Erase(ctx context.Context, q EraseRequest) (Erasure, error)
	// Erasures returns at most limit erasures from a number on.
	Erasures(from uint64, limit int) ([]Erasure, error)
	// EraseInstance erases what the body keeps of an instance of a process.
	EraseInstance(ctx context.Context, id, ground string) (Erasure, error)
	// EraseRequest erases what the body keeps of a request for evidence.
	EraseRequest(ctx context.Context, id, ground string) (Erasure, error)
	// CheckLog checks the evidence log against the registry.
	CheckLog(ctx context.Context) (Check, error)
	// Config returns the effective configuration as a file.
	Config() string
	// Hosted is the backend of a member that the node hosts; a *Problem says why
	// there is none.
	Hosted(member string) (Backend, error)
	// Backup writes the node's stores as an archive that is not encrypted.
	Backup(ctx context.Context, to io.Writer) error
}

// Server is the interface's server.
type Server struct {
	backend Backend
	log     *slog.Logger
	mux     *http.ServeMux
}

// NewServer makes the server of a node.
func NewServer(b Backend, log *slog.Logger) *Server {
	s := &Server{backend: b, log: log, mux: http.NewServeMux()}
	s.handle("GET /v1/status", s.status)
	s.handle("GET /v1/blocks/{height}", s.block)
	s.handle("GET /v1/config", s.config)
	s.handle("GET /v1/openapi.yaml", s.openapi)
	s.handle("GET /v1/backup", s.backup)
	s.handle("GET /v1/policy", s.policy)

	s.handle("GET /v1/members", s.members)
	s.handle("GET /v1/members/{id...}", s.member)
	s.handle("GET /v1/subsystems", s.subsystems)
	s.handle("GET /v1/subsystems/{id...}", s.subsystem)
	s.handle("GET /v1/services", s.services)
	s.handle("GET /v1/services/{id...}", s.service)
	s.handle("GET /v1/rights", s.rights)
	s.handle("GET /v1/rights/{id}", s.right)
	s.handle("GET /v1/rules", s.rules)
	s.handle("GET /v1/rules/{id...}", s.rule)
	s.handle("POST /v1/rules/simulate", s.simulate)
	s.handle("GET /v1/keys", s.keys)
	s.handle("GET /v1/keys/{id}", s.key)
	s.handle("POST /v1/keys", s.newKey)
	s.handle("GET /v1/groups", s.groups)
	s.handle("GET /v1/logs", s.logs)
	s.handle("POST /v1/changes", s.change)

	s.handle("GET /v1/validators", s.validators)
	s.handle("GET /v1/nodes", s.nodes)
	s.handle("GET /v1/upgrades", s.upgrades)
	s.handle("GET /v1/hostings", s.hostings)
	s.handle("GET /v1/delegations", s.delegations)
	s.handle("GET /v1/processes", s.processes)
	s.handle("GET /v1/processes/{id...}", s.processDefinition)
	s.handle("GET /v1/process-instances", s.processInstances)
	s.handle("GET /v1/process-instances/{id}", s.processInstance)
	s.handle("POST /v1/process-instances/{id}/erasure", s.eraseInstance)
	s.handle("POST /v1/evidence-requests/{id}/erasure", s.eraseRequest)
	s.handle("GET /v1/governance", s.governance)
	s.handle("GET /v1/proposals", s.proposals)
	s.handle("GET /v1/proposals/open", s.openProposals)
	s.handle("GET /v1/proposals/{id}", s.proposal)

	s.handle("GET /v1/receipts/{exchange}", s.receipt)
	s.handle("GET /v1/exchanges", s.exchanges)
	s.handle("GET /v1/exchanges/{exchange}", s.exchange)
	s.handle("GET /v1/log/check", s.checkLog)
	s.handle("POST /v1/usage", s.usage)
	s.handle("POST /v1/usage/corrections", s.correctUsage)
	s.handle("GET /v1/erasures", s.erasures)
	s.handle("POST /v1/erasures", s.erase)
	return s
}

// HostedHeader names the hosted member that a request is about, instead of the
// node's own body.
const HostedHeader = "Civibus-Hosted"

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if member := r.Header.Get(HostedHeader); member != "" {
		b, err := s.backend.Hosted(member)
		if err != nil {
			writeProblem(w, s.problem(r, err))
			return
		}
		s = NewServer(b, s.log)
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		writeProblem(w, Problemf(http.StatusNotFound, "no_such_endpoint", "%s %s is not part of the administration interface", r.Method, r.URL.Path).
			WithHint("GET /v1/openapi.yaml describes it"))
		return
	}
	s.mux.ServeHTTP(w, r)
}

type handler func(r *http.Request) (any, error)

// raw is an answer that is not JSON.
type raw struct {
	contentType string
	body        []byte
}

// stream is an answer that is written as it is made.
type stream struct {
	contentType string
	write       func(io.Writer) error
}

func (s *Server) handle(pattern string, h handler) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := h(r)
		if err != nil {
			writeProblem(w, s.problem(r, err))
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		if out, ok := answer.(stream); ok {
			w.Header().Set("Content-Type", out.contentType)
			if err := out.write(w); err != nil {
				s.log.ErrorContext(r.Context(), "an answer broke off", "endpoint", r.Pattern, "error", err)
				panic(http.ErrAbortHandler) // so that nobody takes what came for all
			}
			return
		}
		if out, ok := answer.(raw); ok {
			w.Header().Set("Content-Type", out.contentType)
			_, _ = w.Write(out.body) // the client went away: nobody to tell
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// problem turns an error into what the client is told; internals are only logged.
func (s *Server) problem(r *http.Request, err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Problemf(http.StatusGatewayTimeout, "timeout", "the node did not finish in time")
	}
	s.log.ErrorContext(r.Context(), "administration request failed", "method", r.Method, "endpoint", r.Pattern, "error", err)
	return Problemf(http.StatusInternalServerError, "internal_error", "%v", err)
}

func (s *Server) status(*http.Request) (any, error) { return s.backend.Status(), nil }

func (s *Server) block(r *http.Request) (any, error) {
	height, err := strconv.ParseUint(r.PathValue("height"), 10, 62)
	if err != nil || height == 0 {
		return nil, Problemf(http.StatusBadRequest, "invalid_parameter", "height %q: the rule is a number from 1", r.PathValue("height"))
	}
	hash, err := s.backend.BlockHash(height)
	return Block{Height: height, Hash: hash}, err
}

func (s *Server) config(*http.Request) (any, error) {
	return raw{"application/toml", []byte(s.backend.Config())}, nil
}

func (s *Server) backup(r *http.Request) (any, error) {
	return stream{"application/x-tar", func(w io.Writer) error { return s.backend.Backup(r.Context(), w) }}, nil
}

func (s *Server) openapi(*http.Request) (any, error) {
	return raw{"application/yaml", openAPI}, nil
}

func (s *Server) policy(*http.Request) (any, error) {
	p, err := s.backend.Policy()
	return raw{"text/plain; charset=utf-8", p}, err
}

// change accepts one change in the JSON form of the registry's transactions.
func (s *Server) change(r *http.Request) (any, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	tx := &registrypb.Tx{}
	if err := protojson.Unmarshal(body, tx); err != nil {
		return nil, Problemf(http.StatusBadRequest, "bad_encoding", "the body is not a change: %v", err).
			WithHint("send one object with one key such as set_member, set_service or grant_right")
	}
	if tx.Body == nil {
		return nil, Problemf(http.StatusBadRequest, "bad_encoding", "the body names no change").
			WithHint("send one object with one key such as set_member, set_service or grant_right")
	}
	if tx.ChainId != "" || len(tx.KeyId) > 0 || tx.Sequence != 0 {
		return nil, Problemf(http.StatusBadRequest, "bad_encoding", "chain_id, key_id and sequence are filled in by the node").
			WithHint("leave them out")
	}
	if tx.GetAnchorLog() != nil {
		return nil, Problemf(http.StatusBadRequest, "not_authorised", "logs are anchored by the node itself")
	}
	return s.backend.Change(r.Context(), tx)
}

func (s *Server) newKey(r *http.Request) (any, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var req NewKey
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return nil, Problemf(http.StatusBadRequest, "bad_encoding", "the body is not a key request: %v", err)
	}
	return s.backend.NewKey(r.Context(), req)
}

func (s *Server) receipt(r *http.Request) (any, error) {
	var entry *uint64
	if v := r.URL.Query().Get("entry"); v != "" {
		index, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return nil, Problemf(http.StatusBadRequest, "invalid_parameter", "entry=%q: the rule is the index of a leaf, from 0", v).
				WithHint("GET /v1/exchanges/{exchange} lists the entries of an exchange")
		}
		entry = &index
	}
	ctx, cancel, err := waiting(r)
	if err != nil {
		return nil, err
	}
	defer cancel()
	out, err := s.backend.Receipt(ctx, r.PathValue("exchange"), entry, r.URL.Query().Get("both") == "true")
	return raw{"application/vnd.civibus.receipt+json", out}, err
}

func (s *Server) exchange(r *http.Request) (any, error) {
	return s.backend.Exchange(r.PathValue("exchange"))
}

func (s *Server) exchanges(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	items, err := s.backend.Exchanges(r.Context(), limit)
	if items == nil {
		items = []Entry{}
	}
	return Page[Entry]{Items: items, Height: s.backend.View().Height()}, err
}

func (s *Server) checkLog(r *http.Request) (any, error) { return s.backend.CheckLog(r.Context()) }

// waiting bounds a request by its parameter wait; without one it does not wait.
func waiting(r *http.Request) (context.Context, context.CancelFunc, error) {
	wait := time.Duration(0)
	if v := r.URL.Query().Get("wait"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 || d > maxWait {
			return nil, nil, Problemf(http.StatusBadRequest, "invalid_parameter", "wait=%q: the rule is a duration up to %v", v, maxWait)
		}
		wait = d
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	return ctx, cancel, nil
}

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, Problemf(http.StatusRequestEntityTooLarge, "too_large", "the body could not be read: %v", err)
	}
	return body, nil
}

func limitOf(r *http.Request) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxLimit {
		return 0, Problemf(http.StatusBadRequest, "invalid_parameter", "limit=%q: the rule is 1 to %d", v, maxLimit)
	}
	return n, nil
}

// rawID returns the identifier at the end of the path, not decoded: the parts of
// identifiers are percent-encoded, so "/" separates them and nothing else.
func rawID(r *http.Request, prefix string) string {
	return strings.TrimPrefix(r.URL.EscapedPath(), prefix)
}

func notFound(kind, id string) *Problem {
	return Problemf(http.StatusNotFound, "not_found", "%s %q is not in the registry", kind, id).
		WithHint("identifiers are case-sensitive; \"civibus register %s list\" shows what there is", kind)
}

func badID(err error) *Problem {
	return Problemf(http.StatusBadRequest, "invalid_identifier", "%v", err)
}
