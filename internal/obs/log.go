// Package obs sets up what operators look at: the structured log, the metrics
// registry and the health page.
//
// Trust: it only tells. An attacker who controls its listener's clients can at
// most read counters and component states, never identities, bodies or keys.
package obs

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// NewLogger makes the logger of one node. Level is debug, info, warn or error
// (empty: info); format is text or json (empty: text).
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	l, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q: the rule is text or json", format)
}

// ParseLevel reads a level's name.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q: the rule is one of debug, info, warn, error", s)
}
