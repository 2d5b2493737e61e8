package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/keys"
	"github.com/civibus/civibus/keys/secret"
	"github.com/civibus/civibus/node"
)

func newKey(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "key", Short: "The body's private keys: their files, tokens and certificates",
		Long: `Look after the body's private keys in the key folder of the configuration and in
its token. The node need not run; one that runs takes changes up within seconds.
"civibus register key" is about their public halves in the registry.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(newKeyList(a), newKeyNew(a), newKeyTake(a), newKeyPassphrase(a), newKeyRequest(a), newKeyBind(a), newKeyOffer(a))
	return c
}

// ring opens the keys of the configuration.
func (a *app) ring() (*keys.Ring, node.Config, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, cfg, err
	}
	ring, err := cfg.Keys.Open()
	return ring, cfg, err
}

// heldKey is a key of the folder in JSON.
type heldKey struct {
	Key              string     `json:"key"`
	Purpose          string     `json:"purpose"`
	Algorithm        string     `json:"algorithm"`
	Custody          string     `json:"custody"`
	File             string     `json:"file"`
	CertificateUntil *time.Time `json:"certificate_until,omitempty"`
}

func describeKey(h keys.Held) heldKey {
	k := h.Key.Key()
	out := heldKey{k.ID.String(), keys.PurposeName(h.Purpose()), string(k.Algorithm), h.Custody.String(), h.File, nil}
	if h.Chain != nil {
		until := h.Chain.Leaf().NotAfter.UTC()
		out.CertificateUntil = &until
	}
	return out
}

// find returns the key with an id.
func find(ring *keys.Ring, id string) (keys.Held, error) {
	for _, h := range ring.List() {
		if h.Key.Key().ID.String() == id {
			return h, nil
		}
	}
	return keys.Held{}, usageError{fmt.Errorf("key %q is not in the key folder", id), "\"civibus key list\" shows the ids"}
}

func newKeyList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys of the key folder and what to mend about them", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ring, _, err := a.ring()
			if err != nil {
				return err
			}
			defer ring.Close()
			items := []heldKey{}
			t := table{head: []string{"KEY", "PURPOSE", "ALGORITHM", "CUSTODY", "CERTIFICATE UNTIL", "FILE"}}
			for _, h := range ring.List() {
				k := describeKey(h)
				items = append(items, k)
				until := ""
				if k.CertificateUntil != nil {
					until = k.CertificateUntil.Format(time.DateOnly)
				}
				t.add(k.Key, k.Purpose, k.Algorithm, k.Custody, until, k.File)
			}
			warnings := []string{}
			for _, w := range ring.Warnings(time.Now()) {
				warnings = append(warnings, w.File+": "+w.Message)
			}
			if a.json {
				return a.printJSON(struct {
					Items    []heldKey `json:"items"`
					Warnings []string  `json:"warnings"`
				}{items, warnings})
			}
			t.write(a.out)
			for _, w := range warnings {
				fmt.Fprintf(a.err, "civibus: warning: %s\n", w)
			}
			return nil
		},
	}
}

func newKeyNew(a *app) *cobra.Command {
	var algorithm string
	var token bool
	c := &cobra.Command{
		Use: "new PURPOSE", Short: "Make a key in the key folder or the token, without registering it",
		Long: `Make a key. It signs nothing until it is registered: "civibus register key add
PURPOSE --key KEY". PURPOSE is seal, log, transport, admin, witness, validator or
node; seal, transport and admin keys may be made in the token. A node key names the
ledger node to its peers and is not registered: the node uses the newest from its
next start, and "civibus register node set" tells the others the new id.`,
		Args: cobra.ExactArgs(1), ValidArgs: []string{"seal", "log", "transport", "admin", "witness", "validator", "node"},
		RunE: func(_ *cobra.Command, args []string) error {
			purpose, err := keyPurpose(args[0])
			if err != nil {
				return err
			}
			ring, member, err := a.ownRing()
			if err != nil {
				return err
			}
			defer ring.Close()
			kind, now := civibus.Algorithm(algorithm), time.Now()
			if kind == "" {
				kind = civibus.Ed25519
				if purpose == civibus.TransportKey || token {
					kind = civibus.ECDSAP256SHA256
				}
			}
			var k *keys.Key
			switch {
			case token:
				if k, err = ring.CreateInToken(purpose, kind, now); err == nil && purpose == civibus.TransportKey {
					_, err = ring.Certify(k.Key().ID, member, nil, now)
				}
			case purpose == civibus.TransportKey:
				k, _, err = ring.CreateTransport(member, nil, kind, now)
			default:
				k, err = ring.Create(purpose, kind, now)
			}
			if err != nil {
				return err
			}
			return a.keyMade(ring, k)
		},
	}
	c.Flags().StringVar(&algorithm, "algorithm", "", "ed25519, ecdsa-p256-sha256, or ml-dsa-44, -65 or -87 for a second signature (default: the purpose's usual one)")
	c.Flags().BoolVar(&token, "token", false, "make it in the token of keys.pkcs11, which it never leaves")
	return c
}

func newKeyTake(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "take PURPOSE URI", Short: "Use a key that the token's own tools made",
		Long: `Write the file that names a key in the token, which holds no secret. URI is that of
RFC 7512, with token and id: pkcs11:token=civibus;id=%3F%2A`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			purpose, err := keyPurpose(args[0])
			if err != nil {
				return err
			}
			ring, member, err := a.ownRing()
			if err != nil {
				return err
			}
			defer ring.Close()
			k, err := ring.TakeFromToken(purpose, args[1], time.Now())
			if err == nil && purpose == civibus.TransportKey {
				_, err = ring.Certify(k.Key().ID, member, nil, time.Now())
			}
			if err != nil {
				return err
			}
			return a.keyMade(ring, k)
		},
	}
}

// ownRing opens the key ring of the configured body.
func (a *app) ownRing() (*keys.Ring, civibus.MemberID, error) {
	ring, cfg, err := a.ring()
	if err != nil {
		return nil, civibus.MemberID{}, err
	}
	member, err := civibus.ParseMemberID(cfg.Member)
	if err != nil {
		return nil, member, errors.Join(err, ring.Close())
	}
	return ring, member, nil
}

func keyPurpose(text string) (civibus.Purpose, error) {
	if text == keys.PurposeName(keys.NodeKey) {
		return keys.NodeKey, nil
	}
	purpose, err := civibus.ParsePurpose(text)
	if err != nil {
		return 0, usageError{err, "PURPOSE is seal, log, transport, admin, witness, validator or node"}
	}
	return purpose, nil
}

func (a *app) keyMade(ring *keys.Ring, k *keys.Key) error {
	h, err := find(ring, k.Key().ID.String())
	if err != nil {
		return err
	}
	out := describeKey(h)
	if a.json {
		return a.printJSON(out)
	}
	a.pairs("key", out.Key, "purpose", out.Purpose, "algorithm", out.Algorithm, "custody", out.Custody, "file", out.File)
	next := fmt.Sprintf("civibus register key add %s --key %s", out.Purpose, out.Key)
	if k.Purpose() == keys.NodeKey {
		next = "start the node again, and tell the others its new id with \"civibus register node set\""
	}
	fmt.Fprintf(a.out, "next: %s\n", next)
	return nil
}

func newKeyOffer(a *app) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "offer KEY", Short: "Write the file by which somebody else registers a key of the body",
		Long: `Write a file with a public key and a proof that this body holds it and wants it to
be its own in this network. Who administers the body registers it with "civibus
register key add --from FILE"; if the body lost its admin keys, the members
register a new one with "civibus governance recover FILE". It holds no secret.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ring, cfg, err := a.ring()
			if err != nil {
				return err
			}
			defer ring.Close()
			h, err := find(ring, args[0])
			if err != nil {
				return err
			}
			if h.Purpose() == keys.NodeKey {
				return usageError{fmt.Errorf("key %s names the ledger node and is not registered", args[0]), "\"civibus register node set\" registers its id"}
			}
			g, err := node.ReadGenesis(cfg.Ledger.Genesis)
			if err != nil {
				return err
			}
			member, err := civibus.ParseMemberID(cfg.Member)
			if err != nil {
				return err
			}
			var certificate []byte
			if h.Purpose() == civibus.TransportKey {
				if certificate, err = keys.OpenCertificate(filepath.Join(cfg.Keys.Dir, strings.TrimSuffix(h.File, filepath.Ext(h.File))+".crt")); err != nil {
					return err
				}
			}
			o, err := node.NewOffer(c.Context(), h.Key, certificate, g.ChainID, member)
			if err != nil {
				return err
			}
			text, err := o.TOML()
			if err != nil {
				return err
			}
			if err := writeNew(out, text, 0o644); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					node.Offer
					File string `json:"file"`
				}{o, out})
			}
			_, err = fmt.Fprintf(a.out, "%s key %s of %s: %s\n", o.Purpose, args[0], o.Member, out)
			return err
		},
	}
	c.Flags().StringVarP(&out, "out", "o", "key.toml", "new `file` to write to")
	return c
}

