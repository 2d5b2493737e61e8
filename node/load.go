package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// ConfigError is every problem of a configuration at once.
type ConfigError struct {
	File     string // empty when the configuration is not from a file
	Problems []Problem
}

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Key     string // e.g. consumer.listen or services[1].url
	Line    int    // 0: not in the file
	Message string // the input, the rule and the fix
}

// Error lists the problems, one a line.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		if e.File != "" {
			b.WriteString(e.File)
			if p.Line > 0 {
				fmt.Fprintf(&b, ":%d", p.Line)
			}
			b.WriteString(": ")
		}
		if p.Key != "" {
			b.WriteString(p.Key + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// LoadConfig reads a configuration file: strictly decoded, defaults filled in,
// relative paths resolved against its folder, validated. A *ConfigError holds
// all that is wrong with it.
func LoadConfig(file string) (Config, error) {
	cfg, text, err := readConfig(file)
	if err == nil {
		err = cfg.Validate()
	}
	var ce *ConfigError
	if errors.As(err, &ce) {
		ce.File = file
		lines := keyLines(text)
		for i, p := range ce.Problems {
			if p.Line == 0 {
				ce.Problems[i].Line = lineOf(lines, p.Key)
			}
		}
	}
	return cfg, err
}

// readConfig reads and decodes a configuration file, fills in the defaults and
// resolves the paths. It does not validate.
func readConfig(file string) (cfg Config, text []byte, err error) {
	if text, err = os.ReadFile(file); err != nil {
		return Config{}, nil, fmt.Errorf("read configuration: %w", err)
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return Config{}, nil, fmt.Errorf("read configuration: %w", err)
	}
	if cfg, err = ParseConfig(text); err != nil {
		return cfg, text, err
	}
	return cfg.WithDefaults().resolve(filepath.Dir(abs)), text, nil
}

// ParseConfig decodes the text of a configuration file strictly. It fills in no
// defaults and does not validate.
func ParseConfig(text []byte) (Config, error) {
	var cfg Config
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	err := dec.Decode(&cfg)
	var missing *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case err == nil:
		return cfg, nil
	case errors.As(err, &missing):
		ce := &ConfigError{}
		for _, e := range missing.Errors {
			line, _ := e.Position()
			key := strings.Join(e.Key(), ".")
			ce.Problems = append(ce.Problems, Problem{Key: key, Line: line, Message: "unknown key" + suggest(key)})
		}
		return cfg, ce
	case errors.As(err, &bad):
		line, _ := bad.Position()
		msg := strings.TrimPrefix(bad.Error(), "toml: ")
		return cfg, &ConfigError{Problems: []Problem{{Key: strings.Join(bad.Key(), "."), Line: line, Message: msg}}}
	default:
		return cfg, &ConfigError{Problems: []Problem{{Message: strings.TrimPrefix(err.Error(), "toml: ")}}}
	}
}

// suggest names the known key that is nearest to a misspelt one.
func suggest(key string) string {
	best, distance := "", 4
	for _, k := range knownKeys() {
		if d := editDistance(key, k, distance); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return "; \"civibus config reference\" lists the keys that exist"
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// editDistance is Levenshtein's, or at least limit when it is that large.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// lineOf finds the line of a key or of the list or table that it would be in.
func lineOf(lines map[string]int, key string) int {
	for key != "" {
		if line := lines[key]; line > 0 {
			return line
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return 0
		}
		key = key[:cut]
	}
	return 0
}

// keyLines maps the keys that a file sets to their lines, naming elements of
// arrays of tables as Validate does. Files that do not parse give what precedes.
func keyLines(text []byte) map[string]int {
	lines := map[string]int{}
	counts := map[string]int{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		name := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table:
			table = name
			lines[name] = line
		case unstable.ArrayTable:
			table = name + "[" + strconv.Itoa(counts[name]) + "]"
			counts[name]++
			lines[table] = line
		case unstable.KeyValue:
			if table != "" {
				name = table + "." + name
			}
			lines[name] = line
		}
	}
	return lines
}

// WithDefaults returns the configuration with every zero value replaced by its
// documented default.
func (c Config) WithDefaults() Config {
	set(&c.ServerCode, "gateway-1")
	set(&c.DataDir, "data")
	set(&c.Keys.Dir, "keys")

	set(&c.Ledger.Mode, "validator")
	set(&c.Ledger.Genesis, "genesis.toml")
	set(&c.Ledger.Listen, "127.0.0.1:26656")
	set(&c.Ledger.BlockPause, Duration(200*time.Millisecond))
	set(&c.Ledger.Heartbeat, Duration(45*time.Second))
	set(&c.Ledger.MaxStaleness, Limit(72*time.Hour))
	set(&c.Ledger.TrustPeriod, Duration(14*24*time.Hour))
	set(&c.Ledger.SnapshotInterval, 10_000)

	set(&c.Consumer.Listen, "127.0.0.1:8080")
	set(&c.Consumer.PlainHTTP, "never")
	set(&c.Consumer.ErrorVocabulary, "7.7")
	set(&c.Consumer.Timeout, Duration(60*time.Second))

	set(&c.Provider.Listen, "127.0.0.1:5500")
	set(&c.Provider.BufferLimit, Size(1<<20))

	set(&c.Seal.MaxAge, Duration(5*time.Minute))
	set(&c.Seal.MaxSkew, Duration(60*time.Second))

	c.Evidence = c.Evidence.withDefaults()

	set(&c.Usage.Period, Duration(time.Hour))

	set(&c.Receipts.Exchange, "all")
	set(&c.Receipts.Rate, 5000)

	set(&c.Events.Retention, Duration(30*24*time.Hour))
	set(&c.Events.MaxBytes, Size(4<<30))
	set(&c.Events.Attempts, 8)
	set(&c.Events.PushTimeout, Duration(10*time.Second))
	set(&c.Once.Keep, Duration(24*time.Hour))

	set(&c.Admin.Socket, "admin.sock")
	set(&c.Metrics.Listen, "127.0.0.1:9464")
	set(&c.Log.Level, "info")
	set(&c.Log.Format, "text")

	c.Services = servicesWithDefaults(c.Services)
	hosted := make([]HostedConfig, len(c.Hosted))
	for i, h := range c.Hosted {
		hosted[i] = h.withDefaults()
	}
	c.Hosted = hosted
	return c
}

func (e EvidenceConfig) withDefaults() EvidenceConfig {
	set(&e.Log, 1)
	set(&e.BatchAge, Duration(time.Second))
	set(&e.CheckpointInterval, Duration(time.Second))
	set(&e.Reserve, Size(256<<20))
	set(&e.Archive, "digest")
	return e
}

func servicesWithDefaults(in []ServiceConfig) []ServiceConfig {
	services := make([]ServiceConfig, len(in))
	for i, s := range in {
		set(&s.Adapter, "rest")
		set(&s.Timeout, Duration(30*time.Second))
		if s.Adapter == "soap" {
			set(&s.OpenAPI, "self:/openapi.json")
		}
		services[i] = s
	}
	return services
}

func set[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// resolve makes every path absolute: the socket's against data_dir, all others
// against base.
func (c Config) resolve(base string) Config {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	abs(&c.DataDir)
	c.Keys = c.Keys.resolve(base, abs)
	abs(&c.Ledger.Genesis)
	abs(&c.Consumer.TLSCertificate)
	abs(&c.Consumer.TLSKey)
	abs(&c.Evidence.ArchiveKey)
	abs(&c.Usage.Key)
	c.Consumer.Clients = resolveClients(c.Consumer.Clients, abs)
	c.Services = resolveServices(c.Services, abs)
	c.Process = slices.Clone(c.Process)
	for i := range c.Process {
		abs(&c.Process[i].CA)
	}
	hosted := make([]HostedConfig, len(c.Hosted))
	for i, h := range c.Hosted {
		hosted[i] = h.resolve(base, abs)
	}
	c.Hosted = hosted
	if !filepath.IsAbs(c.Admin.Socket) {
		c.Admin.Socket = filepath.Join(c.DataDir, c.Admin.Socket)
	}
	return c
}

func resolveClients(in []ClientConfig, abs func(*string)) []ClientConfig {
	clients := make([]ClientConfig, len(in))
	for i, cl := range in {
		cl.Certificates = append([]string(nil), cl.Certificates...)
		for j := range cl.Certificates {
			abs(&cl.Certificates[j])
		}
		clients[i] = cl
	}
	return clients
}

func resolveServices(in []ServiceConfig, abs func(*string)) []ServiceConfig {
	services := make([]ServiceConfig, len(in))
	for i, s := range in {
		abs(&s.ClientCertificate)
		abs(&s.ClientKey)
		abs(&s.CA)
		abs(&s.Dir)
		abs(&s.Mapping)
		if s.OpenAPI != "" && !isURL(s.OpenAPI) && !strings.HasPrefix(s.OpenAPI, "self:") {
			abs(&s.OpenAPI)
		}
		services[i] = s
	}
	return services
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}
