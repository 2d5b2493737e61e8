package conformance

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"mime/multipart"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/service"
	"github.com/civibus/civibus/test/fixture"
)

func Test17MessageIDIsMadeWhenAbsent(t *testing.T) {
	b := newBus(t)
	a := b.call("GET", "/x", nil)
	id, ok := strings.CutPrefix(a.Header.Get("X-Road-Id"), "TEST-")
	if !ok || !uuidForm.MatchString(id) {
		t.Errorf("X-Road-Id %q, want TEST- and a uuid", a.Header.Get("X-Road-Id"))
	}
}

func Test18AnswerHasTheFiveHeaders(t *testing.T) {
	b := newBus(t)
	a := b.call("POST", "/x", jsonBody("body"))
	if got := a.Header.Get("X-Road-Client"); got != client {
		t.Errorf("X-Road-Client %q", got)
	}
	if got := a.Header.Get("X-Road-Service"); got != "TEST/GOV/OFFICE/register/persons" {
		t.Errorf("X-Road-Service %q", got)
	}
	if !uuidForm.MatchString(a.Header.Get("X-Road-Request-Id")) || a.Header.Get("X-Road-Id") == "" {
		t.Errorf("ids %q and %q", a.Header.Get("X-Road-Request-Id"), a.Header.Get("X-Road-Id"))
	}
	if got := a.Header.Get("X-Road-Request-Hash"); len(got) != 88 {
		t.Errorf("X-Road-Request-Hash %q is not base64 of a SHA-512", got)
	}
}

func Test19ProvidersOwnXRoadHeadersAreOverwritten(t *testing.T) {
	b := newBus(t)
	b.serve("liar", func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"X-Road-Id", "X-Road-Client", "X-Road-Service", "X-Road-Request-Id", "X-Road-Request-Hash", "X-Road-Error"} {
			w.Header().Set(name, "a lie")
		}
	})
	a := b.town.Call("GET", path("liar"), nil, "X-Road-Client", client)
	for name, values := range a.Header {
		if len(values) != 1 && strings.HasPrefix(name, "X-Road-") || values[0] == "a lie" {
			t.Errorf("%s: %q", name, values)
		}
	}
	if a.StatusCode != 200 || a.Header.Get("X-Road-Client") != client || a.Header.Get("X-Road-Error") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
}

func Test20HopByHopHeadersDoNotCross(t *testing.T) {
	b := newBus(t)
	names := []string{"Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Upgrade", "User-Agent", "Server", "X-Named"}
	b.serve("hops", func(w http.ResponseWriter, r *http.Request) {
		for _, name := range append(names, "Transfer-Encoding", "Connection") {
			if v := r.Header.Get(name); strings.Contains(v, "secret") {
				t.Errorf("the service got %s: %s", name, v)
			}
		}
		if strings.Contains(r.Host, "secret") || r.Header.Get("X-Road-Request-Hash") != "" || r.Header.Get("X-Road-Request-Id") == "mine" {
			t.Errorf("the service got host %s, %v", r.Host, r.Header)
		}
		for _, name := range names {
			if name != "Trailer" {
				w.Header().Set(name, "secret")
			}
		}
		w.Header().Set("Connection", "X-Named")
	})
	fields := []string{"X-Road-Client", client, "Connection", "X-Named", "Host", "secret", "X-Road-Request-Hash", "mine", "X-Road-Request-Id", "mine"}
	for _, name := range names {
		if name != "Trailer" {
			fields = append(fields, name, "secret")
		}
	}
	a := b.town.Call("GET", path("hops"), nil, fields...)
	if a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	for _, name := range names {
		if v := a.Header.Get(name); strings.Contains(v, "secret") {
			t.Errorf("the client got %s: %s", name, v)
		}
	}
}

