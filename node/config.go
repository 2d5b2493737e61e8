package node

// Config is the whole configuration of one body's node: the file civibus.toml.
//
// Only member has no default. A field that is left out, or has its zero value,
// takes the default that its comment states. Paths are relative to the folder of
// the file. Keys of the file that are not described here are errors. Secrets are
// never in the file: a field that leads to one holds the path of a file.
type Config struct {
	// The public body that this node speaks for, INSTANCE/CLASS/MEMBER, each
	// part percent-encoded. Required. It must be in the registry: with another
	// body's identifier every exchange is refused, since the keys do not fit.
	Member string `toml:"member"`

	// The code of this gateway among the body's gateways in the registry
	// (X-Road's server code). Consumers name it in X-Road-Security-Server.
	ServerCode string `toml:"server_code"`

	// The folder that holds everything the node keeps: registry, evidence,
	// journals, and keys unless keys.dir is elsewhere. It must be on a local
	// disk. Losing it loses the body's evidence; back it up.
	DataDir string `toml:"data_dir"`

	// Where the body's private keys are.
	Keys KeysConfig `toml:"keys"`

	// How this node takes part in the registry's ledger.
	Ledger LedgerConfig `toml:"ledger"`

	// The face towards the body's own systems, which call other bodies' services.
	Consumer ConsumerConfig `toml:"consumer"`

	// The face towards other bodies' gateways.
	Provider ProviderConfig `toml:"provider"`

	// The seals over requests and answers, and the guard against replays.
	Seal SealConfig `toml:"seal"`

	// The evidence log: what is kept about every exchange.
	Evidence EvidenceConfig `toml:"evidence"`

	// What persons are told of exchanges that concerned them (docs/usage.md).
	Usage UsageConfig `toml:"usage"`

	// The receipts that are built from the evidence and exchanged with the
	// other body.
	Receipts ReceiptsConfig `toml:"receipts"`

	// Asynchronous messages: the topics that the body publishes on, and those of others
	// that its systems subscribe to (docs/events.md).
	Events EventsConfig `toml:"events"`

	// Requests for evidence between bodies, upon a person's explicit request and with
	// a preview before use (docs/once.md).
	Once OnceConfig `toml:"once"`

	// The administration interface that the civibus commands use.
	Admin AdminConfig `toml:"admin"`

	// Metrics and health for the operator's monitoring.
	Metrics MetricsConfig `toml:"metrics"`

	// The node's own log. It never holds bodies, query strings or persons.
	Log LogConfig `toml:"log"`

	// The body's services: which of its systems answers for which registered
	// service. One table [[services]] for each.
	Services []ServiceConfig `toml:"services"`

	// The body's subsystems that play roles in processes (docs/processes.md): one table
	// [[process]] for each. Such a subsystem also offers the service "process", by
	// which other bodies open facts to it.
	Process []ProcessConfig `toml:"process"`

	// The bodies without a node that this one hosts (docs/operate/hosting.md): one
	// table [[hosted]] for each. They have seal and log keys, evidence, services and
	// client systems of their own, and share the node's ledger, faces, transport
	// key and all settings that are not here. What is wrong with one of them stops
	// neither the node nor the others: its exchanges are refused, and "civibus
	// status" says why.
	Hosted []HostedConfig `toml:"hosted"`
}

// ProcessConfig is a subsystem that plays roles in processes.
type ProcessConfig struct {
	// The subsystem's code, percent-encoded. Required.
	Subsystem string `toml:"subsystem"`

	// The URL (http or https) to which the subsystem's turns are sent as signed
	// CloudEvents. Empty: the system asks for its turns at the consumer face.
	System string `toml:"system"`

	// PEM file with the certificates that the system's TLS certificate must chain
	// to. Empty: the machine's trusted roots.
	CA string `toml:"ca"`
}

