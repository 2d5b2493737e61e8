package node_test

import (
	"bytes"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/civibus/civibus/node"
)

// TestHandedOverTableHoldsNoSecrets: of a member's table what belongs to this host is
// left out, and of the files of its client systems everything but certificates.
func TestHandedOverTableHoldsNoSecrets(t *testing.T) {
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("public")})
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}), cert...)
	file := filepath.Join(dir, "civibus.toml")
	for name, text := range map[string]string{
		"desk.pem":     string(both),
		"genesis.toml": "",
		"civibus.toml": `member = "DEMO/GOV/0001"
[consumer]
plain_http = "loopback"
[[hosted]]
member = "DEMO/MUN/0002"
data_dir = "/srv/office"
[hosted.keys]
passphrase = "file:/etc/civibus/office.passphrase"
[hosted.evidence]
log = 2
archive_key = "/etc/civibus/office.archive"
[[hosted.clients]]
subsystem = "desk"
certificates = ["desk.pem"]
[[hosted.services]]
id = "desk/forms"
url = "https://forms.office.example/api"
client_certificate = "forms.pem"
client_key = "forms.key"
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := node.LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	own, err := cfg.OfHosted("DEMO/MUN/0002")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	notes, err := own.PutTable(func(name string, size int64, content io.Reader) error {
		b, err := io.ReadAll(content)
		if int64(len(b)) != size {
			t.Errorf("%s: %d bytes, said %d", name, len(b), size)
		}
		got[name] = string(b)
		return err
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	if text := got["data/clients/0-0.pem"]; !bytes.Equal([]byte(text), cert) {
		t.Errorf("the client system's file: %q", text)
	}
	table := got["hosted.toml"]
	for _, s := range []string{"passphrase", "archive_key", "/srv/office"} {
		if strings.Contains(table, s) {
			t.Errorf("the table names %s of this host:\n%s", s, table)
		}
	}
	again, err := node.ParseConfig([]byte(table))
	if err != nil || len(again.Hosted) != 1 || again.Hosted[0].Evidence.Log != 2 || len(again.Hosted[0].Services) != 1 || again.Hosted[0].Clients[0].Certificates[0] != "data/clients/0-0.pem" {
		t.Errorf("the table reads as %+v, %v", again.Hosted, err)
	}
	if all := strings.Join(notes, "\n"); len(got) != 2 || !strings.Contains(all, "client_key is forms.key, which is not in the file") {
		t.Errorf("files %v, notes %s", got, all)
	}
}