func Test21EndToEndHeadersCrossBothWays(t *testing.T) {
	b := newBus(t)
	fields := map[string]string{
		"Authorization": "Bearer abc", "Cookie": "a=b; c=d", "X-Custom": "ä value, with; punctuation", "Cache-Control": "no-cache",
		"Etag": `"tag"`, "If-None-Match": `"tag"`, "Accept": "application/json;q=0.5", "Accept-Language": "et", "X-Road-UserId": "EE123", "X-Road-Issue": "42",
	}
	b.serve("mirror", func(w http.ResponseWriter, r *http.Request) {
		for name, want := range fields {
			if got := r.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("the service got %s: %q, want %q", name, got, want)
			}
		}
		if got := r.Header.Values("X-Twice"); !reflect.DeepEqual(got, []string{"1", "2"}) {
			t.Errorf("the service got X-Twice: %q", got)
		}
		w.Header().Set("Cache-Control", "max-age=3")
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("X-Custom", "back")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
	})
	call := []string{"X-Road-Client", client, "X-Twice", "1", "X-Twice", "2"}
	for name, value := range fields {
		call = append(call, name, value)
	}
	a := b.town.Call("GET", path("mirror"), nil, call...)
	if a.Header.Get("Cache-Control") != "max-age=3" || a.Header.Get("ETag") != `"v1"` || a.Header.Get("X-Custom") != "back" ||
		!reflect.DeepEqual(a.Header.Values("Set-Cookie"), []string{"a=1", "b=2"}) {
		t.Errorf("the client got %d %v", a.StatusCode, a.Header)
	}
}

func Test22QueryIsByteIdentical(t *testing.T) {
	b := newBus(t)
	for _, q := range []string{"?a=1&a=2&b=%20+", "?", "??", "?a;b|c%zz", "?%C3%B6=/%2F"} {
		wantOK(t, b.call("GET", "/x"+q, nil), "")
		want := "/x" + q
		if q == "?" {
			want = "/x" // an empty query and none are the same to the service
		}
		if _, target, _ := b.last.get(); target != want {
			t.Errorf("query %q reached the service as %q", q, target)
		}
	}
}

func Test23ProvidersOwnErrorsPass(t *testing.T) {
	b := newBus(t)
	b.serve("status", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the service's own", map[string]int{"/404": 404, "/405": 405, "/500": 500, "/503": 503}[r.URL.Path])
	})
	for rest, want := range map[string]int{"/404": 404, "/405": 405, "/500": 500, "/503": 503} {
		a := b.town.Call("GET", path("status")+rest, nil, "X-Road-Client", client)
		if a.StatusCode != want || a.Header.Get("X-Road-Error") != "" || string(a.Body) != "the service's own\n" {
			t.Errorf("%s: %d %v %s", rest, a.StatusCode, a.Header, a.Body)
		}
	}
}

func Test24ProviderDown(t *testing.T) {
	b := newBus(t)
	closed := fixture.Listen(t)
	id := b.office.AddService(b.register, "down", nil, func(_ *civibus.Service, u *service.Upstream) {
		u.URL = "http://" + closed.Addr().String()
	})
	_ = closed.Close()
	b.Grant("r2", b.desk, id)
	wantError(t, b.town.Call("GET", path("down"), nil, "X-Road-Client", client), "Server.ServerProxy.NetworkError")
}

func Test25DuplicateClientLastWins(t *testing.T) {
	b := newBus(t)
	a := b.town.Call("GET", path("persons"), nil, "X-Road-Client", "TEST/MUN/TOWN/nobody", "X-Road-Client", client)
	wantOK(t, a, "")
	wantError(t, b.town.Call("GET", path("persons"), nil, "X-Road-Client", client, "X-Road-Client", "TEST/MUN/TOWN/nobody"),
		"Server.ClientProxy.UnknownMember")
}

func Test26SecurityServer(t *testing.T) {
	b := newBus(t)
	wantOK(t, b.call("GET", "/x", nil, "X-Road-Security-Server", "TEST/GOV/OFFICE/gw1"), "")
	for value, typ := range map[string]string{
		"TEST/GOV/OFFICE/other": "Server.ClientProxy.InvalidSecurityServer",
		"TEST/MUN/TOWN/gw1":     "Server.ClientProxy.InvalidSecurityServer", // a server, but not of the provider
		"TEST/GOV/OFFICE":       "Server.ClientProxy.InternalError",
		"TEST/GOV/OFFICE/a/b":   "Server.ClientProxy.InternalError",
	} {
		wantError(t, b.call("GET", "/x", nil, "X-Road-Security-Server", value), typ)
	}
	// The represented party has one or two parts.
	wantOK(t, b.call("GET", "/x", nil, "X-Road-Represented-Party", "COM/123"), "")
	wantError(t, b.call("GET", "/x", nil, "X-Road-Represented-Party", "a/b/c"), "Server.ClientProxy.InternalError")
}

