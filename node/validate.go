package node

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/internal/obs"
	"github.com/civibus/civibus/ledger"
	"github.com/civibus/civibus/once"
	"github.com/civibus/civibus/process"
	"github.com/civibus/civibus/usage"
)

// maxSocketPath is the longest path of a Unix socket that every supported
// system accepts (BSDs allow 104 bytes with the final zero).
const maxSocketPath = 103

// validator gathers problems.
type validator struct {
	prefix   string // of every key
	problems []Problem
}

func (v *validator) add(key, format string, args ...any) {
	v.problems = append(v.problems, Problem{Key: v.prefix + key, Message: fmt.Sprintf(format, args...)})
}

// Validate reports every problem of a configuration that has its defaults, as a
// *ConfigError. It looks at the files that are named, and opens no connection.
func (c Config) Validate() error {
	v := &validator{}
	if c.Member == "" {
		v.add("member", "it is missing; set it to the body's identifier, e.g. member = \"DEMO/GOV/0001\"")
	} else if _, err := civibus.ParseMemberID(c.Member); err != nil {
		v.add("member", "%v; set it to INSTANCE/CLASS/MEMBER", err)
	}
	c.Keys.validate(v)
	c.validateLedger(v)
	c.validateConsumer(v)
	c.validateProvider(v)
	c.validateEvidence(v)
	c.validateEvents(v)
	for i, s := range c.Services {
		s.validate(v, fmt.Sprintf("services[%d]", i))
	}
	c.validateServiceIDs(v)
	c.validateProcess(v)
	c.validateOnce(v)
	if len(c.Admin.Socket) > maxSocketPath {
		v.add("admin.socket", "path %q has %d bytes, the rule is at most %d; set a shorter path, e.g. below /run", c.Admin.Socket, len(c.Admin.Socket), maxSocketPath)
	}
	if c.Metrics.Listen != "off" {
		v.address("metrics.listen", c.Metrics.Listen)
		if !c.Metrics.Anywhere && !loopback(c.Metrics.Listen) {
			v.add("metrics.listen", "%q is not a loopback address, so that other machines could read how busy the body is; listen on 127.0.0.1, or set metrics.anywhere = true if the network is for administration only", c.Metrics.Listen)
		}
	}
	if _, err := obs.ParseLevel(c.Log.Level); err != nil {
		v.add("log.level", "%v", err)
	}
	v.oneOf("log.format", c.Log.Format, "text", "json")
	if len(v.problems) > 0 {
		return &ConfigError{Problems: v.problems}
	}
	return nil
}

func (c Config) validateLedger(v *validator) {
	v.oneOf("ledger.mode", c.Ledger.Mode, "validator", "follower", modeLight)
	c.Ledger.validateLight(v)
	v.file("ledger.genesis", c.Ledger.Genesis, false)
	v.address("ledger.listen", c.Ledger.Listen)
	for i, p := range c.Ledger.Peers {
		key := fmt.Sprintf("ledger.peers[%d]", i)
		id, addr, dialled := strings.Cut(p, "@")
		if len(id) != 40 || strings.Trim(id, "0123456789abcdef") != "" {
			v.add(key, "%q: the rule is NODE-ID@host:port or NODE-ID, with a node id of 40 hex digits; \"civibus init\" prints it", p)
		} else if dialled {
			v.address(key, addr)
		}
	}
	if r := c.Ledger.RetainBlocks; r > 0 && r < ledger.MinRetainBlocks {
		v.add("ledger.retain_blocks", "%d: the rule is 0 (all) or at least %d, the age up to which double signing can be proved", r, ledger.MinRetainBlocks)
	}
	v.positive("ledger.block_pause", c.Ledger.BlockPause)
	v.positive("ledger.heartbeat", c.Ledger.Heartbeat)
	if s := c.Ledger.MaxStaleness; s != NoLimit && s < 2*Limit(c.Ledger.Heartbeat) {
		v.add("ledger.max_staleness", "%v: the rule is 0s, which is never, or at least twice ledger.heartbeat (%v); a healthy, idle ledger would be called stale", s, c.Ledger.Heartbeat)
	}
}

