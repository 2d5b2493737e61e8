package receipttest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/evidence/proof"
	"github.com/civibus/civibus/registry/registrypb"
)

// Build makes the receipt file and the policy file.
func (s *Scenario) Build() *Built {
	b := &Built{events: new(merkleLog), State: make(map[string][]byte)}
	for k, v := range s.State {
		b.State[k] = marshal(v)
	}
	b.tree = newStateTree(b.State)

	// 1. The seals, the records and the evidence logs with their checkpoints.
	request, response := s.seals()
	var notes []*registrypb.Log
	parts := proof.Parts{Exchange: Exchange}
	for _, side := range s.Sides {
		e, log := s.evidence(side, request, response)
		parts.Entries = append(parts.Entries, e)
		notes = append(notes, log)
	}
	// 2. The registry's event log: what came before, the anchors, the block.
	s.record(b, &parts, notes)
	// 3. The registry checkpoint with its cosignatures.
	s.cosign(b, &parts)
	// 4. The facts, and the whole.
	parts.Facts = s.facts(b)
	if s.EditFacts != nil {
		parts.Facts = s.EditFacts(b, parts.Facts)
	}
	r := &proof.Receipt{Exchange: parts.Exchange, Registry: proof.RegistryPart{
		BlockEvent: parts.BlockEvent, BlockProof: proof.TLogProof(b.events.size()-1, parts.BlockProof, parts.Checkpoint), Facts: parts.Facts}}
	for _, e := range parts.Entries {
		r.Entries = append(r.Entries, proof.Entry{Record: e.Record, Salt: e.Salt, Proof: string(e.Proof), AnchorEvent: e.AnchorEvent,
			AnchorProof: proof.TLogProof(e.AnchorIndex, e.AnchorProof, parts.Checkpoint)})
	}
	for _, c := range []proof.Chain{s.RequestChain, s.ResponseChain} {
		if c != nil {
			r.Chains = append(r.Chains, c)
		}
	}
	if s.EditReceipt != nil {
		s.EditReceipt(b, r)
	}
	r.Second = r.Second || s.second()
	if s.EditVersion != nil {
		r.Second = s.EditVersion(r.Second)
	}
	file, err := r.Marshal()
	must(err)
	b.Receipt = file
	if s.EditFile != nil {
		b.Receipt = []byte(s.EditFile(string(b.Receipt)))
	}
	b.Policy = s.policy()
	return b
}

// second reports whether the receipt is of version 2.
func (s *Scenario) second() bool {
	for _, side := range s.Sides {
		if side.Second != "" {
			return true
		}
	}
	return s.RequestSecond != "" || s.ResponseSecond != "" || s.RequestChain != nil || s.ResponseChain != nil
}

// Prove returns the StateProof of a key in the built state.
func (b *Built) Prove(key string) []byte { return b.tree.prove(b.State, key) }

// Fact returns a fact of the built state, absent if the state has none.
func (b *Built) Fact(key string) proof.Fact {
	return proof.Fact{Key: key, Value: b.State[key], Proof: b.Prove(key)}
}

func digest(body []byte) string {
	h := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(h[:]) + ":"
}