// HostedConfig is a body that this one hosts.
type HostedConfig struct {
	// The hosted body, INSTANCE/CLASS/MEMBER. Required. Its exchanges are carried
	// while the registry says that this node's body hosts it, and not a block longer.
	Member string `toml:"member"`

	// The folder that holds all that is kept for the body, evidence first. It is
	// what is handed over when the body moves. Empty: hosted/CLASS-MEMBER beside the
	// file.
	DataDir string `toml:"data_dir"`

	// Where the body's private keys are: seal and log, and admin if it changes the
	// registry through this node. keys.dir is keys in its data_dir unless set.
	Keys KeysConfig `toml:"keys"`

	// Which systems may call in the name of which subsystem of the body. Without any
	// table none may, the ones on this machine included.
	Clients []ClientConfig `toml:"clients"`

	// The body's services.
	Services []ServiceConfig `toml:"services"`

	// The body's evidence log.
	Evidence EvidenceConfig `toml:"evidence"`
}

// KeysConfig says where private keys are.
type KeysConfig struct {
	// The folder with the body's private keys, PKCS#8 PEM files of mode 0600
	// named after their purposes. Secret: whoever reads it can act as the body.
	// The node refuses to start when others may read it.
	Dir string `toml:"dir"`

	// Where the passphrase is that opens and encrypts the key files: "file:PATH"
	// (mode 0600), "credential:NAME" (of the systemd unit) or "fd:NUMBER" (open when
	// the node starts). Never the passphrase itself. Empty: the files are not
	// encrypted, of which the node warns.
	Passphrase string `toml:"passphrase"`

	// The token that holds some of the keys.
	PKCS11 PKCS11Config `toml:"pkcs11"`
}

// PKCS11Config says which token is used. All empty: none.
type PKCS11Config struct {
	// Path of the token's PKCS#11 library, which runs within the node. The program
	// must be built for it (docs/operate/keys.md).
	Module string `toml:"module"`

	// The token's label, as its own tools show it.
	Token string `toml:"token"`

	// Where the token's user PIN is: "file:PATH" (mode 0600) or "credential:NAME".
	// Never the PIN itself. A wrong one is tried once: three lock most tokens.
	PIN string `toml:"pin"`

	// How many signatures the token makes at a time, up to 1024; 0 is 8. More than
	// it allows makes signatures fail.
	Sessions int `toml:"sessions"`
}

// LedgerConfig says how the node replicates the registry.
type LedgerConfig struct {
	// "validator" votes on blocks and cosigns registry checkpoints with the
	// body's validator and witness keys; "follower" only follows; "light" runs no
	// ledger node and takes verified blocks from full_nodes. A validator
	// whose key is not in the validator set follows until it is. Never run two
	// nodes with one validator key: that is evidence of double signing.
	Mode string `toml:"mode"`

	// The genesis file that all bodies of the instance share. A node with
	// another genesis never agrees with its peers and says so.
	Genesis string `toml:"genesis"`

	// host:port where other bodies' ledger nodes connect (TCP, authenticated
	// and encrypted by CometBFT). Port 0 takes a free one, which is only of use
	// in a network of one body.
	Listen string `toml:"listen"`

	// The other ledger nodes, each as NODE-ID@host:port, or as NODE-ID alone if it
	// may connect here and is not dialled ("civibus init" prints a node's id). Of
	// two nodes one must dial. No other node is let in. Without peers a validator
	// can only agree with itself.
	Peers []string `toml:"peers"`

	// Provider faces (host:port) of gateways that run a ledger node, by which a node
	// of mode "light" reads and changes the registry, and by which a new full node
	// finds a verified snapshot to begin with. Two or more, of different bodies:
	// answers are held against each other. None of them is trusted. Once there is a
	// registry view, its gateways are used too. Required in mode "light".
	FullNodes []string `toml:"full_nodes"`

	// How long validators that were trusted once are trusted. A node of mode "light"
	// that was away for longer stops and needs a new trust_height and trust_hash:
	// by then validators that left may sign a false history unpunished. Keep it well
	// below the time in which a body still answers for a validator key of the past.
	TrustPeriod Duration `toml:"trust_period"`

	// The height of a block from which a node of mode "light", or a new full node that
	// begins with a snapshot, starts to trust. 0: the genesis, if that is younger than
	// trust_period. Ask bodies that you trust: "civibus status --block HEIGHT".
	TrustHeight int `toml:"trust_height"`

	// The hash of the block at trust_height, 64 hex digits. A wrong one is refused by
	// honest full nodes; one from a liar makes the node believe the liar.
	TrustHash string `toml:"trust_hash"`

	// How many blocks are between two snapshots of the registry that a full node makes
	// and hands to new nodes and light gateways. Two are kept. -1 makes none: then
	// whoever joins needs all blocks.
	SnapshotInterval int `toml:"snapshot_interval"`

	// The pause after a block before the next. Shorter makes registry changes
	// quicker and costs CPU. It is no bound on exchanges, which do not wait for
	// blocks.
	BlockPause Duration `toml:"block_pause"`

	// Stops the node before the block at this height, with exit code 5: for an
	// upgrade that the bodies agreed on outside of the registry. 0 is never.
	HaltHeight uint64 `toml:"halt_height"`

	// How many blocks are kept; 0 keeps all, otherwise at least 100000, which is
	// how old evidence of double signing may be. A new node needs all blocks from
	// some peer, or a snapshot that is not older than the blocks kept.
	RetainBlocks uint64 `toml:"retain_blocks"`

	// How often a block is made when nothing changes, so that monitoring sees
	// that the ledger lives.
	Heartbeat Duration `toml:"heartbeat"`

	// How old the registry view may be for exchanges to be decided on it, by the
	// time of its last block. While the ledger makes no blocks, exchanges go on until
	// then, with warnings from the first minute; beyond it every exchange is refused.
	// Shorter ends them in a shorter outage; longer lets a key that was revoked
	// meanwhile, where this node cannot see it, be used for longer. "0s" is never.
	MaxStaleness Limit `toml:"max_staleness"`
}

