package cli

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/durable"
	"github.com/alkdev/alknet/vault"
)

// initOut is the document of init. The phrase is in it once and nowhere else.
type initOut struct {
	ID     string   `json:"id"`
	Config string   `json:"config"`
	Vault  string   `json:"vault"`
	Phrase []string `json:"phrase,omitzero"`
	Next   []string `json:"next"`
}

type initFlags struct{ dev, recover bool }

func (a *app) initCommand() *cobra.Command {
	var fl initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a new phrase, a vault sealed with a passphrase, and a commented configuration",
		Long: "Make a new phrase, a vault sealed with a passphrase, and a commented configuration.\n" +
			"The phrase is the whole node: it is shown once, and three of its words are asked back.\n" +
			"--dev asks nothing: the passphrase is a file beside the vault, and the node listens on loopback.",
		Args: count(0, 0),
	}
	c.Flags().BoolVar(&fl.dev, "dev", false, "for trying out: no questions, loopback only, operations below test/")
	c.Flags().BoolVar(&fl.recover, "recover", false, "type in the phrase of a node that was")
	c.RunE = func(*cobra.Command, []string) error { return a.init(fl) }
	return c
}

func (a *app) init(fl initFlags) error {
	p, err := a.find()
	if err != nil {
		return fault.New(fault.Usage, err.Error(), "")
	}
	if _, err := os.Stat(filepath.Join(p.Vault, "vault.json")); err == nil {
		return &fault.Error{Exit: fault.Failed, Code: "exists", Message: "there is a vault in " + p.Vault + " already", Hint: "alknet id"}
	}
	if a.dryRun {
		return a.result(initOut{Config: p.Config, Vault: p.Vault, Next: []string{}}, func(w io.Writer) {
			fmt.Fprintf(w, "would make %s and %s\n", p.Vault, p.Config)
		})
	}
	phrase, err := a.phrase(fl)
	if err != nil {
		return err
	}
	defer phrase.Destroy()
	out := initOut{Config: p.Config, Vault: p.Vault}
	if !fl.recover {
		if err := a.showPhrase(phrase, fl, &out); err != nil {
			return err
		}
	}
	pass, unlock, err := a.newPassphrase(fl, p)
	if err != nil {
		return err
	}
	defer pass.Destroy()
	if out.ID, err = makeVault(p, phrase, pass, fl.dev); err != nil {
		return err
	}
	if err := writeConfig(p, fl, unlock); err != nil {
		return err
	}
	out.Next = []string{a.again("serve"), a.again("invite --name NAME --can SCOPE")}
	return a.result(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n", out.ID)
		if !a.quiet {
			fmt.Fprintf(w, "\nThe configuration is %s. Next:\n  %s\n  %s\n", out.Config, out.Next[0], out.Next[1])
		}
	})
}

// again is a command line of ours with the same places.
func (a *app) again(verb string) string {
	s := "alknet "
	if a.dir != "" {
		s += "--dir " + a.dir + " "
	}
	if a.file != "" {
		s += "--config " + a.file + " "
	}
	return s + verb
}

func (a *app) phrase(fl initFlags) (vault.Phrase, error) {
	if !fl.recover {
		return vault.NewPhrase(12)
	}
	text, err := a.askSecret("the words of the phrase: ")
	if err != nil {
		return vault.Phrase{}, err
	}
	defer text.Destroy()
	var phrase vault.Phrase
	err = text.Use(func(b []byte) (err error) {
		phrase, err = vault.ParsePhrase(string(b))
		return err
	})
	return phrase, err
}

// showPhrase shows the words and asks for three of them.
func (a *app) showPhrase(phrase vault.Phrase, fl initFlags, out *initOut) error {
	var words []string
	if err := phrase.Words(func(ws []string) error {
		for _, w := range ws {
			words = append(words, strings.Clone(w))
		}
		return nil
	}); err != nil {
		return err
	}
	if a.json {
		out.Phrase = words
	} else if !fl.dev {
		fmt.Fprintf(a.Stdout, "Write these words down. They are the whole node, and are not shown again:\n\n  %s\n  %s\n\n",
			strings.Join(words[:6], " "), strings.Join(words[6:], " "))
	}
	if fl.dev || a.yes {
		return nil
	}
	asked := make(map[int64]bool)
	for len(asked) < 3 {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
		if err != nil {
			return err
		}
		i := n.Int64()
		if asked[i] {
			continue
		}
		answer, err := a.ask(fmt.Sprintf("word %d: ", i+1))
		if err != nil {
			return err
		}
		if strings.TrimSpace(answer) != words[i] {
			return fault.New(fault.Passphrase, fmt.Sprintf("that is not word %d: nothing was made", i+1), "alknet init")
		}
		asked[i] = true
	}
	return nil
}

