package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
)

// maxRSABits is the largest RSA key with which a user may log in.
const maxRSABits = 8192

// Users is who may log in on a listener, in OpenSSH's formats. The functions are
// called for each key that is offered and again when it is proven, by many logins
// at once, so that edits take effect at once; see [Handler.Reauthenticate] for
// logins of the past. What they return is only read, and before the login goes on.
type Users struct {
	// Peer maps an Ed25519 user key that is a peer's key to its identity, if no
	// line of AuthorizedKeys is about it. Nil, or an error: it is none.
	Peer func(ctx context.Context, key alknet.PeerID) (alknet.Identity, error)
	// AuthorizedKeys returns lines as sshd(8) describes under AUTHORIZED_KEYS FILE
	// FORMAT, cert-authority included, at most 1 MiB. A line with an option that
	// is not enforced here is no line, and is logged by its number. Nil: none.
	AuthorizedKeys func() ([]byte, error)
	// Revoked returns what is refused whatever else says so: public keys (of users
	// and of authorities), "serial:CA-FINGERPRINT:NUMBER" and
	// "id:CA-FINGERPRINT:KEY-ID", one a line. An error, or a line that can not be
	// read, refuses every login; at most 1 MiB. Nil: nothing.
	Revoked func() ([]byte, error)
	// Identity maps the comment of an authorized key, or the key id of a
	// certificate, to an identity. Nil: an Identity with that ID and no scopes.
	Identity func(ctx context.Context, name string) (alknet.Identity, error)

	admitted remembered[[]authorized]
	revoked  remembered[*revocations]
}

// A remembered is what a text meant when it was last read. Whoever logs in, and
// a thousand logins that are judged again, make us read the text anew only if it
// is another one: nothing of a file that says when it was changed is trusted.
type remembered[T any] struct {
	mu    sync.Mutex
	text  []byte // guarded by mu; nil: none
	value T      // guarded by mu; not to be changed
}

// of returns what text means. A text that can not be read is not remembered.
func (r *remembered[T]) of(text []byte, parse func([]byte) (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.text != nil && bytes.Equal(r.text, text) {
		return r.value, nil
	}
	value, err := parse(text)
	if err == nil {
		r.text, r.value = bytes.Clone(text), value
	}
	return value, err
}

var (
	errNoUser   = errors.New("ssh: nobody may log in with this key")
	errRevoked  = errors.New("ssh: the key is revoked")
	errWeakKey  = fmt.Errorf("ssh: DSA, and RSA of more than %d bits, are refused", maxRSABits)
	errNoUsers  = errors.New("ssh: Handler.Users is nil: nobody may log in on a listener")
	errRSASmall = errors.New("ssh: RSA of less than 2048 bits is refused")

	errWeakSignature = errors.New("ssh: certificates that were signed with SHA-1 are refused")
)

// minRSABits is what OpenSSH calls RequiredRSASize for new keys.
const minRSABits = 2048

// judge says who has proven, or would prove, p.
func (u *Users) judge(ctx context.Context, h *Handler, p proof) (*grant, error) {
	if u == nil {
		return nil, errNoUsers
	}
	plain := p.key
	cert, isCert := p.key.(*xssh.Certificate)
	if isCert {
		plain = cert.Key
	}
	if err := strong(plain); err != nil {
		return nil, err
	}
	revoked, err := u.revocations()
	if err != nil {
		return nil, err
	}
	if revoked.has(p.key) {
		return nil, errRevoked
	}
	lines, err := u.lines(h)
	if err != nil {
		return nil, err
	}
	g, name, err := matchLine(lines, p)
	if err != nil {
		return nil, err
	}
	if g != nil {
		g.identity, err = u.identity(ctx, name)
		return g, err
	}
	if pub, ok := peerKey(p.key); ok && u.Peer != nil {
		id, err := u.Peer(ctx, pub)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNoUser, err)
		}
		id.Peer = pub
		return &grant{identity: id, how: "publickey", proof: p}, nil
	}
	return nil, errNoUser
}

// strong refuses keys that cost too much or prove too little.
func strong(key xssh.PublicKey) error {
	switch key.Type() {
	case keyDSA:
		return errWeakKey
	case xssh.KeyAlgoRSA:
		ck, ok := key.(xssh.CryptoPublicKey)
		if !ok {
			return errWeakKey
		}
		pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey)
		if !ok || pub.N.BitLen() > maxRSABits {
			return errWeakKey
		}
		if pub.N.BitLen() < minRSABits {
			return errRSASmall
		}
	}
	return nil
}

// strongAuthority refuses certificates that were signed with SHA-1 or by a key
// that would be refused itself, which the library takes.
func strongAuthority(cert *xssh.Certificate) error {
	if cert.Signature == nil || cert.Signature.Format == xssh.KeyAlgoRSA {
		return errWeakSignature
	}
	return strong(cert.SignatureKey)
}

// peerKey is a plain Ed25519 key as a peer's.
func peerKey(key xssh.PublicKey) (alknet.PeerID, bool) {
	ck, ok := key.(xssh.CryptoPublicKey)
	if !ok || key.Type() != xssh.KeyAlgoED25519 {
		return alknet.PeerID{}, false
	}
	pub, ok := ck.CryptoPublicKey().(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return alknet.PeerID{}, false
	}
	return alknet.PeerID(pub), true
}

func (u *Users) identity(ctx context.Context, name string) (alknet.Identity, error) {
	if u.Identity == nil {
		return alknet.Identity{ID: name}, nil
	}
	id, err := u.Identity(ctx, name)
	if err != nil {
		return alknet.Identity{}, fmt.Errorf("%w: %w", errNoUser, err)
	}
	return id, nil
}