// ConsumerConfig is the consumer face.
type ConsumerConfig struct {
	// host:port where the body's systems call, by TLS (tls_certificate and
	// tls_key) unless plain_http allows otherwise.
	Listen string `toml:"listen"`

	// PEM file with the certificate (chain) of the consumer face. Empty: plain
	// HTTP, which plain_http must allow.
	TLSCertificate string `toml:"tls_certificate"`

	// PEM file with the private key of tls_certificate. Secret: mode 0600.
	TLSKey string `toml:"tls_key"`

	// Where plain HTTP is allowed: "never", "loopback" (from the same machine), or
	// "anywhere": then whoever is on the network between reads and alters calls
	// before they are sealed.
	PlainHTTP string `toml:"plain_http"`

	// Which systems may call in the name of which subsystem. Without any table
	// [[consumer.clients]] every system on the same machine may call for every
	// subsystem of the body, and no system on another machine may. A system must
	// satisfy every list of a table that is not empty; tables are alternatives.
	Clients []ClientConfig `toml:"clients"`

	// The vocabulary of error types: "7.7" (CamelCase, X-Road 7.0 to 7.7) or
	// "7.8" (lower snake case, X-Road 7.8 and later). Clients compare strings.
	ErrorVocabulary string `toml:"error_vocabulary"`

	// Answers errors with fitting statuses (403, 404, 429, 502, 503, 504) and,
	// when asked by Accept, application/problem+json, instead of X-Road's 500.
	// X-Road clients that test for 500 break.
	CorrectStatuses bool `toml:"correct_statuses"`

	// The longest wait for a provider's answer to begin.
	Timeout Duration `toml:"timeout"`

	// Sends calls on that this body's view of the rights refuses, so that the
	// refusal is the provider's and bears its seal. Without it such calls end here.
	AskProvider bool `toml:"ask_provider"`
}

// ClientConfig lets client systems call for one subsystem.
type ClientConfig struct {
	// The caller that is allowed: SUBSYSTEM, or empty for the member itself.
	Subsystem string `toml:"subsystem"`

	// Networks (CIDR) from which calls are accepted. Empty: from everywhere, if
	// certificates are given.
	Networks []string `toml:"networks"`

	// PEM files with the TLS client certificates that are accepted. A
	// certificate is compared as a whole; its issuer does not matter.
	Certificates []string `toml:"certificates"`
}

// ProviderConfig is the provider face.
type ProviderConfig struct {
	// host:port where other bodies' gateways connect with mutual TLS. The
	// address in the registry must lead here.
	Listen string `toml:"listen"`

	// Bodies up to this size are held in memory and sealed in the header; longer
	// ones stream and are sealed in trailers. More memory per exchange if larger.
	BufferLimit Size `toml:"buffer_limit"`

	// A notice that answers every call while set, as a maintenance fault.
	Maintenance string `toml:"maintenance"`
}

