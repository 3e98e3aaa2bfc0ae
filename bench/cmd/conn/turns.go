package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
)

// turns measures the handshakes of several stacks, p.n of one and then p.n of the
// next, with a client and a server process for each, and prints a line "round N"
// before those of each round. Every other round goes through them in reverse.
func turns(p params, stacks []string) error {
	if len(stacks) == 0 {
		return errors.New("turns: of which stacks?")
	}
	var players []*player
	defer func() {
		for _, pl := range players {
			pl.close()
		}
	}()
	for _, stack := range stacks {
		pl, err := newPlayer(p, stack)
		if err != nil {
			return fmt.Errorf("%s: %w", stack, err)
		}
		players = append(players, pl)
	}
	for round := range p.rounds + 1 {
		if round > 0 { // the first is for warming up
			fmt.Printf("round %d\n", round)
		}
		for _, pl := range players {
			line, err := pl.turn()
			if err != nil {
				return fmt.Errorf("%s: %w", pl.stack, err)
			}
			if round > 0 {
				fmt.Print(line)
			}
		}
		slices.Reverse(players)
	}
	return nil
}

// A player is the client of one stack, which measures when it is told to.
type player struct {
	stack string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

func newPlayer(p params, stack string) (*player, error) {
	pl := &player{stack: stack, cmd: exec.Command("/proc/self/exe", "hs", "-step", "-stack", stack,
		"-mode", p.mode, "-n", strconv.Itoa(p.n), "-conc", strconv.Itoa(p.conc))}
	pl.cmd.Stderr = os.Stderr
	pl.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if pl.in, err = pl.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := pl.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	pl.out = bufio.NewReader(out)
	return pl, pl.cmd.Start()
}

// turn measures once.
func (pl *player) turn() (line string, err error) {
	if _, err := fmt.Fprintln(pl.in); err != nil {
		return "", err
	}
	return pl.out.ReadString('\n')
}

func (pl *player) close() {
	_ = pl.in.Close()
	_ = pl.cmd.Wait() // it ends with its standard input
}

// stepwise measures and prints once for every line of the standard input.
func stepwise(p params, measure func() (map[string]float64, error)) error {
	sc := bufio.NewScanner(os.Stdin)
	for sc.Scan() {
		figures, err := measure()
		if err == nil {
			err = p.print(figures)
		}
		if err != nil {
			return err
		}
	}
	return sc.Err()
}
