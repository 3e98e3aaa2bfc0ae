package ssh_test

import (
	"testing"

	"github.com/alkdev/alknet/internal/handlertest"
	"github.com/alkdev/alknet/ssh"
)

func TestService(t *testing.T) {
	handlertest.Run(t, ssh.Service(&ssh.Handler{}))
}
