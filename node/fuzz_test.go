package node_test

import (
	"errors"
	"testing"
	"time"

	"github.com/civibus/civibus/node"
)

// start is when the fuzzed instances are founded.
var start = time.Unix(1_800_000_000, 0)

// FuzzParseConfig feeds arbitrary files: never a panic, not in Validate either;
// what loads loads again from its own commented text and is the same.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("member = \"DEMO/GOV/0001\"\n[ledger]\nlisten = \"127.0.0.1:1\"\n[[services]]\nid = \"a/b\"\nurl = \"http://x\"\n"))
	f.Add([]byte("[evidence]\nreserve = \"9999999999999999999EiB\"\nbatch_age = \"-1ns\"\n[[consumer.clients]]\nnetworks = [\"0/0\"]\n"))
	f.Add([]byte("member = 1\n[consumer\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := node.ParseConfig(text)
		if err != nil {
			return
		}
		cfg = cfg.WithDefaults()
		var ce *node.ConfigError
		if err := cfg.Validate(); err != nil && !errors.As(err, &ce) {
			t.Fatalf("Validate: %v", err)
		}
		again, err := node.ParseConfig([]byte(node.Commented(cfg)))
		if err != nil {
			t.Fatalf("its commented text does not load: %v\n%s", err, node.Commented(cfg))
		}
		if one, two := node.Commented(cfg), node.Commented(again.WithDefaults()); one != two {
			t.Fatalf("written, read and written again:\n%s\n%s", one, two)
		}
	})
}

// FuzzParseBody feeds arbitrary body files to what makes a genesis of them.
func FuzzParseBody(f *testing.F) {
	f.Add([]byte("format = 'civibus-body/v1'\nmember = 'DEMO/GOV/0001'\nname = 'x'\nledger = 'id@127.0.0.1:1'\n[[keys]]\npurpose = 'seal'\nspki = 'AA=='\n"))
	f.Add([]byte("format = 'civibus-body/v1'\nmember = 'DEMO/GOV/0001'\n[[gateways]]\ncode = ''\naddress = ':'\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := node.ParseBody(text)
		if err != nil {
			return
		}
		out, err := b.TOML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := node.ParseBody(out); err != nil {
			t.Fatalf("its own text does not load: %v\n%s", err, out)
		}
		_, _ = node.Found("", start, []node.Body{b}) // refused as a rule: no panic
	})
}

// FuzzJoinFile feeds arbitrary files to what reads join files, offered keys and the
// section of the configuration that joining edits: never a panic, and what is read
// is written and read again.
func FuzzJoinFile(f *testing.F) {
	f.Add([]byte("format = 'civibus-join/v1'\nchain_id = 'demo-1'\nrole = 'light'\nmember = 'DEMO/GOV/0001'\n[[keys]]\npurpose = 'seal'\nspki = 'AA=='\npossession = ''\n"))
	f.Add([]byte("format = 'civibus-key/v1'\nchain_id = 'demo-1'\nmember = 'DEMO/GOV/0001'\npurpose = 'admin'\nspki = 'AA=='\npossession = 'AA=='\n"))
	f.Add([]byte("member = 'x'\n[ledger]\n# peers = []\nmode = 'light'\n[log]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _, _ = node.ParseOffer(text, "demo-1")
		if out, err := node.EditLedger(text, map[string]string{"mode": `"follower"`}); err == nil {
			c, err := node.ParseConfig(out)
			if err != nil || c.Ledger.Mode != "follower" {
				t.Fatalf("edited: mode %q, %v\n%s", c.Ledger.Mode, err, out)
			}
		}
		j, err := node.ParseJoin(text)
		if err != nil {
			return
		}
		_ = j.Check("demo-1", "")
		_, _ = j.Admission(1, 1)
		out, err := j.TOML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := node.ParseJoin(out); err != nil {
			t.Fatalf("its own text does not load: %v\n%s", err, out)
		}
	})
}