// matchLine finds the first line whose key or authority is that of p and whose
// options admit it, and returns what it grants and to whom.
func matchLine(lines []authorized, p proof) (*grant, string, error) {
	cert, isCert := p.key.(*xssh.Certificate)
	wanted := p.key
	if isCert {
		wanted = cert.SignatureKey
	}
	blob := string(wanted.Marshal())
	var refused error
	for i := range lines {
		l := &lines[i]
		if l.blob != blob || l.opts.authority != isCert {
			continue
		}
		var g *grant
		var name string
		var err error
		if isCert {
			name = cert.KeyId
			g, err = l.certificate(cert, p)
		} else {
			name = l.name()
			g, err = l.opts.grant(p)
		}
		if err == nil {
			return g, name, nil
		}
		refused = err
	}
	return nil, "", refused
}

// An authorized is a line of authorized keys.
type authorized struct {
	key     xssh.PublicKey
	blob    string // key in wire format
	comment string
	opts    keyOptions
}

// name is the comment, or the fingerprint where there is none.
func (a *authorized) name() string {
	if a.comment != "" {
		return a.comment
	}
	return xssh.FingerprintSHA256(a.key)
}

// The critical options and extensions of a certificate (PROTOCOL.certkeys).
const (
	optForceCommand  = "force-command"
	optSourceAddress = "source-address"
	extPTY           = "permit-pty"
	extForward       = "permit-port-forwarding"
	extAgent         = "permit-agent-forwarding"
	extNoTouch       = "no-touch-required"
)

// certificate grants what both the line of the authority and the certificate do.
func (a *authorized) certificate(cert *xssh.Certificate, p proof) (*grant, error) {
	if cert.CertType != xssh.UserCert {
		return nil, errors.New("ssh: the certificate is not one of a user")
	}
	if err := strongAuthority(cert); err != nil {
		return nil, err
	}
	if len(cert.ValidPrincipals) == 0 {
		return nil, errors.New("ssh: the certificate names nobody")
	}
	principal := p.user
	if a.opts.principals != nil {
		i := slices.IndexFunc(cert.ValidPrincipals, func(s string) bool { return slices.Contains(a.opts.principals, s) })
		if i < 0 {
			return nil, errors.New("ssh: the certificate names none of the line's principals")
		}
		principal = cert.ValidPrincipals[i]
	}
	check := xssh.CertChecker{SupportedCriticalOptions: []string{optForceCommand, optSourceAddress}}
	if err := check.CheckCert(principal, cert); err != nil {
		return nil, err
	}
	if list, ok := cert.CriticalOptions[optSourceAddress]; ok && !inSourceList(list, p.remote) {
		return nil, errors.New("ssh: the certificate is not for this address")
	}
	g, err := a.opts.grant(p)
	if err != nil {
		return nil, err
	}
	g.how = "certificate"
	if command, ok := cert.CriticalOptions[optForceCommand]; ok {
		if g.forced && g.command != command {
			return nil, errors.New("ssh: certificate and line force different commands")
		}
		g.forced, g.command = true, command
	}
	has := func(ext string) bool { _, ok := cert.Extensions[ext]; return ok }
	g.noPTY = g.noPTY || !has(extPTY)
	g.noForward = g.noForward || !has(extForward)
	g.noAgent = g.noAgent || !has(extAgent)
	g.noTouch = g.noTouch || has(extNoTouch)
	return g, nil
}

// The bounds of the files of Users.
const (
	maxKeyFile = 1 << 20
	maxKeyLine = 16 << 10
	maxKeys    = 10_000
)

// lines parses the authorized keys.
func (u *Users) lines(h *Handler) ([]authorized, error) {
	if u.AuthorizedKeys == nil {
		return nil, nil
	}
	text, err := u.AuthorizedKeys()
	if err != nil {
		return nil, fmt.Errorf("ssh: authorized keys: %w", err)
	}
	return u.admitted.of(text, func(text []byte) ([]authorized, error) {
		return parseAuthorizedKeys(text, func(line int, err error) {
			h.log().LogAttrs(context.Background(), slog.LevelWarn, "ssh authorized keys: line ignored",
				slog.Int("line", line), slog.Any("err", printable.Text(err.Error())))
		})
	})
}

// keyLines yields the lines of a file of keys that say something, trimmed, with
// their numbers from 1.
func keyLines(text []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		number := 0
		for raw := range bytes.Lines(text) {
			number++
			line := bytes.TrimSpace(raw)
			if len(line) > 0 && line[0] != '#' && !yield(number, line) {
				return
			}
		}
	}
}

// parseAuthorizedKeys reads all lines and reports those that are of no use.
func parseAuthorizedKeys(text []byte, report func(line int, err error)) ([]authorized, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("ssh: authorized keys have more than %d bytes", maxKeyFile)
	}
	var list []authorized
	for number, line := range keyLines(text) {
		a, err := parseAuthorizedKey(line)
		if err == nil && len(list) == maxKeys {
			return nil, fmt.Errorf("ssh: more than %d authorized keys", maxKeys)
		}
		if err != nil {
			report(number, err)
			continue
		}
		list = append(list, a)
	}
	return list, nil
}

func parseAuthorizedKey(line []byte) (authorized, error) {
	if len(line) > maxKeyLine {
		return authorized{}, fmt.Errorf("more than %d bytes", maxKeyLine)
	}
	key, comment, options, _, err := xssh.ParseAuthorizedKey(line)
	if err != nil {
		return authorized{}, err
	}
	if _, isCert := key.(*xssh.Certificate); isCert {
		return authorized{}, errors.New("a certificate stands where a key should")
	}
	opts, err := parseKeyOptions(options)
	return authorized{key: key, blob: string(key.Marshal()), comment: comment, opts: opts}, err
}