func (c Config) validateConsumer(v *validator) {
	v.address("consumer.listen", c.Consumer.Listen)
	v.oneOf("consumer.error_vocabulary", c.Consumer.ErrorVocabulary, "7.7", "7.8")
	v.positive("consumer.timeout", c.Consumer.Timeout)
	v.pair("consumer.tls_certificate", c.Consumer.TLSCertificate, "consumer.tls_key", c.Consumer.TLSKey)
	v.oneOf("consumer.plain_http", c.Consumer.PlainHTTP, "never", "loopback", "anywhere")
	if c.Consumer.TLSCertificate == "" {
		switch {
		case c.Consumer.PlainHTTP == "never":
			v.add("consumer.tls_certificate", "it is missing, and consumer.plain_http is \"never\"; set a certificate, or plain_http = \"loopback\" if the calling systems are on this machine")
		case c.Consumer.PlainHTTP == "loopback" && !loopback(c.Consumer.Listen):
			v.add("consumer.listen", "%q is not a loopback address and consumer.tls_certificate is not set; set a certificate, listen on 127.0.0.1, or set plain_http = \"anywhere\" if the network is trusted", c.Consumer.Listen)
		}
	}
	if len(c.Consumer.Clients) == 0 && !loopback(c.Consumer.Listen) {
		v.add("consumer.clients", "there is none, so no other machine may call at %q; add a table [[consumer.clients]] for each system", c.Consumer.Listen)
	}
	c.validateClients(v, "consumer.clients")
}

// validateClients looks at client rules; where is the key of their list.
func (c Config) validateClients(v *validator, where string) {
	for i, cl := range c.Consumer.Clients {
		key := fmt.Sprintf("%s[%d]", where, i)
		if len(cl.Networks) == 0 && len(cl.Certificates) == 0 {
			v.add(key, "neither networks nor certificates is set, so it lets nobody in; set one")
		}
		if len(cl.Certificates) > 0 && c.Consumer.TLSCertificate == "" {
			v.add(key+".certificates", "client certificates need TLS; set consumer.tls_certificate and consumer.tls_key")
		}
		for j, n := range cl.Networks {
			if _, err := netip.ParsePrefix(n); err != nil {
				v.add(fmt.Sprintf("%s.networks[%d]", key, j), "%q: the rule is CIDR, e.g. 10.1.0.0/16 or 10.1.2.3/32", n)
			}
		}
		for j, f := range cl.Certificates {
			v.file(fmt.Sprintf("%s.certificates[%d]", key, j), f, false)
		}
		if cl.Subsystem != "" {
			if _, err := civibus.DecodePart(cl.Subsystem); err != nil {
				v.add(key+".subsystem", "%q: %v", cl.Subsystem, err)
			}
		}
	}
}

func (c Config) validateProvider(v *validator) {
	v.address("provider.listen", c.Provider.Listen)
	if c.Provider.BufferLimit < 0 || c.Provider.BufferLimit > 64<<20 {
		v.add("provider.buffer_limit", "%v: the rule is at most 64MiB; longer bodies stream", c.Provider.BufferLimit)
	}
	v.positive("seal.max_age", c.Seal.MaxAge)
	v.positive("seal.max_skew", c.Seal.MaxSkew)
}

func (c Config) validateEvidence(v *validator) {
	if c.Evidence.Log < 1 {
		v.add("evidence.log", "%d: the rule is a number from 1", c.Evidence.Log)
	}
	v.positive("evidence.batch_age", c.Evidence.BatchAge)
	if c.Evidence.AnchorInterval < 0 {
		v.add("evidence.anchor_interval", "%v: the rule is more than zero, or 0 for the default", c.Evidence.AnchorInterval)
	}
	v.positive("evidence.checkpoint_interval", c.Evidence.CheckpointInterval)
	if b := c.Evidence.BatchAge; b > Duration(10*time.Second) {
		v.add("evidence.batch_age", "%v: the rule is 1ms to 10s", b)
	}
	v.oneOf("evidence.archive", c.Evidence.Archive, "none", "digest", "encrypted")
	body, record := c.Evidence.BodyRetention, c.Evidence.RecordRetention
	if body < 0 || record < 0 {
		v.add("evidence.body_retention", "a retention is negative; the rule is 0 (for ever) or more")
	}
	if c.Evidence.Archive == "encrypted" && record > 0 && (body == 0 || body > record) {
		v.add("evidence.record_retention", "%v is shorter than evidence.body_retention (%v, 0 is for ever); keep records at least as long as the bodies that they describe", record, body)
	}
	v.positive("usage.period", c.Usage.Period)
	if _, err := civibus.DecodePart(c.Usage.Subsystem); err != nil && c.Usage.Subsystem != "" {
		v.add("usage.subsystem", "%q is no subsystem's code; set it to the code, percent-encoded", c.Usage.Subsystem)
	}
	for i, s := range c.Services {
		if c.Usage.Subsystem != "" && s.ID == c.Usage.Subsystem+"/"+usage.ServiceCode {
			v.add(fmt.Sprintf("services[%d].id", i), "%q is the service by which portals ask for usage records (usage.subsystem); give the service another code", s.ID)
		}
	}
	v.oneOf("receipts.exchange", c.Receipts.Exchange, "all", "none")
	if c.Receipts.Rate < 1 {
		v.add("receipts.rate", "%d: the rule is at least 1 a second; receipts.exchange = \"none\" sends none", c.Receipts.Rate)
	}
}