// newPassphrase is what seals the vault, and how the configuration refers to it.
func (a *app) newPassphrase(fl initFlags, p config.Places) (vault.Secret, string, error) {
	if fl.dev {
		return devPassphrase(p)
	}
	if a.unlock != "" && a.unlock != "prompt" {
		ref, err := config.ParseSecretRef(a.unlock)
		if err != nil {
			return vault.Secret{}, "", fault.New(fault.Usage, "--unlock: "+err.Error(), "")
		}
		b, err := ref.Read(a.Getenv("CREDENTIALS_DIRECTORY"))
		if err != nil {
			return vault.Secret{}, "", err
		}
		return vault.NewSecret(bytes.TrimRight(b, "\r\n")), a.unlock, nil
	}
	pass, err := a.askSecret("a passphrase for this machine: ")
	if err != nil {
		return pass, "", err
	}
	again, err := a.askSecret("once more: ")
	if err != nil {
		return pass, "", err
	}
	defer again.Destroy()
	if !pass.Equal(again) {
		return pass, "", fault.New(fault.Passphrase, "the two passphrases differ: nothing was made", "alknet init")
	}
	return pass, "prompt", pass.Use(func(b []byte) error {
		if len(b) < 8 {
			return fault.New(fault.Passphrase, "a passphrase has at least 8 characters: nothing was made", "alknet init")
		}
		return nil
	})
}

// devPassphrase makes a passphrase that is a file.
func devPassphrase(p config.Places) (vault.Secret, string, error) {
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return vault.Secret{}, "", err
	}
	dir, err := os.OpenRoot(p.State)
	if err != nil {
		return vault.Secret{}, "", err
	}
	defer dir.Close()
	text := rand.Text()
	if err := durable.WriteFile(dir, "dev.passphrase", []byte(text+"\n"), 0o600); err != nil {
		return vault.Secret{}, "", err
	}
	path, err := filepath.Abs(filepath.Join(p.State, "dev.passphrase"))
	return vault.NewSecret([]byte(text)), "file:" + path, err
}

// makeVault makes the vault with one slot, and returns the node's id. A passphrase
// that is random needs no slow function in front.
func makeVault(p config.Places, phrase vault.Phrase, pass vault.Secret, random bool) (string, error) {
	var o vault.Options
	if random {
		o.ScryptLog = 15
	}
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return "", err
	}
	v, err := vault.Create(p.Vault, phrase, vault.Secret{}, nil)
	if err != nil {
		return "", err
	}
	defer v.Close()
	if err := v.Seal("passphrase", vault.PassphraseRecipient(pass, &o)); err != nil {
		return "", err
	}
	key, err := signerOf(v)
	if err != nil {
		return "", err
	}
	ep, err := alknet.NewEndpoint(nil, nil, &alknet.Config{Key: key})
	if err != nil {
		return "", err
	}
	return ep.ID().String(), ep.Close()
}

// writeConfig writes the commented example, unless there is a configuration.
func writeConfig(p config.Places, fl initFlags, unlock string) error {
	if _, err := os.Stat(p.Config); err == nil || !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	text := string(config.Example)
	text = strings.Replace(text, `unlock = "prompt"`, "unlock = "+strconv.Quote(unlock), 1)
	if fl.dev {
		text = strings.Replace(text, `listen = [":4433"]`, "listen = [\"127.0.0.1:4433\"]\ntest_namespace = true # only with loopback listeners", 1)
	}
	if err := os.MkdirAll(filepath.Dir(p.Config), 0o700); err != nil {
		return err
	}
	dir, err := os.OpenRoot(filepath.Dir(p.Config))
	if err != nil {
		return err
	}
	defer dir.Close()
	return durable.WriteFile(dir, filepath.Base(p.Config), []byte(text), 0o600)
}

// sortedKeys is for output in a fixed order.
func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
