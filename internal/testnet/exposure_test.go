package testnet_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/admin"
	"github.com/civibus/civibus/internal/testnet"
	"github.com/civibus/civibus/node"
)

// TestStrangersAreRefused walks over every route that the source names, on every
// face that listens on a network, with every method, without a certificate and
// with one that nobody knows. Nothing is answered, and nothing is written.
func TestStrangersAreRefused(t *testing.T) {
	foreign, _, _ := stranger(t)
	_, served, servedKey := stranger(t)
	n := networkWith(t, func(o *testnet.Options) {
		o.Configure = func(i int, c *node.Config) {
			if i == 0 { // client systems are known by their certificates
				c.Consumer.PlainHTTP, c.Consumer.TLSCertificate, c.Consumer.TLSKey = "never", served, servedKey
				c.Consumer.Clients = []node.ClientConfig{{Subsystem: "population", Certificates: []string{served}}}
			}
		}
	})
	b := n.Bodies[0]
	before := written(t, b)
	routes := routesOf(t)
	for _, face := range []struct {
		name, base   string
		certificates []*tls.Certificate
		allowed      func(method, path string) bool // to be answered to anybody
	}{
		{"provider", "https://" + b.Config.Provider.Listen, []*tls.Certificate{nil, foreign}, nil},
		{"consumer", "https://" + b.Config.Consumer.Listen, []*tls.Certificate{nil, foreign}, func(method, path string) bool {
			return method == http.MethodGet && path == "/listClients" // X-Road's list of the registry's clients is open
		}},
		{"metrics", b.Node().MetricsURL(), []*tls.Certificate{nil}, func(method, path string) bool {
			return method == http.MethodGet && slices.Contains([]string{"/metrics", "/healthz", "/readyz"}, path)
		}},
	} {
		t.Run(face.name, func(t *testing.T) {
			asked := 0
			for _, certificate := range face.certificates {
				h := strangerClient(certificate)
				defer h.CloseIdleConnections()
				for _, path := range routes {
					for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
						asked++
						status := ask(t, h, method, face.base+path)
						open := face.allowed != nil && face.allowed(method, path)
						if status != 0 && status < 400 && !open || open && status != 200 && status != 503 {
							t.Errorf("%s %s: status %d", method, path, status)
						}
					}
				}
			}
			t.Logf("%d requests", asked)
		})
	}
	if after := written(t, b); after != before {
		t.Errorf("something was written: %+v, before %+v", after, before)
	}
}

// stranger makes a certificate that is in no registry and no rule.
func stranger(t *testing.T) (pair *tls.Certificate, certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(t.TempDir(), "certificate.pem"), filepath.Join(t.TempDir(), "key.pem")
	for name, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, certificate, key
}

func strangerClient(certificate *tls.Certificate) *http.Client {
	c := &tls.Config{InsecureSkipVerify: true}
	if certificate != nil {
		c.Certificates = []tls.Certificate{*certificate}
	}
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: c}, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ask returns the status of an answer, 0 without one.
func ask(t *testing.T, h *http.Client, method, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Road-Client", "DEMO/GOV/2001/portal")
	resp, err := h.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && bytes.Contains(body, []byte("Fault")) && bytes.Contains(body, []byte("/soap/envelope/")) {
		return http.StatusInternalServerError // SOAP has its errors in the body, whatever the status
	}
	return resp.StatusCode
}

// things are counts of what strangers must not add to.
type things struct{ members, keys, rights, proposals, answered int }

func written(t *testing.T, b *testnet.Body) (out things) {
	t.Helper()
	a := b.Admin()
	members, err1 := a.Members(t.Context(), admin.ListOptions{})
	keys, err2 := a.Keys(t.Context(), admin.ListOptions{})
	rights, err3 := a.Rights(t.Context(), admin.ListOptions{})
	proposals, err4 := a.Proposals(t.Context(), admin.ListOptions{})
	exchanges, err5 := a.Exchanges(t.Context(), 100)
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range exchanges.Items {
		if e.Outcome == "answered" {
			out.answered++
		}
	}
	out.members, out.keys, out.rights, out.proposals = len(members.Items), len(keys.Items), len(rights.Items), len(proposals.Items)
	return out
}

// routesOf are the paths that the source of the faces names in string literals,
// whoever serves them where: patterns of http.ServeMux, constants and parts that
// are put together below /civibus/ledger/v1/.
func routesOf(t *testing.T) []string {
	t.Helper()
	literal := regexp.MustCompile(`^(?:(?:GET|POST|PUT|PATCH|DELETE|HEAD) )?(/[A-Za-z0-9][A-Za-z0-9/_{}.-]*)$`)
	wildcard := regexp.MustCompile(`\{[^}]*\}`)
	found := map[string]bool{"/": true, "/r1/DEMO/GOV/1001/population/persons/38001010001": true, "/r1/DEMO/GOV/1001/population/listMethods": true}
	for _, dir := range []string{"node", "gateway", "ledger", "transport", "admin", "internal/obs"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					text, _ := strconv.Unquote(l.Value)
					if m := literal.FindStringSubmatch(text); m != nil {
						route := wildcard.ReplaceAllString(m[1], "1")
						found[route] = true
						found["/civibus/ledger/v1"+route] = true
					} else if regexp.MustCompile(`^[a-z]+(/[a-z0-9{}/]*)?$`).MatchString(text) && strings.HasPrefix(path, filepath.Join("../..", "ledger")) {
						found["/civibus/ledger/v1/"+wildcard.ReplaceAllString(text, "1")] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for route := range found {
		out = append(out, route)
	}
	slices.Sort(out)
	for _, known := range []string{"/civibus/v1/cosignature", "/civibus/v1/receipts", "/civibus/ledger/v1/submit", "/civibus/ledger/v1/status", "/v1/changes", "/v1/keys", "/metrics"} {
		if !slices.Contains(out, known) {
			t.Errorf("route %s is not among the %d found", known, len(out))
		}
	}
	return out
}

// TestListeners: a process listens on the ports of its configuration and on no
// other, and administration is on a Unix socket alone.
func TestListeners(t *testing.T) {
	n := networkWith(t, func(*testnet.Options) {})
	expected := map[string]bool{}
	for _, b := range n.Bodies {
		for _, address := range []string{b.Config.Consumer.Listen, b.Config.Provider.Listen, b.Config.Ledger.Listen, b.Config.Metrics.Listen} {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			expected[port] = true
		}
		for _, service := range b.Config.Services { // which this test serves itself
			if u, err := url.Parse(service.URL); err == nil {
				expected[u.Port()] = true
			}
		}
	}
	own := sockets(t)
	listening := 0
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Skipf("this system does not tell who listens: %v", err)
		}
		for _, line := range bytes.Split(text, []byte("\n"))[1:] {
			f := strings.Fields(string(line))
			if len(f) < 10 || f[3] != "0A" || !own[f[9]] { // 0A: it listens
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			listening++
			if !expected[strconv.FormatUint(port, 10)] {
				t.Errorf("something listens at %s, which no configuration names", f[1])
			}
		}
	}
	if listening < len(expected) {
		t.Errorf("%d listeners found, the configurations have %d", listening, len(expected))
	}
}

// sockets are the inodes of this process's sockets.
func sockets(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("this system does not tell who listens: %v", err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				out[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	return out
}
