package once

import (
	"io"
	"net/http"
	"strconv"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry"
)

// The header fields of evidence as the body's systems get it.
const (
	StateField = "Civibus-Once-State" // previewed: to be shown only; delivered: to be used
	TokenField = "Civibus-Once-Token" // of what is delivered
)

// catalogued is a type of evidence as systems see it.
type catalogued struct {
	ID           string   `json:"id"`
	Title        string   `json:"title"`
	Law          string   `json:"law"`
	Requirements []string `json:"requirements"`
	Status       string   `json:"status"`
	Notice       string   `json:"notice,omitempty"`
}

// API is the interface for the body's systems. Who may speak for a subsystem is decided
// before: the client header is believed.
func (r *Runtime) API() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, path string, fn func(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error) {
		mux.HandleFunc(pattern+" "+APIPath+path, func(w http.ResponseWriter, req *http.Request) {
			client, err := civibus.ParseClientID(req.Header.Get(civibus.HeaderClient))
			if err != nil || client.MemberID != r.Member || client.Subsystem == "" {
				err = refuse("bad_client", "%s names no subsystem of this body", civibus.HeaderClient)
			} else {
				err = fn(w, req, client)
			}
			if err != nil {
				failWith(w, err)
			}
		})
	}
	handle("GET", "types", r.listTypes)
	handle("POST", "requests", func(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
		wanted := new(Wanted)
		if err := readJSON(w, req, wanted); err != nil {
			return err
		}
		s, err := r.Ask(req.Context(), client, wanted)
		if err == nil {
			answer(w, http.StatusCreated, s)
		}
		return err
	})
	handle("GET", "requests/{id}", func(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
		s, err := r.Find(client, req.PathValue("id"))
		if err == nil {
			answer(w, http.StatusOK, s)
		}
		return err
	})
	handle("POST", "requests/{id}/preview", func(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
		s, err := r.Preview(req.Context(), client, req.PathValue("id"))
		if err == nil {
			answer(w, http.StatusOK, s)
		}
		return err
	})
	handle("POST", "requests/{id}/decision", func(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
		var d struct {
			Decision  State  `json:"decision"`
			DecidedBy string `json:"decided_by"`
		}
		if err := readJSON(w, req, &d); err != nil {
			return err
		}
		s, err := r.Decide(req.Context(), client, req.PathValue("id"), d.Decision, d.DecidedBy)
		if err == nil {
			answer(w, http.StatusOK, s)
		}
		return err
	})
	for path, preview := range map[string]bool{"requests/{id}/preview": true, "requests/{id}/evidence": false} {
		handle("GET", path, func(w http.ResponseWriter, req *http.Request, client civibus.ClientID) error {
			return r.content(w, req, client, preview)
		})
	}
	return mux
}

// content writes evidence: as a preview, or with the token that it was given up for.
func (r *Runtime) content(w http.ResponseWriter, req *http.Request, client civibus.ClientID, preview bool) error {
	mediaType, content, token, err := r.Content(client, req.PathValue("id"), preview)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set(StateField, string(Previewed))
	if !preview {
		h.Set(StateField, string(Delivered))
		h.Set(TokenField, token)
	}
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(content)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(content) // who does not read it does not get it
	return nil
}

// listTypes lists the catalogue: all, or what proves a requirement.
func (r *Runtime) listTypes(w http.ResponseWriter, req *http.Request, _ civibus.ClientID) error {
	q := req.URL.Query()
	v := r.View()
	if v == nil {
		return refuse("unavailable", "there is no registry view yet")
	}
	items, next := v.EvidenceTypes(q.Get("after"), 0)
	if u := q.Get("requirement"); u != "" {
		items, next = v.EvidenceTypesFor(u, q.Get("after"), 0)
	}
	answer(w, http.StatusOK, map[string]any{"types": cataloguedOf(items), "next": next})
	return nil
}

func cataloguedOf(items []registry.EvidenceType) []catalogued {
	out := make([]catalogued, len(items))
	for i, t := range items {
		out[i] = catalogued{t.ID.String(), t.Title, t.Law, t.Requirements, t.Status.String(), t.Notice}
	}
	return out
}

// readJSON reads a request's JSON, strictly.
func readJSON(w http.ResponseWriter, req *http.Request, to any) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxRequest))
	if err != nil {
		return refuse("too_large", "the rule is at most %d bytes", maxRequest)
	}
	if err := strictJSON(text, to); err != nil {
		return refuse("bad_request", "%v", err)
	}
	return nil
}