// seals makes the request's and the response's seal.
func (s *Scenario) seals() (request, response *evidencepb.Seal) {
	tag, trailer := "civibus", ""
	if s.Streamed {
		trailer = ";tr"
	}
	// 1. The request.
	lines := []Line{{`"@method"`, s.Method}, {`"@path"`, s.Path}, {`"@query"`, s.Query}}
	fields := []Line{
		{`"accept"`, "application/json"}, {`"civibus-height"`, fmt.Sprint(Decision)}, {`"civibus-purpose"`, s.Purpose},
		{`"x-road-client"`, s.Client}, {`"x-road-id"`, Message}, {`"x-road-request-id"`, Exchange},
	}
	switch {
	case s.Head:
		tag = "civibus-head"
	case s.Streamed:
		fields = append(fields, Line{`"civibus-body-length"`, fmt.Sprint(len(s.Request))}, Line{`"content-digest";tr`, digest(s.Request)})
	default:
		fields = append(fields, Line{`"content-digest"`, digest(s.Request)})
	}
	lines = append(lines, sorted(fields)...)
	if s.EditRequest != nil {
		lines = s.EditRequest(slices.Clone(lines))
	}
	request = s.sign("request", s.RequestKey, lines, Created, `;nonce="q83vEjRWeJCrze8SNFZ4kA=="`, tag)
	s.signSecond("request", request, s.RequestSecond, s.RequestChain, lines, Created, `;nonce="q83vEjRWeJCrze8SNFZ4kA=="`, tag)
	// 2. The response, bound to it.
	fields = []Line{
		{`"civibus-height"`, fmt.Sprint(Decision)}, {`"content-type"`, "application/json"},
		{`"x-road-client"`, s.Client}, {`"x-road-id"`, Message}, {`"x-road-request-id"`, Exchange}, {`"x-road-service"`, s.Service},
	}
	answerTag := "civibus-head"
	if !s.Cut {
		answerTag = "civibus"
		fields = append(fields, Line{`"content-digest"` + trailer, digest(s.Response)})
	}
	if s.Fault != "" && !s.Cut {
		fields = append(fields, Line{`"civibus-fault"`, s.Fault})
	}
	answer := append([]Line{{`"@status"`, fmt.Sprint(s.Status)}}, sorted(fields)...)
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l.ID, `"@`):
			answer = append(answer, Line{l.ID + ";req", l.Value})
		case strings.HasPrefix(l.ID, `"content-digest"`):
			answer = append(answer, Line{`"content-digest";req` + trailer, l.Value})
		}
	}
	if s.Head {
		trailer = ""
	}
	answer = append(answer, Line{`"signature";req` + trailer + `;key="` + tag + `"`, ":" + base64.StdEncoding.EncodeToString(request.Signature) + ":"})
	if s.EditResponse != nil {
		answer = s.EditResponse(answer)
	}
	response = s.sign("response", s.ResponseKey, answer, Created+1, "", answerTag)
	s.signSecond("response", response, s.ResponseSecond, s.ResponseChain, answer, Created+1, "", answerTag)
	return request, response
}

// signSecond adds a second signature and the digest of a chain to a seal.
func (s *Scenario) signSecond(which string, seal *evidencepb.Seal, key string, chain proof.Chain, lines []Line, created int64, nonce, tag string) {
	if chain != nil {
		all := sha256.New()
		for _, c := range chain {
			one := sha256.Sum256(c)
			all.Write(one[:])
		}
		seal.Chain = all.Sum(nil)
	}
	if key == "" {
		return
	}
	k := NewKey(key)
	id := `"signature"`
	for _, l := range lines {
		if l.ID == `"content-digest";tr` {
			id += ";tr"
		}
	}
	id += `;key="` + tag + `"`
	var b bytes.Buffer
	var list []string
	for _, l := range append(slices.Clone(lines), Line{id, ":" + base64.StdEncoding.EncodeToString(seal.Signature) + ":"}) {
		fmt.Fprintf(&b, "%s: %s\n", l.ID, l.Value)
		list = append(list, l.ID)
	}
	fmt.Fprintf(&b, `"@signature-params": (%s);created=%d%s;keyid="%s";alg="%s";tag="civibus-pq"`, strings.Join(list, " "), created, nonce, k.Hex(), k.Algorithm)
	base := b.Bytes()
	if s.EditSecond != nil {
		base = s.EditSecond(which, base)
	}
	seal.Second = &evidencepb.SecondSignature{Signature: k.Sign(base), KeyId: k.ID[:]}
}

func sorted(lines []Line) []Line {
	slices.SortFunc(lines, func(a, b Line) int { return strings.Compare(a.ID, b.ID) })
	return lines
}

