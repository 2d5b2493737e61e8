package node_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus/node"
)

var update = flag.Bool("update", false, "write the golden and reference files anew")

// TestConfigErrors compares what is said about each bad file with its golden text.
func TestConfigErrors(t *testing.T) {
	t.Chdir("testdata/config")
	files, err := filepath.Glob("*.toml")
	if err != nil || len(files) < 5 {
		t.Fatalf("test files: %v %v", files, err)
	}
	for _, f := range files {
		t.Run(f, func(t *testing.T) {
			_, err := node.LoadConfig(f)
			var ce *node.ConfigError
			if !errors.As(err, &ce) {
				t.Fatalf("error = %v, want a ConfigError", err)
			}
			wd, _ := os.Getwd()
			got := strings.ReplaceAll(err.Error(), wd, "$DIR") + "\n"
			golden(t, strings.TrimSuffix(f, ".toml")+".error", got)
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew)\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

func TestReferencePage(t *testing.T) {
	golden(t, "../docs/reference/config.md", node.Reference())
}

// TestEveryFieldIsDocumented fails when a field's comment or name is missing.
func TestEveryFieldIsDocumented(t *testing.T) {
	for _, section := range strings.Split(node.Reference(), "\n#")[1:] {
		title, body, _ := strings.Cut(strings.TrimLeft(section, "#"), "\n")
		paragraphs := strings.Split(strings.TrimSpace(body), "\n\n")
		last := paragraphs[len(paragraphs)-1]
		if strings.Contains(title, "Top level") {
			continue
		}
		if len(last) < 20 || strings.HasSuffix(last, "default.") || strings.Contains(title, "``") {
			t.Errorf("field %s is not documented: %q", title, last)
		}
	}
}

// TestCommentedFileLoads writes a file as init does and reads it back.
func TestCommentedFileLoads(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "genesis.toml"), "")
	in := node.Config{Member: "DEMO/GOV/0001"}
	in.Consumer.Listen = "127.0.0.1:18080"
	in.Consumer.PlainHTTP = "loopback"
	in.Evidence.AnchorInterval = node.Duration(3 * time.Second)
	in.Ledger.Peers = []string{"0123456789abcdef0123456789abcdef01234567@127.0.0.1:26656"}
	in.Consumer.Clients = []node.ClientConfig{{Subsystem: "portal", Networks: []string{"127.0.0.0/8"}}}
	in.Services = []node.ServiceConfig{{ID: "a/b", URL: "http://127.0.0.1:1/"}, {ID: "a/c", Adapter: "files", Dir: "drop"}}
	text := node.Commented(in)
	file := filepath.Join(dir, "civibus.toml")
	write(t, file, text)
	out, err := node.LoadConfig(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if out.Consumer.Listen != in.Consumer.Listen || out.Evidence.AnchorInterval != in.Evidence.AnchorInterval ||
		len(out.Services) != 2 || out.Services[1].Dir != filepath.Join(dir, "drop") || out.Services[0].Timeout != node.Duration(30*time.Second) ||
		len(out.Consumer.Clients) != 1 || out.Consumer.Clients[0].Subsystem != "portal" || len(out.Ledger.Peers) != 1 {
		t.Errorf("read back %+v\n%s", out, text)
	}
	if out.DataDir != filepath.Join(dir, "data") || out.Admin.Socket != filepath.Join(dir, "data", "admin.sock") {
		t.Errorf("paths: %s %s", out.DataDir, out.Admin.Socket)
	}
}

func TestSecretFilesOfOthersAreRefused(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"genesis.toml", "c.pem", "k.pem"} {
		write(t, filepath.Join(dir, f), "")
	}
	file := filepath.Join(dir, "civibus.toml")
	write(t, file, "member = \"DEMO/GOV/0001\"\n[consumer]\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"\n")
	if err := os.Chmod(filepath.Join(dir, "k.pem"), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := node.LoadConfig(file)
	if err == nil || !strings.Contains(err.Error(), "chmod 600") || !strings.Contains(err.Error(), ":4: consumer.tls_key") {
		t.Errorf("error = %v, want one that names line 4, the mode and the cure", err)
	}
}

// TestAdministrationStaysLocal: administration has no network address, and
// metrics have one that other machines reach only when that is said twice.
func TestAdministrationStaysLocal(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "genesis.toml"), "")
	file := filepath.Join(dir, "civibus.toml")
	load := func(lines string) error {
		write(t, file, "member = \"DEMO/GOV/0001\"\n[consumer]\nplain_http = \"loopback\"\n"+lines)
		_, err := node.LoadConfig(file)
		return err
	}
	if err := load(""); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"listen", "address", "tcp"} {
		if err := load("[admin]\n" + key + " = \"127.0.0.1:9000\"\n"); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("admin.%s: %v", key, err)
		}
	}
	for _, address := range []string{"0.0.0.0:9464", ":9464", "[::]:9464", "10.1.2.3:9464", "metrics.example:9464"} {
		if err := load("[metrics]\nlisten = \"" + address + "\"\n"); err == nil || !strings.Contains(err.Error(), "metrics.anywhere = true") {
			t.Errorf("metrics at %s: %v", address, err)
		}
		if err := load("[metrics]\nlisten = \"" + address + "\"\nanywhere = true\n"); err != nil {
			t.Errorf("metrics at %s, said twice: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:9464", "[::1]:9464", "localhost:9464", "off"} {
		if err := load("[metrics]\nlisten = \"" + address + "\"\n"); err != nil {
			t.Errorf("metrics at %s: %v", address, err)
		}
	}
}

func TestDurationAndSizeForms(t *testing.T) {
	for in, want := range map[string]time.Duration{"30d": 720 * time.Hour, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond} {
		var d node.Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || time.Duration(d) != want {
			t.Errorf("%s = %v %v", in, d, err)
		}
	}
	for _, in := range []string{"", "5", "-1d", "99999999999d", "x"} {
		var d node.Duration
		if err := d.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("duration %q was accepted as %v", in, d)
		}
	}
	for in, want := range map[string]node.Size{"1MiB": 1 << 20, "0B": 0, "3KiB": 3072, "7B": 7} {
		var s node.Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want || s.String() != in {
			t.Errorf("%s = %v %v", in, s, err)
		}
	}
	for _, in := range []string{"", "5", "-1B", "9999999999999GiB", "1MB"} {
		var s node.Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("size %q was accepted as %v", in, s)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