func (c Config) validateEvents(v *validator) {
	v.positive("events.retention", c.Events.Retention)
	v.positive("events.push_timeout", c.Events.PushTimeout)
	if c.Events.MaxBytes < 64<<20 {
		v.add("events.max_bytes", "%v: the rule is at least 64MiB", c.Events.MaxBytes)
	}
	if c.Events.Attempts < 1 || c.Events.Attempts > 100 {
		v.add("events.attempts", "%d: the rule is 1 to 100", c.Events.Attempts)
	}
	for i, w := range c.Events.Webhooks {
		v.url(fmt.Sprintf("events.webhooks[%d]", i), w)
	}
}

func (s ServiceConfig) validate(v *validator, key string) {
	if s.ID == "" {
		v.add(key+".id", "it is missing; set it to SUBSYSTEM/SERVICE")
	} else if _, err := civibus.SplitIdentifier(s.ID, 2, 3); err != nil {
		v.add(key+".id", "%q: %v; set it to SUBSYSTEM/SERVICE or SUBSYSTEM/SERVICE/VERSION", s.ID, err)
	}
	if s.Subject != "" {
		if _, err := parseSubject(s.Subject); err != nil {
			v.add(key+".subject", "%q: %v; e.g. path:/persons/{}/**", s.Subject, err)
		}
	}
	v.oneOf(key+".adapter", s.Adapter, "rest", "soap", "files")
	switch s.Adapter {
	case "rest", "soap":
		v.url(key+".url", s.URL)
		if s.Dir != "" {
			v.add(key+".dir", "only adapter files has a folder; remove it or set adapter = \"files\"")
		}
		if s.Adapter == "soap" && s.Mapping == "" {
			v.add(key+".mapping", "it is missing; adapter soap needs the file that maps calls to operations, see docs/connect/soap.md")
		}
	case "files":
		if s.Dir == "" {
			v.add(key+".dir", "it is missing; adapter files needs the folder that the legacy system reads and writes")
		}
		if s.URL != "" {
			v.add(key+".url", "adapter files has no URL; remove it or set another adapter")
		}
	}
	if s.Mapping != "" {
		if s.Adapter != "soap" {
			v.add(key+".mapping", "only adapter soap has a mapping; remove it or set adapter = \"soap\"")
		}
		v.file(key+".mapping", s.Mapping, false)
	}
	if s.Adapter != "files" && (s.Wait != 0 || s.ContentType != "") {
		v.add(key+".wait", "only adapter files waits and sets a content type; remove wait and content_type")
	}
	if s.Wait < 0 || s.Wait >= s.Timeout {
		v.add(key+".wait", "%v: the rule is 0 or more and less than timeout (%v)", s.Wait, s.Timeout)
	}
	v.positive(key+".timeout", s.Timeout)
	v.pair(key+".client_certificate", s.ClientCertificate, key+".client_key", s.ClientKey)
	if s.CA != "" {
		v.file(key+".ca", s.CA, false)
	}
	if s.OpenAPI != "" && !strings.HasPrefix(s.OpenAPI, "self:/") {
		if isURL(s.OpenAPI) {
			v.url(key+".openapi", s.OpenAPI)
		} else {
			v.file(key+".openapi", s.OpenAPI, false)
		}
	}
}

