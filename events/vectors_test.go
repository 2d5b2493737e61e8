package events

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write spec/vectors/events/batch.json")

// vectors are spec/vectors/events/batch.json.
type vectors struct {
	About   string   `json:"about"`
	Body    []byte   `json:"body"`
	Field   string   `json:"field"`
	Events  []string `json:"events"`
	Proofs  []Proof  `json:"proofs"`
	Invalid []struct {
		Name  string `json:"name"`
		Body  []byte `json:"body,omitempty"`
		Field string `json:"field"`
		Proof *Proof `json:"proof,omitempty"`
	} `json:"invalid"`
}

// TestVectors holds the form of batches and proofs to the vectors.
func TestVectors(t *testing.T) {
	const file = "../spec/vectors/events/batch.json"
	if *update {
		writeVectors(t, file)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	b, err := DecodeBatch(v.Body, v.Field)
	if err != nil || len(b.Events) != len(v.Events) || len(v.Proofs) != len(v.Events) {
		t.Fatalf("%+v %v", b, err)
	}
	body, field := b.Encode()
	if !bytes.Equal(body, v.Body) || field != v.Field {
		t.Error("the batch is written in another form")
	}
	for i, e := range v.Events {
		p := b.Prove(i)
		p.Exchange, p.Topic = v.Proofs[i].Exchange, v.Proofs[i].Topic
		got, _ := json.Marshal(p)
		want, _ := json.Marshal(v.Proofs[i])
		if string(b.Events[i]) != e || !bytes.Equal(got, want) || v.Proofs[i].Verify(v.Field) != nil {
			t.Errorf("event %d: %s", i, got)
		}
	}
	if len(v.Invalid) < 6 {
		t.Errorf("%d invalid cases", len(v.Invalid))
	}
	for _, x := range v.Invalid {
		if x.Proof != nil {
			err = x.Proof.Verify(x.Field)
		} else {
			_, err = DecodeBatch(x.Body, x.Field)
		}
		if err == nil {
			t.Errorf("%s: taken", x.Name)
		}
	}
}

func writeVectors(t *testing.T, file string) {
	b := &Batch{First: 41, Oldest: 1, Newest: 60, Epoch: 7777, Seed: [32]byte{1, 2, 3}}
	v := vectors{About: "A batch of five events (spec/events.md section 4), the proof of each, and what must be refused. Bytes are base64."}
	for _, e := range testEvents("vector", 5) {
		b.Events, v.Events = append(b.Events, e.JSON), append(v.Events, string(e.JSON))
	}
	v.Body, v.Field = b.Encode()
	for i := range b.Events {
		p := b.Prove(i)
		p.Exchange, p.Topic = "00000000-0000-4000-8000-000000000000", testTopic.String()
		v.Proofs = append(v.Proofs, p)
	}
	invalid := func(name string, body []byte, field string, p *Proof) {
		v.Invalid = append(v.Invalid, struct {
			Name  string `json:"name"`
			Body  []byte `json:"body,omitempty"`
			Field string `json:"field"`
			Proof *Proof `json:"proof,omitempty"`
		}{name, body, field, p})
	}
	altered := bytes.Clone(v.Body)
	altered[len(altered)-2] ^= 1
	other := *b
	other.First++
	_, shifted := other.Encode()
	invalid("event_altered", altered, v.Field, nil)
	invalid("body_cut", v.Body[:len(v.Body)-1], v.Field, nil)
	invalid("body_continued", append(bytes.Clone(v.Body), 0), v.Field, nil)
	invalid("field_of_another_batch", v.Body, shifted, nil)
	invalid("field_without_root", v.Body, "first=41, count=5, oldest=1, newest=60, epoch=7777", nil)
	lie := v.Proofs[2]
	lie.Event = v.Proofs[3].Event
	invalid("proof_of_another_event", nil, v.Field, &lie)
	short := v.Proofs[2]
	short.Path = short.Path[:len(short.Path)-1]
	invalid("path_too_short", nil, v.Field, &short)
	moved := v.Proofs[2]
	moved.Place, moved.Seq = 3, 44
	invalid("proof_at_another_place", nil, v.Field, &moved)
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
