package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus/internal/rawio"
	"github.com/civibus/civibus/internal/schema"
)

const (
	stateFile  = "state"
	lockFile   = "lock"
	stateMagic = "civibus-nonces/v1"
)

// OpenReplayJournal opens the journal in cfg.Dir and reads back what is still
// in the window. It does not fail because of damage: it names it in Recovery
// and refuses every request that it may have forgotten. It fails when the
// folder cannot be used or another process has it open.
func OpenReplayJournal(cfg ReplayConfig) (*ReplayJournal, error) {
	if cfg.Dir == "" || cfg.Now == nil {
		return nil, errors.New("open replay journal: Dir and Now are required")
	}
	j := newJournal(cfg)
	if j.cfg.BootID == "" {
		j.cfg.BootID = bootID()
	}
	// 1. The folder, for one process at a time.
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	if err := lockExclusive(lock); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open replay journal %s: another process has it open: %w", cfg.Dir, err)
	}
	j.lock = lock
	if _, err := schema.Check(cfg.Dir, "civibus-replay", 1); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	// 2. What was kept, and whether all of it is there.
	now := cfg.Now()
	if err := j.load(now); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	if len(j.recovery.Problems) > 0 {
		j.raise(now.Add(j.cfg.MaxSkew), "it started anew and its record of earlier requests may not be complete")
		j.recovery.RefuseUntil = time.Unix(j.floor, 0)
	}
	// 3. A new file that carries the floor on, and the mark that it is in use.
	if err := j.begin(now); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	if err := j.writeState("open " + j.cfg.BootID); err != nil {
		_ = j.file.Close()
		_ = lock.Close()
		return nil, fmt.Errorf("open replay journal: %w", err)
	}
	return j, nil
}

// load reads the folder into one generation.
func (j *ReplayJournal) load(now time.Time) error {
	state, err := os.ReadFile(filepath.Join(j.cfg.Dir, stateFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(j.cfg.Dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "nonces-") && strings.HasSuffix(e.Name(), ".log") {
			names = append(names, filepath.Join(j.cfg.Dir, e.Name()))
		}
	}
	if state == nil && len(names) == 0 {
		return nil // a new journal
	}
	j.checkState(string(state), len(names))
	g := &generation{seen: map[nonceKey]struct{}{}, start: now, end: now}
	oldest := now.Add(-j.cfg.MaxAge - j.cfg.MaxSkew).Unix()
	for i, name := range names { // in the order of their numbers
		g.files = append(g.files, name)
		sequence, err := j.loadFile(name, g, oldest)
		if err != nil {
			j.problem(name, err)
		} else if i > 0 && sequence != j.sequence+1 {
			j.problem(name, fmt.Errorf("its number is %d, a file before it is missing", sequence))
		}
		j.sequence = max(j.sequence, sequence, numberOf(name))
	}
	if len(g.seen) > j.cfg.MaxNonces {
		j.recovery.Problems = append(j.recovery.Problems, fmt.Sprintf("%s: it holds %d nonces, more than the %d that may be kept", j.cfg.Dir, len(g.seen), j.cfg.MaxNonces))
		g.seen = map[nonceKey]struct{}{}
	}
	j.gens, j.count = append(j.gens, g), len(g.seen)
	j.recovery.Nonces = len(g.seen)
	return nil
}

// checkState decides whether everything written is surely there.
func (j *ReplayJournal) checkState(state string, files int) {
	name := filepath.Join(j.cfg.Dir, stateFile)
	f := strings.Fields(state)
	switch {
	case state == "":
		j.problem(name, errors.New("it is missing or empty though there are nonces"))
	case len(f) < 2 || f[0] != stateMagic || !strings.HasSuffix(state, "\n"):
		j.problem(name, errors.New("it is damaged"))
	case files == 0:
		j.problem(name, errors.New("the files it speaks of are missing"))
	case f[1] == "clean":
	case f[1] == "open" && len(f) == 3 && f[2] == j.cfg.BootID && j.cfg.BootID != unknownBoot:
		// The process ended, the machine went on: every write is there.
	default:
		j.problem(name, errors.New("the machine was restarted while the gateway ran, so the last nonces may not be on disk"))
	}
}

func (j *ReplayJournal) problem(name string, err error) {
	j.recovery.Problems = append(j.recovery.Problems, fmt.Sprintf("%s: %v", name, err))
}

// loadFile reads one file; the good entries before any damage count.
func (j *ReplayJournal) loadFile(name string, g *generation, oldest int64) (uint64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	sequence, floor, err := decodeHeader(b)
	if err != nil {
		return 0, err
	}
	if sequence != numberOf(name) {
		return 0, errors.New("its name is not that of its header")
	}
	j.raise(time.Unix(floor, 0), "its record of that time has ended")
	return sequence, decodeEntries(b[headerSize:], sequence, func(k nonceKey, created int64) {
		if created >= oldest {
			g.seen[k] = struct{}{}
			return
		}
		j.raise(time.Unix(created, 0), "its record of that time has ended") // also if the clock is wrong now
	})
}

func numberOf(name string) uint64 {
	var n uint64
	_, _ = fmt.Sscanf(filepath.Base(name), "nonces-%016x.log", &n)
	return n
}

// begin makes the next file durable and writes to it from now on.
func (j *ReplayJournal) begin(now time.Time) error {
	g := &generation{seen: map[nonceKey]struct{}{}, start: now, end: now}
	if j.cfg.Dir != "" {
		name := filepath.Join(j.cfg.Dir, fmt.Sprintf("nonces-%016x.log", j.sequence+1))
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(encodeHeader(j.sequence+1, j.floor))
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = syncDir(j.cfg.Dir)
		}
		if err != nil {
			_ = f.Close()
			_ = os.Remove(name)
			return err
		}
		if j.file != nil {
			_ = j.file.Close()
		}
		j.file, j.broken = nonceFile{f}, nil
		j.sequence++
		j.seed = entrySeed(j.sequence)
		g.files = []string{name}
	}
	j.gens = append(j.gens, g)
	return nil
}

