package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/civibus/civibus"
)

// DefaultMaxNonces bounds how many nonces are remembered, about 25 bytes each.
const DefaultMaxNonces = 4 << 20

// generations is in how many parts the window is kept. A part is dropped, and
// its file removed, when nothing in it can be accepted any more.
const generations = 8

// ReplayConfig sets up a ReplayJournal.
type ReplayConfig struct {
	Dir       string        // folder of the journal, for this gateway alone; created if missing
	MaxAge    time.Duration // as the Verifier's; default 5 min
	MaxSkew   time.Duration // as the Verifier's; default 60 s
	Now       civibus.Clock
	MaxNonces int    // most nonces remembered; default 4 Mi. Beyond it the oldest are dropped and the window gets shorter, never open
	BootID    string // names this run of the machine; default the kernel's. Another value than at the last start means that unsynced writes may be lost
}

// ReplayJournal is a ReplayGuard that survives a restart. The rule is in
// spec/seal.md section 6: what it may have forgotten, it refuses.
type ReplayJournal struct {
	cfg    ReplayConfig
	window time.Duration // how long an entry matters after it was made

	mu       sync.Mutex
	gens     []*generation // oldest first; the last one is written to
	count    int
	floor    int64 // requests sealed at this second or before are refused
	why      string
	file     journalFile
	lock     journalFile
	sequence uint64
	seed     uint32 // entrySeed(sequence)
	entry    [entrySize]byte
	past     []string // files of what was dropped, to be removed
	broken   error    // the file's end could not be restored
	closed   bool
	recovery Recovery
}

// journalFile is the part of *os.File that the journal writes with; tests put
// a disk without space in its place.
type journalFile interface {
	Write(p []byte) (int, error)
	Truncate(size int64) error
	Seek(offset int64, whence int) (int64, error)
	Sync() error
	Close() error
}

// generation is what was recorded in one stretch of time.
type generation struct {
	seen  map[nonceKey]struct{}
	start time.Time
	end   time.Time // of the last entry or before
	files []string
}

// nonceKey identifies a nonce of a key.
type nonceKey [16]byte

// Recovery says what a journal found when it was opened.
type Recovery struct {
	Nonces      int       // read back
	RefuseUntil time.Time // requests sealed until then are refused; zero: none
	Problems    []string  // why, each naming its file
}

// NewReplayMemory returns a guard that keeps nothing on disk, for tests and
// tools: a gateway that restarts with it can be sent old requests again.
func NewReplayMemory(maxAge, maxSkew time.Duration) *ReplayJournal {
	j := newJournal(ReplayConfig{MaxAge: maxAge, MaxSkew: maxSkew})
	j.gens = []*generation{{seen: map[nonceKey]struct{}{}}}
	return j
}

func newJournal(cfg ReplayConfig) *ReplayJournal {
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.MaxSkew == 0 {
		cfg.MaxSkew = DefaultMaxSkew
	}
	if cfg.MaxNonces == 0 {
		cfg.MaxNonces = DefaultMaxNonces
	}
	// A request is accepted from created-skew to created+age+skew.
	return &ReplayJournal{cfg: cfg, window: cfg.MaxAge + 2*cfg.MaxSkew, floor: -1}
}

// Recovery returns what was found at the opening.
func (j *ReplayJournal) Recovery() Recovery { return j.recovery }

// Use records a nonce. It fails with a replayed_request fault when the nonce
// was used before or may have been, and with an evidence_unavailable fault
// when it cannot be recorded.
func (j *ReplayJournal) Use(key civibus.KeyID, nonce [16]byte, created, now time.Time) error {
	var in [48]byte
	copy(in[:], key[:])
	copy(in[32:], nonce[:])
	sum := sha256.Sum256(in[:])
	k := nonceKey(sum[:16])

	j.mu.Lock()
	defer j.mu.Unlock()
	// 1. Keep the window.
	if err := j.turn(now); err != nil {
		return err
	}
	// 2. Was it seen, or may it have been?
	if created.Unix() <= j.floor {
		return fault(civibus.ProviderGateway, civibus.FaultReplay, nil,
			"this gateway cannot rule out that it saw this request before (%s), so it refuses requests sealed at or before %s; send it again after that",
			j.why, time.Unix(j.floor, 0).UTC().Format(time.RFC3339))
	}
	for i := len(j.gens) - 1; i >= 0; i-- {
		g := j.gens[i]
		if g.end.Add(j.cfg.MaxSkew + time.Second).Before(created) {
			continue // all of it was recorded before this one could exist
		}
		if _, ok := g.seen[k]; ok {
			return fault(civibus.ProviderGateway, civibus.FaultReplay, nil,
				"this request was received before: every request is sealed anew and sent once")
		}
	}
	// 3. Record it: on disk before in memory.
	if err := j.record(k, created); err != nil {
		return fault(civibus.ProviderGateway, civibus.FaultEvidence, err, "this gateway cannot record the request now; try again later")
	}
	g := j.gens[len(j.gens)-1]
	g.seen[k] = struct{}{}
	if now.After(g.end) {
		g.end = now
	}
	j.count++
	return nil
}

