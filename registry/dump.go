package registry

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/registry/eventlog"
	"github.com/civibus/civibus/registry/registrypb"
	"github.com/civibus/civibus/registry/smt"
)

const (
	dumpMagic      = "civibus-registry-dump/v1\n"
	dumpBatch      = 4 << 20 // bytes per write while importing
	maxDumpRecord  = 16 << 20
	maxDumpKey     = 8192
	dumpHeaderSize = 8 + 8 + 8 + 8 + 32
)

// Dump writes the committed state and all events as one stream, from which
// Import makes a registry with the same application hash. Blocks may be
// committed meanwhile.
func (m *Machine) Dump(w io.Writer) error {
	v := m.View()
	if v == nil {
		return errors.New("dump registry: it has no genesis yet")
	}
	return v.Dump(w)
}

// Dump writes what the view holds; see Machine.Dump.
func (v *View) Dump(w io.Writer) error {
	if err := v.dump(w); err != nil {
		return fmt.Errorf("dump registry at height %d: %w", v.height, err)
	}
	return nil
}

func (v *View) dump(to io.Writer) error {
	// 1. What follows.
	d := &dumpWriter{sum: sha256.New()}
	d.w = bufio.NewWriterSize(io.MultiWriter(to, d.sum), 1<<16)
	notarised, err := v.notarised()
	if err != nil {
		return err
	}
	ended, err := v.endedInstances()
	if err != nil {
		return err
	}
	stored := append(ended, notarised...)
	count := uint64(len(stored))
	v.eachRecord(func(string, []byte) { count++ })
	d.write([]byte(dumpMagic))
	for _, n := range []uint64{v.height, uint64(v.now.UnixNano()), v.EventSize(), count} {
		d.write(binary.BigEndian.AppendUint64(nil, n))
	}
	d.write(v.appHash[:])
	// 2. The state, in the order of the keys within each kind.
	v.eachRecord(func(key string, value []byte) { d.pair(key, value) })
	for _, key := range stored {
		value, err := v.value(key)
		if err != nil {
			return err
		}
		if value == nil {
			return fmt.Errorf("record %q vanished; the store is damaged", key)
		}
		d.pair(key, value)
	}
	// 3. The events.
	for i := range v.EventSize() {
		e, err := v.Event(i)
		if err != nil {
			return err
		}
		d.chunk(e)
	}
	// 4. A checksum of all of it, against cuts and bad disks.
	if err := errors.Join(d.err, d.w.Flush()); err != nil {
		return err
	}
	_, err = to.Write(d.sum.Sum(nil))
	return err
}

// eachRecord calls fn with every state record but the notarisations and the
// instances that ended.
func (v *View) eachRecord(fn func(key string, value []byte)) {
	s := v.state
	emit := func(r record) { fn(r.stateKey(), r.encode()) }
	scan(s.groups, func(_ string, p *civibus.Group) { emit(groupRecord{p}) })
	scan(s.groupMembers, func(_ string, p *groupMember) { emit(groupMemberRecord{p}) })
	scan(s.keys, func(_ string, p *civibus.RegisteredKey) { emit(keyRecord{p}) })
	scan(s.logs, func(_ string, p *civibus.Log) { emit(logRecord{p}) })
	scan(s.members, func(_ string, p *civibus.Member) { emit(memberRecord{p}) })
	emit(paramsRecord{s.params})
	scan(s.ballots, func(_ string, p *Vote) { emit(voteRecord{p}) })
	scan(s.chains, func(_ string, p *chain) { emit(chainRecord{p}) })
	scan(s.processes, func(_ string, p *Process) { emit(processRecord{p}) })
	scan(s.roles, func(_ string, p *ProcessRole) { emit(roleRecord{p}) })
	scan(s.instances, func(_ string, p *ProcessInstance) {
		if p.Ended == 0 {
			emit(instanceRecord{ProcessInstance: p})
		}
	})
	scan(s.enacted, func(_ string, p *EnactedRule) { emit(ruleRecord{p}) })
	scan(s.evidenceTypes, func(_ string, p *EvidenceType) { emit(evidenceTypeRecord{p}) })
	scan(s.topics, func(_ string, p *Topic) { emit(topicRecord{p}) })
	scan(s.usage, func(_ string, p *UsagePeriod) { emit(usageRecord{p}) })
	scan(s.delegations, func(_ string, p *Delegation) { emit(delegationRecord{p}) })
	scan(s.hostings, func(_ string, p *Hosting) { emit(hostingRecord{p}) })
	scan(s.misbehaviour, func(_ string, p *Misconduct) { emit(misconductRecord{p}) })
	scan(s.nodes, func(_ string, p *memberNodes) { emit(nodesRecord{p}) })
	scan(s.proposals, func(_ string, p *Proposal) { emit(proposalRecord{p}) })
	scan(s.upgrades, func(_ string, p *Upgrade) { emit(upgradeRecord{p}) })
	scan(s.validators, func(_ string, p *validator) { emit(validatorRecord{p}) })
	scan(s.votes, func(_ string, p *memberVotes) { emit(votesRecord{p}) })
	scan(s.rights, func(_ string, p *civibus.AccessRight) { emit(rightRecord{p}) })
	scan(s.sequences, func(id string, q sequence) { fn(sequencePrefix+id, q.encode()) })
	scan(s.services, func(_ string, p *civibus.Service) { emit(serviceRecord{p}) })
	scan(s.subsystems, func(_ string, p *civibus.Subsystem) { emit(subsystemRecord{p}) })
}

