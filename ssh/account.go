package ssh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/alkdev/alknet"
)

// An Account is as whom a process runs.
type Account struct {
	Name  string // USER and LOGNAME
	Home  string // where it starts
	Shell string // that runs command lines: SHELL -c LINE
	// UID and GID are those of the process. If UID is that of the node, the
	// process has all of the node's; another one needs root.
	UID, GID uint32
	Groups   []uint32 // the supplementary ones
}

// resourceUser is the resource type whose entries are the account names of an
// identity.
const resourceUser = "ssh:user"

// errAccount is what the peer hears of an account that it may not have and of
// one that is not there.
var errAccount = errors.New("ssh: no such account for this peer")

// OwnAccount is the account that the node runs as, whatever the user name. A
// node that runs as root hands out root shells.
func OwnAccount(context.Context, *alknet.Identity, string) (*Account, error) {
	u, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("ssh: own account: %w", err)
	}
	return account(u)
}

// SystemAccounts is the account of the user name, if it is among the identity's
// Resources["ssh:user"]. It needs root, but for the node's own account.
func SystemAccounts(_ context.Context, id *alknet.Identity, name string) (*Account, error) {
	if !slices.Contains(id.Resources[resourceUser], name) {
		return nil, errAccount
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, errAccount
	}
	return account(u)
}

func account(u *user.User) (*Account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("ssh: account: %w", errors.ErrUnsupported) // Windows has no numbers
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("ssh: account: %w", err)
	}
	a := &Account{Name: u.Username, Home: u.HomeDir, UID: uint32(uid), GID: uint32(gid), Shell: shellOf(u.Username)}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("ssh: account: %w", err)
	}
	for _, s := range ids {
		if g, err := strconv.ParseUint(s, 10, 32); err == nil {
			a.Groups = append(a.Groups, uint32(g))
		}
	}
	return a, nil
}

// defaultShell is what an account without one of its own gets.
const defaultShell = "/bin/sh"

// shellOf reads the shell of an account, which os/user does not know.
func shellOf(name string) string {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return defaultShell
	}
	defer func() { _ = f.Close() }() // it was only read
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Split(scan.Text(), ":")
		if len(fields) == 7 && fields[0] == name && fields[6] != "" {
			return fields[6]
		}
	}
	return defaultShell
}