// sourceHere reads the source of a secret on the command line, a file's path
// taken as relative to the current folder. Empty stays empty.
func sourceHere(flag, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	source, err := secret.ParseSource(text)
	if err != nil {
		return "", usageError{fmt.Errorf("%s: %w", flag, err), ""}
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return source.Abs(here).String(), nil
}

// passphraseFlags are the flags of civibus key passphrase.
type passphraseFlags struct {
	from, to, create string
	none             bool
}

func newKeyPassphrase(a *app) *cobra.Command {
	var f passphraseFlags
	c := &cobra.Command{
		Use: "passphrase", Short: "Encrypt the key files, or change their passphrase",
		Long: `Write all key files anew under another passphrase. A crash leaves all of them
under the old one or all under the new one, and a running node goes on. After it,
keys.passphrase of the configuration must lead to the new passphrase.`,
		Example: "  civibus key passphrase --create /etc/civibus/passphrase",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.changePassphrase(f) },
	}
	c.Flags().StringVar(&f.from, "from", "", "`source` of the passphrase until now (default: that of the configuration)")
	c.Flags().StringVar(&f.to, "to", "", "`source` of the new passphrase: file:PATH, credential:NAME or fd:NUMBER")
	c.Flags().StringVar(&f.create, "create", "", "make this `file` with a random passphrase, and use that")
	c.Flags().BoolVar(&f.none, "none", false, "decrypt the files: whoever reads them or a backup has the keys")
	c.MarkFlagsMutuallyExclusive("to", "create", "none")
	c.MarkFlagsOneRequired("to", "create", "none")
	return c
}

