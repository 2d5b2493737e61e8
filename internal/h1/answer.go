package h1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// answer is an answer and its body, in one allocation.
type answer struct {
	http.Response
	body body
}

var errHeadTooLong = errors.New("h1: the answer's head is too long")

// readAnswer reads heads until the one of the answer proper.
func (c *conn) readAnswer(method string) (*answer, error) {
	room := c.pool.config.MaxHeadBytes
	for {
		head, err := c.readHead(&room, true)
		if err != nil {
			return nil, err
		}
		a, err := parseAnswer(head, method)
		if err != nil {
			return nil, err
		}
		if a.StatusCode >= 200 || a.StatusCode == http.StatusSwitchingProtocols {
			a.body.begin(c, a)
			return a, nil
		}
	}
}

// readHead reads up to an empty line. What it returns has lines that end in "\n"
// and hold no other control characters but tabs. bareLF says that a line may
// have ended so before.
func (c *conn) readHead(room *int, bareLF bool) (string, error) {
	head := c.scratch[:0]
	defer func() {
		if cap(head) <= keepScratch {
			c.scratch = head
		}
	}()
	for start := 0; ; {
		part, err := c.in.ReadSlice('\n')
		if *room -= len(part); *room < 0 {
			return "", errHeadTooLong
		}
		head = append(head, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		line := head[start : len(head)-1]
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		} else if !bareLF {
			return "", errors.New("h1: a line of a trailer that does not end in CR LF")
		}
		if len(line) == 0 {
			return string(head[:start]), nil
		}
		if !printable(line) {
			return "", errors.New("h1: a control character in the answer's head")
		}
		head = append(head[:start+len(line)], '\n')
		start = len(head)
	}
}

// parseAnswer parses what readHead read.
func parseAnswer(head, method string) (*answer, error) {
	// 1. The status line.
	line, rest, _ := strings.Cut(head, "\n")
	a := &answer{}
	if err := a.parseStatus(line); err != nil {
		return nil, err
	}
	// 2. The fields.
	var err error
	if a.Header, err = parseFields(rest); err != nil {
		return nil, err
	}
	// 3. Where the body ends.
	return a, a.frame(method)
}

func (a *answer) parseStatus(line string) error {
	const form = len("HTTP/1.x 200")
	if len(line) < form || line[:7] != "HTTP/1." || line[8] != ' ' || len(line) > form && line[form] != ' ' {
		return errors.New("h1: malformed status line")
	}
	a.Proto, a.ProtoMajor, a.ProtoMinor = line[:8], 1, int(line[7]-'0')
	for _, digit := range []byte(line[9:12]) {
		if digit < '0' || digit > '9' {
			return errors.New("h1: malformed status line")
		}
		a.StatusCode = 10*a.StatusCode + int(digit-'0')
	}
	if a.ProtoMinor != 0 && a.ProtoMinor != 1 || a.StatusCode < 100 {
		return fmt.Errorf("h1: the answer is HTTP/1.%d with the status %d", a.ProtoMinor, a.StatusCode)
	}
	a.Status = line[9:]
	return nil
}

// parseFields parses lines of fields.
func parseFields(lines string) (http.Header, error) {
	n := strings.Count(lines, "\n")
	header := make(http.Header, n)
	values := make([]string, n) // one allocation for what is mostly one value each
	last := ""
	for lines != "" {
		var line string
		line, lines, _ = strings.Cut(lines, "\n")
		if line[0] == ' ' || line[0] == '\t' { // a value that goes on (RFC 9112 section 5.2)
			of := header[last]
			if last == "" {
				return nil, errors.New("h1: the fields begin in the middle of one")
			}
			of[len(of)-1] = trim(of[len(of)-1] + " " + trim(line))
			continue
		}
		colon := strings.IndexByte(line, ':')
		if colon < 0 || !token(line[:colon]) {
			return nil, errors.New("h1: malformed field in the answer")
		}
		name, value := textproto.CanonicalMIMEHeaderKey(line[:colon]), trim(line[colon+1:])
		if of, ok := header[name]; ok {
			header[name] = append(of, value)
		} else {
			values[0] = value
			header[name], values = values[:1:1], values[1:]
		}
		last = name
	}
	return header, nil
}

// frame finds out where the body ends (RFC 9112 section 6.3) and refuses what
// two readers may understand in two ways.
func (a *answer) frame(method string) error {
	codings, coded := a.Header["Transfer-Encoding"]
	length, err := contentLength(a.Header)
	switch {
	case err != nil:
		return err
	case coded && length >= 0:
		return errors.New("h1: the answer has both a Content-Length and a Transfer-Encoding")
	case coded && (a.ProtoMinor == 0 || len(codings) != 1 || !strings.EqualFold(codings[0], "chunked")):
		return fmt.Errorf("h1: the answer is HTTP/1.%d with the Transfer-Encoding %.60q", a.ProtoMinor, codings)
	}
	a.Close = a.ProtoMinor == 0 || hasToken(a.Header["Connection"], "close")
	a.body.reusable = !a.Close
	switch {
	case method == http.MethodHead:
		a.ContentLength = length
	case a.StatusCode == http.StatusSwitchingProtocols:
		a.body.reusable = false // what follows is no HTTP
	case a.StatusCode < 200, a.StatusCode == http.StatusNoContent:
		// What announces a body nevertheless may send it.
		a.body.reusable = a.body.reusable && !coded && length <= 0
	case a.StatusCode == http.StatusNotModified:
	case coded:
		a.ContentLength, a.body.framing = -1, chunked
	case length == 0:
	case length > 0:
		a.ContentLength, a.body.framing, a.body.left = length, sized, length
	default:
		a.ContentLength, a.body.framing = -1, untilClosed
		a.Close, a.body.reusable = true, false
	}
	if coded {
		delete(a.Header, "Transfer-Encoding")
		a.TransferEncoding = codings
		a.Trailer, err = announced(a.Header)
	}
	return err
}

// contentLength returns -1 where there is none.
func contentLength(header http.Header) (int64, error) {
	values, ok := header["Content-Length"]
	if !ok {
		return -1, nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return 0, fmt.Errorf("h1: the answer has the lengths %.60q", values)
		}
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("h1: the answer has the length %.60q", values[0])
	}
	header["Content-Length"] = values[:1]
	return int64(n), nil
}

// announced takes the names of the trailers out of a header.
func announced(header http.Header) (http.Header, error) {
	fields, ok := header["Trailer"]
	if !ok {
		return nil, nil
	}
	delete(header, "Trailer")
	var trailer http.Header
	for _, field := range fields {
		for name := range strings.SplitSeq(field, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(trim(name)); name == "" {
				continue
			}
			if ownField(name) {
				return nil, fmt.Errorf("h1: the answer announces the trailer %s", name)
			}
			if trailer == nil {
				trailer = make(http.Header)
			}
			trailer[name] = nil
		}
	}
	return trailer, nil
}

func hasToken(fields []string, want string) bool {
	for _, field := range fields {
		for name := range strings.SplitSeq(field, ",") {
			if strings.EqualFold(trim(name), want) {
				return true
			}
		}
	}
	return false
}
