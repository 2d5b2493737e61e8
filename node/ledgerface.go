package node

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/transport"
)

// What one member may ask of this body's ledger node (ledger.FacePath). A light
// gateway asks about three times for each block; one that catches up takes what
// the byte rate gives.
const (
	faceRate        = 100 // questions a second
	faceBurst       = 400
	faceBytes       = 16 << 20 // a second
	faceBytesBurst  = 64 << 20
	faceSubmits     = 50 // envelopes a second
	faceSubmitBurst = 200
	facePolls       = 16 // under way, which wait for a block
	faceAllPolls    = 4096
	faceAllAnswers  = 16 // under way, of all members, which hold an answer in memory
)

// ledgerFace answers other bodies' questions about the ledger, within limits for
// each member.
type ledgerFace struct {
	n       *Node
	stop    context.Context // ends the questions that wait
	answers chan struct{}

	mu      sync.Mutex
	full    http.Handler
	polls   int
	members map[civibus.MemberID]*faceShare
}

// faceShare is what one member has used.
type faceShare struct {
	asked, bytes, submitted *rate.Limiter
	polls                   int
}

func newLedgerFace(n *Node, stop context.Context) *ledgerFace {
	return &ledgerFace{n: n, stop: stop, answers: make(chan struct{}, faceAllAnswers), members: make(map[civibus.MemberID]*faceShare)}
}

// share is a member's, made when there is none. There are no more than members in
// the registry.
func (f *ledgerFace) share(m civibus.MemberID) *faceShare {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.members[m]
	if !ok {
		s = &faceShare{
			asked: rate.NewLimiter(faceRate, faceBurst), bytes: rate.NewLimiter(faceBytes, faceBytesBurst),
			submitted: rate.NewLimiter(faceSubmits, faceSubmitBurst),
		}
		f.members[m] = s
	}
	return s
}

// handler answers for the own ledger node; nil where there is none.
func (f *ledgerFace) handler() http.Handler {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.n.ledger.fullNode(); f.full == nil && n != nil {
		f.full = n.Face()
	}
	return f.full
}

// ServeHTTP answers, or says that it is too much.
func (f *ledgerFace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// 1. Who asks, and whom.
	peer, ok := transport.PeerFrom(r.Context())
	if !ok {
		http.Error(w, "who asks is not known", http.StatusForbidden)
		return
	}
	handler := f.handler()
	if handler == nil {
		http.Error(w, "this gateway runs no ledger node", http.StatusNotImplemented)
		return
	}
	// 2. Within the member's share.
	s, now := f.share(peer.Member), f.n.clock()
	submit := strings.HasSuffix(r.URL.Path, "/submit")
	if !s.asked.AllowN(now, 1) || s.bytes.TokensAt(now) < 1 || submit && !s.submitted.AllowN(now, 1) {
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close") // a body is not read
		http.Error(w, "too many questions; ask again later", http.StatusTooManyRequests)
		return
	}
	// 3. Within what this node has time and memory for.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(f.stop, cancel)()
	leave, ok := f.enter(ctx, s, strings.HasPrefix(r.URL.Path, ledger.FacePath+"light/"))
	if !ok {
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close")
		http.Error(w, "too many questions at once; ask again later", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	counted := &countedWriter{ResponseWriter: w}
	handler.ServeHTTP(counted, r.WithContext(ctx))
	s.bytes.ReserveN(f.n.clock(), min(counted.bytes, faceBytesBurst))
}

// enter takes a place for a question: one that waits for a block holds no memory.
func (f *ledgerFace) enter(ctx context.Context, s *faceShare, waits bool) (leave func(), ok bool) {
	if !waits {
		select {
		case f.answers <- struct{}{}:
			return func() { <-f.answers }, true
		case <-ctx.Done():
			return nil, false
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.polls >= facePolls || f.polls >= faceAllPolls {
		return nil, false
	}
	s.polls++
	f.polls++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		s.polls--
		f.polls--
	}, true
}

// countedWriter counts the bytes of an answer.
type countedWriter struct {
	http.ResponseWriter
	bytes int
}

// Write passes on and counts.
func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += n
	return n, err
}
