package keyring

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	zkeyring "github.com/zalando/go-keyring"

	"github.com/alkdev/alknet/internal/apigolden"
	"github.com/alkdev/alknet/internal/testenv"
	"github.com/alkdev/alknet/vault"
)

const about = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

// inSession says that the test runs in a D-Bus session of its own.
const inSession = "ALKNET_KEYRING_SESSION"

func TestAPI(t *testing.T) { apigolden.Check(t) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newVault(t *testing.T) (*vault.Vault, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "v")
	v := must(vault.Create(dir, must(vault.ParsePhrase(about)), vault.Secret{}, nil))
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return v, dir
}

// roundTrip remembers, unlocks, remembers again and forgets.
func roundTrip(t *testing.T, look func(check string)) {
	v, _ := newVault(t)
	service := "alknet-test"
	require.NoError(t, Remember(v, service))
	require.Equal(t, "keyring", v.Status().Slots[0].Name)
	v.Lock()
	require.NoError(t, Unlock(t.Context(), v, service))
	require.NoError(t, Remember(v, service), "a new key for the slot")
	v.Lock()
	require.NoError(t, Unlock(t.Context(), v, service))
	look(v.Status().Check)
	require.ErrorIs(t, Forget(v, service), vault.ErrLastSlot)
	v.Lock()
	require.NoError(t, Unlock(t.Context(), v, service), "both stayed")
	require.NoError(t, v.CheckPhrase(must(vault.ParsePhrase(about)), vault.Secret{}))
	require.NoError(t, Forget(v, service))
	require.NoError(t, Forget(v, service), "nothing is left to forget")
	require.Empty(t, v.Status().Slots)
	require.ErrorIs(t, Remember(locked(v), service), vault.ErrLocked)
	_, err := zkeyring.Get(service, v.Status().Check)
	require.ErrorIs(t, err, zkeyring.ErrNotFound, "what was set for nothing is removed")
	require.Error(t, Unlock(t.Context(), v, service))
}

func locked(v *vault.Vault) *vault.Vault {
	v.Lock()
	return v
}

// A store in memory stands for the system's where there is none.
func TestRememberUnlockForget(t *testing.T) {
	zkeyring.MockInit()
	roundTrip(t, func(check string) {
		text := must(zkeyring.Get("alknet-test", check))
		require.True(t, strings.HasPrefix(text, "AGE-SECRET-KEY-PQ-1"))
		require.NoError(t, zkeyring.Set("alknet-test", check, "AGE-SECRET-KEY-PQ-1NOTAKEY"))
		v, _ := newVault(t)
		require.NoError(t, Remember(v, "other"))
		v.Lock()
		err := Unlock(t.Context(), v, "alknet-test")
		require.ErrorIs(t, err, vault.ErrMalformed)
		require.NotContains(t, err.Error(), "NOTAKEY")
		require.NoError(t, zkeyring.Set("alknet-test", check, text))
	})
}

// TestNoStore: what cannot work says what can.
func TestNoStore(t *testing.T) {
	cause := errors.New("no D-Bus")
	zkeyring.MockInitWithError(cause)
	v, _ := newVault(t)
	for _, err := range []error{Remember(v, "s"), Unlock(t.Context(), v, "s")} {
		require.Error(t, err)
	}
	err := Remember(v, "s")
	require.ErrorIs(t, err, cause)
	require.Contains(t, err.Error(), "credential file or the prompt")
	require.Empty(t, v.Status().Slots)
	require.ErrorIs(t, Forget(v, "s"), cause)

	zkeyring.MockInit()
	require.NoError(t, Remember(v, "s"))
	v.Lock()
	zkeyring.MockInitWithError(cause)
	err = Unlock(t.Context(), v, "s")
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, vault.ErrNoSlot)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, Unlock(ctx, v, "s"), context.Canceled)
}

// TestSecretService is the round trip with GNOME's store, in a session of its
// own, where secret-tool reads what Remember wrote.
func TestSecretService(t *testing.T) {
	if os.Getenv(inSession) == "1" {
		roundTrip(t, func(check string) {
			out, err := testenv.Command(t, "secret-tool", "lookup", "service", "alknet-test", "username", check).Output()
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(string(out), "AGE-SECRET-KEY-PQ-1"))
		})
		return
	}
	testenv.Tool(t, "secret-tool")
	daemon := testenv.Tool(t, "gnome-keyring-daemon")
	home := t.TempDir()
	script := `eval "$(printf '\n' | "$0" --unlock --components=secrets)" && exec "$1" -test.run '^TestSecretService$' -test.v`
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Tool(t, "dbus-run-session"), "--", "sh", "-c", script, daemon, must(os.Executable()))
	cmd.Env = append(os.Environ(), inSession+"=1", "HOME="+home, "XDG_RUNTIME_DIR="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestSecretService")
}

// TestRememberMayBeCut at any step: what the store holds opens the slot that is
// in the folder.
func TestRememberMayBeCut(t *testing.T) {
	zkeyring.MockInit()
	v, dir := newVault(t)
	const service = "alknet-test"
	require.NoError(t, Remember(v, service))
	steps := 0
	whole := func() {
		t.Helper()
		steps++
		cut := filepath.Join(t.TempDir(), "cut")
		require.NoError(t, os.CopyFS(cut, os.DirFS(dir)))
		require.NoError(t, exec.CommandContext(t.Context(), "chmod", "-R", "go=", cut).Run())
		again := must(vault.Open(cut, nil))
		defer again.Close()
		require.NoError(t, Unlock(t.Context(), again, service))
	}
	hooked := system
	hooked.set = func(service, account, key string) error {
		whole()
		err := system.set(service, account, key)
		whole()
		return err
	}
	require.NoError(t, remember(v, service, hooked))
	whole()
	require.Equal(t, 3, steps)
	require.Equal(t, []string{"mlkem768x25519"}, v.Status().Slots[0].Kinds, "the old key opens it no more")

	hooked.set = func(string, string, string) error { return errors.ErrUnsupported }
	require.ErrorIs(t, remember(v, service, hooked), errors.ErrUnsupported)
	whole()
}