func Test27UnknownMemberServiceAndDisabled(t *testing.T) {
	b := newBus(t)
	fields := []string{"X-Road-Client", client}
	wantError(t, b.town.Call("GET", "/r1/TEST/GOV/NOBODY/register/persons", nil, fields...), "Server.ClientProxy.UnknownMember")
	wantError(t, b.town.Call("GET", "/r1/TEST/GOV/OFFICE/nothing/persons", nil, fields...), "Server.ClientProxy.UnknownMember")
	a := b.town.Call("GET", path("persons"), nil, "X-Road-Client", "TEST/GOV/OFFICE/register")
	wantError(t, a, "Server.ClientProxy.UnknownMember")
	if m := message(t, a); m != "Client 'SUBSYSTEM:TEST/GOV/OFFICE/register' not found" {
		t.Errorf("message %q", m)
	}
	a = b.town.Call("GET", path("unknown"), nil, fields...)
	wantError(t, a, "Server.ServerProxy.UnknownService")
	if m := message(t, a); m != "Unknown service: SERVICE:TEST/GOV/OFFICE/register/unknown" {
		t.Errorf("message %q", m)
	}
	b.Registry.Change(func(v *fixture.View) {
		s, _ := v.Service(b.service)
		s.Status, s.Notice = civibus.Suspended, "until Monday"
		v.SetService(s)
	})
	a = b.call("GET", "", nil)
	wantError(t, a, "Server.ServerProxy.ServiceDisabled")
	if m := message(t, a); m != "Service SERVICE:TEST/GOV/OFFICE/register/persons is disabled: until Monday" {
		t.Errorf("message %q", m)
	}
}

func Test28AccessRights(t *testing.T) {
	b := newBus(t)
	const denied = "Server.ServerProxy.AccessDenied"
	set := func(client civibus.ClientID, group string, endpoints ...civibus.Endpoint) {
		b.Registry.Change(func(v *fixture.View) {
			v.SetRight(civibus.AccessRight{ID: "r1", Service: b.service, Client: client, Group: group, Endpoints: endpoints, Status: civibus.Active})
		})
	}
	set(b.desk, "", civibus.Endpoint{Method: "*", Path: "**"})
	wantOK(t, b.call("DELETE", "/any/thing", nil), "")
	set(b.desk, "", civibus.Endpoint{Method: "GET", Path: "/p/*"}, civibus.Endpoint{Method: "POST", Path: "/q/**"})
	wantOK(t, b.call("GET", "/p/1", nil), "")
	wantOK(t, b.call("POST", "/q/1/2", nil), "")
	for _, c := range [][2]string{
		{"GET", "/p/1/2"}, {"GET", "/p"}, {"POST", "/p/1"}, {"GET", "/q/1"}, {"GET", "/P/1"},
		{"POST", "/q/%2e%2e%2fadmin"}, {"POST", "/q/%2e%2e/admin"}, {"POST", "/q/..%2Fadmin"}, {"POST", "/q/%252e%252e%252fadmin"},
		{"POST", "/q/../admin"}, {"POST", "/q/..;/admin"}, {"POST", "/q/../../q/x"},
	} {
		a := b.call(c[0], c[1], nil)
		wantError(t, a, denied)
		if m := message(t, a); !strings.HasPrefix(m, "Request is not allowed: SERVICE:TEST/GOV/OFFICE/register/persons") {
			t.Errorf("%v: message %q", c, m)
		}
	}
	// The subject is exact, or a group.
	set(civibus.ClientID{MemberID: b.town.ID}, "")
	wantError(t, b.call("GET", "/p/1", nil), denied)
	set(civibus.ClientID{}, "global/TOWNS")
	wantError(t, b.call("GET", "/p/1", nil), denied)
	b.Registry.Change(func(v *fixture.View) { v.SetGroup("global/TOWNS", b.desk) })
	wantOK(t, b.call("GET", "/p/1", nil), "")
}

