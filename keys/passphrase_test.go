package keys_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/keys/secret"
)

const (
	phraseA = "a passphrase for the tests, the first"
	phraseB = "a passphrase for the tests, the second"
)

// passphrase writes text to a file and reads it as a passphrase.
func passphrase(t testing.TB, text string) *keys.Passphrase {
	t.Helper()
	p, _ := passphraseFile(t, text)
	return p
}

func passphraseFile(t testing.TB, text string) (p *keys.Passphrase, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := keys.CheapPassphrase(secret.File(path))
	if err != nil {
		t.Fatal(err)
	}
	return p, path
}

// fill makes keys of every purpose in a ring and returns their ids, sorted.
func fill(t testing.TB, ring *keys.Ring) []string {
	t.Helper()
	for i, purpose := range []civibus.Purpose{civibus.SealKey, civibus.LogKey, civibus.ValidatorKey, civibus.AdminKey, civibus.WitnessKey} {
		if _, err := ring.Create(purpose, civibus.Ed25519, now.Add(time.Duration(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ring.Create(civibus.SealKey, civibus.MLDSA65, now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.CreateTransport(member, []string{"gw.example:443"}, civibus.ECDSAP256SHA256, now); err != nil {
		t.Fatal(err)
	}
	return ids(ring)
}

func ids(ring *keys.Ring) []string {
	var out []string
	for _, k := range ring.List() {
		out = append(out, k.Key.Key().ID.String())
	}
	slices.Sort(out)
	return out
}

func TestEncryptedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	made := fill(t, ring)
	for _, k := range ring.List() {
		if k.Custody != keys.EncryptedFile {
			t.Errorf("%s: %s", k.File, k.Custody)
		}
		text, err := os.ReadFile(filepath.Join(dir, k.File))
		if err != nil || !bytes.Contains(text, []byte("BEGIN ENCRYPTED PRIVATE KEY")) || bytes.Contains(text, []byte("BEGIN PRIVATE KEY")) {
			t.Errorf("%s is not encrypted (%v)", k.File, err)
		}
	}
	again, err := keys.OpenRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil || !slices.Equal(ids(again), made) {
		t.Fatalf("opened again: %v", err)
	}
	signer, err := again.For(civibus.SealKey, all)
	if err != nil {
		t.Fatal(err)
	}
	if signature, err := signer.Sign(t.Context(), []byte("m")); err != nil || !signer.Key().Verify([]byte("m"), signature) {
		t.Errorf("signature: %v", err)
	}
	if _, err := again.TLS(all); err != nil {
		t.Error(err)
	}
	// Others' tools read the files.
	if program, err := exec.LookPath("openssl"); err == nil {
		real := filepath.Join(t.TempDir(), "phrase")
		if err := os.WriteFile(real, []byte(phraseA+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, k := range ring.List() {
			if k.Key.Key().Algorithm.PostQuantum() {
				continue // OpenSSL reads these from 3.5 on
			}
			out, err := exec.Command(program, "pkey", "-in", filepath.Join(dir, k.File), "-passin", "file:"+real, "-pubout").CombinedOutput()
			block, _ := pem.Decode(out)
			if err != nil || block == nil || !bytes.Equal(block.Bytes, k.Key.Key().SPKI) {
				t.Errorf("openssl %s: %v %s", k.File, err, out)
			}
		}
	}
}

func TestAWrongPassphraseIsSaidAtOnce(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, ring)
	wrong, path := passphraseFile(t, phraseB)
	_, err = keys.OpenRing(dir, keys.WithPassphrase(wrong))
	if !errors.Is(err, keys.ErrPassphrase) || strings.Count(err.Error(), ".pem") != 1 || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), phraseB) {
		t.Errorf("wrong passphrase: %v", err)
	}
	_, err = keys.OpenRing(dir)
	if !errors.Is(err, keys.ErrEncrypted) || strings.Count(err.Error(), ".pem") != 1 {
		t.Errorf("no passphrase: %v", err)
	}
	// One damaged file among good ones is named, and the passphrase is not blamed alone.
	name := ring.List()[2].File
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	block.Bytes[len(block.Bytes)-1] ^= 1
	if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenRing(dir, keys.WithPassphrase(passphrase(t, phraseA))); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged file: %v", err)
	}
}

// TestAnAlteredFileIsFoundOut alters a private key such that it decrypts to
// another key, which its file's name tells.
func TestAnAlteredFileIsFoundOut(t *testing.T) {
	dir := t.TempDir()
	k := generate(t, civibus.SealKey, civibus.Ed25519)
	other := generate(t, civibus.SealKey, civibus.Ed25519)
	path := filepath.Join(dir, k.FileName(now))
	if err := other.Write(path); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenRing(dir); err == nil || !strings.Contains(err.Error(), "damaged or exchanged") {
		t.Errorf("error %v", err)
	}
}

func TestPlainDirectoriesOpenWithAWarning(t *testing.T) {
	dir := t.TempDir()
	plain, err := keys.CreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	made := fill(t, plain)
	ring, err := keys.OpenRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil || !slices.Equal(ids(ring), made) {
		t.Fatalf("error %v", err)
	}
	warnings := ring.Warnings(now)
	if len(warnings) != len(made) || !strings.Contains(warnings[0].Message, "not encrypted") || warnings[0].File == "" || warnings[0].Key.IsZero() {
		t.Errorf("warnings %+v", warnings)
	}
	// New keys are encrypted, and what is cheap to guess is said.
	if _, err := ring.Create(civibus.SealKey, civibus.Ed25519, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	weak := 0
	for _, w := range ring.Warnings(now) {
		if strings.Contains(w.Message, "scrypt with N=2") {
			weak++
		}
	}
	if weak != 1 {
		t.Errorf("%d warnings of weak encryption", weak)
	}
}

func TestChangePassphrase(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.CreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	made := fill(t, ring)
	a, b := passphrase(t, phraseA), passphrase(t, phraseB)
	open := func(p *keys.Passphrase) error {
		ring, err := keys.OpenRing(dir, keys.WithPassphrase(p))
		if err == nil && !slices.Equal(ids(ring), made) {
			return errors.New("other keys")
		}
		return err
	}
	for _, c := range []struct {
		name      string
		from, to  *keys.Passphrase
		other     *keys.Passphrase
		otherWant error
	}{{"encrypt", nil, a, b, keys.ErrPassphrase}, {"change", a, b, a, keys.ErrPassphrase}, {"decrypt", b, nil, nil, nil}, {"again", nil, b, nil, keys.ErrEncrypted}} {
		n, err := keys.ChangePassphrase(dir, c.from, c.to)
		if err != nil || n != len(made) {
			t.Fatalf("%s: %d files, error %v", c.name, n, err)
		}
		if err := open(c.to); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := open(c.other); !errors.Is(err, c.otherWant) {
			t.Errorf("%s: the other passphrase: %v", c.name, err)
		}
	}
	// A wrong one changes nothing, nor does a short one, and nothing is left lying.
	for name, c := range map[string][2]*keys.Passphrase{"wrong": {a, b}, "none": {nil, a}, "short": {b, passphrase(t, "short")}} {
		if _, err := keys.ChangePassphrase(dir, c[0], c[1]); err == nil || !strings.Contains(err.Error(), "nothing is changed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := open(b); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s is left", e.Name())
		}
		if info, err := e.Info(); err == nil && filepath.Ext(e.Name()) == ".pem" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
}

// TestAChangeThatIsInterrupted stops a change before each of its steps and finds
// all keys under the old passphrase or all under the new one, both as the
// directory is found and after it was opened and the change carried through.
func TestAChangeThatIsInterrupted(t *testing.T) {
	a, b := passphrase(t, phraseA), passphrase(t, phraseB)
	start := t.TempDir()
	ring, err := keys.CreateRing(start, keys.WithPassphrase(a))
	if err != nil {
		t.Fatal(err)
	}
	made := fill(t, ring)
	for stop, ended := 0, false; !ended; stop++ {
		// 1. The change stops.
		dir := filepath.Join(t.TempDir(), "keys")
		if err := os.CopyFS(dir, os.DirFS(start)); err != nil {
			t.Fatal(err)
		}
		restrict(t, dir)
		var seen []string
		func() {
			defer func() { _ = recover() }()
			if _, err := keys.ChangePassphraseIn(dir, a, b, func(step string) {
				if len(seen) == stop {
					panic("the machine stops")
				}
				seen = append(seen, step)
			}); err != nil {
				t.Fatal(err)
			}
			ended = true
		}()
		want, other := a, b
		if slices.Contains(seen, "commit") {
			want, other = b, a
		}
		// 2. As it is found, for instance where it can only be read.
		for _, k := range ring.List() {
			if _, err := keys.OpenEncrypted(filepath.Join(dir, k.File), want); err != nil {
				t.Errorf("after %v: %v", seen, err)
			}
			if _, err := keys.OpenEncrypted(filepath.Join(dir, k.File), other); !errors.Is(err, keys.ErrPassphrase) {
				t.Errorf("after %v: the other passphrase: %v", seen, err)
			}
		}
		// 3. Opened.
		opened, err := keys.OpenRing(dir, keys.WithPassphrase(want))
		if err != nil || !slices.Equal(ids(opened), made) {
			t.Fatalf("after %v: %v", seen, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, keys.Changed)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %v: the change was not carried through: %v", seen, err)
		}
		// 4. Changed again.
		if n, err := keys.ChangePassphrase(dir, want, other); err != nil || n != len(made) {
			t.Errorf("after %v: next change: %d files, error %v", seen, n, err)
		}
		if ended && len(seen) != 3+2*len(made) {
			t.Errorf("steps %v", seen)
		}
	}
}

// restrict sets the modes that copying does not keep.
func restrict(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".pem" {
			err = os.Chmod(path, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAChangeThatIsKilled kills processes that change a passphrase to and fro.
func TestAChangeThatIsKilled(t *testing.T) {
	if dir := os.Getenv("KEYS_TEST_CHANGE"); dir != "" {
		changeForever(t, dir)
		return
	}
	dir := t.TempDir()
	pathA, pathB := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for path, text := range map[string]string{pathA: phraseA, pathB: phraseB} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(passphrase(t, phraseA)))
	if err != nil {
		t.Fatal(err)
	}
	made := fill(t, ring)
	changes := 0
	for round := range 12 {
		c := exec.Command(os.Args[0], "-test.run=^TestAChangeThatIsKilled$")
		c.Env = append(os.Environ(), "KEYS_TEST_CHANGE="+dir, "KEYS_TEST_A="+pathA, "KEYS_TEST_B="+pathB)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		// It says a letter at each step of its changes; it dies after some of them.
		buffer := make([]byte, 1)
		for range 1 + round*5 {
			if _, err := out.Read(buffer); err != nil {
				t.Fatal(err)
			}
			changes++
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		opened := 0
		for _, path := range []string{pathA, pathB} {
			p, err := keys.CheapPassphrase(secret.File(path))
			if err != nil {
				t.Fatal(err)
			}
			ring, err := keys.OpenRing(dir, keys.WithPassphrase(p))
			switch {
			case err == nil && slices.Equal(ids(ring), made):
				opened++
			case !errors.Is(err, keys.ErrPassphrase):
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if opened != 1 {
			t.Fatalf("round %d: %d of the two passphrases open the directory", round, opened)
		}
	}
}

func changeForever(t *testing.T, dir string) {
	var p [2]*keys.Passphrase
	for i, name := range []string{"KEYS_TEST_A", "KEYS_TEST_B"} {
		var err error
		if p[i], err = keys.CheapPassphrase(secret.File(os.Getenv(name))); err != nil {
			t.Fatal(err)
		}
	}
	for {
		for i := range p {
			// The one of two that fits changes to the other.
			_, err := keys.ChangePassphraseIn(dir, p[i], p[1-i], func(string) { _, _ = os.Stdout.WriteString(".") })
			if err != nil && !errors.Is(err, keys.ErrPassphrase) {
				t.Fatal(err)
			}
		}
	}
}

// TestARunningRingFollowsAChange: the passphrase's file is exchanged after the
// change, and readers and writers go on all the while.
func TestARunningRingFollowsAChange(t *testing.T) {
	dir := t.TempDir()
	current, path := passphraseFile(t, phraseA)
	ring, err := keys.CreateRing(dir, keys.WithPassphrase(current))
	if err != nil {
		t.Fatal(err)
	}
	made := fill(t, ring)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := ring.Reload(); err != nil && !errors.Is(err, keys.ErrPassphrase) {
					t.Error(err)
				}
				if _, err := ring.For(civibus.SealKey, all); err != nil || len(ring.List()) != len(made) {
					t.Errorf("%d keys, error %v", len(ring.List()), err)
				}
			}
		})
	}
	follow := func(phrase string) {
		if err := os.WriteFile(path, []byte(phrase), 0o600); err != nil {
			t.Error(err)
		}
		if err := ring.Reload(); err != nil {
			t.Error(err)
		}
	}
	a, b := passphrase(t, phraseA), passphrase(t, phraseB)
	for range 3 {
		if _, err := keys.ChangePassphrase(dir, a, b); err != nil {
			t.Error(err)
		}
		// Between the change and the new file, nothing is added under the old passphrase.
		if _, err := ring.Create(civibus.SealKey, civibus.Ed25519, now.Add(time.Hour)); !errors.Is(err, keys.ErrPassphrase) {
			t.Errorf("a key was added under the old passphrase: %v", err)
		}
		follow(phraseB)
		if _, err := keys.ChangePassphrase(dir, b, a); err != nil {
			t.Error(err)
		}
		follow(phraseA)
	}
	close(stop)
	group.Wait()
	if _, err := ring.Create(civibus.SealKey, civibus.Ed25519, now.Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

func TestCreatePassphraseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := keys.CreatePassphraseFile(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 65 {
		t.Fatalf("%d bytes, error %v", len(text), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if err := keys.CreatePassphraseFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written over: %v", err)
	}
	p, err := keys.CheapPassphrase(secret.File(path))
	if err != nil {
		t.Fatal(err)
	}
	k := generate(t, civibus.LogKey, civibus.MLDSA44)
	name := filepath.Join(t.TempDir(), k.FileName(now))
	if err := k.WriteEncrypted(name, p); err != nil {
		t.Fatal(err)
	}
	if again, err := keys.OpenEncrypted(name, p); err != nil || again.Key().ID != k.Key().ID {
		t.Errorf("error %v", err)
	}
	if p.String() != "passphrase from file:"+path || (*keys.Passphrase)(nil).String() != "no passphrase" {
		t.Errorf("named %q", p)
	}
}

// TestRealCost opens a directory at the cost of production.
func TestRealCost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(path, []byte(phraseA), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := keys.ReadPassphrase(secret.File(path))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.CreateRing(t.TempDir(), keys.WithPassphrase(p))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, ring)
	if w := ring.Warnings(now); len(w) != 0 {
		t.Errorf("warnings %+v", w)
	}
	if _, err := keys.ReadPassphrase(secret.File(path + "-none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
