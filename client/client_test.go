package client_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/client"
)

func target(t *testing.T) (civibus.ClientID, civibus.ServiceID) {
	t.Helper()
	c, err := civibus.ParseClientID("DEMO/GOV/1/portal")
	if err != nil {
		t.Fatal(err)
	}
	s, err := civibus.ParseServiceID("DEMO/GOV/2/s%2Fub/persons")
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestCallReachesTheGatewayRaw(t *testing.T) {
	var got *http.Request
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("X-Road-Request-Id", "e-1")
		w.Header().Set("X-Road-Id", "m-1")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}))
	defer srv.Close()
	id, service := target(t)
	a, err := (&client.Client{Gateway: srv.URL, Client: id}).Do(t.Context(), client.Call{
		Service: service, Method: "POST", Path: "/path%3B/a%2Fb", Query: "a=1&a=2&b=%20+", Body: strings.NewReader("hello"),
		Purpose: "test", MessageID: "m-1", UserID: "EE1", Header: http.Header{"accept": {"text/plain"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if got.RequestURI != "/r1/DEMO/GOV/2/s%2Fub/persons/path%3B/a%2Fb?a=1&a=2&b=%20+" {
		t.Errorf("request line has %s", got.RequestURI)
	}
	for k, want := range map[string]string{"X-Road-Client": "DEMO/GOV/1/portal", "X-Road-Id": "m-1", "X-Road-Userid": "EE1", "Civibus-Purpose": "test", "Accept": "text/plain"} {
		if got.Header.Get(k) != want {
			t.Errorf("%s = %q, want %q", k, got.Header.Get(k), want)
		}
	}
	if body != "hello" || a.StatusCode != http.StatusFound || a.Exchange != "e-1" || a.MessageID != "m-1" {
		t.Errorf("body %q, answer %d %s %s; a redirect is the service's answer", body, a.StatusCode, a.Exchange, a.MessageID)
	}
}

func TestRefusalIsAnError(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Road-Error", "Server.ServerProxy.AccessDenied")
		w.Header().Set("X-Road-Request-Id", "e-2")
		w.WriteHeader(500)
		_, _ = io.WriteString(w, `{"type":"Server.ServerProxy.AccessDenied","message":"Request is not allowed","detail":"d"}`)
	}))
	defer srv.Close()
	id, service := target(t)
	_, err := (&client.Client{Gateway: srv.URL, Client: id}).Do(t.Context(), client.Call{Service: service})
	var e *client.Error
	if !errors.As(err, &e) || e.Type != "Server.ServerProxy.AccessDenied" || e.Message != "Request is not allowed" || e.Status != 500 || e.Exchange != "e-2" || e.Detail != "d" {
		t.Fatalf("error = %#v", err)
	}
}

func TestBadInputIsNamed(t *testing.T) {
	id, service := target(t)
	for want, c := range map[string]struct {
		gateway string
		call    client.Call
	}{
		"gateway":      {"nowhere", client.Call{Service: service}},
		"service path": {"http://127.0.0.1:1", client.Call{Service: service, Path: "x"}},
	} {
		if _, err := (&client.Client{Gateway: c.gateway, Client: id}).Do(t.Context(), c.call); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name the %s", err, want)
		}
	}
}
