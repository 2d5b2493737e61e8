package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/civibus/civibus/node"
)

// TestHostedConfig holds that every mistake in a hosted member's table is named with
// its line, that none of them makes the host's configuration invalid, and that what
// is left out takes the documented defaults.
func TestHostedConfig(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "genesis.toml"), nil, 0o600); err != nil { // it is looked for, not read
		t.Fatal(err)
	}
	file := filepath.Join(dir, "civibus.toml")
	text := `member = "DEMO/GOV/0001"
[consumer]
plain_http = "loopback"
[[hosted]]
member = "DEMO/MUN/0002"
[hosted.keys]
passphrase = "file:pass"
[[hosted.clients]]
subsystem = "desk"
networks = ["10.0.0.0/8"]
[[hosted.services]]
id = "desk/forms"
url = "http://127.0.0.1:9000/api"
[hosted.evidence]
log = 2
[[hosted]]
member = "DEMO/GOV/0001"
[[hosted]]
member = "DEMO/MUN/0002"
data_dir = "hosted/MUN-0002"
[[hosted.clients]]
[[hosted.services]]
id = "desk"
url = "nowhere"
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := node.LoadConfig(file)
	if err != nil {
		t.Fatalf("what is wrong with a hosted member concerns it alone: %v", err)
	}
	if err := cfg.ValidateHosted(0); err != nil {
		t.Errorf("the first is right: %v", err)
	}
	err = cfg.CheckHosted(file)
	var ce *node.ConfigError
	if !errors.As(err, &ce) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{
		":17: hosted[1].member: \"DEMO/GOV/0001\" is the node's own body",
		":19: hosted[2].member: \"DEMO/MUN/0002\" is also in hosted[0]",
		":20: hosted[2].data_dir: ", ":18: hosted[2].clients[0]: neither networks nor certificates",
		":18: hosted[2].services[0].id: ", ":18: hosted[2].services[0].url: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}

	own, err := cfg.OfHosted("DEMO/MUN/0002")
	if err != nil {
		t.Fatal(err)
	}
	if d := filepath.Join(dir, "hosted", "MUN-0002"); own.DataDir != d || own.Keys.Dir != filepath.Join(d, "keys") || own.Keys.Passphrase != "file:"+filepath.Join(dir, "pass") ||
		own.Evidence.Log != 2 || own.Evidence.BatchAge == 0 || own.Services[0].Adapter != "rest" || own.Admin.Socket != cfg.Admin.Socket || own.Hosted != nil {
		t.Errorf("the hosted member's configuration: %+v", own)
	}
	if _, err := cfg.OfHosted("DEMO/MUN/0009"); err == nil {
		t.Error("a member that is not hosted has a configuration")
	}

	// What "civibus config show" writes says the same.
	again, err := node.ParseConfig([]byte(node.Commented(cfg)))
	if err != nil {
		t.Fatalf("%v\n%s", err, node.Commented(cfg))
	}
	if got := again.WithDefaults(); !reflect.DeepEqual(got.Hosted[0], cfg.Hosted[0]) || len(got.Hosted) != 3 {
		t.Errorf("written and read again: %+v, want %+v", got.Hosted[0], cfg.Hosted[0])
	}
}
