package vault

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The published vectors: the key of version 2 of the phrase about.
const (
	vectorSalt  = `"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="`
	vectorPlain = `{"key_version":2,"salt":` + vectorSalt + `,"iv":"AAECAwQFBgcICQoL","data":"fI82YFWDMiIk7try1cc6hxndeTSOHfA5AWIFk96ebcNQs4tN"}`
	vectorBound = `{"envelope":2,"key_version":2,"name":"github","purpose":"http-token","generation":1,"salt":` + vectorSalt +
		`,"iv":"AAECAwQFBgcICQoL","data":"3o1sat4380SqtqyYnHTYpCdAb4LZwREB2PMLij/ne8zXGQsA"}`
	vectorText = "sk-proj-abc123xyz789"
)

// parse decodes a record, and requires that both JSON libraries agree.
func parse(t testing.TB, text string) (EncryptedData, error) {
	t.Helper()
	var a, b EncryptedData
	errA, errB := stdjson.Unmarshal([]byte(text), &a), json.Unmarshal([]byte(text), &b)
	require.Equal(t, errA == nil, errB == nil, "%.300s: %v, %v", text, errA, errB)
	if errB != nil {
		return EncryptedData{}, errB
	}
	require.Equal(t, a, b)
	return b, nil
}

// encode gives the JSON of a record, and requires that both libraries agree.
func encode(t testing.TB, e EncryptedData) string {
	t.Helper()
	a, err := stdjson.Marshal(e)
	require.NoError(t, err)
	b, err := json.Marshal(e)
	require.NoError(t, err)
	require.Equal(t, string(a), string(b))
	return string(a)
}

func TestEnvelopeVectors(t *testing.T) {
	v := inMemoryVault(t, nil)
	for _, text := range []string{vectorPlain, vectorBound} {
		e, err := parse(t, text)
		require.NoError(t, err)
		require.Equal(t, text, encode(t, e), "byte for byte")
		s, err := v.Decrypt(e)
		require.NoError(t, err)
		require.Equal(t, vectorText, reveal(t, s))
		again := e
		again.Data = nil
		require.NoError(t, v.use(func(s *session) error {
			return s.with(secretKey(2), formKey, func(key []byte) error { return again.seal(new(work), key, []byte(vectorText)) })
		}))
		require.Equal(t, e, again, "written byte for byte")
	}
}

func TestEnvelopeRoundTrips(t *testing.T) {
	v := inMemoryVault(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		e := EncryptedData{KeyVersion: rapid.Uint32Range(firstKeyVersion, lastKeyVersion).Draw(t, "version")}
		if rapid.Bool().Draw(t, "bound") {
			e.Envelope = 2
			e.Name = rapid.StringMatching(`[ -~]{1,200}`).Draw(t, "name")
			e.Purpose = rapid.StringMatching(`[ -~]{1,64}`).Draw(t, "purpose")
			e.Generation = rapid.Uint64().Draw(t, "generation")
		}
		plain := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "plain")
		text := string(plain)
		sealed, err := v.Encrypt(e, NewSecret(plain))
		require.NoError(t, err)
		data, err := json.Marshal(sealed)
		require.NoError(t, err)
		var back EncryptedData
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, sealed, back)
		s, err := v.Decrypt(back)
		require.NoError(t, err)
		require.True(t, s.Equal(secret(text)))
	})
}