// turn begins a new generation when it is time and drops those past the window.
func (j *ReplayJournal) turn(now time.Time) error {
	if j.closed {
		return fault(civibus.ProviderGateway, civibus.FaultEvidence, nil, "this gateway is stopping")
	}
	g := j.gens[len(j.gens)-1]
	if g.start.IsZero() {
		g.start, g.end = now, now
	}
	// What is dropped is refused by its time from then on. That is on disk, in the
	// head of a new file, before the files go: the process may die in between.
	for len(j.gens) > 1 && (now.Sub(j.gens[0].end) > j.window || j.count >= j.cfg.MaxNonces) {
		j.drop()
	}
	if now.Sub(g.start) >= j.window/generations || len(g.seen) >= max(1, j.cfg.MaxNonces/generations) || len(j.past) > 0 {
		if err := j.begin(now); err != nil {
			return fault(civibus.ProviderGateway, civibus.FaultEvidence, err, "this gateway cannot record the request now; try again later")
		}
	}
	removeFiles(j.past)
	j.past = nil
	return nil
}

// drop forgets the oldest generation. Whatever it held is refused from now on
// by its time alone, even if the clock is set back.
func (j *ReplayJournal) drop() {
	g := j.gens[0]
	j.gens = j.gens[1:]
	j.count -= len(g.seen)
	if len(g.seen) > 0 {
		j.raise(g.end.Add(j.cfg.MaxSkew), "its record of that time has ended")
	}
	j.past = append(j.past, g.files...)
}

func (j *ReplayJournal) raise(t time.Time, why string) {
	if t.Unix() > j.floor {
		j.floor, j.why = t.Unix(), why
	}
}

// The journal's file format: a header, then entries.
//
//	header: magic (8), sequence (8), floor (8), CRC-32C of these (4)
//	entry:  key (16), created (8), CRC-32C over sequence and these (4)
const (
	journalMagic = "CVNONCE1"
	headerSize   = 28
	entrySize    = 28
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func encodeHeader(sequence uint64, floor int64) []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, journalMagic...)
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(floor))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

func appendEntry(b []byte, seed uint32, k nonceKey, created int64) []byte {
	b = append(b, k[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(created))
	return binary.BigEndian.AppendUint32(b, crc32.Update(seed, castagnoli(), b[len(b)-24:]))
}

// entrySeed is what the checksums of a file's entries begin with. It ties an
// entry to its file, so that a piece of another file does not pass for it.
func entrySeed(sequence uint64) uint32 {
	return crc32.Checksum(binary.BigEndian.AppendUint64(nil, sequence), castagnoli())
}

// decodeHeader reads a header.
func decodeHeader(b []byte) (sequence uint64, floor int64, err error) {
	if len(b) < headerSize || string(b[:8]) != journalMagic || crc32.Checksum(b[:24], castagnoli()) != binary.BigEndian.Uint32(b[24:]) {
		return 0, 0, fmt.Errorf("its header is damaged")
	}
	return binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint64(b[16:])), nil
}

// decodeEntries calls use for each good entry; it stops at the first bad one.
func decodeEntries(b []byte, sequence uint64, use func(k nonceKey, created int64)) error {
	seed := entrySeed(sequence)
	for i := 0; len(b) > 0; i++ {
		if len(b) < entrySize {
			return fmt.Errorf("entry %d is cut short", i)
		}
		if crc32.Update(seed, castagnoli(), b[:24]) != binary.BigEndian.Uint32(b[24:]) {
			return fmt.Errorf("entry %d is damaged", i)
		}
		use(nonceKey(b[:16]), int64(binary.BigEndian.Uint64(b[16:])))
		b = b[entrySize:]
	}
	return nil
}
