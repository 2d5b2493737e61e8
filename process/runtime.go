package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/process/definition"
	"github.com/civibus/civibus/registry"
	"github.com/civibus/civibus/registry/registrypb"
)

// Part is a subsystem of the body that plays roles, and its system.
type Part struct {
	Subsystem civibus.ClientID
	// System is the URL to which the subsystem's turns are sent; empty: it asks for them.
	System string
}

// Outcome is what became of a transaction.
type Outcome struct {
	Code   registry.Code
	Reason string
	TxHash [32]byte
	Height uint64
}

// Config is what a runtime works with.
type Config struct {
	// Dir is where it keeps what it knows. Required.
	Dir string
	// Member is the body, and Parts are its subsystems that play roles. Required.
	Member civibus.MemberID
	Parts  []Part
	// View returns the newest registry view, nil before there is one, and Changed is
	// closed when there is a newer one. Required.
	View    func() *registry.View
	Changed func() <-chan struct{}
	// Submit signs a transaction with the body's log key and waits until it is in the
	// registry or refused. Required.
	Submit func(ctx context.Context, tx *registrypb.Tx) (Outcome, error)
	// Call makes an exchange in the name of an own subsystem: a POST of JSON to a path of
	// another one's service. Required.
	Call func(ctx context.Context, from civibus.ClientID, to civibus.ServiceID, path string, body []byte) (status int, answer []byte, err error)
	// Sign signs what goes to the body's systems. Nil: nothing is signed.
	Sign func(ctx context.Context, r *http.Request, body []byte) error
	// HTTP calls the body's systems. Required.
	HTTP *http.Client
	// Note has the body's evidence log sign and keep a note of what was erased, such as
	// "instance ID", and by which law, and returns its number. Nil: there are no notes.
	Note func(ctx context.Context, what, ground string) (number uint64, err error)
	// Clock tells the time. Required.
	Clock civibus.Clock
	// Logger takes what happens; never values of facts. Required.
	Logger *slog.Logger
}

// ServiceCode is the service by which subsystems open facts to each other.
const ServiceCode = "process"

// Purpose is the purpose code of the exchanges in which facts are opened.
const Purpose = "process"

const (
	maxAtOnce    = 64               // calls and transactions under way
	firstPause   = time.Second      // after a failure, doubled each time
	longPause    = 5 * time.Minute  // the longest such pause
	timeoutStep  = 2 * time.Second  // by which a body lets those before it say that a step is late
	tick         = time.Second      // how often what waits for a time is looked at
	callPatience = 30 * time.Second // of one call of a system or another body
)

// Runtime drives the parts of one body.
type Runtime struct {
	Config
	store *store
	kick  chan struct{}
	room  chan struct{} // one for each call under way

	mu     sync.Mutex
	busy   map[string]bool  // what is under way
	pauses map[string]pause // what is tried again, and when
	wg     sync.WaitGroup

	keeping sync.Mutex // what came of a turn is kept once
	noting  sync.Mutex // an erasure is noted once
}

// pause is how long something waits before it is tried again.
type pause struct {
	until time.Time
	wait  time.Duration
}

// Open opens what a body knows of its processes.
func Open(c Config) (*Runtime, error) {
	s, err := openStore(c.Dir)
	if err != nil {
		return nil, err
	}
	return &Runtime{
		Config: c, store: s, kick: make(chan struct{}, 1), room: make(chan struct{}, maxAtOnce),
		busy: make(map[string]bool), pauses: make(map[string]pause),
	}, nil
}

// Close closes the store. Run must have returned.
func (r *Runtime) Close() error { return r.store.close() }

