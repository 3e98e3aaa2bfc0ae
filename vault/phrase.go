package vault

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tyler-smith/go-bip39"
	"github.com/tyler-smith/go-bip39/wordlists"
	"golang.org/x/text/unicode/norm"
)

const (
	// maxPhrase is the longest text that ParsePhrase looks at, in bytes.
	maxPhrase = 4096

	// maxPassphrase is the longest BIP39 passphrase, in bytes before NFKD.
	maxPassphrase = 1024

	// maxNear is how many words a PhraseError offers.
	maxNear = 3

	// englishSHA256 is the digest of the English list, a word a line (BIP39, english.txt).
	englishSHA256 = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
)

// errWordList is a program that called SetWordList of the library, which is global.
var errWordList = errors.New("vault: the word list of go-bip39 was replaced in this program")

// A Phrase is a BIP39 mnemonic with words of the English list and a right
// checksum. It is printed and encoded as little as a [Secret]. The zero Phrase
// has no words and opens nothing. All methods may be called concurrently.
type Phrase struct {
	redacted
	words Secret // two bytes a word: its index in the list
}

// NewPhrase makes a phrase of 12, 15, 18, 21 or 24 words from crypto/rand.
func NewPhrase(words int) (Phrase, error) {
	if !validCount(words) {
		return Phrase{}, fmt.Errorf("%w: a phrase has 12, 15, 18, 21 or 24 words, not %d", ErrMalformed, words)
	}
	if err := checkWordList(); err != nil {
		return Phrase{}, err
	}
	var p Phrase
	var err error
	guarded(func() {
		var entropy []byte
		if entropy, err = bip39.NewEntropy(words / 3 * 32); err != nil {
			return
		}
		defer clear(entropy)
		var text string
		if text, err = bip39.NewMnemonic(entropy); err == nil {
			p, err = fromWords(strings.Fields(text))
		}
	})
	return p, err
}

// ParsePhrase reads words in any case, with any white space around them, in any
// Unicode form. What is wrong is a [*PhraseError].
func ParsePhrase(s string) (Phrase, error) {
	if len(s) > maxPhrase {
		return Phrase{}, &PhraseError{}
	}
	if err := checkWordList(); err != nil {
		return Phrase{}, err
	}
	var p Phrase
	var err error
	guarded(func() {
		words := strings.Fields(strings.ToLower(norm.NFKD.String(s)))
		defer clear(words)
		p, err = fromWords(words)
	})
	return p, err
}

// fromWords checks each word, their number and the checksum.
func fromWords(words []string) (Phrase, error) {
	var index []byte
	for i, w := range words {
		at, found := slices.BinarySearch(wordlists.English, w)
		if !found {
			clear(index)
			return Phrase{}, &PhraseError{Word: i + 1, Near: near(w)}
		}
		index = binary.BigEndian.AppendUint16(index, uint16(at)) // < 2048
	}
	if !validCount(len(words)) {
		clear(index)
		return Phrase{}, &PhraseError{}
	}
	if _, err := bip39.EntropyFromMnemonic(strings.Join(words, " ")); err != nil {
		clear(index)
		return Phrase{}, &PhraseError{Checksum: true}
	}
	return Phrase{words: NewSecret(index)}, nil
}

// validCount says whether a phrase may have n words.
func validCount(n int) bool { return n >= 12 && n <= 24 && n%3 == 0 }

// checkWordList refuses to work with another list than the English one.
func checkWordList() error {
	for _, list := range [][]string{bip39.GetWordList(), wordlists.English} {
		sum := sha256.Sum256([]byte(strings.Join(list, "\n") + "\n"))
		if hex.EncodeToString(sum[:]) != englishSHA256 {
			return errWordList
		}
	}
	return nil
}

// Words calls f with the words, in order. They are valid during f only: the
// slice is wiped after it. After Destroy it returns [ErrLocked].
func (p Phrase) Words(f func(words []string) error) error {
	return p.words.Use(func(index []byte) error {
		words := make([]string, 0, len(index)/2)
		for i := 0; i < len(index); i += 2 {
			words = append(words, wordlists.English[binary.BigEndian.Uint16(index[i:])])
		}
		defer clear(words)
		return f(words)
	})
}

// Destroy waits for calls under way and wipes the phrase.
func (p Phrase) Destroy() { p.words.Destroy() }

// A PhraseError says what is wrong with a phrase. It does not hold what was
// typed. Not a word's fault and no wrong checksum is a wrong number of words.
type PhraseError struct {
	// Word is the position of the first word that is not in the list, from 1;
	// 0: it is not a single word's fault.
	Word int

	// Near is at most three words of the list that could have been meant: the
	// same first four letters, or one letter more, less or other. They may be
	// words of the secret: show them to who typed, not to a log. Error does not.
	Near []string

	// Checksum is set when all words are in the list and do not belong together:
	// a word is another one, or two are exchanged.
	Checksum bool
}

// Error says what is wrong without a word of the phrase.
func (e *PhraseError) Error() string {
	switch {
	case e.Word > 0:
		return fmt.Sprintf("vault: phrase: word %d is not in the list", e.Word)
	case e.Checksum:
		return "vault: phrase: wrong checksum: a word is wrong or in the wrong place"
	}
	return "vault: phrase: it has 12, 15, 18, 21 or 24 words"
}

// near returns words of the list that w could have been meant to be.
func near(w string) []string {
	var list []string
	for _, candidate := range wordlists.English {
		if len(list) == maxNear {
			break
		}
		if len(w) >= 4 && strings.HasPrefix(candidate, w[:4]) || oneEdit(w, candidate) {
			list = append(list, candidate)
		}
	}
	return list
}

// oneEdit reports whether a becomes b by one byte more, less or other.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return i < len(a) && a[i+1:] == b[i+1:]
	}
	return a[i:] == b[i+1:]
}

// seedOf writes the BIP39 seed of a phrase and passphrase, which the caller wipes.
func seedOf(p Phrase, passphrase Secret, seed *[seedBytes]byte) error {
	return p.Words(func(words []string) error {
		if len(words) == 0 {
			return &PhraseError{}
		}
		return passphrase.Use(func(pass []byte) error {
			if err := checkPassphrase(pass); err != nil {
				return err
			}
			var err error
			guarded(func() {
				sentence := []byte(strings.Join(words, " "))
				defer clear(sentence)
				err = stretch(sentence, pass, seed)
			})
			return err
		})
	})
}

// checkPassphrase refuses what another implementation could read as something else.
func checkPassphrase(pass []byte) error {
	if len(pass) > maxPassphrase || !utf8.Valid(pass) || slices.Contains(pass, 0) {
		return fmt.Errorf("%w: a passphrase is valid UTF-8 without NUL, at most %d bytes", ErrMalformed, maxPassphrase)
	}
	return nil
}

// stretch is PBKDF2 as BIP39 uses it, for a sentence in any language.
func stretch(sentence, passphrase []byte, seed *[seedBytes]byte) error {
	password := norm.NFKD.Bytes(sentence)
	defer clear(password)
	salt := append([]byte("mnemonic"), norm.NFKD.Bytes(passphrase)...)
	defer clear(salt)
	key, err := pbkdf2.Key(sha512.New, string(password), salt, 2048, seedBytes)
	copy(seed[:], key)
	clear(key)
	return err
}
