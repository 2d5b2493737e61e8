package ledger_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/civibus/civibus/ledger"
)

func TestEngineLogLevels(t *testing.T) {
	var out bytes.Buffer
	var diverged []bool
	log := ledger.EngineLogger(
		slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		func(d bool, _ string) { diverged = append(diverged, d) })

	log.With("module", "state").Info("finalized block", "height", int64(7))
	log.With("module", "p2p").Error("dial failed", "err", errors.New("refused"))
	log.With("module", "consensus", "validator", "x").Error("prevote for nil", "err", errors.New("wrong Block.Header.AppHash"))
	if len(diverged) != 0 {
		t.Fatal("a wrong proposal of another was taken for a halt")
	}
	log.With("module", "consensus").Error("CONSENSUS FAILURE!!!", "err", errors.New("+2/3 committed an invalid block: wrong Block.Header.AppHash"), "stack", "...")
	log.With("module", "consensus").Error("CONSENSUS FAILURE!!!", "err", "disk full")
	log.With("module", "blocksync").Error("error in validation", "err", errors.New("wrong Block.Header.AppHash. Expected 1, got 2"))
	log.With("module", "state").Debug("dropped")
	log.With("module", "p2p").Error("Stopped accept routine, as transport is closed", "numPeers", 0)

	if want := []bool{true, false, true}; len(diverged) != 3 || diverged[0] != want[0] || diverged[1] != want[1] || diverged[2] != want[2] {
		t.Fatalf("failures %v, want %v", diverged, want)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 7 {
		t.Fatalf("%d lines, want 7:\n%s", len(lines), out.String())
	}
	for i, want := range [][]string{
		{"level=DEBUG", "height=7", "module=state"},
		{"level=WARN", "err=refused", "module=p2p"},
		{"level=ERROR", "validator=x", "module=consensus"},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %q has no %q", lines[i], w)
			}
		}
	}
	if last := lines[6]; !strings.Contains(last, "level=DEBUG") {
		t.Errorf("an orderly stop is logged as %q", last)
	}
}
