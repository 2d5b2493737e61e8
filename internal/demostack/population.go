package demostack

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed population.openapi.json
var populationDescription []byte

// Person is an invented entry of the population register.
type Person struct {
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	BirthDate string  `json:"birthDate"`
	Status    string  `json:"status"` // resident, emigrated or deceased
	Address   Address `json:"address"`
}

// Address is an invented address.
type Address struct {
	Street       string `json:"street"`
	PostalCode   string `json:"postalCode"`
	Municipality string `json:"municipality"`
}

// AddressChange is a notice of a move.
type AddressChange struct {
	ID       string  `json:"id"`
	Person   string  `json:"person"`
	Address  Address `json:"address"`
	MovedOn  string  `json:"movedOn"`
	Received string  `json:"received"` // accepted
}

// population is the register; it keeps its data in memory.
type population struct {
	mu      sync.RWMutex
	persons map[string]Person
	changes map[string]AddressChange
}

// StartPopulation starts the population register: REST/JSON, described at
// /openapi.json.
func StartPopulation(ctx context.Context, address string) (*Server, error) {
	return start(ctx, address, func(string) http.Handler { return newPopulation() })
}

func newPopulation() http.Handler {
	p := &population{persons: make(map[string]Person), changes: make(map[string]AddressChange)}
	streets := []string{"Sample Street", "Specimen Lane", "Placeholder Road"}
	towns := []Address{{"", "00001", "Exampleton"}, {"", "00002", "Sampleby"}, {"", "00003", "Mockford"}}
	for i := 1; i <= 60; i++ {
		id := fmt.Sprintf("FIC-%04d", i)
		address := towns[i%len(towns)]
		address.Street = fmt.Sprintf("%s %d", streets[i%len(streets)], i)
		person := Person{ID: id, Name: fmt.Sprintf("Example Person %04d", i), BirthDate: fmt.Sprintf("%d-%02d-%02d", 1940+i, 1+i%12, 1+i%28), Status: "resident", Address: address}
		if i%20 == 0 {
			person.Status = "emigrated"
		}
		p.persons[id] = person
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(populationDescription)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /persons", p.search)
	mux.HandleFunc("GET /persons/{id}", p.person)
	mux.HandleFunc("GET /persons/{id}/address", p.address)
	mux.HandleFunc("POST /persons/{id}/address-changes", p.change)
	mux.HandleFunc("GET /persons/{id}/address-changes/{change}", p.changeByID)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "no such resource") })
	return mux
}

func refuse(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]any{"error": http.StatusText(status), "message": message})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func (p *population) find(w http.ResponseWriter, r *http.Request) (Person, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	person, ok := p.persons[r.PathValue("id")]
	if !ok {
		refuse(w, http.StatusNotFound, "no person has this identifier")
	}
	return person, ok
}

// tagged writes v with an ETag, or 304 if the caller has it.
func tagged(w http.ResponseWriter, r *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "internal error")
		return
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "private, no-cache")
	for candidate := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if c := strings.TrimPrefix(strings.TrimSpace(candidate), "W/"); c == tag || c == "*" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	writeJSON(w, http.StatusOK, v)
}

func (p *population) person(w http.ResponseWriter, r *http.Request) {
	if person, ok := p.find(w, r); ok {
		tagged(w, r, person)
	}
}

func (p *population) address(w http.ResponseWriter, r *http.Request) {
	if person, ok := p.find(w, r); ok {
		tagged(w, r, person.Address)
	}
}

// search lists persons by birth date or municipality, in pages.
func (p *population) search(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name := range q {
		if !slices.Contains([]string{"birthDate", "municipality", "limit", "after"}, name) {
			refuse(w, http.StatusBadRequest, "the parameters are birthDate, municipality, limit and after")
			return
		}
	}
	birth := q.Get("birthDate")
	if _, err := time.Parse(time.DateOnly, birth); birth != "" && err != nil {
		refuse(w, http.StatusBadRequest, "birthDate must be a date such as 1984-05-17")
		return
	}
	limit := 20
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 100 {
			refuse(w, http.StatusBadRequest, "limit must be 1 to 100")
			return
		}
		limit = n
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	found, next := []Person{}, ""
	for _, id := range slices.Sorted(maps.Keys(p.persons)) {
		person := p.persons[id]
		if id <= q.Get("after") || birth != "" && person.BirthDate != birth || q.Has("municipality") && person.Address.Municipality != q.Get("municipality") {
			continue
		}
		if len(found) == limit {
			next = found[limit-1].ID
			break
		}
		found = append(found, person)
	}
	answer := map[string]any{"persons": found}
	if next != "" {
		answer["next"] = next
	}
	writeJSON(w, http.StatusOK, answer)
}

// change takes a notice of a move. The same notice twice is one change.
func (p *population) change(w http.ResponseWriter, r *http.Request) {
	person, ok := p.find(w, r)
	if !ok {
		return
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "the content type must be application/json")
		return
	}
	var notice struct {
		Address Address `json:"address"`
		MovedOn string  `json:"movedOn"`
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&notice)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body must be a notice with address and movedOn")
		return
	}
	if _, err := time.Parse(time.DateOnly, notice.MovedOn); err != nil || notice.Address.Street == "" || notice.Address.PostalCode == "" || notice.Address.Municipality == "" {
		refuse(w, http.StatusUnprocessableEntity, "movedOn must be a date, and street, postalCode and municipality must be given")
		return
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%q\n%s", person.ID, notice.Address, notice.MovedOn))
	change := AddressChange{ID: "FIC-C-" + hex.EncodeToString(sum[:6]), Person: person.ID, Address: notice.Address, MovedOn: notice.MovedOn, Received: "accepted"}
	p.mu.Lock()
	_, repeated := p.changes[change.ID]
	p.changes[change.ID] = change
	person.Address = notice.Address
	p.persons[person.ID] = person
	p.mu.Unlock()
	w.Header().Set("Location", "/persons/"+person.ID+"/address-changes/"+change.ID)
	status := http.StatusCreated
	if repeated {
		status = http.StatusOK
	}
	writeJSON(w, status, change)
}

func (p *population) changeByID(w http.ResponseWriter, r *http.Request) {
	p.mu.RLock()
	change, ok := p.changes[r.PathValue("change")]
	p.mu.RUnlock()
	if !ok || change.Person != r.PathValue("id") {
		refuse(w, http.StatusNotFound, "no such address change")
		return
	}
	tagged(w, r, change)
}
