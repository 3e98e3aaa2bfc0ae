package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/cmd/alknet/internal/agent"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
	"github.com/alkdev/alknet/vault"
)

func (a *app) vaultCommand() *cobra.Command {
	cmd := func(use, short string, least, most int, run func(context.Context, []string) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: count(least, most)}
		c.RunE = func(c *cobra.Command, args []string) error { return run(c.Context(), args) }
		return c
	}
	var purpose, login, classes string
	var counter uint32
	var length int
	status := cmd("status", "Describe the vault; needs no key", 0, 0, a.vaultStatus)
	check := cmd("check", "Ask for the words of the phrase and say whether they are this vault's", 0, 0, a.vaultCheck)
	seal := cmd("seal NAME [RECIPIENT]...", "Make or replace a way in: a new passphrase, or age recipients", 1, -1, a.vaultSeal)
	unseal := cmd("unseal NAME", "Remove a way in", 1, 1, a.vaultUnseal)
	rotate := cmd("rotate", "Encrypt all stored secrets under a new key", 0, 0, a.vaultRotate)
	put := cmd("put NAME", "Store standard input as a secret", 1, 1, func(ctx context.Context, args []string) error { return a.vaultPut(ctx, args[0], purpose) })
	get := cmd("get NAME", "Print a stored secret", 1, 1, func(ctx context.Context, args []string) error { return a.vaultGet(ctx, args[0], purpose) })
	list := cmd("list", "List the names of stored secrets", 0, 0, a.vaultList)
	rm := cmd("rm NAME", "Remove a stored secret", 1, 1, a.vaultRemove)
	run := cmd("run VAR=NAME... -- CMD [ARG]...", "Run a command that gets stored secrets on inherited pipes: VAR is the path to read", 2, -1, func(ctx context.Context, args []string) error { return a.vaultRun(ctx, args, purpose) })
	password := cmd("password SITE", "Print the password of a site, the same on every machine with the phrase", 1, 1, func(ctx context.Context, args []string) error {
		return a.vaultPassword(ctx, args[0], login, counter, vault.PasswordPolicy{Length: length, Classes: classes})
	})
	encrypt := cmd("encrypt NAME", "Encrypt standard input for this vault; nothing is stored", 1, 1, func(ctx context.Context, args []string) error { return a.vaultEncrypt(ctx, args[0], purpose) })
	decrypt := cmd("decrypt", "Decrypt what encrypt printed", 0, 0, a.vaultDecrypt)
	child := cmd("child N DIR", "Make the vault of a device or worker, derived from this one, with a passphrase of its own", 2, 2, a.vaultChild)
	unlock := cmd("unlock", "Unlock the vault of the running node again", 0, 0, a.vaultUnlock)
	lock := cmd("lock", "Have the running node forget its keys: nobody can connect until vault unlock", 0, 0, a.vaultLock)
	for _, c := range []*cobra.Command{put, get, run, encrypt} {
		c.Flags().StringVar(&purpose, "purpose", "secret", "what the secret is for; the same at put and get")
	}
	password.Flags().StringVar(&login, "login", "", "the login at the site")
	password.Flags().Uint32Var(&counter, "counter", 1, "one more gives a new password")
	password.Flags().IntVar(&length, "length", 0, "8 to 64; 0 is 20")
	password.Flags().StringVar(&classes, "classes", "", "kinds of characters: a, A, 1, !")
	return a.group("vault", "Use the node's secrets", status, unlock, lock, check, seal, unseal, rotate, put, get, list, rm, run, password, encrypt, decrypt, child)
}

