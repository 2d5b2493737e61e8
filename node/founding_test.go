package node_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/node"
)

func newBody(t *testing.T, dir, id string) node.Body {
	t.Helper()
	member, err := civibus.ParseMemberID(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := node.NewBody(node.BodyOptions{
		Member: member, Name: "Body " + id, KeysDir: filepath.Join(dir, "keys"), ServerCode: "g",
		Provider: "127.0.0.1:1", Ledger: "127.0.0.1:2", Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBodiesFoundAnInstance(t *testing.T) {
	a, b := newBody(t, t.TempDir(), "DEMO/GOV/1"), newBody(t, t.TempDir(), "DEMO/MUN/2")
	g, err := node.Found("", time.Now(), []node.Body{a, b})
	if err != nil {
		t.Fatal(err)
	}
	if g.ChainID != "demo-1" || len(g.Members) != 2 || len(g.Validators) != 2 || len(g.Registrars) != 2 {
		t.Errorf("genesis %+v", g)
	}
	text, err := g.TOML()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "genesis.toml")
	write(t, file, string(text))
	again, err := node.ReadGenesis(file)
	if err != nil || len(again.Members) != 2 || again.ChainID != g.ChainID {
		t.Errorf("read back %+v %v", again, err)
	}
}

func TestBodyFileReadsBackAndHoldsNoSecret(t *testing.T) {
	dir := t.TempDir()
	b := newBody(t, dir, "DEMO/GOV/1")
	text, err := b.TOML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "PRIVATE") {
		t.Error("the body file holds a private key")
	}
	again, err := node.ParseBody(text)
	if err != nil || again.Member != b.Member || len(again.Keys) != 6 || again.Ledger != b.Ledger {
		t.Errorf("read back %+v %v", again, err)
	}
	for _, bad := range []string{"", "format = \"x\"", string(text) + "\nmore = 1\n"} {
		if _, err := node.ParseBody([]byte(bad)); err == nil {
			t.Errorf("body file %.20q was accepted", bad)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(files) != 8 {
		t.Fatalf("key files %v %v", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f, ".crt") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
}

func TestFoundingRefusesWhatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	b := newBody(t, dir, "DEMO/GOV/1")
	member, _ := civibus.ParseMemberID("DEMO/GOV/1")
	if _, err := node.NewBody(node.BodyOptions{Member: member, Name: "again", KeysDir: filepath.Join(dir, "keys")}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("keys were made over keys: %v", err)
	}
	if _, err := node.NewBody(node.BodyOptions{Member: member, KeysDir: t.TempDir()}); err == nil {
		t.Error("a body without a name was made")
	}
	other := newBody(t, t.TempDir(), "TEST/GOV/1")
	if _, err := node.Found("", time.Now(), []node.Body{b, other}); err == nil || !strings.Contains(err.Error(), "an instance has one name") {
		t.Errorf("bodies of two instances: %v", err)
	}
	if _, err := node.Found("", time.Now(), nil); err == nil {
		t.Error("nobody founded an instance")
	}
	if _, err := node.Found("", time.Now(), []node.Body{b, b}); err == nil {
		t.Error("one body founded an instance twice")
	}
}
