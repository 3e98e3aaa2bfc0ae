//go:build !unix

package ssh

import (
	"errors"

	"github.com/alkdev/alknet/ssh/tty"
)

// process is for systems where a process has an account and a group.
func (s *session) process(wish, string) tty.Exit {
	return s.refuse(errors.New("ssh: processes are not supported on this system"))
}
