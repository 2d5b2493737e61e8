package rawurl_test

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/civibus/civibus/internal/rawurl"
)

// target returns the request target that net/http writes.
func target(t *testing.T, path, query string) (string, error) {
	t.Helper()
	u, err := rawurl.New("http", "host:1", path, query)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := (&http.Request{Method: "GET", URL: u, Host: u.Host, Header: http.Header{}}).Write(&out); err != nil {
		t.Fatalf("%q %q: %v", path, query, err)
	}
	line, err := bufio.NewReader(&out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	line = strings.TrimSuffix(strings.TrimPrefix(line, "GET "), " HTTP/1.1\r\n")
	return line, nil
}

func TestTargetIsKept(t *testing.T) {
	for _, c := range []struct{ path, query, want string }{
		{"", "", "/"},
		{"/", "a=%2F", "/?a=%2F"},
		{"/a%2Fb;c=%3B/+/%c3%B6", "a+b=%20&&", "/a%2Fb;c=%3B/+/%c3%B6?a+b=%20&&"},
		{"//a//", "?", "//a//??"},
		{"/ö|^`{}[]<>\"\\", "ö", "/ö|^`{}[]<>\"\\?ö"},
		{"/%", "%", "/%?%"},
		{"//ö", "", "http://host:1//ö"}, // the absolute form of the same target
	} {
		if got, err := target(t, c.path, c.query); err != nil || got != c.want {
			t.Errorf("%q %q: %q %v, want %q", c.path, c.query, got, err, c.want)
		}
	}
	for _, c := range [][2]string{{"a", ""}, {"/ ", ""}, {"/\r\n", ""}, {"/#", ""}, {"/?", ""}, {"/\x7f", ""}, {"/", "a b"}, {"/", "#"}, {"/", "\n"}} {
		if got, err := target(t, c[0], c[1]); err == nil {
			t.Errorf("%q was taken as %q", c, got)
		}
	}
}

func FuzzTarget(f *testing.F) {
	f.Add("/a%2Fb", "c=d")
	f.Add("//x", "")
	f.Add("/%zz", "%")
	f.Fuzz(func(t *testing.T, path, query string) {
		got, err := target(t, path, query)
		if err != nil {
			return
		}
		want := path
		if want == "" {
			want = "/"
		}
		if query != "" {
			want += "?" + query
		}
		if got != want && got != "http://host:1"+want {
			t.Errorf("%q %q became %q", path, query, got)
		}
		if strings.ContainsAny(got, " \r\n") {
			t.Errorf("%q would break the request line", got)
		}
	})
}
