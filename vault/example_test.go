package vault_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alkdev/alknet/vault"
)

// The words that all published values are made from. Never use them.
const words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

// A phrase gives the node's identity, on any machine.
func ExampleNew() {
	p, err := vault.ParsePhrase(words)
	if err != nil {
		fmt.Println(err)
		return
	}
	v, err := vault.New(p, vault.Secret{}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()
	key, err := v.Identity(v.IdentityIndex())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%x\n", key.Public())
	v.Lock()
	_, err = key.Sign(nil, []byte("message"), nil)
	fmt.Println(errors.Is(err, vault.ErrLocked))
	// Output:
	// e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc
	// true
}

// A slot opens the vault without the phrase; what is stored is there again.
func ExampleVault_Seal() {
	parent, err := os.MkdirTemp("", "vault")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(parent)
	if err := slot(filepath.Join(parent, "node")); err != nil {
		fmt.Println(err)
	}
	// Output:
	// prompt [scrypt]
	// vault: no slot opens
	// 14 bytes
}

func slot(dir string) error {
	p, err := vault.NewPhrase(24) // write it down: p.Words
	if err != nil {
		return err
	}
	v, err := vault.Create(dir, p, vault.Secret{}, nil)
	if err != nil {
		return err
	}
	passphrase := vault.NewSecret([]byte("correct horse"))
	quick := &vault.Options{ScryptLog: 15}
	err = errors.Join(
		v.Put("github", "http-token", vault.NewSecret([]byte("sk-proj-abc123"))),
		v.Seal("prompt", vault.PassphraseRecipient(passphrase, quick)),
		v.Close(),
	)
	if err != nil {
		return err
	}

	v, err = vault.Open(dir, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	for _, s := range v.Status().Slots {
		fmt.Println(s.Name, s.Kinds)
	}
	fmt.Println(v.Unlock(context.Background(), vault.Passphrase(vault.NewSecret([]byte("wrong")))))
	if err := v.Unlock(context.Background(), vault.Passphrase(passphrase)); err != nil {
		return err
	}
	token, err := v.Get("github", "http-token")
	if err != nil {
		return err
	}
	return token.Use(func(b []byte) error {
		fmt.Println(len(b), "bytes")
		return nil
	})
}

// A wrong word is named by its place, never by what was typed.
func ExampleParsePhrase() {
	_, err := vault.ParsePhrase("abandon abandun " + words[len("abandon abandon "):])
	var wrong *vault.PhraseError
	fmt.Println(errors.As(err, &wrong), wrong.Word, wrong.Near)
	fmt.Println(err)
	// Output:
	// true 2 [abandon]
	// vault: phrase: word 2 is not in the list
}