func Test29Metadata(t *testing.T) {
	b := newBus(t)
	description := `{"openapi":"3.0.0","info":{"title":"t","version":"1"},"servers":[{"url":"https://inner.example:8443/base"},{"url":"https://{host}/x"}],"paths":{}}`
	b.office.AddService(b.register, "described", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/openapi.json" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json")
		_, _ = io.WriteString(w, description)
	}), func(s *civibus.Service, u *service.Upstream) {
		s.Type = civibus.OpenAPI3
		s.Endpoints = []civibus.Endpoint{{Method: "*", Path: "**"}, {Method: "GET", Path: "/p/*"}, {Method: "POST", Path: "/p"}}
		u.OpenAPI = "self:/openapi.json"
	})
	b.office.AddService(b.register, "soap", nil, func(s *civibus.Service, _ *service.Upstream) { s.Type = civibus.WSDL })
	get := func(service string, fields ...string) *fixture.Answer {
		return b.town.Call("GET", path(service), nil, append([]string{"X-Road-Client", client}, fields...)...)
	}

	t.Run("listClients", func(t *testing.T) {
		for accept, json := range map[string]bool{"": false, "*/*": false, "text/xml": false, "application/json": true, "text/xml, application/json;q=0.1": true} {
			a := b.town.Call("GET", "/listClients", nil, "Accept", accept)
			want := "text/xml; charset=utf-8"
			if json {
				want = "application/json; charset=utf-8"
			}
			if a.StatusCode != 200 || a.Header.Get("Content-Type") != want {
				t.Errorf("Accept %q: %d %q, want %q", accept, a.StatusCode, a.Header.Get("Content-Type"), want)
			}
		}
		wantJSON(t, b.town.Call("GET", "/listClients", nil, "Accept", "application/json"), `{"member":[
			{"id":{"object_type":"MEMBER","xroad_instance":"TEST","member_class":"GOV","member_code":"OFFICE"},"name":"Body OFFICE"},
			{"id":{"object_type":"MEMBER","xroad_instance":"TEST","member_class":"GOV","member_code":"REGISTRAR"},"name":"Registrar"},
			{"id":{"object_type":"MEMBER","xroad_instance":"TEST","member_class":"MUN","member_code":"TOWN"},"name":"Body TOWN"},
			{"id":{"object_type":"SUBSYSTEM","xroad_instance":"TEST","member_class":"GOV","member_code":"OFFICE","subsystem_code":"register"},"name":"Body OFFICE","subsystem_name":"Subsystem register"},
			{"id":{"object_type":"SUBSYSTEM","xroad_instance":"TEST","member_class":"MUN","member_code":"TOWN","subsystem_code":"desk"},"name":"Body TOWN","subsystem_name":"Subsystem desk"}]}`)
		var list struct {
			XMLName xml.Name `xml:"http://x-road.eu/xsd/xroad.xsd clientList"`
			Member  []struct {
				ID struct {
					Type      string `xml:"http://x-road.eu/xsd/identifiers objectType,attr"`
					Code      string `xml:"http://x-road.eu/xsd/identifiers memberCode"`
					Subsystem string `xml:"http://x-road.eu/xsd/identifiers subsystemCode"`
				} `xml:"http://x-road.eu/xsd/xroad.xsd id"`
				Name string `xml:"http://x-road.eu/xsd/xroad.xsd name"`
			} `xml:"http://x-road.eu/xsd/xroad.xsd member"`
		}
		a := b.town.Call("GET", "/listClients?xRoadInstance=TEST", nil)
		if err := xml.Unmarshal(a.Body, &list); err != nil || len(list.Member) != 5 || list.Member[4].ID.Subsystem != "desk" || list.Member[4].ID.Type != "SUBSYSTEM" {
			t.Errorf("%v %s", err, a.Body)
		}
		wantError(t, b.town.Call("GET", "/listClients?xRoadInstance=OTHER", nil), "Server.ClientProxy.InternalError")
	})
	const described = `{"member_class":"GOV","member_code":"OFFICE","object_type":"SERVICE","service_code":"described","service_type":"OPENAPI","subsystem_code":"register","xroad_instance":"TEST","endpoint_list":[{"method":"POST","path":"/p"},{"method":"GET","path":"/p/*"}]}`
	const persons = `{"member_class":"GOV","member_code":"OFFICE","object_type":"SERVICE","service_code":"persons","service_type":"REST","subsystem_code":"register","xroad_instance":"TEST","endpoint_list":[]}`
	t.Run("listMethods", func(t *testing.T) {
		a := get("listMethods")
		wantJSON(t, a, `{"service":[`+described+`,`+persons+`]}`)
		if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("X-Road-Request-Hash") == "" {
			t.Errorf("%v", a.Header)
		}
		if r := b.office.Record(a.Header.Get("X-Road-Request-Id")); r.Request == nil || r.Response == nil || r.RightId != "" {
			t.Errorf("the provider's record: %v", r)
		}
		wantError(t, b.town.Call("GET", path("listMethods"), nil), "Server.ClientProxy.InvalidClientIdentifier")
		wantError(t, b.town.Call("POST", path("listMethods"), nil, "X-Road-Client", client), "Server.ServerProxy.UnknownService")
	})
	t.Run("allowedMethods", func(t *testing.T) {
		wantJSON(t, get("allowedMethods"), `{"service":[`+persons+`]}`)
		id := b.service
		id.Service = "described"
		b.Grant("r2", b.desk, id, civibus.Endpoint{Method: "GET", Path: "/p/*"})
		wantJSON(t, get("allowedMethods"), `{"service":[`+strings.Replace(described, `{"method":"POST","path":"/p"},`, "", 1)+`,`+persons+`]}`)
		b.Grant("r3", b.desk, id)
		wantJSON(t, get("allowedMethods"), `{"service":[`+described+`,`+persons+`]}`)
	})
	t.Run("getOpenAPI", func(t *testing.T) {
		a := get("getOpenAPI?serviceCode=described")
		want := strings.Replace(description, "https://inner.example:8443/base", "/base", 1)
		if a.StatusCode != 200 || string(a.Body) != want || a.Header.Get("Content-Type") != "application/vnd.oai.openapi+json" {
			t.Errorf("%d %v %s", a.StatusCode, a.Header, a.Body)
		}
		a = get("getOpenAPI")
		wantError(t, a, "Server.ServerProxy.InvalidRequest")
		if m := message(t, a); m != "Missing serviceCode in message body" {
			t.Errorf("message %q", m)
		}
		for _, s := range []string{"unknown", "persons", "soap"} {
			wantError(t, get("getOpenAPI?serviceCode="+s), "Server.ServerProxy.InternalError")
		}
	})
}

