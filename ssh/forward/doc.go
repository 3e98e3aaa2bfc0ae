// Package forward says who may connect where, and does it: one policy of
// ordered rules, a [Gate] that resolves, judges the address and dials that very
// address, and a [Keeper] that keeps port forwards alive over a link that is
// not. Packages ssh and ssh/tunnel are two doors to the same Gate.
//
//	policy, err := forward.ParsePolicy(`
//		deny  *           dial   *   *:25
//		allow ssh:forward dial   tcp *.corp.example:443,8443 in 10.0.0.0/8
//		allow ssh:forward dial   tcp 127.0.0.1:5432
//		allow ssh:listen  listen tcp 127.0.0.1:8000-8999`)
//	gate := &forward.Gate{}
//	gate.SetPolicy(policy)
//
// Without a policy every request is denied. A peer needs [ScopeDial] or
// [ScopeListen] before any rule is read. An allow rule that names no address
// covers addresses of the public internet only, so a rule for a name can not be
// turned against loopback or a private network by an answer of the resolver.
// Destinations are never logged and never in the text of an error:
// [Gate.Audit] alone is told.
package forward