func (c Config) validateServiceIDs(v *validator) {
	seen := map[string]int{}
	for i, s := range c.Services {
		if first, dup := seen[s.ID]; dup && s.ID != "" {
			v.add(fmt.Sprintf("services[%d].id", i), "%q is also the id of services[%d]; one service has one system", s.ID, first)
		}
		seen[s.ID] = i
	}
}

func (c Config) validateProcess(v *validator) {
	seen := map[string]bool{}
	for i, p := range c.Process {
		key := fmt.Sprintf("process[%d]", i)
		if _, err := civibus.DecodePart(p.Subsystem); err != nil || p.Subsystem == "" {
			v.add(key+".subsystem", "%q is no subsystem's code; set it to the code, percent-encoded", p.Subsystem)
		}
		if seen[p.Subsystem] {
			v.add(key+".subsystem", "%q has a table before; one subsystem has one system", p.Subsystem)
		}
		seen[p.Subsystem] = true
		if p.System != "" {
			v.url(key+".system", p.System)
		}
		if p.CA != "" {
			v.file(key+".ca", p.CA, false)
		}
		for j, s := range c.Services {
			if s.ID == p.Subsystem+"/"+process.ServiceCode {
				v.add(fmt.Sprintf("services[%d].id", j), "%q is the service by which facts of processes come (%s); give the service another code", s.ID, key)
			}
		}
	}
}

func (c Config) validateOnce(v *validator) {
	if c.Once.Keep < Duration(time.Minute) {
		v.add("once.keep", "%v: the rule is at least 1m", c.Once.Keep)
	}
	seen := map[string]bool{}
	for i, s := range c.Once.Provide {
		key := fmt.Sprintf("once.provide[%d]", i)
		if _, err := civibus.DecodePart(s); err != nil || s == "" || seen[s] {
			v.add(key, "%q is no subsystem's code, or is there twice; set it to a code, percent-encoded", s)
		}
		seen[s] = true
		for j, o := range c.Services {
			if o.ID == s+"/"+once.ServiceCode {
				v.add(fmt.Sprintf("services[%d].id", j), "%q is the service by which evidence is given (%s); give the service another code", o.ID, key)
			}
		}
	}
	if len(c.Once.Provide) > 0 && !c.Once.Enabled {
		v.add("once.provide", "it needs once.enabled = true")
	}
}

func (v *validator) oneOf(key, value string, allowed ...string) {
	for _, a := range allowed {
		if a == value {
			return
		}
	}
	v.add(key, "%q: the rule is one of %s", value, strings.Join(allowed, ", "))
}

func (v *validator) positive(key string, d Duration) {
	if d <= 0 {
		v.add(key, "%v: the rule is more than zero", d)
	}
}

func (v *validator) address(key, value string) {
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || strings.ContainsAny(host, " /") {
		v.add(key, "%q: the rule is host:port, e.g. 127.0.0.1:8080", value)
	}
}

func (v *validator) url(key, value string) {
	if value == "" {
		v.add(key, "it is missing; set it to the system's address, e.g. http://127.0.0.1:9000/api")
		return
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		v.add(key, "%q: the rule is http:// or https://, a host and a path", value)
	} else if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		v.add(key, "%q: user, query and fragment are not allowed; they would be lost when the service path is appended", u.Redacted())
	}
}

// file wants a regular file; secret ones may be readable by their owner only.
func (v *validator) file(key, path string, secret bool) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		v.add(key, "%v", err)
	case !info.Mode().IsRegular():
		v.add(key, "%s is not a regular file", path)
	case secret && info.Mode().Perm()&0o077 != 0:
		v.add(key, "%s has mode %04o: others may read this secret; run chmod 600 %s", path, info.Mode().Perm(), path)
	}
}

// pair wants both files or neither; the second is a secret.
func (v *validator) pair(certKey, cert, keyKey, key string) {
	switch {
	case cert == "" && key == "":
	case key == "":
		v.add(keyKey, "it is missing; %s is set and needs its private key", certKey)
	case cert == "":
		v.add(certKey, "it is missing; %s is set and needs its certificate", keyKey)
	default:
		v.file(certKey, cert, false)
		v.file(keyKey, key, true)
	}
}

// loopback reports whether a listening address is reachable from this machine only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
