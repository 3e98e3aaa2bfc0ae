package vault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"filippo.io/age"
)

// helperJob is the environment variable that makes the test program another
// process that uses a vault; its arguments are a folder and more.
const helperJob = "ALKNET_VAULT_HELPER"

// helper does a job and returns the exit status.
func helper(job string, args []string) int {
	runtime.LockOSThread() // strace counts the calls of each thread
	jobs := map[string]func(dir string, args []string) error{
		"create": helpCreate, "save": helpSave, "hold": helpHold, "unlock": helpUnlock, "memory": helpMemory, "full": helpFull, "mlock": helpMlock,
		"put":      helpChange(func(v *Vault, _ []string) error { return v.Put("github", "http-token", secret("new")) }),
		"delete":   helpChange(func(v *Vault, _ []string) error { return v.Delete("github") }),
		"rotate":   helpChange(func(v *Vault, _ []string) error { _, err := v.Rotate(); return err }),
		"identity": helpChange(func(v *Vault, _ []string) error { _, _, err := v.RotateIdentity(); return err }),
		"seal": helpChange(func(v *Vault, args []string) error {
			to, err := age.ParseX25519Recipient(args[0])
			if err != nil {
				return err
			}
			return v.Seal("device", to)
		}),
	}
	if err := jobs[job](args[0], args[1:]); err != nil {
		fmt.Println("error", err)
		return 1
	}
	return 0
}

// aboutPhrase is the phrase about, outside of a test.
func aboutPhrase() Phrase { return must(ParsePhrase(about)) }

func helpCreate(dir string, _ []string) error {
	v, err := Create(dir, aboutPhrase(), Secret{}, nil)
	if err != nil {
		return err
	}
	fmt.Println("done")
	return v.Close()
}

// helpSave saves a vault of memory, with a slot for the key of args.
func helpSave(dir string, args []string) error {
	v, err := savable()
	if err != nil {
		return err
	}
	to, err := age.ParseX25519Recipient(args[0])
	if err != nil {
		return err
	}
	fmt.Println("begin")
	if err := v.Save(dir, to); err != nil {
		return err
	}
	fmt.Println("done")
	return v.Close()
}

// savable is a vault in memory with two secrets.
func savable() (*Vault, error) {
	v, err := New(aboutPhrase(), Secret{}, nil)
	if err != nil {
		return nil, err
	}
	return v, errors.Join(v.Put("github", "http-token", secret(canary)), v.Put("gitlab", "http-token", secret("new")))
}

func helpHold(dir string, _ []string) error {
	v, err := Open(dir, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin) // until it is killed
	return err
}

// helpUnlock unlocks by a credential on standard input and prints the identity.
func helpUnlock(dir string, _ []string) error {
	v, err := Open(dir, nil)
	if err != nil {
		return err
	}
	defer v.Close()
	ids, err := ParseIdentities(os.Stdin)
	if err != nil {
		return err
	}
	if err := v.Unlock(context.Background(), ids...); err != nil {
		return err
	}
	k, err := v.Identity(v.IdentityIndex())
	if err != nil {
		return err
	}
	fmt.Println(public(k))
	return nil
}

// helpChange makes a change, says how it ended, and what it sees then.
func helpChange(change func(v *Vault, args []string) error) func(dir string, args []string) error {
	return func(dir string, args []string) error {
		v, err := Open(dir, nil)
		if err != nil {
			return err
		}
		if err := v.UnlockPhrase(aboutPhrase(), Secret{}); err != nil {
			return err
		}
		fmt.Println("begin")
		if err := change(v, args); err != nil {
			fmt.Println("failed", err)
		} else {
			fmt.Println("done")
		}
		fmt.Println("sees", look(v))
		return v.Close()
	}
}

// look is what a vault has, in one line without secrets.
func look(v *Vault) string {
	line := fmt.Sprint("index ", v.IdentityIndex(), " version ", v.Status().KeyVersion)
	for _, info := range v.List() {
		s, err := v.Get(info.Name, info.Purpose)
		text := "?"
		if err == nil {
			err = s.Use(func(b []byte) error {
				switch string(b) {
				case canary:
					text = "old"
				case "new":
					text = "new"
				}
				return nil
			})
		}
		line += fmt.Sprint(" ", info.Name, " ", info.KeyVersion, " ", text)
		if err != nil {
			line += " " + err.Error()
		}
	}
	return line
}

// helpMemory uses a seed from standard input in every way, locks, says so, and
// waits to be looked at.
func helpMemory(string, []string) error {
	var seed [seedBytes]byte
	if _, err := io.ReadFull(os.Stdin, seed[:]); err != nil { // no buffer keeps it
		return err
	}
	in := bufio.NewReader(os.Stdin)
	if err := useEverything(NewSecret(seed[:]), in); err != nil {
		return err
	}
	for range 4 {
		runtime.GC()
	}
	fmt.Println("locked")
	_, err := in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// useEverything says "unlocked" in between, and waits for a line.
func useEverything(seed Secret, in *bufio.Reader) error {
	v, err := FromSeed(seed, nil)
	if err != nil {
		return err
	}
	seed.Destroy()
	defer v.Close()
	for i := range uint32(3) {
		k, err := v.Identity(i)
		if err != nil {
			return err
		}
		if _, err := k.Sign(nil, make([]byte, 100), nil); err != nil {
			return err
		}
	}
	if err := v.Put("a", "b", NewSecret([]byte("a secret"))); err != nil {
		return err
	}
	for range 3 {
		if _, err := v.Get("a", "b"); err != nil {
			return err
		}
	}
	if _, err := v.PurposeKey("x", 1); err != nil {
		return err
	}
	fmt.Println("unlocked")
	_, err = in.ReadString('\n')
	return err
}

// command runs a program that a test has built.
func command(t testing.TB, name string, args ...string) ([]byte, error) {
	t.Helper()
	return exec.CommandContext(t.Context(), name, args...).Output()
}
