package vault

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	stdjson "encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/tyler-smith/go-bip39"

	"github.com/alkdev/alknet/internal/testenv"
)

// ask gives questions to a program, one a line, and decodes its answers.
func ask[Q, A any](t *testing.T, questions []Q, tool string, args ...string) []A {
	t.Helper()
	alone(t)
	var in bytes.Buffer
	for _, q := range questions {
		require.NoError(t, stdjson.NewEncoder(&in).Encode(q))
	}
	cmd := testenv.Command(t, tool, args...)
	cmd.Stdin = &in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.Bytes())
	answers := make([]A, 0, len(questions))
	for line := range bytes.Lines(out) {
		var a A
		require.NoError(t, stdjson.Unmarshal(line, &a), "%s", line)
		answers = append(answers, a)
	}
	require.Len(t, answers, len(questions))
	return answers
}

// askNode is ask of a function of internal/tools/npm/vault.mjs.
func askNode[Q, A any](t *testing.T, function string, questions []Q) []A {
	t.Helper()
	const script = "../internal/tools/npm/vault.mjs"
	testenv.Tool(t, "node")
	if _, err := os.Stat("../internal/tools/npm/node_modules/ed25519-hd-key"); err != nil {
		if os.Getenv("ALKNET_REQUIRE_TOOLS") == "1" {
			require.NoError(t, err, "npm ci in internal/tools/npm")
		}
		t.Skip("the judges are absent: npm ci in internal/tools/npm")
	}
	return ask[Q, A](t, questions, "node", script, function)
}

// passphrases have letters whose composed, decomposed and compatible forms differ.
func randomPassphrase(r *rand.Rand) string {
	alphabet := []rune("aZ09 ~éÅÅẛ̣ﬁ①Ωガ가각ｱ豈\u0301\u0323\u1e9b\u3000\U0001d400")
	var text strings.Builder
	for range r.IntN(24) {
		text.WriteRune(alphabet[r.IntN(len(alphabet))])
	}
	return text.String()
}

type phraseQuestion struct {
	Entropy    string `json:"entropy"`
	Passphrase string `json:"passphrase"`
}

type phraseAnswer struct{ Text, Seed string }

func phraseQuestions(t *testing.T, n int) []phraseQuestion {
	r := random(t)
	var list []phraseQuestion
	for range n {
		list = append(list, phraseQuestion{hex.EncodeToString(randomBytes(r, 16+4*r.IntN(5))), randomPassphrase(r)})
	}
	return list
}

// requirePhrases compares phrases and seeds with ours.
func requirePhrases(t *testing.T, questions []phraseQuestion, answers []phraseAnswer) {
	t.Helper()
	for i, q := range questions {
		require.True(t, utf8.ValidString(q.Passphrase))
		text := must(bip39.NewMnemonic(unhex(t, q.Entropy)))
		require.Equal(t, text, answers[i].Text)
		require.Equal(t, answers[i].Seed, seedHex(t, phrase(t, answers[i].Text), q.Passphrase), "%+v", q)
	}
}

const pythonJudge = `
import json, sys
from mnemonic import Mnemonic
m = Mnemonic("english")
for line in sys.stdin:
    q = json.loads(line)
    text = m.to_mnemonic(bytes.fromhex(q["entropy"]))
    assert m.check(text)
    print(json.dumps({"Text": text, "Seed": m.to_seed(text, q["passphrase"]).hex()}))
`

func TestJudgePythonMnemonic(t *testing.T) {
	questions := phraseQuestions(t, judgeSeeds)
	requirePhrases(t, questions, ask[phraseQuestion, phraseAnswer](t, questions, "python3:mnemonic", "-c", pythonJudge))
}

func TestJudgeScureBIP39(t *testing.T) {
	questions := phraseQuestions(t, judgeSeeds)
	requirePhrases(t, questions, askNode[phraseQuestion, phraseAnswer](t, "phrase", questions))
}

// TestJudgeSLIP0010: micro-key-producer and ed25519-hd-key.
func TestJudgeSLIP0010(t *testing.T) {
	type question struct {
		Seed string `json:"seed"`
		Path string `json:"path"`
	}
	type answer struct{ A, B, PublicA, PublicB string }
	r := random(t)
	var questions []question
	for range judgeSeeds {
		path := "m"
		for range 1 + r.IntN(maxLevels) {
			path += fmt.Sprint("/", r.Uint32()>>(1+r.IntN(31)), "'")
		}
		questions = append(questions, question{hex.EncodeToString(randomBytes(r, seedBytes)), path})
	}
	for i, a := range askNode[question, answer](t, "slip10", questions) {
		q := questions[i]
		key, chain := nodeHex(t, unhex(t, q.Seed), q.Path)
		require.Equal(t, a.A, key+chain, "%+v", q)
		require.Equal(t, a.B, key+chain, "%+v", q)
		var out [64]byte
		derive(unhex(t, q.Seed), must(parsePath(q.Path)), &out)
		formEd25519.as(&out)
		require.Equal(t, a.PublicA, hex.EncodeToString(out[32:]))
		require.Equal(t, a.PublicB, hex.EncodeToString(out[32:]))
	}
}

// TestJudgeNoble: purpose keys, envelopes and site passwords by @noble's code.
func TestJudgeNoble(t *testing.T) {
	type question struct {
		Seed    string        `json:"seed"`
		Purpose string        `json:"purpose"`
		N       uint32        `json:"n"`
		Record  EncryptedData `json:"record"`
		Site    string        `json:"site"`
		Login   string        `json:"login"`
		Counter uint32        `json:"counter"`
		Length  int           `json:"length"`
		Classes string        `json:"classes"`
	}
	r := random(t)
	var questions []question
	var keys, plains, passwords []string
	for i := range judgeSeeds {
		seed := randomBytes(r, seedBytes)
		q := question{Seed: hex.EncodeToString(seed), Purpose: "msg/store", N: r.Uint32(), Site: "example.com", Login: randomPassphrase(r), Counter: r.Uint32(),
			Length: 8 + r.IntN(57), Classes: []string{"aA1!", "a", "1!", "!a1A"}[r.IntN(4)]}
		v := must(FromSeed(NewSecret(seed), nil))
		keys = append(keys, revealHex(t, must(v.PurposeKey(q.Purpose, q.N))))
		passwords = append(passwords, reveal(t, must(v.SitePassword(q.Site, q.Login, q.Counter, PasswordPolicy{q.Length, q.Classes}))))
		plain := randomBytes(r, r.IntN(300))
		plains = append(plains, hex.EncodeToString(plain))
		e := EncryptedData{KeyVersion: 2 + r.Uint32()>>1}
		if i%4 > 0 {
			e.Envelope, e.Name, e.Purpose, e.Generation = 2, "github ~", "http-token", uint64(binary.BigEndian.Uint32(randomBytes(r, 4)))
		}
		q.Record = must(v.Encrypt(e, NewSecret(plain)))
		questions = append(questions, q)
		require.NoError(t, v.Close())
	}
	for i, a := range askNode[question, struct{ Key string }](t, "purpose", questions) {
		require.True(t, a.Key == keys[i], "purpose key %d", i)
	}
	for i, a := range askNode[question, struct{ Password string }](t, "site", questions) {
		require.True(t, a.Password == passwords[i], "password %d", i)
	}
	for i, a := range askNode[question, struct{ Plain string }](t, "open", questions) {
		require.True(t, a.Plain == plains[i], "record %d", i)
	}
}
