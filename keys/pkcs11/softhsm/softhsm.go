// Package softhsm makes tokens of SoftHSM, which behave as hardware tokens do
// and are files, for tests.
//
// Trust: it runs in tests only.
package softhsm

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/civibus/civibus/keys/pkcs11"
	"github.com/civibus/civibus/keys/secret"
)

// PIN is that of all tokens.
const PIN = "471108154711"

// Label is that of all tokens.
const Label = "civibus test"

// Token is a token in a folder of its own.
type Token struct {
	Config pkcs11.Config
	t      testing.TB
	dir    string
	pin    string
	now    atomic.Int64
}

// New makes a token. It skips the test where SoftHSM is not installed or the
// program cannot use tokens. There is one at a time, since SoftHSM finds its
// tokens through the environment.
func New(t testing.TB) *Token {
	t.Helper()
	if !pkcs11.Built {
		t.Skip("this build has no PKCS#11: go test -tags pkcs11")
	}
	module := ""
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			module = path
			break
		}
	}
	util, err := exec.LookPath("softhsm2-util")
	if module == "" || err != nil {
		t.Skip("SoftHSM is not installed (Debian: apt-get install softhsm2)")
	}
	s := &Token{t: t, dir: filepath.Join(t.TempDir(), "tokens"), pin: filepath.Join(t.TempDir(), "pin")}
	conf := filepath.Join(t.TempDir(), "softhsm2.conf")
	s.write(conf, "directories.tokendir = "+s.dir+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	s.SetPIN(PIN)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command(util, "--init-token", "--free", "--label", Label, "--pin", PIN, "--so-pin", "0815").CombinedOutput(); err != nil {
		t.Fatalf("make token: %v\n%s", err, out)
	}
	s.Config = pkcs11.Config{
		Module: module, Token: Label, PIN: secret.File(s.pin), Sessions: 4,
		Clock: func() time.Time { return time.Unix(s.now.Load(), 0) },
	}
	return s
}

// SetPIN writes the PIN's file.
func (s *Token) SetPIN(pin string) { s.write(s.pin, pin+"\n") }

// PINFile is the file with the PIN.
func (s *Token) PINFile() string { return s.pin }

func (s *Token) write(path, text string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Wait lets time pass.
func (s *Token) Wait(d time.Duration) { s.now.Add(int64(d / time.Second)) }

// TakeAway pulls the token out until the function that it returns is called. A
// library that has the token open notices when it is initialised again.
func (s *Token) TakeAway() (bringBack func()) {
	s.t.Helper()
	away := s.dir + "-away"
	if err := os.Rename(s.dir, away); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		if err := os.Remove(s.dir); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Rename(away, s.dir); err != nil {
			s.t.Fatal(err)
		}
	}
}
