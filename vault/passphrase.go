package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
)

// maxCredential is the longest text that ParseIdentities reads, in bytes.
const maxCredential = 64 << 10

// Passphrase makes of a passphrase what Unlock takes.
func Passphrase(s Secret) age.Identity { return &passphraseIdentity{s} }

// PassphraseRecipient makes of a passphrase what Seal takes, alone in its slot.
// Of o it takes ScryptLog.
func PassphraseRecipient(s Secret, o *Options) age.Recipient { return &passphraseRecipient{s, o} }

type passphraseIdentity struct{ secret Secret }

// Unwrap opens a passphrase slot.
func (p *passphraseIdentity) Unwrap(stanzas []*age.Stanza) (key []byte, err error) {
	err = p.secret.Use(func(b []byte) error {
		if len(b) == 0 {
			return age.ErrIncorrectIdentity
		}
		id, err := age.NewScryptIdentity(string(b))
		if err != nil {
			return err
		}
		id.SetMaxWorkFactor(maxScryptLog)
		key, err = id.Unwrap(stanzas)
		return err
	})
	return key, err
}

type passphraseRecipient struct {
	secret Secret
	opts   *Options
}

var _ age.RecipientWithLabels = (*passphraseRecipient)(nil)

// Wrap is for those that do not know labels.
func (p *passphraseRecipient) Wrap(key []byte) ([]*age.Stanza, error) {
	stanzas, _, err := p.WrapWithLabels(key)
	return stanzas, err
}

// WrapWithLabels makes the stanza, and a label that keeps others out of the file.
func (p *passphraseRecipient) WrapWithLabels(key []byte) (stanzas []*age.Stanza, labels []string, err error) {
	work, err := p.opts.scryptLog()
	if err != nil {
		return nil, nil, err
	}
	err = p.secret.Use(func(b []byte) error {
		if len(b) == 0 {
			return fmt.Errorf("%w: an empty passphrase", ErrMalformed)
		}
		r, err := age.NewScryptRecipient(string(b))
		if err != nil {
			return err
		}
		r.SetWorkFactor(work)
		stanzas, labels, err = r.WrapWithLabels(key)
		return err
	})
	return stanzas, labels, err
}

// ParseIdentities reads a credential: age secret keys, one a line, with empty
// lines and lines that begin with # between them; or one line that is a
// passphrase, whose end of line does not belong to it.
func ParseIdentities(r io.Reader) ([]age.Identity, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxCredential+1))
	defer clear(text)
	if err != nil {
		return nil, fmt.Errorf("vault: read credential: %w", err)
	}
	if len(text) > maxCredential || !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return nil, fmt.Errorf("%w: a credential is text of at most %d bytes", ErrMalformed, maxCredential)
	}
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("AGE-SECRET-KEY-")) {
			return parseKeys(text)
		}
	}
	line, _ := bytes.CutSuffix(text, []byte("\n"))
	line, _ = bytes.CutSuffix(line, []byte("\r"))
	if len(line) == 0 || bytes.ContainsAny(line, "\r\n") {
		return nil, fmt.Errorf("%w: a credential is age secret keys, one a line, or one line of passphrase", ErrMalformed)
	}
	return []age.Identity{Passphrase(NewSecret(line))}, nil
}

// parseKeys reads age secret keys. The library's errors are not shown: they may
// hold a piece of a key.
func parseKeys(text []byte) ([]age.Identity, error) {
	n := 0
	var ids []age.Identity
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		more, err := age.ParseIdentities(strings.NewReader(line))
		if err != nil {
			return nil, fmt.Errorf("%w: line %d of the credential is no age secret key", ErrMalformed, n)
		}
		ids = append(ids, more...)
	}
	if ids == nil {
		return nil, errors.New("vault: no identity") // unreachable: a line begins like one
	}
	return ids, nil
}