// nonceFile writes its short entries without telling the scheduler: every
// request waits for one.
type nonceFile struct{ *os.File }

func (f nonceFile) Write(p []byte) (int, error) { return rawio.Write(f.File, p) }

// record appends an entry. It is in the kernel's hands when it returns, so the
// end of this process cannot lose it; only the machine's can.
func (j *ReplayJournal) record(k nonceKey, created time.Time) error {
	if j.file == nil {
		return nil
	}
	if j.broken != nil {
		if err := j.restore(); err != nil {
			return err
		}
	}
	if _, err := j.file.Write(appendEntry(j.entry[:0], j.seed, k, created.Unix())); err != nil {
		j.broken = err
		_ = j.restore()
		return err
	}
	return nil
}

// restore cuts off what a failed write left behind.
func (j *ReplayJournal) restore() error {
	size := int64(headerSize + entrySize*len(j.gens[len(j.gens)-1].seen))
	if err := j.file.Truncate(size); err != nil {
		return err
	}
	if _, err := j.file.Seek(size, io.SeekStart); err != nil {
		return err
	}
	j.broken = nil
	return nil
}

// Close makes the journal durable and marks it complete, so that the next
// start need refuse nothing.
func (j *ReplayJournal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Sync(), j.file.Close())
	if err == nil && j.broken == nil {
		err = j.writeState("clean")
	}
	return errors.Join(err, j.lock.Close())
}

// writeState replaces the state file durably.
func (j *ReplayJournal) writeState(state string) error {
	name := filepath.Join(j.cfg.Dir, stateFile)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(stateMagic + " " + state + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = syncDir(j.cfg.Dir)
	}
	return err
}

// unknownBoot stands for a machine that does not tell its runs apart; only a
// clean stop counts there.
const unknownBoot = "unknown"

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if id := strings.TrimSpace(string(b)); err == nil && id != "" {
		return id
	}
	return unknownBoot
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func removeFiles(names []string) {
	for _, n := range names {
		_ = os.Remove(n)
	}
}
