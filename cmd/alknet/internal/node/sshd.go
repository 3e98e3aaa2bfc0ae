package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/alkdev/alknet"
	"github.com/alkdev/alknet/cmd/alknet/internal/config"
	"github.com/alkdev/alknet/cmd/alknet/internal/fault"
	"github.com/alkdev/alknet/internal/safe"
	"github.com/alkdev/alknet/ssh"
)

// sshUsers is who may log in at ssh.listen: a peer with its own key, and who holds a
// key of the file, with the rights of the peer that the key's comment names.
func (n *Node) sshUsers(s *config.SSH) *ssh.Users {
	u := &ssh.Users{
		Peer: func(_ context.Context, key alknet.PeerID) (alknet.Identity, error) {
			id, _ := n.known.identity(key)
			if id.ID == "" {
				return alknet.Identity{}, errNobody
			}
			return id, nil
		},
		Identity: func(_ context.Context, name string) (alknet.Identity, error) {
			p, ok := n.known.get(name)
			if !ok {
				return alknet.Identity{ID: name}, nil // without rights
			}
			if p.Disabled {
				return alknet.Identity{}, errDisabled
			}
			return alknet.Identity{ID: p.ID, Scopes: p.Scopes, Resources: p.Resources}, nil
		},
	}
	if s.AuthorizedKeys != "" {
		u.AuthorizedKeys = func() ([]byte, error) { return readTrusted(s.AuthorizedKeys) }
	}
	if s.RevokedKeys != "" {
		u.Revoked = func() ([]byte, error) { return readTrusted(s.RevokedKeys) }
	}
	return u
}

var (
	errNobody   = errors.New("no peer has this key")
	errDisabled = errors.New("the peer is disabled")
)

// maxKeysFile bounds a file of keys, in bytes.
const maxKeysFile = 1 << 20

// readTrusted reads a file that decides who may log in: nobody but its owner may
// write it, as sshd wants it (StrictModes).
func readTrusted(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case !config.OwnersOnly(info):
		return nil, fmt.Errorf("others may write %s (mode %04o): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeysFile+1))
	if err == nil && len(b) > maxKeysFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxKeysFile)
	}
	return b, err
}

// sshdSettings are what the listeners depend on: all of [ssh], since another handler
// serves them when any of it changes.
func sshdSettings(s *config.SSH) any {
	if s == nil || len(s.Listen) == 0 {
		return nil
	}
	return *s
}

// openSSHD opens ssh.listen and serves the handler of [ssh] there.
func (n *Node) openSSHD(s *config.SSH) (*local, error) {
	for _, path := range []string{s.AuthorizedKeys, s.RevokedKeys} {
		if path == "" {
			continue
		}
		if _, err := readTrusted(path); err != nil {
			return nil, fault.New(fault.Config, "[ssh]: "+err.Error(), "")
		}
	}
	var all []net.Listener
	closeAll := func() (err error) {
		for _, l := range all {
			if cerr := l.Close(); !errors.Is(cerr, net.ErrClosed) {
				err = errors.Join(err, cerr)
			}
		}
		return err
	}
	lo := &local{shutdown: func(context.Context) error { return closeAll() }}
	for _, address := range s.Listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, errors.Join(socketFault("ssh.listen", address, err), closeAll())
		}
		all = append(all, l)
		lo.addrs = append(lo.addrs, l.Addr().String())
	}
	n.mu.Lock()
	h := n.shell
	n.mu.Unlock()
	if h == nil {
		return nil, errors.Join(errors.New("[ssh]: its service is not registered"), closeAll())
	}
	for _, l := range all {
		safe.Go(&lo.wg, n.fail("ssh.listen"), func() {
			if err := h.Serve(l); !errors.Is(err, net.ErrClosed) {
				n.fail("ssh.listen")(err)
			}
		})
	}
	return lo, nil
}
