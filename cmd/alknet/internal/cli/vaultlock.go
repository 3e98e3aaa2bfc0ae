package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/alkdev/alknet/call"
	"github.com/alkdev/alknet/call/codes"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/cmd/alknet/internal/node"
)

// vaultLock has the running node forget its keys. Connections that stand go on; what
// needs a key fails until the vault is unlocked.
func (a *app) vaultLock(ctx context.Context, _ []string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	if a.dryRun {
		return a.dry("lock the vault")
	}
	if _, err := call.Call[string](ctx, n, "node/vault/lock", struct{}{}); err != nil {
		return err
	}
	return a.result(lockedOut{Locked: true}, func(w io.Writer) { fmt.Fprintln(w, "locked") })
}

// vaultUnlock hands the running node what opens its vault.
func (a *app) vaultUnlock(ctx context.Context, _ []string) error {
	n, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer n.Close()
	if a.dryRun {
		return a.dry("unlock the vault")
	}
	in, err := a.unlocking()
	if err != nil {
		return err
	}
	defer clear(in.Text)
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	_, err = call.Call[string](ctx, n, "node/vault/unlock", in)
	if ce, ok := errors.AsType[*call.Error](err); ok && ce.Code == "PASSPHRASE" {
		return fault.New(fault.Passphrase, ce.Message, "")
	} else if ok && ce.Code == codes.Timeout {
		return fault.New(fault.Deadline, "the vault was not unlocked in time", "")
	}
	if err != nil {
		return err
	}
	return a.result(lockedOut{}, func(w io.Writer) { fmt.Fprintln(w, "unlocked") })
}

// unlocking reads what opens the vault, from where --unlock or the configuration says.
func (a *app) unlocking() (in node.UnlockIn, err error) {
	f, _, err := a.configured()
	if err != nil {
		return in, err
	}
	s, err := a.secrets(f)
	if err != nil {
		return in, err
	}
	in.Kind = s.Ref.Kind
	switch in.Kind {
	case "keyring":
	case "prompt":
		pass, err := a.askSecret("passphrase: ")
		if err != nil {
			return in, err
		}
		defer pass.Destroy()
		err = pass.Use(func(b []byte) error { in.Text = append(in.Text, b...); return nil })
		return in, err
	default:
		if in.Text, err = s.Ref.Read(s.Credentials); err != nil {
			return in, fault.New(fault.Denied, fmt.Sprintf("vault.unlock (%s): %v", s.Ref.Kind, err), "alknet config explain vault.unlock")
		}
	}
	return in, nil
}
