package keys

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/civibus/civibus"
)

// Refresh reloads the ring if its directory, or the file of its passphrase, is
// not what was read last, and reports whether it did. After a failure it tries
// again only when something has changed again. It costs little when nothing has:
// call it every few seconds.
func (r *Ring) Refresh() (reloaded bool, err error) {
	now := r.stamp()
	if now == r.state.Load().stamp || now == r.refused.Load() {
		return false, nil
	}
	if err := r.Reload(); err != nil {
		r.refused.Store(now)
		return false, err
	}
	return true, nil
}

// stamp changes when a file is added, removed or written.
func (r *Ring) stamp() string {
	var b strings.Builder
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && e.Name() != changed {
			continue
		}
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(&b, "%s %d %d %o\n", e.Name(), info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
	}
	if r.passphrase != nil {
		b.WriteString(r.passphrase.source.Stamp())
	}
	return b.String()
}

// soon is how long before a certificate ends it is warned of.
const soon = 30 * 24 * time.Hour

// Warning is what an operator should mend without the body having to stop.
type Warning struct {
	File    string // in the key directory
	Key     civibus.KeyID
	Message string
}

// Warnings returns what is not as it should be: keys in files that are not
// encrypted or weakly, certificates of seal keys that end soon or have ended.
func (r *Ring) Warnings(now time.Time) []Warning {
	var out []Warning
	state := r.state.Load()
	for _, purpose := range purposes {
		for _, k := range state.keys[purpose] {
			warn := func(format string, args ...any) {
				out = append(out, Warning{k.name, k.key.public.ID, fmt.Sprintf(format, args...)})
			}
			switch {
			case k.how.custody == PlainFile:
				warn("the key is not encrypted: who reads the file or a backup of it has the key; set a passphrase for the directory")
			case k.how.weak != "":
				warn("the key's encryption is weak (%s): set the passphrase of the directory anew", k.how.weak)
			}
			if k.chain == nil {
				continue
			}
			switch ends := k.chain.Leaf().NotAfter; {
			case now.After(ends):
				warn("the key's certificate ended on %s", ends.Format(time.DateOnly))
			case ends.Sub(now) < soon:
				warn("the key's certificate ends on %s", ends.Format(time.DateOnly))
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(r.dir, changed)); err == nil {
		out = append(out, Warning{File: changed, Message: "a change of the passphrase was interrupted and cannot be carried through; make the directory writable and open it again"})
	}
	return out
}