// sign writes the signature base of lines and signs it.
func (s *Scenario) sign(which, key string, lines []Line, created int64, nonce, tag string) *evidencepb.Seal {
	k := NewKey(key)
	var b bytes.Buffer
	var list []string
	for _, l := range lines {
		fmt.Fprintf(&b, "%s: %s\n", l.ID, l.Value)
		list = append(list, l.ID)
	}
	params := fmt.Sprintf(`;created=%d%s;keyid="%s";alg="%s";tag="%s"`, created, nonce, k.Hex(), k.Algorithm, tag)
	if s.EditParams != nil {
		params = s.EditParams(which, params)
	}
	fmt.Fprintf(&b, `"@signature-params": (%s)%s`, strings.Join(list, " "), params)
	signed := b.Bytes()
	if s.EditSigned != nil {
		signed = s.EditSigned(which, bytes.Clone(signed))
	}
	return &evidencepb.Seal{Base: b.Bytes(), Signature: k.Sign(signed), KeyId: k.ID[:]}
}

// evidence makes one side's record, puts it in a log of nine leaves and signs
// its checkpoint. It returns the log's state as the registry will hold it.
func (s *Scenario) evidence(side *Side, request, response *evidencepb.Seal) (proof.EntryParts, *registrypb.Log) {
	r := &evidencepb.Record{
		Version: 1, Side: side.Side, ExchangeId: Exchange, MessageId: Message, Client: s.Client, Service: s.Service,
		RightId: s.Right, RegistryHeight: side.Decision, Outcome: s.Outcome, Fault: s.Fault,
		StartedUnixNano: Created*1e9 + int64(side.Side)*1e6, FinishedUnixNano: Created*1e9 + 140e6 - int64(side.Side)*1e6,
		PeerKeyId: NewKey("transport").ID[:],
	}
	if !s.NoRequest {
		r.Request = request
		if !s.Head {
			r.RequestBody = recordBody(s.Request)
		}
	}
	if !s.NoResponse {
		r.Response, r.Status = response, s.Status
		if !s.Cut {
			r.ResponseBody = recordBody(s.Response)
		}
	}
	for _, seal := range []*evidencepb.Seal{r.Request, r.Response} {
		if seal.GetSecond() != nil || len(seal.GetChain()) > 0 {
			r.Version = 2
		}
	}
	if side.EditRecord != nil {
		side.EditRecord(r)
	}
	record := marshal(r)
	salt := sha256.Sum256([]byte("salt " + side.Owner))
	commitment := sha256.Sum256(append(salt[:16:16], record...))

	log := new(merkleLog)
	filler := func(n int) {
		for range n {
			h := sha256.Sum256(fmt.Appendf(nil, "leaf %d of %s", log.size(), side.Origin))
			log.add(append([]byte{1}, h[:]...))
		}
	}
	filler(4 + int(side.Side))
	index := log.add(append([]byte{1}, commitment[:]...))
	filler(9 - int(log.size()))

	root := log.root(9)
	text := checkpointText(side.Origin, 9, root)
	lines := logLine(side.Origin, text, NewKey(side.LogKey))
	if side.Second != "" {
		lines += secondLine(side.Origin, side.Origin, 9, root, NewKey(side.Second), Created+3)
	}
	note := text + "\n" + lines
	if side.EditNote != nil {
		note = side.EditNote(text, lines)
	}
	return proof.EntryParts{Record: record, Salt: salt[:16], Proof: []byte(proof.TLogProof(index, log.prove(index, 9), []byte(note)))},
		&registrypb.Log{Origin: side.Origin, Member: side.Owner, Size: 9, Root: root[:], AnchoredHeight: side.Anchor}
}

func recordBody(body []byte) *evidencepb.Body {
	h := sha256.Sum256(body)
	return &evidencepb.Body{Size: uint64(len(body)), Sha256: h[:]}
}

