package usage

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// ServiceCode is the code of the service by which portals ask.
const ServiceCode = "usage"

// maxRequest is how long a request to the API may be.
const maxRequest = 64 << 10

// Usage is a record as a person is shown it. The first five fields are those of
// Estonia's data tracker.
type Usage struct {
	LogTime        string `json:"logtime"`
	Action         string `json:"action"`
	ReceiverCode   string `json:"receiverCode"`
	ReceiverName   string `json:"receiverName"`
	ReceiverSystem string `json:"receiverSystem"`

	ID            string `json:"id"`
	Service       string `json:"service"`
	Purpose       string `json:"purpose"`
	LegalBasis    string `json:"legalBasis"`
	CaseReference string `json:"caseReference,omitempty"`
	Exchange      string `json:"exchange"`

	Supersedes   string `json:"supersedes,omitempty"`   // the record that this one corrects,
	Reason       string `json:"reason,omitempty"`       // and why
	SupersededBy string `json:"supersededBy,omitempty"` // the record that corrects this one
}

// Show makes what a person is shown of a record. name tells the name of a member.
func Show(f Found, name func(civibus.MemberID) string) Usage {
	r := f.Record
	u := Usage{
		LogTime: f.Time().Format("2006-01-02T15:04:05.000Z"), Action: r.Sentence, ReceiverCode: r.Client,
		ID: strconv.FormatUint(f.Leaf, 10), Service: r.Service, Purpose: r.Purpose, LegalBasis: r.LegalBasis,
		CaseReference: r.CaseReference, Exchange: r.ExchangeId, Reason: r.Reason,
	}
	if r.Supersedes > 0 {
		u.Supersedes = strconv.FormatUint(r.Supersedes-1, 10)
	}
	if f.Newer > 0 {
		u.SupersededBy = strconv.FormatUint(f.Newer-1, 10)
	}
	if c, err := civibus.ParseClientID(r.Client); err == nil {
		u.ReceiverCode, u.ReceiverSystem = c.MemberID.String(), c.Subsystem
		if name != nil {
			u.ReceiverName = name(c.MemberID)
		}
	}
	return u
}

// API answers portals: findUsage, usagePeriod, heartbeat, usageProof and objections. It
// is put behind the gateway like any service: who may ask is said by rights.
type API struct {
	store *Store
	name  func(civibus.MemberID) string
}

// NewAPI makes the API of a store.
func NewAPI(s *Store, name func(civibus.MemberID) string) *API { return &API{s, name} }

// ask is what a request says, in a JSON body (POST) or in the query (GET).
type ask struct {
	UserCode string `json:"userCode"`
	From     string `json:"from"`
	To       string `json:"to"`
	Limit    int    `json:"limit"`
	After    string `json:"after"`
	ID       string `json:"id"`
	Text     string `json:"text"`
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	handlers := map[string]func(ask) (any, error){
		"findUsage": a.findUsage, "usagePeriod": a.usagePeriod, "heartbeat": a.heartbeat, "usageProof": a.usageProof, "objection": a.objection,
	}
	h, ok := handlers[path]
	if !ok {
		fail(w, http.StatusNotFound, "there is no such operation; there are findUsage, usagePeriod, heartbeat, usageProof and objection")
		return
	}
	var q ask
	var err error
	switch {
	case r.Method == http.MethodPost:
		d := json.NewDecoder(io.LimitReader(r.Body, maxRequest))
		d.DisallowUnknownFields()
		if err = d.Decode(&q); err != nil {
			err = errors.New("the body is not a JSON object with userCode, from, to, limit, after, id and text")
		}
	case r.Method == http.MethodGet && path != "objection":
		q, err = fromValues(r.URL.Query())
	default:
		w.Header().Set("Allow", "GET, POST")
		fail(w, http.StatusMethodNotAllowed, "the method is "+r.Method+", the rule is POST, or GET where nothing is changed")
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	answer, err := h(q)
	switch {
	case errors.Is(err, ErrNotFound):
		fail(w, http.StatusNotFound, err.Error())
	case err != nil:
		fail(w, http.StatusBadRequest, err.Error())
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "title": http.StatusText(status), "detail": message})
}

func fromValues(v url.Values) (q ask, err error) {
	for name := range v {
		switch name {
		case "userCode", "from", "to", "limit", "after", "id":
			if len(v[name]) > 1 {
				return q, errors.New("the parameter " + name + " is given more than once")
			}
		default:
			return q, errors.New("the query has a parameter that is not known, the rule is userCode, from, to, limit, after and id")
		}
	}
	q = ask{UserCode: v.Get("userCode"), From: v.Get("from"), To: v.Get("to"), After: v.Get("after"), ID: v.Get("id")}
	if l := v.Get("limit"); l != "" {
		if q.Limit, err = strconv.Atoi(l); err != nil {
			return q, errors.New("limit is not a number")
		}
	}
	return q, nil
}

func (a *API) findUsage(q ask) (any, error) {
	query := Query{Subject: q.UserCode, Limit: q.Limit, After: q.After}
	for name, t := range map[string]struct {
		text string
		to   *time.Time
	}{"from": {q.From, &query.From}, "to": {q.To, &query.To}} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.to, err = time.Parse(time.RFC3339, t.text); err != nil {
			return nil, errors.New(name + " is not a time by RFC 3339, e.g. 2027-01-01T00:00:00Z")
		}
	}
	page, err := a.store.Find(query)
	if err != nil {
		return nil, err
	}
	out := struct {
		Usages []Usage `json:"usages"`
		Next   string  `json:"next,omitempty"`
	}{make([]Usage, 0, len(page.Items)), page.Next}
	for _, f := range page.Items {
		out.Usages = append(out.Usages, Show(f, a.name))
	}
	return out, nil
}

func (a *API) usagePeriod(ask) (any, error) {
	first, err := a.store.First()
	if err != nil {
		return nil, err
	}
	now := a.store.cfg.Clock().UTC()
	if first.IsZero() {
		first = now
	}
	return map[string]string{"from": first.Format(time.RFC3339), "to": now.Format(time.RFC3339)}, nil
}

func (a *API) heartbeat(ask) (any, error) {
	next, err := a.store.Next()
	if err != nil {
		return nil, err
	}
	last, err := a.store.Periods(1)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"status": "ok", "time": a.store.cfg.Clock().UTC().Format(time.RFC3339), "leaves": next}
	if len(last) > 0 {
		out["lastPeriod"] = last[0]
	}
	return out, nil
}

// record is the one that a request names.
func (a *API) record(q ask) (Found, error) {
	leaf, err := strconv.ParseUint(q.ID, 10, 63)
	if err != nil {
		return Found{}, errors.New("id is not that of a record, the rule is the id that findUsage gave")
	}
	return a.store.Get(q.UserCode, leaf, false)
}

func (a *API) usageProof(q ask) (any, error) {
	f, err := a.record(q)
	if err != nil {
		return nil, err
	}
	p, ok, err := a.store.Prove(f)
	if err == nil && !ok {
		err = errors.New("the record's period is not anchored yet; ask again later")
	}
	return p, err
}

func (a *API) objection(q ask) (any, error) {
	f, err := a.record(q)
	if err != nil {
		return nil, err
	}
	return a.store.Object(q.UserCode, f.Leaf, q.Text)
}