func (a *app) changePassphrase(f passphraseFlags) error {
	// 1. Where the old and the new passphrase are.
	cfg, err := a.load()
	if err != nil {
		return err
	}
	old, next := cfg.Keys, cfg.Keys
	if f.from != "" {
		if old.Passphrase, err = sourceHere("--from", f.from); err != nil {
			return err
		}
	}
	if f.create != "" {
		f.to = "file:" + f.create
	}
	if next.Passphrase, err = sourceHere("--to", f.to); err != nil {
		return err
	}
	oldPassphrase, err := old.ReadPassphrase()
	if err != nil {
		return err
	}
	if f.create != "" {
		if err := keys.CreatePassphraseFile(f.create); err != nil {
			return err
		}
	}
	nextPassphrase, err := next.ReadPassphrase()
	if err != nil {
		return err
	}
	// 2. The files.
	n, err := keys.ChangePassphrase(cfg.Keys.Dir, oldPassphrase, nextPassphrase)
	if err != nil {
		return err
	}
	// 3. What is left to do.
	if a.json {
		return a.printJSON(struct {
			Files      int    `json:"files"`
			Passphrase string `json:"passphrase"`
			Configured bool   `json:"configured"`
		}{n, next.Passphrase, next.Passphrase == cfg.Keys.Passphrase})
	}
	fmt.Fprintf(a.out, "key files written anew: %d\n", n)
	if next.Passphrase != cfg.Keys.Passphrase {
		fmt.Fprintf(a.out, "next: in %s, section [keys]: passphrase = %q\n", a.config, next.Passphrase)
	}
	return nil
}