func TestEnvelopeMalformed(t *testing.T) {
	v := inMemoryVault(t, nil)
	swap := func(text, old, with string) string {
		require.Equal(t, 1, strings.Count(text, old), "another place than %s is refused for another reason", old)
		return strings.Replace(text, old, with, 1)
	}
	big := func(n int) string { return string(must(stdjson.Marshal(make([]byte, n)))) }
	data := `"3o1sat4380SqtqyYnHTYpCdAb4LZwREB2PMLij/ne8zXGQsA"`
	for name, text := range map[string]string{
		"unknown member":          swap(vectorBound, `"iv"`, `"x":1,"iv"`),
		"member in another case":  swap(vectorBound, `"iv"`, `"IV":"AAECAwQFBgcICQoL","iv"`),
		"two of a name":           swap(vectorBound, `"iv"`, `"iv":"AAECAwQFBgcICQoL","iv"`),
		"two of a name, plain":    swap(vectorPlain, `"iv"`, `"iv":"AAECAwQFBgcICQoL","iv"`),
		"envelope 1":              swap(vectorBound, `"envelope":2`, `"envelope":1`),
		"envelope 3":              swap(vectorBound, `"envelope":2`, `"envelope":3`),
		"envelope -2":             swap(vectorBound, `"envelope":2`, `"envelope":-2`),
		"key version 0":           swap(vectorBound, `"key_version":2`, `"key_version":0`),
		"key version 1":           swap(vectorBound, `"key_version":2`, `"key_version":1`),
		"key version 2^31+2":      swap(vectorBound, `"key_version":2`, `"key_version":2147483650`),
		"key version 2^32+2":      swap(vectorBound, `"key_version":2`, `"key_version":4294967298`),
		"key version 2.0":         swap(vectorBound, `"key_version":2`, `"key_version":2.0`),
		"key version text":        swap(vectorBound, `"key_version":2`, `"key_version":"2"`),
		"iv of 11 bytes":          swap(vectorBound, `"AAECAwQFBgcICQoL"`, `"AAECAwQFBgcICQo="`),
		"iv of 13 bytes":          swap(vectorBound, `"AAECAwQFBgcICQoL"`, `"AAECAwQFBgcICQoLDA=="`),
		"iv of 13 bytes, plain":   swap(vectorPlain, `"AAECAwQFBgcICQoL"`, `"AAECAwQFBgcICQoLDA=="`),
		"iv null":                 swap(vectorBound, `"AAECAwQFBgcICQoL"`, `null`),
		"no iv":                   swap(vectorBound, `"iv":"AAECAwQFBgcICQoL",`, ``),
		"no salt":                 swap(vectorPlain, `"salt":`+vectorSalt+`,`, ``),
		"no data":                 swap(vectorBound, `,"data":`+data, ``),
		"salt of 31 bytes":        swap(vectorBound, vectorSalt, big(31)),
		"salt of 33 bytes":        swap(vectorBound, vectorSalt, big(33)),
		"salt of 65 bytes, plain": swap(vectorPlain, vectorSalt, big(65)),
		"data of 15 bytes":        swap(vectorBound, data, big(15)),
		"data of 1 MiB + 1":       swap(vectorBound, data, big(1<<20+1)),
		"base64 without padding":  swap(vectorBound, `Hh8=`, `Hh8`),
		"base64 with other bits":  swap(vectorBound, `Hh8=`, `Hh9=`),
		"base64 with a newline":   swap(vectorBound, `Hh8=`, `Hh8=\n`),
		"base64 for URLs":         swap(vectorBound, `Lij/ne8`, `Lij_ne8`),
		"no name":                 swap(vectorBound, `"github"`, `""`),
		"name of 201 bytes":       swap(vectorBound, `"github"`, `"`+strings.Repeat("x", 201)+`"`),
		"name with a newline":     swap(vectorBound, `"github"`, `"a\nb"`),
		"name not ASCII":          swap(vectorBound, `"github"`, `"é"`),
		"no purpose":              swap(vectorBound, `"http-token"`, `""`),
		"purpose of 65 bytes":     swap(vectorBound, `"http-token"`, `"`+strings.Repeat("x", 65)+`"`),
		"generation -1":           swap(vectorBound, `"generation":1`, `"generation":-1`),
		"plain with a name":       swap(vectorPlain, `"salt"`, `"name":"x","salt"`),
		"plain with a generation": swap(vectorPlain, `"salt"`, `"generation":7,"salt"`),
		"trailing bytes":          vectorBound + "x",
		"array":                   `[]`,
		"text":                    `"x"`,
		"too long":                swap(vectorPlain, `"iv"`, `"x":"`+strings.Repeat("x", maxEnvelopeJSON)+`","iv"`),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, text)
			require.Error(t, err)
			var direct EncryptedData
			if err := direct.UnmarshalJSON([]byte(text)); true {
				require.ErrorIs(t, err, ErrMalformed)
			}
			require.Zero(t, direct)
		})
	}
	_, err := parse(t, swap(vectorBound, `"key_version":2`, `"key_version":1`))
	require.Contains(t, err.Error(), "older program")
	_, err = parse(t, swap(vectorPlain, `"iv"`, `"x":{"y":[1]},"iv"`))
	require.NoError(t, err, "a record of other programs may have more members")

	good := must(parse(t, vectorBound))
	for name, spoil := range map[string]func(*EncryptedData){
		"envelope": func(e *EncryptedData) { e.Envelope = 1 }, "version": func(e *EncryptedData) { e.KeyVersion = 1 },
		"name": func(e *EncryptedData) { e.Name = "" }, "purpose": func(e *EncryptedData) { e.Purpose = "\x7f" },
		"salt": func(e *EncryptedData) { e.Salt = e.Salt[1:] }, "iv": func(e *EncryptedData) { e.IV = nil },
		"data": func(e *EncryptedData) { e.Data = e.Data[:15] }, "more data": func(e *EncryptedData) { e.Data = make([]byte, 1<<20+1) },
	} {
		e := good
		spoil(&e)
		_, err := v.Decrypt(e)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	_, err = v.Encrypt(EncryptedData{Envelope: 2, Name: "a", Purpose: "b"}, NewSecret(make([]byte, 1<<20-15)))
	require.ErrorIs(t, err, ErrMalformed)
	_, err = v.Encrypt(EncryptedData{Envelope: 2}, Secret{})
	require.ErrorIs(t, err, ErrMalformed)
}

