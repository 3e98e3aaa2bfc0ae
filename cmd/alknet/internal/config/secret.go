package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSecretBytes bounds what is read as a passphrase or key.
const maxSecretBytes = 64 << 10

// A SecretRef says where a secret is. A secret itself never stands in the file.
type SecretRef struct {
	Kind string // prompt, keyring, file, fd or credential
	Name string // a path, a number, or the name of a credential
} // prompt, keyring, file, fd or credential

// ParseSecretRef reads "prompt", "keyring", "file:PATH", "fd:N" or
// "credential:NAME". The error does not repeat the text, which may be a secret.
func ParseSecretRef(s string) (SecretRef, error) {
	if s == "prompt" || s == "keyring" {
		return SecretRef{Kind: s}, nil
	}
	kind, name, _ := strings.Cut(s, ":")
	switch kind {
	case "file":
		if !filepath.IsAbs(name) {
			return SecretRef{}, errors.New("file:PATH needs an absolute path")
		}
		return SecretRef{Kind: kind, Name: name}, nil
	case "fd":
		if n, err := strconv.Atoi(name); err != nil || n < 3 || n > 1023 {
			return SecretRef{}, errors.New("fd:N needs a number from 3 to 1023")
		}
		return SecretRef{Kind: kind, Name: name}, nil
	case "credential":
		if name == "" || strings.ContainsAny(name, `/\`) || name[0] == '.' {
			return SecretRef{}, errors.New("credential:NAME needs the name of a systemd credential")
		}
		return SecretRef{Kind: kind, Name: name}, nil
	}
	return SecretRef{}, errors.New("a secret is never written here: use prompt, keyring, file:PATH, fd:N or credential:NAME")
}

// Read returns the secret of a reference that is no prompt and no keyring.
// credentials is systemd's folder of them.
func (r SecretRef) Read(credentials string) ([]byte, error) {
	switch r.Kind {
	case "file":
		return readPrivate(r.Name)
	case "credential":
		if credentials == "" {
			return nil, fmt.Errorf("credential %s: the service manager gave none (LoadCredential=%s:PATH)", r.Name, r.Name)
		}
		return readPrivate(filepath.Join(credentials, r.Name))
	case "fd":
		n, err := strconv.Atoi(r.Name)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(n), "fd:"+r.Name)
		if f == nil {
			return nil, fmt.Errorf("fd:%d is not open", n)
		}
		defer f.Close()
		return readAll(f)
	}
	return nil, fmt.Errorf("%s is nothing to read", r.Kind)
}

// readPrivate reads a file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := Private(path, info); err != nil {
		return nil, err
	}
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecretBytes+1))
	if err == nil && len(b) > maxSecretBytes {
		err = fmt.Errorf("a secret has at most %d bytes", maxSecretBytes)
	}
	return b, err
}

func (l *loader) checkSecretRef(key, ref string) {
	if ref == "" {
		return
	}
	if _, err := ParseSecretRef(ref); err != nil {
		l.problem(key, "%v", err)
	}
}