func wantJSON(t *testing.T, a *fixture.Answer, want string) {
	t.Helper()
	var got, expected any
	if err := json.Unmarshal(a.Body, &got); err != nil {
		t.Fatalf("%d %s: %v", a.StatusCode, a.Body, err)
	}
	if err := json.Unmarshal([]byte(want), &expected); err != nil {
		t.Fatal(err)
	}
	if a.StatusCode != 200 || !reflect.DeepEqual(got, expected) {
		t.Errorf("%d %s, want %s", a.StatusCode, a.Body, want)
	}
}

func Test30ErrorDocument(t *testing.T) {
	b := newBus(t)
	var details []string
	for range 2 {
		for _, service := range []string{"unknown", "persons/../.."} {
			a := b.town.Call("GET", path(service), nil, "X-Road-Client", client)
			wantError(t, a, a.Header.Get("X-Road-Error"))
			var doc struct{ Detail string }
			if err := json.Unmarshal(a.Body, &doc); err != nil {
				t.Fatal(err)
			}
			details = append(details, doc.Detail)
		}
	}
	for i := range details {
		for j := range i {
			if details[i] == details[j] {
				t.Errorf("two errors have the detail %s", details[i])
			}
		}
	}
}

func Test31AllVerbs(t *testing.T) {
	b := newBus(t)
	for _, method := range []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"} {
		var body io.Reader
		if method != "TRACE" { // net/http sends none with it
			body = jsonBody("the body")
		}
		a := b.call(method, "/x", body)
		r, _, got := b.last.get()
		want := ""
		if method == "POST" || method == "PUT" || method == "PATCH" {
			want = "the body"
		}
		if a.StatusCode != 200 || r.Method != method || string(got) != want || string(a.Body) != want {
			t.Errorf("%s: status %d, the service got %s with %q, the client %q; want %q", method, a.StatusCode, r.Method, got, a.Body, want)
		}
		// What is not delivered is sealed and recorded all the same.
		if rec := b.office.Record(a.Header.Get("X-Road-Request-Id")); body != nil && rec.RequestBody.GetSize() != 8 {
			t.Errorf("%s: the provider's record has a request body of %d bytes, want 8", method, rec.RequestBody.GetSize())
		}
	}
	wantError(t, b.call("BREW", "/x", nil), "Server.ClientProxy.InternalError")
	a := b.town.Call("HEAD", path("unknown"), nil, "X-Road-Client", client)
	if a.StatusCode != 500 || a.Header.Get("X-Road-Error") != "Server.ServerProxy.UnknownService" || len(a.Body) != 0 {
		t.Errorf("HEAD of an unknown service: %d %v %q", a.StatusCode, a.Header, a.Body)
	}
}