func (a *app) vaultStatus(context.Context, []string) error {
	_, p, _, err := a.load()
	if err != nil {
		return err
	}
	s, err := vault.Inspect(p.Vault)
	if err != nil {
		return err
	}
	out := vaultOut{Dir: p.Vault, Check: s.Check, Index: s.Index, KeyVersion: s.KeyVersion, Secrets: s.Secrets, Slots: []wayIn{}, Created: s.Created.Format(time.RFC3339)}
	for _, slot := range s.Slots {
		out.Slots = append(out.Slots, wayIn{slot.Name, append([]string{}, slot.Kinds...)})
	}
	return a.result(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s\ncheck value %s\nidentity %d, key version %d, %d secrets\n", p.Vault, s.Check, s.Index, s.KeyVersion, s.Secrets)
		for _, slot := range s.Slots {
			fmt.Fprintf(w, "opens with %s (%s)\n", slot.Name, strings.Join(slot.Kinds, ", "))
		}
	})
}

func (a *app) vaultCheck(context.Context, []string) error {
	_, p, _, err := a.load()
	if err != nil {
		return err
	}
	s, err := vault.Inspect(p.Vault)
	if err != nil {
		return err
	}
	text, err := a.askSecret("the words of the phrase: ")
	if err != nil {
		return err
	}
	defer text.Destroy()
	var phrase vault.Phrase
	if err := text.Use(func(b []byte) (err error) { phrase, err = vault.ParsePhrase(string(b)); return err }); err != nil {
		return err
	}
	defer phrase.Destroy()
	v, err := vault.New(phrase, vault.Secret{}, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	if v.Status().Check != s.Check {
		return fault.New(fault.Passphrase, "these are the words of another vault", "")
	}
	return a.result(checkedOut{true}, func(w io.Writer) { fmt.Fprintln(w, "these are the words of this vault") })
}

// changing opens the vault for a change of the vault itself.
func (a *app) changing(ctx context.Context, change func(*vault.Vault) error) error {
	v, err := a.openVault(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	if a.dryRun {
		return a.dry("change the vault")
	}
	return change(v)
}

func (a *app) vaultSeal(ctx context.Context, args []string) error {
	return a.changing(ctx, func(v *vault.Vault) error {
		var to []age.Recipient
		for _, text := range args[1:] {
			rs, err := age.ParseRecipients(strings.NewReader(text))
			if err != nil {
				return fault.New(fault.Usage, quoted(text)+" is no age recipient", "")
			}
			to = append(to, rs...)
		}
		if len(to) == 0 {
			pass, err := a.askSecret("a passphrase for " + args[0] + ": ")
			if err != nil {
				return err
			}
			defer pass.Destroy()
			to = append(to, vault.PassphraseRecipient(pass, nil))
		}
		if err := v.Seal(args[0], to...); err != nil {
			return err
		}
		return a.result(slotOut{args[0], true}, func(io.Writer) {})
	})
}

func (a *app) vaultUnseal(ctx context.Context, args []string) error {
	if err := a.confirm("remove the way in " + quoted(args[0]) + "?"); err != nil {
		return err
	}
	return a.changing(ctx, func(v *vault.Vault) error {
		if err := v.RemoveSlot(args[0]); err != nil {
			return err
		}
		return a.result(slotOut{args[0], false}, func(io.Writer) {})
	})
}

func (a *app) vaultRotate(ctx context.Context, _ []string) error {
	return a.changing(ctx, func(v *vault.Vault) error {
		n, err := v.Rotate()
		if err != nil {
			return err
		}
		return a.result(rotatedOut{n}, func(w io.Writer) { fmt.Fprintf(w, "%d secrets are under a new key\n", n) })
	})
}

// withNode runs f with the running node, or g with the vault unlocked here.
func (a *app) withNode(ctx context.Context, f func(*agent.Client) error, g func(*vault.Vault) error) error {
	if !a.direct {
		_, p, _, err := a.load()
		if err != nil {
			return err
		}
		n, err := agent.Connect(ctx, p.Control)
		if err == nil {
			defer n.Close()
			return f(n)
		}
		if fault.Of(err).Exit != fault.Unreachable {
			return err
		}
	}
	v, err := a.openVault(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	return g(v)
}

// maxSecret bounds a secret, in bytes: it has to fit a frame of the control socket.
const maxSecret = 512 << 10

// readSecret reads standard input, all of it or nothing.
func (a *app) readSecret(most int64) ([]byte, error) {
	b, err := readAtMost(a.Stdin, most)
	if errors.Is(err, errTooLong) {
		return nil, fault.New(fault.Usage, fmt.Sprintf("standard input has more than %d KiB: nothing was done", most>>10), "")
	}
	return b, err
}

func (a *app) vaultPut(ctx context.Context, name, purpose string) error {
	b, err := a.readSecret(maxSecret)
	if err != nil {
		return err
	}
	if a.dryRun {
		return a.dry(fmt.Sprintf("store %d bytes as %s", len(b), quoted(name)))
	}
	err = a.withNode(ctx, func(n *agent.Client) error {
		_, err := call.Call[string](ctx, n, "node/vault/put", node.SecretIn{Name: name, Purpose: purpose, Value: b})
		return err
	}, func(v *vault.Vault) error {
		s := vault.NewSecret(b)
		defer s.Destroy()
		return v.Put(name, purpose, s)
	})
	if err != nil {
		return err
	}
	return a.result(storedOut{name}, func(io.Writer) {})
}

// secret is a stored one.
func (a *app) secret(ctx context.Context, name, purpose string) (b []byte, err error) {
	err = a.withNode(ctx, func(n *agent.Client) error {
		out, err := call.Call[node.SecretOut](ctx, n, "node/vault/get", node.SecretIn{Name: name, Purpose: purpose})
		b = out.Value
		return notStored(name, err)
	}, func(v *vault.Vault) error {
		s, err := v.Get(name, purpose)
		if err != nil {
			return notStored(name, err)
		}
		return s.Use(func(text []byte) error { b = bytes.Clone(text); return nil })
	})
	return b, err
}

func notStored(name string, err error) error {
	ce, remote := errors.AsType[*call.Error](err)
	if errors.Is(err, vault.ErrNotFound) || remote && ce.Code == "UNKNOWN_PEER" {
		return fault.New(fault.Unknown, "there is no secret "+quoted(name), "alknet vault list")
	}
	return err
}

func (a *app) vaultGet(ctx context.Context, name, purpose string) error {
	b, err := a.secret(ctx, name, purpose)
	if err != nil {
		return err
	}
	return a.secretResult(secretOut{name, b})
}

// secretResult prints the bytes of a secret, as they are unless --json was asked for.
func (a *app) secretResult(s secretOut) error {
	defer clear(s.Value)
	if a.json {
		return a.result(s, nil)
	}
	_, err := a.Stdout.Write(s.Value)
	return err
}

func (a *app) vaultList(ctx context.Context, _ []string) error {
	var all []node.SecretInfo
	err := a.withNode(ctx, func(n *agent.Client) (err error) {
		all, err = call.Call[[]node.SecretInfo](ctx, n, "node/vault/list", struct{}{})
		return err
	}, func(v *vault.Vault) error { all = node.Stored(v); return nil })
	if err != nil {
		return err
	}
	return a.result(all, func(w io.Writer) {
		rows := [][]string{{"NAME", "PURPOSE", "KEY"}}
		for _, s := range all {
			rows = append(rows, []string{plain(s.Name), plain(s.Purpose), strconv.Itoa(int(s.KeyVersion))})
		}
		table(w, rows)
	})
}

func (a *app) vaultRemove(ctx context.Context, args []string) error {
	if a.dryRun {
		return a.dry("remove the secret " + quoted(args[0]))
	}
	if err := a.confirm("remove the secret " + quoted(args[0]) + "?"); err != nil {
		return err
	}
	err := a.withNode(ctx, func(n *agent.Client) error {
		_, err := call.Call[string](ctx, n, "node/vault/rm", node.SecretIn{Name: args[0]})
		return notStored(args[0], err)
	}, func(v *vault.Vault) error { return notStored(args[0], v.Delete(args[0])) })
	if err != nil {
		return err
	}
	return a.result(removedOut{args[0]}, func(io.Writer) {})
}

// vaultRun runs a command. A secret is neither in its arguments nor in its
// environment: each variable names a pipe that holds one.
func (a *app) vaultRun(ctx context.Context, args []string, purpose string) error {
	var names [][2]string
	for len(args) > 0 && strings.Contains(args[0], "=") {
		variable, name, _ := strings.Cut(args[0], "=")
		names = append(names, [2]string{variable, name})
		args = args[1:]
	}
	if len(args) == 0 || len(names) == 0 {
		return fault.New(fault.Usage, "usage: alknet vault run VAR=NAME... -- CMD", "")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fault.New(fault.Usage, err.Error(), "")
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = a.Stdin, a.Stdout, a.Stderr, os.Environ()
	for _, pair := range names {
		b, err := a.secret(ctx, pair[1], purpose)
		if err != nil {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		if len(b) > 60<<10 {
			return fault.New(fault.Failed, quoted(pair[1])+" is too large for a pipe", "alknet vault get")
		}
		_, err = w.Write(b) // it fits the pipe
		if err = errors.Join(err, w.Close()); err != nil {
			return err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=/dev/fd/%d", pair[0], 2+len(cmd.ExtraFiles)))
	}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		return &toolStatus{exit.ExitCode()}
	}
	return err
}

func (a *app) vaultPassword(ctx context.Context, site, login string, counter uint32, p vault.PasswordPolicy) error {
	v, err := a.openVault(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	s, err := v.SitePassword(site, login, counter, p)
	if err != nil {
		return fault.New(fault.Usage, err.Error(), "")
	}
	return s.Use(func(b []byte) error {
		return a.result(passwordOut{site, string(b)}, func(w io.Writer) { fmt.Fprintf(w, "%s\n", b) })
	})
}

func (a *app) vaultEncrypt(ctx context.Context, name, purpose string) error {
	b, err := a.readSecret(maxSecret)
	if err != nil {
		return err
	}
	v, err := a.openVault(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	s := vault.NewSecret(b)
	defer s.Destroy()
	e, err := v.Encrypt(vault.EncryptedData{Envelope: 2, Name: name, Purpose: purpose, Generation: 1}, s)
	if err != nil {
		return err
	}
	return json.NewEncoder(a.Stdout).Encode(e)
}

func (a *app) vaultDecrypt(ctx context.Context, _ []string) error {
	b, err := a.readSecret(4 * maxSecret)
	if err != nil {
		return err
	}
	var e vault.EncryptedData
	if err := json.Unmarshal(b, &e); err != nil {
		return &fault.Error{Exit: fault.Integrity, Code: "integrity", Message: "standard input is not what encrypt printed", Err: err}
	}
	v, err := a.openVault(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	s, err := v.Decrypt(e)
	if err != nil {
		return err
	}
	return s.Use(func(b []byte) error { return a.secretResult(secretOut{Value: bytes.Clone(b)}) })
}

func (a *app) vaultChild(ctx context.Context, args []string) error {
	n, err := strconv.ParseUint(args[0], 10, 31)
	if err != nil {
		return fault.New(fault.Usage, quoted(args[0])+" is no number of a child", "")
	}
	return a.changing(ctx, func(v *vault.Vault) error {
		c, err := v.Child(uint32(n), nil)
		if err != nil {
			return err
		}
		defer c.Close()
		pass, err := a.askSecret("a passphrase for the child: ")
		if err != nil {
			return err
		}
		defer pass.Destroy()
		if err := c.Save(args[1], vault.PassphraseRecipient(pass, nil)); err != nil {
			return err
		}
		return a.result(childOut{args[1], c.Status().Check}, func(w io.Writer) { fmt.Fprintf(w, "%s holds %s\n", args[1], c.Status().Check) })
	})
}
