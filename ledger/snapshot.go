package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/civibus/civibus/registry"
)

const (
	// SnapshotFormat is the name and version of the format, see the package
	// comment.
	SnapshotFormat = "civibus-snapshot/v1"

	manifestFile   = "manifest.json"
	chunkBytes     = 4 << 20
	maxManifest    = 3 << 20 // what the engine carries to a peer in one message
	snapshotABCI   = 1       // the format's number in state sync
	maxChunkNumber = 999_999
)

// Manifest describes a snapshot.
type Manifest struct {
	Format    string         `json:"format"`
	ChainID   string         `json:"chain_id"`
	Height    uint64         `json:"height"`
	Time      time.Time      `json:"time"`
	AppHash   hexBytes       `json:"app_hash"`
	StateRoot hexBytes       `json:"state_root"`
	EventRoot hexBytes       `json:"event_root"`
	EventSize uint64         `json:"event_size"`
	Chunks    []Chunk        `json:"chunks"`
	Engine    EngineSnapshot `json:"engine"`
}

// Chunk is one chunk file.
type Chunk struct {
	SHA256 hexBytes `json:"sha256"`
	Bytes  int      `json:"bytes"`
}

// EngineSnapshot is what the consensus engine needs to go on after the snapshot:
// CometBFT protobuf messages.
type EngineSnapshot struct {
	Header         []byte `json:"header"`          // SignedHeader at the snapshot's height
	NextHeader     []byte `json:"next_header"`     // SignedHeader of the next block: its application hash is the snapshot's
	Validators     []byte `json:"validators"`      // ValidatorSet that signed Header
	NextValidators []byte `json:"next_validators"` // ValidatorSet that signed NextHeader
	ThenValidators []byte `json:"then_validators"` // ValidatorSet of the block after it
}

// ChunkOf describes a chunk.
func ChunkOf(b []byte) Chunk {
	sum := sha256.Sum256(b)
	return Chunk{SHA256: sum[:], Bytes: len(b)}
}

type hexBytes []byte

// MarshalText writes lower-case hex.
func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText reads hex.
func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

// ChunkFile is the name of a chunk's file.
func ChunkFile(i int) string { return fmt.Sprintf("%06d.chunk", i) }

// ExportSnapshot writes a snapshot of the registry as of now into a new directory
// below dir, named after its height, and returns its path. It does not hold up
// the ledger. It waits for the next block, because only that block's header
// carries the hash of the snapshot's state: up to the heartbeat interval when
// nothing happens.
func (n *Node) ExportSnapshot(ctx context.Context, dir string) (path string, err error) {
	if !n.enter() {
		return "", ErrClosed
	}
	defer n.leave()
	ctx, cancel := n.untilClosed(ctx)
	defer cancel()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	temp, err := os.MkdirTemp(dir, ".export-")
	if err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	defer os.RemoveAll(temp)

	// 1. The registry at one height: a view does not change.
	m, err := n.writeChunks(temp)
	if err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	// 2. The next block's signed header, and what the engine needs.
	if m.Engine, err = n.engineSnapshot(ctx, m.Height); err != nil {
		return "", fmt.Errorf("export snapshot of height %d: %w", m.Height, err)
	}
	// 3. The manifest; then the directory gets its name, whole or not at all.
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	if len(b) > maxManifest {
		return "", fmt.Errorf("export snapshot: the manifest has %d bytes, the rule is at most %d", len(b), maxManifest)
	}
	if err := writeSynced(filepath.Join(temp, manifestFile), append(b, '\n')); err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	path = filepath.Join(dir, strconv.FormatUint(m.Height, 10))
	if _, err := os.Stat(path); err == nil {
		return path, nil // the same height, the same snapshot
	}
	if err := os.Rename(temp, path); err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	return path, syncDir(dir)
}

