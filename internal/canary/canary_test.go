package canary

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
)

func TestSecretIsFoundInEveryForm(t *testing.T) {
	for n := MinBytes; n < 70; n++ {
		secret := Secret(n)
		require.Len(t, secret, n)
		inJSON, err := json.Marshal(map[string]any{"text": string(secret), "bytes": secret})
		require.NoError(t, err)
		var wide []byte
		for _, u := range utf16.Encode([]rune(string(secret))) {
			wide = append(wide, byte(u), byte(u>>8))
		}
		for form, text := range map[string]string{
			"raw":       "x" + string(secret) + "x",
			"hex":       hex.EncodeToString(secret),
			"base64":    base64.StdEncoding.EncodeToString(append([]byte("xy"), secret...)),
			"base64url": base64.URLEncoding.EncodeToString(append([]byte("x"), secret...)),
			"utf-16":    string(wide),
			"decimal":   fmt.Sprint(secret),
		} {
			require.Contains(t, Find([]byte(text)), form, text)
		}
		require.Contains(t, Find([]byte(fmt.Sprintf("%X", secret))), "hex")
		require.Contains(t, Find([]byte(fmt.Sprintf("% x", secret))), "hex")
		require.Contains(t, Find([]byte(fmt.Sprintf("%#v", secret))), "go")
		require.Equal(t, []string{"raw", "base64", "base64url"}, Find(inJSON))
		require.Contains(t, Find(secret[n/MinBytes*MinBytes-MinBytes:]), "raw", "a part is a trace too")
	}
	require.NotEqual(t, Secret(32), Secret(32))
	require.Panics(t, func() { Secret(MinBytes - 1) })
}

func TestOtherTextIsNoSecret(t *testing.T) {
	require.Empty(t, Find(nil))
	require.Empty(t, Find([]byte(strings.Repeat("canary secret \x00\xff", 1000))))
}

// TestLogs searches the folder of logs that CI names.
func TestLogs(t *testing.T) {
	dir := os.Getenv("ALKNET_CANARY_LOGS")
	if dir == "" {
		t.Skip("ALKNET_CANARY_LOGS names no folder")
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	for _, name := range logs {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Empty(t, Find(text), "%s holds a secret", filepath.Base(name))
	}
}
