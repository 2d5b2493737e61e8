package light_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/ledger"
)

// TestSubmitGoesElsewhere: a full node that takes a transaction and drops it, refuses
// it falsely, is busy or answers junk keeps no transaction out, and its word is not
// taken for a result.
func TestSubmitGoesElsewhere(t *testing.T) {
	w := newNetwork(t, 1, nil)
	honest := newFace(t, func() *ledger.Node { return w.nodes[0] })
	c := open(t, w.config(w.faces[0], honest))
	w.reaches(c, w.commit(0, w.bodies[0].subsystem(t, "FIRST")))
	for name, answer := range map[string]func(rw http.ResponseWriter){
		"drops it":         func(rw http.ResponseWriter) { fmt.Fprint(rw, `{"code":0,"height":1}`) },
		"refuses it":       func(rw http.ResponseWriter) { fmt.Fprint(rw, `{"code":4,"reason":"no","height":99999}`) },
		"is busy for ever": func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusServiceUnavailable) },
		"answers junk":     func(rw http.ResponseWriter) { fmt.Fprint(rw, `junk`) },
	} {
		t.Run(name, func(t *testing.T) {
			w.faces[0].tell(func(rw http.ResponseWriter, r *http.Request, h http.Handler) {
				if strings.HasSuffix(r.URL.Path, "/submit") {
					answer(rw)
					return
				}
				h.ServeHTTP(rw, r)
			})
			for i := range 2 { // whichever full node is asked first
				got, err := c.Submit(within(t), w.bodies[0].note(t, fmt.Sprint(name, i)))
				check(t, err)
				if got.Code != 0 || got.Height == 0 {
					t.Fatalf("%+v", got)
				}
			}
		})
	}
	// When nobody takes it the caller is told, and a transaction that one took counts
	// when it comes back.
	honest.tell(func(rw http.ResponseWriter, r *http.Request, h http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/submit") {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(rw, r)
	})
	w.faces[0].tell(func(rw http.ResponseWriter, r *http.Request, h http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/submit") {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(rw, r)
	})
	envelope := w.bodies[0].note(t, "later")
	began := time.Now()
	if _, err := c.Submit(within(t), envelope); err != ledger.ErrBusy {
		t.Fatalf("all are busy: %v after %s", err, time.Since(began))
	}
	honest.tell(nil)
	if got, err := c.Submit(within(t), envelope); err != nil || got.Code != 0 {
		t.Fatalf("when one is not: %+v, %v", got, err)
	}
}
