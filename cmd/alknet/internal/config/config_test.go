package config

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/ssh"
	"github.com/alkdev/alknet/ssh/forward"
	"github.com/alkdev/alknet/ssh/socks"
	"github.com/alkdev/alknet/ssh/tunnel"
)

// TestBadConfigurations: testdata/bad.txt holds configurations and the place and
// key of every problem that has to be found in each.
func TestBadConfigurations(t *testing.T) {
	b, err := os.ReadFile("testdata/bad.txt")
	require.NoError(t, err)
	cases := strings.Split(string(b), "\n=== ")[1:]
	require.GreaterOrEqual(t, len(cases), 60)
	for _, c := range cases {
		name, rest, _ := strings.Cut(c, "\n")
		text, wants, ok := strings.Cut(rest, "\n---\n")
		t.Run(name, func(t *testing.T) {
			require.True(t, ok, "no problems are expected")
			_, problems := Load("alknet.toml", []byte(text+"\n"), nil)
			var found []string
			for _, p := range problems {
				found = append(found, p.String())
			}
			wantLines := strings.Split(strings.TrimSpace(wants), "\n")
			require.Len(t, found, len(wantLines), "%s", strings.Join(found, "\n"))
			for i, want := range wantLines {
				require.True(t, strings.HasPrefix(found[i], "alknet.toml:"+want), "want %s\nhave %s", want, found[i])
			}
			onlyWarnings := true
			for _, w := range wantLines {
				onlyWarnings = onlyWarnings && strings.Contains(w, "warning:")
			}
			require.Equal(t, !onlyWarnings, Fatal(problems))
		})
	}
}

func TestExampleIsRight(t *testing.T) {
	f, problems := Load("alknet.toml", Example, nil)
	require.Empty(t, problems)
	require.NotNil(t, f.Call)
	require.NotNil(t, f.Graph)
	require.NotNil(t, f.Pair)
	require.NotNil(t, f.SSH)
	require.NotNil(t, f.Forward)
	require.NotNil(t, f.Tunnel)
}

// TestEveryFieldHasAKey: a field that a library adds is configurable, or is named
// here with the key that stands for it.
func TestEveryFieldHasAKey(t *testing.T) {
	elsewhere := map[string]string{
		"ssh.Handler.HostKeys": "the vault", "ssh.Handler.Node": "the vault", "ssh.Handler.Gate": "[forward]", "ssh.Handler.Users": "not offered yet",
		"ssh.Handler.Logger": "[log]", "ssh.Handler.Commands": "other sections", "ssh.Handler.Subsystems": "other sections",
		"call.Handler.Registry": "other sections", "call.Handler.Sources": "[graph]", "call.Handler.Middleware": "other sections",
		"call.Handler.Delegate": "not offered yet", "call.Handler.Logger": "[log]",
		"tunnel.Handler.Gate": "[forward]", "tunnel.Handler.Logger": "[log]",
		"forward.Gate.Resolver": "the system's", "forward.Gate.Logger": "[log]", "socks.Server.Logger": "[log]",
	}
	for section, library := range map[reflect.Type]reflect.Type{
		reflect.TypeFor[Call]():    reflect.TypeFor[call.Handler](),
		reflect.TypeFor[SSH]():     reflect.TypeFor[ssh.Handler](),
		reflect.TypeFor[Tunnel]():  reflect.TypeFor[tunnel.Handler](),
		reflect.TypeFor[Forward](): reflect.TypeFor[forward.Gate](),
		reflect.TypeFor[Socks]():   reflect.TypeFor[socks.Server](),
	} {
		for _, f := range reflect.VisibleFields(library) {
			name := library.String() + "." + f.Name
			if _, ok := elsewhere[name]; ok || !f.IsExported() || f.Type.Kind() == reflect.Func {
				continue
			}
			_, ok := section.FieldByName(f.Name)
			require.True(t, ok, "%s has no key in %s", name, section)
		}
	}
}

// TestEveryKeyIsDescribed: each limit has a default in explain, each own key a line.
func TestEveryKeyIsDescribed(t *testing.T) {
	f, problems := Load("alknet.toml", []byte("[call]\n[graph]\n[pair]\n[ssh]\n[forward]\n[tunnel]\n[socks]\nlisten='127.0.0.1:1'\npeer='a'\n[admin]\nlisten='127.0.0.1:2'\n"), nil)
	require.False(t, Fatal(problems), "%v", problems)
	keys := make(map[string]bool)
	for _, s := range f.Explain() {
		keys[s.Key] = true
		if s.IsLimit() {
			require.NotEmpty(t, defaults[s.Key], "%s has no default", s.Key)
			require.Equal(t, defaults[s.Key], s.Value)
		}
	}
	for key := range defaults {
		require.True(t, keys[key], "%s is no key", key)
	}
}

