package demostack

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Turn is what a system needs of a turn in a process.
type Turn struct {
	Instance string         `json:"instance"`
	Step     string         `json:"step"`
	Attempt  int            `json:"attempt"`
	Service  string         `json:"service"`
	Undo     bool           `json:"undo"`
	Human    bool           `json:"human"`
	Facts    map[string]any `json:"facts"`
	Missing  []string       `json:"missing"`
	Waiting  bool           `json:"waiting"`
}

func (t *Turn) key() string {
	return fmt.Sprintf("%s-%s-%d-%v", t.Instance, t.Step, t.Attempt, t.Undo)
}

// Work does a turn and returns the facts that it found out, or says that it leaves the
// turn lying. It is done once for each turn, however often the turn is asked for.
type Work func(t Turn) (facts map[string]any, done bool)

// desk does each turn once.
type desk struct {
	work Work
	mu   sync.Mutex
	done map[string]map[string]any
}

func newDesk(w Work) *desk { return &desk{work: w, done: make(map[string]map[string]any)} }

func (d *desk) do(t Turn) (map[string]any, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	facts, done := d.done[t.key()]
	if !done {
		if facts, done = d.work(t); done {
			d.done[t.key()] = facts
		}
	}
	return facts, done
}

// report is what a system says of a turn.
type report struct {
	Outcome string         `json:"outcome"`
	Facts   map[string]any `json:"facts,omitempty"`
}

// Desk is where a system finds the turns that it does not get sent: its own body's
// gateway, in the name of its subsystem.
type Desk struct {
	Gateway func() string // base URL of the consumer face
	Client  string        // X-Road-Client
}

func (d *Desk) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.Gateway()+"/civibus/v1/process/"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Road-Client", d.Client)
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("the gateway answered %d: %s", resp.StatusCode, bytes.TrimSpace(text))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// Turns asks for what is to be done.
func (d *Desk) Turns(ctx context.Context) ([]Turn, error) {
	var out struct{ Turns []Turn }
	return out.Turns, d.call(ctx, http.MethodGet, "turns", nil, &out)
}

// Done reports a turn.
func (d *Desk) Done(ctx context.Context, t Turn, facts map[string]any) error {
	return d.call(ctx, http.MethodPost, fmt.Sprintf("instances/%s/steps/%s/%d", t.Instance, t.Step, t.Attempt), report{"done", facts}, nil)
}

// StartWebhook starts a system that is sent its turns and answers at once.
func StartWebhook(ctx context.Context, address string, w Work) (*Server, error) {
	d := newDesk(w)
	return start(ctx, address, func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			t, ok := readTurn(w, r)
			if !ok {
				return
			}
			facts, done := d.do(t)
			if !done {
				w.WriteHeader(http.StatusAccepted)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(report{"done", facts}) // who has gone asks again
		})
	})
}

func readTurn(w http.ResponseWriter, r *http.Request) (Turn, bool) {
	var event struct{ Data Turn }
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil || r.Header.Get("Signature") == "" {
		http.Error(w, "no signed CloudEvent", http.StatusBadRequest)
		return Turn{}, false
	}
	return event.Data, true
}

// Later is a system that is sent its turns, and reports when it has done them.
type Later struct {
	*Server
	work sync.WaitGroup
	stop context.CancelFunc
}

// StartLater starts such a system, which takes so long for each turn.
func StartLater(ctx context.Context, address string, takes time.Duration, desk *Desk, w Work) (*Later, error) {
	run, stop := context.WithCancel(ctx)
	l := &Later{stop: stop}
	d := newDesk(w)
	var err error
	l.Server, err = start(ctx, address, func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			t, ok := readTurn(w, r)
			if !ok {
				return
			}
			w.WriteHeader(http.StatusAccepted)
			l.work.Go(func() {
				timer := time.NewTimer(takes)
				defer timer.Stop()
				for {
					select {
					case <-timer.C:
					case <-run.Done():
						return
					}
					facts, done := d.do(t)
					if !done {
						return
					}
					if err := desk.Done(run, t, facts); err == nil || strings.Contains(err.Error(), " 409: ") {
						return
					}
					timer.Reset(takes)
				}
			})
		})
	})
	if err != nil {
		stop()
		return nil, err
	}
	return l, nil
}

// Close stops the system.
func (l *Later) Close() error {
	l.stop()
	err := l.Server.Close()
	l.work.Wait()
	return err
}

// Batch is a system of the kind that was written before networks: a program carries
// its turns into a folder as CSV, a batch run works off what lies there, and the program
// carries the answers back.
type Batch struct {
	dir  string
	desk *Desk
	work *desk
	stop context.CancelFunc
	done chan struct{}
}