func newKeyRequest(a *app) *cobra.Command {
	var subject keys.Subject
	var out string
	c := &cobra.Command{
		Use: "request KEY", Short: "Make the request for a certificate of a seal key",
		Long: `Make a certificate signing request (PKCS#10) for a seal key, with the names that
ETSI EN 319 412-3 wants of a legal person. Send it to an authority that issues
certificates for electronic seals, and bind what it returns with civibus key bind.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ring, _, err := a.ring()
			if err != nil {
				return err
			}
			defer ring.Close()
			h, err := find(ring, args[0])
			if err != nil {
				return err
			}
			text, err := keys.Request(h.Key, subject)
			if err != nil {
				return usageError{err, ""}
			}
			if out != "" {
				if err := writeNew(out, text, 0o644); err != nil {
					return err
				}
			}
			switch {
			case a.json:
				return a.printJSON(struct {
					Key     string `json:"key"`
					Request string `json:"request"`
					File    string `json:"file,omitempty"`
				}{args[0], string(text), out})
			case out == "":
				_, err = a.out.Write(text)
			default:
				fmt.Fprintf(a.out, "certificate request for %s: %s\n", args[0], out)
			}
			return err
		},
	}
	c.Flags().StringVar(&subject.Country, "country", "", "`code` of the country, two capital letters")
	c.Flags().StringVar(&subject.Organization, "organization", "", "official `name` of the body")
	c.Flags().StringVar(&subject.OrganizationID, "organization-id", "", "its `identifier` by EN 319 412-1, e.g. VATEE-12345678 or NTREE-70000000")
	c.Flags().StringVar(&subject.CommonName, "common-name", "", "`name` that people know it by (default: the official one)")
	c.Flags().StringVarP(&out, "out", "o", "", "new `file` to write to (default: standard output)")
	return c
}

func newKeyBind(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "bind KEY CHAIN.pem", Short: "Keep the certificates that an authority issued for a seal key",
		Long: `Keep a chain of certificates, the key's own first, beside a seal key, and say what
was checked of it and what was not. A chain over another key, out of time, not
signed link by link or not for signatures is refused.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			ring, cfg, err := a.ring()
			if err != nil {
				return err
			}
			defer ring.Close()
			h, err := find(ring, args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(args[1])
			if err != nil {
				return err
			}
			chain, err := ring.Bind(h.Key.Key().ID, text, time.Now())
			if err != nil {
				return refusal{err.Error(), ""}
			}
			type finding struct {
				Statement string `json:"statement"`
				Outcome   string `json:"outcome"`
				Detail    string `json:"detail,omitempty"`
			}
			var findings []finding
			t := table{head: []string{"STATEMENT", "OUTCOME", "DETAIL"}}
			for _, f := range chain.Findings(h.Key.Key(), time.Now()) {
				findings = append(findings, finding{f.Statement, string(f.Outcome), f.Detail})
				t.add(f.Statement, string(f.Outcome), f.Detail)
			}
			if a.json {
				return a.printJSON(struct {
					Key      string    `json:"key"`
					Dir      string    `json:"dir"`
					Findings []finding `json:"findings"`
				}{args[0], filepath.Clean(cfg.Keys.Dir), findings})
			}
			t.write(a.out)
			return nil
		},
	}
}
