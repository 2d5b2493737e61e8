package light

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/cometbft/cometbft/types"

	"github.com/civibus/civibus/internal/tlsprofile"
	"github.com/civibus/civibus/ledger"
)

// Errors of a full node that are no lie.
var (
	errNotYet      = errors.New("it has no such block yet")
	errPruned      = errors.New("it does not keep that any more")
	errBusy        = errors.New("it is busy")
	errNothingNew  = errors.New("it has nothing newer")
	errUnreachable = errors.New("it cannot be reached")
	errNotFull     = errors.New("it runs no ledger node")
	errClock       = errors.New("its block is from the future by this machine's clock")
)

// Kinds of lies, the labels of civibus_light_lies_total.
const (
	lieMalformed = "malformed"     // an answer that no honest node makes
	lieFlood     = "flood"         // an answer beyond any sensible size
	lieHeader    = "forged_header" // a header that the validators did not sign
	lieBlock     = "forged_block"  // transactions that are not the block's
	lieSnapshot  = "false_snapshot"
	lieStale     = "stale" // it withholds blocks that others have
	lieFork      = "fork"  // signed, and so is another of the same height
)

// lie is what a full node said and no honest one says.
type lie struct {
	kind string
	why  error
	path string
	said []byte
}

func (l *lie) Error() string { return l.kind + ": " + l.why.Error() }

func (l *lie) Unwrap() error { return l.why }

// fullNode is one full node, as far as it is known.
type fullNode struct {
	address string
	client  *Client
	http    *http.Client

	// Guarded by pool.mu.
	configured bool
	until      time.Time // it is not asked before
	pause      time.Duration
	problem    string
	lied       bool
}

func newFullNode(c *Client, address string) *fullNode {
	conf := tlsprofile.New()
	// Nothing that it says is believed without the validators' signatures, so it
	// does not matter who it is. It must know who asks.
	conf.InsecureSkipVerify = true
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return c.cfg.Certificate()
	}
	return &fullNode{address: address, client: c, http: &http.Client{
		Transport: &http.Transport{
			DialContext: c.cfg.Dial, TLSClientConfig: conf, TLSHandshakeTimeout: c.cfg.AnswerTimeout, DisableCompression: true,
			MaxConnsPerHost: 6, MaxIdleConnsPerHost: 2, IdleConnTimeout: 60 * time.Second, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (f *fullNode) close() { f.http.CloseIdleConnections() }

// get asks for at most limit bytes. The head of the answer must come within the
// answer timeout after wait, each further part within another, and all of it
// within six.
func (f *fullNode) get(ctx context.Context, path string, limit int64, wait time.Duration) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+f.address+ledger.FacePath+path, nil)
	if err != nil {
		return nil, err
	}
	return f.do(ctx, req, limit, wait)
}

func (f *fullNode) do(ctx context.Context, req *http.Request, limit int64, wait time.Duration) ([]byte, error) {
	patience := f.client.cfg.AnswerTimeout
	ctx, cancel := context.WithTimeout(ctx, wait+6*patience)
	defer cancel()
	stall := time.AfterFunc(wait+patience, cancel)
	defer stall.Stop()
	resp, err := f.http.Do(req.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer resp.Body.Close()
	body := &progress{src: resp.Body, moved: func() { stall.Reset(patience) }}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 512)) // for the message only
		return nil, statusError(resp.StatusCode, bytes.TrimSpace(text))
	}
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if int64(len(b)) > limit {
		return nil, &lie{lieFlood, fmt.Errorf("more than %d bytes", limit), req.URL.Path, b[:maxSmall]}
	}
	return b, nil
}

func statusError(status int, text []byte) error {
	switch status {
	case http.StatusNoContent:
		return errNothingNew
	case http.StatusNotFound:
		return errNotYet
	case http.StatusGone:
		return errPruned
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return errBusy
	case http.StatusNotImplemented:
		return errNotFull
	}
	return fmt.Errorf("%w: status %d: %.200q", errUnreachable, status, text)
}

// progress tells of every part that arrives.
type progress struct {
	src   io.Reader
	moved func()
}

// Read reads and tells.
func (p *progress) Read(b []byte) (int, error) {
	n, err := p.src.Read(b)
	if n > 0 {
		p.moved()
	}
	return n, err
}

// lightBlock asks for the light block of a height. Height 0 asks for one above
// after.
func (f *fullNode) lightBlock(ctx context.Context, height, after int64, wait time.Duration) (*types.LightBlock, error) {
	path := fmt.Sprintf("light/%d?wait=%d", height, int(wait.Seconds()))
	if height == 0 {
		path += fmt.Sprintf("&after=%d", after)
	}
	b, err := f.get(ctx, path, maxLightBlock, wait)
	if err != nil {
		return nil, err
	}
	lb, err := parseLight(b, f.client.chainID)
	if err != nil {
		return nil, &lie{lieMalformed, err, path, b}
	}
	if height != 0 && lb.Height != height || lb.Height <= after && height == 0 {
		return nil, &lie{lieMalformed, fmt.Errorf("it was asked for height %d (above %d) and answered %d", height, after, lb.Height), path, b}
	}
	return lb, nil
}

// headers asks for the headers of a range, which fits in an answer.
func (f *fullNode) headers(ctx context.Context, from, to int64) ([]types.Header, error) {
	path := fmt.Sprintf("headers?from=%d&to=%d", from, to)
	b, err := f.get(ctx, path, maxBlocks, 0)
	if err != nil {
		return nil, err
	}
	list, err := parseHeaders(b)
	if err == nil && (list[0].Height != from || list[len(list)-1].Height != to) {
		err = fmt.Errorf("headers from %d to %d", list[0].Height, list[len(list)-1].Height)
	}
	if err != nil {
		return nil, &lie{lieMalformed, err, path, b}
	}
	return list, nil
}

// blocks asks for blocks of a range and gets the first of them.
func (f *fullNode) blocks(ctx context.Context, from, to int64) (list []block, raw []byte, err error) {
	path := fmt.Sprintf("blocks?from=%d&to=%d", from, to)
	if raw, err = f.get(ctx, path, maxBlocks, 0); err != nil {
		return nil, nil, err
	}
	list, err = parseBlocks(raw)
	if err == nil && (list[0].header.Height != from || list[len(list)-1].header.Height > to) {
		err = fmt.Errorf("blocks from %d to %d", list[0].header.Height, list[len(list)-1].header.Height)
	}
	if err != nil {
		return nil, nil, &lie{lieBlock, err, path, raw}
	}
	return list, raw, nil
}

// submit gives it an envelope.
func (f *fullNode) submit(ctx context.Context, envelope []byte) (ledger.Submitted, error) {
	req, err := http.NewRequest(http.MethodPost, "https://"+f.address+ledger.FacePath+"submit", bytes.NewReader(envelope))
	if err != nil {
		return ledger.Submitted{}, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	b, err := f.do(ctx, req, maxSmall, 0)
	if err != nil {
		return ledger.Submitted{}, err
	}
	s, err := parseSubmitted(b)
	if err != nil {
		return s, &lie{lieMalformed, err, "submit", b}
	}
	return s, nil
}

// splitAddress checks host:port.
func splitAddress(address string) error {
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return fmt.Errorf("full node %q: the rule is host:port", address)
	}
	return nil
}