func Test32MultipartBoundaryIsPreserved(t *testing.T) {
	b := newBus(t)
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("name", "väärtus")
	f, _ := w.CreateFormFile("file", "a.bin")
	_, _ = f.Write([]byte{0, 1, 2, '\r', '\n', '-', '-'})
	_ = w.Close()
	want := form.String()
	a := b.call("POST", "/x", &form, "Content-Type", w.FormDataContentType())
	wantOK(t, a, want)
	if r, _, _ := b.last.get(); r.Header.Get("Content-Type") != w.FormDataContentType() || a.Header.Get("Content-Type") != w.FormDataContentType() {
		t.Errorf("Content-Type %q and %q", r.Header.Get("Content-Type"), a.Header.Get("Content-Type"))
	}
}

func Test33MetaservicesAreNotListed(t *testing.T) {
	// The registry takes no service under their codes, and a registry that did
	// would change nothing.
	b := newBusOn(fixture.New(t), nil)
	for _, code := range []string{"listMethods", "allowedMethods", "getOpenAPI", "getWsdl"} {
		b.Grant("right-"+code, b.desk, b.office.AddService(b.register, code, &b.last, nil))
	}
	for _, service := range []string{"listMethods", "allowedMethods"} {
		a := b.town.Call("GET", path(service), nil, "X-Road-Client", client)
		for _, code := range []string{"listMethods", "allowedMethods", "getOpenAPI", "getWsdl"} {
			if a.StatusCode != 200 || bytes.Contains(a.Body, []byte(code)) {
				t.Errorf("%s: %d %s", service, a.StatusCode, a.Body)
			}
		}
	}
	wantError(t, b.town.Call("GET", path("getWsdl"), nil, "X-Road-Client", client), "Server.ServerProxy.UnknownService")
}

// TestOtherPaths holds what X-Road's port answers besides REST.
func TestOtherPaths(t *testing.T) {
	b := newBus(t)
	a := b.town.Call("GET", "/", nil)
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "text/xml; charset=utf-8" || !bytes.Contains(a.Body, []byte("<faultcode>Client.InvalidHttpMethod<")) {
		t.Errorf("GET /: %d %s", a.StatusCode, a.Body)
	}
	a = b.town.Call("POST", "/", jsonBody("<soap/>"), "Content-Type", "text/xml")
	if a.StatusCode != 200 || !bytes.Contains(a.Body, []byte("<SOAP-ENV:Fault>")) {
		t.Errorf("POST /: %d %s", a.StatusCode, a.Body)
	}
	a = b.town.Call("GET", "/r2/TEST/GOV/OFFICE/register/persons", nil, "X-Road-Client", client)
	wantError(t, a, "Server.ClientProxy.InternalError")
	if m := message(t, a); m != "Unsupported protocol version 2" {
		t.Errorf("message %q", m)
	}
}
