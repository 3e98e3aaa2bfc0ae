//go:build unix

package tty

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// start runs a shell script on a terminal and closes it at the end.
func start(t *testing.T, script string, size Size, modes map[uint8]uint32) *Terminal {
	t.Helper()
	term, err := Start(exec.Command("/bin/sh", "-c", script), "vt100", size, modes)
	require.NoError(t, err)
	t.Cleanup(func() { _ = term.Close() })
	return term
}

// output is all that the process prints, within a time.
func output(t *testing.T, term *Terminal) string {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = term.Close() })
	defer timer.Stop()
	text, err := io.ReadAll(term)
	require.NoError(t, err)
	return string(text)
}

func TestTerminal(t *testing.T) {
	term := start(t, "stty size; echo $TERM $SSH_TTY; tty; exit 7", Size{Cols: 101, Rows: 33}, nil)
	lines := strings.Fields(output(t, term))
	require.Equal(t, []string{"33", "101", "vt100"}, lines[:3])
	require.Equal(t, lines[3], lines[4], "the terminal is its own")
	require.Equal(t, Exit{Status: 7}, term.Wait())
	require.Equal(t, Exit{Status: 7}, term.Wait())
	require.Error(t, term.Signal("TERM"), "there is nobody any more")
}

func TestSizeOfNothingIsUsual(t *testing.T) {
	require.Equal(t, "24 80\r\n", output(t, start(t, "stty size", Size{}, nil)))
}

func TestResizeIsHeard(t *testing.T) {
	term := start(t, "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.02; done", Size{}, nil)
	buf := make([]byte, len("ready\r\n"))
	_, err := io.ReadFull(term, buf)
	require.NoError(t, err)
	require.NoError(t, term.Resize(Size{Cols: 50, Rows: 10}))
	require.Equal(t, "10 50\r\n", output(t, term))
}

func TestModesAreApplied(t *testing.T) {
	modes := map[uint8]uint32{
		1: 7, 2: 255, 36: 0, 50: 1, 53: 0, 72: 1, 91: 1, 128: 9600, 200: 1, 0: 1, // an interrupt of ^G, none to quit, no echo, and opcodes that mean nothing
	}
	out := output(t, start(t, "stty -a", Size{}, modes))
	for _, want := range []string{"intr = ^G", "quit = <undef>", "-icrnl", "-echo ", "cs8", "onlcr"} {
		require.Contains(t, out, want)
	}
}

func TestSignals(t *testing.T) {
	term := start(t, "sleep 1000", Size{}, nil)
	require.Error(t, term.Signal("NONE"))
	require.NoError(t, term.Signal("TERM"))
	require.Equal(t, "TERM", term.Wait().Signal)
}

// Without noflsh the kernel drops what is printed while it handles the character.
func TestTypedInterrupt(t *testing.T) {
	term := start(t, "stty noflsh; trap 'echo got it; exit 3' INT; echo ready; while :; do sleep 0.02; done", Size{}, nil)
	_, err := io.ReadFull(term, make([]byte, len("ready\r\n")))
	require.NoError(t, err)
	_, err = term.Write([]byte{3})
	require.NoError(t, err)
	require.Contains(t, output(t, term), "got it")
	require.Equal(t, 3, term.Wait().Status)
}

// Closing a terminal ends a Read, and its process hears of it.
func TestCloseHangsUp(t *testing.T) {
	term := start(t, "sleep 1000", Size{}, nil)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(io.Discard, term) }()
	require.NoError(t, term.Close())
	<-done
	require.Equal(t, "HUP", term.Wait().Signal)
}

// A child that keeps the terminal does not keep its reader.
func TestChildrenDoNotKeepTheTerminal(t *testing.T) {
	term := start(t, "(trap '' HUP; sleep 5) & echo x", Size{}, nil)
	go term.Wait()
	begun := time.Now()
	require.Contains(t, output(t, term), "x")
	require.Less(t, time.Since(begun), 5*time.Second)
	term.Wait()
}

func TestMuchOutputIsWhole(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789\r\n"), 50_000)
	term := start(t, "yes 0123456789 | head -n 50000", Size{}, nil)
	go term.Wait() // the process ends while there is output to read
	require.Equal(t, len(want), len(output(t, term)))
}

func TestBreakAndBadPrograms(t *testing.T) {
	term := start(t, "cat", Size{}, nil)
	require.NoError(t, term.Break())
	require.NoError(t, term.Signal("KILL"))
	term.Wait()
	_, err := Start(exec.Command("/no/such/program"), "", Size{}, nil)
	require.Error(t, err)
}
