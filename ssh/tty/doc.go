// Package tty runs processes on a terminal of their own.
//
//	t, err := tty.Start(exec.Command("/bin/sh"), "xterm", tty.Size{Cols: 80, Rows: 24}, nil)
//	…
//	go io.Copy(t, input)
//	io.Copy(output, t) // until the process has ended and all of its output is read
//	exit := t.Wait()
//
// There are no terminals on Windows: Start fails with an error that wraps
// errors.ErrUnsupported.
package tty