// StartBatch starts such a system, which looks every poll.
func StartBatch(ctx context.Context, dir string, poll time.Duration, d *Desk, w Work) (*Batch, error) {
	for _, part := range []string{"in", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o770); err != nil {
			return nil, fmt.Errorf("start batch system: %w", err)
		}
	}
	run, stop := context.WithCancel(ctx)
	b := &Batch{dir: dir, desk: d, work: newDesk(w), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		ticker := time.NewTicker(poll)
		defer ticker.Stop()
		for {
			// A gateway that is down is asked again at the next tick.
			_ = errors.Join(b.fetch(run), b.batch(), b.carryBack(run))
			select {
			case <-ticker.C:
			case <-run.Done():
				return
			}
		}
	}()
	return b, nil
}

// Close stops the system.
func (b *Batch) Close() error {
	b.stop()
	<-b.done
	return nil
}

// fetch puts each turn into in/, as a line "step;attempt;undo;fact=value;...".
func (b *Batch) fetch(ctx context.Context) error {
	turns, err := b.desk.Turns(ctx)
	if err != nil {
		return err
	}
	for _, t := range turns {
		if t.Waiting || t.Human || len(t.Missing) > 0 {
			continue
		}
		line := []string{t.Instance, t.Step, fmt.Sprint(t.Attempt), fmt.Sprint(t.Undo)}
		for fact, value := range t.Facts {
			line = append(line, fmt.Sprintf("%s=%v", fact, value))
		}
		if err := b.write("in", t.key(), line); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) write(part, name string, line []string) error {
	var text bytes.Buffer
	w := csv.NewWriter(&text)
	w.Comma = ';'
	if err := w.Write(line); err != nil {
		return err
	}
	w.Flush()
	file := filepath.Join(b.dir, part, name+".csv")
	if err := os.WriteFile(file+".new", text.Bytes(), 0o660); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (b *Batch) read(part string, fn func(name string, line []string) error) error {
	files, err := filepath.Glob(filepath.Join(b.dir, part, "*.csv"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		r := csv.NewReader(bytes.NewReader(text))
		r.Comma, r.FieldsPerRecord = ';', -1
		line, err := r.Read()
		if err != nil {
			return err
		}
		if err := fn(strings.TrimSuffix(filepath.Base(file), ".csv"), line); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// batch works off what lies in in/ and leaves the answers in out/.
func (b *Batch) batch() error {
	return b.read("in", func(name string, line []string) error {
		t := turnOf(line)
		for _, field := range line[4:] {
			fact, value, _ := strings.Cut(field, "=")
			t.Facts[fact] = value
		}
		found, done := b.work.do(t)
		if !done {
			return nil
		}
		out := line[:4]
		for fact, value := range found {
			out = append(out, fmt.Sprintf("%s=%v", fact, value))
		}
		return b.write("out", name, out)
	})
}

func turnOf(line []string) Turn {
	t := Turn{Instance: line[0], Step: line[1], Undo: line[3] == "true", Facts: map[string]any{}}
	_, _ = fmt.Sscan(line[2], &t.Attempt) // it was written as a number
	return t
}

// carryBack reports the answers. Truth values are told from text by their form.
func (b *Batch) carryBack(ctx context.Context) error {
	return b.read("out", func(_ string, line []string) error {
		t := turnOf(line)
		facts := make(map[string]any)
		for _, field := range line[4:] {
			fact, value, _ := strings.Cut(field, "=")
			facts[fact] = value
			if value == "true" || value == "false" {
				facts[fact] = value == "true"
			}
		}
		err := b.desk.Done(ctx, t, facts)
		if err != nil && strings.Contains(err.Error(), " 409: ") {
			return nil // it is no longer to be done
		}
		return err
	})
}

// Clerk is a civil servant at a desk: she asks for what is to be done, and does what no
// system does.
type Clerk struct {
	stop context.CancelFunc
	done chan struct{}
}

// StartClerk starts one, who looks every poll. With all she does every turn of the
// subsystem, otherwise those that a civil servant has to see to.
func StartClerk(ctx context.Context, poll time.Duration, d *Desk, all bool, w Work) *Clerk {
	run, stop := context.WithCancel(ctx)
	c := &Clerk{stop: stop, done: make(chan struct{})}
	work := newDesk(w)
	go func() {
		defer close(c.done)
		ticker := time.NewTicker(poll)
		defer ticker.Stop()
		for {
			turns, err := d.Turns(run)
			for _, t := range turns {
				if err != nil || t.Waiting || len(t.Missing) > 0 || !t.Human && !all {
					continue
				}
				if facts, done := work.do(t); done {
					_ = d.Done(run, t, facts) // what was not taken is there at the next look
				}
			}
			select {
			case <-ticker.C:
			case <-run.Done():
				return
			}
		}
	}()
	return c
}

// Close ends her day.
func (c *Clerk) Close() error {
	c.stop()
	<-c.done
	return nil
}
