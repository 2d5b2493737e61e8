package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/civibus/civibus"
)

func (h HostedConfig) withDefaults() HostedConfig {
	if id, err := civibus.ParseMemberID(h.Member); err == nil {
		set(&h.DataDir, filepath.Join("hosted", civibus.EncodePart(id.Class)+"-"+civibus.EncodePart(id.Code)))
	}
	if h.DataDir != "" {
		set(&h.Keys.Dir, filepath.Join(h.DataDir, "keys"))
	}
	h.Evidence = h.Evidence.withDefaults()
	h.Services = servicesWithDefaults(h.Services)
	return h
}

// resolve makes the paths absolute.
func (h HostedConfig) resolve(base string, abs func(*string)) HostedConfig {
	abs(&h.DataDir)
	h.Keys = h.Keys.resolve(base, abs)
	abs(&h.Evidence.ArchiveKey)
	h.Clients = resolveClients(h.Clients, abs)
	h.Services = resolveServices(h.Services, abs)
	return h
}

// ForHosted is the configuration of a hosted member as if it had a node: its own
// settings, and for all else those of its host.
func (c Config) ForHosted(h HostedConfig) Config {
	c.Member, c.DataDir, c.Keys, c.Services, c.Evidence = h.Member, h.DataDir, h.Keys, h.Services, h.Evidence
	c.Consumer.Clients = h.Clients
	c.Hosted = nil
	c.Usage.Key, c.Usage.Subsystem = "", ""
	return c
}

// OfHosted is ForHosted of the member with an identifier.
func (c Config) OfHosted(member string) (Config, error) {
	for _, h := range c.Hosted {
		if h.Member == member {
			return c.ForHosted(h), nil
		}
	}
	return Config{}, fmt.Errorf("member %q is not hosted here: the configuration has no table [[hosted]] of it", member)
}

// CheckHosted reports every problem of all hosted members of a configuration that
// is valid otherwise, as a *ConfigError with the lines of its file.
func (c Config) CheckHosted(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	lines := keyLines(text)
	all := &ConfigError{File: file}
	for i := range c.Hosted {
		var ce *ConfigError
		if errors.As(c.ValidateHosted(i), &ce) {
			for _, p := range ce.Problems {
				p.Line = lineOf(lines, p.Key)
				all.Problems = append(all.Problems, p)
			}
		}
	}
	if len(all.Problems) == 0 {
		return nil
	}
	return all
}

// ValidateHosted reports every problem of the hosted member with an index, as a
// *ConfigError. Validate leaves them out: they concern nobody else.
func (c Config) ValidateHosted(i int) error {
	h := c.Hosted[i]
	v := &validator{prefix: fmt.Sprintf("hosted[%d].", i)}
	id, err := civibus.ParseMemberID(h.Member)
	switch {
	case h.Member == "":
		v.add("member", "it is missing; set it to the hosted body's identifier, e.g. member = \"DEMO/MUN/0002\"")
	case err != nil:
		v.add("member", "%v; set it to INSTANCE/CLASS/MEMBER", err)
	case h.Member != id.String():
		v.add("member", "%q: the rule is the canonical form %q", h.Member, id)
	case h.Member == c.Member:
		v.add("member", "%q is the node's own body; a body does not host itself", h.Member)
	}
	for j, other := range c.Hosted[:i] {
		if h.Member != "" && other.Member == h.Member {
			v.add("member", "%q is also in hosted[%d]; a body is hosted once", h.Member, j)
		}
		if other.DataDir == h.DataDir {
			v.add("data_dir", "%q is also that of hosted[%d]; each body has a folder of its own", h.DataDir, j)
		}
	}
	if h.DataDir == c.DataDir {
		v.add("data_dir", "%q is the node's own; a hosted body has a folder of its own", h.DataDir)
	}
	own := c.ForHosted(h)
	own.Keys.validate(v)
	own.validateEvidence(v)
	own.validateClients(v, "clients")
	for j, s := range own.Services {
		s.validate(v, fmt.Sprintf("services[%d]", j))
	}
	own.validateServiceIDs(v)
	if len(v.problems) > 0 {
		return &ConfigError{Problems: v.problems}
	}
	return nil
}