// writeChunks dumps the registry into chunk files.
func (n *Node) writeChunks(dir string) (*Manifest, error) {
	v := n.View()
	if v == nil || v.Height() == 0 {
		return nil, errors.New("there is no block yet")
	}
	app, state, event := v.AppHash(), v.StateRoot(), v.EventRoot()
	m := &Manifest{
		Format: SnapshotFormat, ChainID: v.ChainID(), Height: v.Height(), Time: v.Time().UTC(),
		AppHash: app[:], StateRoot: state[:], EventRoot: event[:], EventSize: v.EventSize(),
	}
	w := &chunkWriter{dir: dir}
	if err := v.Dump(w); err != nil {
		return nil, err
	}
	if err := w.flush(); err != nil {
		return nil, err
	}
	m.Chunks = w.chunks
	return m, nil
}

// chunkWriter cuts a stream into chunk files.
type chunkWriter struct {
	dir    string
	buf    []byte
	chunks []Chunk
}

// Write implements io.Writer.
func (w *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), chunkBytes-len(w.buf))
		w.buf = append(w.buf, p[:k]...)
		p = p[k:]
		if len(w.buf) == chunkBytes {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if len(w.chunks) > maxChunkNumber {
		return fmt.Errorf("the dump has more than %d chunks", maxChunkNumber)
	}
	if err := writeSynced(filepath.Join(w.dir, ChunkFile(len(w.chunks))), w.buf); err != nil {
		return err
	}
	w.chunks = append(w.chunks, ChunkOf(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// ReadManifest reads and checks a snapshot's manifest, see ParseManifest.
func ReadManifest(snapshot string) (*Manifest, error) {
	b, err := os.ReadFile(filepath.Join(snapshot, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return ParseManifest(b)
}

// ParseManifest reads and checks a manifest as far as it can be checked alone.
func ParseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if len(b) > maxManifest {
		return nil, fmt.Errorf("snapshot manifest: it has %d bytes, the rule is at most %d", len(b), maxManifest)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("snapshot manifest: %w", err)
	}
	switch {
	case m.Format != SnapshotFormat:
		return nil, fmt.Errorf("snapshot manifest: format %q, the rule is %q", m.Format, SnapshotFormat)
	case m.Height == 0 || m.Height >= 1<<62:
		return nil, fmt.Errorf("snapshot manifest: height %d", m.Height)
	case len(m.AppHash) != 32 || len(m.StateRoot) != 32 || len(m.EventRoot) != 32:
		return nil, errors.New("snapshot manifest: a hash has not 32 bytes")
	case len(m.Chunks) == 0 || len(m.Chunks) > maxChunkNumber+1:
		return nil, fmt.Errorf("snapshot manifest: %d chunks", len(m.Chunks))
	}
	for i, c := range m.Chunks {
		if len(c.SHA256) != 32 || c.Bytes <= 0 || c.Bytes > chunkBytes {
			return nil, fmt.Errorf("snapshot manifest: chunk %d has no SHA-256 or %d bytes, the rule is 1 to %d", i, c.Bytes, chunkBytes)
		}
	}
	return &m, nil
}

// Check compares a chunk with the manifest.
func (m *Manifest) Check(i int, b []byte) error {
	if sum := sha256.Sum256(b); len(b) != m.Chunks[i].Bytes || !slices.Equal(sum[:], m.Chunks[i].SHA256) {
		return fmt.Errorf("snapshot of height %d: chunk %s is damaged: %d bytes with SHA-256 %x, the manifest says %d bytes with %x",
			m.Height, ChunkFile(i), len(b), sum, m.Chunks[i].Bytes, []byte(m.Chunks[i].SHA256))
	}
	return nil
}

// chunkReader joins chunks into the dump; no byte of a chunk is given out before
// the whole chunk was checked.
type chunkReader struct {
	manifest *Manifest
	load     func(i int) ([]byte, error)
	next     int
	rest     []byte
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.next == len(r.manifest.Chunks) {
			return 0, io.EOF
		}
		b, err := r.load(r.next)
		if err != nil {
			return 0, fmt.Errorf("snapshot of height %d: chunk %s: %w", r.manifest.Height, ChunkFile(r.next), err)
		}
		if err := r.manifest.Check(r.next, b); err != nil {
			return 0, err
		}
		r.rest = b
		r.next++
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// importChunks fills an empty store from a snapshot and compares everything that
// the manifest says with what was rebuilt.
func importChunks(m *Manifest, load func(i int) ([]byte, error), st registry.Store) (*registry.Machine, error) {
	reader := &chunkReader{manifest: m, load: load}
	height, appHash, err := registry.Import(reader, st)
	if err != nil {
		return nil, fmt.Errorf("restore the registry: %w", err)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return nil, fmt.Errorf("restore the registry: %w", err)
	}
	machine, err := registry.Open(st)
	if err != nil {
		return nil, fmt.Errorf("restore the registry: %w", err)
	}
	v := machine.View()
	if v == nil {
		return nil, errors.New("restore the registry: the snapshot holds none")
	}
	state, event := v.StateRoot(), v.EventRoot()
	switch {
	case height != m.Height || v.Height() != m.Height:
		err = fmt.Errorf("height %d, the manifest says %d", height, m.Height)
	case v.ChainID() != m.ChainID:
		err = fmt.Errorf("chain id %q, the manifest says %q", v.ChainID(), m.ChainID)
	case !slices.Equal(appHash[:], m.AppHash):
		err = fmt.Errorf("application hash %x, the manifest says %x", appHash, []byte(m.AppHash))
	case !slices.Equal(state[:], m.StateRoot):
		err = fmt.Errorf("state root %x, the manifest says %x", state, []byte(m.StateRoot))
	case !slices.Equal(event[:], m.EventRoot) || v.EventSize() != m.EventSize:
		err = fmt.Errorf("event log of size %d with root %x, the manifest says %d with %x", v.EventSize(), event, m.EventSize, []byte(m.EventRoot))
	}
	if err != nil {
		return nil, fmt.Errorf("restore the registry: it is not what the manifest says: %w", err)
	}
	return machine, nil
}

// snapshots makes automatic snapshots and serves them to peers.
type snapshots struct {
	app  *app
	dir  string
	due  chan struct{}
	node *Node // set before run

	offered *offer        // by the engine, while it restores
	applied atomic.Uint64 // chunks that were kept
}

func newSnapshots(a *app) *snapshots {
	return &snapshots{app: a, dir: filepath.Join(a.cfg.Dir, "snapshots"), due: make(chan struct{}, 1)}
}

// committed is told every height.
func (s *snapshots) committed(height uint64) {
	if every := s.app.cfg.SnapshotInterval; every > 0 && height%every == 0 {
		select {
		case s.due <- struct{}{}:
		default: // one is under way; the next height that is due gets its own
		}
	}
}

func (s *snapshots) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.due:
			path, err := s.node.ExportSnapshot(ctx, s.dir)
			if err == nil {
				err = s.prune()
			}
			switch {
			case err == nil:
				s.app.log.Info("snapshot made", slog.String("path", path))
			case ctx.Err() == nil && !errors.Is(err, ErrClosed):
				s.app.log.Error("snapshot failed", slog.Any("error", err))
			}
		}
	}
}

// list returns the heights of the snapshots, newest first.
func (s *snapshots) list() ([]uint64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	var heights []uint64
	for _, e := range entries {
		if h, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && e.IsDir() {
			heights = append(heights, h)
		}
	}
	slices.Sort(heights)
	slices.Reverse(heights)
	return heights, nil
}

func (s *snapshots) path(height uint64) string {
	return filepath.Join(s.dir, strconv.FormatUint(height, 10))
}

func (s *snapshots) prune() error {
	heights, err := s.list()
	if err != nil || len(heights) <= s.app.cfg.SnapshotKeep {
		return err
	}
	for _, h := range heights[s.app.cfg.SnapshotKeep:] {
		if err := os.RemoveAll(s.path(h)); err != nil {
			return err
		}
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(b)
	return errors.Join(werr, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
