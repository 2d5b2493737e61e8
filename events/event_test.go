package events

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const good = `{"specversion":"1.0","id":"1","source":"/population","type":"example.moved","datacontenttype":"application/json","time":"2026-01-02T03:04:05Z","partitionkey":"k","data":{"a": 1}}`

func TestParseEvent(t *testing.T) {
	e, err := ParseEvent([]byte(good))
	if err != nil || e.Part != "k" || strings.Contains(string(e.JSON), ": ") {
		t.Fatalf("%+v %v", e, err)
	}
	for bad, rule := range map[string]string{
		`[]`: "JSON object",
		`{`:  "not JSON",
		"{\"specversion\":\"1.0\",\"id\":\"\xff\"}":                                                           "UTF-8",
		`{"id":"1","source":"/a","type":"t"}`:                                                                 `specversion is ""`,
		`{"specversion":"0.3","id":"1","source":"/a","type":"t"}`:                                             "specversion",
		`{"specversion":"1.0","source":"/a","type":"t"}`:                                                      "id is missing",
		`{"specversion":"1.0","id":"1","type":"t"}`:                                                           "source is missing",
		`{"specversion":"1.0","id":"1","source":"/a"}`:                                                        "type is missing",
		`{"specversion":"1.0","id":"1","source":"%zz","type":"t"}`:                                            "URI reference",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","time":"today"}`:                              "RFC 3339",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","subject":7}`:                                 "subject",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","Upper":"x"}`:                                 "a-z and 0-9",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","civibusseq":"9"}`:                            "gateways' own",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","list":[1]}`:                                  "a string, a number or a boolean",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","n":1.5}`:                                     "integer",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","data":1,"data_base64":"AA=="}`:               "one of them",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","data_base64":"?"}`:                           "base64",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","x":"` + strings.Repeat("x", 5000) + `"}`:     "4096",
		`{"specversion":"1.0","id":"1","source":"/a","type":"t","data":"` + strings.Repeat("x", 1<<18) + `"}`: "262144",
	} {
		if _, err := ParseEvent([]byte(bad)); err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%.80s: %v, want %q", bad, err, rule)
		}
	}
}

// TestModes: the three modes of CloudEvents' HTTP binding give the same event.
func TestModes(t *testing.T) {
	h := func(pairs ...string) http.Header {
		out := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			out.Set(pairs[i], pairs[i+1])
		}
		return out
	}
	one, err := ParseRequest(h("Content-Type", "application/cloudevents+json; charset=utf-8"), []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := ParseRequest(h("Content-Type", BatchType), []byte("["+good+"]"))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := ParseRequest(h("Content-Type", "application/json", "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/population", "ce-type", "example.moved",
		"ce-time", "2026-01-02T03:04:05Z", "ce-partitionkey", "k"), []byte(`{"a": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range [][]*Event{batch, binary} {
		if len(e) != 1 || e[0].ID != one[0].ID || e[0].Part != "k" {
			t.Errorf("another event: %s", e[0].JSON)
		}
		var a, b map[string]any
		if json.Unmarshal(e[0].JSON, &a) != nil || json.Unmarshal(one[0].JSON, &b) != nil || len(a) != len(b) {
			t.Errorf("%s and %s differ", e[0].JSON, one[0].JSON)
		}
	}
	bytes, err := ParseRequest(h("Content-Type", "image/png", "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/p", "ce-type", "t"), []byte{1, 2})
	if err != nil || !strings.Contains(string(bytes[0].JSON), `"data_base64":"AQI="`) {
		t.Errorf("binary data: %v", err)
	}
	for name, try := range map[string]func() error{
		"no mode":     func() error { _, err := ParseRequest(h("Content-Type", "text/plain"), []byte("x")); return err },
		"empty batch": func() error { _, err := ParseRequest(h("Content-Type", BatchType), []byte("[]")); return err },
		"bad in batch": func() error {
			_, err := ParseRequest(h("Content-Type", BatchType), []byte("["+good+`,{"specversion":"1.0"}]`))
			if err != nil && !strings.Contains(err.Error(), "event 1 of the batch") {
				t.Errorf("which event: %v", err)
			}
			return err
		},
		"data no JSON": func() error {
			_, err := ParseRequest(h("Content-Type", "application/json", "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/p", "ce-type", "t"), []byte("{"))
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestBatchProvesEachEvent: every event of a batch is proved alone, and nothing else is.
func TestBatchProvesEachEvent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(rt, "events")
		b := &Batch{First: rapid.Uint64Range(1, 1<<40).Draw(rt, "first"), Events: lines(0, n), Oldest: 1, Newest: 1 << 41}
		copy(b.Seed[:], rapid.SliceOfN(rapid.Byte(), seedSize, seedSize).Draw(rt, "seed"))
		body, field := b.Encode()
		got, err := DecodeBatch(body, field)
		if err != nil || got.First != b.First || len(got.Events) != n || got.Newest != b.Newest {
			rt.Fatalf("%+v %v", got, err)
		}
		at := rapid.IntRange(0, n-1).Draw(rt, "place")
		p := got.Prove(at)
		if err := p.Verify(field); err != nil {
			rt.Fatal(err)
		}
		// Whatever is changed, it is no proof any more.
		lie := p
		switch rapid.IntRange(0, 5).Draw(rt, "lie") {
		case 0:
			lie.Event = append([]byte("x"), p.Event...)
		case 1:
			lie.Seq++
		case 2:
			lie.Place, lie.Seq = (at+1)%n, b.First+uint64((at+1)%n)
			if n == 1 {
				lie.Count = 2
			}
		case 3:
			lie.Salt = make([]byte, saltSize)
			lie.Salt[0] = ^p.Salt[0]
		case 4:
			lie.Path = append([][]byte{make([]byte, 32)}, p.Path...)
		case 5:
			lie.Path = nil
			if n == 1 {
				lie.Path = [][]byte{{1}}
			}
		}
		if lie.Verify(field) == nil {
			rt.Fatal("a lie verifies")
		}
		// Nor is a body another's.
		i := rapid.IntRange(0, len(body)-1).Draw(rt, "byte")
		body[i] ^= 1
		if _, err := DecodeBatch(body, field); err == nil {
			rt.Fatalf("a body with byte %d altered is taken", i)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ParseEvent(raw)
		if err != nil {
			return
		}
		again, err := ParseEvent(e.JSON)
		if err != nil || again.ID != e.ID || again.Hash != e.Hash {
			t.Errorf("%q is not stable: %v", raw, err)
		}
		if a := annotated(e.JSON, 1, "x"); !json.Valid(a) {
			t.Errorf("annotated %q is not JSON", a)
		}
	})
}

func FuzzDecodeBatch(f *testing.F) {
	b := &Batch{First: 1, Events: lines(1, 3), Oldest: 1, Newest: 3}
	body, field := b.Encode()
	f.Add(body, field)
	f.Fuzz(func(t *testing.T, body []byte, field string) {
		b, err := DecodeBatch(body, field)
		if err != nil {
			return
		}
		again, f2 := b.Encode()
		if string(again) != string(body) || len(b.Events) > 0 && f2 != field && b.field() != f2 {
			t.Error("a batch has two forms")
		}
	})
}
