package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
)

// inCanary says that the suite runs within TestNoOutputShowsASecret.
const inCanary = "ALKNET_VAULT_CANARY"

// forms are the ways in which output could show bytes.
func forms(b []byte) map[string][]byte {
	text := hex.EncodeToString(b)
	wide := make([]byte, 0, 2*len(b))
	for _, u := range utf16.Encode([]rune(string(b))) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	found := map[string][]byte{"raw": b, "hex": []byte(text), "HEX": []byte(strings.ToUpper(text)), "UTF-16": wide}
	for shift, name := range []string{"base64", "base64+1", "base64+2"} {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), b...))
		found[name] = []byte(encoded[(shift*8+5)/6 : len(encoded)-2])
	}
	return found
}

// TestNoOutputShowsASecret runs the suite with all that it can print, and looks
// for what it stores, derives and types.
func TestNoOutputShowsASecret(t *testing.T) {
	if os.Getenv(inCanary) != "" {
		t.Skip("it is being looked at")
	}
	alone(t)
	cmd := exec.CommandContext(t.Context(), must(os.Executable()), "-test.v", "-test.short",
		"-test.skip", "^TestNoOutput|Kills$|^TestDiskErrors|^TestJudge|^TestAgeTool|EveryByteCounts$|^TestEnvelopeRecords|^TestStoreModel")
	cmd.Env = append(os.Environ(), inCanary+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "the suite fails: run it alone")
	require.Contains(t, string(out), "--- PASS: TestWordsToSecretAndBack")
	seed := aboutSeed(t, "")
	identity, _ := nodeHex(t, seed, "m/74'/0'/0'/0'")
	storeKey, _ := nodeHex(t, seed, "m/74'/2'/0'/0'")
	for what, b := range map[string][]byte{
		"stored secret": []byte(canary), "half of it": []byte(canary[7:24]), "phrase": []byte("abandon abandon"), "another phrase": []byte("sausage worth"),
		"seed": seed[:32], "seed's end": seed[32:], "identity": unhex(t, identity), "key of secrets": unhex(t, storeKey),
	} {
		for form, needle := range forms(b) {
			require.False(t, bytes.Contains(out, needle), "the output shows the %s as %s", what, form)
		}
	}
	// The search finds what is there.
	for form, needle := range forms([]byte(canary)) {
		for shift := range 3 {
			text := "xyz"[:shift] + canary + "tail"
			all := text + hex.EncodeToString([]byte(text)) + strings.ToUpper(hex.EncodeToString([]byte(text)))
			wide := forms([]byte(text))["UTF-16"]
			whole := append(append([]byte(all), wide...), base64.StdEncoding.EncodeToString([]byte(text))...)
			if form == "base64" && shift != 0 || form == "base64+1" && shift != 1 || form == "base64+2" && shift != 2 {
				continue
			}
			require.True(t, bytes.Contains(whole, needle), "%s, shift %d", form, shift)
		}
	}
}

// TestDependencies: what a program with a vault links, and what it does not.
func TestDependencies(t *testing.T) {
	out, err := command(t, "go", "list", "-deps", "-f", "{{.ImportPath}} {{.Standard}} {{join .Imports \",\"}} {{with .Module}}{{.Path}}{{end}}", ".")
	require.NoError(t, err)
	modules := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		name, standard, imports, module := fields[0], fields[1] == "true", strings.Split(fields[2], ","), fields[3]
		require.NotContains(t, []string{"net", "net/http", "os/exec", "os/signal", "plugin"}, name, "it opens no socket and runs nothing")
		if standard {
			continue
		}
		modules[module] = true
		require.NotContains(t, imports, "math/rand", name)
		require.NotContains(t, imports, "math/rand/v2", name)
		if module == "github.com/alkdev/alknet" {
			require.Equal(t, "github.com/alkdev/alknet/vault", name, "it imports nothing of ours")
		}
	}
	require.LessOrEqual(t, len(modules), 9, "%v", modules) // ours and eight
}