// TestEnvelopeEveryBitCounts: one bit flipped anywhere, or a field of another
// record, never gives plaintext.
func TestEnvelopeEveryBitCounts(t *testing.T) {
	v := inMemoryVault(t, nil)
	head := EncryptedData{Envelope: 2, Name: "github", Purpose: "http-token", Generation: 7}
	a, err := v.Encrypt(head, secret(canary))
	require.NoError(t, err)
	head.Name = "gitlab"
	b, err := v.Encrypt(head, secret(canary))
	require.NoError(t, err)
	refused := func(e EncryptedData, what string) {
		t.Helper()
		s, err := v.Decrypt(e)
		require.True(t, errors.Is(err, ErrDecrypt) || errors.Is(err, ErrMalformed), "%s: %v", what, err)
		require.Zero(t, reveal(t, s))
	}
	for field, get := range map[string]func(*EncryptedData) *[]byte{
		"salt": func(e *EncryptedData) *[]byte { return &e.Salt }, "iv": func(e *EncryptedData) *[]byte { return &e.IV },
		"data": func(e *EncryptedData) *[]byte { return &e.Data },
	} {
		for bit := range 8 * len(*get(&a)) {
			e := a
			*get(&e) = bytes.Clone(*get(&a))
			(*get(&e))[bit/8] ^= 1 << (bit % 8)
			refused(e, fmt.Sprint(field, " bit ", bit))
		}
		for n := range len(*get(&a)) {
			e := a
			*get(&e) = (*get(&a))[:n]
			refused(e, fmt.Sprint(field, " cut at ", n))
		}
		e := a
		*get(&e) = *get(&b)
		refused(e, field+" of another record")
	}
	for bit := range 64 {
		e := a
		e.Generation ^= 1 << bit
		refused(e, fmt.Sprint("generation bit ", bit))
		if bit < 32 {
			e = a
			e.KeyVersion ^= 1 << bit
			refused(e, fmt.Sprint("key version bit ", bit))
		}
	}
	for i := range len(a.Name) {
		e := a
		e.Name = e.Name[:i] + "#" + e.Name[i+1:]
		refused(e, "name")
	}
	e := a
	e.Name, e.Purpose = "githubh", "ttp-token"
	refused(e, "a byte from purpose to name")
	e = a
	e.Envelope, e.Name, e.Purpose, e.Generation = 0, "", "", 0
	refused(e, "as envelope 0")

	text := encode(t, a)
	for i := range len(text) {
		for bit := range 8 {
			spoiled := []byte(text)
			spoiled[i] ^= 1 << bit
			var got EncryptedData
			if json.Unmarshal(spoiled, &got) == nil {
				refused(got, fmt.Sprintf("text bit %d of byte %d", bit, i))
			}
		}
		var got EncryptedData
		require.Error(t, json.Unmarshal([]byte(text[:i]), &got), "cut at %d", i)
	}
}

// TestEnvelopeRecordsNeverShareKeyAndIV in as many encryptions as a test can make.
func TestEnvelopeRecordsNeverShareKeyAndIV(t *testing.T) {
	n := encryptions
	if testing.Short() {
		n /= 10
	}
	v := inMemoryVault(t, nil)
	seen := make(map[[saltBytes + ivBytes]byte]struct{}, n)
	e := EncryptedData{Envelope: 2, Name: "a", Purpose: "b"}
	for range n {
		got, err := v.Encrypt(e, Secret{})
		require.NoError(t, err)
		var pair [saltBytes + ivBytes]byte
		copy(pair[:], append(got.Salt, got.IV...))
		seen[pair] = struct{}{}
		e = got // what a caller leaves in the fields is not used again
	}
	require.Len(t, seen, n)
}

func TestEnvelopeLocked(t *testing.T) {
	v := inMemoryVault(t, nil)
	v.Lock()
	_, err := v.Encrypt(EncryptedData{Envelope: 2, Name: "a", Purpose: "b"}, Secret{})
	require.ErrorIs(t, err, ErrLocked)
	_, err = v.Decrypt(must(parse(t, vectorBound)))
	require.ErrorIs(t, err, ErrLocked)
}