// SealConfig is about seals.
type SealConfig struct {
	// How old a sealed request may be. Longer keeps more nonces in memory and
	// on disk; shorter refuses slow networks.
	MaxAge Duration `toml:"max_age"`

	// How far the clocks of two bodies may differ. Requests outside are refused
	// with a clock-skew fault that says by how much.
	MaxSkew Duration `toml:"max_skew"`
}

// EvidenceConfig is about the evidence log.
type EvidenceConfig struct {
	// The number of this evidence log of the body. Another log of the same body
	// (a second gateway) needs another number. Never change it for a log that
	// exists: that begins a new log.
	Log int `toml:"log"`

	// How long records may wait before they are put into the Merkle log as a
	// batch. They are durable from the start; this is about proofs only.
	BatchAge Duration `toml:"batch_age"`

	// The least time between two signed checkpoints of the log.
	CheckpointInterval Duration `toml:"checkpoint_interval"`

	// How often the log's checkpoint is anchored in the registry while the log
	// grows. Longer delays receipts; shorter makes more ledger transactions. 0, the
	// default, follows the number of anchored logs in the registry, so that all of
	// them together make at most 50 anchors a second: 2s up to 100 logs, 60s with
	// 3,000, never more than 10m. "civibus status" tells what is in force.
	AnchorInterval Duration `toml:"anchor_interval"`

	// Free space below which exchanges are refused, so that evidence is never
	// lost for want of disk. The node recovers by itself when there is room.
	Reserve Size `toml:"reserve"`

	// What is kept of bodies: "none" (their size), "digest" (size and digest), or
	// "encrypted" (the body too, encrypted with the key in archive_key).
	Archive string `toml:"archive"`

	// File with the key of the archive; made when missing. Secret: mode 0600. Only
	// used when archive is "encrypted". Empty: archive.key beside the evidence,
	// which protects the archive's backups only if they leave it out. Losing it
	// loses the archived bodies.
	ArchiveKey string `toml:"archive_key"`

	// How long archived bodies are kept. 0 is for ever.
	BodyRetention Duration `toml:"body_retention"`

	// How long records are kept, at least as long as bodies. 0 is for ever. The
	// Merkle log keeps its leaves, which tell nothing without the records.
	// Receipts of exchanges beyond it can no longer be made.
	RecordRetention Duration `toml:"record_retention"`
}

// UsageConfig is about usage records.
type UsageConfig struct {
	// The file with the key by which a person's records are found; it is made when it
	// is missing. Secret: mode 0600. All gateways of one body need the same one, and
	// without it nobody's records are found: keep a copy with the body's keys. Empty:
	// usage.key in data_dir.
	Key string `toml:"key"`

	// The subsystem that offers the service "usage", by which portals ask for a
	// person's records, percent-encoded. Who may ask is said by access rights. Empty:
	// none does.
	Subsystem string `toml:"subsystem"`

	// How long a period is, of which the registry anchors the count and the root.
	Period Duration `toml:"period"`
}

// ReceiptsConfig is about receipts.
type ReceiptsConfig struct {
	// "all" sends the own half of every receipt to the other body in the
	// background, so that an entry that a body drops later can be proved by the
	// other; "none" sends none. Receiving is always on.
	Exchange string `toml:"exchange"`

	// The most halves a second that are sent. While exchanges are made it is
	// fewer anyway: sending then takes at most a fiftieth of one processor's
	// time. What is over is sent later.
	Rate int `toml:"rate"`
}

// EventsConfig is about asynchronous messages.
type EventsConfig struct {
	// Carries no messages at this gateway. Set it at all gateways of a body but one:
	// what is published waits on the disk of the gateway that took it, and with two
	// that carry messages subscribers would see half.
	Off bool `toml:"off"`

	// How long published events are kept for subscribers that fetch late, and
	// received ones for replay after they were taken. A subscriber that is away for
	// longer is told which events it missed. Longer needs more disk.
	Retention Duration `toml:"retention"`

	// The most that is kept of one topic, beyond which the oldest events go before
	// their time; and of one subscription, beyond which no more are fetched until the
	// body's own system takes some.
	MaxBytes Size `toml:"max_bytes"`

	// The URLs that events may be pushed to begin with one of these. Empty: none, and
	// systems fetch their events. Whoever may subscribe can have this gateway call
	// whatever is listed.
	Webhooks []string `toml:"webhooks"`

	// How often an event is pushed that the system refuses, before it becomes a dead
	// letter. A system that does not answer at all is not refusing: its events wait.
	Attempts int `toml:"attempts"`

	// The longest wait for the answer to an event that is pushed.
	PushTimeout Duration `toml:"push_timeout"`
}