func TestExplainSaysWhereValuesComeFrom(t *testing.T) {
	f, problems := Load("alknet.toml", []byte("[limits]\nmax_conns = 5\n[call]\nlimits = { rate = 3 }\n"), []string{"limits.max_streams=9", "node.name=me"})
	require.Empty(t, problems)
	got := make(map[string]Setting)
	for _, s := range f.Explain() {
		got[s.Key] = s
	}
	require.Equal(t, "alknet.toml:2", got["limits.max_conns"].Origin)
	require.Equal(t, "5", got["limits.max_conns"].Value)
	require.Equal(t, "alknet.toml:4", got["call.limits.rate"].Origin)
	require.Equal(t, "--set", got["limits.max_streams"].Origin)
	require.Equal(t, `"me"`, got["node.name"].Value)
	require.Equal(t, "default", got["limits.idle_timeout"].Origin)
}

// TestExplainIsAConfiguration: what explain prints for keys that are set loads to
// the same configuration.
func TestExplainIsAConfiguration(t *testing.T) {
	src := "[node]\nlisten = ['127.0.0.1:0']\nname = \"a \\\"b\\\" \\u00e9\"\ndrain = '3s'\n[limits]\nconn_bytes = '1MiB'\nidle_timeout = '90s'\n[roles]\nops = ['node:read']\n[forward]\npolicy = \"allow ssh:forward dial tcp *:443\\n\"\n"
	f, problems := Load("a", []byte(src), nil)
	require.Empty(t, problems)
	var sets []string
	for _, s := range f.Explain() {
		if s.Origin != "default" {
			sets = append(sets, s.Key+"="+s.Value)
		}
	}
	again, problems := Load("b", nil, sets)
	require.Empty(t, problems)
	require.Equal(t, f.Node, again.Node)
	require.Equal(t, f.Limits, again.Limits)
	require.Equal(t, f.Roles, again.Roles)
	require.Equal(t, f.Forward, again.Forward)
}

func TestSecretsAreReferences(t *testing.T) {
	for _, bad := range []string{"hunter2", "pass:hunter2", "file:relative", "fd:0", "fd:x", "credential:../x", "env:PASS"} {
		_, err := ParseSecretRef(bad)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2", "the text may be a secret")
	}
	for _, good := range []string{"prompt", "keyring", "file:/etc/x", "fd:3", "credential:alknet.passphrase"} {
		_, err := ParseSecretRef(good)
		require.NoError(t, err)
	}
}

func TestPlacesNeverTheWorkingDirectory(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	p, err := Find(Environment{Getenv: env(map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1"})})
	require.NoError(t, err)
	require.Equal(t, "/home/u/.config/alknet/alknet.toml", p.Config)
	require.Equal(t, "/home/u/.local/state/alknet", p.State)
	require.Equal(t, "/run/user/1/alknet/control.sock", p.Control)
	p, err = Find(Environment{Getenv: env(nil), Root: true})
	require.NoError(t, err)
	require.Equal(t, "/etc/alknet/alknet.toml", p.Config)
	require.Equal(t, "/run/alknet/control.sock", p.Control)
	_, err = Find(Environment{Getenv: env(nil)})
	require.Error(t, err)
	p, err = Find(Environment{Getenv: env(map[string]string{"ALKNET_CONFIG": "/x", "ALKNET_CONTROL": "/y"}), Root: true})
	require.NoError(t, err)
	require.Equal(t, "/x", p.Config)
	require.Equal(t, "/y", p.Control)
	_, err = p.With(&File{Node: &Node{Control: "/" + strings.Repeat("x", 101)}})
	require.ErrorContains(t, err, "102 bytes")
}

func FuzzConfig(f *testing.F) {
	f.Add(string(Example))
	b, err := os.ReadFile("testdata/bad.txt")
	require.NoError(f, err)
	for c := range strings.SplitSeq(string(b), "\n=== ") {
		_, rest, _ := strings.Cut(c, "\n")
		text, _, _ := strings.Cut(rest, "\n---\n")
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 64<<10 {
			return
		}
		file, problems := Load("f", []byte(text), nil)
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.File == "" {
				t.Fatalf("a problem without a place: %v", p)
			}
		}
		if !Fatal(problems) {
			if s := file.Explain(); len(s) == 0 {
				t.Fatal("nothing to explain")
			}
		}
	})
}