// record fills the registry's event log and sets the anchors and the block.
func (s *Scenario) record(b *Built, parts *proof.Parts, logs []*registrypb.Log) {
	add := func(e *registrypb.Event) ([]byte, uint64) {
		data := marshal(e)
		return data, b.events.add(data)
	}
	block := func(height uint64, root []byte) *registrypb.Event {
		return &registrypb.Event{Height: height, Index: 1, Body: &registrypb.Event_BlockCommitted{BlockCommitted: &registrypb.BlockCommitted{
			TimeUnixNano: (Created + int64(height) - Decision) * 1e9, StateRoot: root, Transactions: 1}}}
	}
	for height := uint64(1); height <= 4; height++ {
		root := sha256.Sum256(fmt.Appendf(nil, "state %d", height))
		add(&registrypb.Event{Height: height, Author: Consumer, Body: &registrypb.Event_MemberSet{MemberSet: s.Member(Consumer)}})
		add(block(height, root[:]))
	}
	for i, log := range logs {
		side := s.Sides[i]
		hash := sha256.Sum256([]byte("transaction of " + side.Owner))
		e := &registrypb.Event{Height: side.Anchor, TxHash: hash[:], Author: side.Owner, Body: &registrypb.Event_LogAnchored{LogAnchored: log}}
		if side.EditAnchor != nil {
			side.EditAnchor(e)
		}
		parts.Entries[i].AnchorEvent, parts.Entries[i].AnchorIndex = add(e)
	}
	root := b.tree.root(0)
	e := block(Block, root[:])
	if s.EditBlock != nil {
		s.EditBlock(e)
	}
	parts.BlockEvent, _ = add(e)
	size := b.events.size()
	parts.BlockProof = b.events.prove(size-1, size)
	for i := range parts.Entries {
		parts.Entries[i].AnchorProof = b.events.prove(parts.Entries[i].AnchorIndex, size)
	}
}

// WitnessName returns the name under which a witness cosigns.
func WitnessName(code string) string { return "civibus/" + Chain + "/witness/GOV/" + code }

// Cosign returns a witness's line under a checkpoint's text.
func Cosign(code, text string) string {
	return cosignLine(WitnessName(code), text, NewKey(code+"/witness"), Created+8)
}

func (s *Scenario) cosign(b *Built, parts *proof.Parts) {
	text := checkpointText(s.OriginText, b.events.size(), b.events.root(b.events.size()))
	lines := ""
	for _, w := range s.Signers {
		lines += Cosign(w, text)
	}
	for _, w := range s.Seconds {
		lines += secondLine(WitnessName(w), s.OriginText, b.events.size(), b.events.root(b.events.size()), NewKey("mldsa44/"+w+"/witness"), Created+8)
	}
	b.Note = text + "\n" + lines
	if s.EditNote != nil {
		b.Note = s.EditNote(text, lines)
	}
	parts.Checkpoint = []byte(b.Note)
}

// facts proves what the receipt needs, in a fixed order.
func (s *Scenario) facts(b *Built) []proof.Fact {
	keys := []string{"member/" + Consumer, "member/" + Provider, "key/" + NewKey(s.RequestKey).Hex(), "key/" + NewKey(s.ResponseKey).Hex()}
	for _, side := range s.Sides {
		keys = append(keys, "key/"+NewKey(side.LogKey).Hex())
		if side.Second != "" {
			keys = append(keys, "key/"+NewKey(side.Second).Hex())
		}
	}
	for _, second := range []string{s.RequestSecond, s.ResponseSecond} {
		if second != "" {
			keys = append(keys, "key/"+NewKey(second).Hex())
		}
	}
	if s.Right != "" {
		keys = append(keys, "right/"+s.Right)
	}
	keys = append(keys, s.FactKeys...)
	var out []proof.Fact
	for i, k := range keys {
		if !slices.Contains(keys[:i], k) {
			out = append(out, b.Fact(k))
		}
	}
	return out
}

func (s *Scenario) policy() []byte {
	var witnesses []proof.PolicyWitness
	for _, w := range s.Trusted {
		witnesses = append(witnesses, proof.PolicyWitness{Name: "GOV-" + w, KeyName: WitnessName(w), Public: NewKey(w + "/witness").Raw()})
	}
	p, err := proof.FormatPolicy(s.Need, witnesses...)
	must(err)
	if s.EditPolicy != nil {
		return []byte(s.EditPolicy(string(p)))
	}
	return p
}
