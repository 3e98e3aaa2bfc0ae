// Package demo runs a head, a node of the user's own, two workers and a stranger
// on loopback and shows every protocol with real traffic. Head and user run in
// this process; workers and stranger are child processes, so that "killed" means
// SIGKILL.
package demo
