package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// FacePath is where a full node answers others' questions about the ledger, on its
// gateway's provider face:
//
//	GET  status                        PublicStatus, JSON
//	GET  light/HEIGHT[?wait=SECONDS]   LightBlock; waits for the height
//	GET  light/0?after=H[&wait=S]      the newest one above H; 204 when there is none in time
//	GET  headers?from=A&to=B           Headers
//	GET  blocks?from=A&to=B            Blocks
//	GET  snapshots                     heights, newest first, JSON
//	GET  snapshots/HEIGHT              the manifest, JSON
//	GET  snapshots/HEIGHT/CHUNK        one chunk
//	POST submit                        an envelope; Submitted, JSON
//
// 404: not there yet. 410: not kept here any more. 429 and 503: later.
const FacePath = "/civibus/ledger/v1/"

// MaxFaceWait bounds how long a question may wait for a block.
const MaxFaceWait = 25 * time.Second

// Submitted is what a full node says of an envelope that it was given. A refusal
// is its opinion; what became of a transaction is in the blocks alone.
type Submitted struct {
	Code   uint32 `json:"code"` // 0: it waits for a block, or one has it
	Reason string `json:"reason,omitempty"`
	Height uint64 `json:"height"` // of the registry on which it was checked
}

// Face answers others' questions about the ledger. It knows nobody: whoever
// serves it says who may ask, and how often.
func (n *Node) Face() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, answer func(r *http.Request) ([]byte, error)) {
		mux.HandleFunc("GET "+FacePath+path, func(w http.ResponseWriter, r *http.Request) {
			b, err := answer(r)
			n.answer(w, r, b, err)
		})
	}
	get("status", func(*http.Request) ([]byte, error) {
		s, err := n.PublicStatus()
		return asJSON(s, err)
	})
	get("light/{height}", n.faceLight)
	get("headers", func(r *http.Request) ([]byte, error) {
		from, to, err := faceRange(r)
		if err != nil {
			return nil, err
		}
		return n.Headers(from, to)
	})
	get("blocks", func(r *http.Request) ([]byte, error) {
		from, to, err := faceRange(r)
		if err != nil {
			return nil, err
		}
		return n.Blocks(from, to)
	})
	get("snapshots", func(*http.Request) ([]byte, error) {
		heights, err := n.Snapshots()
		return asJSON(append([]uint64{}, heights...), err)
	})
	get("snapshots/{height}", func(r *http.Request) ([]byte, error) {
		height, err := faceNumber(r.PathValue("height"))
		if err != nil {
			return nil, err
		}
		return n.SnapshotManifest(height)
	})
	get("snapshots/{height}/{chunk}", func(r *http.Request) ([]byte, error) {
		height, err := faceNumber(r.PathValue("height"))
		chunk, cerr := faceNumber(r.PathValue("chunk"))
		if err = errors.Join(err, cerr); err != nil || chunk > maxChunkNumber {
			return nil, errors.Join(err, errQuestion)
		}
		return n.SnapshotChunk(height, int(chunk))
	})
	mux.HandleFunc("POST "+FacePath+"submit", n.faceSubmit)
	return mux
}

// errQuestion: the question is malformed.
var errQuestion = errors.New("the rule is numbers from 0, and from not above to")

func faceNumber(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		return 0, errQuestion
	}
	return v, nil
}

func faceRange(r *http.Request) (from, to uint64, err error) {
	q := r.URL.Query()
	from, err = faceNumber(q.Get("from"))
	to, terr := faceNumber(q.Get("to"))
	if err != nil || terr != nil || from > to {
		return 0, 0, errQuestion
	}
	return from, to, nil
}

// errNothingNew: there is no newer block.
var errNothingNew = errors.New("nothing new")

func (n *Node) faceLight(r *http.Request) ([]byte, error) {
	height, err := faceNumber(r.PathValue("height"))
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	var wait, after uint64
	if s := q.Get("wait"); s != "" {
		if wait, err = faceNumber(s); err != nil {
			return nil, err
		}
	}
	if s := q.Get("after"); s != "" {
		if after, err = faceNumber(s); err != nil || height != 0 {
			return nil, errQuestion
		}
	}
	if want := max(height, after+1); height != 0 || q.Has("after") {
		ctx, cancel := context.WithTimeout(r.Context(), min(time.Duration(min(wait, 3600))*time.Second, MaxFaceWait))
		defer cancel()
		v := n.View()
		if v == nil || v.Height() < want {
			err = n.AwaitHeight(ctx, want)
		}
		if errors.Is(err, ErrClosed) {
			return nil, err
		} else if err != nil && height == 0 {
			return nil, errNothingNew
		}
	}
	return n.LightBlock(height)
}

// faceSubmit puts an envelope into the pool. Whether it may change anything is
// decided by its signature and sequence number.
func (n *Node) faceSubmit(w http.ResponseWriter, r *http.Request) {
	envelope, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEnvelopeBytes))
	if err != nil {
		http.Error(w, "the rule is one envelope of at most 1 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	v := n.View()
	if v == nil {
		n.answer(w, r, nil, ErrNotYet)
		return
	}
	c, err := n.Enqueue(envelope)
	if errors.Is(err, errPoolRefused) {
		err = ErrBusy
	}
	b, err := asJSON(Submitted{Code: uint32(c.Code), Reason: c.Reason, Height: v.Height()}, err)
	n.answer(w, r, b, err)
}

func asJSON(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// answer writes an answer, or the status that says why there is none.
func (n *Node) answer(w http.ResponseWriter, r *http.Request, b []byte, err error) {
	refuse := func(status int) { http.Error(w, err.Error(), status) }
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b) // the other side went away: it asks again
	case errors.Is(err, errNothingNew):
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errQuestion):
		refuse(http.StatusBadRequest)
	case errors.Is(err, ErrNotYet):
		refuse(http.StatusNotFound)
	case errors.Is(err, ErrPruned):
		refuse(http.StatusGone)
	case errors.Is(err, ErrBusy), errors.Is(err, ErrClosed), errors.Is(err, ErrHalted):
		refuse(http.StatusServiceUnavailable)
	default:
		n.cfg.Logger.Error("answer about the ledger", slog.String("path", r.URL.Path), slog.Any("error", err))
		http.Error(w, "no answer could be made", http.StatusInternalServerError)
	}
}