func scan[V any](t *table[V], fn func(key string, v V)) {
	t.Scan(func(key string, v V) bool {
		fn(key, v)
		return true
	})
}

// notarised returns the state keys of the notarisations that the view knows.
func (v *View) notarised() ([]string, error) {
	var keys []string
	err := v.store.Iterate(stateStoreKey(notaryPrefix), func(key, value []byte) error {
		r, err := decodeNotarisation(value)
		if err == nil && r.Height <= v.height {
			keys = append(keys, string(key[len(storeState):]))
		}
		return err
	})
	return keys, err
}

// dumpWriter writes lengths and bytes, and keeps the first error.
type dumpWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	err error
}

func (d *dumpWriter) write(b []byte) {
	if d.err == nil {
		_, d.err = d.w.Write(b)
	}
}

func (d *dumpWriter) chunk(b []byte) {
	d.write(binary.AppendUvarint(nil, uint64(len(b))))
	d.write(b)
}

func (d *dumpWriter) pair(key string, value []byte) {
	d.chunk([]byte(key))
	d.chunk(value)
}

// Import fills an empty store from a dump. It returns the height and the
// application hash, which it has computed from what it read and found equal to
// what the dump says; whether that is the right one is for the caller to
// compare with what the ledger decided. After an error the store is not usable
// and should be deleted.
func Import(r io.Reader, store Store) (height uint64, appHash [32]byte, err error) {
	m, err := runImport(r, store)
	if err != nil {
		return 0, appHash, fmt.Errorf("import registry: %w", err)
	}
	return m.height, m.appHash, nil
}

func runImport(r io.Reader, store Store) (meta, error) {
	// 1. An empty store, marked until the import is whole.
	errNotEmpty := errors.New("the store is not empty")
	if err := store.Iterate(nil, func(_, _ []byte) error { return errNotEmpty }); err != nil {
		return meta{}, err
	}
	if err := store.Write([]KV{{[]byte(storeMeta), []byte{metaImporting}}}, nil); err != nil {
		return meta{}, err
	}
	// 2. The parts of the stream.
	i := &importer{store: store, sum: sha256.New()}
	i.r = bufio.NewReaderSize(r, 1<<16)
	want, records, err := i.header()
	if err != nil {
		return meta{}, err
	}
	stateRoot, err := i.state(records)
	if err != nil {
		return meta{}, err
	}
	eventRoot, err := i.events(want)
	if err != nil {
		return meta{}, err
	}
	if err := i.end(); err != nil {
		return meta{}, err
	}
	// 3. What was read is what the dump says it is.
	if got := ComputeAppHash(stateRoot, eventRoot, want.events); got != want.appHash {
		return meta{}, fmt.Errorf("the content has application hash %x, the dump says %x", got, want.appHash)
	}
	i.put(KV{[]byte(storeMeta), want.encode()})
	return want, i.flush()
}

// importer reads a dump and writes batches.
type importer struct {
	r     *bufio.Reader
	sum   hash.Hash
	store Store
	puts  []KV
	size  int
}

func (i *importer) put(kv KV) {
	i.puts = append(i.puts, kv)
	i.size += len(kv.Key) + len(kv.Value)
}

func (i *importer) flush() error {
	err := i.store.Write(i.puts, nil)
	i.puts, i.size = nil, 0
	return err
}

func (i *importer) flushIfLarge() error {
	if i.size < dumpBatch {
		return nil
	}
	return i.flush()
}

func (i *importer) read(n int) ([]byte, error) {
	// What is announced is read piece by piece, so that a forged length costs
	// no memory.
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, i.r, int64(n)); err != nil {
		return nil, fmt.Errorf("the dump is cut: %w", err)
	}
	i.sum.Write(buf.Bytes())
	return buf.Bytes(), nil
}