// A wycheproof is a file of Wycheproof vectors.
type wycheproof struct {
	TestGroups []struct {
		KeySize, IVSize, TagSize int
		PublicKey                struct{ PK string }
		Tests                    []struct {
			TcID                                                     int
			Key, IV, AAD, Msg, CT, Tag, IKM, Salt, Info, OKM, Result string
			Password, DK, Sig                                        string
			Size, IterationCount, DKLen                              int
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestWycheproof(t *testing.T) {
	n := 0
	for _, g := range readVectors[wycheproof](t, "aes_gcm").TestGroups {
		for _, tt := range g.Tests {
			if g.KeySize != 256 || g.IVSize != 96 || g.TagSize != 128 {
				continue
			}
			e := EncryptedData{IV: unhex(t, tt.IV)}
			gcm, _, err := e.cipher(new(work), unhex(t, tt.Key))
			require.NoError(t, err)
			got, err := gcm.Open(nil, e.IV, unhex(t, tt.CT+tt.Tag), unhex(t, tt.AAD))
			require.Equal(t, tt.Result == "valid", err == nil, "AES-GCM %d", tt.TcID)
			if err == nil {
				require.Equal(t, tt.Msg, hex.EncodeToString(got))
				require.Equal(t, tt.CT+tt.Tag, hex.EncodeToString(gcm.Seal(nil, e.IV, got, unhex(t, tt.AAD))))
			}
			n++
		}
	}
	require.Greater(t, n, 40)
	for _, g := range readVectors[wycheproof](t, "hkdf_sha256").TestGroups {
		for _, tt := range g.Tests {
			got, err := hkdf.Key(sha256.New, unhex(t, tt.IKM), unhex(t, tt.Salt), string(unhex(t, tt.Info)), tt.Size)
			require.Equal(t, tt.Result != "invalid", err == nil, "HKDF %d", tt.TcID)
			require.Equal(t, tt.OKM, hex.EncodeToString(got))
		}
	}
	for _, g := range readVectors[wycheproof](t, "pbkdf2_hmacsha512").TestGroups {
		for _, tt := range g.Tests {
			if testing.Short() && tt.IterationCount > 5000 {
				continue
			}
			got, err := pbkdf2.Key(sha512.New, string(unhex(t, tt.Password)), unhex(t, tt.Salt), tt.IterationCount, tt.DKLen)
			require.NoError(t, err)
			require.Equal(t, tt.DK, hex.EncodeToString(got), "PBKDF2 %d", tt.TcID)
		}
	}
	for _, g := range readVectors[wycheproof](t, "ed25519").TestGroups {
		for _, tt := range g.Tests {
			ok := ed25519.Verify(unhex(t, g.PublicKey.PK), unhex(t, tt.Msg), unhex(t, tt.Sig))
			require.Equal(t, tt.Result == "valid", ok, "Ed25519 %d", tt.TcID)
		}
	}
}

// FuzzEnvelope reads records and files of them: what parses has one form.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(vectorPlain))
	f.Add([]byte(vectorBound))
	f.Add([]byte("{\n\t\"version\": 1,\n\t\"change\": 1,\n\t\"records\": [],\n\t\"mac\": \"\"\n}\n"))
	f.Add([]byte("{\n\t\"version\": 1,\n\t\"check\": \"ed25519:\",\n\t\"index\": 0,\n\t\"key_version\": 2,\n\t\"change\": 0,\n\t\"created\": \"2026-01-01T00:00:00Z\",\n\t\"mac\": \"\"\n}\n"))
	f.Add([]byte(`{"alknet_vault":1,"seed":"00","check":"ed25519:00","created":"2026-01-01T00:00:00Z"}`))
	v := inMemoryVault(f, nil)
	v2 := inMemoryVault(f, nil)
	require.NoError(f, v2.Put("github", "http-token", secret(vectorText)))
	st := v2.contents.store()
	st.Version, st.MAC = 1, make([]byte, 32)
	f.Add(must(encodeFile(st)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e EncryptedData
		if err := e.UnmarshalJSON(data); err == nil {
			var again EncryptedData
			require.NoError(t, again.UnmarshalJSON([]byte(encode(t, e))))
			require.Equal(t, e, again)
			if s, err := v.Decrypt(e); err == nil {
				require.Equal(t, vectorText, reveal(t, s), "only what was encrypted")
			}
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
		if st, err := parseStore(storeName, data); err == nil {
			require.Equal(t, string(data), string(must(encodeFile(st))))
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
		if st, err := parseState(data); err == nil {
			require.Equal(t, string(data), string(must(encodeFile(st))))
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
		if found, err := readSlot("x", data, ""); err != nil {
			require.Nil(t, found)
		}
	})
}