// Run drives the body's parts until ctx ends.
func (r *Runtime) Run(ctx context.Context) error {
	defer r.wg.Wait()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		changed := r.Changed()
		if v := r.View(); v != nil {
			if err := r.pass(ctx, v); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-r.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// wake has Run look again.
func (r *Runtime) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// pass begins everything that can be done now.
func (r *Runtime) pass(ctx context.Context, v *registry.View) error {
	r.forget()
	// 1. What the body's turns are, and which steps are late.
	for i := range r.Parts {
		p := &r.Parts[i]
		for after := ""; ; {
			items, next := v.InstancesOf(p.Subsystem, after, 1000)
			for n := range items {
				if err := r.consider(ctx, v, p, &items[n]); err != nil {
					return err
				}
			}
			if after = next; next == "" {
				break
			}
		}
	}
	// 2. Events that the registry does not have, whatever became of their turn.
	err := r.store.each(pendingKind, func(key string, _ []byte) error {
		return r.postAgain(ctx, strings.TrimPrefix(key, pendingKind))
	})
	if err != nil {
		return err
	}
	// 3. Facts that others are still to be shown.
	err = r.store.each(deliveryKind, func(key string, value []byte) error {
		return r.deliverAgain(ctx, v, key, value)
	})
	if err != nil {
		return err
	}
	// 4. Notes of what was erased.
	return r.noteAgain(ctx)
}

// start runs something unless it is under way, has to wait, or too much is under way.
// When fn fails it is tried again after a pause.
func (r *Runtime) start(ctx context.Context, key string, fn func(ctx context.Context) error) {
	now := r.Clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[key] || now.Before(r.pauses[key].until) || ctx.Err() != nil {
		return
	}
	select {
	case r.room <- struct{}{}:
	default:
		return
	}
	r.busy[key] = true
	r.wg.Go(func() {
		call, cancel := context.WithTimeout(ctx, callPatience)
		err := fn(call)
		cancel()
		<-r.room
		r.mu.Lock()
		again := r.pauses[key].wait > 0
		delete(r.busy, key)
		if err == nil {
			delete(r.pauses, key)
		} else {
			wait := min(max(firstPause, 2*r.pauses[key].wait), longPause)
			r.pauses[key] = pause{r.Clock().Add(wait), wait}
		}
		r.mu.Unlock()
		if err != nil && ctx.Err() == nil && !errors.Is(err, errLater) {
			level := slog.LevelInfo // as a rule something is only a moment behind
			if again {
				level = slog.LevelWarn
			}
			r.Logger.Log(ctx, level, "process: tried again later", "what", key, "err", err)
		}
		r.wake()
	})
}

// forget drops pauses of what was not tried again.
func (r *Runtime) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.Clock().Add(-2 * longPause)
	maps.DeleteFunc(r.pauses, func(_ string, p pause) bool { return p.until.Before(old) })
}

// consider looks at one instance in which the body plays a part.
func (r *Runtime) consider(ctx context.Context, v *registry.View, p *Part, in *registry.ProcessInstance) error {
	run, err := resume(v, in)
	if err != nil {
		return err
	}
	now := r.Clock()
	for _, t := range run.Turns() {
		// 1. Whose it is.
		if t.Body == p.Subsystem.String() {
			if err := r.turn(ctx, v, p, in, run, t); err != nil {
				return err
			}
		}
		// 2. Whether it is late: the bodies say so one after the other.
		n := slices.IndexFunc(in.Parts, func(o registry.Part) bool { return o.Subsystem == p.Subsystem })
		if now.After(t.Due.Add(timeoutStep * time.Duration(n+1) / 2)) {
			r.start(ctx, fmt.Sprintf("timeout/%s/%s/%d", in.ID, t.Step, t.Attempt), func(ctx context.Context) error {
				return r.sayLate(ctx, in.ID, t)
			})
		}
	}
	return nil
}

// resume works out an instance of a view.
func resume(v *registry.View, in *registry.ProcessInstance) (*definition.Instance, error) {
	p, ok := v.Process(in.Process)
	if !ok {
		return nil, fmt.Errorf("process %s of instance %s is not in the registry", in.Process, in.ID)
	}
	d, err := p.Compile()
	if err != nil {
		return nil, err
	}
	return in.Resume(d)
}

// sayLate posts that a step is late. Others do it too; the first one counts.
func (r *Runtime) sayLate(ctx context.Context, instance string, t definition.Turn) error {
	_, err := r.post(ctx, &registrypb.PostStep{Instance: instance, Step: t.Step, Attempt: t.Attempt, Kind: registrypb.StepKind(definition.StepTimeout)})
	var refused *Refused
	if errors.As(err, &refused) && refused.Code != registry.NotDue {
		return nil // it was done meanwhile, or somebody else said it
	}
	return err
}

// turn sees to it that something that the body has to do is done.
func (r *Runtime) turn(ctx context.Context, v *registry.View, p *Part, in *registry.ProcessInstance, run *definition.Instance, t definition.Turn) error {
	// 1. The system has done it already, and the event is on its way.
	key := resultKey(in.ID, t.Step, t.Attempt, t.Undo)
	if known, err := r.store.get(key, new(result)); err != nil || known {
		return err
	}
	// 2. A condition over sealed facts is the body's to decide.
	facts, missing, err := r.open(in.ID, run, t.Step)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return nil // they are on their way; if not the step gets late, and its due date says so
	}
	values := make(map[string]definition.Value, len(facts))
	for id, f := range facts {
		values[id] = f.value
	}
	if !t.Undo && run.SealedGuard(t.Step) {
		holds, err := run.Guard(t.Step).Holds(values)
		if err != nil {
			r.Logger.WarnContext(ctx, "process: a condition could not be evaluated", "instance", in.ID, "step", t.Step)
		}
		if err == nil && !holds {
			res := &result{Instance: in.ID, Step: t.Step, Attempt: t.Attempt, Kind: definition.StepSkipped}
			r.start(ctx, key, func(ctx context.Context) error {
				if old, err := r.keep(res, nil, nil); err != nil || old != nil {
					return err
				}
				return settled(r.publish(ctx, res))
			})
			return nil
		}
	}
	// 3. A civil servant's, or a system's that asks for its turns itself.
	if t.Human || p.System == "" {
		return nil
	}
	// 4. The system's, unless a rule forbids it in any case.
	refused, err := r.blocked(v, in, run, t)
	if err != nil || refused != nil {
		return err // whoever asks for the turns is told
	}
	turn := r.turnOf(in, run, t, facts)
	r.start(ctx, key, func(ctx context.Context) error { return r.dispatch(ctx, p, turn) })
	return nil
}

