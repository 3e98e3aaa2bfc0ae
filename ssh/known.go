package ssh

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	xssh "golang.org/x/crypto/ssh"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/internal/printable"
)

// KnownHosts returns the line of known_hosts for a peer, with a line feed: the
// key that certifies its host key is the peer's id. It needs no network. names
// are what ssh(1) looks up: the peer's id (HostKeyAlias, without names the only
// one) and the id followed by ".alk"; others match no principal of the host
// certificate. Names with characters that mean something there are left out.
func KnownHosts(peer alknet.PeerID, names ...string) string {
	if len(names) == 0 {
		names = []string{peer.String()}
	}
	names = slices.DeleteFunc(slices.Clone(names), func(s string) bool { return !validHost(s) })
	if len(names) == 0 {
		return ""
	}
	blob := appendString(nil, []byte(xssh.KeyAlgoED25519))
	blob = appendString(blob, peer[:])
	return "@cert-authority " + strings.Join(names, ",") + " " + xssh.KeyAlgoED25519 + " " + base64.StdEncoding.EncodeToString(blob) + "\n"
}

// maxHost is the longest name of a host in a configuration, in bytes.
const maxHost = 63

// validHost reports whether a name means nothing to a shell, to ssh_config(5) or
// to known_hosts: [a-z0-9][a-z0-9._-]{0,62}.
func validHost(s string) bool {
	if s == "" || len(s) > maxHost {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-')) {
			return false
		}
	}
	return true
}

// errConfig is wrapped by the errors of WriteConfig about its arguments.
var errConfig = errors.New("ssh: write configuration")

// WriteConfig writes blocks of ssh_config(5) with which stock clients reach
// peers by name, by name.alk, by id and by id.alk. alknetPath is the absolute
// path of a program with the commands "pipe PEERID ALPN", which connects
// standard input and output to the peer, and "ssh known-hosts NAME", which
// prints [KnownHosts]. Names are [a-z0-9][a-z0-9._-]{0,62}; one that is not, or
// that is the id of another peer, is an error, since the client hands it to a
// shell.
func WriteConfig(w io.Writer, alknetPath string, peers map[string]alknet.PeerID) error {
	if !filepath.IsAbs(alknetPath) || strings.ContainsFunc(alknetPath, badInPath) {
		return fmt.Errorf("%w: the program %s is no absolute path of plain characters", errConfig, printable.Quote(alknetPath))
	}
	names := make([]string, 0, len(peers))
	for name, peer := range peers {
		if !validHost(name) || strings.HasSuffix(name, ".alk") {
			return fmt.Errorf("%w: %s is no name of a host", errConfig, printable.Quote(name))
		}
		if id, err := alknet.ParsePeerID(name); err == nil && id != peer {
			return fmt.Errorf("%w: %s is the id of another peer", errConfig, printable.Quote(name))
		}
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		id := peers[name].String()
		hosts := name + " " + name + ".alk"
		if name != id {
			hosts += " " + id
		}
		block(&b, hosts, alknetPath, id)
	}
	block(&b, "*.alk "+notToAShell, alknetPath, "%h")
	_, err := io.WriteString(w, b.String())
	return err
}

// badInPath are the characters of a path that a shell, or ssh_config, reads.
func badInPath(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._+:\\-", c))
}

// notToAShell excludes what a shell would run: clients older than OpenSSH 9.6
// hand any name that somebody gave them, such as a submodule's URL, to it.
const notToAShell = "!*$* !*`* !*;* !*|* !*&* !*<* !*>* !*(*"

// block writes one block. The host certificate names the id and the id with
// ".alk", so that a host that is called otherwise needs the alias. No token is
// used but %h of a name that matched "*.alk", and %H, which ssh does not hand to
// a shell; the program parses both as an id.
func block(b *strings.Builder, hosts, alknetPath, id string) {
	fmt.Fprintf(b, "Host %s\n", hosts)
	known := "%H"
	if id != "%h" {
		fmt.Fprintf(b, "\tHostKeyAlias %s\n", id)
		known = id
	}
	fmt.Fprintf(b, `	ProxyCommand %s pipe %s %s
	KnownHostsCommand %s ssh known-hosts %s
	UserKnownHostsFile none
	GlobalKnownHostsFile none
	StrictHostKeyChecking yes
	PasswordAuthentication no

`, alknetPath, id, ALPN, alknetPath, known)
}
