package demostack

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxPermitRequest is the largest request that the permit system reads.
const maxPermitRequest = 1 << 20

// Permits is a running permit system. It is of the kind that was written before
// networks: it looks into a directory, reads CSV requests, and leaves CSV answers.
//
// A request in in/NAME.req has lines of the form
//
//	STATUS;permit number
//	LIST;holder code
//
// and the answer in out/NAME.ans has a header line and one line for each permit
// found. A request that it cannot read gets out/NAME.err with one line of text.
type Permits struct {
	dir  string
	stop context.CancelFunc
	done chan struct{}
	err  error
}

type permit struct{ number, holder, kind, status, until string }

// StartPermits starts the permit system on a directory, in which it expects or
// makes in/ and out/. It looks every poll (default 100 ms) until ctx ends or Close.
func StartPermits(ctx context.Context, dir string, poll time.Duration) (*Permits, error) {
	if poll <= 0 {
		poll = 100 * time.Millisecond
	}
	for _, part := range []string{"in", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o770); err != nil {
			return nil, fmt.Errorf("start permit system: %w", err)
		}
	}
	ctx, stop := context.WithCancel(ctx)
	p := &Permits{dir: dir, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		ticker := time.NewTicker(poll)
		defer ticker.Stop()
		for {
			if err := p.work(); err != nil {
				p.err = err
				return
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return p, nil
}

// Close stops the system after the file under way and says what stopped it
// before, if anything did.
func (p *Permits) Close() error {
	p.stop()
	<-p.done
	return p.err
}

// Wait returns when the system has stopped, by Close or by itself.
func (p *Permits) Wait() { <-p.done }

// work answers all requests that are there.
func (p *Permits) work() error {
	entries, err := os.ReadDir(filepath.Join(p.dir, "in"))
	if err != nil {
		return fmt.Errorf("permit system: %w", err)
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".req")
		if !ok || strings.HasPrefix(name, ".") || !entry.Type().IsRegular() {
			continue
		}
		if err := p.answer(name); err != nil {
			return fmt.Errorf("permit system: request %s: %w", name, err)
		}
	}
	return nil
}

// answer leaves the answer and only then removes the request, so that a crash
// repeats the work and loses none.
func (p *Permits) answer(name string) error {
	request := filepath.Join(p.dir, "in", name+".req")
	f, err := os.Open(request)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxPermitRequest+1))
	_ = f.Close()
	if err != nil {
		return err
	}
	text, suffix := process(string(content)), ".ans"
	if refusal, ok := strings.CutPrefix(text, "!"); ok {
		text, suffix = refusal, ".err"
	}
	half := filepath.Join(p.dir, "out", "."+name+".tmp")
	if err := os.WriteFile(half, []byte(text), 0o660); err != nil {
		return err
	}
	if err := os.Rename(half, filepath.Join(p.dir, "out", name+suffix)); err != nil {
		return err
	}
	return os.Remove(request)
}

// process answers one request; an answer that starts with "!" is a refusal.
func process(request string) string {
	if len(request) > maxPermitRequest {
		return "!REQUEST TOO LARGE\n"
	}
	reader := csv.NewReader(strings.NewReader(request))
	reader.Comma, reader.FieldsPerRecord = ';', 2
	lines, err := reader.ReadAll()
	if err != nil || len(lines) == 0 {
		return "!CANNOT READ REQUEST\n"
	}
	var out strings.Builder
	writer := csv.NewWriter(&out)
	writer.Comma = ';'
	_ = writer.Write([]string{"PERMIT", "HOLDER", "KIND", "STATUS", "VALID_UNTIL"})
	for i, line := range lines {
		var match func(permit) bool
		switch line[0] {
		case "STATUS":
			match = func(q permit) bool { return q.number == line[1] }
		case "LIST":
			match = func(q permit) bool { return q.holder == line[1] }
		default:
			return fmt.Sprintf("!LINE %d: UNKNOWN COMMAND\n", i+1)
		}
		found := false
		for _, q := range permits() {
			if match(q) {
				found = true
				_ = writer.Write([]string{q.number, q.holder, q.kind, q.status, q.until})
			}
		}
		if !found && line[0] == "STATUS" {
			_ = writer.Write([]string{line[1], "", "", "NOT FOUND", ""})
		}
	}
	writer.Flush()
	return out.String()
}

// permits is the register: invented permits of the companies of the business
// register.
func permits() []permit {
	kinds := []string{"BUILDING", "WATER", "EVENT"}
	states := []string{"GRANTED", "PENDING", "REVOKED", "GRANTED"}
	out := make([]permit, 0, 48)
	for i := range 48 {
		out = append(out, permit{fmt.Sprintf("FIC-P-%03d", i+1), fmt.Sprintf("FIC%05d", 10001+i%24), kinds[i%3], states[i%4], fmt.Sprintf("%d-12-31", 2027+i%5)})
	}
	return slices.Clip(out)
}