// OnceConfig is about requests for evidence.
type OnceConfig struct {
	// Offers the interface for requests for evidence to the body's systems at the
	// consumer face, and the service "once" of the subsystems below to other bodies. Set
	// it at one gateway of a body only: a request is kept where it was made.
	Enabled bool `toml:"enabled"`

	// The codes of the subsystems, percent-encoded, whose services give evidence. Each
	// gets the service "once", which others need a right to; register it like any.
	Provide []string `toml:"provide"`

	// How long a person may take to decide, and how long evidence is kept here, on
	// disk and sealed under a key that goes with it. At least 1 min.
	Keep Duration `toml:"keep"`
}

// AdminConfig is the administration interface.
type AdminConfig struct {
	// The Unix socket of the administration interface, mode 0600: whoever runs
	// as the node's user administers it. Systems limit its path to about 100
	// bytes. Relative paths are relative to data_dir.
	Socket string `toml:"socket"`
}

// MetricsConfig is the monitoring listener.
type MetricsConfig struct {
	// host:port that serves /metrics, /healthz and /readyz over plain HTTP. Keep
	// it on loopback or an administration network: it tells how busy a body is.
	// "off" serves none.
	Listen string `toml:"listen"`

	// Lets listen be an address that other machines reach. Set it when that network
	// is an administration network: whoever reaches the port reads all metrics.
	Anywhere bool `toml:"anywhere"`
}

// LogConfig is the node's own log.
type LogConfig struct {
	// The least level that is written: debug, info, warn or error.
	Level string `toml:"level"`

	// "text" (key=value) or "json" (one object a line), to standard error.
	Format string `toml:"format"`
}

// ServiceConfig connects one registered service to the system that answers.
type ServiceConfig struct {
	// The service, SUBSYSTEM/SERVICE or SUBSYSTEM/SERVICE/VERSION below the
	// body's identifier, each part percent-encoded. Required.
	ID string `toml:"id"`

	// "rest" forwards calls to url as they are. "soap" turns them into SOAP 1.1
	// calls of url. "files" hands them to a legacy system through the folder dir.
	Adapter string `toml:"adapter"`

	// Base URL of the system that answers (http or https); the service path and
	// query are appended. Required by adapters rest and soap.
	URL string `toml:"url"`

	// URL or file of the OpenAPI description, for getOpenAPI, or "self:/PATH" for
	// a path at the system itself. Empty: none, except with adapter soap, which
	// makes one.
	OpenAPI string `toml:"openapi"`

	// The longest wait for the system's answer to begin.
	Timeout Duration `toml:"timeout"`

	// PEM file with the client certificate that is shown to the system.
	ClientCertificate string `toml:"client_certificate"`

	// PEM file with the private key of client_certificate. Secret: mode 0600.
	ClientKey string `toml:"client_key"`

	// PEM file with the certificates that the system's TLS certificate must
	// chain to. Empty: the machine's trusted roots.
	CA string `toml:"ca"`

	// TOML file that says which method and path is which SOAP operation, and which
	// JSON field is which XML element (docs/connect/soap.md). Its url is replaced by
	// the one here. Adapter soap only; required there.
	Mapping string `toml:"mapping"`

	// Folder with the sub-folders that the legacy system reads and writes
	// (docs/connect/files.md). Adapter files only; required there.
	Dir string `toml:"dir"`

	// How long a call waits for the legacy system's answer before it is told to
	// fetch the answer later. Keep it below timeout. Adapter files only; 0: not at all.
	Wait Duration `toml:"wait"`

	// Where in a request the person is whom it concerns, for rights that concern
	// persons: "path:/persons/{}/**" ({} is the person, * any segment, ** the rest),
	// "query:PARAMETER" or "json:FIELD" (names with points between, of a body that the
	// gateway buffers). Empty: the consumer says it in the header Civibus-Subject.
	Subject string `toml:"subject"`

	// Content type of the legacy system's answers. Adapter files only; empty:
	// application/octet-stream.
	ContentType string `toml:"content_type"`
}
