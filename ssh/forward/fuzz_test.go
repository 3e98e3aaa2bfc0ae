package forward

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParsePolicy(f *testing.F) {
	f.Add(example)
	f.Add("deny * dial * *\nallow peer:x listen unix /a/*,/b in")
	f.Add("allow * dial tcp [2001:db8::1]:1-2,3 # x\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(text)
		if err != nil {
			return
		}
		again, err := ParsePolicy(p.String())
		require.NoError(t, err, p.String())
		require.Equal(t, p, again)
	})
}

func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"80:host:81", "1.2.3.4:80:host:81", "[::1]:80:[::1]:81", "/a:/b", "/a:host:1", "80:/b", "*:0:host:1", ":80:host:1", "80", "a:b:c:d:e"} {
		f.Add(true, s)
		f.Add(false, s)
	}
	f.Fuzz(func(t *testing.T, remote bool, s string) {
		flag := byte('L')
		if remote {
			flag = 'R'
		}
		fw, err := ParseForward(flag, s)
		if err != nil {
			return
		}
		again, err := ParseForward(flag, fw.String())
		require.NoError(t, err, fw.String())
		require.Equal(t, fw, again)
	})
}

func TestParseForward(t *testing.T) {
	for s, want := range map[string]Forward{
		"80:host:81":            {false, "tcp", "127.0.0.1:80", "tcp", "host:81"},
		"0:host:81":             {false, "tcp", "127.0.0.1:0", "tcp", "host:81"},
		"localhost:80:host:81":  {false, "tcp", "127.0.0.1:80", "tcp", "host:81"},
		"*:80:host:81":          {false, "tcp", ":80", "tcp", "host:81"},
		":80:host:81":           {false, "tcp", ":80", "tcp", "host:81"},
		"[::1]:80:[fd00::2]:81": {false, "tcp", "[::1]:80", "tcp", "[fd00::2]:81"},
		"/a.sock:host:81":       {false, "unix", "/a.sock", "tcp", "host:81"},
		"/a.sock:/b.sock":       {false, "unix", "/a.sock", "unix", "/b.sock"},
		"80:/b.sock":            {false, "tcp", "127.0.0.1:80", "unix", "/b.sock"},
		"10.0.0.1:80:/b.sock":   {false, "tcp", "10.0.0.1:80", "unix", "/b.sock"},
	} {
		got, err := ParseForward('L', s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
		got, err = ParseForward('R', s)
		require.NoError(t, err, s)
		want.Remote = true
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "80", "80:host", "80:host:0", "80:host:65536", "65536:host:80", "-1:host:80", "x:host:80", "80::80", "1:2:3:4:5", "[::1:80:h:1", "80:ho st:1", "80:h:1:", "a/b:1:h:1"} {
		_, err := ParseForward('L', s)
		require.ErrorIs(t, err, errForward, s)
	}
	_, err := ParseForward('D', "80:host:81")
	require.Error(t, err)
}
