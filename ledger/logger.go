package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	cmtlog "github.com/cometbft/cometbft/libs/log"
)

// engineLogger carries CometBFT's log into slog. Its levels are mapped: error
// stays error (warn for peer-to-peer noise such as a peer that does not answer),
// warn stays warn, info becomes debug, because the engine writes several lines
// per block, and debug becomes debug-4. Every record has the attribute module.
//
// It also listens: a consensus failure halts the engine while it still reports
// that it runs, and its log line is the only sign.
type engineLogger struct {
	out    *slog.Logger
	module string
	onFail func(engineFailure)
}

// engineFailure is a line in the engine's log that means that this node cannot
// go on.
type engineFailure struct {
	diverged bool  // the application hash differs from the one agreed on
	upgrade  bool  // the next block is for another version of the software
	cause    error // the typed cause, if there is one
	detail   string
}

var _ cmtlog.Logger = engineLogger{}

const levelTrace = slog.LevelDebug - 4

// Debug logs at debug-4.
func (l engineLogger) Debug(msg string, kv ...any) { l.log(levelTrace, msg, kv) }

// Info logs at debug.
func (l engineLogger) Info(msg string, kv ...any) { l.log(slog.LevelDebug, msg, kv) }

// Warn logs at warn.
func (l engineLogger) Warn(msg string, kv ...any) { l.log(slog.LevelWarn, msg, kv) }

// Error logs at error, or at warn for the peer-to-peer module.
func (l engineLogger) Error(msg string, kv ...any) {
	if l.onFail != nil {
		l.inspect(msg, kv)
	}
	level := slog.LevelError
	if l.module == "p2p" || l.module == "blocksync" || l.module == "mempool" {
		level = slog.LevelWarn
	}
	if strings.HasPrefix(msg, "Stopped accept routine") || guarded(kv) { // what happens whenever a node stops, or is guarded
		level = slog.LevelDebug
	}
	l.log(level, msg, kv)
}

// guarded reports whether the engine complains that the validator's guard is up,
// which it does for every vote.
func guarded(kv []any) bool {
	for _, v := range kv {
		if err, ok := v.(error); ok && errors.Is(err, ErrGuarded) {
			return true
		}
	}
	return false
}

// With returns a logger with more attributes.
func (l engineLogger) With(kv ...any) cmtlog.Logger {
	rest := make([]any, 0, len(kv))
	for i := 0; i+1 < len(kv); i += 2 {
		if k, ok := kv[i].(string); ok && k == "module" {
			l.module = fmt.Sprint(kv[i+1])
			continue
		}
		rest = append(rest, kv[i], kv[i+1])
	}
	if len(rest) > 0 {
		l.out = l.out.With(attributes(rest)...)
	}
	return l
}

func (l engineLogger) log(level slog.Level, msg string, kv []any) {
	ctx := context.Background()
	if !l.out.Enabled(ctx, level) {
		return
	}
	l.out.Log(ctx, level, msg, append(attributes(kv), slog.String("module", l.module))...)
}

// inspect looks for the lines that mean a halt.
func (l engineLogger) inspect(msg string, kv []any) {
	failure := strings.HasPrefix(msg, "CONSENSUS FAILURE")
	diverged := false
	detail := msg
	for i := 0; i+1 < len(kv); i += 2 {
		if k, _ := kv[i].(string); k == "err" {
			text := fmt.Sprint(kv[i+1])
			diverged = strings.Contains(text, "Block.Header.AppHash") || strings.Contains(text, "Block.Header.LastResultsHash")
			detail = text
		}
	}
	// A single wrong proposal is the proposer's fault; a block that two thirds
	// committed, or that peers serve as committed, is this node's.
	if failure || (diverged && l.module == "blocksync") {
		l.onFail(engineFailure{diverged: diverged, detail: detail})
	}
}

// attributes turns CometBFT's key-value pairs into slog's. Values are rendered as
// text here, because some are lazy and some alias buffers that change later.
func attributes(kv []any) []any {
	out := make([]any, 0, len(kv)/2+1)
	for i := 0; i+1 < len(kv); i += 2 {
		key, ok := kv[i].(string)
		if !ok {
			key = fmt.Sprint(kv[i])
		}
		switch v := kv[i+1].(type) {
		case int:
			out = append(out, slog.Int(key, v))
		case int64:
			out = append(out, slog.Int64(key, v))
		case bool:
			out = append(out, slog.Bool(key, v))
		case string:
			out = append(out, slog.String(key, v))
		default:
			out = append(out, slog.String(key, fmt.Sprint(v)))
		}
	}
	return out
}