// opened is a fact as a step's body is shown it.
type opened struct {
	fact  *definition.Fact
	value definition.Value
}

// open returns the facts that are opened to a step's body, and the names of those that
// are known to others and have not come yet. A sealed fact counts if it is what the
// registry has a commitment to.
func (r *Runtime) open(instance string, run *definition.Instance, step string) (map[string]opened, []string, error) {
	out := make(map[string]opened)
	var missing []string
	for _, id := range run.Opened(step) {
		known, ok := run.Facts[id]
		if !ok {
			continue // nobody found it out
		}
		f, _ := run.Process().Fact(id)
		if known.Value != nil {
			out[id] = opened{f, known.Value}
			continue
		}
		var h Held
		found, err := r.store.get(heldKind+instance+"/"+id, &h)
		if err != nil {
			return nil, nil, err
		}
		if !found || h.commitment() != known.Commitment {
			missing = append(missing, id)
			continue
		}
		v, err := f.ParseText(h.Text)
		if err != nil {
			return nil, nil, fmt.Errorf("instance %s: %w", instance, err)
		}
		out[id] = opened{f, v}
	}
	return out, missing, nil
}

// Refused is an event or an instance that the registry refused.
type Refused struct {
	Code   registry.Code
	Reason string
}

// Error returns code and reason.
func (e *Refused) Error() string { return e.Code.String() + ": " + e.Reason }

// post has the registry take an event. One that it has already is taken.
func (r *Runtime) post(ctx context.Context, m *registrypb.PostStep) (Outcome, error) {
	out, err := r.Submit(ctx, &registrypb.Tx{Body: &registrypb.Tx_PostStep{PostStep: m}})
	if err == nil && out.Code != registry.OK && out.Code != registry.Already {
		err = &Refused{out.Code, out.Reason}
	}
	return out, err
}

// keep puts a result on disk, with the facts and who is to be shown them, unless there
// is one of this turn already, which it returns.
func (r *Runtime) keep(res *result, facts []*Held, deliveries []*delivery) (*result, error) {
	r.keeping.Lock()
	defer r.keeping.Unlock()
	old := new(result)
	if known, err := r.store.get(res.key(), old); err != nil {
		return nil, err
	} else if known {
		return old, nil
	}
	b := &batch{}
	b.put(res.key(), res)
	b.put(pendingKind+res.key(), true)
	for _, h := range facts {
		b.put(heldKey(h), h)
	}
	for _, d := range deliveries {
		b.put(d.key(), d)
	}
	if err := r.store.write(b); err != nil {
		return nil, fmt.Errorf("keep the result of step %s: %w", res.Step, err)
	}
	return nil, nil
}

// settled makes a refusal that is noted no error.
func settled(err error) error {
	var refused *Refused
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// publish posts a result's event and notes what the registry said.
func (r *Runtime) publish(ctx context.Context, res *result) error {
	m := &registrypb.PostStep{Instance: res.Instance, Step: res.Step, Attempt: res.Attempt, Kind: registrypb.StepKind(res.Kind)}
	for _, y := range res.Yields {
		out := &registrypb.Yield{Fact: y.Fact, Value: y.Value}
		if y.Value == "" {
			out.Commitment = y.Commitment[:]
		}
		m.Yields = append(m.Yields, out)
	}
	_, err := r.post(ctx, m)
	var refused *Refused
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	done := *res
	done.Posted = err == nil
	if refused != nil {
		done.Refused = refused.Error()
	}
	b := &batch{}
	b.put(done.key(), &done)
	b.remove(pendingKind + done.key())
	var gone *ErasedError
	if werr := r.store.write(b); werr != nil && !errors.As(werr, &gone) {
		return werr
	}
	if refused != nil {
		r.Logger.WarnContext(ctx, "process: the registry refused an event", "instance", res.Instance, "step", res.Step, "attempt", res.Attempt, "kind", res.Kind.String(), "code", refused.Code.String(), "reason", refused.Reason)
		return refused
	}
	r.wake()
	return nil
}

// Backup adds what the body knows of its processes to a backup.
func (r *Runtime) Backup(ctx context.Context, put func(name string, size int64, content io.Reader) error, name string) error {
	return r.store.db.Backup(put, r.Dir, name, ctx.Err)
}
