package node

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// EditLedger sets keys of the section [ledger] in the text of a configuration and
// leaves all else as it is, comments too. Values are TOML. A key that is commented
// out is set in its place. The result is checked by decoding it.
func EditLedger(text []byte, values map[string]string) ([]byte, error) {
	lines := strings.Split(string(text), "\n")
	// 1. The section.
	begin, end := -1, len(lines)
	for i, l := range lines {
		l = strings.TrimSpace(l)
		switch {
		case begin < 0 && l == "[ledger]":
			begin = i
		case begin >= 0 && strings.HasPrefix(l, "["):
			end = i
		}
		if end < len(lines) {
			break
		}
	}
	if begin < 0 {
		lines = append(lines, "[ledger]")
		begin, end = len(lines)-1, len(lines)
	}
	// 2. Each key where it is set, or where its comment is, or at the section's beginning.
	for _, field := range manual(Config{}) {
		if field.path != "ledger" {
			continue
		}
		for _, key := range field.fields {
			value, ok := values[key.name]
			if !ok {
				continue
			}
			delete(values, key.name)
			at := -1
			for _, pattern := range []string{`^\s*` + key.name + `\s*=`, `^\s*#\s*` + key.name + `\s*=`} {
				for i := begin + 1; at < 0 && i < end; i++ {
					if regexp.MustCompile(pattern).MatchString(lines[i]) {
						at = i
					}
				}
			}
			set := key.name + " = " + value
			if at >= 0 {
				lines[at] = set
				continue
			}
			lines = append(lines[:begin+1], append([]string{set}, lines[begin+1:]...)...)
			end++
		}
	}
	for name := range values {
		return nil, fmt.Errorf("ledger.%s: there is no such key", name)
	}
	// 3. It still is a configuration.
	out := []byte(strings.Join(lines, "\n"))
	if _, err := ParseConfig(out); err != nil {
		return nil, fmt.Errorf("edit the section [ledger]: %w; set its keys by hand", err)
	}
	return out, nil
}

// TOMLStrings writes a list of strings as TOML.
func TOMLStrings(list []string) string {
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i] = tomlString(s)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// ConfigPaths reads from a configuration that need not be complete yet where the
// body's genesis and keys are to be.
func ConfigPaths(file string) (Config, error) {
	cfg, _, err := readConfig(file)
	return cfg, err
}

// ReplaceFile writes a file that may exist: whole or not at all, with the mode
// that it had.
func ReplaceFile(file string, text []byte, mode os.FileMode) error {
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
	}
	temporary := file + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temporary, file)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}
