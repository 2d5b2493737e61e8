package secret_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/civibus/civibus/keys/secret"
)

const phrase = "correct horse battery staple"

func write(t *testing.T, content string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func parse(t *testing.T, text string) secret.Source {
	t.Helper()
	s, err := secret.ParseSource(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.String() != text || s.IsZero() {
		t.Errorf("%q reads as %q", text, s)
	}
	return s
}

func reveal(t *testing.T, text *secret.Text) (out string) {
	t.Helper()
	text.Use(func(b []byte) { out = string(b) })
	return out
}

func TestSourcesAreRead(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, "phrase"), []byte(phrase+"\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := writer.WriteString(phrase + "\n"); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	inherited := parse(t, "fd:"+strconv.Itoa(dup(t, reader)))
	for _, s := range []secret.Source{
		parse(t, "file:"+write(t, phrase, 0o600)), parse(t, "file:"+write(t, phrase+"\n", 0o400)), parse(t, "file:"+write(t, phrase+"\r\n", 0o600)),
		parse(t, "credential:phrase"), inherited,
	} {
		text, err := s.Read()
		if err != nil || reveal(t, text) != phrase {
			t.Errorf("%s: error %v", s, err)
		}
		if s.IsFile() != (s.Stamp() != "") {
			t.Errorf("%s: stamp %q", s, s.Stamp())
		}
	}
	if _, err := inherited.Read(); err == nil || !strings.Contains(err.Error(), "once") {
		t.Errorf("a descriptor was read twice: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	open, err := os.Open(write(t, phrase, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for _, c := range []struct {
		name, source, want string
	}{
		{"others may read", "file:" + write(t, phrase, 0o640), "chmod 600"},
		{"empty", "file:" + write(t, "\n", 0o600), "empty"},
		{"two lines", "file:" + write(t, phrase+"\nx\n", 0o600), "one line"},
		{"zero byte", "file:" + write(t, "a\x00b", 0o600), "one line"},
		{"too long", "file:" + write(t, strings.Repeat("a", 1024), 0o600), "1023 bytes"},
		{"much too long", "file:" + write(t, strings.Repeat("a", 9999), 0o600), "at most"},
		{"missing", "file:" + filepath.Join(t.TempDir(), "none"), "no such file"},
		{"folder", "file:" + t.TempDir(), "regular file"},
		{"no credentials", "credential:phrase", "LoadCredential"},
		{"descriptor of a file that others may read", "fd:" + strconv.Itoa(dup(t, open)), "chmod 600"},
		{"closed descriptor", "fd:987654", "not open"},
	} {
		_, err := parse(t, c.source).Read()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.source) || strings.Contains(err.Error(), phrase) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := (secret.Source{}).Read(); err == nil {
		t.Error("no source was read")
	}
}

func TestParseSourceRefuses(t *testing.T) {
	for _, text := range []string{"", phrase, "file:", "fd:", "fd:2", "fd:x", "fd:-1", "credential:", "credential:a/b", "credential:..", "env:PHRASE", "pass:" + phrase} {
		_, err := secret.ParseSource(text)
		if err == nil || strings.Contains(err.Error(), phrase) || strings.Contains(err.Error(), "PHRASE") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := parse(t, "file:a/b").Abs("/base").String(); got != "file:/base/a/b" {
		t.Errorf("relative to /base: %s", got)
	}
	if got := parse(t, "file:/a").Abs("/base").String(); got != "file:/a" {
		t.Errorf("an absolute path: %s", got)
	}
}

func TestNothingPrintsTheText(t *testing.T) {
	text := secret.NewText([]byte(phrase))
	if !text.Equal(secret.NewText([]byte(phrase))) || text.Equal(secret.NewText([]byte("x"))) || text.Equal(nil) || text.Len() != len(phrase) {
		t.Error("texts compare wrongly")
	}
	var out strings.Builder
	for _, v := range []any{text, *text, []*secret.Text{text}, struct{ T *secret.Text }{text}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		if j, err := json.Marshal(v); err == nil {
			out.Write(j)
		}
	}
	for _, spelling := range []string{phrase, fmt.Sprintf("%x", phrase), strings.Trim(fmt.Sprint([]byte(phrase)), "[]")} {
		if strings.Contains(out.String(), spelling) {
			t.Errorf("the text is printed as %q", spelling)
		}
	}
}