func (i *importer) chunk(limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(i)
	if err != nil {
		return nil, fmt.Errorf("the dump is cut: %w", err)
	}
	if n > limit {
		return nil, fmt.Errorf("a record of %d bytes, the rule is at most %d", n, limit)
	}
	return i.read(int(n))
}

// ReadByte implements io.ByteReader for the lengths.
func (i *importer) ReadByte() (byte, error) {
	b, err := i.r.ReadByte()
	if err == nil {
		i.sum.Write([]byte{b})
	}
	return b, err
}

func (i *importer) header() (m meta, records uint64, err error) {
	magic, err := i.read(len(dumpMagic))
	if err != nil {
		return m, 0, err
	}
	if string(magic) != dumpMagic {
		return m, 0, fmt.Errorf("it does not start with %q", dumpMagic)
	}
	b, err := i.read(dumpHeaderSize)
	if err != nil {
		return m, 0, err
	}
	m = meta{
		height: binary.BigEndian.Uint64(b), now: time.Unix(0, int64(binary.BigEndian.Uint64(b[8:]))).UTC(),
		events: binary.BigEndian.Uint64(b[16:]), appHash: [32]byte(b[32:]),
	}
	return m, binary.BigEndian.Uint64(b[24:]), nil
}

// state reads the records, checks each and builds the tree.
func (i *importer) state(records uint64) ([32]byte, error) {
	st, seen := newState(), make(map[string]bool)
	st.uncounted = true // it is not used further
	var changes []smt.Change
	for range records {
		key, err := i.chunk(maxDumpKey)
		if err != nil {
			return [32]byte{}, err
		}
		value, err := i.chunk(maxDumpRecord)
		if err != nil {
			return [32]byte{}, err
		}
		if err := st.loadValue(string(key), value); err != nil {
			return [32]byte{}, err
		}
		if seen[string(key)] {
			return [32]byte{}, fmt.Errorf("state record %q occurs twice", key)
		}
		seen[string(key)] = true
		changes = append(changes, smt.Change{Key: string(key), Value: nonNil(value)})
		i.put(KV{stateStoreKey(string(key)), nonNil(value)})
		if err := i.flushIfLarge(); err != nil {
			return [32]byte{}, err
		}
	}
	tree, err := smt.Open(i.store, smt.Options{Prefix: storeTree, Keep: keepVersions})
	if err != nil {
		return [32]byte{}, err
	}
	u, err := tree.Prepare(changes)
	if err != nil {
		return [32]byte{}, err
	}
	puts, _ := u.Writes()
	for _, p := range puts {
		i.put(KV(p))
		if err := i.flushIfLarge(); err != nil {
			return [32]byte{}, err
		}
	}
	return u.Version().Root(), i.flush()
}

// nonNil makes sure that an empty value is a value.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// events reads the events, builds the log and the indices over it.
func (i *importer) events(want meta) ([32]byte, error) {
	log, err := eventlog.Open(i.store, storeLog, 0)
	if err != nil {
		return [32]byte{}, err
	}
	var batch [][]byte
	flush := func() error {
		u := log.Prepare(batch)
		for _, p := range u.Writes() {
			i.put(KV(p))
		}
		batch = nil
		if err := i.flush(); err != nil {
			return err
		}
		log.Accept(u)
		return nil
	}
	for index := range want.events {
		e, err := i.chunk(maxDumpRecord)
		if err != nil {
			return [32]byte{}, err
		}
		if err := i.indexEvent(index, e); err != nil {
			return [32]byte{}, err
		}
		batch = append(batch, slices.Clip(e))
		if len(batch) == 4096 {
			if err := flush(); err != nil {
				return [32]byte{}, err
			}
		}
	}
	err = flush()
	return log.Head().Root(), err
}

// indexEvent rebuilds what finds events.
func (i *importer) indexEvent(index uint64, b []byte) error {
	var e registrypb.Event
	if err := proto.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("event %d: %w", index, err)
	}
	if l := e.GetLogAnchored(); l != nil {
		i.put(KV{anchorStoreKey(l.Origin, l.Size), binary.BigEndian.AppendUint64(nil, index)})
	}
	if e.GetBlockCommitted() != nil {
		i.put(KV{blockStoreKey(e.Height), binary.BigEndian.AppendUint64(nil, index+1)})
	}
	return nil
}

func (i *importer) end() error {
	want := i.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(i.r, got); err != nil {
		return fmt.Errorf("the dump is cut: %w", err)
	}
	if !bytes.Equal(got, want) {
		return errors.New("the dump's checksum is wrong; it is damaged")
	}
	if _, err := i.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("bytes follow the dump's end")
	}
	return nil
}
