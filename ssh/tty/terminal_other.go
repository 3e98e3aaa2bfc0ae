//go:build !unix

package tty

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// A Terminal is a process and the terminal that it runs on. Here there is none.
type Terminal struct{}

var errNone = fmt.Errorf("tty: %w on this system", errors.ErrUnsupported)

// Start fails with an error that wraps errors.ErrUnsupported.
func Start(*exec.Cmd, string, Size, map[uint8]uint32) (*Terminal, error) { return nil, errNone }

// Read fails.
func (*Terminal) Read([]byte) (int, error) { return 0, errNone }

// Write fails.
func (*Terminal) Write([]byte) (int, error) { return 0, errNone }

// Resize fails.
func (*Terminal) Resize(Size) error { return errNone }

// Break fails.
func (*Terminal) Break() error { return errNone }

// Signal fails.
func (*Terminal) Signal(string) error { return errNone }

// Wait returns the zero Exit.
func (*Terminal) Wait() Exit { return Exit{} }

// Close does nothing.
func (*Terminal) Close() error { return nil }

// ExitOf is how a process ended.
func ExitOf(s *os.ProcessState) Exit { return Exit{Status: s.ExitCode()} }
