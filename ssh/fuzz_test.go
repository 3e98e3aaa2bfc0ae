package ssh

import (
	"bytes"
	"crypto/ed25519"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/alkdev/alknet"
)

// quoteWord is a word as a shell reads it back.
func quoteWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// What splits means the same when each word is quoted, so that nothing in a word
// was an operator.
func FuzzExecLine(f *testing.F) {
	for _, s := range []string{
		"git-upload-pack '/a b.git'", `md5sum "a\"b" c\ d`, "x; id", "$(id)", "`id`", "a\nb", "a 'b", `a "b`, "a\\", "--x=y z", "''", "a#b # c", "~ *", "\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args, ok := splitLine(line)
		if !ok {
			return
		}
		require.NotEmpty(t, args)
		var quoted []string
		for _, a := range args {
			require.NotContains(t, a, "\x00")
			quoted = append(quoted, quoteWord(a))
		}
		again, ok := splitLine(strings.Join(quoted, " "))
		require.True(t, ok)
		require.Equal(t, args, again)
	})
}

const fuzzKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFxuKPQvT6Zc1yfAjUaEUNgSJkjE2sVqF0lJwXw1zR2q"

// What a line grants does not depend on how often it is read, and never exceeds
// what a line without options grants.
func FuzzAuthorizedKeys(f *testing.F) {
	for _, s := range []string{
		fuzzKey + " bob", "restrict,pty " + fuzzKey, `command="a \"b\" c",from="10.0.0.0/8,!10.0.0.1" ` + fuzzKey, `permitopen="[::1]:80",permitlisten="8080" ` + fuzzKey,
		`cert-authority,principals="a,b",expiry-time="20380101" ` + fuzzKey, "# comment\n\n" + fuzzKey + "\r\n", `unknown="x" ` + fuzzKey, `command="x ` + fuzzKey,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		read := func() ([]authorized, error) { return parseAuthorizedKeys(text, func(int, error) {}) }
		list, err := read()
		again, err2 := read()
		require.Equal(t, err == nil, err2 == nil)
		require.Equal(t, len(list), len(again))
		for i, a := range list {
			require.NotContains(t, a.opts.command, "\x00")
			require.Equal(t, a.opts, again[i].opts)
			g, err := a.opts.grant(proof{user: "bob", key: a.key, remote: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2)}})
			if err == nil {
				require.Equal(t, a.opts.forced, g.forced)
			}
			_ = permits(a.opts.permitOpen, "host", 80)
		}
		_, _ = parseRevoked(text)
	})
}

// A line of KnownHosts is what OpenSSH's format means by it, for the names that
// were asked for and no others.
func FuzzKnownHosts(f *testing.F) {
	f.Add(bytes.Repeat([]byte{7}, 32), "node", "node.alk")
	f.Add(make([]byte, 32), "", "a b")
	f.Add(make([]byte, 32), "*", "a,b\n@revoked * x")
	f.Fuzz(func(t *testing.T, seed []byte, a, b string) {
		if len(seed) < ed25519.SeedSize {
			return
		}
		key := ed25519.NewKeyFromSeed(seed[:ed25519.SeedSize]).Public().(ed25519.PublicKey)
		line := KnownHosts(alknet.PeerID(key), a, b)
		if !validHost(a) && !validHost(b) {
			require.Empty(t, line)
			return
		}
		require.Equal(t, 1, strings.Count(line, "\n"))
		marker, hosts, pub, comment, rest, err := xssh.ParseKnownHosts([]byte(line))
		require.NoError(t, err)
		require.Equal(t, "cert-authority", marker)
		require.Empty(t, comment+string(rest))
		id, ok := peerKey(pub)
		require.True(t, ok)
		require.Equal(t, alknet.PeerID(key), id)
		for _, h := range hosts {
			require.Contains(t, []string{a, b}, h)
			require.Equal(t, h, knownhosts.Normalize(h+":22"))
		}
	})
}

func FuzzPTYModes(f *testing.F) {
	f.Add([]byte{53, 0, 0, 0, 1, 0})
	f.Add([]byte{1, 0, 0, 0, 3, 128, 0, 0, 150, 0, 0})
	f.Add([]byte{53, 0, 0})
	f.Add([]byte{200, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		modes, err := parseModes(b)
		if err != nil {
			return
		}
		again, err := parseModes([]byte(encodeModes(modes)))
		require.NoError(t, err)
		require.Equal(t, modes, again)
	})
}
